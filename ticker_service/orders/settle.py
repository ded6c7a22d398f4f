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
from ticker_service.domain.order import (
    OrderType,
    TaskKind,
    TaskUpdate,
    Variety,
    change_from_fields,
)
from ticker_service.domain.order_legs import is_exit
from ticker_service.domain.order_state import TaskState, is_in_transit, state_of
from ticker_service.domain.session import ist_date, read_kite_time

if TYPE_CHECKING:
    import uuid
    from collections.abc import Container, Iterable, Sequence

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.order import BrokerOrder, OrderTask
    from ticker_service.runtime.clock import Moment


CLOCKS_APART_NS_MAX: Final = 120 * NS_PER_S
_ALIKE: Final = ("exchange", "tradingsymbol", "transaction_type")
AFTER_MARKET_DAYS_MAX: Final = 5
"""So long an after-market order may wait for the session it is meant for: over a weekend with
holidays on both sides. Which day that is, only the exchange's circulars say."""


@dataclass(slots=True)
class _Doubt:
    """What was looked at of one task; all by the clock that cannot be set.

    ``reads`` counts whole books since the send window closed that did not hold its order.
    """

    since_ns: int
    reads: int = 0
    last_read_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How far the proof is that the order of a doubt is not there.

    Never before ``not_before_ns``, ns since the Unix epoch, and with ``reads`` of ``reads_min``
    whole books without it, which began after that.
    """

    not_before_ns: int
    reads: int
    reads_min: int


class Evidence:
    """What the books so far say about each unknown task of one account."""

    def __init__(self, config: OrdersConfig) -> None:
        self._config = config
        self._doubts: dict[uuid.UUID, _Doubt] = {}

    def keep_only(self, tasks: Iterable[OrderTask]) -> None:
        """Drop what was gathered about tasks that are in doubt no more."""
        left = {task.task_id for task in tasks}
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if key in left}

    def proof(self, task: OrderTask, now: Moment) -> Proof:
        """Return how far the proof is for an UNKNOWN task."""
        wait_ns = int(self._config.settle_after_s * NS_PER_S)
        doubt = self._doubts.get(task.task_id) or _Doubt(now.monotonic_ns)
        left_ns = wait_ns - (now.monotonic_ns - doubt.since_ns)
        return Proof(
            not_before_ns=max(_sent_by_ns(task) + wait_ns, now.now_ns + left_ns),
            reads=doubt.reads,
            reads_min=self._config.settle_reads_min,
        )

    def judge_place(
        self,
        task: OrderTask,
        rows: Sequence[BrokerOrder],
        *,
        began: Moment,
        is_whole: bool,
        ours: Container[str] = (),
    ) -> TaskUpdate | None:
        """Return what a book that lacks the task's tag says about an UNKNOWN placement.

        Args:
            task: Still UNKNOWN after this book was merged.
            rows: The whole book.
            began: When its reading began.
            is_whole: Whether it holds every order of the day that is known.
            ours: The broker's ids of orders that belong to other tasks.

        Returns:
            The end of the task, or None while the evidence is not enough.
        """
        if _is_day_over(task, began):
            return _DAY_OVER
        if not self._is_window_closed(task, began) or not is_whole:
            return None
        if any(looks_like(task, row) for row in rows if row.order_id not in ours):
            return _to_manual(
                "FINGERPRINT", "an order without a tag looks like it; look and decide"
            )
        if not self._is_absent_often_enough(task, began):
            return None
        return TaskUpdate(
            state=TaskState.NOT_PLACED,
            event="proven_absent",
            reason_code="NOT_PLACED",
            reason="the broker's book does not hold it; it will not be sent again",
        )

    def judge_target(
        self, task: OrderTask, target: BrokerOrder | None, *, began: Moment
    ) -> TaskUpdate | None:
        """Return what the target's present row says about an UNKNOWN change or cancel.

        Without effect is only what left the order at rest as it was, in enough books. That a change
        took effect is believed from the second book on: the first may have been asked for before
        the change was sent, and show a price that it only returns to.
        """
        if target is None:
            return _DAY_OVER if _is_day_over(task, began) else None
        is_later_book = task.task_id in self._doubts
        self._doubt(task, began)
        is_certain = task.kind is TaskKind.CANCEL or is_later_book
        if is_certain and _has_taken_effect(task, target):
            return TaskUpdate(state=TaskState.ACKED, event="settled_by_book")
        if state_of(target) in {TaskState.FILLED, TaskState.REJECTED, TaskState.CANCELLED}:
            return TaskUpdate(
                state=TaskState.REJECTED,
                event="settled_by_book",
                reason_code="ORDER_ENDED",
                reason=f"the order had ended as {target.status}",
            )
        if is_in_transit(target) or _has_taken_effect(task, target):
            self._doubt(task, began).reads = 0
            return None
        is_proven = self._is_window_closed(task, began) and self._is_absent_often_enough(
            task, began
        )
        if not is_proven:
            return None
        return _NO_EFFECT if task.kind is TaskKind.CANCEL or _shown(task) else _NOT_SHOWN

    def _doubt(self, task: OrderTask, began: Moment) -> _Doubt:
        return self._doubts.setdefault(task.task_id, _Doubt(began.monotonic_ns))

    def _is_window_closed(self, task: OrderTask, began: Moment) -> bool:
        """A1: no byte can leave any more, and what left has had time to show.

        By both clocks: wall time alone could be set forward, and an order's absence proven while it
        is under way. The other one begins anew with the process, so a restart waits once more.
        """
        wait_ns = int(self._config.settle_after_s * NS_PER_S)
        waited_ns = began.monotonic_ns - self._doubt(task, began).since_ns
        return began.now_ns >= _sent_by_ns(task) + wait_ns and waited_ns >= wait_ns

    def _is_absent_often_enough(self, task: OrderTask, began: Moment) -> bool:
        """A2: enough reads, spaced, all begun after the window had closed."""
        doubt = self._doubt(task, began)
        spacing_ns = int(self._config.settle_spacing_s * NS_PER_S)
        last_ns = doubt.last_read_ns
        if last_ns is None or began.monotonic_ns - last_ns >= spacing_ns:
            doubt.reads += 1
            doubt.last_read_ns = began.monotonic_ns
        return doubt.reads >= self._config.settle_reads_min


def judge_live(task: OrderTask, *, is_in_book: bool, began: Moment) -> TaskUpdate | None:
    """Return the end of an order that rested when its trading day ended, None while it may rest.

    No order of these validities outlives its session, and the book shows one day only. An end that
    was not seen, because we were not there, cannot be seen any more.
    """
    return None if is_in_book or _days_since(task, began) <= _days_to_rest(task) else _DAY_OVER


def judge_unseen(task: OrderTask, *, began: Moment) -> TaskUpdate | None:
    """Return the end of an order in doubt or at rest whose book can be read no more.

    For when no book comes at all, for want of a login perhaps: one that came now would be of a
    later day. The day after its own is let pass, because Kite does not say when it begins a book.
    """
    return _DAY_OVER if _days_since(task, began) > 1 + _days_to_rest(task) else None


def _sent_by_ns(task: OrderTask) -> int:
    """Return by when the last byte of a send has left if it ever did, ns since the Unix epoch."""
    return task.send_not_after_ns or task.updated_at_ns


def _days_to_rest(task: OrderTask) -> int:
    """Return how many days after its own an order at rest may end."""
    return AFTER_MARKET_DAYS_MAX if task.body.get("variety") == Variety.AMO else 0


def _is_day_over(task: OrderTask, began: Moment) -> bool:
    return _days_since(task, began) > 0


def _days_since(task: OrderTask, began: Moment) -> int:
    sent_on = ist_date(task.intent_at_ns or task.created_at_ns)
    return (ist_date(began.now_ns) - sent_on).days


def _to_manual(code: str, reason: str) -> TaskUpdate:
    return TaskUpdate(
        state=TaskState.MANUAL, event="needs_a_person", reason_code=code, reason=reason
    )


def looks_like(task: OrderTask, row: BrokerOrder) -> bool:
    """Return whether an order without a tag may be a task's: tags have been lost before (A4)."""
    return (
        not row.tags
        and not is_older(row, task)
        and all(task.body.get(name) == getattr(row, name) for name in _ALIKE)
        # Kite may show a cover order under a product of its own (kite.md §2.3).
        and (row.product == task.body.get("product") or task.body.get("variety") == Variety.CO)
        and int(task.body.get("quantity", 0))
        == (row.iceberg.total_quantity if row.iceberg else row.quantity)
    )


def is_older(row: BrokerOrder, task: OrderTask) -> bool:
    """Return whether an order was there before the task was sent, by more than clocks differ."""
    placed_ns = read_kite_time(row.order_timestamp)
    sent_ns = task.intent_at_ns or task.created_at_ns
    return placed_ns is not None and placed_ns < sent_ns - CLOCKS_APART_NS_MAX


_DAY_OVER: Final = _to_manual(
    "DAY_OVER", "its trading day is over, and the book does not say how it ended"
)
_NO_EFFECT: Final = TaskUpdate(
    state=TaskState.NOT_PLACED,
    event="proven_absent",
    reason_code="NO_EFFECT",
    reason="the order still stands as before; ask again if it is still wanted",
)


_NOT_SHOWN: Final = _to_manual("NOT_SHOWN", "the book does not show the fields it changes")


def _has_taken_effect(task: OrderTask, target: BrokerOrder) -> bool:
    if is_exit(task):
        # However the second leg ended, the position that it protected is closed.
        return state_of(target) in {TaskState.FILLED, TaskState.CANCELLED}
    if task.kind is TaskKind.CANCEL:
        return state_of(target) is TaskState.CANCELLED
    shown = _shown(task)
    return bool(shown) and all(getattr(target, name) == value for name, value in shown.items())


def _shown(task: OrderTask) -> dict[str, object]:
    """Return what a change sets of the fields that a row of the book shows.

    What is told to be MARKET or SL-M the book shows as the limit order at the end of its band that
    Kite makes of it (kite.md §2.3).
    """
    change = change_from_fields(task.body)
    is_banded = change.order_type in {OrderType.MARKET, OrderType.SL_M}
    wanted = {
        "order_type": None if is_banded else change.order_type,
        "quantity": change.quantity,
        "price": change.price,
        "trigger_price": change.trigger_price,
    }
    return {name: value for name, value in wanted.items() if value is not None}
