"""Whether curves of total variance leave room for a riskless profit. Part of ``smile``. Pure.

Butterfly: the probability density that a curve implies is nowhere negative. Calendar: an option of
a later expiry is worth no less, which is total variance that does not fall with time at a fixed
log-moneyness. Source: Gatheral and Jacquier, arXiv 1204.0646, §2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Column, Flags
    from ticker_service.pricing.svi import RawSvi

CHECKED_POINTS: Final = 101
WIDENED: Final = 0.5
"""A share of the quoted range that is checked beyond each of its ends."""
WING_SLOPE_MAX: Final = 2.0
"""Lee's bound on how steeply total variance may rise in the wings."""
DENSITY_SLACK: Final = 1e-9
VARIANCE_SLACK: Final = 1e-12
"""What rounding may leave of a condition that holds with equality."""


def has_no_butterfly(curves: RawSvi, low: Column, high: Column) -> Flags:
    """Return whether no strike has a negative probability, shape ``(expiries,)``.

    Args:
        curves: The curves.
        low: Lowest log-moneyness quoted of each, shape ``(expiries,)``.
        high: Highest.

    Returns:
        True where the density is positive over the range, widened, and both wings keep Lee's
        bound; false for a curve that is NaN.
    """
    wider = WIDENED * (high - low)
    k = _between(low - wider, high + wider)
    w, slope, bend = curves.variance(k)
    density = (1.0 - 0.5 * k * slope / w) ** 2 - 0.25 * slope * slope * (1.0 / w + 0.25)
    density += 0.5 * bend
    is_positive = (w > 0.0).all(axis=1) & (density >= -DENSITY_SLACK).all(axis=1)
    keeps_bound = curves.b * (1.0 + np.abs(curves.rho)) <= WING_SLOPE_MAX
    allowed: Flags = is_positive & keeps_bound
    return allowed


def has_no_calendar(
    curves: RawSvi, low: Column, high: Column, *, years: Column, underlying: NDArray[np.intp]
) -> Flags:
    """Return whether no expiry has less total variance than the one before it.

    Args:
        curves: The curves, in any order.
        low: Lowest log-moneyness quoted of each, shape ``(expiries,)``.
        high: Highest.
        years: Time to each expiry.
        underlying: A number per expiry; only those of one are compared.

    Returns:
        True where the condition holds against the nearest earlier expiry that has a curve, in the
        range that both quote, or where there is none; false for a curve that is NaN.
    """
    has_curve = ~np.isnan(curves.a)
    allowed = has_curve.copy()
    order = np.flatnonzero(has_curve)
    order = order[np.lexsort((years[order], underlying[order]))]
    before, after = order[:-1], order[1:]
    is_same = underlying[before] == underlying[after]
    before, after = before[is_same], after[is_same]
    lowest, highest = np.maximum(low[before], low[after]), np.minimum(high[before], high[after])
    k = _between(lowest, np.maximum(lowest, highest))
    nearer, later = (_rows(curves, rows).variance(k)[0] for rows in (before, after))
    allowed[after] = (later >= nearer - VARIANCE_SLACK).all(axis=1)
    return allowed


def _between(low: Column, high: Column) -> NDArray[np.float64]:
    """Return evenly spaced points, shape ``(expiries, CHECKED_POINTS)``."""
    share = np.linspace(0.0, 1.0, CHECKED_POINTS)
    return low[:, None] + (high - low)[:, None] * share


def _rows(curves: RawSvi, rows: NDArray[np.intp]) -> RawSvi:
    return type(curves)(
        a=curves.a[rows],
        b=curves.b[rows],
        rho=curves.rho[rows],
        m=curves.m[rows],
        sigma=curves.sigma[rows],
    )
