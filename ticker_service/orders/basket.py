"""What is to be done about a basket, or an order that is cut, given what became of its orders.

Path of a job: admit -> journal -> [step] -> its orders. Pure: the journal's word alone decides, so
whoever steps a job next, after a crash or on another machine, decides the same. What a failed leg
means is the caller's choice of mode; a fill is never undone, and an order in doubt is neither a
failure nor a success until it has settled.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.job import (
    FILLED,
    BasketMode,
    Moves,
    basket_of,
    buys,
    cancels_of,
    has_failed,
    orders_among,
    parts_of,
    refused_parts,
)
from ticker_service.domain.order import Side, TaskUpdate
from ticker_service.domain.order_state import TERMINAL, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.domain.job import Basket, Part
    from ticker_service.domain.order import OrderTask

Orders = "Mapping[tuple[int, int], OrderTask]"
CANCELS_MAX: Final = 10
CANCEL_AGAIN_S: Final = 5.0
"""An order that still stands so long after its cancel ended is cancelled again."""
LEG_FAILED: Final = "LEG_FAILED"
NOT_ALL_FILLED: Final = "NOT_ALL_FILLED"
LEG_MANUAL: Final = "LEG_MANUAL"
COULD_NOT_CANCEL: Final = "COULD_NOT_CANCEL"


class _Gate(Enum):
    """Whether a part may leave."""

    NOW = auto()
    LATER = auto()
    NEVER = auto()


async def step(job: OrderTask, children: Sequence[OrderTask], now_ns: int) -> Moves:
    """Return :func:`decide`, as every kind of job is stepped."""
    return decide(job, children, now_ns)


def decide(job: OrderTask, children: Sequence[OrderTask], now_ns: int) -> Moves:
    """Return what is to be done now.

    Args:
        job: RUNNING or STOPPING, as last read.
        children: All that was asked in its name, read after it.
        now_ns: Wall time, ns since the Unix epoch.
    """
    orders = orders_among(children)
    if job.state is TaskState.STOPPING:
        return _stopping(job, orders, children, now_ns)
    basket, parts = basket_of(job.body), parts_of(job)
    failed = [order for order in orders.values() if has_failed(order)]
    absent = [part for part in parts if (part.leg, part.slice) not in orders]
    refused = refused_parts(job)
    denied = [part for part in absent if part.key in refused]
    if (failed or denied) and basket.mode is BasketMode.ALL_OR_COMPENSATE:
        return Moves(update=_stops(failed, denied, refused))
    if basket.buys_first and buys(denied):
        absent = [part for part in absent if part.order.transaction_type is Side.BUY]
    waiting = [part for part in absent if part not in denied]
    gates = [_gate(part, basket, parts, orders) for part in waiting]
    allowed = [part for part, gate in zip(waiting, gates, strict=True) if gate is _Gate.NOW]
    if allowed:
        return Moves(place=tuple(allowed))
    has_ended = all(order.state in TERMINAL for order in orders.values())
    if has_ended and _Gate.LATER not in gates:
        return Moves(update=_ended(job, orders, is_whole=len(parts) == len(orders) and not failed))
    return Moves()


def _gate(
    part: Part,
    basket: Basket,
    parts: Sequence[Part],
    orders: Mapping[tuple[int, int], OrderTask],
) -> _Gate:
    is_all = basket.mode is BasketMode.ALL_OR_COMPENSATE
    if is_all and any(order.state is TaskState.MANUAL for order in orders.values()):
        return _Gate.NEVER  # nobody knows what is held; more of it would be a guess
    if not basket.buys_first or part.order.transaction_type is not Side.SELL:
        return _Gate.NOW
    bought = [orders.get((buy.leg, buy.slice)) for buy in buys(parts)]
    if all(order is not None and order.state is TaskState.FILLED for order in bought):
        return _Gate.NOW
    is_over = any(
        order is not None and order.state in TERMINAL and order.state is not TaskState.FILLED
        for order in bought
    )
    return _Gate.NEVER if is_over else _Gate.LATER


def _stopping(
    job: OrderTask,
    orders: Mapping[tuple[int, int], OrderTask],
    children: Sequence[OrderTask],
    now_ns: int,
) -> Moves:
    """Cancel what has not ended, again if a cancel did not help, until all has ended."""
    standing = [order for order in orders.values() if order.state not in TERMINAL]
    if not standing:
        return Moves(update=_ended(job, orders, is_whole=False))
    wanted = []
    for order in standing:
        asked = cancels_of(order, children)
        if any(not _is_over(cancel) for cancel in asked):
            continue
        if len(asked) >= CANCELS_MAX:
            return Moves(update=_escalated(order))
        ended_ns = max((cancel.updated_at_ns for cancel in asked), default=0)
        # A clock that was set back must not keep a cancel away.
        if not 0 <= now_ns - ended_ns < int(CANCEL_AGAIN_S * NS_PER_S):
            wanted.append(order)
    return Moves(cancel=tuple(wanted))


def _is_over(cancel: OrderTask) -> bool:
    return cancel.state in TERMINAL or cancel.state is TaskState.ACKED


def _stops(
    failed: Sequence[OrderTask], denied: Sequence[Part], refused: Mapping[str, str]
) -> TaskUpdate:
    if failed:
        order = failed[0]
        why = f"{order.client_order_id} is {order.state}: {order.reason or order.reason_code}"
    else:
        why = f"{denied[0].key} was refused: {refused[denied[0].key]}"
    return TaskUpdate(
        state=TaskState.STOPPING, event="job_stops", reason_code=LEG_FAILED, reason=why
    )


def _escalated(order: OrderTask) -> TaskUpdate:
    return TaskUpdate(
        state=TaskState.ESCALATED,
        event="job_escalated",
        reason_code=COULD_NOT_CANCEL,
        reason=f"{order.client_order_id} stands after {CANCELS_MAX} cancels; end it at the broker",
    )


def _ended(
    job: OrderTask, orders: Mapping[tuple[int, int], OrderTask], *, is_whole: bool
) -> TaskUpdate:
    """Return the end of a job; what filled by then is among its facts."""
    filled: dict[str, int] = {}
    for (leg, _), order in sorted(orders.items()):
        filled[str(leg)] = filled.get(str(leg), 0) + order.filled_quantity
    facts = {**(job.facts or {}), FILLED: filled}
    manual = [order for order in orders.values() if order.state is TaskState.MANUAL]
    if manual:
        return TaskUpdate(
            state=TaskState.ESCALATED,
            event="job_escalated",
            reason_code=LEG_MANUAL,
            reason=f"what became of {manual[0].client_order_id} is not known; look at the broker",
            facts=facts,
        )
    return TaskUpdate(
        state=TaskState.DONE,
        event="job_done",
        reason_code=None if is_whole or job.reason_code else NOT_ALL_FILLED,
        facts=facts,
    )
