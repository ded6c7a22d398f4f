"""How options are priced without us: vollib one by one, and Newton on scipy's normal distribution.

Each function takes the columns a user has and returns rows as our kernel does: volatility, delta,
gamma, theta, vega, rho. Units are vollib's, which are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import ndtr
from vollib.black.greeks import analytical
from vollib.black.implied_volatility import implied_volatility

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scripts.benchmarks.chain import Chain

Rows = tuple["NDArray[np.float64] | list[float]", ...]

NEWTON_PASSES_MAX: Final = 100
NEWTON_ERROR_INR_MAX: Final = 1e-8
"""The usual test of convergence, on the price. A smaller one is lost in rounding and never met; a
fixed number of passes is faster and wrong: after eight, a fifth of our chain is off."""
VOLATILITY_MIN: Final = 0.01
DAYS_PER_YEAR: Final = 365.0
PERCENT: Final = 0.01


def flags_of(is_call: NDArray[np.bool_]) -> list[str]:
    """Return vollib's letters."""
    return ["c" if each else "p" for each in is_call.tolist()]


class OneByOne:
    """vollib per option, on Python floats, which it is fastest on."""

    def __init__(self, chain: Chain) -> None:
        self._options: Sequence[tuple[float, float, float, float, str]] = list(
            zip(
                chain.price.tolist(),
                chain.forward.tolist(),
                chain.strike.tolist(),
                chain.years.tolist(),
                flags_of(chain.is_call),
                strict=True,
            )
        )
        self._rate = chain.rate

    def solve(self) -> Rows:
        """Return volatility and Greeks of every price."""
        rate = self._rate
        rows = []
        for price, forward, strike, years, flag in self._options:
            volatility = implied_volatility(price, forward, strike, rate, years, flag)
            rows.append((volatility, *_greeks(flag, forward, strike, years, rate, volatility)))
        return tuple(zip(*rows, strict=True))

    def greeks(self, volatility: Sequence[float]) -> Rows:
        """Return the Greeks of every volatility."""
        rate = self._rate
        return tuple(
            zip(
                *(
                    _greeks(flag, forward, strike, years, rate, each)
                    for (_, forward, strike, years, flag), each in zip(
                        self._options, volatility, strict=True
                    )
                ),
                strict=True,
            )
        )


def newton(chain: Chain) -> Rows:
    """Solve a whole chain at once, as most vectorised code does.

    Newton's method on the price from the inflection point, where it cannot diverge, until every
    row's price is met; then the closed forms. scipy's ``ndtr`` and not ``norm.cdf``, which
    is ten times slower.
    """
    forward, strike, years, rate = chain.forward, chain.strike, chain.years, chain.rate
    discount = np.exp(-rate * years)
    root = np.sqrt(years)
    sign = np.where(chain.is_call, 1.0, -1.0)
    log_moneyness = np.log(forward / strike)
    volatility = np.maximum(np.sqrt(2.0 * np.abs(log_moneyness) / years), VOLATILITY_MIN)
    for _ in range(NEWTON_PASSES_MAX):
        d1 = log_moneyness / (volatility * root) + 0.5 * volatility * root
        d2 = d1 - volatility * root
        value = discount * sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * d2))
        vega = discount * forward * _density(d1) * root
        error = value - chain.price
        volatility = volatility - error / vega
        if np.abs(error).max() < NEWTON_ERROR_INR_MAX:
            break
    d1 = log_moneyness / (volatility * root) + 0.5 * volatility * root
    d2 = d1 - volatility * root
    density = _density(d1)
    value = discount * sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * d2))
    decay = -discount * forward * density * volatility / (2.0 * root)
    return (
        volatility,
        discount * sign * ndtr(sign * d1),
        discount * density / (forward * volatility * root),
        (decay + rate * value) / DAYS_PER_YEAR,
        PERCENT * discount * forward * density * root,
        -PERCENT * years * value,
    )


def _density(x: NDArray[np.float64]) -> NDArray[np.float64]:
    density: NDArray[np.float64] = np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
    return density


def _greeks(
    flag: str, forward: float, strike: float, years: float, rate: float, volatility: float
) -> tuple[float, ...]:
    terms = flag, forward, strike, years, rate, volatility
    return (
        analytical.delta(*terms),
        analytical.gamma(*terms),
        analytical.theta(*terms),
        analytical.vega(*terms),
        analytical.rho(*terms),
    )
