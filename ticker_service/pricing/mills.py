"""The Mills ratio M(z) = Phi(-z) / phi(z), the only special function the kernel needs.

Phi is the normal distribution, phi its density. Where Phi(-z) underflows, M(z) is about 1/z, so a
formula in M needs no tail cases. On z from -0.75 to 39 it is one polynomial::

    M(z) = w * P(v),    w = 1 / (z + MILLS_SHIFT),    v = MILLS_SCALE * w + MILLS_OFFSET

with a relative error below 2e-15 (``scripts/fit_pricing_polynomials.py`` fits it, the tests
measure it). numpy has no such function, and a polynomial has no branches to mispredict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing._coefficients import (
    MILLS_LOWEST,
    MILLS_OFFSET,
    MILLS_POLYNOMIAL,
    MILLS_SCALE,
    MILLS_SHIFT,
)

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Column, Scratch

ARGUMENT_MIN: Final = MILLS_LOWEST
"""Lowest argument the polynomial is fitted for."""

_CONSTANT: Final = MILLS_POLYNOMIAL[0]
_MIDDLE_DESCENDING: Final = MILLS_POLYNOMIAL[-2:0:-1]
_LEADING: Final = MILLS_POLYNOMIAL[-1]


def ratio(z: Column) -> Column:
    """Return M(z) as a new column, for z of at least ``ARGUMENT_MIN``."""
    w = 1.0 / (z + MILLS_SHIFT)
    v = MILLS_SCALE * w + MILLS_OFFSET
    polynomial = np.full_like(v, _LEADING)
    for coefficient in _MIDDLE_DESCENDING:
        polynomial *= v
        polynomial += coefficient
    polynomial *= v
    polynomial += _CONSTANT
    polynomial *= w
    return polynomial


def gap_and_far(scratch: Scratch) -> None:
    """Fill ``mills_gap`` and ``mills_far`` from ``z_near``, ``z_far`` and ``total_volatility``.

    For a tiny s the two ratios agree in most digits, so their difference must not be formed by
    subtraction. P(near) - P(far) is divisible by v_near - v_far; Horner's scheme yields the
    quotient Q beside the value (synthetic division), and with ``w_near - w_far = s * w_near *
    w_far``, exact because ``z_far - z_near = s``,

        M(near) - M(far) = (w_near - w_far) * (P(near) + MILLS_SCALE * w_far * Q)
        M(far)           = w_far * (P(near) - MILLS_SCALE * (w_near - w_far) * Q)
    """
    w_far, v_near, v_far, value, quotient = scratch.spare[:5]
    w_gap = scratch.mills_gap
    np.add(scratch.z_near, MILLS_SHIFT, out=w_gap)
    np.divide(1.0, w_gap, out=w_gap)
    np.multiply(w_gap, MILLS_SCALE, out=v_near)
    v_near += MILLS_OFFSET

    np.add(scratch.z_far, MILLS_SHIFT, out=w_far)
    np.divide(1.0, w_far, out=w_far)
    np.multiply(w_far, MILLS_SCALE, out=v_far)
    v_far += MILLS_OFFSET

    w_gap *= w_far
    w_gap *= scratch.total_volatility

    value.fill(_LEADING)
    quotient.fill(_LEADING)
    for coefficient in _MIDDLE_DESCENDING:
        value *= v_near
        value += coefficient
        quotient *= v_far
        quotient += value
    value *= v_near
    value += _CONSTANT

    quotient *= MILLS_SCALE
    np.multiply(quotient, w_gap, out=scratch.mills_far)
    np.subtract(value, scratch.mills_far, out=scratch.mills_far)
    np.multiply(scratch.mills_far, w_far, out=scratch.mills_far)

    quotient *= w_far
    value += quotient
    w_gap *= value
