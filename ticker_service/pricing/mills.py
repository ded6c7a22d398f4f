"""The Mills ratio M(z) = Phi(-z) / phi(z), the only special function the kernel needs.

Phi is the normal distribution, phi its density. Where Phi(-z) underflows, M(z) is about 1/z, so a
formula in M needs no tail cases. On z from -0.75 to 39 it is one polynomial::

    M(z) = w * P(v),    w = 1 / (z + MILLS_SHIFT),    v = w - MILLS_CENTRE

with a relative error below 2e-15 (``scripts/fit_pricing_polynomials.py`` fits it, the tests
measure it). numpy has no such function, and a polynomial has no branches to mispredict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing._coefficients import (
    MILLS_CENTRE,
    MILLS_LOWEST,
    MILLS_POLYNOMIAL,
    MILLS_SHIFT,
)
from ticker_service.pricing.columns import constant

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Column, Scratch

ARGUMENT_MIN: Final = MILLS_LOWEST
"""Lowest argument the polynomial is fitted for."""

_ONE: Final = constant(1.0)
_SHIFT: Final = constant(MILLS_SHIFT)
_CENTRE: Final = constant(MILLS_CENTRE)
_LEADING, *_MIDDLE, _CONSTANT = (constant(each) for each in reversed(MILLS_POLYNOMIAL))


def ratio(z: Column, out: Column, *, v: Column, w: Column) -> None:
    """Write M(z), for z of at least ``ARGUMENT_MIN``.

    Args:
        z: The arguments, shape ``(n,)``.
        out: Where to write, shape ``(n,)``.
        v: A column to work in, likewise.
        w: Another.
    """
    np.add(z, _SHIFT, out=w)
    np.divide(_ONE, w, out=w)
    np.subtract(w, _CENTRE, out=v)
    np.multiply(v, _LEADING, out=out)
    for coefficient in _MIDDLE:
        out += coefficient
        out *= v
    out += _CONSTANT
    out *= w


def gap_and_far(scratch: Scratch) -> None:
    """Fill ``mills_gap`` and ``mills_far`` from ``z_near``, ``z_far`` and ``total_volatility``.

    For a tiny s the two ratios agree in most digits, so their difference must not be formed by
    subtraction. P(near) - P(far) is divisible by v_near - v_far; Horner's scheme yields the
    quotient Q beside the value (synthetic division), and with ``w_near - w_far = s * w_near *
    w_far``, exact because ``z_far - z_near = s``,

        M(near) - M(far) = (w_near - w_far) * (P(near) + w_far * Q)
        M(far)           = w_far * (P(near) - (w_near - w_far) * Q)
    """
    value, quotient, v_near, *_ = scratch.spare
    both, v_both = scratch.spare_pairs
    w_gap, w_far = scratch.mills_gap, scratch.mills_far
    np.add(scratch.z_both, _SHIFT, out=scratch.mills_both)
    np.divide(_ONE, scratch.mills_both, out=scratch.mills_both)
    np.subtract(scratch.mills_both, _CENTRE, out=v_both)
    w_gap *= w_far
    w_gap *= scratch.total_volatility

    # The quotient takes in each new value: with value first, one multiplication serves both.
    np.multiply(v_both, _LEADING, out=both)
    first, *middle = _MIDDLE
    value += first
    quotient += value
    for coefficient in middle:
        both *= v_both
        value += coefficient
        quotient += value
    value *= v_near
    value += _CONSTANT

    far = v_near
    np.multiply(quotient, w_gap, out=far)
    np.subtract(value, far, out=far)
    quotient *= w_far
    value += quotient
    w_gap *= value
    w_far *= far
