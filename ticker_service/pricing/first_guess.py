"""An explicit first guess of the total volatility, good to 3e-4; one step then finishes it.

Path: normalise -> [first_guess] -> householder -> greeks. Pure.

Bachelier's normal model has the same option prices to leading order, and its volatility is nearly
explicit: with L = log1p(u / p) / 2 the ratio of distance to normal volatility is L divided by
sqrt(1 + L / 2 pi) and by a factor that only varies between 1.139 and 1.253, which a polynomial in
y = (L - SEED_CENTRE) / (L + SEED_CENTRE) gives. A series in the squared volatility then turns the
normal into the lognormal volatility.
Source: ``docs/pricing.md`` §3; after Choi, Kim and Kwak's explicit normal volatility and Hagan's
normal-lognormal expansion (Grunspan, arXiv 1112.1782).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing._coefficients import SEED_CENTRE, SEED_POLYNOMIAL

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Scratch

TOTAL_VOLATILITY_MAX: Final = 0.8
LOG_MONEYNESS_MAX: Final = 2.0
"""Within these two the guess is good to 3e-4 and one step reaches the last digit. Beyond, the
series diverges (at k = 40 it even turns negative), so such rows go to ``wide.py``."""


def total_volatility(scratch: Scratch) -> None:
    """Fill ``total_volatility`` with the guess and ``wide`` with the rows it does not cover."""
    half_log, y, factor, series = scratch.spare[:4]
    normal = scratch.total_volatility
    np.divide(scratch.excess, scratch.time_value, out=half_log)
    np.log1p(half_log, out=half_log)
    half_log *= 0.5

    np.add(half_log, SEED_CENTRE, out=factor)
    np.subtract(half_log, SEED_CENTRE, out=y)
    y /= factor
    factor.fill(SEED_POLYNOMIAL[-1])
    for coefficient in SEED_POLYNOMIAL[-2::-1]:
        factor *= y
        factor += coefficient

    # Normal volatility in lognormal units: q = k / L * sqrt(1 + L / 2 pi) * factor.
    np.multiply(half_log, 0.5 / math.pi, out=y)
    y += 1.0
    np.sqrt(y, out=y)
    np.divide(scratch.log_moneyness, half_log, out=normal)
    np.multiply(normal, y, out=normal)
    np.multiply(normal, factor, out=normal)

    # s = q * (1 + q**2 * (1/24 - k**2/2880 + 7/1920 * q**2)).
    squared = y
    np.multiply(normal, normal, out=squared)
    np.multiply(scratch.log_moneyness, scratch.log_moneyness, out=series)
    series *= -1.0 / 2880.0
    series += 1.0 / 24.0
    np.multiply(squared, 7.0 / 1920.0, out=factor)
    series += factor
    series *= squared
    series += 1.0
    np.multiply(normal, series, out=scratch.total_volatility)

    _flag_wide_rows(scratch)


def _flag_wide_rows(scratch: Scratch) -> None:
    far = scratch.spare_flags[0]
    np.greater(scratch.total_volatility, TOTAL_VOLATILITY_MAX, out=scratch.wide)
    np.greater(scratch.log_moneyness, LOG_MONEYNESS_MAX, out=far)
    np.logical_or(scratch.wide, far, out=scratch.wide)
    np.logical_and(scratch.wide, scratch.solvable, out=scratch.wide)
