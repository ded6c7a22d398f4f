"""An explicit first guess of the total volatility, good to 3e-4; one step then finishes it.

Path: normalise -> [first_guess] -> householder -> greeks. Pure.

Bachelier's normal model has the same option prices to leading order, and its volatility is nearly
explicit: with H = log1p(u / p) the ratio of distance to normal volatility is H divided by
sqrt(1 + H / 4 pi) and by a factor that only varies between 2.278 and 2.506, which a polynomial in
y = (H - SEED_CENTRE) / (H + SEED_CENTRE) gives. A series in the squared volatility then turns the
normal into the lognormal volatility.
Source: ``docs/pricing.md`` §3; after Choi, Kim and Kwak's explicit normal volatility and Hagan's
normal-lognormal expansion (Grunspan, arXiv 1112.1782).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing._coefficients import SEED_CENTRE, SEED_POLYNOMIAL
from ticker_service.pricing.columns import constant

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Scratch

TOTAL_VOLATILITY_MAX: Final = 0.8
LOG_MONEYNESS_MAX: Final = 2.0
"""Within these two the guess is good to 3e-4 and one step reaches the last digit. Beyond, the
series diverges (at k = 40 it even turns negative), so such rows go to ``wide.py``."""

_ONE: Final = constant(1.0)
_CENTRE: Final = constant(SEED_CENTRE)
_LEADING, *_FOLLOWING = (constant(each) for each in reversed(SEED_POLYNOMIAL))
_GROWTH: Final = constant(0.25 / math.pi)
_CONSTANT: Final = constant(1.0 / 24.0)
_OF_MONEYNESS: Final = constant(-1.0 / 2880.0)
_OF_VOLATILITY: Final = constant(7.0 / 1920.0)
_S_MAX: Final = constant(TOTAL_VOLATILITY_MAX)
_K_MAX: Final = constant(LOG_MONEYNESS_MAX)


def total_volatility(scratch: Scratch) -> None:
    """Fill ``total_volatility`` with the guess and ``wide`` with the rows it does not cover."""
    log, y, factor, series = scratch.spare[:4]
    normal = scratch.total_volatility
    np.divide(scratch.excess, scratch.time_value, out=log)
    np.log1p(log, out=log)

    np.add(log, _CENTRE, out=factor)
    np.subtract(log, _CENTRE, out=y)
    y /= factor
    np.multiply(y, _LEADING, out=factor)
    factor += _FOLLOWING[0]
    for coefficient in _FOLLOWING[1:]:
        factor *= y
        factor += coefficient

    # Normal volatility in lognormal units: q = k / H * sqrt(1 + H / 4 pi) * factor.
    np.multiply(log, _GROWTH, out=y)
    y += _ONE
    np.sqrt(y, out=y)
    np.divide(scratch.log_moneyness, log, out=normal)
    normal *= y
    normal *= factor

    # s = q * (1 + q**2 * (1/24 - k**2/2880 + 7/1920 * q**2)).
    squared = y
    np.multiply(normal, normal, out=squared)
    np.multiply(scratch.log_moneyness, scratch.log_moneyness, out=series)
    series *= _OF_MONEYNESS
    series += _CONSTANT
    np.multiply(squared, _OF_VOLATILITY, out=factor)
    series += factor
    series *= squared
    series += _ONE
    normal *= series

    _flag_wide_rows(scratch)


def _flag_wide_rows(scratch: Scratch) -> None:
    far = scratch.spare_flags[0]
    np.greater(scratch.total_volatility, _S_MAX, out=scratch.wide)
    np.greater(scratch.log_moneyness, _K_MAX, out=far)
    np.logical_or(scratch.wide, far, out=scratch.wide)
    np.logical_and(scratch.wide, scratch.solvable, out=scratch.wide)
