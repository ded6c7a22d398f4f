"""Keep one account under the broker's order rates, in the order of asking, cancels with room left.

Goal: never more than the broker allows in any of *its* calendar seconds or minutes, which we cannot
see. A window that slides over our own monotonic clock holds for every calendar window, whatever its
phase; what the network adds (sends that leave in one second and arrive in the next) is covered by
making each window ``jitter_ms`` longer than its name says. Place and modify share a lane that is
capped below the total, so a cancel finds room however busy that lane is.

Ask last, right before the write: a place in a window is taken when it is given, not when the bytes
leave. What was taken stays taken, even if the caller is cancelled afterwards.

Source: kite.md §4; invariant I10.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from ticker_service.runtime.clock import Clock

Lane = Literal["place", "cancel"]
"""``place`` is for new orders and changes, ``cancel`` for what only takes risk away."""

BROKER_PER_SECOND: Final = 10
BROKER_PER_MINUTE: Final = 400
"""Kite's limits of one client account, place, modify and cancel together (kite.md §4)."""

NAP_S_MIN: Final = 0.001
MINUTE_NS: Final = 60 * NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceRules:
    """How many sends are allowed in how long.

    ``place_*`` bound the place lane, ``total_*`` both lanes together; their difference is the room
    that only cancels can use. Windows are ``jitter_ms`` longer than a second and a minute.
    ``cooldown_s`` is how long :meth:`Pacer.cool_down` holds everything
    back, ``waiting_max`` how many may wait in one lane.

    Raises:
        ConfigurationError: The numbers contradict each other.
    """

    place_per_s: int = 8
    total_per_s: int = BROKER_PER_SECOND
    place_per_minute: int = 360
    total_per_minute: int = BROKER_PER_MINUTE
    jitter_ms: int = 50
    cooldown_s: float = 10.0
    waiting_max: int = 200

    def __post_init__(self) -> None:
        """Check that every lane has room, and cancels room of their own."""
        if not 0 < self.place_per_s < self.total_per_s:
            raise ConfigurationError(
                f"Condition failed: place_per_s={self.place_per_s} must be positive and below "
                f"total_per_s={self.total_per_s}: the difference is for cancels"
            )
        if not 0 < self.place_per_minute < self.total_per_minute:
            raise ConfigurationError(
                f"Condition failed: place_per_minute={self.place_per_minute} must be positive and "
                f"below total_per_minute={self.total_per_minute}: the difference is for cancels"
            )
        if self.jitter_ms < 0 or self.cooldown_s < 0 or self.waiting_max < 1:
            raise ConfigurationError(f"Condition failed: a number is negative or zero: {self}")


class Pacer:
    """One account's order rate; belongs to one event loop."""

    def __init__(self, rules: PaceRules, clock: Clock) -> None:
        # Both lanes' windows have the same length: were the place lane's shorter, two of its bursts
        # could meet in one of the total's and leave a cancel no room.
        second_ns = NS_PER_S + rules.jitter_ms * NS_PER_MS
        minute_ns = MINUTE_NS + rules.jitter_ms * NS_PER_MS
        self._rules = rules
        self._clock = clock
        place = (
            _Window(rules.place_per_s, second_ns),
            _Window(rules.place_per_minute, minute_ns),
        )
        total = (
            _Window(rules.total_per_s, second_ns),
            _Window(rules.total_per_minute, minute_ns),
        )
        self._windows: dict[Lane, tuple[_Window, ...]] = {
            "place": (*place, *total),
            "cancel": total,
        }
        self._queues: dict[Lane, deque[asyncio.Event]] = {"place": deque(), "cancel": deque()}
        self._held_until_ns = 0
        self.refused_count = 0

    def waiting(self, lane: Lane) -> int:
        """Return how many wait in a lane."""
        return len(self._queues[lane])

    def free_at_ns(self, lane: Lane) -> int:
        """Return the monotonic instant from which a lane's windows have room."""
        return max(self._held_until_ns, *(window.free_at_ns() for window in self._windows[lane]))

    def cool_down(self) -> None:
        """Hold both lanes back: the broker said 429 and refuses everything for a while."""
        until_ns = self._clock.monotonic_ns() + round(self._rules.cooldown_s * NS_PER_S)
        self._held_until_ns = max(self._held_until_ns, until_ns)

    def try_admit(self, lane: Lane) -> bool:
        """Take a place now if there is one and nobody waits for it."""
        if self._queues[lane] or not self._take(lane):
            self.refused_count += 1
            return False
        return True

    async def admit(self, lane: Lane, *, deadline_ns: int) -> bool:
        """Take a place, waiting for it in the order of asking.

        Args:
            lane: What is to be sent.
            deadline_ns: Monotonic instant after which the answer is no.

        Returns:
            True when the caller is to send now; False when the deadline would pass first, or too
            many wait already: nothing may be sent.
        """
        queue = self._queues[lane]
        if self._clock.monotonic_ns() >= deadline_ns:
            self.refused_count += 1
            return False
        if not queue and self._take(lane):
            return True
        if len(queue) >= self._rules.waiting_max or self.free_at_ns(lane) > deadline_ns:
            self.refused_count += 1
            return False
        is_taken = await self._wait_in(queue, lane, deadline_ns)
        self.refused_count += not is_taken
        return is_taken

    async def _wait_in(self, queue: deque[asyncio.Event], lane: Lane, deadline_ns: int) -> bool:
        turn = asyncio.Event()
        queue.append(turn)
        if queue[0] is turn:
            turn.set()
        try:
            async with asyncio.timeout(self._seconds_to(deadline_ns)):
                await turn.wait()
                return await self._take_as_first(lane, deadline_ns)
        except TimeoutError:
            return False
        finally:
            # Whoever leaves, served, late or cancelled, calls the next one up.
            was_first = queue[0] is turn
            queue.remove(turn)
            if was_first and queue:
                queue[0].set()

    async def _take_as_first(self, lane: Lane, deadline_ns: int) -> bool:
        while not self._take(lane):
            free_at_ns = self.free_at_ns(lane)
            if free_at_ns > deadline_ns:
                return False
            await asyncio.sleep(max(self._seconds_to(free_at_ns), NAP_S_MIN))
        # No await between taking and returning: a place is never taken by nobody.
        return True

    def _take(self, lane: Lane) -> bool:
        now_ns = self._clock.monotonic_ns()
        if now_ns < self.free_at_ns(lane) or (lane == "place" and self._queues["cancel"]):
            return False
        for window in self._windows[lane]:
            window.take(now_ns)
        return True

    def _seconds_to(self, instant_ns: int) -> float:
        return (instant_ns - self._clock.monotonic_ns()) / NS_PER_S


class _Window:
    """The instants of the last ``count_max`` sends; that many fit any stretch of ``length_ns``."""

    def __init__(self, count_max: int, length_ns: int) -> None:
        self._taken_ns: deque[int] = deque(maxlen=count_max)
        self._length_ns = length_ns

    def free_at_ns(self) -> int:
        if len(self._taken_ns) < (self._taken_ns.maxlen or 0):
            return 0
        return self._taken_ns[0] + self._length_ns + 1

    def take(self, now_ns: int) -> None:
        self._taken_ns.append(now_ns)
