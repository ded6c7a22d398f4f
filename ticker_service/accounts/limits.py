"""Keep one account under the broker's order limits, in the order of asking, cancels with room left.

Goal: never more than the broker allows in any of *its* calendar seconds or minutes, which we cannot
see. A window that slides over our own monotonic clock holds for every calendar window, whatever its
phase; what the network adds (sends that leave in one second and arrive in the next) is covered by
making each window ``jitter_ms`` longer than its name says. Place and modify share a lane that is
capped below the total, so a cancel finds room however busy that lane is.

Ask last, right before the write: a place in a window is taken when it is given, not when the bytes
leave. What was taken stays taken, even if the caller is cancelled afterwards.

What was sent before a restart counts: `OrderLimits` reads it from the journal.

The numbers are `domain.limit`'s. Source: kite.md §4; invariant I10.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.limit import LimitName, limits_of
from ticker_service.domain.order import TaskKind
from ticker_service.domain.rulebook import NEWEST, RuleName
from ticker_service.domain.session import day_start_ns, ist_date
from ticker_service.errors import ConfigurationError, OrderRefused

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Callable

    from ticker_service.domain.limit import Limit, Limits
    from ticker_service.domain.order import Account
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

Lane = Literal["place", "exit", "cancel"]
"""``place`` is for new orders and changes, ``exit`` for those of an exit, ``cancel`` for cancels.

An exit's share the windows of ``place`` and are served before it: however many orders wait, the
next turn is theirs.
"""

_BEFORE: Final[dict[Lane, tuple[Lane, ...]]] = {
    "place": ("exit", "cancel"),
    "exit": ("cancel",),
    "cancel": (),
}
"""Who goes first while he waits."""
JITTER_MS: Final = 50
"""By so much windows are longer than they are called: the network brings sends closer together."""
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
    total_per_s: int = 10
    place_per_minute: int = 360
    total_per_minute: int = 400
    jitter_ms: int = JITTER_MS
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

    @classmethod
    def of(cls, limits: Limits, *, cooldown_s: float = 10.0) -> Self:
        """Return the rules that a table of limits comes to."""
        second = limits[LimitName.ORDERS_PER_SECOND]
        minute = limits[LimitName.ORDERS_PER_MINUTE]
        return cls(
            place_per_s=second.open,
            total_per_s=second.at_most,
            place_per_minute=minute.open,
            total_per_minute=minute.at_most,
            cooldown_s=cooldown_s,
        )


class Pacer:
    """One account's order rate; belongs to one event loop."""

    def __init__(self, rules: PaceRules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._windows = _windows(rules)
        self._queues: dict[Lane, deque[asyncio.Event]] = {
            "place": deque(),
            "exit": deque(),
            "cancel": deque(),
        }
        self._held_until_ns = 0
        self.refused_count = 0

    def waiting(self, lane: Lane) -> int:
        """Return how many wait in a lane."""
        return len(self._queues[lane])

    def free_at_ns(self, lane: Lane) -> int:
        """Return the monotonic instant from which a lane's windows have room."""
        return max(self._held_until_ns, *(window.free_at_ns() for window in self._windows[lane]))

    def in_force(self, lane: Lane) -> str:
        """Return what holds a lane back now, with its number and for how long; for people."""
        tightest = max(self._windows[lane], key=_Window.free_at_ns)
        free_at_ns = self.free_at_ns(lane)
        room_in_s = max(self._seconds_to(free_at_ns), 0.0)
        if free_at_ns > tightest.free_at_ns():
            return f"the broker said 429 and is left alone for another {room_in_s:.1f} s"
        if not room_in_s:
            return f"{len(self._queues[lane])} sends wait for their turn before it"
        return f"the limit {tightest.name} is reached, with room in {room_in_s:.1f} s"

    def newest_ns(self) -> int | None:
        """Return when the newest turn was given, by the monotonic clock; None for never."""
        return self._windows["cancel"][0].newest_ns()

    def remember(self, lane: Lane, sent_ns: int) -> None:
        """Count a send of before; they are told of in their order, before any is admitted.

        Args:
            lane: What was sent.
            sent_ns: When, by the monotonic clock.
        """
        for window in self._windows[lane]:
            window.take(sent_ns)

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
        if now_ns < self.free_at_ns(lane) or any(self._queues[before] for before in _BEFORE[lane]):
            return False
        for window in self._windows[lane]:
            window.take(now_ns)
        return True

    def _seconds_to(self, instant_ns: int) -> float:
        return (instant_ns - self._clock.monotonic_ns()) / NS_PER_S


def _windows(rules: PaceRules) -> dict[Lane, tuple[_Window, ...]]:
    """Return the windows of each lane; those of the total are shared."""
    # Both lanes' windows have the same length: were the place lane's shorter, two of its bursts
    # could meet in one of the total's and leave a cancel no room.
    second_ns = NS_PER_S + rules.jitter_ms * NS_PER_MS
    minute_ns = MINUTE_NS + rules.jitter_ms * NS_PER_MS
    second, minute = LimitName.ORDERS_PER_SECOND, LimitName.ORDERS_PER_MINUTE
    place = (
        _Window(rules.place_per_s, second_ns, f"{second}={rules.place_per_s} (without cancels)"),
        _Window(
            rules.place_per_minute,
            minute_ns,
            f"{minute}={rules.place_per_minute} (without cancels)",
        ),
    )
    total = (
        _Window(rules.total_per_s, second_ns, f"{second}={rules.total_per_s}"),
        _Window(rules.total_per_minute, minute_ns, f"{minute}={rules.total_per_minute}"),
    )
    return {"place": (*place, *total), "exit": (*place, *total), "cancel": total}


class _Window:
    """The instants of the last ``count_max`` sends; that many fit any stretch of ``length_ns``."""

    def __init__(self, count_max: int, length_ns: int, name: str) -> None:
        self.name = name
        self._taken_ns: deque[int] = deque(maxlen=count_max)
        self._length_ns = length_ns

    def free_at_ns(self) -> int:
        if len(self._taken_ns) < (self._taken_ns.maxlen or 0):
            return 0
        return self._taken_ns[0] + self._length_ns + 1

    def take(self, now_ns: int) -> None:
        self._taken_ns.append(now_ns)

    def newest_ns(self) -> int | None:
        return self._taken_ns[-1] if self._taken_ns else None


class Departures:
    """One account's order rate where it counts, before a send's first byte. Port ``SendGate``.

    A turn of the :class:`Pacer` is used up later than it was given, by however long the commit of
    the intent, a thread, or a connection took; a database that stood still lets go of many at once.
    So what leaves is counted again, on the thread that sends, and may wait a moment more. Usually
    there is room: turns were given at the same rate.

    Thread/Task: any thread may call.
    """

    def __init__(self, rules: PaceRules, clock: Clock) -> None:
        self._windows = _windows(rules)
        self._clock = clock
        self._lock = threading.Lock()
        self._never = threading.Event()

    def turn(
        self, kind: TaskKind, *, leave_by_ns: int, may_leave: Callable[[], bool] | None = None
    ) -> bool:
        """Wait for room and take it; see ``SendGate``."""
        lane: Lane = "cancel" if kind is TaskKind.CANCEL else "place"
        while may_leave is None or may_leave():
            with self._lock:
                now_ns = self._clock.monotonic_ns()
                free_at_ns = max(window.free_at_ns() for window in self._windows[lane])
                if free_at_ns <= now_ns:
                    for window in self._windows[lane]:
                        window.take(now_ns)
                    return True
            if free_at_ns > leave_by_ns:
                return False
            # Not the clock's own wait: a thread has none, and looks again at the clock afterwards.
            self._never.wait(max((free_at_ns - now_ns) / NS_PER_S, NAP_S_MIN))
        return False

    def newest_ns(self) -> int | None:
        """Return when the newest send left, as :meth:`Pacer.newest_ns`."""
        with self._lock:
            return self._windows["cancel"][0].newest_ns()

    def remember(self, lane: Lane, sent_ns: int) -> None:
        """Count a send of before, as :meth:`Pacer.remember`."""
        with self._lock:
            for window in self._windows[lane]:
                window.take(sent_ns)


class OrderLimits:
    """All limits on one account's orders: its rate, its day, and the changes of each order.

    Belongs to one event loop. What was sent before it began is the journal's to tell
    (:meth:`restore`), so that a restart gives no order twice the room.
    """

    def __init__(
        self,
        account: Account,
        clock: Clock,
        limits: Limits | None = None,
        *,
        cooldown_s: float = 10.0,
    ) -> None:
        """Begin with nothing sent.

        Args:
            account: Whose.
            clock: Both readings of it.
            limits: The table; the broker's own numbers if not given.
            cooldown_s: How long nothing is sent after the broker said 429.
        """
        limits = limits_of() if limits is None else limits
        rules = PaceRules.of(limits, cooldown_s=cooldown_s)
        self.pacer = Pacer(rules, clock)
        self.departures = Departures(rules, clock)
        self.placed_elsewhere: Callable[[], int] = _none
        """How many of the day's orders other apps have placed, as far as the book shows."""
        self._account = account
        self._clock = clock
        self._day = limits[LimitName.ORDERS_PER_DAY]
        self._changes = limits[LimitName.MODIFICATIONS_PER_ORDER]
        self._placed: dict[dt.date, int] = {}

    async def restore(self, journal: OrderJournal) -> None:
        """Count what the journal says was sent today, and what in the last minute.

        What this process sent before it lost the account for a moment is counted already.

        Raises:
            JournalUnavailable: Nothing may be sent before it has been read.
        """
        now_ns = self._clock.now_ns()
        today = ist_date(now_ns)
        self._placed = {today: await journal.placed_since(self._account, day_start_ns(today))}
        counters: tuple[Pacer | Departures, ...] = (self.pacer, self.departures)
        newest_ns = [counter.newest_ns() for counter in counters]
        for sent in await journal.sends_since(self._account, now_ns - MINUTE_NS - NS_PER_S):
            # One from the future is of a clock that was set back; it left now at the latest.
            age_ns = max(now_ns - sent.at_ns, 0)
            lane: Lane = "cancel" if sent.kind is TaskKind.CANCEL else "place"
            sent_ns = self._clock.monotonic_ns() - age_ns
            for counter, counted_ns in zip(counters, newest_ns, strict=True):
                if counted_ns is None or sent_ns > counted_ns:
                    counter.remember(lane, sent_ns)

    @property
    def placed_today(self) -> int:
        """How many new orders of the day the broker may have counted, ours and others'."""
        return self._placed.get(ist_date(self._clock.now_ns()), 0) + self.placed_elsewhere()

    @property
    def placed_max(self) -> int:
        """How many there may be before the rest is kept for exits."""
        return self._day.open

    def take_order_of_day(
        self, *, is_exit: bool = False, legs: int = 1
    ) -> Callable[[], None] | None:
        """Count one new order; return how to uncount it, or None when the day has no room.

        Args:
            is_exit: It strictly reduces a position: what is kept free is for it.
            legs: As so many orders the broker counts it; the first is counted here, the others
                when the book shows them.
        """
        today = ist_date(self._clock.now_ns())
        if self.day_refusal(is_exit=is_exit, legs=legs) is not None:
            return None
        # Yesterday's number is kept: the clock may be set back over midnight.
        self._placed = dict(sorted(self._placed.items())[-1:]) | {
            today: self._placed.get(today, 0) + 1
        }

        def uncount() -> None:
            if today in self._placed:
                self._placed[today] -= 1

        return uncount

    def day_refusal(self, *, is_exit: bool = False, legs: int = 1) -> OrderRefused | None:
        """Return what a new order is told when the day has no room, None when it has."""
        room = (self._day.at_most if is_exit else self._day.open) - self.placed_today
        if room >= legs:
            return None
        return OrderRefused("ORDER_LIMIT", self.day_is_full, field="account", value=self._account)

    @property
    def day_is_full(self) -> str:
        """Why no new order is taken today; for people."""
        return (
            f"{_named(self._day)} is reached for account {self._account}: "
            f"{self.placed_today} placed today; {self._day.reserve} are kept for exits; "
            "try again after midnight IST"
        )

    async def changes_refusal(
        self, target_task_id: uuid.UUID | None, journal: OrderJournal
    ) -> OrderRefused | None:
        """Return why an order takes no more changes, None if it does; raises as the journal."""
        if target_task_id is None:
            return None
        sent = await journal.changes_sent(target_task_id)
        if sent < self._changes.open:
            return None
        rule = (
            f"{_named(self._changes)} is reached for this order of account {self._account}: "
            f"{sent} changes were sent; no time helps, cancel it and place a new one"
        )
        return OrderRefused("MODIFICATION_LIMIT", rule, field="client_order_id")


def _named(limit: Limit) -> str:
    whose = NEWEST[RuleName(limit.name)].whose
    counted = f"counted: {limit.counts}; {limit.window}"
    return f"{whose}'s limit {limit.name}={limit.at_most} ({counted})"


def _none() -> int:
    return 0
