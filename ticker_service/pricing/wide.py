"""Rows that the first guess does not cover: s above 0.8, or a strike seven times off the forward.

No index option ever comes here (80 % volatility for a year, or a strike outside F/7..7F), so this
is written for certainty, not for speed: a bracket around the root, Householder's step while it
stays inside, bisection when it does not. It allocates in proportion to the rows concerned.

Where p is above a half, ln p is flat and ln(1 - p) carries the answer. The two cases share their
formulas up to a sign, and their brackets keep every Mills argument in the range of its polynomial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing import mills
from ticker_service.pricing.householder import LN_SQRT_2PI

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Column, Scratch

STEPS_MAX: Final = 60
RELATIVE_STEP_DONE: Final = 1e-5
"""The step is of order four: behind one this small the error is far below the last digit."""
LOWEST: Final = 0.01
HIGHEST: Final = 64.0
"""Brackets of s: k / 0.01 puts p below, and s = 64 puts 1 - p above, what a float64 can hold."""


def replace(scratch: Scratch) -> None:
    """Solve the rows flagged ``wide``; set their ``total_volatility``, ``z_far``, ``mills_far``."""
    wide = scratch.wide
    k = scratch.log_moneyness[wide]
    s = solve(k, scratch.time_value[wide])
    z_far = k / s + 0.5 * s
    scratch.total_volatility[wide] = s
    scratch.z_far[wide] = z_far
    scratch.mills_far[wide] = mills.ratio(z_far)


def solve(k: Column, p: Column) -> Column:
    """Return s with p(k, s) = p, for 0 <= k <= 42 and 1e-290 < p < 1, by a guarded iteration."""
    # p is above 1/2 where z_near is ARGUMENT_MIN, and below 1/2 at the opposite argument.
    mostly_intrinsic = p > 0.5  # noqa: PLR2004 - a half is a half
    reach = -mills.ARGUMENT_MIN
    turn = np.sqrt(reach * reach + 2.0 * k)
    low = np.where(mostly_intrinsic, turn - reach, LOWEST)
    high = np.where(mostly_intrinsic, HIGHEST, turn + reach)
    side = np.where(mostly_intrinsic, -1.0, 1.0)
    target = np.log(np.where(mostly_intrinsic, 1.0 - p, p))
    s = np.clip(turn, low, high)
    settled = np.zeros(s.shape, np.bool_)
    for _ in range(STEPS_MAX):
        rising, step = _mismatch_and_step(k, s, side, target)
        low = np.where(rising <= 0.0, s, low)
        high = np.where(rising >= 0.0, s, high)
        moved = s * (1.0 + step)
        # The last step may leave the bracket by a rounding error; that is no reason to bisect away
        # from the root. And a settled row stays put, or its last digit would depend on how long
        # its neighbours take.
        last = np.abs(step) <= RELATIVE_STEP_DONE
        acceptable = last | ((moved >= low) & (moved <= high))
        moved = np.where(acceptable, moved, np.sqrt(low * high))
        s = np.where(settled, s, moved)
        settled |= last
        if settled.all():
            break
    return s


def _mismatch_and_step(k: Column, s: Column, side: Column, target: Column) -> tuple[Column, Column]:
    """Return a column with the sign of p(s) - p, and Householder's relative step."""
    a, t = k / s, 0.5 * s
    signed_ratio = side * mills.ratio(side * (a - t)) - mills.ratio(a + t)
    mismatch = np.log(side * signed_ratio) - 0.5 * (a - t) ** 2 - LN_SQRT_2PI - target
    newton = -mismatch * signed_ratio / s
    y = newton * (a * a - t * t)
    third = y * y + 3.0 * y * mismatch + 2.0 * mismatch * mismatch
    third -= newton * newton * (3.0 * a * a + t * t)
    second = y + mismatch
    return side * mismatch, newton * (1.0 + 0.5 * second) / (1.0 + second + third / 6.0)
