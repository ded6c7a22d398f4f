"""A market of index options as it is quoted: seeded, on the price step, with a smile.

Five indices, expiries from six hours to a year, up to 90 strikes on each side. Prices are rounded
to the step and never below it; an in-the-money price keeps a step of time value, so that every row
has a volatility.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing import PricingKernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDICES: Final = (
    ("NIFTY", 24_000.0, 50.0, 80),
    ("BANKNIFTY", 52_000.0, 100.0, 80),
    ("FINNIFTY", 24_500.0, 50.0, 60),
    ("MIDCPNIFTY", 12_400.0, 25.0, 60),
    ("SENSEX", 79_000.0, 100.0, 90),
)
"""Name, spot, distance of strikes, strikes on each side."""
EXPIRY_DAYS: Final = (0.25, 2.0, 7.0, 14.0, 30.0, 60.0, 90.0, 180.0, 365.0)
DAYS_PER_YEAR: Final = 365.0
CARRY: Final = 0.065
PRICE_STEP: Final = 0.05
SMILE_DAYS_MIN: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Columns of shape ``(n,)``; rupees and years."""

    price: NDArray[np.float64]
    forward: NDArray[np.float64]
    strike: NDArray[np.float64]
    years: NDArray[np.float64]
    rate: float
    is_call: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of options."""
        return len(self.price)

    def first(self, rows: int) -> Chain:
        """Return the first rows, as columns of their own."""
        return Chain(
            price=self.price[:rows].copy(),
            forward=self.forward[:rows].copy(),
            strike=self.strike[:rows].copy(),
            years=self.years[:rows].copy(),
            rate=self.rate,
            is_call=self.is_call[:rows].copy(),
        )


def listed(rows: int, *, seed: int) -> Chain:
    """Return ``rows`` options in random order."""
    rng = np.random.default_rng(seed)
    parts = [
        _expiry(spot, step, each_side, days / DAYS_PER_YEAR, rng)
        for _, spot, step, each_side in INDICES
        for days in EXPIRY_DAYS
    ]
    forward, strike, years, volatility = (np.concatenate(column) for column in zip(*parts))  # noqa: B905
    forward, strike, years, volatility = (
        np.tile(c, 2) for c in (forward, strike, years, volatility)
    )
    is_call = np.arange(len(strike)) < len(strike) // 2
    chosen = np.resize(rng.permutation(len(strike)), rows)
    forward, strike, years, volatility, is_call = (
        column[chosen] for column in (forward, strike, years, volatility, is_call)
    )
    fair = PricingKernel(rows).evaluate(volatility, forward, strike, years, CARRY, is_call)[0]
    discount = np.exp(-CARRY * years)
    intrinsic = discount * np.maximum(np.where(is_call, forward - strike, strike - forward), 0.0)
    price = np.maximum(np.rint(fair / PRICE_STEP), 1.0) * PRICE_STEP
    kept = (np.ceil(intrinsic / PRICE_STEP) + 1.0) * PRICE_STEP
    return Chain(
        price=np.where(price <= intrinsic, kept, price),
        forward=forward,
        strike=strike,
        years=years,
        rate=CARRY,
        is_call=is_call,
    )


def _expiry(
    spot: float, step: float, each_side: int, years: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], ...]:
    forward = spot * np.exp(CARRY * years) * (1.0 + rng.normal(0.0, 3e-4))
    strike = np.rint(spot / step) * step + step * np.arange(-each_side, each_side + 1)
    distance = np.log(strike / forward) / np.sqrt(max(years, SMILE_DAYS_MIN / DAYS_PER_YEAR))
    smile = 0.13 - 0.12 * distance + 0.35 * distance**2 + rng.normal(0.0, 0.002, len(strike))
    return (
        np.full(len(strike), forward),
        strike,
        np.full(len(strike), years),
        np.clip(smile, 0.06, 1.5),
    )
