"""Greeks with respect to the spot, for those who hedge with the underlying and not a future.

Pure; on request only, since what is published is with respect to the forward. With a forward that
moves as ``F = S * exp(carry * years)`` the chain rule gives::

    delta_S = delta * F/S                      gamma_S = gamma * (F/S)**2
    theta_S = theta - carry * F * delta / 365  rho_S   = rho + 0.01 * years * F * delta

Vega is the same. rho_S moves the rate and with it the forward, as Black-Scholes-Merton has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ticker_service.constants import DAYS_PER_YEAR
from ticker_service.pricing.greeks import PER_POINT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Column


def spot_greeks(
    forward_greeks: NDArray[np.float64],
    *,
    forward: Column,
    spot: Column | float,
    years: Column,
    carry: Column | float,
) -> NDArray[np.float64]:
    """Return the kernel's six rows with the Greeks taken with respect to the spot.

    Args:
        forward_greeks: What ``PricingKernel.solve`` or ``evaluate`` returned, shape ``(6, n)``.
        forward: The forwards they were computed with, rupees, shape ``(n,)``.
        spot: Price of the underlying, rupees; a number or shape ``(n,)``.
        years: Time to expiry, years of 365 days, shape ``(n,)``.
        carry: Rate less dividend yield, continuous, per year as a fraction; a number or shape
            ``(n,)``. Not derived from F/S here, because minutes before expiry a point of noise in
            the forward would be annualised into a theta of thousands.

    Returns:
        New rows, shape ``(6, n)``, in the same order and units; the first is passed on. NaN where
        a row was NaN or the spot is not a positive number.
    """
    with np.errstate(all="ignore"):
        given, delta, gamma, theta, vega, rho = forward_greeks
        ratio = np.where(np.asarray(spot) > 0.0, forward / np.asarray(spot), np.nan)
        exposure = forward * delta  # rupees per 100 % move, the same for spot and forward
        return np.stack(
            [
                given,
                delta * ratio,
                gamma * ratio * ratio,
                theta - carry * exposure / DAYS_PER_YEAR,
                vega,
                rho + PER_POINT * years * exposure,
            ]
        )
