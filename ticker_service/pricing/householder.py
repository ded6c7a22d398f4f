"""One third-order Householder step on the logarithm of the time value.

Path: normalise -> first_guess -> [householder] -> greeks. Pure.

Let f(s) = ln p - ln p(s). Because dp/ds = phi(z_near), the ratio R = p(s) / p'(s) is the difference
of two Mills ratios, and ln p(s) = ln R - z_near**2 / 2 - ln sqrt(2 pi) needs no exponential and no
distribution function. With z_near = k/s - s/2 and z_far = k/s + s/2 the derivatives of p are
rational, p''/p' = z_near * z_far / s, and therefore, with the Newton step e = f * R / s of s itself

    A = y - f                                  where y = e * z_near * z_far
    B = (A * (A - f) - e**2 * (z_near**2 + z_near * z_far + z_far**2)) / 6

The step of order four is s * e * (1 + A/2) / (1 + A + B). From a guess good to 3e-4 it leaves an
error of 2e-15; a second step changes nothing. ``docs/pricing.md`` §4 derives it line by line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing import mills
from ticker_service.pricing.columns import constant

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Column, Scratch

_LN_SQRT_2PI: Final = constant(0.9189385332046727)
_HALF: Final = constant(0.5)
_ONE: Final = constant(1.0)
_SIXTH: Final = constant(1.0 / 6.0)


def arguments(scratch: Scratch) -> None:
    """Fill ``z_near`` and ``z_far`` from k and s."""
    half_width = scratch.spare[0]
    np.divide(scratch.log_moneyness, scratch.total_volatility, out=scratch.z_far)
    np.multiply(scratch.total_volatility, _HALF, out=half_width)
    np.subtract(scratch.z_far, half_width, out=scratch.z_near)
    np.add(scratch.z_far, half_width, out=scratch.z_far)


def step(scratch: Scratch) -> None:
    """Replace the guess in ``total_volatility`` by the solution.

    ``z_far`` and ``mills_far`` are left at the guess; ``greeks.far_tail`` carries them to the
    solution.
    """
    arguments(scratch)
    mills.gap_and_far(scratch)
    mismatch = scratch.spare[0]
    np.divide(scratch.time_value, scratch.mills_gap, out=mismatch)
    np.log(mismatch, out=mismatch)
    move(scratch, mismatch)


def move(scratch: Scratch, mismatch: Column) -> None:
    """Move ``total_volatility`` by one step from where ``z_near`` and ``z_far`` are.

    Args:
        scratch: ``mills_gap`` is R and gets lost.
        mismatch: The first spare column, ln p - ln R of the price; becomes f.
    """
    _, newton, product, squares, second = scratch.spare
    third = scratch.mills_gap
    np.multiply(scratch.z_near, scratch.z_near, out=squares)
    np.multiply(squares, _HALF, out=second)
    mismatch += second
    mismatch += _LN_SQRT_2PI

    np.multiply(mismatch, scratch.mills_gap, out=newton)
    newton /= scratch.total_volatility

    np.multiply(scratch.z_near, scratch.z_far, out=product)
    np.multiply(product, newton, out=second)
    second -= mismatch

    squares += product
    np.multiply(scratch.z_far, scratch.z_far, out=product)
    squares += product
    squares *= newton
    squares *= newton
    np.subtract(second, mismatch, out=third)
    third *= second
    third -= squares
    third *= _SIXTH

    # s * (1 + e * (1 + A/2) / (1 + A + B)).
    third += second
    third += _ONE
    second *= _HALF
    second += _ONE
    second *= newton
    second /= third
    second += _ONE
    scratch.total_volatility *= second
