"""The newest events of one account that this process wrote, for who follows them.

Path: order -> admit -> journal -> execute -> settle -> [report]. What our own writes have committed
need not be read back: who has had all up to a number is given what comes right after it. What is
not here, such as another process's, is in the journal; so this is never more than a short cut (I9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.order import Account, OrderEvent
    from ticker_service.ports import OrderJournal

EVENTS_KEPT_MAX: Final = 500


class EventTail:
    """One account's; belongs to one event loop."""

    def __init__(self, account: Account, journal: OrderJournal) -> None:
        self._account = account
        self._journal = journal
        self._events: dict[int, OrderEvent] = {}
        """By their number, as they were told of."""

    def follow(self) -> None:
        """Begin anew: what was told of before may be of a journal that is no more."""
        self._events.clear()
        self._journal.hear_events(self._account, self._hear)

    async def after(self, account_seq: int, *, limit: int) -> Sequence[OrderEvent]:
        """Return events with a greater number, in order and without a gap; empty if none is there.

        Fewer than there are, if what comes next is not ours; the same question gets it.

        Raises:
            JournalUnavailable: It has to be asked, and does not answer.
        """
        events = self._events
        found: list[OrderEvent] = []
        while len(found) < limit and (event := events.get(account_seq + len(found) + 1)):
            found.append(event)
        return found or await self._journal.events_after(self._account, account_seq, limit=limit)

    def _hear(self, event: OrderEvent) -> None:
        self._events[event.account_seq] = event
        if len(self._events) > EVENTS_KEPT_MAX:
            del self._events[next(iter(self._events))]
