#!/usr/bin/env python3
"""Fit the two polynomials of the pricing kernel and write ``_coefficients.py``.

Both are Chebyshev interpolations in 50-digit arithmetic, so every machine writes the same file;
``--check`` compares instead of writing. Needs mpmath; takes about a second.

The Mills ratio, for ``ticker_service/pricing/mills.py``::

    M(z) = w * P(v),    w = 1 / (z + MILLS_SHIFT),    v = w - MILLS_CENTRE

z * M(z) tends to 1 and M is smooth on the left, so P is nearly flat in w and one polynomial covers
every argument that a price above 1e-290 leads to, without a branch. v lies evenly about nought,
which keeps Horner's scheme stable.

The factor of the first guess, for ``ticker_service/pricing/first_guess.py``. Let x be the distance
of the strike in normal standard deviations and c(x) = phi(x) - x * Phi(-x) its Bachelier price in
the same unit. The price alone gives H = log1p(x / c), and then x is::

    x = H / (sqrt(1 + H / 4 pi) * 2 Z(y)),    y = (H - SEED_CENTRE) / (H + SEED_CENTRE)

The square root has the right growth at both ends, so that Z varies between 1.139 and 1.253 only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import mpmath as mp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TARGET: Final = (
    Path(__file__).resolve().parents[1] / "ticker_service" / "pricing" / "_coefficients.py"
)
DIGITS: Final = 50
NODES: Final = 48
"""Twice as many as coefficients: the coefficients left out measure the error."""

MILLS_SHIFT: Final = 7
"""With 22 coefficients the error is smallest near here."""
MILLS_LOWEST: Final = mp.mpf(-3) / 4
"""Prices up to half of their bound need -0.6745 at least."""
MILLS_HIGHEST: Final = 39
"""A density at 39 is below the smallest float64."""
MILLS_COEFFICIENTS: Final = 22

SEED_CENTRE: Final = 20
"""With nine coefficients the error is smallest near here."""
SEED_LOG_MAX: Final = 712
"""H of the farthest strike and the smallest time value that the kernel accepts."""
SEED_COEFFICIENTS: Final = 9


def main() -> int:
    """Write the file, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    check: bool = parser.parse_args().check
    mp.mp.dps = DIGITS
    text = module_text()
    if not check:
        TARGET.write_text(text)
        print(f"wrote {TARGET}")
        return 0
    if TARGET.read_text() == text:
        print("up to date")
        return 0
    print(f"{TARGET} differs from what this script fits", file=sys.stderr)
    return 1


def module_text() -> str:
    """Return the source of ``_coefficients.py``."""
    centre, mills, mills_error = fit_mills()
    seed, seed_error = fit_seed()
    return "\n".join(
        [
            '"""Pricing polynomials; ``scripts/fit_pricing_polynomials.py`` writes them.',
            "",
            "Not to be edited by hand. Coefficients ascend from the constant.",
            '"""',
            "",
            "from __future__ import annotations",
            "",
            "from typing import Final",
            "",
            f"MILLS_SHIFT: Final = {float(MILLS_SHIFT)!r}",
            f"MILLS_CENTRE: Final = {float(centre)!r}",
            f"MILLS_LOWEST: Final = {float(MILLS_LOWEST)!r}",
            *tuple_lines("MILLS_POLYNOMIAL", mills),
            f'"""Error below {mp.nstr(mills_error, 1)} of P, which is above 1."""',
            "",
            f"SEED_CENTRE: Final = {float(SEED_CENTRE)!r}",
            *tuple_lines("SEED_POLYNOMIAL", seed),
            f'"""Error below {mp.nstr(seed_error, 1)}."""',
            "",
        ]
    )


def tuple_lines(name: str, coefficients: Sequence[mp.mpf]) -> list[str]:
    """Return the lines that declare a tuple of coefficients."""
    numbers = (repr(float(c)).replace("e+", "e") for c in coefficients)  # as ruff writes them
    return [f"{name}: Final = (", *(f"    {number}," for number in numbers), ")"]


def fit_mills() -> tuple[mp.mpf, list[mp.mpf], mp.mpf]:
    """Return the middle of w, the coefficients of P, and their error."""
    w_low = mp.mpf(1) / (MILLS_HIGHEST + MILLS_SHIFT)
    w_high = mp.mpf(1) / (MILLS_LOWEST + MILLS_SHIFT)
    # Rounded here, so that the polynomial is that of the centre which the kernel subtracts.
    centre = mp.mpf(float((w_low + w_high) / 2))
    reach = (w_high - w_low) / 2

    def p(unit: mp.mpf) -> mp.mpf:
        w = centre + reach * unit
        return mills_ratio(1 / w - MILLS_SHIFT) / w

    coefficients, error = chebyshev_fit(p, MILLS_COEFFICIENTS)
    return centre, [c / reach**n for n, c in enumerate(monomial(coefficients))], error


def mills_ratio(z: mp.mpf) -> mp.mpf:
    """Return Phi(-z) / phi(z)."""
    return mp.sqrt(mp.pi / 2) * mp.exp(z * z / 2) * mp.erfc(z / mp.sqrt(2))


def fit_seed() -> tuple[list[mp.mpf], mp.mpf]:
    """Return the coefficients of 2 Z in powers of y, and their error."""
    y_max = mp.mpf(SEED_LOG_MAX - SEED_CENTRE) / (SEED_LOG_MAX + SEED_CENTRE)
    # y runs from -1 (at the money) to y_max; the fit wants -1..1.
    slope, shift = 2 / (y_max + 1), (1 - y_max) / (y_max + 1)

    def z(v: mp.mpf) -> mp.mpf:
        y = (v - shift) / slope
        log = SEED_CENTRE * (1 + y) / (1 - y)
        return log / (bachelier_distance(log / 2) * mp.sqrt(1 + log / (4 * mp.pi)))

    coefficients, error = chebyshev_fit(z, SEED_COEFFICIENTS)
    return substitute(monomial(coefficients), slope=slope, shift=shift), error


def bachelier_distance(half_log: mp.mpf) -> mp.mpf:
    """Return the x whose log1p(x / c(x)) / 2 is ``half_log``, by Newton's method."""
    x = half_log / mp.sqrt(1 + half_log / (2 * mp.pi)) / mp.mpf("1.2")
    for _ in range(100):
        price = mp.npdf(x) - x * mp.erfc(x / mp.sqrt(2)) / 2
        slope = (1 / price + x * mp.erfc(x / mp.sqrt(2)) / 2 / price**2) / (1 + x / price) / 2
        step = (half_log - mp.log1p(x / price) / 2) / slope
        x += step
        if abs(step) < mp.mpf(10) ** (10 - DIGITS) * x:
            return x
    raise ArithmeticError(f"no distance for half_log={half_log}")


def chebyshev_fit(function: Callable[[mp.mpf], mp.mpf], count: int) -> tuple[list[mp.mpf], mp.mpf]:
    """Return ``count`` Chebyshev coefficients on -1..1 and the sum of those left out."""
    angles = [mp.pi * (2 * i + 1) / (2 * NODES) for i in range(NODES)]
    values = [function(mp.cos(angle)) for angle in angles]
    coefficients = [
        2
        * mp.fsum(value * mp.cos(j * angle) for value, angle in zip(values, angles, strict=True))
        / NODES
        for j in range(NODES)
    ]
    coefficients[0] /= 2
    return coefficients[:count], mp.fsum(abs(c) for c in coefficients[count:])


def monomial(chebyshev: Sequence[mp.mpf]) -> list[mp.mpf]:
    """Return the same polynomial in powers of its argument, by T(n+1) = 2 v T(n) - T(n-1)."""
    result = [mp.mpf(0)] * len(chebyshev)
    before, present = [mp.mpf(0)], [mp.mpf(1)]
    for degree, coefficient in enumerate(chebyshev):
        for power, term in enumerate(present):
            result[power] += coefficient * term
        factor = 1 if degree == 0 else 2
        following = [mp.mpf(0), *(factor * term for term in present)]
        for power, term in enumerate(before if degree else []):
            following[power] -= term
        before, present = present, following
    return result


def substitute(coefficients: Sequence[mp.mpf], *, slope: mp.mpf, shift: mp.mpf) -> list[mp.mpf]:
    """Return the polynomial in y that equals the given one in ``slope * y + shift`` (Horner)."""
    result = [mp.mpf(0)] * len(coefficients)
    for coefficient in reversed(coefficients):
        multiplied = [shift * term for term in result]
        for power, term in enumerate(result[:-1]):
            multiplied[power + 1] += slope * term
        multiplied[0] += coefficient
        result = multiplied
    return result


if __name__ == "__main__":
    sys.exit(main())
