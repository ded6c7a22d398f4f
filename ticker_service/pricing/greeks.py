"""The five Greeks, from values that the solver or the evaluation already holds.

Path: normalise -> first_guess -> householder -> [greeks]. Pure.
Units (``docs/pricing.md`` §1): delta and gamma per point of the forward, discounted; theta in
rupees per calendar day; vega in rupees per point of volatility; rho in rupees per 1 % of rate with
the forward held fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import DAYS_PER_YEAR
from ticker_service.pricing.columns import constant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Column, OptionColumns, Scratch

PER_POINT: Final = 0.01
"""One point of volatility, or 1 % of rate."""

_ONE: Final = constant(1.0)
_TWO: Final = constant(2.0)
_HALF: Final = constant(0.5)
_THIRD: Final = constant(1.0 / 3.0)
_MINUS_HALF: Final = constant(-0.5)
_INV_SQRT_2PI: Final = constant(0.3989422804014327)
_PER_POINT: Final = constant(PER_POINT)
_LESS_PER_POINT: Final = constant(-PER_POINT)
_PER_DAY: Final = constant(1.0 / DAYS_PER_YEAR)
_LESS_HALF_PER_DAY: Final = constant(-0.5 / DAYS_PER_YEAR)


def density(scratch: Scratch) -> None:
    """Fill ``density`` with phi(z_near); ``excess`` is lost."""
    np.multiply(scratch.z_near, scratch.z_near, out=scratch.density)
    scratch.density *= _MINUS_HALF
    np.exp(scratch.density, out=scratch.density)
    scratch.density *= _INV_SQRT_2PI


def far_tail(scratch: Scratch) -> None:
    """Fill ``density`` and ``far_tail`` at the solution, from M(z_far) at the guess.

    The step moves z_far by at most some 1e-3 of it, so three terms of Taylor's series give M at
    the new place for a few multiplications: with M' = z*M - 1 the coefficients of the series are
    t1 = M', t2 = (M + z*t1) / 2 and t3 = (t1 + z*t2) / 3.
    """
    half_width, moved, first, second, third = scratch.spare[:5]
    np.divide(scratch.log_moneyness, scratch.total_volatility, out=moved)
    np.multiply(scratch.total_volatility, _HALF, out=half_width)
    np.subtract(moved, half_width, out=scratch.z_near)
    density(scratch)
    moved += half_width
    moved -= scratch.z_far

    np.multiply(scratch.z_far, scratch.mills_far, out=first)
    first -= _ONE
    np.multiply(scratch.z_far, first, out=second)
    second += scratch.mills_far
    second *= _HALF
    np.multiply(scratch.z_far, second, out=third)
    third += first
    third *= _THIRD

    third *= moved
    third += second
    third *= moved
    third += first
    third *= moved
    scratch.far_tail += third
    scratch.far_tail *= scratch.density


def fill(options: OptionColumns, price: Column, scratch: Scratch, out: NDArray[np.float64]) -> None:
    """Write delta, gamma, theta, vega and rho into the last five rows of ``out``.

    Args:
        options: The terms; ``given`` is not used.
        price: Discounted price, rupees, shape ``(n,)``.
        scratch: All but ``excess``, ``log_moneyness`` and the Mills columns are read.
        out: Shape ``(6, n)``.
    """
    _, delta, gamma, theta, vega, rho = out
    unit, per_total_volatility, carry, inverse = scratch.spare[:4]
    np.multiply(scratch.smaller, scratch.discount, out=unit)
    np.divide(_ONE, options.forward, out=inverse)
    np.multiply(unit, scratch.density, out=per_total_volatility)  # dV/ds
    unit *= inverse
    _delta(options, scratch, unit, delta)

    # In this order, or a tiny volatility would overflow before the forward could help.
    np.multiply(per_total_volatility, inverse, out=gamma)
    np.multiply(gamma, inverse, out=gamma)
    np.divide(gamma, scratch.total_volatility, out=gamma)

    # Time decay plus the interest that the price itself earns.
    np.multiply(per_total_volatility, scratch.total_volatility, out=theta)
    np.divide(theta, options.years, out=theta)
    np.multiply(theta, _LESS_HALF_PER_DAY, out=theta)
    if isinstance(options.rate, float):
        np.multiply(price, options.rate / DAYS_PER_YEAR, out=carry)
    else:
        np.multiply(price, options.rate, out=carry)
        carry *= _PER_DAY
    np.add(theta, carry, out=theta)

    np.multiply(scratch.root_years, per_total_volatility, out=vega)
    np.multiply(vega, _PER_POINT, out=vega)

    np.multiply(price, options.years, out=rho)
    np.multiply(rho, _LESS_PER_POINT, out=rho)


def _delta(options: OptionColumns, scratch: Scratch, unit: Column, delta: Column) -> None:
    """Write the delta; ``unit`` is discount * m / F.

    The out-of-the-money leg's size, before discount, is Phi(-z_near) = p + far_tail for a call,
    where m is F, and Phi(-z_far) = far_tail * m / F for a put, where m is K. At F == K both legs
    count as out of the money and each takes its own form. With c = 1 where that leg is the call,
    else 0, any leg's delta is (2c - 1) * size + is_call - c, exact for the leg itself. The choice
    is made by arithmetic: a masked copy of a random half of the rows defeats the branch predictor
    and costs ten times as much.
    """
    size, otm_is_call, offset = scratch.time_value, scratch.spare[4], scratch.is_call
    np.not_equal(options.is_call, scratch.in_the_money, out=scratch.spare_flags[0])
    np.copyto(otm_is_call, scratch.spare_flags[0])
    offset -= otm_is_call
    offset *= scratch.discount

    size *= otm_is_call
    size += scratch.far_tail
    size *= unit
    np.minimum(size, scratch.discount, out=size)  # or rounding could turn the other leg's sign
    otm_is_call *= _TWO
    otm_is_call -= _ONE
    size *= otm_is_call
    np.add(size, offset, out=delta)
