"""Orders that the broker carries out as several: the legs of icebergs and of cover orders. Pure.

An iceberg is one instruction and, at Kite, an order of its own for each leg, placed when the one
before is filled; all carry the instruction's tag, and ``meta`` says which leg a row is. A cover
order's second leg, its stop, is an order of the other side that names the first in
``parent_order_id``. Whether Kite repeats the tag there is not known, so nothing here asks for it.
Source: kite.md §2.3 and §2.4; reliability.md §1.7.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.domain.order import TaskKind, Variety, routed_variety
from ticker_service.domain.order_state import TERMINAL, TaskState, state_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ticker_service.domain.order import BrokerOrder, OrderTask

EXIT: Final = "exit"
"""In the body of a cancel: it is meant for a cover order's second leg, and closes its position."""
_PRICE_STEP: Final = Decimal("0.0001")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Which order at the broker a change or a cancel goes to."""

    order_id: str
    variety: Variety
    parent_order_id: str | None = None


def is_iceberg(task: OrderTask) -> bool:
    """Return whether an instruction becomes an order per leg."""
    return task.body.get("variety") == Variety.ICEBERG


def legs_of(body: Mapping[str, str]) -> int:
    """Return as how many orders of the day the broker counts the order of a form (kite.md §4)."""
    return int(body.get("iceberg_legs", 1))


def is_exit(task: OrderTask) -> bool:
    """Return whether a cancel closes the position of a cover order."""
    return task.kind is TaskKind.CANCEL and EXIT in task.body


def keep_leg(legs: dict[str, BrokerOrder], row: BrokerOrder) -> None:
    """Keep the newest row of a leg; an older one that comes later changes nothing."""
    known = legs.get(row.order_id)
    if known is not None:
        is_older = row.filled_quantity < known.filled_quantity
        is_revived = state_of(known) in TERMINAL and state_of(row) not in TERMINAL
        if is_older or is_revived:
            return
    legs[row.order_id] = row


def clashes(row: BrokerOrder, task: OrderTask, legs: Mapping[str, BrokerOrder]) -> bool:
    """Return whether a leg of an iceberg is one too many: then there are two icebergs."""
    number = _number(row)
    if number == 1 and task.broker_order_id not in {None, row.order_id}:
        return True
    return any(
        _number(known) == number and order_id != row.order_id for order_id, known in legs.items()
    )


def whole_iceberg(task: OrderTask, legs: Collection[BrokerOrder]) -> BrokerOrder | None:
    """Return the legs that are known as one row about the whole, None while one is missing.

    A leg that is filled is no end: the next one is on its way. The row bears the first leg's id.
    """
    rows = sorted(legs, key=_number)
    if [_number(row) for row in rows] != list(range(1, len(rows) + 1)):
        return None
    newest, quantity = rows[-1], int(task.body["quantity"])
    filled = sum(row.filled_quantity for row in rows)
    value = sum((row.filled_quantity * row.average_price for row in rows), Decimal(0))
    status = newest.status
    match state_of(newest):
        case TaskState.FILLED:
            status = "COMPLETE" if filled >= quantity else "OPEN"
        case TaskState.REJECTED if filled:
            status = "CANCELLED"  # what was filled before stays filled
    return dataclasses.replace(
        newest,
        order_id=rows[0].order_id,
        status=status,
        quantity=quantity,
        filled_quantity=filled,
        average_price=(value / filled).quantize(_PRICE_STEP) if filled else Decimal(0),
    )


def address_of(task: OrderTask, target: OrderTask, legs: Collection[BrokerOrder]) -> Address | None:
    """Return where a change or a cancel goes now, None while that is not known.

    Args:
        task: The MODIFY or CANCEL.
        target: The PLACE task that it speaks of.
        legs: What the broker has shown of the target's legs.
    """
    order_id, variety = target.broker_order_id, routed_variety(target)
    if order_id is None:
        return None
    if is_exit(task):
        return _to_second_leg(order_id, legs)
    if variety is Variety.CO and "trigger_price" in task.body:
        # Until the first leg is filled, its stop may be a mere number of it.
        to_second = _to_second_leg(order_id, legs)
        if to_second is not None:
            return to_second
    if variety is Variety.ICEBERG and legs:
        return Address(order_id=max(legs, key=_number).order_id, variety=variety)
    return Address(order_id=order_id, variety=variety)


def shown_of(
    task: OrderTask,
    target: OrderTask,
    book: Mapping[str, BrokerOrder],
    legs: Collection[BrokerOrder],
) -> BrokerOrder | None:
    """Return the row that shows whether a change or a cancel has taken effect, if there is one.

    Args:
        task: The MODIFY or CANCEL.
        target: The PLACE task that it speaks of.
        book: The newest book by order id.
        legs: What the broker has shown of the target's legs.
    """
    if is_iceberg(target):
        return whole_iceberg(target, legs)
    address = address_of(task, target, legs)
    return None if address is None else book.get(address.order_id)


def _to_second_leg(order_id: str, legs: Collection[BrokerOrder]) -> Address | None:
    """Return where a cover order's stop is: the one that still stands, if several are shown."""
    rows = sorted(legs, key=lambda row: (state_of(row) in TERMINAL, row.order_id))
    if not rows:
        return None
    return Address(order_id=rows[0].order_id, variety=Variety.CO, parent_order_id=order_id)


def _number(row: BrokerOrder) -> int:
    """Return which leg a row is; one that does not say is the first, and a second such one odd."""
    return row.iceberg.leg if row.iceberg is not None else 1
