"""The order path: order -> admit -> journal -> execute -> settle -> report.

``carry`` is the map of one instruction after the door has journalled it. `orders.dispatch` decides
when it is called; settling and reporting follow from what it leaves in the journal.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeAlias

from ticker_service.domain.job import part_key
from ticker_service.domain.order import JOBS, TaskKind, TaskUpdate
from ticker_service.domain.order_state import IN_DOUBT, TERMINAL, UNSENT, TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.domain.order import OrderTask
    from ticker_service.orders.execute import Executor
    from ticker_service.ports import OrderJournal


Follow: TypeAlias = "Callable[[OrderTask, OrderTask], Awaitable[OrderTask]]"
"""Lets an instruction go where its order has gone; returns it as it is left."""


async def carry(
    task: OrderTask,
    journal: OrderJournal,
    executor: Executor,
    *,
    until_ns: int,
    now_ns: Callable[[], int],
    follow: Follow | None = None,
) -> OrderTask:
    """Bring one unsent instruction as far as it goes now.

    Args:
        task: RECEIVED or READY, as last read.
        journal: Where every step is recorded before the next one is taken.
        executor: Sends, at most once.
        until_ns: Monotonic instant of its deadline; it leaves by then or expires, by either clock.
            A cancel gets as much longer as its order's last step came after it, and never ends
            while its order is in doubt.
        now_ns: Wall time, ns since the Unix epoch.
        follow: Lets it go where its order has gone.

    Returns:
        The task as it was left; one that is still unsent is to be carried again later.

    Raises:
        TaskMoved: Somebody else moved it; read it again.
        JournalUnavailable: Nothing was sent; try again later.
    """
    if task.state is TaskState.RECEIVED:
        ready = TaskUpdate(state=TaskState.READY, event="ready")
        task = await journal.record(task, ready, now_ns=now_ns())
        executor.reach("C2")
    target = await journal.task(task.target_task_id) if task.target_task_id else None
    if target is not None and target.kind in JOBS:
        return await _stop_job(task, target, journal, now_ns=now_ns)
    # What came to the broker is asked for there even when the journal has its end: a late fact may
    # still win (I7), and a cancel refused wrongly is worse than one that the broker refuses.
    lacks_order_id = target is not None and target.broker_order_id is None
    if target is not None and lacks_order_id:
        if target.state in UNSENT and task.kind is TaskKind.CANCEL:
            target = await _withdraw(target, journal, now_ns=now_ns)
        if target.state is TaskState.FAILED_OVER and follow is not None:
            left = await follow(task, target)
            if left is not task or not executor.is_late(task, until_ns):
                return left
        if target.state in TERMINAL:
            return await journal.record(task, _about_ended(task, target), now_ns=now_ns())
        if target.state in IN_DOUBT and task.kind is TaskKind.CANCEL:
            return task  # it may surface at rest: then this is wanted, however long it took
    # Asked of an order that is on its way or in doubt: the broker's answer or book names it yet.
    longer_ns = _longer_ns(task, target)
    lasting = dataclasses.replace(task, deadline_ns=task.deadline_ns + longer_ns)
    until_ns += longer_ns
    # The second leg of a cover order is an order that the broker makes, and shows, in its time.
    lacks_address = target is not None and executor.address(task, target) is None
    if (executor.is_held(task, target) or lacks_address) and not executor.is_late(
        lasting, until_ns
    ):
        return task
    left = await executor.send(lasting, target, until_ns=until_ns)
    return task if left is lasting else left


def _longer_ns(task: OrderTask, target: OrderTask | None) -> int:
    """Return how much later than its deadline an instruction ends.

    A cancel's time counts from the last step of its order: it may have waited to learn whether
    there is one. Told by the journal alone, and so the same after a restart.
    """
    if target is None or task.kind is not TaskKind.CANCEL:
        return 0
    return max(target.updated_at_ns - task.created_at_ns, 0)


async def _withdraw(
    target: OrderTask, journal: OrderJournal, *, now_ns: Callable[[], int]
) -> OrderTask:
    """Cancel an order that has not been sent."""
    withdrawn = TaskUpdate(
        state=TaskState.CANCELLED_LOCAL,
        event="withdrawn",
        reason_code="CANCELLED_BY_CALLER",
        reason="withdrawn before it was sent",
    )
    return await journal.record(target, withdrawn, now_ns=now_ns())


async def _stop_job(
    cancel: OrderTask, job: OrderTask, journal: OrderJournal, *, now_ns: Callable[[], int]
) -> OrderTask:
    """Let a job place no more; what rests of it is cancelled by whoever steps it."""
    if job.state is TaskState.RUNNING:
        stops = TaskUpdate(
            state=TaskState.STOPPING,
            event="job_stops",
            reason_code="CANCELLED_BY_CALLER",
            reason="its caller cancelled it",
        )
        job = await journal.record(job, stops, now_ns=now_ns())
    if job.state in TERMINAL:
        return await journal.record(cancel, _about_ended(cancel, job), now_ns=now_ns())
    stopped = TaskUpdate(
        state=TaskState.CANCELLED_LOCAL,
        event="job_stopped",
        reason_code="JOB_STOPPED",
        reason="nothing more of it is placed, and what rests of it is being cancelled",
    )
    return await journal.record(cancel, stopped, now_ns=now_ns())


def _about_ended(task: OrderTask, target: OrderTask) -> TaskUpdate:
    """Return the end of what is asked of an order that never came to the broker."""
    if task.kind is TaskKind.CANCEL and target.state is TaskState.CANCELLED_LOCAL:
        return TaskUpdate(
            state=TaskState.CANCELLED_LOCAL,
            event="order_withdrawn",
            reason_code="ORDER_WITHDRAWN",
            reason="the order was withdrawn before it was sent",
        )
    if target.state is TaskState.FAILED_OVER:
        return TaskUpdate(
            state=TaskState.REJECTED_LOCAL,
            event="order_moved",
            reason_code="ORDER_MOVED",
            reason="the order goes on on another account, which another daemon has; ask again",
        )
    if target.kind in JOBS:
        return _about_ended_job(target)
    if target.state is TaskState.MANUAL:
        # Nobody knows whether it is there, so neither may we say so.
        return TaskUpdate(
            state=TaskState.REJECTED_LOCAL,
            event="order_unknown",
            reason_code="ORDER_UNKNOWN",
            reason="whether the order is at the broker is not known; look at the broker's book",
        )
    return TaskUpdate(
        state=TaskState.REJECTED_LOCAL,
        event="order_ended",
        reason_code="ORDER_ENDED",
        reason=f"the order had ended as {target.state} and is not at the broker",
    )


def _about_ended_job(job: OrderTask) -> TaskUpdate:
    if job.state is TaskState.ESCALATED:
        first = part_key(job.client_order_id, 1)
        return TaskUpdate(
            state=TaskState.REJECTED_LOCAL,
            event="job_ended",
            reason_code="JOB_ESCALATED",
            reason=(
                f"the job was given up ({job.reason_code}); orders of it may stand at the broker: "
                f"look at its legs and cancel each by its own key, such as {first}"
            ),
        )
    return TaskUpdate(
        state=TaskState.REJECTED_LOCAL,
        event="job_ended",
        reason_code="ORDER_ENDED",
        reason=f"the job had ended as {job.state}; all of its orders have",
    )
