"""Ticks that cannot be true are dropped for their first reason and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from small_exchange import (
    NOW_NS,
    chain,
    choose,
    index,
    nifty,
    nifty_universe,
    ticks_of,
)

from ticker_service.domain.tick import Mode, Ticks
from ticker_service.market import validate

if TYPE_CHECKING:
    from ticker_service.domain.universe import Universe
    from ticker_service.market.validate import Plausible

TWO_S = 2 * 10**9


@pytest.fixture(scope="module")
def chosen() -> Universe:
    return nifty_universe([24_000.0])


def check(ticks: Ticks, chosen: Universe, *, unwanted: tuple[int, ...] = ()) -> Plausible:
    wanted = np.ones(len(chosen), np.bool_)
    wanted[list(unwanted)] = False
    return validate.plausible(ticks, chosen, wanted=wanted)


def one(chosen: Universe, **columns: object) -> Ticks:
    return ticks_of(chosen, [0], **{"ltp": 100.0, **columns})


def test_a_plausible_tick_goes_on_with_its_universe_row(chosen: Universe) -> None:
    accepted = check(ticks_of(chosen, [3, 1], ltp=[10.0, 20.0]), chosen)
    assert accepted.rows.tolist() == [3, 1]
    assert dict(accepted.rejected) == {}


def test_a_token_that_is_not_in_the_universe_is_unknown(chosen: Universe) -> None:
    ticks = one(chosen)
    ticks.instrument_token[:] = 4_242
    assert dict(check(ticks, chosen).rejected) == {"unknown_token": 1}


def test_a_tick_under_way_when_its_instrument_was_dropped_is_not_subscribed(
    chosen: Universe,
) -> None:
    assert dict(check(one(chosen), chosen, unwanted=(0,)).rejected) == {"not_subscribed": 1}


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"ltp": -1.0}, id="negative-ltp"),
        pytest.param({"ltp": 0.0}, id="zero-ltp"),
        pytest.param({"ltp": np.nan, "mode": Mode.LTP}, id="no-ltp-in-ltp-mode"),
        pytest.param({"ltp": np.nan, "mode": Mode.QUOTE}, id="no-ltp-in-quote-mode"),
        pytest.param({"bid_price": -0.05}, id="negative-bid"),
        pytest.param({"ask_price": 0.0}, id="free-ask"),
        pytest.param({"high": 99.0, "low": 101.0}, id="high-below-low"),
    ],
)
def test_a_price_no_market_prints_is_impossible(
    chosen: Universe, columns: dict[str, float]
) -> None:
    assert dict(check(one(chosen, **columns), chosen).rejected) == {"impossible_price": 1}


def test_a_bad_price_deep_in_the_book_is_impossible_too(chosen: Universe) -> None:
    ticks = one(chosen)
    ticks.ask_price[4] = -1.0
    assert dict(check(ticks, chosen).rejected) == {"impossible_price": 1}


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"ltp": np.nan}, id="never-traded-but-quoted"),
        pytest.param({"bid_price": 99.0, "ask_price": 101.0}, id="quoted"),
        pytest.param({"bid_price": 101.0, "ask_price": 99.0}, id="crossed"),
        pytest.param({"high": 101.0, "low": 101.0}, id="one-price-day"),
        pytest.param({"high": np.nan, "low": np.nan}, id="no-range"),
        pytest.param({"exchange_ts_ns": NOW_NS + TWO_S}, id="clock-two-seconds-ahead"),
        pytest.param({"exchange_ts_ns": 0}, id="no-time"),
    ],
)
def test_what_a_market_may_print_goes_on(chosen: Universe, columns: dict[str, float]) -> None:
    assert dict(check(one(chosen, **columns), chosen).rejected) == {}


def test_a_time_that_has_not_come_is_refused(chosen: Universe) -> None:
    ticks = one(chosen, exchange_ts_ns=NOW_NS + TWO_S + 1)
    assert dict(check(ticks, chosen).rejected) == {"future_time": 1}


def test_a_row_with_several_faults_is_counted_for_the_first(chosen: Universe) -> None:
    ticks = one(chosen, ltp=-1.0, exchange_ts_ns=NOW_NS * 2)
    assert dict(check(ticks, chosen, unwanted=(0,)).rejected) == {"not_subscribed": 1}


def test_a_bad_row_leaves_its_neighbours_and_their_order(chosen: Universe) -> None:
    accepted = check(ticks_of(chosen, [2, 0, 1], ltp=[20.0, -1.0, 10.0]), chosen)
    assert accepted.rows.tolist() == [2, 1]
    assert accepted.ticks.ltp.tolist() == [20.0, 10.0]


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
    assert (len(accepted.rows), dict(accepted.rejected)) == (0, {})
