"""How often each instrument speaks, and what its silence is worth."""

from __future__ import annotations

import numpy as np
import pytest
from small_exchange import NOW_NS, nifty_universe, ticks_of

from ticker_service.market.streams import Marks, Streams, progress_of

CHOSEN = nifty_universe([24_000.0])
EVERYTHING = np.arange(len(CHOSEN))
SECOND_NS = 10**9


@pytest.fixture
def streams() -> Streams:
    streams = Streams(CHOSEN)
    streams.listen(EVERYTHING)
    return streams


def tick(streams: Streams, *rows: int, is_cached: bool = False) -> None:
    places = np.array(rows, np.intp)
    marks = Marks(is_cached=np.full(len(rows), is_cached), doubt=np.zeros(len(rows), np.uint8))
    ticks = ticks_of(CHOSEN, list(rows), ltp=5.0)
    streams.take(places, ticks.received_at_ns, progress=progress_of(ticks), marks=marks)


def ratio(streams: Streams, row: int, *, age_s: float) -> float:
    received = np.array([NOW_NS - int(age_s * SECOND_NS)])
    return float(streams.standing(np.array([row]), received, now_ns=NOW_NS).staleness_ratio[0])


def live(streams: Streams, *rows: int, seconds: int) -> None:
    """Let some rows tick once a second, all being watched."""
    for _ in range(seconds):
        tick(streams, *rows)
        streams.watch(lasted_s=1.0)


def test_an_age_is_measured_in_the_instrument_s_own_usual_interval(streams: Streams) -> None:
    live(streams, 0, 1, 1, 1, 1, seconds=60)
    assert ratio(streams, 0, age_s=3.0) == pytest.approx(3.0)
    assert ratio(streams, 1, age_s=3.0) == pytest.approx(12.0)


def test_a_tick_of_now_is_not_stale(streams: Streams) -> None:
    live(streams, 0, seconds=60)
    assert ratio(streams, 0, age_s=0.0) == 0.0


def test_who_has_hardly_spoken_has_no_usual_rate(streams: Streams) -> None:
    live(streams, 0, seconds=4)
    assert np.isnan(ratio(streams, 0, age_s=3.0))
    assert np.isnan(ratio(streams, 1, age_s=3.0))


def test_the_rate_follows_a_market_that_calms_down(streams: Streams) -> None:
    live(streams, *[0] * 10, seconds=600)
    for _ in range(720):
        for _ in range(10):
            streams.watch(lasted_s=1.0)
        tick(streams, 0)
    assert ratio(streams, 0, age_s=10.0) == pytest.approx(1.0, rel=0.05)


def test_silence_grows_stale_as_long_as_it_lasts(streams: Streams) -> None:
    live(streams, 0, seconds=900)
    grown = []
    for minutes in range(1, 30):
        for _ in range(60):
            streams.watch(lasted_s=1.0)
        grown.append(ratio(streams, 0, age_s=60.0 * minutes))
    assert grown == sorted(grown)
    assert grown[-1] == pytest.approx(29 * 60.0)


def test_time_in_which_nothing_could_come_does_not_count(streams: Streams) -> None:
    live(streams, 0, seconds=60)
    streams.listen(np.array([1]))
    streams.watch(lasted_s=3_600.0)
    assert ratio(streams, 0, age_s=3.0) == pytest.approx(3.0)


def test_what_kite_had_kept_is_no_sign_of_life(streams: Streams) -> None:
    for _ in range(60):
        tick(streams, 0, is_cached=True)
        streams.watch(lasted_s=1.0)
    assert np.isnan(ratio(streams, 0, age_s=3.0))


def test_a_dropped_instrument_s_habits_are_forgotten(streams: Streams) -> None:
    live(streams, 0, seconds=60)
    streams.forget(np.array([0]))
    assert np.isnan(ratio(streams, 0, age_s=3.0))
    live(streams, 0, seconds=60)
    assert ratio(streams, 0, age_s=3.0) == pytest.approx(3.0)


def test_a_row_keeps_the_marks_of_its_latest_tick(streams: Streams) -> None:
    tick(streams, 0, is_cached=True)
    tick(streams, 1, is_cached=True)
    tick(streams, 1)
    standing = streams.standing(np.array([0, 1, 2]), np.full(3, NOW_NS), now_ns=NOW_NS)
    assert standing.marks.is_cached.tolist() == [True, False, False]
