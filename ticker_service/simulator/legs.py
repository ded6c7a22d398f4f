"""Orders that come from orders: legs of icebergs, second legs of cover orders, slices. Pure.

How Kite makes them is documented in part only (kite.md §2.3, §2.4); docs/simulator.md says what is
a guess. The exchange asks here what to place next, and places it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from ticker_service.simulator import matching
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.order import Order, OrderTerms, OrderType, Side, Variety

if TYPE_CHECKING:
    from collections.abc import Mapping

SLICES_MAX: Final = 10
ICEBERG_LEGS_MIN: Final = 2
ICEBERG_LEGS_MAX: Final = 50


def iceberg_legs(fields: Mapping[str, str], quantity: int) -> int:
    """Return how many legs an iceberg asks for.

    Raises:
        KiteError: The legs are too few, too many or do not make up the quantity.
    """
    texts = (fields.get("iceberg_legs", ""), fields.get("iceberg_quantity", ""))
    if not all(text.isascii() and text.isdecimal() for text in texts):
        raise KiteError.input("Invalid `iceberg_legs` or `iceberg_quantity`.")
    legs, each = map(int, texts)
    if not ICEBERG_LEGS_MIN <= legs <= ICEBERG_LEGS_MAX:
        raise KiteError.input("Invalid `iceberg_legs`.")
    if legs * each != quantity:
        raise KiteError.input("Invalid `iceberg_quantity`.")
    return legs


def next_leg(order: Order) -> OrderTerms | None:
    """Return the terms of the leg that follows a filled one, None after the last."""
    terms = order.terms
    if terms.variety is not Variety.ICEBERG or terms.leg == terms.legs:
        return None
    return dataclasses.replace(order.asked, leg=terms.leg + 1)


def second_leg(order: Order, *, quantity: int, repeats_tag: bool) -> OrderTerms:
    """Return the stop that closes what of a cover order has been filled."""
    terms = order.terms
    return dataclasses.replace(
        terms,
        side=Side.SELL if terms.side is Side.BUY else Side.BUY,
        order_type=OrderType.SL_M,
        quantity=quantity,
        price_raw=0,
        trigger_raw=order.asked.stop_raw,
        stop_raw=0,
        protection_percent=matching.AUTOMATIC_STOP,
        tag=terms.tag if repeats_tag else None,
        tags=terms.tags if repeats_tag else (),
    )


def closing(order: Order, price_raw: int) -> OrderTerms:
    """Return the terms of a second leg that is told to close the position now."""
    return dataclasses.replace(
        order.asked,
        order_type=OrderType.LIMIT,
        price_raw=price_raw,
        trigger_raw=0,
        protection_percent=None,
    )


def slices(quantity: int, largest: int) -> list[int]:
    """Return the quantities into which a quantity above the freeze is cut.

    Raises:
        KiteError: There would be too many.
    """
    whole, rest = divmod(quantity, largest)
    parts = [largest] * whole + ([rest] if rest else [])
    if len(parts) > SLICES_MAX:
        raise KiteError.input(f"Maximum {SLICES_MAX} slices are allowed for an order.")
    return parts


def meta(terms: OrderTerms) -> dict[str, object]:
    """Return what a row of the book says beside its columns."""
    if terms.variety is not Variety.ICEBERG:
        return {}
    total = terms.legs * terms.quantity
    return {
        "iceberg": {
            "leg": terms.leg,
            "legs": terms.legs,
            "leg_quantity": terms.quantity,
            "total_quantity": total,
            "remaining_quantity": total - terms.leg * terms.quantity,
        }
    }
