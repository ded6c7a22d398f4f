"""Raw SVI, and the search for the one that goes through some points.

Part of ``smile``. Pure; all expiries at once, at a fixed number of passes, no exception on any
values. Total variance over log-moneyness ``k = ln(strike / forward)``::

    w(k) = a + b * (rho * (k - m) + sqrt((k - m)**2 + sigma**2))

Given ``m`` and ``sigma`` this is linear in ``a``, ``d = b * rho`` and ``c = b``, so the search is
over two numbers: the best of a grid, improved by damped Gauss-Newton steps, while the linear three
are solved for exactly under ``|rho| <= 1``. A search over all five at once finds other minima.
Source: ``docs/pricing.md`` §9; Gatheral and Jacquier, arXiv 1204.0646, and Zeliade's quasi-explicit
calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Column, Flags

STEPS: Final = 12
PROBE: Final = 1e-6
"""Step of the numerical derivative, on numbers of order one."""
DAMPING_START: Final = 1e-3
DAMPING_MIN: Final = 1e-12
DAMPING_MAX: Final = 1e12
DAMPING_TINY: Final = 1e3
"""A step damped like this hardly moves."""
LOSS_GAIN_MIN: Final = 1e-6
OUTLIER_ERRORS: Final = 4.0
"""A point further off than so many standard deviations loses weight as the square of the excess."""
NORMAL_PER_MEDIAN: Final = 1.4826
"""Standard deviation of a normal distribution by the median of its absolute values."""

# In units of the widest log-moneyness quoted: where the curve may turn, and how sharply.
M_START: Final = np.linspace(-1.6, 1.6, 17)
LOG_SIGMA_START: Final = np.log(np.geomspace(0.03, 6.0, 12))
M_MAX: Final = 4.0
SIGMA_MIN: Final = 1e-3
SIGMA_MAX: Final = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSvi:
    """Curves of total variance, one per expiry, shape ``(expiries,)``; see the module for terms."""

    a: Column
    b: Column
    rho: Column
    m: Column
    sigma: Column

    def variance(
        self, k: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return total variance and its two derivatives.

        Args:
            k: Log-moneyness, shape ``(expiries, n)``.

        Returns:
            w, dw/dk and d2w/dk2, each of the shape of ``k``.
        """
        b, rho, sigma = self.b[:, None], self.rho[:, None], self.sigma[:, None]
        y = k - self.m[:, None]
        root = np.sqrt(y * y + sigma * sigma)
        return (
            self.a[:, None] + b * (rho * y + root),
            b * (rho + y / root),
            b * sigma * sigma / root**3,
        )

    def where(self, keeps: Flags) -> RawSvi:
        """Return the curves of some expiries and NaN for the others."""
        return RawSvi(
            a=np.where(keeps, self.a, np.nan),
            b=np.where(keeps, self.b, np.nan),
            rho=np.where(keeps, self.rho, np.nan),
            m=np.where(keeps, self.m, np.nan),
            sigma=np.where(keeps, self.sigma, np.nan),
        )


class VariancePoints:
    """What the curves go through: total variances, scaled to numbers of order one.

    Where a point does not count its weight is zero and its numbers do no harm.
    """

    def __init__(
        self,
        k: NDArray[np.float64],
        variance: NDArray[np.float64],
        error: NDArray[np.float64],
        counts: Flags,
    ) -> None:
        """Take the points of every expiry.

        Args:
            k: Log-moneyness, shape ``(expiries, n)``, like all others.
            variance: Total variance.
            error: How far it may be off.
            counts: Whether it is a point.
        """
        k, variance = np.where(counts, k, 0.0), np.where(counts, variance, 0.0)
        self.k_scale = or_one(np.abs(k).max(axis=1, initial=0.0))
        self.level = or_one(variance.sum(axis=1) / np.maximum(counts.sum(axis=1), 1))
        precision = np.where(counts, self.level[:, None] / error, 0.0)
        # Scaled so that the best point of an expiry weighs one.
        self.precision_max = or_one(precision.max(axis=1, initial=0.0))
        self.precision = precision / self.precision_max[:, None]
        self.trust = np.ones_like(self.precision)
        self.counts = counts
        # The middle axis is that of candidates.
        self.x = (k / self.k_scale[:, None])[:, None, :]
        self.w = (variance / self.level[:, None])[:, None, :]

    @property
    def root_weight(self) -> NDArray[np.float64]:
        """What a distance in variance is multiplied by, shape ``(expiries, 1, n)``."""
        return (self.precision * self.trust)[:, None, :]

    def doubt_outliers(self, residual: NDArray[np.float64]) -> bool:
        """Take weight from points far off a curve, so that one bad quote does not bend it.

        Args:
            residual: The curve's weighted distances in scaled units, shape ``(expiries, n)``.

        Returns:
            Whether there is one.
        """
        if not self.counts.any():
            return False
        errors = np.abs(residual) * self.precision_max[:, None]
        ranked = np.sort(np.where(self.counts, errors, np.inf), axis=1)
        # The lower median, by sorting: numpy's own warns of an expiry without points.
        middle = np.maximum(self.counts.sum(axis=1) - 1, 0) // 2
        typical = NORMAL_PER_MEDIAN * np.take_along_axis(ranked, middle[:, None], axis=1)
        # A point within its own stated error is no outlier, however well the others fit.
        limit = np.maximum(OUTLIER_ERRORS * typical, 1.0)
        self.trust = np.where(errors > limit, limit / errors, 1.0)
        return bool((self.trust < 1.0).any())

    def curves(self, place: NDArray[np.float64], linear: NDArray[np.float64]) -> RawSvi:
        """Undo the scaling."""
        a, d, c = linear.T
        return RawSvi(
            a=self.level * a,
            b=self.level * c / self.k_scale,
            rho=np.where(c > 0.0, d / or_one(c), 0.0),
            m=self.k_scale * place[:, 0],
            sigma=self.k_scale * np.exp(place[:, 1]),
        )


def search(points: VariancePoints) -> RawSvi:
    """Return the curve of each expiry; a flat one of no meaning where an expiry has no points.

    Outliers lose weight in ``points``.
    """
    best = _improved(points, _start(points))
    if points.doubt_outliers(best.residual):
        # From the grid again: the curve found may have turned to meet the outlier.
        best = _improved(points, _start(points))
    return points.curves(best.place, best.linear)


def or_one(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positive numbers as they are, and one for what is none: to divide by."""
    return np.where((values > 0.0) & (values < np.inf), values, 1.0)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A curve per expiry in scaled units, and how well it does.

    ``place`` is m and ln(sigma), shape ``(expiries, 2)``; ``linear`` is a, d and c, shape
    ``(expiries, 3)``; ``residual`` has shape ``(expiries, n)`` and ``slope``, its derivative by the
    place, shape ``(expiries, 2, n)``; ``loss`` is the sum of squares.
    """

    place: NDArray[np.float64]
    linear: NDArray[np.float64]
    residual: NDArray[np.float64]
    slope: NDArray[np.float64]
    loss: Column

    @classmethod
    def at(cls, points: VariancePoints, place: NDArray[np.float64]) -> _Candidate:
        """Solve for the linear parameters at a place and close beside it."""
        m, log_sigma = place[:, :1], place[:, 1:]
        linear, residual = _profile(
            points,
            np.concatenate([m, m + PROBE, m], axis=1),
            np.concatenate([log_sigma, log_sigma, log_sigma + PROBE], axis=1),
        )
        slope = (residual[:, 1:] - residual[:, :1]) / PROBE
        return cls(place, linear[:, 0], residual[:, 0], slope, _sum_of_squares(residual[:, 0]))

    def or_better(self, other: _Candidate) -> tuple[_Candidate, Flags]:
        """Return the better of the two for every expiry, and where that is the other."""
        wins = other.loss < self.loss
        row, block = wins[:, None], wins[:, None, None]
        chosen = _Candidate(
            np.where(row, other.place, self.place),
            np.where(row, other.linear, self.linear),
            np.where(row, other.residual, self.residual),
            np.where(block, other.slope, self.slope),
            np.where(wins, other.loss, self.loss),
        )
        return chosen, wins


def _start(points: VariancePoints) -> _Candidate:
    """Return the best of a grid of places."""
    grid = np.stack([axis.ravel() for axis in np.meshgrid(M_START, LOG_SIGMA_START)])
    m, log_sigma = np.broadcast_to(grid[:, None, :], (2, len(points.level), grid.shape[1]))
    _, residual = _profile(points, m, log_sigma)
    best = np.argmin(_sum_of_squares(residual), axis=1)
    return _Candidate.at(points, grid[:, best].T)


def _improved(points: VariancePoints, best: _Candidate) -> _Candidate:
    """Move the places by damped Gauss-Newton steps; a step that makes it worse is not taken."""
    damping = np.full(len(best.loss), DAMPING_START)
    is_settled = np.zeros(len(best.loss), np.bool_)
    for _ in range(STEPS):
        place = best.place + _step(best, damping)
        place[:, 0] = np.clip(place[:, 0], -M_MAX, M_MAX)
        place[:, 1] = np.clip(place[:, 1], np.log(SIGMA_MIN), np.log(SIGMA_MAX))
        before = best.loss
        best, wins = best.or_better(_Candidate.at(points, place))
        damping = np.clip(np.where(wins, 0.1 * damping, 10.0 * damping), DAMPING_MIN, DAMPING_MAX)
        # A step that was taken and gained nothing, or one refused though it was tiny, is the last.
        gains = before - best.loss > LOSS_GAIN_MIN * before
        is_settled |= np.where(wins, ~gains, damping > DAMPING_TINY)
        if is_settled.all():
            break
    return best


def _step(at: _Candidate, damping: Column) -> NDArray[np.float64]:
    """Solve two equations in two unknowns per expiry; no step where they have no solution."""
    by_m, by_sigma = at.slope[:, 0], at.slope[:, 1]
    h11 = _sum_of_squares(by_m) * (1.0 + damping)
    h22 = _sum_of_squares(by_sigma) * (1.0 + damping)
    h12 = (by_m * by_sigma).sum(axis=-1)
    g1, g2 = (by_m * at.residual).sum(axis=-1), (by_sigma * at.residual).sum(axis=-1)
    step = np.stack([h12 * g2 - h22 * g1, h12 * g1 - h11 * g2]) / (h11 * h22 - h12 * h12)
    return _finite(step).T


def _profile(
    points: VariancePoints, m: NDArray[np.float64], log_sigma: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve for a, d and c at places, by weighted least squares.

    Args:
        points: The points.
        m: Places, shape ``(expiries, candidates)``.
        log_sigma: Likewise.

    Returns:
        The three of them, shape ``(expiries, candidates, 3)``, and weighted residuals, shape
        ``(expiries, candidates, n)``.
    """
    sigma = np.exp(log_sigma)[..., None]
    y = points.x - m[..., None]
    # Less its value at y = 0, which a takes in: else the two are alike where sigma is large.
    z = y * y / (np.sqrt(y * y + sigma * sigma) + sigma)
    root_weight = points.root_weight
    share = root_weight * root_weight
    share = share / or_one(share.sum(axis=-1, keepdims=True))
    y0, z0, w0 = ((share * each).sum(axis=-1, keepdims=True) for each in (y, z, points.w))
    yc, zc, wc = y - y0, z - z0, points.w - w0
    d, c = _on_the_cone(
        *((share * left * right).sum(axis=-1) for left, right in ((yc, yc), (zc, zc), (yc, zc))),
        yw=(share * yc * wc).sum(axis=-1),
        zw=(share * zc * wc).sum(axis=-1),
    )
    sigma, y0, z0, w0 = (each[..., 0] for each in (sigma, y0, z0, w0))
    # A curve that dips to zero variance is none; the flat one always serves.
    lowest = w0 - d * y0 - c * (z0 + sigma) + sigma * np.sqrt(np.maximum(c * c - d * d, 0.0))
    is_sound = lowest > 0.0
    d, c = np.where(is_sound, d, 0.0), np.where(is_sound, c, 0.0)
    residual = root_weight * (d[..., None] * yc + c[..., None] * zc - wc)
    return np.stack([w0 - d * y0 - c * (z0 + sigma), d, c], axis=-1), residual


def _on_the_cone(
    yy: NDArray[np.float64],
    zz: NDArray[np.float64],
    yz: NDArray[np.float64],
    *,
    yw: NDArray[np.float64],
    zw: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the d and c with ``|d| <= c`` that explain most, from centred second moments.

    The loss is a paraboloid: its least value on the cone is at its vertex if that lies inside, else
    on one of the edges ``d = c`` and ``d = -c``, or at their common end, the flat curve.
    """
    determinant = yy * zz - yz * yz
    d, c = (yw * zz - zw * yz) / determinant, (zw * yy - yw * yz) / determinant
    rising, falling = (
        _finite(np.maximum((zw + tilt * yw) / (zz + yy + 2.0 * tilt * yz), 0.0))
        for tilt in (1.0, -1.0)
    )
    is_rising = rising * (zw + yw) >= falling * (zw - yw)
    is_inside = np.abs(d) <= c
    c = np.where(is_inside, c, np.where(is_rising, rising, falling))
    d = np.where(is_inside, d, np.where(is_rising, rising, -falling))
    return d, c


def _sum_of_squares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = (values * values).sum(axis=-1)
    return squares


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return zero for what is no number; ``np.nan_to_num`` takes ten times as long."""
    return np.where(np.isfinite(values), values, 0.0)
