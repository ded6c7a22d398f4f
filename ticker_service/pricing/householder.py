"""One third-order Householder step on the logarithm of the time value.

Path: normalise -> first_guess -> [householder] -> greeks. Pure.

Let f(s) = ln p(s) - ln p. Because dp/ds = phi(z_near), the ratio R = p / p' is the difference of
two Mills ratios, and ln p(s) = ln R - z_near**2 / 2 - ln sqrt(2 pi) needs no exponential and no
distribution function. With a = k/s and t = s/2 the second derivative of p is rational too,
p''/p' = (a**2 - t**2) / s, and therefore, with the Newton step n = -f * R and e = n / s,

    f''  / f' * n    = y + f                              where y = e * (a**2 - t**2)
    f''' / f' * n**2 = y**2 + 3*y*f + 2*f**2 - e**2 * (3*a**2 + t**2)

The step of order four is s * e * (1 + A/2) / (1 + A + B), A and B being the first line and a sixth
of the second. From a guess good to 3e-4 it leaves an error of 2e-15; a second step changes
nothing. ``docs/pricing.md`` §4 derives it line by line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing import mills

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Column, Scratch

LN_SQRT_2PI: Final = 0.9189385332046727


def centre_and_half_width(scratch: Scratch) -> tuple[Column, Column]:
    """Return a = k/s and t = s/2 in the sixth and seventh spare column."""
    a, t = scratch.spare[5:7]
    np.divide(scratch.log_moneyness, scratch.total_volatility, out=a)
    np.multiply(scratch.total_volatility, 0.5, out=t)
    return a, t


def arguments(scratch: Scratch) -> tuple[Column, Column]:
    """Fill ``z_near`` = a - t and ``z_far`` = a + t from k and s; return a and t likewise."""
    a, t = centre_and_half_width(scratch)
    np.subtract(a, t, out=scratch.z_near)
    np.add(a, t, out=scratch.z_far)
    return a, t


def step(scratch: Scratch) -> None:
    """Replace the guess in ``total_volatility`` by the solution.

    ``z_near``, ``z_far`` and ``mills_far`` are left at the guess; ``greeks.far_tail`` carries them
    to the solution.
    """
    a, t = arguments(scratch)
    mills.gap_and_far(scratch)

    mismatch, newton, y, third, denominator = scratch.spare[:5]
    np.divide(scratch.mills_gap, scratch.time_value, out=mismatch)
    np.log(mismatch, out=mismatch)
    np.multiply(scratch.z_near, scratch.z_near, out=newton)
    newton *= 0.5
    mismatch -= newton
    mismatch -= LN_SQRT_2PI

    np.multiply(mismatch, scratch.mills_gap, out=newton)
    newton /= scratch.total_volatility
    np.negative(newton, out=newton)

    a *= a
    t *= t
    np.subtract(a, t, out=y)
    y *= newton

    # The docstring's second line over six; ``a`` and ``t`` hold their squares from here on.
    np.multiply(y, 3.0, out=third)
    third += mismatch
    third += mismatch
    third *= mismatch
    a *= 3.0
    a += t
    a *= newton
    a *= newton
    third -= a
    np.multiply(y, y, out=a)
    third += a
    third *= 1.0 / 6.0

    second = y
    second += mismatch
    np.add(third, second, out=denominator)
    denominator += 1.0
    second *= 0.5
    second += 1.0
    second *= newton
    second /= denominator
    second += 1.0
    np.multiply(scratch.total_volatility, second, out=scratch.total_volatility)
