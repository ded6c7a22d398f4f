"""What the broker says was traded and is held: fills and positions of one account. Pure values.

Source: kite.md §2.2, ``/trades`` and the ``net`` list of ``/portfolio/positions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from decimal import Decimal


class PositionKey(NamedTuple):
    """What a position is of: two products of one instrument are two positions."""

    exchange: str
    tradingsymbol: str
    product: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTrade:
    """One fill of the day; ``quantity`` is above 0, ``average_price`` in rupees."""

    trade_id: str
    order_id: str
    key: PositionKey
    transaction_type: str
    quantity: int
    average_price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPosition:
    """One net position; quantities are below 0 when short.

    ``overnight_quantity`` was carried into the day, so that the difference was traded today.
    ``day_result_inr`` is what the day has brought, realised and marked to the last price by the
    broker when it was asked; None where it did not say.
    """

    key: PositionKey
    quantity: int
    overnight_quantity: int
    day_result_inr: Decimal | None = None

    @property
    def traded_quantity(self) -> int:
        """What the day's fills have made of it."""
        return self.quantity - self.overnight_quantity
