"""The forward of every moment: the caller's, by put-call parity, the listed future, or the spot.

Path: alignment -> instants -> [forwards] -> greeks. Pure.

Every moment stands alone: no forward of another minute is used, so a gap in the legs is a gap in
the forward unless the underlying has a candle there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.history import alignment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.history.alignment import Alignment, OptionCandles, UnderlyingCandles


class ForwardSource(IntEnum):
    """Where a row's forward comes from."""

    NONE = 0
    GIVEN = 1
    PARITY = 2
    FUTURE = 3
    SPOT_CARRY = 4


STRIKES_MAX: Final = 7
"""How many of a moment's nearest complete strikes are asked for its forward."""
STRIKES_MIN: Final = 3
"""Fewer complete strikes than this are an anecdote: used only when nothing else is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentForwards:
    """The forward of each moment, shape ``(moments,)``.

    Attributes:
        forward: Rupees, NaN where there is none.
        source: ``ForwardSource`` codes.
        dispersion: Median distance of the strikes' own forwards from it, rupees; NaN unless it
            came from them.
        strikes: How many strikes it came from; 0 when from none.
    """

    forward: NDArray[np.float64]
    source: NDArray[np.uint8]
    dispersion: NDArray[np.float64]
    strikes: NDArray[np.int64]

    @property
    def is_doubtful(self) -> NDArray[np.bool_]:
        """Where the forward is worth volatility points of doubt, shape ``(moments,)``.

        No fixed rate is the market's carry (greeks.md §4.2), and one or two strikes cannot
        contradict each other.
        """
        by_parity = self.source == ForwardSource.PARITY
        is_anecdote = by_parity & (self.strikes < STRIKES_MIN)
        doubtful: NDArray[np.bool_] = is_anecdote | (self.source == ForwardSource.SPOT_CARRY)
        return doubtful


def find(
    options: OptionCandles,
    underlying: UnderlyingCandles | None,
    aligned: Alignment,
    *,
    years: NDArray[np.float64],
    rate: float,
) -> MomentForwards:
    """Find every moment's forward, best source first.

    Args:
        options: The option candles.
        underlying: Candles of what they are on, or None.
        aligned: Which options belong together.
        years: Time to expiry of each option row, years, shape ``(n,)``.
        rate: Continuous rate per year as a fraction.

    Returns:
        Parity over at least ``STRIKES_MIN`` strikes, else the future of the same expiry and stamp,
        else the spot of the same stamp with carry, else parity over what there is, else nothing.
    """
    row = aligned.row_of_moment
    spot, future = _listed(options, underlying, row)
    growth = np.exp(rate * years[row])
    near = np.where(np.isnan(future), spot * growth, future)
    found = _by_parity(options, aligned, near=near, discount=1.0 / growth)
    for source, listed in (
        (ForwardSource.FUTURE, future),
        (ForwardSource.SPOT_CARRY, spot * growth),
    ):
        lacks = (found.source <= ForwardSource.PARITY) & (found.strikes < STRIKES_MIN)
        takes = lacks & (listed > 0.0) & (listed < np.inf)
        found.forward[takes] = listed[takes]
        found.source[takes] = source
        found.dispersion[takes] = np.nan
        found.strikes[takes] = 0
    return found


def _listed(
    options: OptionCandles, underlying: UnderlyingCandles | None, row: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the prices of the spot and of the future at each moment; NaN where they have none."""
    if underlying is None:
        return np.full(len(row), np.nan), np.full(len(row), np.nan)
    price = np.append(underlying.price, np.nan)  # what ABSENT, the last place, stands for
    spot, future = alignment.listed_rows(underlying, options, row)
    return price[spot], price[future]


def _by_parity(
    options: OptionCandles,
    aligned: Alignment,
    *,
    near: NDArray[np.float64],
    discount: NDArray[np.float64],
) -> MomentForwards:
    """Do what ``pricing.parity_forward`` does, for all moments at once.

    Candles have no spread, so every strike's vote weighs the same.
    """
    calls, puts = aligned.call_row, aligned.put_row
    moment, strike = aligned.moment[calls], options.strike[calls]
    with np.errstate(all="ignore"):
        gap = (options.price[calls] - options.price[puts]) / discount[moment]
        forward = strike + gap
        distance = np.abs(strike - near[moment])
        distance = np.where(np.isnan(distance), np.abs(gap), distance)
        usable = (options.price[calls] > 0.0) & (options.price[puts] > 0.0)
        usable &= (strike > 0.0) & (forward > 0.0) & (forward + distance < np.inf)
        usable &= _has_traded(options, calls) & _has_traded(options, puts)
    moment, forward, distance = moment[usable], forward[usable], distance[usable]
    order = np.lexsort((distance, moment))
    order = order[_rank(moment[order]) < STRIKES_MAX]
    moment, forward = moment[order], forward[order]
    count = np.bincount(moment, minlength=len(near))
    median = _middle(forward, moment, count, upper=False)
    away = np.abs(forward - median[moment])
    return MomentForwards(
        forward=median,
        source=np.where(count > 0, ForwardSource.PARITY, ForwardSource.NONE).astype(np.uint8),
        dispersion=0.5 * (_middle(away, moment, count, upper=False) + _middle(away, moment, count)),
        strikes=count,
    )


def _middle(
    values: NDArray[np.float64],
    group: NDArray[np.intp],
    count: NDArray[np.int64],
    *,
    upper: bool = True,
) -> NDArray[np.float64]:
    """Return each group's upper or lower median, NaN for an empty group.

    Args:
        values: In groups, shape ``(n,)``.
        group: Number of each value's group, ascending, shape ``(n,)``.
        count: Size of each group, shape ``(groups,)``.
        upper: Which of the two middle values of an even number to take.
    """
    ascending = values[np.lexsort((values, group))]
    first = np.cumsum(count) - count
    middle = np.full(len(count), np.nan)
    has = count > 0
    middle[has] = ascending[(first + (count if upper else count - 1) // 2)[has]]
    return middle


def _rank(group: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return each row's place within its group; the groups lie together."""
    place = np.arange(len(group))
    is_first = np.ones(len(group), np.bool_)
    is_first[1:] = group[1:] != group[:-1]
    rank: NDArray[np.intp] = place - np.maximum.accumulate(np.where(is_first, place, 0))
    return rank


def _has_traded(options: OptionCandles, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    if options.volume is None:
        return np.ones(len(rows), np.bool_)
    has_traded: NDArray[np.bool_] = options.volume[rows] > 0.0
    return has_traded
