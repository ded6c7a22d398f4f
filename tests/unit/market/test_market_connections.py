"""When the silence of a connection means that its data is lost."""

from __future__ import annotations

import numpy as np
import pytest
from small_exchange import NOW_NS, nifty_universe, ticks_of

from ticker_service.market.connections import (
    SILENT_S_MAX,
    SILENT_S_MIN,
    Connection,
    Connections,
    FeedState,
)
from ticker_service.market.streams import Marks, Streams, progress_of

CHOSEN = nifty_universe([24_000.0, 24_100.0])
SPOT = CHOSEN.spot_row[0]
OPTIONS = np.flatnonzero(CHOSEN.is_option)
EVERYTHING = np.arange(len(CHOSEN))
SECOND_NS = 10**9
ALL_OPEN = np.ones(len(CHOSEN), np.bool_)


class Scene:
    """Connections that came up at ``NOW_NS``, and streams that can be made to speak."""

    def __init__(self, rows: np.ndarray = EVERYTHING) -> None:
        self.streams = Streams(CHOSEN)
        self.streams.listen(EVERYTHING)
        self.connections = Connections(CHOSEN)
        self.connections.carry(rows, [0] * len(rows))
        self.connections.replace(0, Connection(state=FeedState.UP, up_ns=NOW_NS))

    def speak(self, rows: np.ndarray, at_ns: int, *, is_cached: bool = False) -> None:
        ticks = ticks_of(CHOSEN, rows.tolist(), ltp=5.0, at_ns=at_ns)
        marks = Marks(is_cached=np.full(len(rows), is_cached), doubt=np.zeros(len(rows), np.uint8))
        self.streams.take(rows, ticks.received_at_ns, progress=progress_of(ticks), marks=marks)

    def live(self, rows: np.ndarray, seconds: int) -> int:
        """Let rows tick once a second from ``NOW_NS`` on; return when the last did."""
        for second in range(seconds):
            self.speak(rows, NOW_NS + second * SECOND_NS)
            self.streams.watch(lasted_s=1.0)
        return NOW_NS + (seconds - 1) * SECOND_NS

    def is_silent(
        self, after_s: float, *, since_ns: int = NOW_NS, is_open: np.ndarray = ALL_OPEN
    ) -> bool:
        return bool(
            self.connections.silences(
                self.streams, is_open, opened_ns=0, now_ns=since_ns + int(after_s * SECOND_NS)
            )
        )


def test_a_busy_basket_is_missed_after_seconds() -> None:
    scene = Scene()
    last_ns = scene.live(OPTIONS, 60)
    assert not scene.is_silent(SILENT_S_MIN - 0.1, since_ns=last_ns)
    assert scene.is_silent(SILENT_S_MIN + 0.1, since_ns=last_ns)


def test_a_single_instrument_is_missed_after_twenty_of_its_usual_intervals() -> None:
    scene = Scene(OPTIONS[:1])
    last_ns = scene.live(OPTIONS[:1], 60)
    assert not scene.is_silent(19.5, since_ns=last_ns)
    assert scene.is_silent(20.5, since_ns=last_ns)


def test_who_hardly_ever_speaks_is_not_missed() -> None:
    scene = Scene(OPTIONS[:1])
    scene.speak(OPTIONS[:1], NOW_NS)
    assert not scene.is_silent(10 * SILENT_S_MAX)


def test_an_underlying_is_taken_to_speak_even_before_it_has() -> None:
    scene = Scene(np.array([SPOT]))
    assert not scene.is_silent(39.0)
    assert scene.is_silent(41.0)


def test_what_kite_had_kept_ends_no_silence() -> None:
    scene = Scene()
    last_ns = scene.live(OPTIONS, 60)
    scene.speak(OPTIONS, last_ns + 5 * SECOND_NS, is_cached=True)
    assert scene.is_silent(SILENT_S_MIN + 0.1, since_ns=last_ns)


def test_nothing_is_missed_of_a_closed_market() -> None:
    scene = Scene()
    last_ns = scene.live(OPTIONS, 60)
    is_open = np.zeros(len(CHOSEN), np.bool_)
    assert not scene.is_silent(3_600.0, since_ns=last_ns, is_open=is_open)
    assert scene.connections.expects_nothing(0, is_open)


def test_a_market_that_has_just_opened_is_given_its_time() -> None:
    scene = Scene()
    last_ns = scene.live(OPTIONS, 60)
    opened_ns = last_ns + 18 * 3_600 * SECOND_NS
    for after_s, expected in ((SILENT_S_MIN - 0.1, []), (SILENT_S_MIN + 0.1, [opened_ns])):
        silences = scene.connections.silences(
            scene.streams,
            ALL_OPEN,
            opened_ns=opened_ns,
            now_ns=opened_ns + int(after_s * SECOND_NS),
        )
        assert [silence.since_ns for silence in silences] == expected


@pytest.mark.parametrize("state", [FeedState.DOWN, FeedState.SILENT, FeedState.LOGIN_REQUIRED])
def test_only_a_connection_that_is_up_falls_silent(state: FeedState) -> None:
    scene = Scene()
    last_ns = scene.live(OPTIONS, 60)
    scene.connections.of(0).state = state
    assert not scene.is_silent(3_600.0, since_ns=last_ns)


def test_each_connection_is_judged_by_what_it_carries_itself() -> None:
    scene = Scene()
    half = len(EVERYTHING) // 2
    numbers = [0] * half + [1] * (len(EVERYTHING) - half)
    scene.connections.carry(EVERYTHING, numbers)
    scene.connections.replace(1, Connection(state=FeedState.UP, up_ns=NOW_NS))
    last_ns = scene.live(EVERYTHING, 60)
    scene.speak(EVERYTHING[:half], last_ns + 9 * SECOND_NS)
    silences = scene.connections.silences(
        scene.streams, ALL_OPEN, opened_ns=0, now_ns=last_ns + 10 * SECOND_NS
    )
    assert [(one.connection, one.since_ns) for one in silences] == [(1, last_ns)]


def test_the_worst_connection_speaks_for_a_book() -> None:
    scene = Scene()
    numbers = [place % 2 for place in range(len(EVERYTHING))]
    scene.connections.carry(EVERYTHING, numbers)
    scene.connections.replace(1, Connection(state=FeedState.SILENT))
    assert scene.connections.worst(0) is FeedState.SILENT
    scene.connections.carry(EVERYTHING, [0] * len(EVERYTHING))
    assert scene.connections.worst(0) is FeedState.UP
