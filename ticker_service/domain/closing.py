"""How much of a position is still to be closed, and whether an order does nothing but close. Pure.

An order strictly reduces the broker's net position if it is on the side that closes it, and with
everything that is under way on that side could not come to more than is held: then the position
cannot change its sign even if all of it fills. Source: reliability.md §6.

A position is read at one moment and fills go on. So each order counts with what it may come to in
all, less what of it was among the fills that were read just before the position. That needs no
clock, and errs on the side of too little room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.domain.order import Product, Side, Variety
from ticker_service.domain.portfolio import PositionKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLOSING_VARIETIES: Final = frozenset({Variety.REGULAR, Variety.ICEBERG})
"""What may close a position: the others open one of their own, or wait for another day."""
_COVER: Final = "CO"
"""The product of a cover order's position, whatever product was asked for (kite.md §2.3)."""
_DELIVERED: Final = frozenset({Product.CNC.value, Product.MTF.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """One order that may fill, or has filled since the position was read; quantities in units.

    ``most`` is what may be filled of it in all, ``counted`` what of that the position has already.
    """

    key: PositionKey
    side: Side
    most: int
    counted: int = 0

    @property
    def left(self) -> int:
        """What it may still do to the position as it was read."""
        return max(self.most - self.counted, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """One net position and what is under way to close it.

    Attributes:
        key: Of what.
        quantity: Held net, below 0 when short.
        under_way: What the orders on the closing side may still fill together.
    """

    key: PositionKey
    quantity: int
    under_way: int = 0

    @property
    def side(self) -> Side | None:
        """The side that closes it; None if there is nothing that an order closes.

        Below 0, shares for delivery are not short: they were sold out of the holdings.
        """
        if self.quantity < 0 and self.key.product not in _DELIVERED:
            return Side.BUY
        return Side.SELL if self.quantity > 0 else None

    @property
    def room(self) -> int:
        """How much may be sent to close it beside what is under way."""
        return max(abs(self.quantity) - self.under_way, 0) if self.side else 0

    def refusal(self, side: Side, quantity: int) -> str:
        """Return why an order does not strictly reduce the position, empty if it does."""
        held = f"{':'.join(self.key)} has a net position of {self.quantity}"
        if side is not self.side:
            return f"{held}, which {side} does not reduce"
        if quantity > self.room:
            return (
                f"{held}, of which {self.under_way} are being closed already: "
                f"{side} {quantity} could come to more than the {self.room} that are left"
            )
        return ""


def closing(key: PositionKey, quantity: int, orders: Iterable[UnderWay]) -> Closing:
    """Return a position with what is under way on the side that closes it.

    Orders on the other side are left out: what they add to the position may be closed once a
    reading shows it.
    """
    held = Closing(key=key, quantity=quantity)
    left = sum(each.left for each in orders if each.key == key and each.side is held.side)
    return Closing(key=key, quantity=quantity, under_way=left)


def key_of(body: Mapping[str, str]) -> PositionKey:
    """Return which position an order's form is about, in the exchanges' spelling of the symbol."""
    product = _COVER if body.get("variety") == Variety.CO else body["product"]
    return PositionKey(body["exchange"], body["tradingsymbol"].strip().upper(), product)


def nearest_to_zero(quantity: int, other: int) -> int:
    """Return how much two readings of one position agree is held; 0 where their signs differ."""
    if quantity * other <= 0:
        return 0
    return min(quantity, other, key=abs)
