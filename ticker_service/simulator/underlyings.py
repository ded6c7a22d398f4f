"""What moves beneath the quotes: random walks, forwards and smiles, one step at a time.

Pure apart from its own state. Each step draws the same count of random numbers whatever the
clients do, so that the path depends on the seed and the step alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.simulator.listing import EQUITIES, LONE_CONTRACTS, UNDERLYINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ticker_service.simulator.catalogue import Curve

# All of a day's variance falls into its trading hours: 250 days of 6¼ hours.
TRADING_SECONDS_PER_YEAR: Final = 250 * 6.25 * 3600
OPENING_MOVE: Final = 0.01
"""Standard deviation of the opening spots round the listed prices."""
EQUITY_VOLATILITY_MIN: Final = 0.16
EQUITY_VOLATILITY_MAX: Final = 0.38

CARRY_MIN: Final = 0.045
CARRY_MAX: Final = 0.085
"""Carry differs by expiry, so no one interest rate reproduces all forwards."""
BASIS_SCALE: Final = 4e-4
"""Standard deviation of the part of a forward that carry does not explain, of spot."""
BASIS_RELAXATION_S: Final = 300.0
LEVEL_SCALE: Final = 0.06
"""Standard deviation of a smile's level round its mean, relative."""
LEVEL_RELAXATION_S: Final = 600.0
LEVEL_SPREAD: Final = 0.05
SLOPE_MIN: Final = -0.45
SLOPE_MAX: Final = -0.25
CURVATURE_MIN: Final = 1.2
CURVATURE_MAX: Final = 2.4


def base_prices_inr() -> NDArray[np.float64]:
    """Return the listed price of every driver: underlyings, equities, lone contracts."""
    return np.array(
        [
            *(underlying.spot_inr for underlying in UNDERLYINGS),
            *(price for _, _, price in EQUITIES),
            *(lone.price_inr for lone in LONE_CONTRACTS),
        ]
    )


def opening_prices_inr(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return where each driver opens today, rupees."""
    base = base_prices_inr()
    return base * np.exp(OPENING_MOVE * rng.standard_normal(len(base)))


class Underlyings:
    """Drivers and curves as they stand after the latest step.

    Attributes:
        price_inr: Spot of each driver, shape ``(drivers,)``.
        forward_inr: Forward of each curve, shape ``(curves,)``.
        smile: Level, slope and curvature of each curve, shape ``(3, curves)``.
    """

    def __init__(
        self,
        opening_inr: NDArray[np.float64],
        curves: Sequence[Curve],
        *,
        rng: np.random.Generator,
        step_s: float,
    ) -> None:
        self._rng = rng
        self.price_inr = opening_inr.copy()
        volatility = _driver_volatility(rng)
        self._move = volatility * np.sqrt(step_s / TRADING_SECONDS_PER_YEAR)
        self._underlying = np.array([curve.underlying for curve in curves], np.intp)
        self._expiry_ns = np.array([curve.expiry_ns for curve in curves], np.int64)
        count = len(curves)
        self._carry = rng.uniform(CARRY_MIN, CARRY_MAX, count)
        self._basis = _Relaxing(BASIS_SCALE, BASIS_RELAXATION_S, count, rng=rng, step_s=step_s)
        self._level = _Relaxing(LEVEL_SCALE, LEVEL_RELAXATION_S, count, rng=rng, step_s=step_s)
        mean = np.array([UNDERLYINGS[curve.underlying].volatility_per_year for curve in curves])
        self._level_mean = mean * (1.0 + rng.uniform(-LEVEL_SPREAD, LEVEL_SPREAD, count))
        self.smile = np.empty((3, count))
        self.smile[1] = rng.uniform(SLOPE_MIN, SLOPE_MAX, count)
        self.smile[2] = rng.uniform(CURVATURE_MIN, CURVATURE_MAX, count)
        self.forward_inr = np.empty(count)

    def years_to_expiry(self, at_ns: int) -> NDArray[np.float64]:
        """Return the time to expiry of each curve, years, negative once expired."""
        return years_to_expiry(at_ns, self._expiry_ns)

    def step(self) -> None:
        """Move every driver, basis and smile by one step."""
        rng = self._rng
        draw = rng.standard_normal(len(self.price_inr))
        self.price_inr *= np.exp(self._move * draw - 0.5 * self._move**2)
        self._basis.step(rng)
        self._level.step(rng)

    def mark(self, at_ns: int) -> None:
        """Work out forwards and smiles for the instant ``at_ns``."""
        carry = self._carry * self.years_to_expiry(at_ns)
        spot = self.price_inr[self._underlying]
        self.forward_inr = spot * np.exp(carry) * (1.0 + self._basis.value)
        self.smile[0] = self._level_mean * np.exp(self._level.value)

    def vix(self) -> float:
        """Return the first underlying's nearest level in volatility points."""
        return float(self.smile[0, 0] * 100.0)


class _Relaxing:
    """A column of mean-reverting values round zero, each with the same scale and pace."""

    def __init__(
        self,
        scale: float,
        relaxation_s: float,
        count: int,
        *,
        rng: np.random.Generator,
        step_s: float,
    ) -> None:
        self.value = scale * rng.standard_normal(count)
        self._keep = float(np.exp(-step_s / relaxation_s))
        self._kick = scale * float(np.sqrt(1.0 - self._keep**2))

    def step(self, rng: np.random.Generator) -> None:
        """Let every value relax and receive its kick."""
        self.value = self._keep * self.value + self._kick * rng.standard_normal(len(self.value))


def _driver_volatility(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.array(
        [
            *(underlying.volatility_per_year for underlying in UNDERLYINGS),
            *rng.uniform(EQUITY_VOLATILITY_MIN, EQUITY_VOLATILITY_MAX, len(EQUITIES)),
            *(lone.volatility_per_year for lone in LONE_CONTRACTS),
        ]
    )
