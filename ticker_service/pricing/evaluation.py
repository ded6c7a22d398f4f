"""Price of a known volatility, with the values that its Greeks need.

Path: normalise -> [evaluation] -> greeks. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing import greeks, householder, mills
from ticker_service.pricing.columns import constant

if TYPE_CHECKING:
    from ticker_service.pricing.columns import Column, OptionColumns, Scratch

_ZERO: Final = constant(0.0)
_ARGUMENT_MIN: Final = constant(mills.ARGUMENT_MIN)


def time_value(scratch: Scratch) -> None:
    """Fill ``time_value``, ``density`` and ``far_tail`` from k and s; flag ``wide`` rows."""
    householder.arguments(scratch)
    mills.gap_and_far(scratch)
    greeks.density(scratch)
    np.multiply(scratch.mills_gap, scratch.density, out=scratch.time_value)
    scratch.far_tail *= scratch.density
    np.less(scratch.z_near, _ARGUMENT_MIN, out=scratch.wide)


def price(options: OptionColumns, scratch: Scratch, out: Column) -> None:
    """Write the discounted price, rupees, shape ``(n,)``."""
    intrinsic, of_call = scratch.spare[:2]
    np.subtract(options.strike, options.forward, out=of_call)
    np.maximum(of_call, _ZERO, out=intrinsic)
    of_call *= scratch.is_call
    intrinsic -= of_call
    np.multiply(scratch.time_value, scratch.smaller, out=out)
    np.add(out, intrinsic, out=out)
    np.multiply(out, scratch.discount, out=out)
