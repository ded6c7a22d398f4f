"""From market terms to the two numbers that matter: log-moneyness k and time value p.

Path: [normalise] -> first_guess -> householder -> greeks. Pure.

By parity the time value of a strike's two legs is the same, so every option is solved as the
out-of-the-money leg of its strike: an in-the-money price gives up its intrinsic value first.
Divided by the smaller of forward and strike, that leg's Black price depends on k and s alone::

    p(k, s) = Phi(-z_near) - exp(k) * Phi(-z_far)      0 < p < 1
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing.columns import constant
from ticker_service.pricing.status import PriceStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Flags, OptionColumns, Scratch

PRICE_MIN: Final = 1e-6
PRICE_MAX: Final = 1e12
"""Rupees. A forward or strike outside is no price."""
YEARS_MIN: Final = 1e-17
"""A third of a nanosecond; anything shorter has expired."""
YEARS_MAX: Final = 1e3
DISCOUNT_MIN: Final = 1e-40
DISCOUNT_MAX: Final = 1e10
VOLATILITY_MIN: Final = 1e-280
VOLATILITY_MAX: Final = 1e12
# The limits together keep a gamma, which grows as discount / (forward * volatility), in a float64.
TIME_VALUE_MIN: Final = 1e-290
"""Less time value than this, over the smaller of forward and strike, is none. At the widest
moneyness that the limits above allow, ``excess / time_value`` still fits into a float64."""
EXCESS_AT_THE_MONEY: Final = 1e-300
"""Added to ``excess``, so that F == K is a limit and not 0/0; below the last digit of any other."""

_ZERO, _ONE, _INFINITY = constant(0.0), constant(1.0), constant(math.inf)
_PRICE_MIN, _PRICE_MAX = constant(PRICE_MIN), constant(PRICE_MAX)
_YEARS_MIN, _YEARS_MAX = constant(YEARS_MIN), constant(YEARS_MAX)
_YEARS_BEFORE_MAX: Final = constant(-YEARS_MAX)
_DISCOUNT_MIN, _DISCOUNT_MAX = constant(DISCOUNT_MIN), constant(DISCOUNT_MAX)
_VOLATILITY_MIN, _VOLATILITY_MAX = constant(VOLATILITY_MIN), constant(VOLATILITY_MAX)
_TIME_VALUE_MIN: Final = constant(TIME_VALUE_MIN)
_EXCESS_AT_THE_MONEY: Final = constant(EXCESS_AT_THE_MONEY)


def terms(options: OptionColumns, scratch: Scratch) -> None:
    """Fill the columns that depend on the terms alone, and start ``solvable`` with their limits.

    Fills ``is_call``, ``discount``, ``root_years``, ``smaller``, ``excess``, ``log_moneyness`` and
    ``in_the_money``; the first spare column is left holding the intrinsic value.
    """
    intrinsic = scratch.spare[0]
    np.copyto(scratch.is_call, options.is_call)
    if isinstance(options.rate, float):
        np.multiply(options.years, -options.rate, out=scratch.discount)
    else:
        np.multiply(options.years, options.rate, out=scratch.discount)
        np.negative(scratch.discount, out=scratch.discount)
    np.exp(scratch.discount, out=scratch.discount)
    np.sqrt(options.years, out=scratch.root_years)

    # A put's intrinsic value, less the difference for a call: exact, and no branch.
    np.subtract(options.strike, options.forward, out=scratch.excess)
    np.maximum(scratch.excess, _ZERO, out=intrinsic)
    np.multiply(scratch.excess, scratch.is_call, out=scratch.smaller)
    intrinsic -= scratch.smaller
    np.greater(intrinsic, _ZERO, out=scratch.in_the_money)

    # log1p of the exact difference, not log of the ratio: near the money F / K rounds away the
    # digits that carry the answer.
    np.minimum(options.forward, options.strike, out=scratch.smaller)
    np.absolute(scratch.excess, out=scratch.excess)
    np.divide(scratch.excess, scratch.smaller, out=scratch.excess)
    np.add(scratch.excess, _EXCESS_AT_THE_MONEY, out=scratch.excess)
    np.log1p(scratch.excess, out=scratch.log_moneyness)
    _within_limits(options, scratch)


def time_value(options: OptionColumns, scratch: Scratch, status: NDArray[np.uint8]) -> None:
    """Fill ``time_value``, ``solvable`` and ``status`` from prices; NaN where there is no answer.

    Expects ``terms`` to have run just before.
    """
    intrinsic, holds, alive = scratch.spare[0], *scratch.spare_flags
    value = scratch.time_value
    np.divide(options.given, scratch.discount, out=value)
    np.subtract(value, intrinsic, out=value)
    np.divide(value, scratch.smaller, out=value)

    well_formed = scratch.solvable
    _narrow(well_formed, np.greater(options.given, _ZERO, out=holds))
    _narrow(well_formed, np.less(options.given, _INFINITY, out=holds))

    status.fill(PriceStatus.OK)
    np.greater_equal(options.years, _YEARS_MIN, out=alive)
    np.greater(value, _TIME_VALUE_MIN, out=holds)
    _narrow(holds, alive)
    _narrow(holds, well_formed)
    _narrow(holds, np.less(value, _ONE, out=scratch.wide))
    if holds.all():
        return
    np.greater(value, _TIME_VALUE_MIN, out=holds)
    _mark(status, PriceStatus.BELOW_INTRINSIC, np.logical_not(holds, out=holds))
    _mark(status, PriceStatus.ABOVE_BOUND, np.greater_equal(value, _ONE, out=holds))
    _mark(status, PriceStatus.EXPIRED, np.logical_not(alive, out=alive))
    _mark(status, PriceStatus.BAD_INPUT, np.logical_not(well_formed, out=holds))
    np.equal(status, np.uint8(PriceStatus.OK), out=scratch.solvable)
    np.copyto(value, np.nan, where=np.logical_not(scratch.solvable, out=holds))


def total_volatility(options: OptionColumns, scratch: Scratch) -> None:
    """Fill ``total_volatility`` and ``solvable`` from volatilities; NaN where there is no answer.

    Expects ``terms`` to have run before.
    """
    holds = scratch.spare_flags[0]
    _narrow(scratch.solvable, np.greater_equal(options.given, _VOLATILITY_MIN, out=holds))
    _narrow(scratch.solvable, np.less_equal(options.given, _VOLATILITY_MAX, out=holds))
    _narrow(scratch.solvable, np.greater_equal(options.years, _YEARS_MIN, out=holds))
    np.multiply(options.given, scratch.root_years, out=scratch.total_volatility)
    np.copyto(scratch.total_volatility, np.nan, where=np.logical_not(scratch.solvable, out=holds))


def _within_limits(options: OptionColumns, scratch: Scratch) -> None:
    """Start ``solvable``: the terms are numbers within the limits. NaN compares False."""
    holds, limits = scratch.spare_flags[0], scratch.solvable
    np.greater_equal(scratch.smaller, _PRICE_MIN, out=limits)
    _narrow(limits, np.less_equal(options.forward, _PRICE_MAX, out=holds))
    _narrow(limits, np.less_equal(options.strike, _PRICE_MAX, out=holds))
    _narrow(limits, np.greater_equal(options.years, _YEARS_BEFORE_MAX, out=holds))
    _narrow(limits, np.less_equal(options.years, _YEARS_MAX, out=holds))
    _narrow(limits, np.greater_equal(scratch.discount, _DISCOUNT_MIN, out=holds))
    _narrow(limits, np.less_equal(scratch.discount, _DISCOUNT_MAX, out=holds))


def _narrow(flags: Flags, condition: Flags) -> None:
    np.logical_and(flags, condition, out=flags)


def _mark(status: NDArray[np.uint8], code: PriceStatus, where: Flags) -> None:
    np.copyto(status, np.uint8(code), where=where)
