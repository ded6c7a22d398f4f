"""The true smile of an expiry: volatility as a parabola in log-moneyness. Pure.

The market prices with this function and the truth is read with it, so both agree to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOLATILITY_MIN: Final = 0.03
VOLATILITY_MAX: Final = 1.5


def volatility_per_year(
    smile: NDArray[np.float64], forward: NDArray[np.float64], strike: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the volatility of each option, a fraction per year.

    Args:
        smile: Level, slope and curvature per option, shape ``(3, n)``.
        forward: Forward of the option's expiry, rupees, shape ``(n,)``.
        strike: Strike, rupees, shape ``(n,)``.

    Returns:
        ``level + slope·x + curvature·x²`` with ``x = ln(strike / forward)``, held within bounds
        that no listed strike reaches in an ordinary run; NaN where an input is NaN.
    """
    moneyness = np.log(strike / forward)
    level, slope, curvature = smile
    volatility = level + moneyness * (slope + moneyness * curvature)
    clipped: NDArray[np.float64] = np.clip(volatility, VOLATILITY_MIN, VOLATILITY_MAX)
    return clipped
