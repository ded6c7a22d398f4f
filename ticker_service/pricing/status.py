"""What became of a row's price: solved, or the reason why it could not be.

The kernel sets the first five. The rest belong to the layer above, which chooses the price and
the forward that a row is solved with; they are here so that one byte says everything.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class PriceStatus(IntEnum):
    """One byte per row; the name is what goes on the wire."""

    OK = 0
    """Volatility and Greeks are those of the price."""
    BELOW_INTRINSIC = 1
    """The price holds no time value, so no volatility explains it."""
    ABOVE_BOUND = 2
    """The price is at or above what any volatility can reach (forward for a call, strike for a
    put, discounted)."""
    EXPIRED = 3
    """No time is left."""
    BAD_INPUT = 4
    """A number is missing, not finite, not positive, or outside the kernel's limits."""
    CROSSED = 5
    """The bid is above the ask, so there is no mid to solve; a last trade may have served."""
    ONE_SIDED = 6
    """Only one side of the book is quoted; a last trade may have served."""
    STALE = 7
    """The price is too old to be solved against the present forward; the values are kept."""
    UNRELIABLE = 8
    """One price step, or the doubt in what was solved with, moves the volatility by more than a
    point; the values are kept."""
    NO_PRICE = 9
    """Neither quote nor trade has been seen."""
    NO_FORWARD = 10
    """The expiry has no forward yet."""


STATUS_WIRE_NAMES: Final = tuple(status.name for status in PriceStatus)
"""Wire name by code: ``STATUS_WIRE_NAMES[status]``."""

if [int(status) for status in PriceStatus] != list(range(len(PriceStatus))):  # pragma: no cover
    raise AssertionError("Invariant: status codes are not the positions of their wire names")
