"""Ticks that cannot be true are dropped for their first reason and counted; doubtful ones marked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exchange import (
    NOW_NS,
    chain,
    choose,
    index,
    nifty,
    nifty_universe,
    share,
    ticks_of,
)

from ticker_service.config import ValidationConfig
from ticker_service.domain.tick import Mode, Ticks
from ticker_service.market import validate
from ticker_service.market.streams import Doubt, Streams

if TYPE_CHECKING:
    from ticker_service.domain.universe import Universe
    from ticker_service.market.validate import Plausible

SECOND_NS = 10**9
TWO_S = 2 * SECOND_NS
LIMITS = ValidationConfig(tick_age_ms_max=60_000)


@pytest.fixture(scope="module")
def chosen() -> Universe:
    return nifty_universe([24_000.0])


class Path:
    """The step with its memory, as the path uses it."""

    def __init__(self, chosen: Universe, limits: ValidationConfig = LIMITS) -> None:
        self.chosen = chosen
        self.limits = limits
        self.streams = Streams(chosen)
        self.streams.subscribe(np.arange(len(chosen)), at_ns=NOW_NS - 3_600 * SECOND_NS)
        self.wanted = np.ones(len(chosen), np.bool_)

    def check(self, ticks: Ticks) -> Plausible:
        accepted = validate.plausible(
            ticks, self.chosen, self.streams, wanted=self.wanted, limits=self.limits
        )
        self.streams.take(
            accepted.rows,
            accepted.ticks.received_at_ns,
            progress=accepted.progress,
            marks=accepted.marks,
        )
        return accepted

    def full(self, row: int, **columns: object) -> Plausible:
        return self.check(ticks_of(self.chosen, [row], **{"ltp": 100.0, **columns}))


def check(
    ticks: Ticks,
    chosen: Universe,
    *,
    unwanted: tuple[int, ...] = (),
    limits: ValidationConfig = LIMITS,
) -> Plausible:
    path = Path(chosen, limits)
    path.wanted[list(unwanted)] = False
    return path.check(ticks)


def one(chosen: Universe, **columns: object) -> Ticks:
    return ticks_of(chosen, [0], **{"ltp": 100.0, **columns})


def test_a_plausible_tick_goes_on_with_its_universe_row(chosen: Universe) -> None:
    accepted = check(ticks_of(chosen, [3, 1], ltp=[10.0, 20.0]), chosen)
    assert accepted.rows.tolist() == [3, 1]
    assert accepted.rejected == {}


def test_a_token_that_is_not_in_the_universe_is_unknown(chosen: Universe) -> None:
    ticks = one(chosen)
    ticks.instrument_token[:] = 4_242
    assert check(ticks, chosen).rejected == {"unknown_token": 1}


def test_a_tick_under_way_when_its_instrument_was_dropped_is_not_subscribed(
    chosen: Universe,
) -> None:
    assert check(one(chosen), chosen, unwanted=(0,)).rejected == {"not_subscribed": 1}


def test_a_price_whose_scale_nobody_knows_is_not_published() -> None:
    stranger = share(5, "GLOBAL")
    stranger["instrument_token"] = 5 << 8 | 200
    chosen = choose([stranger, *nifty([24_000.0])], "NIFTY", instruments=["NSE:GLOBAL"])
    row = int(np.flatnonzero(chosen.instruments.tradingsymbol == "GLOBAL")[0])
    others = [other for other in range(len(chosen)) if other != row][:2]
    accepted = check(ticks_of(chosen, [others[0], row, others[1]], ltp=100.0), chosen)
    assert accepted.rejected == {"unknown_segment": 1}
    assert accepted.rows.tolist() == others


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"ltp": -1.0}, id="negative-ltp"),
        pytest.param({"ltp": 0.0}, id="zero-ltp"),
        pytest.param({"ltp": np.nan, "mode": Mode.LTP}, id="no-ltp-in-ltp-mode"),
        pytest.param({"ltp": np.nan, "mode": Mode.QUOTE}, id="no-ltp-in-quote-mode"),
        pytest.param({"bid_price": -0.05}, id="negative-bid"),
        pytest.param({"ask_price": 0.0}, id="free-ask"),
        pytest.param({"close": -1.0}, id="negative-close"),
        pytest.param({"high": 99.0, "low": 101.0}, id="high-below-low"),
    ],
)
def test_a_price_no_market_prints_is_impossible(
    chosen: Universe, columns: dict[str, float]
) -> None:
    assert check(one(chosen, **columns), chosen).rejected == {"impossible_price": 1}


def test_a_bad_price_deep_in_the_book_is_impossible_too(chosen: Universe) -> None:
    ticks = one(chosen)
    ticks.ask_price[4] = -1.0
    assert check(ticks, chosen).rejected == {"impossible_price": 1}


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"last_quantity": 2**31}, id="last-quantity"),
        pytest.param({"bid_quantity": 2**32 - 1}, id="bid"),
        pytest.param({"ask_quantity": 2**32 - 1}, id="ask"),
        pytest.param({"oi_day_high": 5, "oi_day_low": 6}, id="interest-out-of-range"),
    ],
)
def test_a_quantity_below_zero_looks_huge_and_is_impossible(
    chosen: Universe, columns: dict[str, int]
) -> None:
    assert check(one(chosen, **columns), chosen).rejected == {"impossible_quantity": 1}


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"ltp": np.nan}, id="never-traded-but-quoted"),
        pytest.param({"bid_price": 99.0, "ask_price": 101.0}, id="quoted"),
        pytest.param({"bid_price": 101.0, "ask_price": 99.0}, id="crossed"),
        pytest.param({"high": 101.0, "low": 101.0}, id="one-price-day"),
        pytest.param({"high": np.nan, "low": np.nan}, id="no-range"),
        pytest.param({"volume": 2**32 - 1}, id="a-cheap-share-s-volume"),
        pytest.param({"last_quantity": 2**31 - 1}, id="the-largest-quantity"),
        pytest.param({"exchange_ts_ns": NOW_NS + TWO_S}, id="clock-two-seconds-ahead"),
        pytest.param({"exchange_ts_ns": NOW_NS - 60 * SECOND_NS}, id="a-minute-late"),
        pytest.param({"exchange_ts_ns": 0}, id="no-time"),
    ],
)
def test_what_a_market_may_print_goes_on(chosen: Universe, columns: dict[str, float]) -> None:
    assert check(one(chosen, **columns), chosen).rejected == {}


def test_a_time_that_has_not_come_is_refused(chosen: Universe) -> None:
    ticks = one(chosen, exchange_ts_ns=NOW_NS + TWO_S + 1)
    assert check(ticks, chosen).rejected == {"future_time": 1}


def test_a_tick_stamped_longer_ago_than_the_limit_is_too_old(chosen: Universe) -> None:
    ticks = one(chosen, exchange_ts_ns=NOW_NS - 61 * SECOND_NS)
    assert check(ticks, chosen).rejected == {"too_old": 1}


def test_a_tick_from_before_the_subscription_is_kept_by_kite_and_not_too_old(
    chosen: Universe,
) -> None:
    yesterday = one(chosen, exchange_ts_ns=NOW_NS - 24 * 3_600 * SECOND_NS)
    accepted = check(yesterday, chosen)
    assert accepted.rejected == {}
    assert accepted.marks.is_cached.tolist() == [True]


@pytest.mark.parametrize(
    ("before_subscription_s", "is_cached"), [(2.0, True), (1.0, True), (0.9, False), (-5.0, False)]
)
def test_a_stamp_names_a_second_so_only_a_whole_one_before_the_subscription_is_old(
    chosen: Universe, before_subscription_s: float, *, is_cached: bool
) -> None:
    path = Path(chosen)
    path.streams.subscribe(np.array([0]), at_ns=NOW_NS)
    stamp_ns = NOW_NS - int(before_subscription_s * SECOND_NS)
    accepted = path.full(0, exchange_ts_ns=stamp_ns, at_ns=NOW_NS + 6 * SECOND_NS)
    assert accepted.marks.is_cached.tolist() == [is_cached]


def test_without_a_stamp_only_the_first_tick_after_a_subscription_is_taken_for_a_kept_one(
    chosen: Universe,
) -> None:
    path = Path(chosen)
    seen = [path.full(0, mode=Mode.LTP).marks.is_cached.tolist() for _ in range(3)]
    path.streams.subscribe(np.array([0]), at_ns=NOW_NS)
    seen.append(path.full(0, mode=Mode.LTP).marks.is_cached.tolist())
    assert seen == [[True], [False], [False], [True]]


def test_a_tick_older_than_an_accepted_one_is_not_put_over_it(chosen: Universe) -> None:
    path = Path(chosen)
    path.full(0, exchange_ts_ns=NOW_NS)
    assert path.full(0, exchange_ts_ns=NOW_NS - SECOND_NS).rejected == {"time_back": 1}
    assert path.full(1, exchange_ts_ns=NOW_NS - SECOND_NS).rejected == {}
    assert path.full(0, exchange_ts_ns=NOW_NS).rejected == {}


def test_within_a_second_the_volume_of_the_day_tells_what_is_older(chosen: Universe) -> None:
    path = Path(chosen)
    path.full(0, exchange_ts_ns=NOW_NS, volume=500)
    assert path.full(0, exchange_ts_ns=NOW_NS, volume=499).rejected == {"time_back": 1}
    assert path.full(0, exchange_ts_ns=NOW_NS, volume=500).rejected == {}
    assert path.full(0, exchange_ts_ns=NOW_NS + SECOND_NS, volume=1).rejected == {}


def test_a_tick_overtaken_within_its_own_flush_is_rejected(chosen: Universe) -> None:
    seconds = np.array([5, 5, 3, 6, 4, 6], np.int64) * SECOND_NS + NOW_NS - 60 * SECOND_NS
    ticks = ticks_of(chosen, [0, 1, 0, 0, 0, 1], ltp=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    ticks.exchange_ts_ns[:] = seconds
    accepted = check(ticks, chosen)
    assert accepted.rejected == {"time_back": 2}
    assert accepted.ticks.ltp.tolist() == [1.0, 2.0, 4.0, 6.0]


def test_a_tick_without_a_stamp_is_never_called_late(chosen: Universe) -> None:
    path = Path(chosen)
    path.full(0, exchange_ts_ns=NOW_NS, volume=500)
    assert path.full(0, mode=Mode.LTP).rejected == {}
    assert path.full(0, mode=Mode.QUOTE, volume=400).rejected == {}
    assert path.full(0, exchange_ts_ns=NOW_NS - SECOND_NS).rejected == {"time_back": 1}


def test_a_rejected_tick_does_not_set_the_time_for_the_next(chosen: Universe) -> None:
    path = Path(chosen)
    path.full(0, ltp=-1.0, exchange_ts_ns=NOW_NS)
    assert path.full(0, exchange_ts_ns=NOW_NS - SECOND_NS).rejected == {}


def test_an_instrument_that_was_dropped_begins_anew(chosen: Universe) -> None:
    path = Path(chosen)
    path.full(0, exchange_ts_ns=NOW_NS)
    path.streams.forget(np.array([0]))
    assert path.full(0, exchange_ts_ns=NOW_NS - SECOND_NS).rejected == {}


arrivals = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=30
)


@given(arrivals, st.integers(1, 6))
def test_time_goes_back_alike_however_the_ticks_are_cut_into_flushes(
    arrived: list[tuple[int, int, int]], size: int
) -> None:
    chosen = nifty_universe([24_000.0])

    def prices(parts: list[list[int]]) -> list[float]:
        path, kept = Path(chosen), []
        for part in parts:
            ticks = ticks_of(chosen, [arrived[at][0] for at in part], ltp=[at + 1.0 for at in part])
            ticks.exchange_ts_ns[:] = [
                NOW_NS + arrived[at][1] * SECOND_NS * (arrived[at][1] > 0) - 10 * SECOND_NS
                for at in part
            ]
            ticks.volume[:] = [arrived[at][2] for at in part]
            kept += path.check(ticks).ticks.ltp.tolist()
        return kept

    places = list(range(len(arrived)))
    whole = prices([places])
    assert whole == prices([places[start : start + size] for start in places[::size]])
    newest: dict[int, tuple[int, int]] = {}
    by_hand = []
    for at, (row, second, volume) in enumerate(arrived):
        if (second, volume) >= newest.get(row, (-1, -1)):
            newest[row] = (second, volume)
            by_hand.append(at + 1.0)
    assert whole == by_hand


@pytest.mark.parametrize(
    ("columns", "doubt"),
    [
        ({"ltp": 100.05}, Doubt.NONE),
        ({"ltp": 100.02}, Doubt.OFF_PRICE_STEP),
        ({"bid_price": 99.97}, Doubt.OFF_PRICE_STEP),
        ({"ask_price": 100.01}, Doubt.OFF_PRICE_STEP),
        (
            {"bid_price": 101.0, "ask_price": 99.0, "bid_quantity": 65, "ask_quantity": 65},
            Doubt.CROSSED_DEPTH,
        ),
        (
            {"bid_price": 101.0, "ask_price": 99.0, "bid_quantity": 65, "ask_quantity": 0},
            Doubt.NONE,
        ),
        (
            {"bid_price": 100.0, "ask_price": 100.0, "bid_quantity": 65, "ask_quantity": 65},
            Doubt.NONE,
        ),
    ],
)
def test_what_markets_print_now_and_then_is_refused_or_if_wanted_published_with_a_doubt(
    chosen: Universe, columns: dict[str, float], doubt: Doubt
) -> None:
    option = int(np.flatnonzero(chosen.is_option)[0])
    ticks = ticks_of(chosen, [option], **{"ltp": 100.0, **columns})
    accepted = check(ticks, chosen)
    assert accepted.rejected == ({doubt.name.lower(): 1} if doubt else {})
    assert len(accepted.rows) == (0 if doubt else 1)
    assert accepted.doubtful.tolist() == ([option] if doubt else [])
    told = check(ticks, chosen, limits=replace(LIMITS, publishes_doubtful=True))
    assert told.rejected == {}
    assert told.marks.doubt.tolist() == [doubt]


def test_the_others_of_a_flush_keep_their_marks_when_doubtful_ticks_are_refused(
    chosen: Universe,
) -> None:
    options = np.flatnonzero(chosen.is_option)[:5].tolist()
    ticks = ticks_of(chosen, options, ltp=np.array([100.0, 100.02, 100.05, 99.98, 100.1]))
    ticks.bid_price[0, 2], ticks.ask_price[0, 2] = 101.0, 99.0
    ticks.bid_quantity[0, 2] = ticks.ask_quantity[0, 2] = 65
    accepted = check(ticks, chosen)
    assert accepted.rejected == {"crossed_depth": 1, "off_price_step": 2}
    assert {name: at.tolist() for name, at in accepted.refused.items()} == {
        "crossed_depth": [2],
        "off_price_step": [1, 3],
    }
    assert accepted.rows.tolist() == [options[0], options[4]]
    assert len(accepted.marks.doubt) == len(accepted.marks.is_cached) == len(accepted.progress) == 2
    assert accepted.rejected_by_book.sum() == 3


def test_an_index_has_no_price_step_to_be_off(chosen: Universe) -> None:
    spot = int(np.flatnonzero(chosen.price_step == 0.0)[0])
    assert check(ticks_of(chosen, [spot], ltp=24_011.37), chosen).marks.doubt.tolist() == [0]


@given(st.integers(1, 2**31 - 1))
def test_every_price_on_the_step_is_on_the_step_however_large(raw_steps: int) -> None:
    chosen = nifty_universe([24_000.0])
    option = int(np.flatnonzero(chosen.is_option)[0])
    price = raw_steps % 400_000_000 * 5 / 100
    if price > 0.0:
        assert check(ticks_of(chosen, [option], ltp=price), chosen).marks.doubt.tolist() == [0]


def test_a_row_with_several_faults_is_counted_for_the_first(chosen: Universe) -> None:
    ticks = one(chosen, ltp=-1.0, exchange_ts_ns=NOW_NS * 2)
    assert check(ticks, chosen, unwanted=(0,)).rejected == {"not_subscribed": 1}


def test_a_bad_row_leaves_its_neighbours_and_their_order(chosen: Universe) -> None:
    accepted = check(ticks_of(chosen, [2, 0, 1], ltp=[20.0, -1.0, 10.0]), chosen)
    assert accepted.rows.tolist() == [2, 1]
    assert accepted.ticks.ltp.tolist() == [20.0, 10.0]


def test_what_was_refused_is_pointed_at_in_what_was_decoded(chosen: Universe) -> None:
    ticks = ticks_of(chosen, [2, 0, 1, 3], ltp=[20.0, -1.0, 10.0, 5.0])
    ticks.instrument_token[0] = 4_242
    ticks.exchange_ts_ns[3] = NOW_NS + 3 * SECOND_NS
    refused = {reason: places.tolist() for reason, places in check(ticks, chosen).refused.items()}
    assert refused == {"unknown_token": [0], "impossible_price": [1], "future_time": [3]}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([5.0, -1.0])), max_size=30))
def test_every_tick_is_accepted_or_counted_once(drawn: list[tuple[int, float]]) -> None:
    chosen = nifty_universe([24_000.0])
    ticks = ticks_of(chosen, [row for row, _ in drawn], ltp=[price for _, price in drawn])
    accepted = check(ticks, chosen, unwanted=(1,))
    assert len(accepted.rows) + sum(accepted.rejected.values()) == len(drawn)
    assert accepted.rejected_by_book.sum() == sum(accepted.rejected.values())


def test_losses_are_counted_by_book_and_strangers_by_none() -> None:
    rows = [*nifty([24_000.0]), index(5, "NIFTY BANK")]
    rows += chain(500, "BANKNIFTY", rows[2]["expiry"].item(), [52_000.0])
    chosen = choose(rows, "NIFTY", "BANKNIFTY")
    ticks = ticks_of(chosen, [*range(len(chosen)), 0], ltp=-1.0)
    ticks.instrument_token[-1] = 4_242
    lost = check(ticks, chosen).rejected_by_book
    assert dict(zip(chosen.books, lost.tolist(), strict=True)) == {"BANKNIFTY": 3, "NIFTY": 8}


def test_no_ticks_are_plausible(chosen: Universe) -> None:
    accepted = check(Ticks.empty(0), chosen)
    assert (len(accepted.rows), accepted.rejected) == (0, {})
