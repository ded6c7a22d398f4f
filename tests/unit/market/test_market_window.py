"""What is subscribed: a window of strikes that follows the money without fluttering."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pytest
from small_exchange import (
    EXPIRIES,
    STRIKES,
    chain,
    choose,
    future,
    index,
    nifty,
    nifty_universe,
    option_row,
    row_of,
    share,
    symbols,
)

from ticker_service.config import SubscriptionConfig
from ticker_service.domain.tick import Ticks
from ticker_service.errors import ConfigurationError
from ticker_service.market import subscribe
from ticker_service.market.rebalance import Window

if TYPE_CHECKING:
    from ticker_service.domain.universe import Universe

TWO_EACH_SIDE = SubscriptionConfig(underlyings=("NIFTY",), strikes_each_side=2)


def strikes_of(chosen: Universe, wanted: np.ndarray, expiry: int) -> list[float]:
    rows = np.flatnonzero(wanted & (chosen.expiry == expiry))
    return sorted(set(chosen.strike[rows].tolist()))


def latest_of(chosen: Universe, **prices: float) -> Ticks:
    """Return a latest table in which the named instruments have a last price."""
    latest = Ticks.empty(len(chosen))
    for symbol, price in prices.items():
        latest.ltp[row_of(chosen, symbol.replace("_", " "))] = price
    return latest


def test_without_a_price_only_the_underlying_and_its_futures_are_wanted() -> None:
    chosen = nifty_universe()
    wanted = subscribe.plan(chosen, {}, TWO_EACH_SIDE)
    assert (wanted == ~chosen.is_option).all()


def test_the_window_has_so_many_strikes_each_side_of_the_money_in_every_expiry() -> None:
    chosen = nifty_universe()
    wanted = subscribe.plan(chosen, {0: 24_012.0}, TWO_EACH_SIDE)
    expected = [23_800.0, 23_900.0, 24_000.0, 24_100.0, 24_200.0]
    assert [strikes_of(chosen, wanted, e) for e in range(3)] == [expected] * 3


def test_both_legs_of_a_wanted_strike_are_wanted() -> None:
    chosen = nifty_universe()
    wanted = subscribe.plan(chosen, {0: 24_000.0}, TWO_EACH_SIDE)
    options = np.flatnonzero(wanted & chosen.is_option)
    assert wanted[chosen.other_leg[options]].all()


@pytest.mark.parametrize(("price", "strikes"), [(1.0, STRIKES[:3]), (1e6, STRIKES[-3:])])
def test_a_window_at_the_edge_of_the_chain_is_cut_and_not_wrapped(
    price: float, strikes: tuple[int, ...]
) -> None:
    chosen = nifty_universe()
    wanted = subscribe.plan(chosen, {0: price}, TWO_EACH_SIDE)
    assert strikes_of(chosen, wanted, 0) == list(strikes)


def test_no_strikes_each_side_leaves_the_money_alone() -> None:
    chosen = nifty_universe()
    config = SubscriptionConfig(underlyings=("NIFTY",), strikes_each_side=0)
    assert strikes_of(chosen, subscribe.plan(chosen, {0: 24_049.0}, config), 0) == [24_000.0]


def test_a_strike_with_one_leg_is_wanted_with_that_leg() -> None:
    rows = [row for row in nifty([24_000.0], EXPIRIES[:1]) if row["instrument_type"] != "PE"]
    chosen = choose(rows, "NIFTY")
    assert subscribe.plan(chosen, {0: 24_000.0}, TWO_EACH_SIDE).all()


def test_an_option_that_is_named_is_wanted_wherever_the_money_is() -> None:
    named = nifty()[2]["tradingsymbol"]
    chosen = choose(nifty(), "NIFTY", instruments=[f"NFO:{named}"])
    wanted = subscribe.plan(chosen, {0: 24_900.0}, TWO_EACH_SIDE)
    assert wanted[row_of(chosen, named)]


def test_an_option_that_is_named_alone_is_wanted_without_any_window() -> None:
    named = nifty()[2]["tradingsymbol"]
    chosen = choose(nifty(), instruments=[f"NFO:{named}"])
    assert symbols(chosen) == {named}
    assert Window(chosen, TWO_EACH_SIDE).wanted.all()


def test_a_subscription_one_api_key_can_carry_is_accepted() -> None:
    subscribe.check_fits(nifty_universe(), TWO_EACH_SIDE)


def many_strikes(count: int) -> Universe:
    return nifty_universe([float(strike) for strike in range(1, count + 1)], EXPIRIES[:1])


def test_the_last_subscription_that_fits_is_accepted() -> None:
    wide = SubscriptionConfig(underlyings=("NIFTY",), strikes_each_side=10_000)
    subscribe.check_fits(many_strikes(4_499), wide)  # 2 x 4,499 options, the index, a future


def test_one_strike_more_is_refused_with_the_numbers() -> None:
    wide = SubscriptionConfig(underlyings=("NIFTY",), strikes_each_side=10_000)
    with pytest.raises(
        ConfigurationError, match=r"9002 instruments.*9000.*strikes_each_side=10000"
    ):
        subscribe.check_fits(many_strikes(4_500), wide)


def test_the_window_opens_with_the_first_price_of_the_underlying() -> None:
    chosen = nifty_universe()
    window = Window(chosen, TWO_EACH_SIDE)
    was_open = window.is_open
    moved = window.follow(latest_of(chosen, NIFTY_50=24_010.0))
    assert (was_open, moved, window.is_open) == (False, True, True)


def test_the_window_stays_shut_while_nothing_is_known() -> None:
    chosen = nifty_universe()
    window = Window(chosen, TWO_EACH_SIDE)
    assert not window.follow(latest_of(chosen))


@pytest.mark.parametrize(
    ("price", "follows"),
    [(24_000.0, False), (24_051.0, False), (24_075.0, False), (24_075.5, True), (23_924.0, True)],
)
def test_the_window_follows_only_past_three_quarters_of_a_step(
    price: float, *, follows: bool
) -> None:
    chosen = nifty_universe()
    window = Window(chosen, TWO_EACH_SIDE)
    window.follow(latest_of(chosen, NIFTY_50=24_000.0))
    assert window.follow(latest_of(chosen, NIFTY_50=price)) is follows


def test_a_price_that_hovers_between_two_strikes_moves_the_window_once() -> None:
    chosen = nifty_universe()
    window = Window(chosen, TWO_EACH_SIDE)
    prices = [24_000.0, 24_080.0, 24_040.0, 24_060.0, 24_030.0]
    moves = [window.follow(latest_of(chosen, NIFTY_50=price)) for price in prices]
    assert moves == [True, True, False, False, False]


def test_a_moved_window_wants_the_new_strikes_and_drops_the_old() -> None:
    chosen = nifty_universe()
    window = Window(chosen, TWO_EACH_SIDE)
    window.follow(latest_of(chosen, NIFTY_50=24_000.0))
    window.follow(latest_of(chosen, NIFTY_50=24_500.0))
    assert window.wanted[option_row(chosen, 0, 24_600.0, "CE")]
    assert not window.wanted[option_row(chosen, 0, 24_000.0, "CE")]


def test_a_missing_price_leaves_the_window_where_it_is() -> None:
    chosen = nifty_universe()
    window = Window(chosen, TWO_EACH_SIDE)
    window.follow(latest_of(chosen, NIFTY_50=24_000.0))
    assert not window.follow(latest_of(chosen))


def test_the_future_says_where_the_money_is_when_there_is_no_spot() -> None:
    chosen = nifty_universe()
    window = Window(chosen, TWO_EACH_SIDE)
    window.follow(latest_of(chosen, NIFTY26DECFUT=24_130.0))
    assert strikes_of(chosen, window.wanted, 0)[2] == 24_100.0


def test_a_commodity_s_future_of_another_date_opens_its_window() -> None:
    """Options on commodities expire days before the future they are written on."""
    rows = [
        future(5, "CRUDEOIL", dt.date(2026, 12, 18), "MCX"),
        *chain(10, "CRUDEOIL", dt.date(2026, 12, 15), [5_000.0, 5_100.0, 5_200.0], "MCX"),
    ]
    chosen = choose(rows, "CRUDEOIL")
    window = Window(chosen, SubscriptionConfig(underlyings=("CRUDEOIL",), strikes_each_side=0))
    window.follow(latest_of(chosen, CRUDEOIL26DECFUT=5_110.0))
    assert strikes_of(chosen, window.wanted, 0) == [5_100.0]


def test_of_several_futures_the_nearest_that_trades_says_where_the_money_is() -> None:
    rows = [
        future(7, "CRUDEOIL", dt.date(2027, 1, 18), "MCX"),
        future(5, "CRUDEOIL", dt.date(2026, 12, 18), "MCX"),
        *chain(10, "CRUDEOIL", dt.date(2026, 12, 15), [5_000.0, 5_100.0, 5_200.0], "MCX"),
    ]
    chosen = choose(rows, "CRUDEOIL")
    window = Window(chosen, SubscriptionConfig(underlyings=("CRUDEOIL",), strikes_each_side=0))
    window.follow(latest_of(chosen, CRUDEOIL26DECFUT=5_010.0, CRUDEOIL27JANFUT=5_210.0))
    assert strikes_of(chosen, window.wanted, 0) == [5_000.0]


def test_each_book_follows_its_own_underlying() -> None:
    rows = [*nifty(), index(5, "NIFTY BANK")]
    rows += chain(500, "BANKNIFTY", EXPIRIES[0], [51_000.0, 52_000.0, 53_000.0])
    chosen = choose(rows, "NIFTY", "BANKNIFTY")
    window = Window(chosen, SubscriptionConfig(underlyings=("NIFTY",), strikes_each_side=0))
    window.follow(latest_of(chosen, NIFTY_50=24_000.0, NIFTY_BANK=53_100.0))
    assert set(chosen.strike[window.wanted & chosen.is_option]) == {24_000.0, 53_000.0}


def test_a_chain_of_one_strike_never_moves() -> None:
    rows = [share(1, "INFY"), *chain(10, "INFY", EXPIRIES[0], [1_500.0])]
    chosen = choose(rows, "INFY")
    window = Window(chosen, TWO_EACH_SIDE)
    window.follow(latest_of(chosen, INFY=1_500.0))
    assert not window.follow(latest_of(chosen, INFY=1_900.0))
