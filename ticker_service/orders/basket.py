"""What is to be done about a basket, or an order that is cut, given what became of its orders.

Path of a job: admit -> journal -> [step] -> its orders. Pure: the journal's word alone decides, so
whoever steps a job next, after a crash or on another machine, decides the same. What a failed leg
means is the caller's choice of mode; a fill is never undone, and an order in doubt is neither a
failure nor a success until it has settled.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from ticker_service.domain.job import (
    FILLED,
    REFUSED,
    BasketMode,
    Moves,
    basket_of,
    buys,
    ending,
    has_failed,
    orders_among,
    parts_of,
    refused_parts,
)
from ticker_service.domain.order import Side, TaskUpdate
from ticker_service.domain.order_state import TERMINAL, TaskState
from ticker_service.domain.session import ist_date

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.domain.job import Basket, Part
    from ticker_service.domain.order import OrderTask

Orders = "Mapping[tuple[int, int], OrderTask]"
EXPIRED: Final = "EXPIRED"
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
    may_yet = [part for part, gate in zip(waiting, gates, strict=True) if gate is not _Gate.NEVER]
    if late := _too_late(job, may_yet, now_ns, sells_wait=basket.buys_first and bool(buys(parts))):
        facts = {**(job.facts or {}), REFUSED: refused | late}
        return Moves(update=TaskUpdate(state=job.state, event="part_refused", facts=facts))
    allowed = [part for part, gate in zip(waiting, gates, strict=True) if gate is _Gate.NOW]
    if allowed:
        return Moves(place=tuple(allowed))
    has_ended = all(order.state in TERMINAL for order in orders.values())
    if has_ended and _Gate.LATER not in gates:
        return Moves(update=_ended(job, orders, is_whole=len(parts) == len(orders) and not failed))
    return Moves()


def _too_late(
    job: OrderTask, absent: Sequence[Part], now_ns: int, *, sells_wait: bool
) -> dict[str, str]:
    """Return which parts may not leave any more, by key, and why.

    Prices are of their hour: what nobody could journal in time, because the daemon was down or too
    much was waiting, is not what its caller wants by now. A SELL that waits for a BUY has the rest
    of the day.
    """
    is_late = now_ns >= job.deadline_ns
    is_another_day = ist_date(now_ns) > ist_date(job.created_at_ns)
    late = {}
    for part in absent:
        is_to_wait = sells_wait and part.order.transaction_type is Side.SELL
        if is_to_wait and is_another_day:
            late[part.key] = (
                f"{EXPIRED}: the day of its basket was over before every BUY was filled"
            )
        elif is_late and not is_to_wait:
            late[part.key] = f"{EXPIRED}: it could not be journalled before the deadline of its job"
    return late


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
    ends = ending(standing, children, now_ns)
    if ends.is_stuck:
        return Moves(update=_escalated(ends.why))
    return Moves(cancel=ends.cancel)


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


def _escalated(why: str) -> TaskUpdate:
    return TaskUpdate(
        state=TaskState.ESCALATED,
        event="job_escalated",
        reason_code=COULD_NOT_CANCEL,
        reason=why,
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
