"""The smile of each expiry: one curve through its out-of-the-money volatilities, with its doubts.

Pure; numpy only, no exception on any values, all expiries at once, a bounded cost. The steps are
``svi`` (the curve) and ``arbitrage`` (whether it can be true).

Why raw SVI: a spline goes through every error of a quote and says nothing beyond its last strike; a
parabola's wings cannot be true. SVI has five parameters that traders know, the wings that the
absence of arbitrage allows, and a search that is linear in all but two of them. A fitted value is
an answer to a question; it never stands in for a row's own volatility.
Source: ``docs/pricing.md`` §9.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing import arbitrage, svi

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Column, Flags
    from ticker_service.pricing.svi import RawSvi

POINTS_MIN: Final = 6
"""SVI has five parameters: fewer points than this would leave no error to judge it by."""
POINTS_MIN_EACH_SIDE: Final = 2
"""A smile seen from one side says nothing about the money."""
VOLATILITY_MIN: Final = 1e-4
VOLATILITY_MAX: Final = 1e2
LOG_MONEYNESS_MAX: Final = 5.0
YEARS_MIN: Final = 1e-12
YEARS_MAX: Final = 1e3
"""Beyond these limits a number is a mistake; within them no square of one overflows."""
VOLATILITY_ERROR_MIN: Final = 1e-4
"""No quote is better than a hundredth of a point; without a floor one row would be the curve."""


class SmileStatus(IntEnum):
    """Whether an expiry has a curve, or why not; the name is what goes on the wire."""

    OK = 0
    BAD_INPUT = 1
    """Forward or time is no number, or none that can be."""
    NO_FORWARD = 2
    """There is no forward."""
    EXPIRED = 3
    """No time is left."""
    TOO_FEW_POINTS = 4
    """Fewer than ``POINTS_MIN`` volatilities."""
    ONE_SIDED = 5
    """Fewer than ``POINTS_MIN_EACH_SIDE`` of them below, or above, the forward."""
    NO_FIT = 6
    """No finite curve was found."""


SMILE_STATUS_WIRE_NAMES: Final = tuple(status.name for status in SmileStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Smiles:
    """One curve per expiry, shape ``(expiries,)``; NaN, or false, where the status is not OK.

    Attributes:
        status: ``SmileStatus`` codes.
        points: How many volatilities the curve goes through.
        forward: Forward of the expiry, rupees.
        years: Time to expiry, years.
        curve: The curves' parameters.
        strike_min: Lowest strike it goes through, rupees; below is extrapolation.
        strike_max: Highest strike.
        atm_volatility: Volatility at the forward, a fraction per year.
        skew: d volatility / d ln(strike) at the forward.
        curvature: Its second derivative there.
        fit_error: Root of the weighted mean squared distance in volatility.
        fit_error_max: Distance of the point that is furthest off.
        butterfly_ok: The curve has no butterfly arbitrage (``arbitrage``).
        calendar_ok: It has none against the expiry before it; true when there is none.
    """

    status: NDArray[np.uint8]
    points: NDArray[np.int64]
    forward: Column
    years: Column
    curve: RawSvi
    strike_min: Column
    strike_max: Column
    atm_volatility: Column
    skew: Column
    curvature: Column
    fit_error: Column
    fit_error_max: Column
    butterfly_ok: Flags
    calendar_ok: Flags

    def volatility(self, strike: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the curves' volatilities.

        Args:
            strike: Strikes of each expiry, rupees, shape ``(expiries, n)``.

        Returns:
            Fractions per year, same shape; beyond ``strike_min`` and ``strike_max`` extrapolated.
        """
        with np.errstate(all="ignore"):
            variance, _, _ = self.curve.variance(np.log(strike / self.forward[:, None]))
            return np.sqrt(variance / self.years[:, None])


def fit_smiles(
    strike: NDArray[np.float64],
    volatility: NDArray[np.float64],
    *,
    forward: Column,
    years: Column,
    volatility_error: NDArray[np.float64] | None = None,
    underlying: NDArray[np.intp] | None = None,
) -> Smiles:
    """Fit one curve per expiry.

    Args:
        strike: Strikes, rupees, any order, padded with NaN, shape ``(expiries, n)``.
        volatility: Volatility of each strike's out-of-the-money option, a fraction per year, NaN
            where there is none, same shape. What should not count the caller leaves out.
        forward: Forward of each expiry, rupees, shape ``(expiries,)``.
        years: Time to each expiry, years of 365 days, likewise.
        volatility_error: How far each volatility may be off (half spread over vega), a fraction per
            year, shape of ``strike``; None when all are alike.
        underlying: A number per expiry; calendar arbitrage is looked for within one. None when all
            are of one underlying.

    Returns:
        The curves, in the order of the expiries. Never raises on any values.
    """
    with np.errstate(all="ignore"):
        quoted = _Quoted(strike, volatility, volatility_error, forward=forward, years=years)
        curve = svi.search(quoted.variance_points())
        if underlying is None:
            underlying = np.zeros(len(years), np.intp)
        return _judged(quoted, curve, underlying)


class _Quoted:
    """What is given, and which of it counts.

    Tables have the shape ``(expiries, m)``, m the most points that an expiry has.
    """

    def __init__(
        self,
        strike: NDArray[np.float64],
        volatility: NDArray[np.float64],
        error: NDArray[np.float64] | None,
        *,
        forward: Column,
        years: Column,
    ) -> None:
        self.forward, self.years = forward, years
        error = np.zeros_like(volatility) if error is None else error
        error = np.maximum(error, VOLATILITY_ERROR_MIN)
        k = np.log(strike / forward[:, None])
        usable = (volatility >= VOLATILITY_MIN) & (volatility <= VOLATILITY_MAX)
        usable &= (np.abs(k) <= LOG_MONEYNESS_MAX) & (error < np.inf)
        self.points = usable.sum(axis=1)
        # The fit costs by the width of its tables, and most listed strikes have no quote: what is
        # usable is moved together.
        order = np.argsort(~usable, axis=1, kind="stable")[:, : self.points.max(initial=0)]
        self.strike, self.k, self.volatility, self.error, usable = (
            np.take_along_axis(table, order, axis=1)
            for table in (strike, k, volatility, error, usable)
        )
        self.status = self._status(usable)
        self.counts = usable & (self.status == SmileStatus.OK)[:, None]

    def variance_points(self) -> svi.VariancePoints:
        """Return total variances; an error of a volatility is 2 * volatility * years of theirs."""
        per_volatility = 2.0 * self.volatility * self.years[:, None]
        variance = 0.5 * self.volatility * per_volatility
        return svi.VariancePoints(self.k, variance, self.error * per_volatility, self.counts)

    def _status(self, usable: Flags) -> NDArray[np.uint8]:
        below, above = ((usable & side).sum(axis=1) for side in (self.k < 0.0, self.k > 0.0))
        status = np.full(len(self.years), SmileStatus.OK, np.uint8)
        status[np.minimum(below, above) < POINTS_MIN_EACH_SIDE] = SmileStatus.ONE_SIDED
        status[self.points < POINTS_MIN] = SmileStatus.TOO_FEW_POINTS
        status[self.years < YEARS_MIN] = SmileStatus.EXPIRED
        makes_sense = (self.forward > 0.0) & (self.forward < np.inf) & (self.years <= YEARS_MAX)
        status[~makes_sense] = SmileStatus.BAD_INPUT
        status[np.isnan(self.forward)] = SmileStatus.NO_FORWARD
        return status


def _judged(quoted: _Quoted, curve: RawSvi, underlying: NDArray[np.intp]) -> Smiles:
    """Return the curves with all that is said of them; NaN where one is none."""
    status, counts = quoted.status, quoted.counts
    atm, skew, curvature = _at_the_money(curve, quoted.years)
    is_finite = np.isfinite(atm) & np.isfinite(skew) & np.isfinite(curvature)
    status[(status == SmileStatus.OK) & ~is_finite] = SmileStatus.NO_FIT
    is_ok = status == SmileStatus.OK
    curve = curve.where(is_ok)
    low = np.where(counts, quoted.k, np.inf).min(axis=1, initial=np.inf)
    high = np.where(counts, quoted.k, -np.inf).max(axis=1, initial=-np.inf)
    low, high = np.where(is_ok, low, np.nan), np.where(is_ok, high, np.nan)

    fitted = np.sqrt(curve.variance(quoted.k)[0] / quoted.years[:, None])
    away = np.where(counts, np.abs(fitted - quoted.volatility), 0.0)
    share = np.where(counts, 1.0 / (quoted.error * quoted.error), 0.0)
    share = share / svi.or_one(share.sum(axis=1))[:, None]

    def blank(column: Column) -> Column:
        return np.where(is_ok, column, np.nan)

    return Smiles(
        status=status,
        points=quoted.points,
        forward=quoted.forward,
        years=quoted.years,
        curve=curve,
        # Looked up: forward * exp(k) is 60,699.99999999999 where 60,700 is listed.
        strike_min=blank(
            np.where(quoted.counts, quoted.strike, np.inf).min(axis=1, initial=np.inf)
        ),
        strike_max=blank(
            np.where(quoted.counts, quoted.strike, -np.inf).max(axis=1, initial=-np.inf)
        ),
        atm_volatility=blank(atm),
        skew=blank(skew),
        curvature=blank(curvature),
        fit_error=blank(np.sqrt((share * away * away).sum(axis=1))),
        fit_error_max=blank(away.max(axis=1, initial=0.0)),
        butterfly_ok=arbitrage.has_no_butterfly(curve, low, high),
        calendar_ok=arbitrage.has_no_calendar(
            curve, low, high, years=quoted.years, underlying=underlying
        ),
    )


def _at_the_money(curve: RawSvi, years: Column) -> tuple[Column, Column, Column]:
    """Return the volatility at the forward and its two derivatives by log-moneyness."""
    at_the_money = np.zeros((len(years), 1))
    w, slope, bend = (each[:, 0] for each in curve.variance(at_the_money))
    volatility = np.sqrt(w / years)
    relative = slope / w
    return (
        volatility,
        0.5 * volatility * relative,
        volatility * (0.5 * bend / w - 0.25 * relative**2),
    )
