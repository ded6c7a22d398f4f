"""At what price an exit sends LIMIT where the broker takes no MARKET. Pure.

Kite lets no MARKET orders through in stock options, far contracts and what has not traded today
(its support pages on order rejections), whatever their protection. A LIMIT at the end of the same
band round the last price does what the MARKET order would have done: Kite makes such a LIMIT of it
(kite.md §2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.domain.order import Side

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTOMATIC_PROTECTION: Final = Decimal(-1)
PERCENT: Final = 100
Bands = tuple[tuple[Decimal, Decimal], ...]
_BANDS: Final[Bands] = ((Decimal(100), Decimal(2)), (Decimal(500), Decimal(1)))
_BAND: Final = Decimal("0.5")
_OPTION_BANDS: Final[Bands] = (
    (Decimal(10), Decimal(5)),
    (Decimal(100), Decimal(3)),
    (Decimal(500), Decimal(2)),
)
_OPTION_BAND: Final = Decimal(1)
"""Kite's own bands: below each price, rupees, so many percent (kite.md §2.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The end of a band round a last price: the worst price at which an exit trades.

    ``percent`` is the width of the band; prices are rupees.
    """

    price: Decimal
    last: Decimal
    percent: Decimal

    def __str__(self) -> str:
        """Say it as a person reads it."""
        return f"{self.price:f}, the end of {self.percent:f} % round {self.last.normalize():f}"


def percent_of(protection: Decimal, last: Decimal, *, is_option: bool) -> Decimal:
    """Return the width of a band, percent; -1 is Kite's own."""
    if protection != AUTOMATIC_PROTECTION:
        return protection
    bands: Sequence[tuple[Decimal, Decimal]] = _OPTION_BANDS if is_option else _BANDS
    widest = _OPTION_BAND if is_option else _BAND
    return next((percent for below, percent in bands if last < below), widest)


def edge_of(
    last: Decimal,
    side: Side,
    percent: Decimal,
    *,
    price_step: Decimal,
    circuit: tuple[Decimal, Decimal] | None = None,
) -> Edge | None:
    """Return the end of a band on the price step, inside the day's circuit limits where known.

    Args:
        last: What the instrument last traded at, rupees.
        side: Of the order.
        percent: Of the band, above 0.
        price_step: Rupees; 0 where it is not known.
        circuit: The lowest and the highest price of the day, rupees; None where not known.

    Returns:
        None where no such price can be told.
    """
    numbers = (last, percent, price_step)
    if not all(number.is_finite() and number > 0 for number in numbers):
        return None
    width = last * percent / PERCENT
    # Rounded inwards, so that it never lies outside the band.
    if side is Side.BUY:
        price = _on_step(last + width, price_step, ROUND_FLOOR)
    else:
        price = _on_step(last - width, price_step, ROUND_CEILING)
    price = max(price, price_step)
    if circuit is not None:
        lowest = _on_step(circuit[0], price_step, ROUND_CEILING)
        highest = _on_step(circuit[1], price_step, ROUND_FLOOR)
        price = min(price, highest) if side is Side.BUY else max(price, lowest)
        if not lowest <= price <= highest:
            return None  # the last price is outside of them, so one of the two is wrong
    return Edge(price=price, last=last, percent=percent) if price > 0 else None


def _on_step(price: Decimal, price_step: Decimal, rounding: str) -> Decimal:
    steps = (price / price_step).to_integral_value(rounding)
    return (steps * price_step).quantize(price_step)
