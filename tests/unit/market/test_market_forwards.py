"""The forward of an expiry: by parity, else by its future, else by spot and carry, else none."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from small_exchange import (
    EXPIRIES,
    NOW_NS,
    STRIKES,
    Row,
    choose,
    nifty,
    nifty_universe,
    row_of,
)

from ticker_service.config import PricingConfig
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.tick import Mode, Ticks
from ticker_service.domain.universe import ABSENT, Universe
from ticker_service.market.forward_source import ForwardSource
from ticker_service.market.forwards import Forwards
from ticker_service.market.last_trades import LastTrades

if TYPE_CHECKING:
    from collections.abc import Sequence

CHOSEN = nifty_universe()
SPOT = row_of(CHOSEN, "NIFTY 50")
FUTURE = row_of(CHOSEN, "NIFTY26DECFUT")
NOVEMBER, DECEMBER = 0, 1
SECOND_NS = 10**9
PLANTED = 24_037.5


def is_put_at(row: Row, strike: float) -> bool:
    return row["instrument_type"] == "PE" and row["strike"] == strike


class Quoted:
    """A market in which a test plants quotes; the forwards under test look at it."""

    def __init__(self, config: PricingConfig | None = None, *, chosen: Universe = CHOSEN) -> None:
        self.chosen = chosen
        self.config = config or PricingConfig()
        self.latest = Ticks.empty(len(chosen))
        self.mid = np.full(len(chosen), np.nan)
        self.half_spread = np.full(len(chosen), np.nan)
        self.forwards = Forwards(chosen, self.config, LastTrades(len(chosen)))
        self.now_ns = NOW_NS

    def plant_parity(
        self,
        forward: float,
        *,
        expiry: int = NOVEMBER,
        strikes: Sequence[float] = STRIKES,
        age_ns: int = 0,
        half_spread: float = 0.1,
    ) -> None:
        """Quote calls and puts whose parity is ``forward``."""
        chain = self.chosen.expiries[expiry]
        discount = math.exp(-self.config.rate * years_to_expiry(self.now_ns, chain.instant_ns))
        for place in np.flatnonzero(np.isin(chain.strike, list(strikes))).tolist():
            call, put = chain.call_row[place], chain.put_row[place]
            gap = discount * (forward - chain.strike[place])
            for row, price in ((call, 500.0 + gap), (put, 500.0)):
                if row != ABSENT:
                    self.mid[row], self.half_spread[row] = price, half_spread
                    self.latest.received_at_ns[row] = self.now_ns - age_ns

    def tick(self, row: int, *, age_ns: int = 0, **columns: float) -> None:
        """Take a full packet, traded when it was received unless it says otherwise."""
        self.latest.received_at_ns[row] = self.now_ns - age_ns
        self.latest.last_trade_ts_ns[row] = self.now_ns - age_ns
        self.latest.mode[row] = Mode.FULL
        for name, value in columns.items():
            column: Any = getattr(self.latest, name)
            column[(0, row) if column.ndim == 2 else row] = value

    def find(self, expiry: int = NOVEMBER) -> tuple[float, ForwardSource]:
        self.forwards.update(
            np.array([expiry]),
            latest=self.latest,
            mid=self.mid,
            half_spread=self.half_spread,
            now_ns=self.now_ns,
        )
        value, source = self.forwards.value[expiry], self.forwards.source[expiry]
        return round(float(value), 6), ForwardSource(int(source))

    def age_s(self, expiry: int = NOVEMBER) -> float:
        return (self.now_ns - int(self.forwards.as_of_ns[expiry])) / SECOND_NS


@pytest.fixture
def market() -> Quoted:
    return Quoted()


def test_in_the_beginning_there_is_no_forward(market: Quoted) -> None:
    value, source = market.find()
    assert (math.isnan(value), source) == (True, ForwardSource.NONE)


def test_calls_and_puts_agree_on_the_forward_that_was_planted(market: Quoted) -> None:
    market.plant_parity(PLANTED)
    assert market.find() == (PLANTED, ForwardSource.PARITY)


@pytest.mark.parametrize("rate", [0.0, 0.065, 0.5])
def test_parity_is_taken_at_the_discount_of_the_settings(rate: float) -> None:
    market = Quoted(PricingConfig(rate=rate))
    market.plant_parity(PLANTED, expiry=2)
    assert market.find(2)[0] == pytest.approx(PLANTED, abs=1e-6)


def test_two_strikes_are_an_anecdote_and_three_a_forward(market: Quoted) -> None:
    market.plant_parity(PLANTED, strikes=[24_000, 24_100])
    sources = [market.find()[1]]
    market.plant_parity(PLANTED, strikes=[24_000, 24_100, 24_200])
    sources.append(market.find()[1])
    assert sources == [ForwardSource.NONE, ForwardSource.PARITY]


def test_one_bad_pair_does_not_move_the_forward(market: Quoted) -> None:
    market.plant_parity(PLANTED)
    market.plant_parity(30_000.0, strikes=[24_000])
    market.tick(SPOT, ltp=24_000.0)
    assert market.find()[0] == PLANTED


def test_quotes_that_are_too_old_are_no_parity(market: Quoted) -> None:
    market.plant_parity(PLANTED, age_ns=30 * SECOND_NS + 1)
    assert market.find()[1] is ForwardSource.NONE


def test_quotes_at_the_limit_of_their_age_still_count(market: Quoted) -> None:
    market.plant_parity(PLANTED, age_ns=30 * SECOND_NS)
    assert market.find()[1] is ForwardSource.PARITY


def test_one_old_leg_makes_the_pair_old(market: Quoted) -> None:
    market.plant_parity(PLANTED)
    market.latest.received_at_ns[CHOSEN.expiries[NOVEMBER].put_row] = NOW_NS - 31 * SECOND_NS
    assert market.find()[1] is ForwardSource.NONE


def test_the_age_of_a_parity_is_that_of_its_older_leg(market: Quoted) -> None:
    market.plant_parity(PLANTED, age_ns=7 * SECOND_NS)
    market.latest.received_at_ns[CHOSEN.expiries[NOVEMBER].call_row] = NOW_NS
    market.find()
    assert market.age_s() == 7.0


def test_fresh_pairs_outvote_more_numerous_old_ones(market: Quoted) -> None:
    market.tick(SPOT, ltp=24_000.0)
    market.plant_parity(24_100.0, age_ns=25 * SECOND_NS)
    market.plant_parity(PLANTED, strikes=[23_900, 24_000, 24_100], age_ns=0)
    assert market.find()[0] == PLANTED


def test_an_absent_leg_is_no_pair_and_no_neighbour_s_price() -> None:
    """Row -1, which stands for "absent", is also the last row: it must not lend its price."""
    rows = [row for row in nifty() if not is_put_at(row, 24_000.0)]
    market = Quoted(chosen=choose(rows, "NIFTY"))
    market.plant_parity(PLANTED, strikes=[24_000, 24_100, 24_200])
    market.tick(-1)
    market.mid[-1] = market.half_spread[-1] = 1.0
    assert market.find()[1] is ForwardSource.NONE


def test_the_dispersion_of_pairs_that_agree_is_nothing(market: Quoted) -> None:
    market.plant_parity(PLANTED)
    market.find()
    assert market.forwards.dispersion[NOVEMBER] == pytest.approx(0.0, abs=1e-9)


def test_the_dispersion_is_the_median_distance_of_the_strikes_own_forwards(market: Quoted) -> None:
    for strike, forward in ((23_900.0, 24_000.0), (24_000.0, 24_002.0), (24_100.0, 24_007.0)):
        market.plant_parity(forward, strikes=[strike])
    assert market.find() == (24_002.0, ForwardSource.PARITY)
    assert market.forwards.dispersion[NOVEMBER] == pytest.approx(2.0)


def test_the_dispersion_of_a_future_is_half_its_spread_if_it_has_one(market: Quoted) -> None:
    market.tick(FUTURE, bid_price=24_099.0, ask_price=24_101.0)
    market.find(DECEMBER)
    quoted = market.forwards.dispersion[DECEMBER]
    market.tick(FUTURE, bid_price=np.nan, ask_price=np.nan, ltp=24_100.0)
    market.find(DECEMBER)
    assert (quoted, math.isnan(market.forwards.dispersion[DECEMBER])) == (1.0, True)


def test_a_chain_longer_than_what_is_looked_at_is_read_round_the_money() -> None:
    strikes = range(20_000, 28_001, 50)
    market = Quoted(chosen=choose(nifty(strikes), "NIFTY"))
    market.tick(row_of(market.chosen, "NIFTY 50"), ltp=24_000.0)
    market.plant_parity(25_000.0, strikes=[k for k in strikes if abs(k - 24_000) > 1_000])
    market.plant_parity(PLANTED, strikes=[23_950, 24_000, 24_050, 24_100])
    assert market.find() == (PLANTED, ForwardSource.PARITY)


def test_the_strikes_looked_at_follow_the_money_through_a_long_chain() -> None:
    strikes = range(20_000, 28_001, 50)
    market = Quoted(chosen=choose(nifty(strikes), "NIFTY"))
    market.tick(row_of(market.chosen, "NIFTY 50"), ltp=24_000.0)
    moves = [0.0, 50.0, 0.5, -0.5, *[37.5] * 30, *[-62.5] * 40]
    for money in np.cumsum([24_000.0, *moves]).tolist():
        market.plant_parity(money + 300.0, strikes=[k for k in strikes if abs(k - money) > 250])
        market.plant_parity(money, strikes=[k for k in strikes if abs(k - money) <= 250])
        assert market.find() == (money, ForwardSource.PARITY)


@pytest.mark.parametrize("money", [20_000.0, 27_990.0, 19_700.0, 90_000.0])
def test_a_money_at_or_beyond_the_end_of_a_long_chain_is_no_trouble(money: float) -> None:
    strikes = range(20_000, 28_001, 50)
    market = Quoted(chosen=choose(nifty(strikes), "NIFTY"))
    market.tick(row_of(market.chosen, "NIFTY 50"), ltp=money)
    market.plant_parity(money, strikes=strikes)
    assert market.find() == (money, ForwardSource.PARITY)


def test_a_third_strike_that_comes_and_goes_does_not_move_the_forward_to_the_future(
    market: Quoted,
) -> None:
    """Each flush another source would be the best one: the forward would jump by 62 and back."""
    market.plant_parity(PLANTED, expiry=DECEMBER, strikes=[24_000, 24_100, 24_200])
    third = CHOSEN.expiries[DECEMBER].call_row[CHOSEN.expiries[DECEMBER].strike == 24_200][0]
    sane = market.mid[third]
    seen = set()
    for flush in range(400):
        market.tick(FUTURE, ltp=PLANTED + 62.0)
        market.mid[third] = sane if flush % 3 == 0 else np.nan
        seen.add(market.find(DECEMBER))
        market.now_ns += SECOND_NS // 20
        market.latest.received_at_ns[:] = market.now_ns
    assert seen == {(PLANTED, ForwardSource.PARITY)}


def test_a_parity_that_keeps_failing_for_long_is_left_once_and_not_at_every_failure(
    market: Quoted,
) -> None:
    strikes = [24_000, 24_100, 24_200]
    sources = []
    for tenth in range(600):
        market.plant_parity(PLANTED, expiry=DECEMBER, strikes=strikes)
        if tenth % 60 >= 30:  # three seconds with all strikes, three without one
            market.mid[CHOSEN.expiries[DECEMBER].call_row[:-10]] = np.nan
        market.tick(FUTURE, ltp=PLANTED + 62.0)
        sources.append(market.find(DECEMBER)[1])
        market.now_ns += SECOND_NS // 10
    changes = sum(one is not other for one, other in itertools.pairwise(sources))
    assert (sources[0], sources[-1], changes) == (ForwardSource.PARITY, ForwardSource.FUTURE, 1)


@pytest.mark.parametrize(
    ("flush_ms", "speaks", "silent"),
    [(100, 55, 13), (100, 100, 11), (2_000, 4, 1), (2_000, 4, 3)],
)
def test_a_parity_that_comes_and_goes_moves_the_forward_rarely(
    market: Quoted, flush_ms: int, speaks: int, silent: int
) -> None:
    """Whatever its rhythm, each loss makes the next return twice as hard."""
    sources = []
    for flush in range(600_000 // flush_ms):
        market.plant_parity(PLANTED, expiry=DECEMBER, strikes=[24_000, 24_100, 24_200])
        if flush % (speaks + silent) >= speaks:
            market.mid[CHOSEN.expiries[DECEMBER].call_row[:-10]] = np.nan
        market.tick(FUTURE, ltp=PLANTED + 62.0)
        sources.append(market.find(DECEMBER)[1])
        market.now_ns += flush_ms * 10**6
    changes = sum(one is not other for one, other in itertools.pairwise(sources))
    assert changes <= 5, changes


def test_without_parity_the_future_of_the_same_date_speaks(market: Quoted) -> None:
    market.tick(FUTURE, bid_price=24_099.0, ask_price=24_101.0, ltp=24_050.0)
    assert market.find(DECEMBER) == (24_100.0, ForwardSource.FUTURE)


def test_a_future_without_a_quote_speaks_by_its_last_trade(market: Quoted) -> None:
    market.tick(FUTURE, ltp=24_050.0)
    assert market.find(DECEMBER) == (24_050.0, ForwardSource.FUTURE)


@pytest.mark.parametrize(
    ("quote", "expected"),
    [
        pytest.param((24_101.0, 24_099.0), 24_050.0, id="crossed"),
        pytest.param((1.0, 48_000.0), 24_050.0, id="wide-round-the-trade"),
        pytest.param((23_000.0, 24_000.0), 24_000.0, id="wide-below-the-trade"),
        pytest.param((24_100.0, 26_000.0), 24_100.0, id="wide-above-the-trade"),
        pytest.param((np.nan, 24_100.0), 24_050.0, id="one-sided"),
    ],
)
def test_a_quote_too_wide_to_speak_only_bounds_the_future_s_last_trade(
    market: Quoted, quote: tuple[float, float], expected: float
) -> None:
    market.tick(FUTURE, bid_price=quote[0], ask_price=quote[1], ltp=24_050.0)
    assert market.find(DECEMBER) == (expected, ForwardSource.FUTURE)


def test_a_future_that_last_traded_long_ago_is_as_old_as_that_trade(market: Quoted) -> None:
    market.tick(FUTURE, ltp=24_050.0, last_trade_ts_ns=NOW_NS - 29 * SECOND_NS)
    market.find(DECEMBER)
    assert market.age_s(DECEMBER) == 29.0


def test_a_future_that_traded_too_long_ago_gives_way_to_the_spot(market: Quoted) -> None:
    market.tick(FUTURE, ltp=24_050.0, last_trade_ts_ns=NOW_NS - 31 * SECOND_NS)
    market.tick(SPOT, ltp=24_000.0)
    assert market.find(DECEMBER) == (24_000.0, ForwardSource.SPOT_CARRY)


def test_a_future_whose_trade_has_no_time_gives_way_to_the_spot(market: Quoted) -> None:
    """What was not traded for long has no time of its last trade, and the price is an old close."""
    market.tick(FUTURE, ltp=24_050.0, last_trade_ts_ns=0)
    market.tick(SPOT, ltp=24_000.0)
    assert market.find(DECEMBER) == (24_000.0, ForwardSource.SPOT_CARRY)


def test_a_future_that_is_quoted_needs_no_trade(market: Quoted) -> None:
    market.tick(FUTURE, bid_price=24_049.0, ask_price=24_051.0, last_trade_ts_ns=0)
    assert market.find(DECEMBER) == (24_050.0, ForwardSource.FUTURE)


def test_an_index_the_server_kept_from_earlier_is_no_spot(market: Quoted) -> None:
    market.tick(SPOT, ltp=24_000.0, exchange_ts_ns=NOW_NS - 32 * SECOND_NS)
    assert market.find()[1] is ForwardSource.NONE


def test_an_old_future_gives_way_to_the_spot(market: Quoted) -> None:
    market.tick(FUTURE, ltp=24_050.0, age_ns=31 * SECOND_NS)
    market.tick(SPOT, ltp=24_000.0)
    assert market.find(DECEMBER) == (24_000.0, ForwardSource.SPOT_CARRY)


def test_a_future_of_another_date_says_nothing_of_this_expiry(market: Quoted) -> None:
    market.tick(FUTURE, ltp=24_050.0)
    assert market.find(NOVEMBER)[1] is ForwardSource.NONE


def test_the_spot_is_carried_at_the_rate_of_the_settings() -> None:
    market = Quoted(PricingConfig(rate=0.065))
    market.tick(SPOT, ltp=24_000.0)
    years = years_to_expiry(NOW_NS, CHOSEN.expiries[2].instant_ns)
    expected = round(24_000.0 * math.exp(0.065 * years), 6)
    assert market.find(2) == (expected, ForwardSource.SPOT_CARRY)


def test_parity_is_believed_before_the_future_and_the_spot(market: Quoted) -> None:
    market.tick(SPOT, ltp=20_000.0)
    market.tick(FUTURE, ltp=21_000.0)
    market.plant_parity(PLANTED, expiry=DECEMBER)
    assert market.find(DECEMBER) == (PLANTED, ForwardSource.PARITY)


def test_when_all_fall_silent_the_last_forward_stays_and_grows_old(market: Quoted) -> None:
    market.plant_parity(PLANTED)
    market.find()
    market.now_ns += 200 * SECOND_NS
    assert market.find() == (PLANTED, ForwardSource.PARITY)
    assert market.age_s() == 200.0


def test_a_forward_that_is_too_old_is_no_forward(market: Quoted) -> None:
    market.plant_parity(PLANTED)
    market.find()
    market.now_ns += 301 * SECOND_NS
    value, source = market.find()
    assert (math.isnan(value), source) == (True, ForwardSource.NONE)


def test_a_forward_comes_back_with_fresh_quotes(market: Quoted) -> None:
    market.plant_parity(PLANTED)
    market.find()
    market.now_ns += 400 * SECOND_NS
    market.find()
    market.plant_parity(25_000.0)
    assert market.find() == (25_000.0, ForwardSource.PARITY)


def test_only_the_expiries_asked_for_are_worked_out(market: Quoted) -> None:
    market.tick(SPOT, ltp=24_000.0)
    market.find(NOVEMBER)
    assert np.isnan(market.forwards.value[1:]).all()


def test_after_its_expiry_a_forward_is_still_a_number(market: Quoted) -> None:
    market.now_ns = CHOSEN.expiries[NOVEMBER].instant_ns + 3_600 * SECOND_NS
    market.plant_parity(PLANTED)
    assert market.find()[0] == PLANTED


def test_every_expiry_has_its_own_forward(market: Quoted) -> None:
    for number, _ in enumerate(EXPIRIES):
        market.plant_parity(PLANTED + number, expiry=number)
    assert [market.find(number)[0] for number in range(3)] == [PLANTED, PLANTED + 1, PLANTED + 2]
