"""Every option goes out with a volatility and Greeks that are true, or with a reason and nothing."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_exchange import (
    EXPIRIES,
    NOW_NS,
    Row,
    chain,
    choose,
    index,
    nifty,
    nifty_universe,
    option_row,
    row_of,
    share,
    ticks_of,
)

from ticker_service.config import PricingConfig
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.tick import Mode
from ticker_service.market import batch
from ticker_service.market.forward_source import ForwardSource
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Leg, Priced, Pricer
from ticker_service.market.quotes import PriceSource
from ticker_service.market.streams import Doubt, Marks
from ticker_service.pricing import EVALUATE_ROWS, PriceStatus, PricingKernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe

FORWARD = 24_037.5
VOLATILITY = 0.14
SECOND_NS = 10**9
VALUES = ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")
MUST_HAVE_VALUES = (PriceStatus.OK, PriceStatus.STALE, PriceStatus.UNRELIABLE)
MAY_HAVE_VALUES = (*MUST_HAVE_VALUES, PriceStatus.CROSSED, PriceStatus.ONE_SIDED)
NEAR, NEXT, FAR = 0, 1, 2
MONTHLY = NEXT
BANK_FORWARD = 52_010.0
BANK_STRIKES = tuple(range(51_000, 53_001, 100))


def smile(strike: np.ndarray) -> np.ndarray:
    """Return a volatility that differs at every strike, so that a mix-up shows."""
    return VOLATILITY + 0.00002 * np.abs(strike - FORWARD)


class Desk:
    """A pricer with its table, fed with quotes whose volatility is known."""

    def __init__(self, chosen: Universe | None = None, config: PricingConfig | None = None) -> None:
        self.chosen = chosen or nifty_universe()
        self.config = config or PricingConfig()
        self.latest = LatestTable(self.chosen)
        self.pricer = Pricer(self.chosen, self.latest, self.config)
        self.now_ns = NOW_NS
        self.kernel = PricingKernel(len(self.chosen))

    def truth(
        self,
        rows: Sequence[int],
        forward: float | np.ndarray = FORWARD,
        volatility: float | np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Return price and Greeks of options at the smile, straight from the kernel."""
        places = np.array(rows, np.intp)
        chosen, strike = self.chosen, self.chosen.strike[places]
        values = self.kernel.evaluate(
            smile(strike) if volatility is None else np.broadcast_to(volatility, strike.shape),
            np.broadcast_to(forward, strike.shape),
            strike,
            years_to_expiry(self.now_ns, chosen.expiry_ns[places]),
            self.config.rate,
            chosen.is_call[places],
        )
        return dict(zip(EVALUATE_ROWS, values, strict=True))

    def options(self, *expiries: int) -> list[int]:
        return np.flatnonzero(np.isin(self.chosen.expiry, expiries or (0, 1, 2))).tolist()

    def quote(
        self,
        rows: Sequence[int],
        forward: float | np.ndarray = FORWARD,
        *,
        volatility: float | None = None,
        **columns: object,
    ) -> None:
        """Let options quote at the smile, or at one volatility, with a spread that vanishes."""
        price = self.truth(rows, forward, volatility)["price"]
        self.tick(rows, **{"bid_price": price, "ask_price": price, **columns})

    def tick(self, rows: Sequence[int], **columns: object) -> None:
        ticks = ticks_of(self.chosen, rows, at_ns=self.now_ns, **columns)
        self.take(rows, ticks)

    def take(
        self,
        rows: Sequence[int],
        ticks: Ticks,
        doubt: Doubt = Doubt.NONE,
        *,
        is_cached: bool = False,
    ) -> None:
        places = np.array(rows, np.intp)
        self.pricer.hear(places, ticks)
        marks = Marks.none(len(ticks))
        marks.doubt[:] = doubt
        marks.is_cached[:] = is_cached
        arrived = batch.by_book(places, ticks, marks, self.chosen, conflate=False)
        self.latest.merge(arrived.terms.rows, arrived.ticks)
        self.pricer.update(arrived, now_ns=self.now_ns)

    def columns(self, rows: Sequence[int]) -> Priced:
        terms = self.chosen.terms(np.array(rows, np.intp))
        return self.pricer.columns(terms, now_ns=self.now_ns)

    def statuses(self, rows: Sequence[int]) -> set[PriceStatus]:
        return {PriceStatus(code) for code in self.columns(rows).iv_status.tolist()}

    def call(self, strike: float, expiry: int = NEXT) -> int:
        return option_row(self.chosen, expiry, strike, "CE")

    def put(self, strike: float, expiry: int = NEXT) -> int:
        return option_row(self.chosen, expiry, strike, "PE")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def assert_nothing(priced: Priced, row: int = 0) -> None:
    """A row without an answer has no number, zero least of all."""
    assert np.isnan([getattr(priced, name)[row] for name in VALUES]).all()


@pytest.mark.parametrize("rate", [0.0, 0.065])
def test_volatilities_and_greeks_are_those_the_quotes_were_made_from(rate: float) -> None:
    desk = Desk(config=PricingConfig(rate=rate))
    rows = desk.options()
    desk.quote(rows)
    priced, truth = desk.columns(rows), desk.truth(rows)
    assert desk.statuses(rows) <= {PriceStatus.OK, PriceStatus.UNRELIABLE}
    np.testing.assert_allclose(
        priced.implied_volatility, smile(desk.chosen.strike[rows]), rtol=1e-5
    )
    for name in ("delta", "gamma", "theta", "vega", "rho"):
        np.testing.assert_allclose(getattr(priced, name), truth[name], rtol=1e-4, atol=1e-7)


def test_options_near_the_money_are_ok(desk: Desk) -> None:
    desk.quote(desk.options())
    assert desk.statuses([desk.call(24_000.0), desk.put(24_000.0)]) == {PriceStatus.OK}


def test_the_forward_that_was_used_is_told_with_its_source_and_age(desk: Desk) -> None:
    desk.quote(desk.options())
    desk.now_ns += 3 * SECOND_NS
    priced = desk.columns([desk.call(24_000.0)])
    assert priced.forward[0] == pytest.approx(FORWARD, abs=1e-6)
    assert priced.forward_source[0] == ForwardSource.PARITY
    assert priced.forward_age_ms[0] == 3_000.0
    assert priced.forward_dispersion[0] == pytest.approx(0.0, abs=1e-6)


def test_the_price_that_was_used_is_told_with_its_source(desk: Desk) -> None:
    desk.quote(desk.options())
    row = desk.call(24_000.0)
    desk.tick([row], ltp=321.0)
    priced = desk.columns([row])
    assert (priced.price_used[0], priced.price_source[0]) == (321.0, PriceSource.LTP)


@pytest.mark.parametrize(
    ("doubt", "status"),
    [
        (Doubt.OFF_PRICE_STEP, PriceStatus.BAD_INPUT),
        (Doubt.CROSSED_DEPTH, PriceStatus.CROSSED),
    ],
)
def test_nothing_is_worked_out_from_a_tick_that_is_published_with_a_doubt(
    desk: Desk, doubt: Doubt, status: PriceStatus
) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    bid, ask = (330.0, 310.0) if doubt is Doubt.CROSSED_DEPTH else (320.01, 320.03)
    quote = {"bid_price": bid, "ask_price": ask, "last_trade_ts_ns": desk.now_ns}
    odd = ticks_of(desk.chosen, [row], at_ns=desk.now_ns, ltp=320.0, **quote)
    desk.take([row], odd, doubt)
    priced = desk.columns([row])
    assert_nothing(priced)
    assert (priced.iv_status[0], priced.price_source[0]) == (status, PriceSource.NONE)
    assert np.isnan(priced.price_used[0])
    desk.quote([row])
    assert desk.statuses([row]) == {PriceStatus.OK}


def test_a_quote_that_kite_had_kept_is_stale_however_recent_until_the_next_tick(desk: Desk) -> None:
    """The market has moved since: it is worth nothing against the forward of now."""
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    price = desk.truth([row], FORWARD - 30.0)["price"]
    kept = ticks_of(
        desk.chosen,
        [row],
        at_ns=desk.now_ns,
        exchange_ts_ns=desk.now_ns - 20 * SECOND_NS,
        bid_price=price,
        ask_price=price,
    )
    desk.take([row], kept, is_cached=True)
    assert desk.statuses([row]) == {PriceStatus.STALE}
    desk.quote([row])
    assert desk.statuses([row]) == {PriceStatus.OK}


def test_quotes_that_kite_had_kept_make_no_forward(desk: Desk) -> None:
    rows = desk.options()
    price = desk.truth(rows)["price"]
    kept = ticks_of(desk.chosen, rows, at_ns=desk.now_ns, bid_price=price, ask_price=price)
    desk.take(rows, kept, is_cached=True)
    assert np.isnan(desk.pricer.forwards.value).all()
    assert_nothing(desk.columns([desk.call(24_000.0)]))


@pytest.mark.parametrize("name", ["future", "spot"])
def test_a_forward_is_as_old_as_the_packet_says_that_it_comes_from(name: str) -> None:
    desk = Desk()
    row = {
        "future": desk.chosen.expiries[MONTHLY].future_row,
        "spot": desk.chosen.spot_row[0],
    }[name]
    stamped_ns = desk.now_ns - 21 * SECOND_NS
    quote = {"bid_price": 24_050.0, "ask_price": 24_051.0}
    kept = ticks_of(
        desk.chosen, [row], at_ns=desk.now_ns, ltp=24_050.0, exchange_ts_ns=stamped_ns, **quote
    )
    desk.take([row], kept, is_cached=True)
    (age_ms,) = desk.columns([desk.call(24_000.0, MONTHLY)]).forward_age_ms
    assert age_ms == 20_000.0


@pytest.mark.parametrize("name", ["future", "spot"])
def test_no_forward_comes_from_a_doubtful_future_or_spot(name: str) -> None:
    desk = Desk()
    row = {
        "future": desk.chosen.expiries[MONTHLY].future_row,
        "spot": desk.chosen.spot_row[0],
    }[name]
    trade = {"ltp": 24_000.01, "last_trade_ts_ns": desk.now_ns}
    tick = ticks_of(desk.chosen, [row], at_ns=desk.now_ns, **trade)
    desk.take([row], tick, Doubt.OFF_PRICE_STEP)
    assert np.isnan(desk.pricer.forwards.value).all()
    desk.take([row], tick)
    assert not np.isnan(desk.pricer.forwards.value[MONTHLY])


def test_an_in_the_money_row_takes_the_volatility_of_its_out_of_the_money_leg(desk: Desk) -> None:
    desk.quote(desk.options())
    call, put = desk.call(23_500.0), desk.put(23_500.0)
    own_price = desk.truth([call], volatility=np.array([0.5]))["price"]
    desk.tick([call], bid_price=own_price, ask_price=own_price)
    priced = desk.columns([call, put])
    assert priced.iv_leg.tolist() == [Leg.OTHER, Leg.OWN]
    assert priced.implied_volatility[0] == priced.implied_volatility[1]


def test_each_row_tells_its_own_quote_s_volatility_beside_that_of_the_leg_it_takes(
    desk: Desk,
) -> None:
    desk.quote(desk.options())
    call, put = desk.call(23_900.0), desk.put(23_900.0)
    desk.quote([call], volatility=0.16)
    priced = desk.columns([call, put])
    assert priced.implied_volatility[0] == priced.implied_volatility[1]
    np.testing.assert_allclose(
        priced.own_implied_volatility, [0.16, smile(np.array([23_900.0]))[0]], rtol=1e-4
    )
    assert set(priced.own_iv_status.tolist()) == {PriceStatus.OK}


def test_what_its_own_quote_says_ages_expires_and_loses_its_forward_like_the_rest(
    desk: Desk,
) -> None:
    rows = desk.options(NEAR)
    desk.quote(rows)
    seen = []
    for now_ns in (desk.now_ns + 61 * SECOND_NS, desk.now_ns + 301 * SECOND_NS):
        desk.now_ns = now_ns
        seen.append(desk.columns(rows))
    desk.now_ns = desk.chosen.expiries[NEAR].instant_ns
    seen.append(desk.columns(rows))
    statuses = [set(priced.own_iv_status.tolist()) for priced in seen]
    assert statuses == [{PriceStatus.STALE}, {PriceStatus.NO_FORWARD}, {PriceStatus.EXPIRED}]
    has_own = [bool(np.isfinite(priced.own_implied_volatility).any()) for priced in seen]
    assert has_own == [True, False, False]


def test_an_in_the_money_row_speaks_for_itself_when_the_other_leg_is_silent(desk: Desk) -> None:
    desk.quote(desk.options())
    call, put = desk.call(23_500.0), desk.put(23_500.0)
    desk.tick([put], bid_price=np.nan)
    priced = desk.columns([call])
    assert priced.iv_leg[0] == Leg.OWN
    assert priced.implied_volatility[0] == pytest.approx(smile(np.array([23_500.0]))[0], rel=1e-4)


def test_an_in_the_money_row_speaks_for_itself_when_the_other_leg_is_old(desk: Desk) -> None:
    desk.quote(desk.options())
    desk.now_ns += 31 * SECOND_NS
    assert desk.columns([desk.call(23_500.0)]).iv_leg[0] == Leg.OWN


def test_a_strike_with_one_leg_speaks_for_itself() -> None:
    def is_kept(row: Row) -> bool:
        return row["instrument_type"] != "PE" or row["strike"] != 23_500.0

    desk = Desk(choose([row for row in nifty() if is_kept(row)], "NIFTY"))
    desk.quote(desk.options())
    assert desk.columns([desk.call(23_500.0)]).iv_leg[0] == Leg.OWN


def test_greeks_move_with_the_forward_and_the_volatility_stays(desk: Desk) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    others = [one for one in desk.options(NEXT) if one != row]
    desk.quote(others, FORWARD + 60.0)
    priced = desk.columns([row])
    expected = desk.truth([row], FORWARD + 60.0)
    assert priced.implied_volatility[0] == pytest.approx(smile(np.array([24_500.0]))[0], rel=1e-5)
    assert priced.delta[0] == pytest.approx(expected["delta"][0], rel=1e-4)


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        pytest.param({"bid_price": 20.0}, PriceStatus.ONE_SIDED, id="one-sided"),
        pytest.param({"bid_price": 110.0, "ask_price": 20.0}, PriceStatus.CROSSED, id="crossed"),
        pytest.param({"bid_price": 1.0, "ask_price": 900.0}, PriceStatus.UNRELIABLE, id="wide"),
        pytest.param({}, PriceStatus.UNRELIABLE, id="no-quote"),
    ],
)
def test_a_last_trade_that_serves_gives_values_and_the_status_says_what_is_wrong_with_the_quote(
    desk: Desk, columns: dict[str, float], status: PriceStatus
) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    price = float(desk.truth([row])["price"][0])
    assert 20.0 < price < 110.0
    desk.tick([row], ltp=price, last_trade_ts_ns=desk.now_ns, **columns)
    priced = desk.columns([row])
    assert desk.statuses([row]) == {status}
    assert priced.price_source[0] == PriceSource.LTP
    assert priced.implied_volatility[0] == pytest.approx(smile(np.array([24_500.0]))[0], rel=1e-4)


def test_a_good_leg_is_not_given_up_for_a_doubtful_one_out_of_the_money(desk: Desk) -> None:
    desk.quote(desk.options())
    call, put = desk.call(23_800.0), desk.put(23_800.0)
    desk.tick([put], bid_price=20.0, ltp=300.0)
    assert desk.columns([call]).iv_leg[0] == Leg.OWN
    assert desk.statuses([call]) == {PriceStatus.OK}


def test_a_quote_that_has_not_changed_for_a_minute_is_stale_and_keeps_its_values(
    desk: Desk,
) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    desk.now_ns += 60 * SECOND_NS
    others = [one for one in desk.options() if one != row]
    desk.quote(others)
    young = desk.statuses([row])
    desk.now_ns += 1
    assert (young, desk.statuses([row])) == ({PriceStatus.OK}, {PriceStatus.STALE})
    assert desk.columns([row]).implied_volatility[0] > 0.0


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        pytest.param({}, PriceStatus.NO_PRICE, id="nothing"),
        pytest.param({"bid_price": 10.0}, PriceStatus.ONE_SIDED, id="one-sided"),
        pytest.param({"bid_price": 11.0, "ask_price": 10.0}, PriceStatus.CROSSED, id="crossed"),
        pytest.param({"ltp": 1e6}, PriceStatus.ABOVE_BOUND, id="more-than-the-forward"),
    ],
)
def test_what_cannot_be_solved_is_nothing_with_a_reason(
    desk: Desk, columns: dict[str, float], status: PriceStatus
) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    desk.tick([row], **columns)
    assert_nothing(desk.columns([row]))
    assert desk.statuses([row]) == {status}


def test_a_price_below_intrinsic_is_no_volatility_of_zero() -> None:
    desk = Desk()
    rows = desk.options()
    desk.quote(rows)
    call, put = desk.call(23_000.0), desk.put(23_000.0)
    desk.tick([put])
    desk.tick([call], ltp=FORWARD - 23_000.0 - 50.0)
    assert_nothing(desk.columns([call]))
    assert desk.statuses([call]) == {PriceStatus.BELOW_INTRINSIC}


def test_a_stale_trade_keeps_its_values_and_says_so(desk: Desk) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    price = desk.truth([row])["price"]
    desk.tick([row], ltp=price, last_trade_ts_ns=desk.now_ns - 61 * SECOND_NS)
    assert desk.statuses([row]) == {PriceStatus.STALE}
    assert desk.columns([row]).delta[0] > 0.0


@pytest.mark.parametrize("quote", [{}, {"bid_price": 20.0}, {"bid_price": 1.0, "ask_price": 900.0}])
def test_a_trade_without_a_time_is_stale_in_a_full_packet_too(
    desk: Desk, quote: dict[str, float]
) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    desk.tick([row], ltp=desk.truth([row])["price"], last_trade_ts_ns=0, **quote)
    assert desk.statuses([row]) == {PriceStatus.STALE}


def test_a_quote_is_stale_when_the_wall_clock_was_set_back_behind_it(desk: Desk) -> None:
    """Nobody knows how old it is; it would stay good for as long as the clock was set back."""
    rows = desk.options()
    desk.quote(rows)
    row = desk.call(24_500.0)
    assert desk.statuses([row]) == {PriceStatus.OK}
    desk.now_ns -= 600 * SECOND_NS
    assert desk.statuses([row]) == {PriceStatus.STALE}
    desk.quote(rows)
    assert desk.statuses([row]) == {PriceStatus.OK}


def test_a_price_step_that_is_worth_a_volatility_point_makes_the_row_unreliable(desk: Desk) -> None:
    desk.quote(desk.options())
    row = desk.call(25_000.0, NEAR)
    desk.now_ns = desk.chosen.expiries[NEAR].instant_ns - 3_600 * SECOND_NS
    desk.quote(desk.options(NEAR))
    assert desk.truth([row])["vega"][0] < 0.05
    assert desk.statuses([row]) == {PriceStatus.UNRELIABLE}


def test_without_a_forward_there_is_nothing_and_the_reason(desk: Desk) -> None:
    row = desk.call(24_000.0)
    desk.quote([row])
    priced = desk.columns([row])
    assert_nothing(priced)
    assert desk.statuses([row]) == {PriceStatus.NO_FORWARD}
    assert np.isnan([priced.forward[0], priced.forward_age_ms[0]]).all()


def test_an_option_that_came_before_its_forward_is_priced_when_the_forward_comes(
    desk: Desk,
) -> None:
    row = desk.call(24_500.0)
    desk.quote([row])
    desk.quote([one for one in desk.options(NEXT) if one != row])
    assert desk.statuses([row]) == {PriceStatus.OK}
    expected = smile(np.array([24_500.0]))[0]
    assert desk.columns([row]).implied_volatility[0] == pytest.approx(expected, rel=1e-5)


def test_the_spot_can_be_what_brings_the_forward(desk: Desk) -> None:
    row = desk.call(24_500.0)
    desk.quote([row])
    desk.tick([row_of(desk.chosen, "NIFTY 50")], ltp=FORWARD)
    assert desk.columns([row]).implied_volatility[0] > 0.0


def test_a_deep_quote_against_a_forward_of_another_moment_is_unreliable(desk: Desk) -> None:
    """An in-the-money quote moves with the forward: what that wandered since looks like time."""
    desk.quote([row for row in desk.options() if row != desk.call(25_000.0, NEAR)])
    deep = desk.put(25_000.0, NEAR)
    assert desk.truth([deep])["vega"][0] > 0.05
    desk.now_ns += SECOND_NS // 4
    desk.quote([deep], forward=FORWARD - 1.0)
    assert desk.statuses([deep]) == {PriceStatus.UNRELIABLE}
    assert desk.columns([deep]).implied_volatility[0] > 0.0


def test_near_the_money_the_same_wandering_is_worth_little(desk: Desk) -> None:
    desk.quote(desk.options())
    desk.now_ns += SECOND_NS // 4
    desk.quote([desk.put(24_000.0, NEAR)], forward=FORWARD - 1.0)
    assert desk.statuses([desk.put(24_000.0, NEAR)]) == {PriceStatus.OK}


def test_what_rests_on_spot_and_carry_is_never_called_good(desk: Desk) -> None:
    desk.tick([row_of(desk.chosen, "NIFTY 50")], ltp=FORWARD)
    desk.quote([desk.call(24_000.0)])
    assert desk.statuses([desk.call(24_000.0)]) == {PriceStatus.UNRELIABLE}


def test_a_packet_of_a_lesser_mode_than_asked_for_is_not_priced(desk: Desk) -> None:
    full = Pricer(desk.chosen, desk.latest, desk.config, mode=Mode.FULL)
    desk.pricer = full
    rows = desk.options()
    desk.quote(rows)
    row = desk.call(24_500.0)
    desk.tick([row], ltp=desk.truth([row])["price"], mode=int(Mode.QUOTE))
    assert desk.columns([row]).price_source[0] == PriceSource.NONE
    assert desk.statuses([row]) == {PriceStatus.NO_PRICE}


def test_the_first_packet_without_a_stamp_is_stale_until_the_next(desk: Desk) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    price = desk.truth([row])["price"]
    desk.pricer.doubt(np.array([row]))
    desk.tick([row], ltp=price, mode=int(Mode.LTP))
    first = desk.statuses([row])
    desk.tick([row], ltp=price, mode=int(Mode.LTP))
    second = desk.statuses([row])
    desk.tick([row], ltp=price + 0.05, mode=int(Mode.LTP))
    assert (first, second) == ({PriceStatus.STALE}, {PriceStatus.STALE})
    assert desk.statuses([row]) == {PriceStatus.OK}


def test_a_trade_of_an_hour_ago_is_stale_however_often_orders_are_placed_beside_it() -> None:
    """Packets in quote mode carry no time of the trade: it is as old as the volume's last growth.

    The future goes on trading, so that the forward is of now and 250 points further up.
    """
    desk = Desk()
    row, future = desk.call(24_500.0, MONTHLY), desk.chosen.expiries[MONTHLY].future_row
    price = desk.truth([row])["price"]
    for minute in range(61):
        desk.now_ns += 61 * SECOND_NS
        volume = 900 if minute else 800
        moving = FORWARD + 250.0 * minute / 60
        desk.tick([future], ltp=moving, volume=10_000 + minute, mode=int(Mode.QUOTE))
        desk.tick([row], ltp=price, volume=volume, buy_quantity=75 * minute, mode=int(Mode.QUOTE))
        priced = desk.columns([row])
        if minute == 0:
            assert desk.statuses([row]) == {PriceStatus.NO_FORWARD}
        elif minute == 1:
            assert desk.statuses([row]) == {PriceStatus.OK}
            assert priced.implied_volatility[0] == pytest.approx(VOLATILITY, abs=0.02)
        else:
            assert desk.statuses([row]) == {PriceStatus.STALE}
    assert priced.forward_source[0] == ForwardSource.FUTURE


def test_a_future_that_only_gets_orders_gives_no_forward() -> None:
    desk = Desk()
    row, future = desk.call(24_500.0, MONTHLY), desk.chosen.expiries[MONTHLY].future_row
    price = desk.truth([row])["price"]
    for minute in range(8):
        desk.now_ns += 60 * SECOND_NS
        desk.tick(
            [future],
            ltp=FORWARD,
            volume=9 + (minute > 0),
            buy_quantity=minute,
            mode=int(Mode.QUOTE),
        )
        desk.tick([row], ltp=price, volume=minute, mode=int(Mode.QUOTE))
        sources = [ForwardSource.NONE] if minute in {0, 7} else [ForwardSource.FUTURE]
        assert desk.columns([row]).forward_source.tolist() == sources


def test_what_was_good_is_stale_once_its_feed_is_lost(desk: Desk) -> None:
    rows = [desk.call(24_500.0), desk.put(24_000.0)]
    desk.quote(desk.options())
    desk.pricer.doubt(np.array(rows))
    assert desk.statuses(rows) == {PriceStatus.STALE}


def test_a_trade_that_grows_old_after_it_came_turns_stale(desk: Desk) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    price = desk.truth([row])["price"]
    bid = float(price[0]) - 1.0
    desk.tick([row], ltp=price, bid_price=bid, last_trade_ts_ns=desk.now_ns - 50 * SECOND_NS)
    young = desk.statuses([row])
    desk.now_ns += 20 * SECOND_NS
    assert (young, desk.statuses([row])) == ({PriceStatus.ONE_SIDED}, {PriceStatus.STALE})


def test_an_option_priced_late_keeps_being_stale_if_it_was(desk: Desk) -> None:
    row = desk.call(24_500.0)
    price = desk.truth([row])["price"]
    desk.tick([row], ltp=price, last_trade_ts_ns=desk.now_ns - 61 * SECOND_NS)
    desk.tick([row_of(desk.chosen, "NIFTY 50")], ltp=FORWARD)
    assert desk.statuses([row]) == {PriceStatus.STALE}


def test_a_quote_of_long_ago_is_stale_when_its_forward_comes_at_last(desk: Desk) -> None:
    row = desk.call(24_500.0)
    desk.quote([row])
    desk.now_ns += 31 * SECOND_NS
    desk.tick([row_of(desk.chosen, "NIFTY 50")], ltp=FORWARD)
    assert desk.statuses([row]) == {PriceStatus.STALE}


def test_a_forward_that_is_lost_takes_the_values_with_it(desk: Desk) -> None:
    rows = desk.options(NEXT)
    desk.quote(rows)
    desk.now_ns += 301 * SECOND_NS
    desk.tick([row_of(desk.chosen, "NIFTY 50")])
    assert desk.statuses(rows) == {PriceStatus.NO_FORWARD}
    assert_nothing(desk.columns(rows))


def test_a_forward_grows_too_old_in_a_silent_book_too(desk: Desk) -> None:
    rows = desk.options(NEXT)
    desk.quote(rows)
    desk.now_ns += 301 * SECOND_NS
    priced = desk.columns(rows)
    assert desk.statuses(rows) == {PriceStatus.NO_FORWARD}
    assert np.isnan(priced.forward).all()
    assert set(priced.forward_source.tolist()) == {ForwardSource.NONE}


def test_after_expiry_there_is_nothing_and_the_reason(desk: Desk) -> None:
    rows = desk.options(NEAR)
    desk.quote(rows)
    desk.now_ns = desk.chosen.expiries[NEAR].instant_ns
    priced = desk.columns(rows)
    assert desk.statuses(rows) == {PriceStatus.EXPIRED}
    for row in range(len(rows)):
        assert_nothing(priced, row)


def test_one_second_before_expiry_the_money_is_still_priced(desk: Desk) -> None:
    desk.now_ns = desk.chosen.expiries[NEAR].instant_ns - SECOND_NS
    desk.quote(desk.options(NEAR))
    assert PriceStatus.EXPIRED not in desk.statuses(desk.options(NEAR))


def test_what_is_not_an_option_is_marked_as_such(desk: Desk) -> None:
    spot, call = row_of(desk.chosen, "NIFTY 50"), desk.call(24_000.0)
    desk.quote(desk.options())
    desk.tick([spot], ltp=24_000.0)
    assert desk.columns([spot, call]).is_option.tolist() == [False, True]


def test_a_universe_without_options_is_priced_as_nothing() -> None:
    desk = Desk(choose([share(1, "SBIN"), share(2, "TCS")], instruments=["NSE:SBIN", "NSE:TCS"]))
    desk.tick([0, 1], ltp=100.0)
    priced = desk.columns([0, 1])
    assert not priced.is_option.any()
    assert {len(getattr(priced, field.name)) for field in fields(priced)} == {2}


def test_no_rows_are_priced_as_no_rows(desk: Desk) -> None:
    assert len(desk.columns([]).delta) == 0


def test_the_later_of_two_ticks_in_one_batch_is_the_one_that_counts(desk: Desk) -> None:
    desk.quote(desk.options())
    row = desk.call(24_500.0)
    price = float(desk.truth([row])["price"][0])
    first_and_last = np.array([price * 3.0, price])
    desk.tick([row, row], bid_price=first_and_last, ask_price=first_and_last)
    priced = desk.columns([row])
    assert priced.price_used[0] == price
    assert priced.implied_volatility[0] == pytest.approx(smile(np.array([24_500.0]))[0], rel=1e-4)


def test_a_forgotten_option_has_no_price_and_is_nobody_s_other_leg(desk: Desk) -> None:
    desk.quote(desk.options())
    call, put = desk.call(23_500.0), desk.put(23_500.0)
    desk.latest.forget(np.array([put]))
    desk.pricer.forget(np.array([put]))
    assert desk.statuses([put]) == {PriceStatus.NO_PRICE}
    assert desk.columns([call]).iv_leg[0] == Leg.OWN


def test_forgotten_quotes_no_longer_vote_in_the_parity(desk: Desk) -> None:
    rows = desk.options(NEAR)
    desk.quote(rows)
    desk.latest.forget(np.array(rows))
    desk.pricer.forget(np.array(rows))
    for _ in range(2):
        desk.now_ns += 2 * SECOND_NS
        desk.tick([row_of(desk.chosen, "NIFTY 50")], ltp=20_000.0)
    assert desk.pricer.forwards.source[NEAR] == ForwardSource.SPOT_CARRY


def test_books_that_tick_together_are_priced_as_if_each_had_come_alone() -> None:
    rows = [*nifty(), index(5, "NIFTY BANK"), *chain(500, "BANKNIFTY", EXPIRIES[0], BANK_STRIKES)]
    together, alone = (Desk(choose(rows, "NIFTY", "BANKNIFTY")) for _ in range(2))
    of_nifty = together.options(*(n for n, e in enumerate(together.chosen.expiries) if e.book == 1))
    of_bank = [row for row in together.options(0, 1, 2, 3) if row not in of_nifty]
    mixed = np.random.default_rng(3).permutation(of_nifty + of_bank).tolist()
    forward = np.where(np.isin(mixed, of_nifty), FORWARD, BANK_FORWARD)

    together.quote(mixed, forward, volatility=0.15)
    alone.quote(of_bank, BANK_FORWARD, volatility=0.15)
    alone.quote(of_nifty, FORWARD, volatility=0.15)

    first, second = together.columns(mixed), alone.columns(mixed)
    assert (first.iv_status == PriceStatus.OK).sum() > 100
    for field in fields(Priced):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_each_expiry_is_priced_at_its_own_forward(desk: Desk) -> None:
    for expiry, _ in enumerate(EXPIRIES):
        desk.quote(desk.options(expiry), FORWARD + 100.0 * expiry)
    forwards = desk.columns([desk.call(24_000.0, expiry) for expiry in range(3)]).forward
    np.testing.assert_allclose(forwards, [FORWARD, FORWARD + 100.0, FORWARD + 200.0])


def test_a_price_that_has_no_answer_leaves_its_neighbours_theirs(desk: Desk) -> None:
    rows = desk.options()
    desk.quote(rows)
    before = desk.columns([desk.call(24_100.0)]).implied_volatility[0]
    desk.tick([desk.call(24_000.0), desk.put(24_000.0)], ltp=[1e7, 1e7])
    assert desk.columns([desk.call(24_100.0)]).implied_volatility[0] == pytest.approx(before)


hostile = st.one_of(st.just(float("nan")), st.floats(0.05, 1e7), st.just(1e-9))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(hostile, hostile, hostile), min_size=4, max_size=4))
def test_whatever_is_quoted_at_far_strikes_changes_no_other_row_by_a_bit(
    quotes: list[tuple[float, float, float]],
) -> None:
    """Far strikes do not vote on the forward, so theirs is the only trouble."""
    desk = Desk()
    desk.quote(desk.options())
    far = [kind(strike, NEXT) for strike in (23_000.0, 25_000.0) for kind in (desk.call, desk.put)]
    others = [row for row in desk.options() if row not in far]
    before = desk.columns(others)
    bid, ask, ltp = np.array(quotes).T
    desk.tick(far, bid_price=bid, ask_price=ask, ltp=ltp)
    after = desk.columns(others)
    for field in fields(Priced):
        np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))


@pytest.mark.parametrize("seed", range(5))
def test_a_row_is_either_valued_with_a_status_that_keeps_values_or_nothing(seed: int) -> None:
    """Whatever comes in: no infinity, no zero for "unknown", no number without a right to it."""
    rng = np.random.default_rng(seed)
    desk = Desk()
    rows = desk.options()
    for _ in range(6):
        some = rng.choice(rows, 60).tolist()
        prices = rng.choice([np.nan, 0.05, 1e-9, 5.0, 900.0, 1e7], (3, 60))
        desk.tick(
            some,
            bid_price=prices[0],
            ask_price=prices[1],
            ltp=prices[2],
            last_trade_ts_ns=desk.now_ns - rng.choice([0, 90], 60) * SECOND_NS,
        )
        desk.now_ns += int(rng.choice([1, 20, 200, 90_000])) * SECOND_NS
        priced = desk.columns(rows)
        may = np.isin(priced.iv_status, MAY_HAVE_VALUES)
        must = np.isin(priced.iv_status, MUST_HAVE_VALUES)
        has = np.isfinite(priced.implied_volatility)
        assert (must <= has).all()
        assert (has <= may).all()
        for name in VALUES:
            column = getattr(priced, name)
            assert (np.isfinite(column) == has).all(), name
            assert (np.isnan(column) == ~has).all(), name
        assert (priced.implied_volatility[has] > 0.0).all()
