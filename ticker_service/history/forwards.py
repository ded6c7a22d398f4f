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
from ticker_service.pricing import parity_forwards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ticker_service.history.alignment import Alignment, OptionCandles, UnderlyingCandles


class ForwardSource(IntEnum):
    """Where a row's forward comes from."""

    NONE = 0
    GIVEN = 1
    PARITY = 2
    FUTURE = 3
    SPOT_CARRY = 4


TABLE_CELLS_MAX: Final = 1 << 18
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
    """Ask every moment's complete strikes, as the live path asks an expiry's.

    Candles have no spread, so every strike's vote weighs the same.
    """
    calls, puts = aligned.call_row, aligned.put_row
    has_traded = _has_traded(options, calls) & _has_traded(options, puts)
    call_price = np.where(has_traded, options.price[calls], np.nan)
    count = np.bincount(aligned.moment[calls], minlength=len(near))
    first = np.cumsum(count) - count
    found = MomentForwards(
        forward=np.full(len(near), np.nan),
        source=np.full(len(near), ForwardSource.NONE, np.uint8),
        dispersion=np.full(len(near), np.nan),
        strikes=np.zeros(len(near), np.int64),
    )
    for moments in _alike(count):
        # The pairs of a moment lie together; shorter chains are filled up with no pair at all.
        place = np.arange(count[moments].max())
        is_pair = place < count[moments][:, None]
        pair = np.where(is_pair, first[moments][:, None] + place, 0)
        parity = parity_forwards(
            np.where(is_pair, options.strike[calls[pair]], np.nan),
            call_price[pair],
            options.price[puts[pair]],
            np.zeros(pair.shape),
            guess=near[moments],
            discount=discount[moments],
        )
        found.forward[moments] = parity.forward
        found.dispersion[moments] = parity.dispersion
        found.strikes[moments] = parity.strikes_used
    found.source[found.strikes > 0] = ForwardSource.PARITY
    return found


def _alike(count: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """Yield the moments with pairs, in groups of about equal counts that fit a table.

    One long chain among a million short ones must not make a table of a million long rows.
    """
    order = np.argsort(count, kind="stable")
    order = order[count[order] > 0]
    while len(order):
        rows = max(TABLE_CELLS_MAX // int(count[order[-1]]), 1)
        yield order[-rows:]
        order = order[:-rows]


def _has_traded(options: OptionCandles, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    if options.volume is None:
        return np.ones(len(rows), np.bool_)
    has_traded: NDArray[np.bool_] = ~(options.volume[rows] <= 0.0)  # NaN: not known
    return has_traded
