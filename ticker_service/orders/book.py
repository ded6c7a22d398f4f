"""One pass over the broker's order book: merge it, settle what it proves, end what its day ended.

Path: order -> admit -> journal -> execute -> [settle] -> report. `orders.book_watch` decides when a
pass is made; merging is `orders.reconcile`'s and proof is `orders.settle`'s. A pass that fails
halfway changed nothing that the next one would not change as well.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain import order_legs
from ticker_service.domain.order import TaskKind, TaskUpdate
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import BrokerUnavailable, LoginRequired, TaskMoved
from ticker_service.orders.settle import Evidence, judge_live, judge_unseen
from ticker_service.runtime.clock import Moment

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Container, Sequence

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.order import BrokerOrder, OrderTask
    from ticker_service.orders.reconcile import Reconciler
    from ticker_service.ports import BrokerGateway, OrderJournal
    from ticker_service.runtime.bell import Bell
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

LOOKS_MAX: Final = 60
"""So many of the newest looks into the book are kept for whoever asks what they showed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One reading of the book; ``lacking`` are known orders of the day that it did not hold."""

    began_ns: int
    rows: int
    lacking: int


class BookKeeper:
    """Reads one account's book; one pass at a time."""

    def __init__(  # noqa: PLR0913 - the parts of one pass
        self,
        *,
        journal: OrderJournal,
        gateway: BrokerGateway,
        reconciler: Reconciler,
        in_flight: Container[uuid.UUID],
        config: OrdersConfig,
        clock: Clock,
        news: Bell,
        work: Bell,
    ) -> None:
        """Take the parts.

        Args:
            journal: Where the account's tasks are.
            gateway: Whose book is read.
            reconciler: Merges it.
            in_flight: The tasks that somebody carries now.
            config: How long evidence takes.
            clock: Both readings of it.
            news: Rung when there may be new events.
            work: Rung when a change that had to wait may go on.
        """
        self._account = reconciler.account
        self._journal = journal
        self._gateway = gateway
        self._reconciler = reconciler
        self._in_flight = in_flight
        self._config = config
        self._clock = clock
        self._news = news
        self._work = work
        self.evidence = Evidence(config)
        """What the books so far say of each doubt."""
        self._doubted_changes: dict[uuid.UUID, uuid.UUID | None] = {}
        self._was_whole = True
        self.looks: deque[Look] = deque(maxlen=LOOKS_MAX)
        """The newest readings, the last one last."""
        self.on_whole: Callable[[Sequence[BrokerOrder], int], None] = lambda *_: None
        """Told of each whole book once it is merged, and when its reading began, monotonic ns."""

    def doubt(self, task: OrderTask) -> None:
        """Know that a change has come into doubt before the journal is asked."""
        if task.kind is TaskKind.MODIFY:
            self._doubted_changes[task.task_id] = task.target_task_id

    def is_changing(self, target_task_id: uuid.UUID | None) -> bool:
        """Return whether a change of this order is in doubt: it may still reach the exchange."""
        return target_task_id in self._doubted_changes.values()

    async def fresh(self) -> Sequence[BrokerOrder]:
        """Return the book as it is now, for a person to look at; nothing is drawn from it.

        Raises:
            LoginRequired: The access token was refused.
            BrokerUnavailable: There is no whole valid book now.
        """
        return await self._gateway.orders()

    async def read(self) -> float:
        """Make one pass and return when to make the next, seconds.

        Raises:
            LoginRequired: The access token was refused.
            BrokerUnavailable: There is no whole valid book now.
            JournalUnavailable: The journal does not answer.
        """
        await self._doubt_what_nobody_sends()
        began = Moment.of(self._clock)
        must_hold = await self._reconciler.begin_pass(began.now_ns)
        try:
            rows = await self._gateway.orders()
        except (BrokerUnavailable, LoginRequired):
            await self._end_unseen_days(began)
            raise
        lacking = must_hold - {row.order_id for row in rows}
        is_whole = not lacking
        self.looks.append(Look(began_ns=began.now_ns, rows=len(rows), lacking=len(lacking)))
        if not is_whole and self._was_whole:
            log.warning("book_lacks_known_orders", account=self._account, rows=len(rows))
        self._was_whole = is_whole
        if await self._reconciler.merge_book(rows, began=began):
            self._news.ring()
        if is_whole:
            self.on_whole(rows, began.monotonic_ns)
        is_settled = await self._settle_doubts(rows, began=began, is_whole=is_whole)
        is_live = await self._end_days(rows, began=began)
        memory = self._reconciler.memory
        is_live = is_live or bool(memory.contradicted) or memory.has_live_legs
        if not is_settled:
            return self._config.settle_poll_s
        return self._config.book_poll_live_s if is_live else self._config.book_poll_idle_s

    async def _doubt_what_nobody_sends(self) -> None:
        """Turn every SENDING that is not being sent into UNKNOWN: who knew its outcome is gone.

        That is what an earlier run left, and an intent whose commit came through after it had been
        read back as not made.
        """
        for task in await self._journal.in_doubt(self._account):
            if task.state is not TaskState.SENDING or task.task_id in self._in_flight:
                continue
            update = TaskUpdate(
                state=TaskState.UNKNOWN,
                event="found_sending",
                reason_code="RESTARTED",
                reason="who was sending it is gone",
            )
            await self._record(task, update)

    async def _settle_doubts(
        self, rows: Sequence[BrokerOrder], *, began: Moment, is_whole: bool
    ) -> bool:
        """Settle what a book proves of what is in doubt; return whether nothing is left."""
        held_before = set(self._doubted_changes)
        unsettled = []
        for task in await self._journal.in_doubt(self._account):
            if task.state is not TaskState.UNKNOWN:
                continue
            update = await self._judge(task, rows, began=began, is_whole=is_whole)
            if update is None:
                unsettled.append(task)
                continue
            if update.state is TaskState.MANUAL:
                log.error(
                    "order_needs_a_person",
                    account=self._account,
                    task_id=str(task.task_id),
                    client_order_id=task.client_order_id,
                    code=update.reason_code,
                    advice="run `ticker-service desk`",
                )
            await self._record(task, update)
        self.evidence.keep_only(unsettled)
        changes = {t.task_id: t.target_task_id for t in unsettled if t.kind is TaskKind.MODIFY}
        # One that came into doubt since the journal was read is not among them, and stays.
        for settled in held_before - changes.keys():
            del self._doubted_changes[settled]
            self._work.ring()
        self._doubted_changes |= changes
        return not unsettled

    async def _judge(
        self, task: OrderTask, rows: Sequence[BrokerOrder], *, began: Moment, is_whole: bool
    ) -> TaskUpdate | None:
        if task.kind is TaskKind.PLACE:
            ours = self._reconciler.memory.ours
            return self.evidence.judge_place(task, rows, began=began, is_whole=is_whole, ours=ours)
        target = await self._journal.task(task.target_task_id) if task.target_task_id else None
        row = None
        if target is not None:
            book = {row.order_id: row for row in rows}
            legs = self._reconciler.memory.legs_of(target)
            row = order_legs.shown_of(task, target, book, legs)
        return self.evidence.judge_target(task, row, began=began)

    async def _end_days(self, rows: Sequence[BrokerOrder], *, began: Moment) -> bool:
        """End what rested on a day that is over; return whether anything is live."""
        shown = {row.order_id for row in rows}
        is_live = False
        for task in await self._journal.live_orders(self._account):
            update = judge_live(task, is_in_book=task.broker_order_id in shown, began=began)
            if update is None:
                is_live = True
            else:
                await self._end_day(task, update)
        return is_live

    async def _end_unseen_days(self, began: Moment) -> None:
        """End what was at rest or in doubt on days whose book nobody can read any more."""
        left = await self._journal.live_orders(self._account)
        left += await self._journal.in_doubt(self._account)
        for task in left:
            update = judge_unseen(task, began=began)
            if update is not None and task.state is not TaskState.SENDING:
                await self._end_day(task, update)

    async def _end_day(self, task: OrderTask, update: TaskUpdate) -> None:
        log.error(
            "order_outlived_its_day",
            account=self._account,
            task_id=str(task.task_id),
            was=task.state,
            code=update.reason_code,
        )
        await self._record(task, update)

    async def _record(self, task: OrderTask, update: TaskUpdate) -> None:
        """Record a step of our own; when the task moved meanwhile, what moved it stands."""
        try:
            await self._journal.record(task, update, now_ns=self._clock.now_ns())
        except TaskMoved:
            return
        self._news.ring()
