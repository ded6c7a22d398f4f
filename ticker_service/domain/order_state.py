"""The state machine of one instruction, and how the broker's facts move it.

Pure. Source: reliability.md §1.5 (invariants I3, I5, I7). The journal's database holds the same
table and refuses what is not in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.domain.order import JOBS, TaskUpdate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.order import BrokerOrder, OrderTask, TaskKind


class TaskState(StrEnum):
    """Where an instruction stands; see reliability.md §1.5."""

    RECEIVED = "RECEIVED"
    """Journalled; the caller may be told so."""
    READY = "READY"
    """Checked; may be sent."""
    SENDING = "SENDING"
    """The intent is durable; bytes may or may not have left."""
    UNKNOWN = "UNKNOWN"
    """The outcome is ambiguous; only evidence moves it, never another send."""
    ACKED = "ACKED"
    """The broker has it; for MODIFY and CANCEL this is the end."""
    WORKING = "WORKING"
    """It rests at the exchange."""
    PARTIAL = "PARTIAL"
    """It rests, and part of it is filled."""
    REJECTED_LOCAL = "REJECTED_LOCAL"
    """We refused it; nothing was sent."""
    EXPIRED = "EXPIRED"
    """Its deadline passed before it was sent."""
    CANCELLED_LOCAL = "CANCELLED_LOCAL"
    """The caller withdrew it before it was sent."""
    FAILED_OVER = "FAILED_OVER"
    """Certainly not at this account's broker; a task of the same key goes on on another account."""
    REJECTED = "REJECTED"
    """The broker or the exchange refused it."""
    NOT_PLACED = "NOT_PLACED"
    """Ambiguous once, and proven absent from the broker's book."""
    CANCELLED = "CANCELLED"
    """It was cancelled; what had been filled stays filled."""
    FILLED = "FILLED"
    """All of it is filled."""
    MANUAL = "MANUAL"
    """Evidence is not enough; a person decides."""
    RUNNING = "RUNNING"
    """A job whose children may be placed."""
    STOPPING = "STOPPING"
    """A job that places no more, and has what rests of it cancelled if that is its way."""
    DONE = "DONE"
    """A job with nothing left to do; what came of it its children tell."""
    ESCALATED = "ESCALATED"
    """A job that could not be brought to its end; a person decides."""


S = TaskState
UNSENT: Final = frozenset({S.RECEIVED, S.READY})
HELD_FOR_UNSENT: Final = UNSENT | {
    S.REJECTED_LOCAL,
    S.EXPIRED,
    S.CANCELLED_LOCAL,
    S.FAILED_OVER,
}
IN_DOUBT: Final = frozenset({S.SENDING, S.UNKNOWN})
LIVE: Final = frozenset({S.ACKED, S.WORKING, S.PARTIAL})
AT_BROKER: Final = LIVE | {S.CANCELLED, S.FILLED, S.REJECTED}
TERMINAL: Final = frozenset(
    {
        S.REJECTED_LOCAL,
        S.EXPIRED,
        S.CANCELLED_LOCAL,
        S.FAILED_OVER,
        S.REJECTED,
        S.NOT_PLACED,
        S.CANCELLED,
        S.FILLED,
        S.MANUAL,
        S.DONE,
        S.ESCALATED,
    }
)
JOB_OPEN: Final = frozenset({S.RUNNING, S.STOPPING})

FAILED: Final = frozenset({S.REJECTED, S.REJECTED_LOCAL, S.EXPIRED, S.NOT_PLACED})
"""It came to nothing, and not because its caller withdrew it."""

TRANSITIONS: Final[dict[TaskState, frozenset[TaskState]]] = {
    S.RECEIVED: frozenset({S.READY, S.REJECTED_LOCAL, S.CANCELLED_LOCAL, S.EXPIRED}),
    # An earlier attempt that was called unsent may be found at the broker: then it is not tried
    # again.
    S.READY: frozenset({S.SENDING, S.CANCELLED_LOCAL, S.EXPIRED, S.REJECTED_LOCAL, S.FAILED_OVER})
    | AT_BROKER,
    S.SENDING: frozenset({S.READY, S.UNKNOWN}) | AT_BROKER,
    S.UNKNOWN: frozenset({S.NOT_PLACED, S.MANUAL}) | AT_BROKER,
    # MANUAL ends an order whose trading day is over and whose book is gone.
    S.ACKED: AT_BROKER | {S.MANUAL},
    S.WORKING: frozenset({S.WORKING, S.PARTIAL, S.CANCELLED, S.FILLED, S.REJECTED, S.MANUAL}),
    S.PARTIAL: frozenset({S.WORKING, S.PARTIAL, S.CANCELLED, S.FILLED, S.REJECTED, S.MANUAL}),
    # A late fact wins: what was thought dead may turn out alive or filled, never the reverse.
    S.CANCELLED: frozenset({S.WORKING, S.PARTIAL, S.FILLED, S.CANCELLED}),
    S.REJECTED: frozenset({S.ACKED, S.WORKING, S.PARTIAL, S.FILLED, S.CANCELLED}),
    S.NOT_PLACED: AT_BROKER,
    S.EXPIRED: AT_BROKER,
    S.REJECTED_LOCAL: AT_BROKER,
    S.CANCELLED_LOCAL: AT_BROKER,
    S.FAILED_OVER: AT_BROKER,
    # A person may say that it is not there; an order that surfaces all the same wins even so.
    S.MANUAL: AT_BROKER | {S.NOT_PLACED},
    S.FILLED: frozenset({S.FILLED}),
    # A job begins RUNNING, and no order ever comes here.
    S.RUNNING: frozenset({S.RUNNING, S.STOPPING, S.DONE, S.ESCALATED}),
    S.STOPPING: frozenset({S.STOPPING, S.DONE, S.ESCALATED}),
    S.DONE: frozenset(),
    S.ESCALATED: frozenset(),
}
"""What may follow what; the migrations write the same pairs into the database.

The database asks one thing more: only what has an attempt can be at the broker.
"""


_MAY_BE_THERE: Final = (IN_DOUBT | AT_BROKER | {S.MANUAL}) - {S.REJECTED}


def first_state(kind: TaskKind) -> TaskState:
    """Return the state in which an instruction is journalled."""
    return S.RUNNING if kind in JOBS else S.RECEIVED


_TERMINAL_STATUS: Final = {
    "COMPLETE": S.FILLED,
    "CANCELLED": S.CANCELLED,
    "REJECTED": S.REJECTED,
}
_RESTING_STATUS: Final = frozenset({"OPEN", "TRIGGER PENDING", "AMO REQ RECEIVED"})
_ARRIVING_STATUS: Final = frozenset(
    {"PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING"}
)
"""On the way to the exchange for the first time: a row with one is older than any other."""
_OURS: Final = frozenset(
    {
        S.READY,
        S.EXPIRED,
        S.REJECTED_LOCAL,
        S.CANCELLED_LOCAL,
        S.FAILED_OVER,
        S.NOT_PLACED,
        S.MANUAL,
    }
)
"""What we say of an order without the broker; whatever the broker says outweighs it."""
_ORDER_OF_LIFE: Final = (S.SENDING, S.UNKNOWN, S.ACKED, S.WORKING, S.PARTIAL)


def state_of(order: BrokerOrder) -> TaskState:
    """Return the state that one row of the broker's book speaks of.

    An unknown status is a live one (kite.md §2.5), and ``UPDATE`` is Kite's word for a change of an
    order that rests.
    """
    status = order.status.upper()
    if status in _TERMINAL_STATUS:
        return _TERMINAL_STATUS[status]
    if order.filled_quantity > 0:
        return S.PARTIAL
    if status in _RESTING_STATUS or status == "UPDATE":
        return S.WORKING
    return S.ACKED


def present_of(lineage: Sequence[OrderTask]) -> OrderTask:
    """Return the task that tells where an instruction is that has been on several accounts.

    The last one that is or may be at its broker: a try that was called unsent may have surfaced
    where it was left. Else the newest.

    Args:
        lineage: All of them, the newest last.
    """
    there = [task for task in lineage if task.state in _MAY_BE_THERE]
    return (there or lineage)[-1]


def goes_on_as(task: OrderTask, lineage: Sequence[OrderTask]) -> OrderTask | None:
    """Return the other task of an instruction that counts for one of it, None if this one does.

    Args:
        task: One of them.
        lineage: All of them, the newest last.
    """
    others = [
        other
        for other in lineage
        if other.task_id != task.task_id and (other.hop > task.hop or other.state in _MAY_BE_THERE)
    ]
    return present_of(others) if others else None


def is_in_transit(order: BrokerOrder) -> bool:
    """Return whether the broker or the exchange is at work on an order.

    What was asked of it may still come: interim states have lasted for hours (kite.md §2.5).
    """
    status = order.status.upper()
    return status not in _TERMINAL_STATUS and status not in _RESTING_STATUS


def contradicts(task: OrderTask, order: BrokerOrder) -> bool:
    """Return whether a row shows an order alive that we hold for cancelled or rejected."""
    return task.state in {S.CANCELLED, S.REJECTED} and state_of(order) in LIVE


def merge(task: OrderTask, order: BrokerOrder, *, is_lasting: bool = False) -> TaskUpdate | None:
    """Return what a row of the broker's book adds to a PLACE task, or None if nothing.

    Monotone: the filled quantity never falls, an older row changes nothing, and the order in which
    rows arrive does not matter (I7). Times are whole seconds at Kite, so none is compared; of two
    words for a live order that may follow each other either way, the one merged last stays.

    Args:
        task: As last read.
        order: The row.
        is_lasting: Books have said so for longer than any is out of date: an order that they show
            alive comes back from its end (reliability.md §1.5).
    """
    told = state_of(order)
    filled = max(task.filled_quantity, order.filled_quantity)
    grows = order.filled_quantity > task.filled_quantity
    state = _later(task, told, grows=grows)
    if is_lasting and contradicts(task, order):
        state = S.PARTIAL if told is S.PARTIAL else S.WORKING
    if state in {S.ACKED, S.WORKING} and filled > 0:
        state = S.PARTIAL
    # A fill has been told of before its price was known.
    has_price = grows or (
        order.filled_quantity == task.filled_quantity > 0
        and bool(order.average_price)
        and not task.average_price
    )
    is_news = (
        state is not task.state
        or has_price
        or task.broker_order_id is None
        or (state in LIVE and _is_later_word(order.status, than=task.broker_status))
    )
    if not is_news or state not in TRANSITIONS[task.state]:
        # The journal would refuse it too, and a step it refuses is our bug.
        return None
    says_why = told is state and bool(order.status_message)
    return TaskUpdate(
        state=state,
        event="broker_update",
        broker_order_id=order.order_id,
        # An ended order is not called open again by the row that tells of a fill before its end.
        broker_status=None if state in TERMINAL and told not in TERMINAL else order.status,
        filled_quantity=filled,
        average_price=order.average_price if has_price else None,
        reason="" if not says_why else order.status_message,
        reason_code=_reason_code(task, state),
    )


def _is_later_word(status: str, *, than: str | None) -> bool:
    """Return whether a status of a live order may be newer than the one that is known."""
    if status == than or status.upper() in _TERMINAL_STATUS:
        return False
    if than is None:
        return True
    return status.upper() not in _ARRIVING_STATUS or than.upper() in _ARRIVING_STATUS


def _reason_code(task: OrderTask, state: TaskState) -> str | None:
    """Return why, emptied where it spoke of a doubt or a try that this fact has overtaken."""
    if state is S.REJECTED:
        return "BROKER_REJECTED"
    return "" if task.reason_code else None


def _later(task: OrderTask, told: TaskState, *, grows: bool) -> TaskState:
    """Return the further of two states in an order's life."""
    present = task.state
    if present in _OURS:
        return told
    if present is S.REJECTED and told is not S.REJECTED:
        # The answer to the send said no, but the book has the order: the book knows better. A
        # refusal of the book itself is outweighed by a fill only.
        is_answer_only = task.broker_order_id is None
        return told if is_answer_only or grows else present
    if present is S.FILLED:
        return present
    if present in {S.CANCELLED, S.REJECTED}:
        # Only a fill outweighs an end; a stale live row does not bring an order back.
        return told if told is S.FILLED else present
    if told in TERMINAL:
        return told
    place = {state: number for number, state in enumerate(_ORDER_OF_LIFE)}
    return max(present, told, key=lambda state: place.get(state, 0))
