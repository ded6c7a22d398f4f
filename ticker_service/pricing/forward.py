"""The forward of one expiry, from its own options by put-call parity, or from spot with carry.

Pure. Source: ``docs/pricing.md`` §6.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF_SPREAD_MIN_INR: Final = 0.025
"""Half a price step: below it a spread says nothing more about how good a quote is."""
CARRY_MAX: Final = 100.0
"""A growth beyond exp(100) is a mistaken input."""


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
    """Return the weighted median of ``K + (C - P) / discount`` near the money.

    One strike alone scatters by its spread, and strikes far from the money by their stale legs;
    the median over a few near ones, each weighing as much as its quotes are tight, moves only when
    most of them move. A strike without both prices and a spread does not count.

    Args:
        strike: Strikes of one expiry, rupees, any order, shape ``(n,)``.
        call_price: Price of each strike's call, rupees, NaN where missing, shape ``(n,)``.
        put_price: Price of each strike's put, likewise.
        half_spread: Sum of the two legs' half spreads, rupees, shape ``(n,)``; zero or more.
        guess: About where the forward is, rupees: the last one, or spot. NaN when nothing is
            known; the strikes whose call and put are closest in price are then the nearest.
        discount: exp(-rate * years) of the expiry.
        strikes_max: How many of the nearest strikes to weigh.

    Returns:
        The forward; ``NO_FORWARD`` when no strike can be used. Never raises on any values.
    """
    if not discount > 0.0:
        return NO_FORWARD
    with np.errstate(all="ignore"):
        gap = (call_price - put_price) / discount
        forwards = strike + gap
        distance = np.abs(gap) if math.isnan(guess) else np.abs(strike - guess)
        usable = np.flatnonzero(
            (strike > 0.0)
            & (call_price > 0.0)
            & (put_price > 0.0)
            & (half_spread >= 0.0)
            & (half_spread < np.inf)
            & (forwards > 0.0)
            & (forwards + distance < np.inf)
        )
        nearest = usable[np.argsort(distance[usable], kind="stable")[: max(strikes_max, 0)]]
    return _weighted_median(
        [
            _Vote(forward, 1.0 / max(spread, HALF_SPREAD_MIN_INR), pair_index)
            for forward, spread, pair_index in zip(
                forwards[nearest].tolist(),
                half_spread[nearest].tolist(),
                nearest.tolist(),
                strict=True,
            )
        ]
    )


def carry_forward(spot: float, rate: float, years: float) -> float:
    """Return ``spot * exp(rate * years)``, the forward when nothing better is known.

    Args:
        spot: Price of the underlying, rupees.
        rate: Continuous cost of carry per year as a fraction.
        years: Time to expiry, years of 365 days.

    Returns:
        The forward, rupees; NaN when the spot is no price or the result is no number.
    """
    growth = rate * years
    if not (spot > 0.0 and abs(growth) <= CARRY_MAX):
        return math.nan
    return spot * math.exp(growth)


class _Vote(NamedTuple):
    """One strike's opinion; votes order by their forward."""

    forward: float
    weight: float
    pair_index: int


def _weighted_median(votes: list[_Vote]) -> ParityForward:
    """Return the lower weighted median of the votes. Seven values: plain Python beats numpy."""
    if not votes:
        return NO_FORWARD
    votes.sort()
    reached = accumulate(vote.weight for vote in votes)
    half = 0.5 * sum(vote.weight for vote in votes)
    median = next(
        (v for v, weight in zip(votes, reached, strict=True) if weight >= half), votes[-1]
    )
    distances = (abs(vote.forward - median.forward) for vote in votes)
    return ParityForward(
        forward=median.forward,
        dispersion=statistics.median(distances),
        strikes_used=len(votes),
        pair_index=median.pair_index,
    )
