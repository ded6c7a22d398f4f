"""The numbers that the broker and the exchange give to orders and trades. Pure apart from counting.

Order ids are opaque strings of 15 digits that begin with the day, as at Kite (kite.md §2.3).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from ticker_service.simulator.options import derived_secret

if TYPE_CHECKING:
    import datetime as dt

GUID_CHARACTERS: Final = 15
ORDER_NUMBER_FIRST: Final = 100_001
EXCHANGE_ORDER_ID_FIRST: Final = 1_100_000_000_000_000
TRADE_ID_FIRST: Final = 200_000


class OrderNumbers:
    """Counts up; the same seed and the same calls give the same numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._orders = itertools.count(ORDER_NUMBER_FIRST)
        self._at_exchange = itertools.count(EXCHANGE_ORDER_ID_FIRST)
        self._trades = itertools.count(TRADE_ID_FIRST)

    def order(self, day: dt.date) -> tuple[str, str]:
        """Return a new order's order_id and guid."""
        number = next(self._orders)
        guid = derived_secret(self._seed, f"guid {number}")[:GUID_CHARACTERS]
        return f"{day:%y%m%d}{number:09d}", guid

    def exchange_order_id(self) -> str:
        """Return the exchange's own number of an order."""
        return str(next(self._at_exchange))

    def trade_id(self) -> str:
        """Return the number of a fill."""
        return str(next(self._trades))
