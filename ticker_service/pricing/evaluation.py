"""Price of a known volatility, with the values that its Greeks need.

Path: normalise -> [evaluation] -> greeks. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ticker_service.pricing import greeks, householder, mills

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Column, OptionColumns, Scratch


def time_value(scratch: Scratch) -> None:
    """Fill ``time_value``, ``density`` and ``far_tail`` from k and s."""
    householder.arguments(scratch)
    mills.gap_and_far(scratch)
    greeks.density(scratch)
    np.multiply(scratch.mills_gap, scratch.density, out=scratch.time_value)
    np.multiply(scratch.mills_far, scratch.density, out=scratch.far_tail)
    np.less(scratch.z_near, mills.ARGUMENT_MIN, out=scratch.wide)
    if scratch.wide.any():
        _replace_wide(scratch)


def price(options: OptionColumns, scratch: Scratch, out: Column) -> None:
    """Write the discounted price, rupees, shape ``(n,)``."""
    intrinsic = scratch.spare[0]
    np.subtract(options.forward, options.strike, out=intrinsic)
    np.multiply(intrinsic, scratch.sign, out=intrinsic)
    np.maximum(intrinsic, 0.0, out=intrinsic)
    np.multiply(scratch.time_value, scratch.smaller, out=out)
    np.add(out, intrinsic, out=out)
    np.multiply(out, scratch.discount, out=out)


def _replace_wide(scratch: Scratch) -> None:
    """Redo the rows whose z_near is below the polynomial's range, by Phi(-z) = 1 - Phi(z).

    That needs s above 1.5, where p is above 0.5 and the subtraction harmless.
    """
    wide = scratch.wide
    density = scratch.density[wide]
    far_tail = density * mills.ratio(scratch.z_far[wide])
    near_tail = 1.0 - density * mills.ratio(-scratch.z_near[wide])
    scratch.far_tail[wide] = far_tail
    scratch.time_value[wide] = near_tail - far_tail
