"""The forward of one expiry, from its own options by put-call parity, or from spot with carry.

Pure. Source: greeks.md §4.2 and §4.3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF_SPREAD_MIN_INR: Final = 0.025
"""Half a price step: below it a spread says nothing more about how good a quote is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityForward:
    """The forward that an expiry's call and put prices agree on.

    Attributes:
        forward: Forward price, rupees; NaN when no strike has both prices.
        dispersion: Median distance of the used strikes' forwards from it, rupees; NaN likewise.
        strikes_used: How many strikes were weighed.
        pair_index: Position, in the columns given, of the strike whose forward was taken; -1 when
            there is none. The age of that pair's quotes is the age of the forward.
    """

    forward: float
    dispersion: float
    strikes_used: int
    pair_index: int


NO_FORWARD: Final = ParityForward(
    forward=math.nan, dispersion=math.nan, strikes_used=0, pair_index=-1
)


def parity_forward(  # noqa: PLR0913 - four columns of a chain, three settings by name
    strike: NDArray[np.float64],
    call_price: NDArray[np.float64],
    put_price: NDArray[np.float64],
    half_spread: NDArray[np.float64],
    *,
    guess: float,
    discount: float = 1.0,
    strikes_max: int = 7,
) -> ParityForward:
    """Return the weighted median of ``K + (C - P) / discount`` near the money."""
    with np.errstate(all="ignore"):
        gap = (call_price - put_price) / discount
        forwards = strike + gap
        distance = np.abs(gap) if math.isnan(guess) else np.abs(strike - guess)
        usable = np.flatnonzero(np.isfinite(forwards) & np.isfinite(distance))
        nearest = usable[np.argsort(distance[usable], kind="stable")[:strikes_max]]
        if nearest.size == 0:
            return NO_FORWARD
        ordered = nearest[np.argsort(forwards[nearest], kind="stable")]
        weight = 1.0 / np.fmax(half_spread[ordered], HALF_SPREAD_MIN_INR)
        reached = np.cumsum(weight)
        median = ordered[np.searchsorted(reached, 0.5 * reached[-1])]
        forward = float(forwards[median])
        dispersion = float(np.median(np.abs(forwards[ordered] - forward)))
    return ParityForward(
        forward=forward,
        dispersion=dispersion,
        strikes_used=int(ordered.size),
        pair_index=int(median),
    )


def carry_forward(spot: float, rate: float, years: float) -> float:
    """Return ``spot * exp(rate * years)``, the forward when nothing better is known."""
    return spot * math.exp(rate * years)
