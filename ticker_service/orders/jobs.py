"""One account's jobs: look at each that is open, ask its kind what to do, and have that journalled.

Path of a job: admit -> journal -> [step] -> its orders. Everything a step decides from is in the
journal, and everything it does is one write there under a key that follows from the job: an order
of a job that was journalled before is not journalled again, whoever steps it and however often
(I2). Sending is not done here; a child is carried like any other instruction.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.job import (
    REFUSED,
    cancel_key,
    cancels_of,
    change_key,
    changes_of,
    refused_parts,
)
from ticker_service.domain.order import (
    NewTask,
    TaskKind,
    TaskUpdate,
    body_sha256,
    to_fields,
)
from ticker_service.domain.order_state import UNSENT, TaskState
from ticker_service.errors import JournalUnavailable, OrderRefused, RiskDenied, TaskMoved
from ticker_service.orders import basket
from ticker_service.runtime.bell import Bell

if TYPE_CHECKING:
    import uuid
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.job import Moves, Part
    from ticker_service.domain.order import Account, OrderChange, OrderTask
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""Jobs that nobody rang for, such as those of an earlier run, are found within this."""
PAUSE_S: Final = 0.02
"""News of a burst of orders is one look, not one each."""
OPEN_MAX: Final = 200
"""Jobs of an account that may be open at once; below what one look reads."""

Stepper: TypeAlias = "Callable[[OrderTask, Sequence[OrderTask], int], Awaitable[Moves]]"
"""Says what to do about a job, given all that was asked in its name and wall time in ns."""
STEPPERS: Final[Mapping[TaskKind, Stepper]] = {
    TaskKind.BASKET: basket.step,
    TaskKind.SLICES: basket.step,
}


_LOUDNESS: Final = {
    "job_escalated": logging.ERROR,
    "exit_escalated": logging.ERROR,
    "exit_stops": logging.WARNING,
    "leg_stopped": logging.WARNING,
}
"""What concerns a person; a basket that stops does what was asked of it. Levels, and no methods of
the logger: one that is taken while modules are imported knows nothing of how the daemon logs."""


class Jobs:
    """Steps the jobs of one account; one pass at a time."""

    def __init__(  # noqa: PLR0913 - the parts of one account's jobs
        self,
        account: Account,
        *,
        journal: OrderJournal,
        take: Callable[[NewTask], Awaitable[object]],
        config: OrdersConfig,
        clock: Clock,
        new_id: Callable[[], uuid.UUID],
        awaits_login: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the parts.

        Args:
            account: Whose jobs.
            journal: Where they are.
            take: Journals a child and has it carried out; refuses it when too many wait.
            config: How long a child may wait to be sent.
            clock: Wall time.
            new_id: Makes ids of children.
            awaits_login: Tells that the broker lets nothing in, cancels neither.
        """
        self.steppers: dict[TaskKind, Stepper] = dict(STEPPERS)
        self.begun = Bell()
        """Rung when a job has been journalled."""
        self.open_count = 0
        """How many were open at the last look."""
        self.escalated = 0
        """How many a person was left with, since the start."""
        self._account = account
        self._journal = journal
        self._take = take
        self._config = config
        self._clock = clock
        self._new_id = new_id
        self._awaits_login = awaits_login

    def refusal(self) -> OrderRefused | None:
        """Return why one more job is too many, None if it is not."""
        if self.open_count < OPEN_MAX:
            return None
        return OrderRefused("TOO_MANY_WAITING", f"{self.open_count} jobs are open")

    async def run(self, news: Bell) -> None:
        """Step what is open whenever there is news of an order, until cancelled."""
        while True:
            ring, begun = news.listen(), self.begun.listen()
            try:
                await self.look()
            except JournalUnavailable as error:
                log.warning("jobs_not_stepped", account=self._account, error=str(error))
            # While none is open, news of orders is no news of jobs.
            bell = ring if self.open_count else begun
            try:
                async with asyncio.timeout(LOOK_S):
                    await bell.wait()
            except TimeoutError:
                continue
            if not begun.is_set():
                await asyncio.sleep(PAUSE_S)

    async def look(self) -> None:
        """Step every open job once.

        Raises:
            JournalUnavailable: What is not done is done at the next look.
        """
        jobs = await self._journal.open_jobs(self._account)
        self.open_count = len(jobs)
        if not jobs:
            return
        children: defaultdict[uuid.UUID | None, list[OrderTask]] = defaultdict(list)
        for child in await self._journal.children_of([job.task_id for job in jobs]):
            children[child.job_id].append(child)
        for job in jobs:
            try:
                await self._step(job, children[job.task_id])
            except TaskMoved:
                continue  # by a caller who stopped it, or by who has the account by now

    async def _step(self, job: OrderTask, children: Sequence[OrderTask]) -> None:
        moves = await self.steppers[job.kind](job, children, self._clock.now_ns())
        asked = [(part.key, self._order(job, part)) for part in moves.place]
        for order, change in moves.change:
            number = len(changes_of(order, children)) + 1
            asked.append((order.client_order_id, self._change(job, order, change, number)))
        for order in moves.cancel:
            if self._awaits_login() and order.state not in UNSENT:
                continue  # it would wait until its time is over; the first look after it asks
            number = len(cancels_of(order, children)) + 1
            asked.append((order.client_order_id, self._cancel(job, order, number)))
        for key, new in asked:
            try:
                await self._take(new)
            except RiskDenied as denied:
                if job.kind is TaskKind.EXIT and denied.value is None and denied.limit is None:
                    continue  # an input was not to be had; at a later look it may be
                # The next look decides what that means for the others.
                await self._record(job, _refused(job, key, denied))
                return
            except OrderRefused as refused:
                if not _may_pass(job, refused):
                    await self._escalate(job, refused)
                return  # at a later look
        if moves.update is not None:
            await self._record(job, moves.update)

    async def _record(self, job: OrderTask, update: TaskUpdate) -> None:
        await self._journal.record(job, update, now_ns=self._clock.now_ns())
        self.escalated += update.state is TaskState.ESCALATED
        log.log(
            _LOUDNESS.get(update.event, logging.INFO),
            update.event,
            account=self._account,
            kind=job.kind,
            client_order_id=job.client_order_id,
            state=update.state,
            code=update.reason_code,
            reason=update.reason,
        )

    async def _escalate(self, job: OrderTask, refused: OrderRefused) -> None:
        """Stop at an order that can never be journalled, such as one whose key is another's."""
        log.error("job_cannot_go_on", account=self._account, client_order_id=job.client_order_id)
        update = TaskUpdate(
            state=TaskState.ESCALATED,
            event="job_escalated",
            reason_code=refused.code,
            reason=str(refused),
        )
        await self._record(job, update)

    def _order(self, job: OrderTask, part: Part) -> NewTask:
        return self._child(
            job,
            TaskKind.PLACE,
            part.key,
            part.key,
            body=to_fields(part.order),
            leg=part.leg,
            slice=part.slice,
        )

    def _change(
        self, job: OrderTask, order: OrderTask, change: OrderChange, number: int
    ) -> NewTask:
        return self._child(
            job,
            TaskKind.MODIFY,
            change_key(order, number),
            order.client_order_id,
            body=to_fields(change),
            leg=order.leg,
            slice=order.slice,
            target_task_id=order.task_id,
        )

    def _cancel(self, job: OrderTask, order: OrderTask, number: int) -> NewTask:
        return self._child(
            job,
            TaskKind.CANCEL,
            cancel_key(order, number),
            order.client_order_id,
            body={},
            leg=order.leg,
            slice=order.slice,
            target_task_id=order.task_id,
        )

    def _child(  # noqa: PLR0913 - the fields of one instruction
        self,
        job: OrderTask,
        kind: TaskKind,
        request_id: str,
        client_order_id: str,
        *,
        body: Mapping[str, str],
        leg: int | None,
        slice: int | None,  # noqa: A002 - the field's name
        target_task_id: uuid.UUID | None = None,
    ) -> NewTask:
        now_ns = self._clock.now_ns()
        says = {
            "kind": kind,
            "account": job.account,
            "client_order_id": client_order_id,
            "body": body,
        }
        return NewTask(
            task_id=self._new_id(),
            kind=kind,
            account=job.account,
            principal=job.principal,
            request_id=request_id,
            client_order_id=client_order_id,
            body=body,
            body_sha256=body_sha256(says),
            deadline_ns=now_ns + int(self._config.deadline_s * NS_PER_S),
            received_at_ns=now_ns,
            target_task_id=target_task_id,
            job_id=job.task_id,
            leg=leg,
            slice=slice,
        )


def _may_pass(job: OrderTask, refused: OrderRefused) -> bool:
    """Return whether a later look may have what was refused now, or finds it journalled.

    What an exit sends follows from what is held. So the part that it plans under a key may differ
    from the one that a statement without an answer journals under it late, or another daemon: that
    one is an order of this exit too, and counts.
    """
    is_known = job.kind is TaskKind.EXIT and refused.code == "IDEMPOTENCY_CONFLICT"
    return is_known or refused.code == "TOO_MANY_WAITING"


def _refused(job: OrderTask, key: str, denied: OrderRefused) -> TaskUpdate:
    """Return the step that keeps why a part was not journalled."""
    refused = {**refused_parts(job), key: str(denied)}
    return TaskUpdate(
        state=job.state, event="part_refused", facts={**(job.facts or {}), REFUSED: refused}
    )
