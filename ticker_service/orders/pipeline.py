"""The order path: order -> admit -> journal -> execute -> settle -> report.

``carry`` is the map of one instruction after the door has journalled it. `orders.desk` decides when
it is called; settling and reporting follow from what it leaves in the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticker_service.domain.order import TaskKind, TaskUpdate
from ticker_service.domain.order_state import UNSENT, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.domain.order import OrderTask
    from ticker_service.orders.execute import Executor
    from ticker_service.ports import OrderJournal


async def carry(
    task: OrderTask, journal: OrderJournal, executor: Executor, *, now_ns: Callable[[], int]
) -> OrderTask:
    """Bring one unsent instruction as far as it goes now.

    Args:
        task: RECEIVED or READY, as last read.
        journal: Where every step is recorded before the next one is taken.
        executor: Sends, at most once.
        now_ns: Wall time, ns since the Unix epoch.

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
    if target is not None and target.state in UNSENT:
        return await _about_unsent(task, target, journal, now_ns=now_ns)
    if executor.is_auth_refused and now_ns() < task.deadline_ns:
        return task
    return await executor.send(task, target)


async def _about_unsent(
    task: OrderTask, target: OrderTask, journal: OrderJournal, *, now_ns: Callable[[], int]
) -> OrderTask:
    """Cancel an order that has not been sent; a change of one waits until it has."""
    if task.kind is not TaskKind.CANCEL:
        return task
    withdrawn = TaskUpdate(
        state=TaskState.CANCELLED_LOCAL,
        event="withdrawn",
        reason_code="CANCELLED_BY_CALLER",
        reason="withdrawn before it was sent",
    )
    await journal.record(target, withdrawn, now_ns=now_ns())
    done = TaskUpdate(
        state=TaskState.CANCELLED_LOCAL,
        event="order_withdrawn",
        reason_code="ORDER_WITHDRAWN",
        reason="the order was withdrawn before it was sent",
    )
    return await journal.record(task, done, now_ns=now_ns())
