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
from ticker_service.pricing import householder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Column, OptionColumns, Scratch

INV_SQRT_2PI: Final = 0.3989422804014327
PER_POINT: Final = 0.01
"""One point of volatility, or 1 % of rate."""


def density(scratch: Scratch) -> None:
    """Fill ``density`` with phi(z_near)."""
    np.multiply(scratch.z_near, scratch.z_near, out=scratch.density)
    np.multiply(scratch.density, -0.5, out=scratch.density)
    np.exp(scratch.density, out=scratch.density)
    np.multiply(scratch.density, INV_SQRT_2PI, out=scratch.density)


def far_tail(scratch: Scratch) -> None:
    """Fill ``density`` and ``far_tail`` at the solution, from M(z_far) at the guess.

    The step moves z_far by at most some 1e-3, so three terms of Taylor's series give M at the new
    place for a few multiplications: M' = z*M - 1, M'' = M + z*M', M''' = 2*M' + z*M''.
    """
    a, t = householder.centre_and_half_width(scratch)
    np.subtract(a, t, out=scratch.z_near)
    density(scratch)
    first, second, series, weight = scratch.spare[:4]
    z_old, moved = scratch.z_far, a
    moved += t
    moved -= z_old

    np.multiply(z_old, scratch.mills_far, out=first)
    first -= 1.0
    np.multiply(z_old, first, out=second)
    second += scratch.mills_far
    np.multiply(z_old, second, out=series)
    series += first
    series += first

    # M + moved * (M' + moved/2 * (M'' + moved/3 * M''')).
    np.multiply(moved, 1.0 / 3.0, out=weight)
    series *= weight
    series += second
    np.multiply(moved, 0.5, out=weight)
    series *= weight
    series += first
    series *= moved
    series += scratch.mills_far
    np.multiply(series, scratch.density, out=scratch.far_tail)


def fill(options: OptionColumns, price: Column, scratch: Scratch, out: NDArray[np.float64]) -> None:
    """Write delta, gamma, theta, vega and rho into the last five rows of ``out``.

    Args:
        options: The terms; ``given`` is not used.
        price: Discounted price, rupees, shape ``(n,)``.
        scratch: All but ``log_moneyness`` and the Mills columns are read.
        out: Shape ``(6, n)``.
    """
    _, delta, gamma, theta, vega, rho = out
    _delta(options, scratch, delta)

    per_total_volatility, carry = scratch.spare[:2]  # dV/ds = m * phi(z_near) * discount
    np.multiply(scratch.smaller, scratch.density, out=per_total_volatility)
    per_total_volatility *= scratch.discount

    np.multiply(options.forward, options.forward, out=gamma)
    np.multiply(gamma, scratch.total_volatility, out=gamma)
    np.divide(per_total_volatility, gamma, out=gamma)

    # Time decay plus the interest that the price itself earns.
    np.multiply(per_total_volatility, scratch.total_volatility, out=theta)
    np.divide(theta, options.years, out=theta)
    np.multiply(theta, -0.5, out=theta)
    np.multiply(price, options.rate, out=carry)
    np.add(theta, carry, out=theta)
    np.multiply(theta, 1.0 / DAYS_PER_YEAR, out=theta)

    np.multiply(scratch.root_years, per_total_volatility, out=vega)
    np.multiply(vega, PER_POINT, out=vega)

    np.multiply(price, options.years, out=rho)
    np.multiply(rho, -PER_POINT, out=rho)


def _delta(options: OptionColumns, scratch: Scratch, delta: Column) -> None:
    """Write the delta: the out-of-the-money leg's size, turned over for the other leg, signed.

    A call out of the money has Phi(-z_near) = p + far_tail, a put has Phi(-z_far) = far_tail /
    (1 + u). At F == K both legs count as out of the money and each takes its own form. The choice
    is made by arithmetic: a masked copy of a random half of the rows defeats the branch predictor
    and costs ten times as much.
    """
    otm_is_call, in_the_money, put_size = scratch.spare[:3]
    np.not_equal(options.is_call, scratch.in_the_money, out=scratch.spare_flags[0])
    np.copyto(otm_is_call, scratch.spare_flags[0])
    np.copyto(in_the_money, scratch.in_the_money)

    np.add(scratch.excess, 1.0, out=put_size)
    np.divide(scratch.far_tail, put_size, out=put_size)
    np.add(scratch.time_value, scratch.far_tail, out=delta)
    np.subtract(delta, put_size, out=delta)
    np.multiply(delta, otm_is_call, out=delta)
    np.add(delta, put_size, out=delta)

    # The other leg's size is 1 - size.
    np.subtract(delta, in_the_money, out=delta)
    np.absolute(delta, out=delta)
    np.multiply(delta, scratch.sign, out=delta)
    np.multiply(delta, scratch.discount, out=delta)
