"""What the feed has received and the path has not yet taken.

Bounded in bytes, DROP_OLDEST: when the path stands still the newest frames win, and what was lost
is told as one interval, so that a gap can be announced. Texts of the broker go like frames, but
are no gap. Connection states stay, being few; of a connection that comes and goes all day the
oldest make room, and their time counts as lost. Everything stays in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.ports import FeedDown, FeedText, FeedUp, Frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.config import FlushConfig
    from ticker_service.ports import FeedEvent
    from ticker_service.runtime.clock import Clock

FRAME_OVERHEAD_BYTES: Final = 160
"""Memory of a waiting frame beyond its payload: without it, small frames would be a loophole."""
TEXT_BYTES: Final = 4_096
"""What a text is taken to hold; an order update as a parsed object is about so large."""
GATHER_NS_MAX: Final = NS_PER_MS
"""How long a frame that finds nobody waiting waits for those of the other sockets. What the
exchange sends at one instant comes over three of them within less; a flush for each frame would
cost three times as much, and the later two would wait for a whole interval."""
GATHER_SHARE_MAX: Final = 4
"""Of a short interval, no more than a fourth."""
STATES_MAX: Final = 1_000
"""Connection states that wait, more than an hour of the fastest reconnecting brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overflow:
    """Frames that were dropped unread, and the receive times they span (ns since the epoch)."""

    from_ns: int
    to_ns: int
    frames: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Everything that waited, in order, and what had to be dropped before it."""

    items: list[Frame | FeedEvent]
    overflow: Overflow | None


class Inbox:
    """The queue between the feed's tasks and the path's task; one event loop, one consumer."""

    def __init__(
        self, config: FlushConfig, clock: Clock, *, on_drop: Callable[[], None] = lambda: None
    ) -> None:
        """Take the limits, and whom to tell of each frame in the moment in which it is dropped."""
        self._config = config
        self._on_drop = on_drop
        self._clock = clock
        self._items: deque[Frame | FeedEvent] = deque()
        self._bytes = 0
        self._memory_bytes = 0
        self._states = 0
        interval_ns = config.interval_ms * NS_PER_MS
        self._gather_ns = min(GATHER_NS_MAX, interval_ns // GATHER_SHARE_MAX)
        self._taken_at_ns = clock.monotonic_ns() - config.interval_ms * NS_PER_MS
        self.last_frame_ns = 0
        """When the last frame was received, taken or not; ns since the Unix epoch."""
        self._overflow: Overflow | None = None
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """Size of the frames that wait."""
        return self._bytes

    def put_frame(self, frame: Frame) -> None:
        """Take a frame, dropping the oldest ones if it would not fit."""
        self.last_frame_ns = frame.received_at_ns
        self._append(frame)
        self._bytes += len(frame.payload)
        self._make_room()
        if self._bytes >= self._config.bytes_max:
            self._urgent.set()

    def put_event(self, event: FeedEvent) -> None:
        """Take an event; it never waits for a batch to fill."""
        self._append(event)
        if isinstance(event, FeedUp | FeedDown):
            self._states += 1
            if self._states > STATES_MAX:
                self._drop_oldest_state()
        self._make_room()
        self._urgent.set()

    def hurry(self) -> None:
        """End the present wait, whatever is there."""
        self._arrived.set()
        self._urgent.set()

    async def wait(self, *, until_ns: int) -> None:
        """Return when what waits should be flushed, at the latest at a monotonic instant.

        Flushes lie at least an interval apart: the first frame after a quiet interval goes on in
        a moment, with its neighbours, the next ones together when the interval is over. So no
        frame waits longer than an interval, and a busy feed still makes full batches.
        """
        flush_at_ns = self._taken_at_ns + self._config.interval_ms * NS_PER_MS
        if not self._items:
            await self._wait_for(self._arrived, until_ns)
            flush_at_ns = max(flush_at_ns, self._clock.monotonic_ns() + self._gather_ns)
        if self._items:
            await self._wait_for(self._urgent, min(until_ns, flush_at_ns))

    def take(self) -> Taken:
        """Empty the inbox."""
        taken = Taken(list(self._items), self._overflow)
        if self._items:
            self._taken_at_ns = self._clock.monotonic_ns()
        self._items.clear()
        self._bytes = self._memory_bytes = self._states = 0
        self._overflow = None
        self._arrived.clear()
        self._urgent.clear()
        return taken

    def _append(self, item: Frame | FeedEvent) -> None:
        self._items.append(item)
        self._memory_bytes += _memory_bytes(item)
        self._arrived.set()

    def _make_room(self) -> None:
        while self._memory_bytes > self._config.backlog_bytes_max and self._drop_oldest():
            pass

    def _drop_oldest(self) -> bool:
        """Drop the oldest frame or text, keeping connection states: nothing replaces them."""
        for place, item in enumerate(self._items):
            if isinstance(item, Frame | FeedText):
                del self._items[place]
                self._memory_bytes -= _memory_bytes(item)
                if isinstance(item, Frame):
                    self._bytes -= len(item.payload)
                    self._note_lost(item.received_at_ns, item.received_at_ns, frames=1)
                    self._on_drop()
                return True
        return False

    def _drop_oldest_state(self) -> None:
        """Drop a state that a later one of its connection replaces; what was between is lost."""
        for place, item in enumerate(self._items):
            if isinstance(item, FeedUp | FeedDown):
                del self._items[place]
                self._states -= 1
                since_ns = item.last_frame_ns if isinstance(item, FeedDown) else item.at_ns
                self._note_lost(since_ns, item.at_ns, frames=0)
                return

    def _note_lost(self, from_ns: int, to_ns: int, *, frames: int) -> None:
        lost = self._overflow
        self._overflow = Overflow(
            from_ns=min(lost.from_ns, from_ns) if lost else from_ns,
            to_ns=max(lost.to_ns, to_ns) if lost else to_ns,
            frames=lost.frames + frames if lost else frames,
        )

    async def _wait_for(self, event: asyncio.Event, until_ns: int) -> None:
        delay_s = (until_ns - self._clock.monotonic_ns()) / NS_PER_S
        if event.is_set() or delay_s <= 0.0:
            return
        try:
            async with asyncio.timeout(delay_s):
                await event.wait()
        except TimeoutError:
            return


def _memory_bytes(item: Frame | FeedEvent) -> int:
    """Return what an item counts against the backlog."""
    if isinstance(item, Frame):
        return len(item.payload) + FRAME_OVERHEAD_BYTES
    return TEXT_BYTES if isinstance(item, FeedText) else 0
