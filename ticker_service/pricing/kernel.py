"""Black-76 on columns: implied volatility with its Greeks, or price and Greeks of a volatility.

Pure. Rows without an answer are NaN with a status; they never raise and never touch neighbours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import DAYS_PER_YEAR
from ticker_service.pricing._coefficients import (
    MILLS_OFFSET,
    MILLS_POLYNOMIAL,
    MILLS_SCALE,
    MILLS_SHIFT,
    SEED_CENTRE,
    SEED_POLYNOMIAL,
)
from ticker_service.pricing.status import PriceStatus

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


LN_SQRT_2PI: Final = 0.9189385332046727
INV_SQRT_2PI: Final = 0.3989422804014327
WIDE_ABOVE: Final = 0.9
TIME_VALUE_MIN: Final = 1e-290
OUTPUT_ROWS: Final = 6


class PricingKernel:
    """Prices columns of options; one instance per thread."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def solve(  # noqa: PLR0913, PLR0917 - the hot path's columns, positional by contract
        self,
        price: ArrayLike,
        forward: ArrayLike,
        strike: ArrayLike,
        years: ArrayLike,
        rate: ArrayLike,
        is_call: ArrayLike,
        out: NDArray[np.float64] | None = None,
        status: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Return implied volatility, delta, gamma, theta, vega, rho and a status per row."""
        with np.errstate(all="ignore"):
            v, f, x, t, r = (_column(c) for c in (price, forward, strike, years, rate))
            n = len(v)
            out = np.empty((OUTPUT_ROWS, n)) if out is None else out
            status = np.empty(n, np.uint8) if status is None else status
            _solve(v, f, x, t, r, np.asarray(is_call, bool), out, status)
        return out, status

    def evaluate(  # noqa: PLR0913, PLR0917 - the hot path's columns, positional by contract
        self,
        volatility: ArrayLike,
        forward: ArrayLike,
        strike: ArrayLike,
        years: ArrayLike,
        rate: ArrayLike,
        is_call: ArrayLike,
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Return price, delta, gamma, theta, vega, rho of known volatilities."""
        with np.errstate(all="ignore"):
            v, f, x, t, r = (_column(c) for c in (volatility, forward, strike, years, rate))
            out = np.empty((OUTPUT_ROWS, len(v))) if out is None else out
            _evaluate(v, f, x, t, r, np.asarray(is_call, bool), out)
        return out


def _column(values):
    return np.ascontiguousarray(values, np.float64) if np.ndim(values) else np.float64(values)


def _mills(z):
    w = 1.0 / (z + MILLS_SHIFT)
    v = w * MILLS_SCALE + MILLS_OFFSET
    value = np.full_like(v, MILLS_POLYNOMIAL[-1])
    for c in MILLS_POLYNOMIAL[-2::-1]:
        value *= v
        value += c
    return w * value


def _mills_pair(z1, z2, s):
    w1, w2 = 1.0 / (z1 + MILLS_SHIFT), 1.0 / (z2 + MILLS_SHIFT)
    v1, v2 = w1 * MILLS_SCALE + MILLS_OFFSET, w2 * MILLS_SCALE + MILLS_OFFSET
    value = np.full_like(v1, MILLS_POLYNOMIAL[-1])
    quotient = value.copy()
    for c in MILLS_POLYNOMIAL[-2:0:-1]:
        value *= v1
        value += c
        quotient *= v2
        quotient += value
    value *= v1
    value += MILLS_POLYNOMIAL[0]
    dw = s * w1 * w2
    return dw * (value + MILLS_SCALE * w2 * quotient), w2 * (value - MILLS_SCALE * dw * quotient)


def _seed(k, u, p):
    half_log = 0.5 * np.log1p(u / p)
    y = (half_log - SEED_CENTRE) / (half_log + SEED_CENTRE)
    z = np.full_like(y, SEED_POLYNOMIAL[-1])
    for c in SEED_POLYNOMIAL[-2::-1]:
        z *= y
        z += c
    q = k / half_log * np.sqrt(1 + half_log * (0.5 / np.pi)) * z
    q2 = q * q
    return q * (1 + q2 * (1 / 24 - k * k * (1 / 2880) + q2 * (7 / 1920)))


def _householder(f, ratio, a2, t2, s):
    e = -f * ratio / s
    y = e * (a2 - t2)
    b = (y * y - e * e * (3 * a2 + t2) + f * (3 * y + 2 * f)) * (1 / 6)
    return e * (1 + 0.5 * (y + f)) / (1 + y + f + b)


def _solve_wide(k, p, s):
    side = np.where(p > 0.5, -1.0, 1.0)
    target = np.log(np.where(p > 0.5, 1.0 - p, p))
    s = np.where((s > 0) & (k < 1.0), s, np.sqrt(2 * k))
    for _ in range(30):
        a, t = k / s, 0.5 * s
        ratio = _mills(np.maximum(side * (a - t), -1.0)) - side * _mills(a + t)
        f = np.log(ratio) - 0.5 * (a - t) ** 2 - LN_SQRT_2PI - target
        step = _householder(f, side * ratio, a * a, t * t, s)
        s = s * (1 + np.clip(step, -0.6, 1.5))
        if not (np.abs(step) > 1e-15).any():
            break
    return s


def _solve(price, f, x, t, r, is_call, out, status):
    df = np.exp(-r * t)
    call = np.where(is_call, 1.0, -1.0)
    d = f - x
    side = d * call
    m = np.minimum(f, x)
    p = (price / df - np.maximum(side, 0.0)) / m
    inputs = (
        (f > 0)
        & (x > 0)
        & (price > 0)
        & np.isfinite(price * f * x * t)
        & np.isfinite(df)
        & (df > 0)
    )
    status[:] = np.where(
        ~inputs,
        PriceStatus.BAD_INPUT,
        np.where(
            t <= 0,
            PriceStatus.EXPIRED,
            np.where(
                p >= 1,
                PriceStatus.ABOVE_BOUND,
                np.where(p > TIME_VALUE_MIN, PriceStatus.OK, PriceStatus.BELOW_INTRINSIC),
            ),
        ),
    )
    p = np.where(status == PriceStatus.OK, p, np.nan)
    u = np.abs(d) / m + 1e-300
    k = np.log1p(u)
    s = _seed(k, u, p)
    wide = (s > WIDE_ABOVE) | (k > 1.0) | (s <= 0)
    s_wide = _solve_wide(k[wide], p[wide], s[wide])
    s[wide] = s_wide
    a, h = k / s, 0.5 * s
    z1, z2 = a - h, a + h
    ratio, m2 = _mills_pair(z1, z2, s)
    g = np.log(ratio / p) - 0.5 * z1 * z1 - LN_SQRT_2PI
    s *= 1 + _householder(g, ratio, a * a, h * h, s)
    s[wide] = s_wide
    m2[wide] = _mills(z2[wide])
    a, h = k / s, 0.5 * s
    z1, dz = a - h, a + h - z2
    pdf = INV_SQRT_2PI * np.exp(-0.5 * z1 * z1)
    d1 = z2 * m2 - 1
    d2 = m2 + z2 * d1
    d3 = 2 * d1 + z2 * d2
    tail = pdf * (m2 + dz * (d1 + 0.5 * dz * (d2 + (1 / 3) * dz * d3)))
    out[0] = s / np.sqrt(t)
    _finish(price, f, x, t, r, df, call, is_call, side > 0, m, u, p, s, pdf, tail, out)


def _evaluate(volatility, f, x, t, r, is_call, out):
    good = (volatility > 0) & (f > 0) & (x > 0) & (t > 0)
    volatility = np.where(good, volatility, np.nan)
    df = np.exp(-r * t)
    call = np.where(is_call, 1.0, -1.0)
    d = f - x
    side = d * call
    m = np.minimum(f, x)
    u = np.abs(d) / m
    k = np.log1p(u)
    s = volatility * np.sqrt(t)
    a, h = k / s, 0.5 * s
    z1, z2 = a - h, a + h
    pdf = INV_SQRT_2PI * np.exp(-0.5 * z1 * z1)
    ratio, m2 = _mills_pair(np.maximum(z1, -1.0), z2, s)
    tail = pdf * m2
    deep = z1 < -1.0
    tail = np.where(deep, pdf * _mills(z2), tail)
    p = np.where(deep, 1 - pdf * _mills(np.abs(z1)) - tail, pdf * ratio)
    out[0] = (p * m + np.maximum(side, 0.0)) * df
    _finish(out[0], f, x, t, r, df, call, is_call, side > 0, m, u, p, s, pdf, tail, out)


def _finish(price, f, x, t, r, df, call, is_call, itm, m, u, p, s, pdf, tail, out):
    otm_call = (f < x) | ((f == x) & is_call)
    delta = np.where(otm_call, p + tail, tail / (1 + u))
    out[1] = call * np.where(itm, 1 - delta, delta) * df
    per_s = m * pdf * df
    out[2] = per_s / (f * f * s)
    out[3] = (r * price - 0.5 * per_s * s / t) / DAYS_PER_YEAR
    out[4] = per_s * np.sqrt(t) * 0.01
    out[5] = -0.01 * t * price
