"""Black-76 in 60 digits: what the pricing tests are measured against."""

from __future__ import annotations

from typing import NamedTuple

import mpmath as mp

DIGITS = 60
NEWTON_STEPS = 5


class Terms(NamedTuple):
    """One option, in the order of the kernel's arguments after the price or volatility."""

    forward: float
    strike: float
    years: float
    rate: float
    is_call: bool


def normal_cdf(x: mp.mpf) -> mp.mpf:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def evaluate(volatility: mp.mpf | float, terms: Terms) -> list[mp.mpf]:
    """Return price, delta, gamma, theta, vega, rho in the kernel's units."""
    with mp.workdps(DIGITS):
        forward, strike, years, rate = (mp.mpf(term) for term in terms[:4])
        volatility = mp.mpf(volatility)
        sign = 1 if terms.is_call else -1
        total = volatility * mp.sqrt(years)
        d1 = mp.log(forward / strike) / total + total / 2
        discount = mp.exp(-rate * years)
        density = mp.npdf(d1)
        delta = discount * sign * normal_cdf(sign * d1)
        price = forward * delta - discount * sign * strike * normal_cdf(sign * (d1 - total))
        vega = discount * forward * density * mp.sqrt(years)
        return [
            price,
            delta,
            discount * density / (forward * total),
            (rate * price - vega * volatility / (2 * years)) / 365,
            vega / 100,
            -years * price / 100,
        ]


def implied_volatility(price: float, near: float, terms: Terms) -> mp.mpf:
    """Return the volatility whose price is exactly the given float; ``near`` is already close."""
    with mp.workdps(DIGITS):
        volatility = mp.mpf(near)
        for _ in range(NEWTON_STEPS):
            value = evaluate(volatility, terms)
            volatility -= (value[0] - mp.mpf(price)) / (100 * value[4])
        return volatility


def relative_error(value: float, exact: mp.mpf) -> float:
    return float(abs(mp.mpf(float(value)) / exact - 1))
