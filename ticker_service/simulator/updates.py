"""Order updates on their way to the user's sockets, and what faults do to them on it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING, Final

from ticker_service.simulator.order_faults import OrderFaultKind

if TYPE_CHECKING:
    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.feed import Feed
    from ticker_service.simulator.order_faults import OrderFaults

FRAME_KIND: Final = "order"
_DROP: Final = frozenset({OrderFaultKind.DROP_UPDATES})
_DUPLICATE: Final = frozenset({OrderFaultKind.DUPLICATE_UPDATES})
_SHUFFLE: Final = frozenset({OrderFaultKind.SHUFFLE_UPDATES})
_LATE: Final = frozenset({OrderFaultKind.LATE_UPDATES})


class OrderUpdates:
    """Sends each update to every socket of its user.

    Attributes:
        faults: What is armed against them, and against the rest of the order side.
        woken: Set when something new has a time at which it is due.
    """

    def __init__(self, feed: Feed, faults: OrderFaults, clock: Clock) -> None:
        self.faults = faults
        self.woken = asyncio.Event()
        self._feed = feed
        self._clock = clock
        self._late: list[tuple[int, int, str, dict[str, object]]] = []
        self._delayed = itertools.count()
        self._kept_back: dict[str, list[dict[str, object]]] = {}

    def publish(self, user_id: str, data: dict[str, object]) -> None:
        """Send one update, or whatever the armed faults make of it."""
        if self.faults.take(_DROP, user_id):
            return
        late = self.faults.take(_LATE, user_id)
        if late is not None:
            due_ns = self._clock.monotonic_ns() + late.delay_ns
            heapq.heappush(self._late, (due_ns, next(self._delayed), user_id, data))
            self.woken.set()
            return
        copies = [data, data] if self.faults.take(_DUPLICATE, user_id) else [data]
        shuffle = self.faults.take(_SHUFFLE, user_id)
        kept = self._kept_back.setdefault(user_id, [])
        kept.extend(copies)
        if shuffle is None or len(kept) >= shuffle.group:
            if len(kept) > len(copies):
                kept.reverse()  # Out of order for certain, and the same in every run.
            self._send(user_id, kept)

    def advance(self) -> None:
        """Send the late ones whose time has come."""
        while self._late and self._late[0][0] <= self._clock.monotonic_ns():
            _, _, user_id, data = heapq.heappop(self._late)
            self._send(user_id, [data])

    def next_due_ns(self) -> int | None:
        """Return the monotonic instant at which the next late one goes out, or None."""
        return self._late[0][0] if self._late else None

    def release(self) -> None:
        """Send what lifted faults still keep back."""
        for user_id, kept in self._kept_back.items():
            kept.reverse()
            self._send(user_id, kept)
        for _, _, user_id, data in sorted(self._late, key=lambda late: late[:2]):
            self._send(user_id, [data])
        self._late.clear()

    def _send(self, user_id: str, kept: list[dict[str, object]]) -> None:
        for each in kept:
            self._feed.broadcast_text(FRAME_KIND, each, user_id=user_id)
        kept.clear()
