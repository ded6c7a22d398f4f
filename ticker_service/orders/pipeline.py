"""The order path: order -> admit -> journal -> execute -> settle -> report.

``carry`` is the map of one instruction after the door has journalled it. `orders.desk` decides when
it is called; settling and reporting follow from what it leaves in the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticker_service.domain.order import TaskKind, TaskUpdate
from ticker_service.domain.order_state import TERMINAL, UNSENT, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.domain.order import OrderTask
    from ticker_service.orders.execute import Executor
    from ticker_service.ports import OrderJournal


async def carry(
    task: OrderTask,
    journal: OrderJournal,
    executor: Executor,
    *,
    until_ns: int,
    now_ns: Callable[[], int],
) -> OrderTask:
    """Bring one unsent instruction as far as it goes now.

    Args:
        task: RECEIVED or READY, as last read.
        journal: Where every step is recorded before the next one is taken.
        executor: Sends, at most once.
        until_ns: Monotonic instant by which it leaves or expires, beside its deadline.
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
    lacks_order_id = target is not None and target.broker_order_id is None
    if target is not None and lacks_order_id:
        if target.state in UNSENT and task.kind is TaskKind.CANCEL:
            target = await _withdraw(target, journal, now_ns=now_ns)
        if target.state in TERMINAL:
            return await journal.record(task, _about_ended(task, target), now_ns=now_ns())
    # Asked of an order that is on its way or in doubt: the broker's answer or book names it yet.
    if (executor.is_held(task.kind) or lacks_order_id) and not executor.is_late(task, until_ns):
        return task
    return await executor.send(task, target, until_ns=until_ns)


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


def _about_ended(task: OrderTask, target: OrderTask) -> TaskUpdate:
    """Return the end of what is asked of an order that never came to the broker."""
    if task.kind is TaskKind.CANCEL and target.state is TaskState.CANCELLED_LOCAL:
        return TaskUpdate(
            state=TaskState.CANCELLED_LOCAL,
            event="order_withdrawn",
            reason_code="ORDER_WITHDRAWN",
            reason="the order was withdrawn before it was sent",
        )
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
