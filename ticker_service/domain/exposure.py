"""What of an account is open and may still be filled: the reservations that risk limits count.

An order counts with its full size from before it is journalled until it is sent, while it is being
sent and while its outcome is unknown; at the broker with what is left of it. A change counts with
the larger of what was and what was asked for until the order has ended: it may fail at the exchange
after the broker took it. So the sums are never too small. Pure; belongs to one event loop. Source:
reliability.md §6.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from ticker_service.domain.order import Side, TaskKind
from ticker_service.domain.order_state import IN_DOUBT, LIVE, UNSENT, TaskState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable, Mapping

    from ticker_service.domain.order import NewTask, OrderTask

CLOSED_KEPT_MAX: Final = 2_000
"""So many orders that are not open are remembered: news of a step may come after news of a later
one, a late fact may open an order again, and news of a change may come before its order's."""
_OPEN: Final = UNSENT | IN_DOUBT | LIVE
_CHANGE_COUNTS: Final = _OPEN | {TaskState.MANUAL}
_NOTHING: Final = Decimal(0)
_NO_CHANGE: Final = (0, 0, None)


class OpenKey(NamedTuple):
    """What an open order is of."""

    exchange: str
    tradingsymbol: str
    product: str
    side: Side


@dataclass(frozen=True, slots=True)
class Open:
    """What is open of one key; quantities as Kite counts them.

    ``value_inr`` is price times quantity of the orders that have a price, the trigger's where it is
    the only one; ``unpriced_quantity`` is that of the others.
    """

    quantity: int = 0
    value_inr: Decimal = _NOTHING
    unpriced_quantity: int = 0

    def __add__(self, other: Open) -> Open:
        """Return both together."""
        return Open(
            self.quantity + other.quantity,
            self.value_inr + other.value_inr,
            self.unpriced_quantity + other.unpriced_quantity,
        )

    def __sub__(self, other: Open) -> Open:
        """Return this without the other."""
        return Open(
            self.quantity - other.quantity,
            self.value_inr - other.value_inr,
            self.unpriced_quantity - other.unpriced_quantity,
        )


NOTHING_OPEN: Final = Open()


@dataclass(slots=True)
class _Order:
    """One order and what was asked of it; ``version`` is 0 until the journal has told of it."""

    key: OpenKey | None = None
    version: int = 0
    quantity: int = 0
    price_inr: Decimal | None = None
    filled_quantity: int = 0
    is_open: bool = False
    changes: dict[uuid.UUID, tuple[int, int, Decimal | None]] = field(default_factory=dict)
    """By task: its version, the quantity (0 if it leaves that) and the price it asks for."""

    def counted(self) -> Open:
        """Return what it comes to."""
        if not self.is_open or self.key is None:
            return Open()
        asked = self.changes.values()
        quantity = max([self.quantity, *(each for _, each, _ in asked)]) - self.filled_quantity
        prices = [p for p in (self.price_inr, *(each for _, _, each in asked)) if p is not None]
        if quantity <= 0:
            return Open()
        if not prices:
            return Open(quantity, _NOTHING, quantity)
        return Open(quantity, quantity * max(prices), 0)


class Exposure:
    """The sums of one account, kept step by step."""

    def __init__(self) -> None:
        """Begin with nothing open."""
        self.is_whole = False
        """Whether all that is open in the journal counts; who reads it, says so."""
        self._orders: dict[uuid.UUID, _Order] = {}
        self._sums: dict[OpenKey, Open] = {}
        self._total = Open()
        self._closed: OrderedDict[uuid.UUID, _Order] = OrderedDict()
        self._doubted: dict[uuid.UUID, int] = {}
        self._filled: dict[OpenKey, int] = {}

    # --- what is told -------------------------------------------------------------------------

    def reserve(self, new: NewTask) -> None:
        """Count an instruction from before it is journalled."""
        self._apply(new, version=0, state=TaskState.RECEIVED, filled_quantity=0)

    def release(self, new: NewTask) -> None:
        """Count an instruction no more that was not taken."""
        self._drop(new.task_id, new.target_task_id)

    def moved(self, task: OrderTask) -> None:
        """Take a task as a write left it; what is older than what is known changes nothing."""
        self._doubted.pop(task.task_id, None)
        self._apply(
            task, version=task.version, state=task.state, filled_quantity=task.filled_quantity
        )

    def doubted(self, task_id: uuid.UUID, until_ns: int) -> None:
        """Know that a write of a task may have happened; it is to be read (:attr:`doubts`).

        Args:
            task_id: Which task.
            until_ns: Its deadline: what the journal does not have by then will not be sent.
        """
        self._doubted[task_id] = until_ns

    def unknown(self, task_id: uuid.UUID, now_ns: int) -> None:
        """Take that the journal has no such task: once its deadline is over, it never will."""
        if now_ns >= self._doubted.get(task_id, 0):
            known = [*self._orders.items(), *self._closed.items()]
            changed = [key for key, order in known if task_id in order.changes]
            self._drop(task_id, changed[0] if changed else None)

    def forget(self) -> None:
        """Know nothing: the journal is about to be read whole."""
        self.is_whole = False
        for kept in (self._orders, self._sums, self._closed, self._doubted, self._filled):
            kept.clear()
        self._total = Open()

    # --- what is asked ------------------------------------------------------------------------

    @property
    def doubts(self) -> tuple[uuid.UUID, ...]:
        """The tasks that the journal is to be asked for."""
        return tuple(self._doubted)

    @property
    def open_tasks(self) -> frozenset[uuid.UUID]:
        """The orders and changes that count, but for what the journal has not told of yet."""
        orders = {key for key, order in self._orders.items() if order.version}
        changes = {
            key
            for order in self._orders.values()
            for key, (version, quantity, price_inr) in order.changes.items()
            if version and (quantity or price_inr is not None)
        }
        return frozenset(orders | changes)

    @property
    def total(self) -> Open:
        """Everything open, of every key together."""
        return self._total

    def by_key(self) -> Mapping[OpenKey, Open]:
        """Return what is open by what it is of, without what comes to nothing."""
        return self._sums

    def of(self, key: OpenKey) -> Open:
        """Return what is open of one key."""
        return self._sums.get(key, Open())

    def counted(self, task_id: uuid.UUID | None) -> tuple[OpenKey | None, Open]:
        """Return of what an order is and what it counts for, None and nothing if it does not."""
        order = None if task_id is None else self._orders.get(task_id)
        if order is None or not order.counted().quantity:
            return None, Open()
        return order.key, order.counted()

    def with_(self, new: NewTask) -> tuple[Open, Open] | None:
        """Return what the order of an instruction counts for now, and what it would with it.

        None of a change whose order is not known to be open.
        """
        if new.kind is TaskKind.PLACE:
            return Open(), _placed(new).counted()
        target = self._orders.get(new.target_task_id) if new.target_task_id else None
        if target is None:
            return None
        changes = {**target.changes, new.task_id: _asked(new, 0)}
        changed = dataclasses.replace(target, changes=changes)
        return target.counted(), changed.counted()

    def filled(self) -> Mapping[OpenKey, int]:
        """Return how much was filled since this began, by key; it only rises.

        What rises after positions were asked for may not be in them yet.
        """
        return dict(self._filled)

    @classmethod
    def of_tasks(cls, tasks: Iterable[OrderTask]) -> Self:
        """Return the sums of some tasks, computed anew."""
        made = cls()
        for task in tasks:
            made.moved(task)
        return made

    # --- inside -------------------------------------------------------------------------------

    def _apply(
        self, task: NewTask | OrderTask, *, version: int, state: TaskState, filled_quantity: int
    ) -> None:
        if task.kind is TaskKind.PLACE:
            self._apply_order(task, version, state, filled_quantity)
        elif task.kind is TaskKind.MODIFY and task.target_task_id is not None:
            self._apply_change(task, task.target_task_id, version, state)

    def _apply_order(
        self, task: NewTask | OrderTask, version: int, state: TaskState, filled_quantity: int
    ) -> None:
        known = self._known(task.task_id)
        if version < known.version:
            return
        placed = _placed(task)
        if placed.key is not None and filled_quantity > known.filled_quantity:
            more = filled_quantity - known.filled_quantity
            self._filled[placed.key] = self._filled.get(placed.key, 0) + more

        def place(order: _Order) -> None:
            order.key, order.version = placed.key, version
            order.quantity, order.price_inr = placed.quantity, placed.price_inr
            order.filled_quantity = filled_quantity
            order.is_open = state in _OPEN

        self._change(task.task_id, place)

    def _apply_change(
        self, task: NewTask | OrderTask, target_id: uuid.UUID, version: int, state: TaskState
    ) -> None:
        known = self._known(target_id).changes.get(task.task_id, _NO_CHANGE)
        if version >= known[0]:
            asked = _asked(task, version) if state in _CHANGE_COUNTS else (version, 0, None)
            self._change(target_id, lambda order: order.changes.update({task.task_id: asked}))

    def _drop(self, task_id: uuid.UUID, target_id: uuid.UUID | None) -> None:
        """Count an order or a change no more."""
        self._doubted.pop(task_id, None)

        def end(order: _Order) -> None:
            order.is_open = False

        if target_id is not None:
            self._change(target_id, lambda order: order.changes.pop(task_id, None))
        elif task_id in self._orders:
            self._change(task_id, end)

    def _known(self, task_id: uuid.UUID) -> _Order:
        return self._orders.get(task_id) or self._closed.get(task_id) or _Order()

    def _change(self, task_id: uuid.UUID, change: Callable[[_Order], object]) -> None:
        order = self._known(task_id)
        before = order.counted()
        change(order)
        if order.key is not None:
            self._count(order.key, order.counted() - before)
        if order.is_open:
            self._closed.pop(task_id, None)
            self._orders[task_id] = order
        else:
            self._orders.pop(task_id, None)
            self._closed[task_id] = order
            self._closed.move_to_end(task_id)
            if len(self._closed) > CLOSED_KEPT_MAX:
                self._closed.popitem(last=False)

    def _count(self, key: OpenKey, more: Open) -> None:
        self._total += more
        left = self._sums.get(key, Open()) + more
        if left.quantity:
            self._sums[key] = left
        else:
            self._sums.pop(key, None)


def _key(body: Mapping[str, str]) -> OpenKey:
    # In the exchanges' spelling: the day's instruments may be missing, and any text comes so far.
    symbol = body["tradingsymbol"].strip().upper()
    return OpenKey(body["exchange"], symbol, body["product"], Side(body["transaction_type"]))


def _placed(task: NewTask | OrderTask) -> _Order:
    body = task.body
    return _Order(
        key=_key(body), quantity=int(body["quantity"]), price_inr=_price(body), is_open=True
    )


def _asked(task: NewTask | OrderTask, version: int) -> tuple[int, int, Decimal | None]:
    return version, int(task.body.get("quantity", "0")), _price(task.body)


def _price(body: Mapping[str, str]) -> Decimal | None:
    written = body.get("price") or body.get("trigger_price")
    return Decimal(written) if written else None
