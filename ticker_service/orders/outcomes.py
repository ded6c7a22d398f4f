"""Record what became of a send, however long the journal takes.

Path: order -> admit -> journal -> [execute] -> settle -> report. The broker's own update may have
come first, and a newer writer may have the account by now; what stands then is decided here, by
what each says (I3, I5, I6, I7).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import TaskKind, TaskUpdate
from ticker_service.domain.order_state import AT_BROKER, TERMINAL, TRANSITIONS, TaskState
from ticker_service.errors import JournalUnavailable, TaskMoved
from ticker_service.orders import classify
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.domain.order import OrderTask
    from ticker_service.orders.classify import Verdict
    from ticker_service.ports import OrderJournal, Reply
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

JOURNAL_RETRY: Final = Backoff(delay_s_min=0.05, delay_s_max=1.0)
LAST_TRIES_S: Final = 3.0
"""When told to stop without a journal, an answer that came by its deadline gets so long."""
MARGIN: Final = "MARGIN"
"""The table's word for a refusal for want of margin."""


class Outcomes:
    """Records the outcomes of one account's sends."""

    def __init__(
        self, journal: OrderJournal, surroundings: Surroundings, *, request_s_max: float
    ) -> None:
        self.on_margin: Callable[[OrderTask, TaskUpdate], Awaitable[OrderTask | None]] | None = None
        """Records a refusal for want of margin if the order goes on on another account."""
        self._journal = journal
        self._clock = surroundings.clock
        self._chance = surroundings.chance
        self._request_s_max = request_s_max
        self._gives_up_ns: int | None = None

    def stop(self) -> None:
        """Let what was sent be recorded within its deadline and a little; recovery has the rest.

        Without a journal a stop would wait for ever; the journal says SENDING, and the next process
        looks for the order in the broker's book, as it does after a crash.
        """
        limit_s = self._request_s_max + LAST_TRIES_S
        self._gives_up_ns = self._clock.monotonic_ns() + int(limit_s * NS_PER_S)

    async def record(self, task: OrderTask, verdict: Verdict, reply: Reply) -> OrderTask:
        """Record what became of the send, however long the journal takes (I3, I5).

        The broker's own update may have come first; then what it told stands, and the answer adds
        nothing to it. What we said of the order meanwhile does not stand against the broker's yes.
        """
        update = _update_of(verdict, reply, task)
        attempt = 0
        while True:
            try:
                recorded = await self._recorded(task, update)
            except TaskMoved:
                present = await self.read_when_possible(task)
                # If it has not moved, a newer writer has the account, and what became of this send
                # is that writer's to find out (I6).
                if present.version == task.version or not _still_says(update, present):
                    _notice_unrecorded(verdict, present)
                    return present
                task, update = present, _update_of(verdict, reply, present)
            except JournalUnavailable as error:
                if not attempt:
                    log.warning("outcome_not_recorded", task_id=str(task.task_id), error=str(error))
                if self._gives_up():
                    log.warning(
                        "outcome_left_to_recovery",
                        task_id=str(task.task_id),
                        order_id=verdict.order_id,
                    )
                    raise
                await asyncio.sleep(JOURNAL_RETRY.delay_s(attempt, self._chance))
                attempt += 1
            else:
                _notice_late(task, recorded)
                return recorded

    async def _recorded(self, task: OrderTask, update: TaskUpdate) -> OrderTask:
        """Record a step; one that says that margin lacks may let the order go on elsewhere."""
        if update.reason_code == MARGIN and task.state is TaskState.SENDING and self.on_margin:
            left = await self.on_margin(task, update)
            if left is not None:
                return left
        return await self._journal.record(task, update, now_ns=self._clock.now_ns())

    async def read_when_possible(self, task: OrderTask) -> OrderTask:
        """Return a task as it is, however long the journal takes.

        Raises:
            JournalUnavailable: There was no answer by the end of a stop.
            TaskMoved: The journal does not have it.
        """
        attempt = 0
        while True:
            try:
                present = await self._journal.task(task.task_id)
            except JournalUnavailable:
                if self._gives_up():
                    raise
                await asyncio.sleep(JOURNAL_RETRY.delay_s(attempt, self._chance))
                attempt += 1
            else:
                if present is None:
                    raise TaskMoved(f"task_id={task.task_id} is not in the journal")
                return present

    def _gives_up(self) -> bool:
        return self._gives_up_ns is not None and self._clock.monotonic_ns() >= self._gives_up_ns

    async def end_unsent(
        self, task: OrderTask, state: TaskState, code: str, reason: str
    ) -> OrderTask:
        """Record that a task has ended and nothing of it left; raises as `OrderJournal.record`."""
        update = TaskUpdate(state=state, event=state.value.lower(), reason_code=code, reason=reason)
        return await self._journal.record(task, update, now_ns=self._clock.now_ns())


def _still_says(update: TaskUpdate, present: OrderTask) -> bool:
    """Return whether the outcome of a send tells more than what its task has come to meanwhile."""
    if present.state in AT_BROKER or update.state not in TRANSITIONS[present.state]:
        return False
    if update.state is TaskState.ACKED and update.broker_order_id:
        # The broker has it, whatever was proven by books that lacked it. A change that later books
        # show without effect has none, although the broker said yes to it.
        return present.kind is TaskKind.PLACE or present.state not in TERMINAL
    if update.state in {TaskState.UNKNOWN, TaskState.ACKED}:
        return present.state not in {TaskState.UNKNOWN, *TERMINAL}
    return update.state is not TaskState.READY


def _notice_unrecorded(verdict: Verdict, present: OrderTask) -> None:
    """Say loudly that an order at the broker is not the one its task has in the journal."""
    is_placed = present.kind is TaskKind.PLACE and bool(verdict.order_id)
    if is_placed and present.broker_order_id != verdict.order_id:
        log.error(
            "order_id_not_recorded",
            account=present.account,
            task_id=str(present.task_id),
            order_id=verdict.order_id,
            journal_has=present.broker_order_id,
            state=present.state,
        )


def _notice_late(was: OrderTask, now: OrderTask) -> None:
    """Say loudly that what was called ended is at the broker (I7)."""
    if was.state in TERMINAL:
        log.error(
            "late_fact_wins",
            account=now.account,
            task_id=str(now.task_id),
            order_id=now.broker_order_id,
            was=was.state,
            now=now.state,
        )


def _update_of(verdict: Verdict, reply: Reply, task: OrderTask) -> TaskUpdate:
    state = classify.STATE_AFTER[verdict.outcome]
    # An order that is acknowledged has no fault; that of an earlier try goes with it.
    cleared = "" if task.reason_code else None
    return TaskUpdate(
        state=state,
        event=f"send_{verdict.outcome.lower()}",
        broker_order_id=verdict.order_id or None,
        reason_code=cleared if state is TaskState.ACKED else verdict.code,
        reason=cleared if state is TaskState.ACKED else verdict.message,
        outcome=verdict.outcome,
        http_status=reply.http_status,
    )
