"""Order updates on their way to the user's sockets, and what faults do to them on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ticker_service.simulator.order_faults import OrderFaultKind

if TYPE_CHECKING:
    from ticker_service.simulator.feed import Feed
    from ticker_service.simulator.order_faults import OrderFaults

FRAME_KIND: Final = "order"
_DROP: Final = frozenset({OrderFaultKind.DROP_UPDATES})
_DUPLICATE: Final = frozenset({OrderFaultKind.DUPLICATE_UPDATES})
_SHUFFLE: Final = frozenset({OrderFaultKind.SHUFFLE_UPDATES})


class OrderUpdates:
    """Sends each update to every socket of its user.

    Attributes:
        faults: What is armed against them, and against the rest of the order side.
    """

    def __init__(self, feed: Feed, faults: OrderFaults) -> None:
        self.faults = faults
        self._feed = feed
        self._kept_back: dict[str, list[dict[str, object]]] = {}

    def publish(self, user_id: str, data: dict[str, object]) -> None:
        """Send one update, or whatever the armed faults make of it."""
        if self.faults.take(_DROP, user_id):
            return
        copies = [data, data] if self.faults.take(_DUPLICATE, user_id) else [data]
        shuffle = self.faults.take(_SHUFFLE, user_id)
        kept = self._kept_back.setdefault(user_id, [])
        kept.extend(copies)
        if shuffle is None or len(kept) >= shuffle.group:
            if len(kept) > len(copies):
                kept.reverse()  # Out of order for certain, and the same in every run.
            self._send(user_id, kept)

    def release(self) -> None:
        """Send what a lifted shuffle still keeps back."""
        for user_id, kept in self._kept_back.items():
            kept.reverse()
            self._send(user_id, kept)

    def _send(self, user_id: str, kept: list[dict[str, object]]) -> None:
        for each in kept:
            self._feed.broadcast_text(FRAME_KIND, each, user_id=user_id)
        kept.clear()
