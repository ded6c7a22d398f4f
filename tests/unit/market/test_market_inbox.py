"""The queue between feed and path: bounded, in order, and awake when there is something to do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import virtual_time
from virtual_time import LoopClock

from ticker_service.config import FlushConfig
from ticker_service.market.inbox import STATES_MAX, Inbox, Overflow
from ticker_service.ports import FeedDown, FeedText, FeedUp, Frame
from ticker_service.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.ports import FeedEvent

CONFIG = FlushConfig(
    interval_ms=20, bytes_max=1_000, backlog_bytes_max=100_000, conflate_after_ms=500
)
MS = 1_000_000
UP = FeedUp(connection=0, at_ns=1)
DOWN = FeedDown(connection=0, at_ns=1, last_frame_ns=1, reason="silent")
TEXT = FeedText(connection=0, at_ns=1, kind="message", data="closed for Diwali")


def new_inbox() -> Inbox:
    return Inbox(CONFIG, ManualClock(0))


def frame(at_ns: int, size: int = 100) -> Frame:
    return Frame(at_ns, bytes(size))


def test_what_was_put_is_taken_in_order() -> None:
    inbox = new_inbox()
    items: list[Frame | FeedEvent] = [frame(1), UP, frame(2), DOWN, frame(3)]
    for item in items:
        inbox.put_frame(item) if isinstance(item, Frame) else inbox.put_event(item)
    assert inbox.take().items == items


def test_what_was_taken_is_gone() -> None:
    inbox = new_inbox()
    inbox.put_frame(frame(1))
    inbox.take()
    assert (inbox.take().items, inbox.waiting_bytes) == ([], 0)


def test_waiting_bytes_are_those_of_the_frames() -> None:
    inbox = new_inbox()
    inbox.put_frame(frame(1, 70))
    inbox.put_frame(frame(2, 30))
    assert inbox.waiting_bytes == 100


def test_nothing_is_dropped_while_there_is_room() -> None:
    inbox = new_inbox()
    for at in range(100):
        inbox.put_frame(frame(at, 500))
    taken = inbox.take()
    assert (len(taken.items), taken.overflow) == (100, None)


def flooded() -> Inbox:
    inbox = new_inbox()
    for at in range(1, 201):
        inbox.put_frame(frame(at, 1_000))
    return inbox


def test_the_newest_frames_win_when_there_is_no_room() -> None:
    times = [item.received_at_ns for item in flooded().take().items if isinstance(item, Frame)]
    assert times == list(range(times[0], 201))
    assert 50 < len(times) < 101


def test_what_was_dropped_is_told_as_one_interval() -> None:
    taken = flooded().take()
    dropped = 200 - len(taken.items)
    assert taken.overflow == Overflow(from_ns=1, to_ns=dropped, frames=dropped)


def test_an_overflow_is_told_once() -> None:
    inbox = flooded()
    inbox.take()
    assert inbox.take().overflow is None


def test_the_backlog_never_outgrows_its_limit() -> None:
    assert flooded().waiting_bytes <= CONFIG.backlog_bytes_max


def test_a_frame_larger_than_the_whole_backlog_is_dropped_and_told() -> None:
    inbox = new_inbox()
    inbox.put_frame(frame(7, CONFIG.backlog_bytes_max + 1))
    taken = inbox.take()
    assert (taken.items, taken.overflow) == ([], Overflow(from_ns=7, to_ns=7, frames=1))


def test_connection_states_survive_an_overflow_in_their_place() -> None:
    inbox = new_inbox()
    inbox.put_event(DOWN)
    inbox.put_event(UP)
    for at in range(1, 201):
        inbox.put_frame(frame(at, 1_000))
    assert inbox.take().items[:2] == [DOWN, UP]


def test_a_connection_that_comes_and_goes_all_day_is_bounded_and_its_time_counts_as_lost() -> None:
    inbox = new_inbox()
    for at in range(10, 10 * STATES_MAX, 10):
        inbox.put_event(FeedDown(connection=0, at_ns=at, last_frame_ns=at - 5, reason="silent"))
        inbox.put_event(FeedUp(connection=0, at_ns=at + 1))
    taken = inbox.take()
    assert len(taken.items) == STATES_MAX
    assert taken.items[-1] == FeedUp(connection=0, at_ns=10 * STATES_MAX - 9)
    (first, *_) = taken.items
    assert isinstance(first, FeedUp | FeedDown)
    assert taken.overflow is not None
    assert taken.overflow.from_ns == 5
    assert first.at_ns - 10 <= taken.overflow.to_ns <= first.at_ns
    assert inbox.take().overflow is None


def test_a_frame_is_counted_when_it_is_dropped_and_not_when_redis_is_back() -> None:
    dropped: list[None] = []
    inbox = Inbox(CONFIG, ManualClock(0), on_drop=lambda: dropped.append(None))
    for at in range(1, 201):
        inbox.put_frame(frame(at, 1_000))
    before = len(dropped)
    overflow = inbox.take().overflow
    assert overflow is not None
    assert before == len(dropped) == overflow.frames > 0


@pytest.mark.parametrize("size", [0, 1, 12])
def test_frames_that_hold_next_to_nothing_are_bounded_too(size: int) -> None:
    """A frame costs memory beyond its payload; counting payloads alone let millions wait."""
    inbox = new_inbox()
    for at in range(20_000):
        inbox.put_frame(frame(at, size))
    assert len(inbox.take().items) < 2_000


def test_texts_of_the_broker_are_bounded_too() -> None:
    inbox = new_inbox()
    for _ in range(20_000):
        inbox.put_event(TEXT)
    assert len(inbox.take().items) < 2_000


def test_a_dropped_text_is_no_gap_in_the_ticks() -> None:
    inbox = new_inbox()
    for _ in range(20_000):
        inbox.put_event(TEXT)
    assert inbox.take().overflow is None


def woken_after_ms(act: Callable[[Inbox], None], *, at_ms: float, until_ms: float = 1_000) -> float:
    """Return when ``wait`` returned if ``act`` happens at ``at_ms``, an interval after the last."""

    async def scenario() -> float:
        clock = LoopClock()
        inbox = Inbox(CONFIG, clock)
        inbox.put_frame(frame(1))
        inbox.take()
        asyncio.get_running_loop().call_later(at_ms / 1_000, act, inbox)
        await inbox.wait(until_ns=int(until_ms * MS))
        return clock.monotonic_ns() / MS

    return round(virtual_time.run(scenario()), 3)


def put_small(inbox: Inbox) -> None:
    inbox.put_frame(frame(1))


def put_large(inbox: Inbox) -> None:
    inbox.put_frame(frame(1, CONFIG.bytes_max))


def put_event(inbox: Inbox) -> None:
    inbox.put_event(DOWN)


def do_nothing(_: Inbox) -> None:
    pass


@pytest.mark.parametrize(
    ("act", "at_ms", "woken_ms"),
    [
        pytest.param(put_small, 5, 20, id="a-frame-waits-for-the-interval-to-end"),
        pytest.param(put_small, 30, 31, id="a-frame-after-a-quiet-interval-waits-for-others"),
        pytest.param(put_large, 5, 5, id="a-full-batch-goes-at-once"),
        pytest.param(put_event, 5, 5, id="an-event-goes-at-once"),
        pytest.param(Inbox.hurry, 5, 5, id="a-hurry-ends-the-wait"),
        pytest.param(do_nothing, 5, 1_000, id="nothing-waits-until-the-deadline"),
    ],
)
def test_waiting_ends_when_there_is_something_to_do(
    act: Callable[[Inbox], None], at_ms: float, woken_ms: float
) -> None:
    assert woken_after_ms(act, at_ms=at_ms) == woken_ms


def test_frames_of_one_instant_over_three_sockets_go_together() -> None:
    async def scenario() -> tuple[int, float]:
        clock = LoopClock()
        inbox = Inbox(CONFIG, clock)
        inbox.put_frame(frame(1))
        inbox.take()
        for at_ms in (30.0, 30.3, 30.7):
            asyncio.get_running_loop().call_later(at_ms / 1_000, put_small, inbox)
        await inbox.wait(until_ns=1_000 * MS)
        return len(inbox.take().items), clock.monotonic_ns() / MS

    frames, at_ms = virtual_time.run(scenario())
    assert (frames, round(at_ms, 3)) == (3, 31)


@pytest.mark.parametrize(("interval_ms", "waited_ms"), [(1, 0.25), (2, 0.5), (4, 1.0), (100, 1.0)])
def test_the_wait_for_others_is_a_small_share_of_the_interval(
    interval_ms: int, waited_ms: float
) -> None:
    async def scenario() -> float:
        clock = LoopClock()
        inbox = Inbox(replace(CONFIG, interval_ms=interval_ms), clock)
        asyncio.get_running_loop().call_later(0.5, put_small, inbox)
        await inbox.wait(until_ns=1_000 * MS)
        return clock.monotonic_ns() / MS - 500.0

    assert round(virtual_time.run(scenario()), 3) == waited_ms


def test_a_deadline_before_the_interval_s_end_is_kept() -> None:
    assert woken_after_ms(put_small, at_ms=5, until_ms=12) == 12


def test_a_deadline_that_has_passed_does_not_wait() -> None:
    assert woken_after_ms(do_nothing, at_ms=5, until_ms=0) == 0


def test_taking_calms_the_hurry() -> None:
    async def scenario() -> float:
        clock = LoopClock()
        inbox = Inbox(CONFIG, clock)
        inbox.hurry()
        inbox.take()
        await inbox.wait(until_ns=50 * MS)
        return clock.monotonic_ns() / MS

    assert virtual_time.run(scenario()) == 50


def test_many_small_frames_that_fill_a_batch_go_early() -> None:
    def put_ten(inbox: Inbox) -> None:
        for _ in range(10):
            inbox.put_frame(frame(1))

    assert woken_after_ms(put_ten, at_ms=3) == 3
