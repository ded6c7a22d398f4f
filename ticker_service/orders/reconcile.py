"""Merge the broker's order book and its updates into the journal, monotonically.

The same code serves start-up, every poll, and every update of the WebSocket: rows may come twice,
late or in any order and lead to the same state (I5, I7). Rows that carry our tag and no journal
entry are orphans: reported, never touched (I11).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain import order_state
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import TaskKind
from ticker_service.domain.session import ist_date
from ticker_service.domain.tag import is_ours
from ticker_service.errors import TaskMoved

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from ticker_service.accounts.halts import Halts
    from ticker_service.domain.order import Account, BrokerOrder, OrderTask
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

MERGE_TRIES_MAX: Final = 10
"""A task that moves under every one of so many merges is being moved by our own bug."""


@dataclass(slots=True)
class BookMemory:
    """What earlier reads of the day's book held, to tell a whole book from a truncated one (A3)."""

    day: dt.date | None = None
    known_order_ids: set[str] = field(default_factory=set)
    alarmed: set[str] = field(default_factory=set)
    merged: dict[str, BrokerOrder] = field(default_factory=dict)
    """Rows that the journal has, by order id: a book that repeats one brings no news."""

    def is_whole(self, rows: Sequence[BrokerOrder], day: dt.date) -> bool:
        """Return whether a book holds every order of its day that an earlier one held."""
        return day != self.day or self.known_order_ids <= {row.order_id for row in rows}

    def turn_to(self, day: dt.date) -> None:
        """Forget the orders of other days; those leave the book at any time."""
        if day != self.day:
            self.day = day
            self.known_order_ids.clear()
            self.merged.clear()

    def keep(self, rows: Sequence[BrokerOrder]) -> None:
        """Remember the orders of the day that a book holds."""
        if self.day is not None:
            self.known_order_ids.update(row.order_id for row in rows if _is_of(row, self.day))


def _is_of(row: BrokerOrder, day: dt.date) -> bool:
    """Return whether an order is of a day; one that does not say is of the day it is seen."""
    return not row.order_timestamp or row.order_timestamp.startswith(day.isoformat())


class Reconciler:
    """Merges rows for one account; any task may call it, the journal's versions keep it safe."""

    def __init__(
        self,
        account: Account,
        journal: OrderJournal,
        clock: Clock,
        *,
        installation: str,
        halts: Halts,
    ) -> None:
        self.memory = BookMemory()
        self._account = account
        self._journal = journal
        self._clock = clock
        self._installation = installation
        self._halts = halts

    async def merge_book(self, rows: Sequence[BrokerOrder]) -> int:
        """Merge a whole book; return how many tasks changed."""
        self.memory.turn_to(ist_date(self._clock.now_ns()))
        changed = 0
        for row in rows:
            changed += await self.merge_row(row)
        self.memory.keep(rows)
        return changed

    async def merge_row(self, row: BrokerOrder) -> bool:
        """Merge one row or update into the task whose attempt's tag it carries.

        Raises:
            JournalUnavailable: The journal does not answer; the row will come again.
        """
        if self.memory.merged.get(row.order_id) == row:
            return False
        for _ in range(MERGE_TRIES_MAX):
            task = await self._task_of(row)
            if task is None:
                self._notice_orphan(row)
                return False
            if task.broker_order_id not in {None, row.order_id}:
                # One tag, two orders: what is known of the first must not be mixed with the other.
                self._alarm("duplicate_order", row, task_id=str(task.task_id))
                self._halts.begin(
                    HaltCode.DUPLICATE_ORDER,
                    f"orders {task.broker_order_id} and {row.order_id} are both of one request",
                )
                return False
            update = order_state.merge(task, row)
            if update is None:
                if task.state in order_state.AT_BROKER:
                    self.memory.merged[row.order_id] = row
                return False
            try:
                moved = await self._journal.record(task, update, now_ns=self._clock.now_ns())
            except TaskMoved:
                continue
            self.memory.merged[row.order_id] = row
            if task.state in order_state.TERMINAL and moved.state is not task.state:
                # What we held for finished was not: the caller must hear it, and loudly (I7).
                log.error(
                    "late_fact_wins",
                    account=self._account,
                    task_id=str(task.task_id),
                    was=task.state,
                    now=moved.state,
                )
            return True
        log.error("merge_gave_up", account=self._account, order_id=row.order_id)
        return False

    async def _task_of(self, row: BrokerOrder) -> OrderTask | None:
        for tag in row.tags:
            if is_ours(tag, self._installation):
                task = await self._journal.task_by_tag(self._account, tag)
                if task is not None and task.kind is TaskKind.PLACE:
                    return task
        return None

    def _notice_orphan(self, row: BrokerOrder) -> None:
        has_our_tag = any(is_ours(tag, self._installation) for tag in row.tags)
        if has_our_tag:
            self._alarm("orphan_order", row)

    def _alarm(self, event: str, row: BrokerOrder, **facts: object) -> None:
        """Say once of an order what only a person can put right."""
        if row.order_id not in self.memory.alarmed:
            self.memory.alarmed.add(row.order_id)
            log.error(event, account=self._account, order_id=row.order_id, tags=row.tags, **facts)
