"""The forward of each expiry, from its own options by put-call parity, or from spot with carry.

Pure. Source: ``docs/pricing.md`` §6.
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
STRIKES_WEIGHED: Final = 7
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityForwards:
    """The same for several chains at once, columns of shape ``(chains,)``."""

    forward: NDArray[np.float64]
    dispersion: NDArray[np.float64]
    strikes_used: NDArray[np.intp]
    pair_index: NDArray[np.intp]


def parity_forwards(  # noqa: PLR0913 - four columns of a chain, three settings by name
    strike: NDArray[np.float64],
    call_price: NDArray[np.float64],
    put_price: NDArray[np.float64],
    half_spread: NDArray[np.float64],
    *,
    guess: NDArray[np.float64],
    discount: NDArray[np.float64],
    strikes_max: int = STRIKES_WEIGHED,
) -> ParityForwards:
    """Return each chain's weighted median of ``K + (C - P) / discount`` near the money.

    One strike alone scatters by its spread, and strikes far from the money by their stale legs;
    the median over a few near ones, each weighing as much as its quotes are tight, moves only when
    most of them move. A strike without both prices and a spread does not count, so a shorter chain
    is filled up with NaN.

    Args:
        strike: Strikes of each chain, rupees, any order, shape ``(chains, n)``.
        call_price: Price of each strike's call, rupees, NaN where missing, same shape.
        put_price: Price of each strike's put, likewise.
        half_spread: Sum of the two legs' half spreads, rupees, same shape; zero or more.
        guess: About where each forward is, rupees, shape ``(chains,)``: the last one, or spot. NaN
            when nothing is known; the strikes whose call and put are closest in price are then
            the nearest.
        discount: exp(-rate * years) of each expiry, shape ``(chains,)``.
        strikes_max: How many of the nearest strikes to weigh.

    Returns:
        One forward per chain, none where no strike can be used. Never raises on any values.
    """
    chains, strikes = strike.shape
    if min(chains, strikes, strikes_max) < 1:
        return _no_forwards(chains)
    with np.errstate(all="ignore"):
        gap = (call_price - put_price) / discount[:, None]
        forwards = strike + gap
        distance = np.abs(np.where(np.isnan(guess)[:, None], gap, strike - guess[:, None]))
        is_usable = (
            (strike > 0.0)
            & (call_price > 0.0)
            & (put_price > 0.0)
            & (half_spread >= 0.0)
            & (half_spread < np.inf)
            & (forwards > 0.0)
            & (forwards + distance < np.inf)
            & (discount > 0.0)[:, None]
        )
        distance = np.where(is_usable, distance, np.inf)
        near = np.argsort(distance, axis=1, kind="stable")[:, :strikes_max]
        chosen = np.arange(chains)[:, None], near
        is_usable = is_usable[chosen]
        weight = is_usable / np.maximum(half_spread[chosen], HALF_SPREAD_MIN_INR)
        return _weighted_medians(
            np.where(is_usable, forwards[chosen], np.inf), np.where(is_usable, weight, 0.0), near
        )


def parity_forward(  # noqa: PLR0913 - four columns of a chain, three settings by name
    strike: NDArray[np.float64],
    call_price: NDArray[np.float64],
    put_price: NDArray[np.float64],
    half_spread: NDArray[np.float64],
    *,
    guess: float,
    discount: float = 1.0,
    strikes_max: int = STRIKES_WEIGHED,
) -> ParityForward:
    """Return ``parity_forwards`` of one chain: columns of shape ``(n,)``, numbers for the rest."""
    found = parity_forwards(
        strike[None],
        call_price[None],
        put_price[None],
        half_spread[None],
        guess=np.array([guess]),
        discount=np.array([discount]),
        strikes_max=strikes_max,
    )
    return ParityForward(
        forward=float(found.forward[0]),
        dispersion=float(found.dispersion[0]),
        strikes_used=int(found.strikes_used[0]),
        pair_index=int(found.pair_index[0]),
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


def _weighted_medians(
    votes: NDArray[np.float64], weight: NDArray[np.float64], pair_index: NDArray[np.intp]
) -> ParityForwards:
    """Return each row's lower weighted median.

    Args:
        votes: Each strike's opinion of the forward, infinite where it has none.
        weight: What the opinion weighs, 0 where there is none; same shape ``(chains, k)``.
        pair_index: Which strike it is.
    """
    order = np.argsort(votes, axis=1, kind="stable")
    row = np.arange(len(votes))
    in_order = row[:, None], order
    votes = votes[in_order]
    reached = np.add.accumulate(weight[in_order], axis=1)
    used = np.add.reduce(votes < np.inf, axis=1, dtype=np.intp)
    has_any = used > 0
    place = np.argmax(reached >= 0.5 * reached[:, -1:], axis=1)
    forward = np.where(has_any, votes[row, place], np.nan)
    away = np.sort(np.abs(votes - forward[:, None]), axis=1)
    middle = 0.5 * (away[row, np.maximum(used - 1, 0) // 2] + away[row, used // 2])
    return ParityForwards(
        forward=forward,
        dispersion=np.where(has_any, middle, np.nan),
        strikes_used=used,
        pair_index=np.where(has_any, pair_index[row, order[row, place]], -1),
    )


def _no_forwards(chains: int) -> ParityForwards:
    return ParityForwards(
        forward=np.full(chains, np.nan),
        dispersion=np.full(chains, np.nan),
        strikes_used=np.zeros(chains, np.intp),
        pair_index=np.full(chains, -1),
    )
