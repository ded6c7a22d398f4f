"""Settle what is UNKNOWN by evidence from the broker's book; never by sending again.

Path: order -> admit -> journal -> execute -> [settle] -> report. An ambiguous send counts at full
exposure until the book shows its order (adopted by the merge) or proves its absence. Proof needs
every condition of reliability.md §1.7: the send window has closed, enough whole books of the same
trading day were read after that, none held the tag, and no order without a tag looks like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import TaskKind, TaskUpdate, change_from_fields
from ticker_service.domain.order_state import TaskState, is_in_transit, state_of
from ticker_service.domain.session import ist_date

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.order import BrokerOrder, OrderTask


@dataclass(slots=True)
class _Absence:
    """Whole books read since the send window closed that did not hold a task's order."""

    reads: int
    last_read_ns: int


class Evidence:
    """What the books so far say about each unknown task of one account."""

    def __init__(self, config: OrdersConfig) -> None:
        self._config = config
        self._absences: dict[uuid.UUID, _Absence] = {}

    def judge_place(
        self,
        task: OrderTask,
        rows: Sequence[BrokerOrder],
        *,
        began_ns: int,
        is_whole: bool,
    ) -> TaskUpdate | None:
        """Return what a book that lacks the task's tag says about an UNKNOWN placement.

        Args:
            task: Still UNKNOWN after this book was merged.
            rows: The whole book.
            began_ns: When its reading began, ns since the Unix epoch.
            is_whole: Whether it holds every order that earlier books held.

        Returns:
            The end of the task, or None while the evidence is not enough.
        """
        if ist_date(began_ns) != ist_date(task.intent_at_ns or task.created_at_ns):
            return _DAY_OVER
        if not self._is_window_closed(task, began_ns) or not is_whole:
            return None
        if any(_looks_like(task, row) for row in rows):
            return _to_manual(
                "FINGERPRINT", "an order without a tag looks like it; look and decide"
            )
        if not self._is_absent_often_enough(task, began_ns):
            return None
        return TaskUpdate(
            state=TaskState.NOT_PLACED,
            event="proven_absent",
            reason_code="NOT_PLACED",
            reason="the broker's book does not hold it; it will not be sent again",
        )

    def judge_target(
        self, task: OrderTask, target: BrokerOrder | None, *, began_ns: int
    ) -> TaskUpdate | None:
        """Return what the target's present row says about an UNKNOWN change or cancel.

        Without effect is only what left the order at rest as it was, in enough books.
        """
        if target is None:
            is_over = ist_date(began_ns) != ist_date(task.intent_at_ns or task.created_at_ns)
            return _DAY_OVER if is_over else None
        if _has_taken_effect(task, target):
            return TaskUpdate(state=TaskState.ACKED, event="settled_by_book")
        if state_of(target) in {TaskState.FILLED, TaskState.REJECTED, TaskState.CANCELLED}:
            return TaskUpdate(
                state=TaskState.REJECTED,
                event="settled_by_book",
                reason_code="ORDER_ENDED",
                reason=f"the order had ended as {target.status}",
            )
        if is_in_transit(target):
            self.forget(task)
            return None
        is_proven = self._is_window_closed(task, began_ns) and self._is_absent_often_enough(
            task, began_ns
        )
        if not is_proven:
            return None
        return _NO_EFFECT if task.kind is TaskKind.CANCEL or _shown(task) else _NOT_SHOWN

    def forget(self, task: OrderTask) -> None:
        """Drop what was gathered about a task that has been settled."""
        self._absences.pop(task.task_id, None)

    def _is_window_closed(self, task: OrderTask, began_ns: int) -> bool:
        """A1: no byte can leave any more, and what left has had time to show."""
        sent_by_ns = task.send_not_after_ns or task.updated_at_ns
        return began_ns >= sent_by_ns + int(self._config.settle_after_s * NS_PER_S)

    def _is_absent_often_enough(self, task: OrderTask, began_ns: int) -> bool:
        """A2: enough reads, spaced, all begun after the window had closed."""
        seen = self._absences.setdefault(task.task_id, _Absence(0, 0))
        if began_ns - seen.last_read_ns >= self._config.settle_spacing_s * NS_PER_S:
            seen.reads += 1
            seen.last_read_ns = began_ns
        return seen.reads >= self._config.settle_reads_min


def _to_manual(code: str, reason: str) -> TaskUpdate:
    return TaskUpdate(
        state=TaskState.MANUAL, event="needs_a_person", reason_code=code, reason=reason
    )


def _looks_like(task: OrderTask, row: BrokerOrder) -> bool:
    """A4: tags have been lost before; what matches in everything else may be ours."""
    return (
        not row.tags
        and all(
            task.body.get(name) == getattr(row, name)
            for name in ("exchange", "tradingsymbol", "transaction_type", "product")
        )
        and int(task.body.get("quantity", 0)) == row.quantity
    )


_DAY_OVER: Final = _to_manual("DAY_OVER", "the book of its trading day is gone")
_NO_EFFECT: Final = TaskUpdate(
    state=TaskState.NOT_PLACED,
    event="proven_absent",
    reason_code="NO_EFFECT",
    reason="the order still stands as before; ask again if it is still wanted",
)


_NOT_SHOWN: Final = _to_manual("NOT_SHOWN", "the book does not show the fields it changes")


def _has_taken_effect(task: OrderTask, target: BrokerOrder) -> bool:
    if task.kind is TaskKind.CANCEL:
        return state_of(target) is TaskState.CANCELLED
    shown = _shown(task)
    return bool(shown) and all(getattr(target, name) == value for name, value in shown.items())


def _shown(task: OrderTask) -> dict[str, object]:
    """Return what a change sets of the fields that a row of the book shows."""
    change = change_from_fields(task.body)
    wanted = {
        "order_type": change.order_type,
        "quantity": change.quantity,
        "price": change.price,
        "trigger_price": change.trigger_price,
    }
    return {name: value for name, value in wanted.items() if value is not None}
