"""Rows that the first guess does not cover: s above 0.8, or a strike seven times off the forward.

No index option ever comes here (80 % volatility for a year, or a strike outside F/7..7F). The rows
are taken out into a small scratch of their own and solved like all others by Householder's step,
but three times, and from another guess. Where p is above a half, ln p is flat and ln(1 - p) carries
the answer; the two cases share their formulas up to a sign.

Nothing is allocated: the rows' numbers are found by a running count, and more rows than the scratch
holds are worked through in turns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.pricing import first_guess, householder, mills
from ticker_service.pricing.columns import Memory, Scratch, constant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ticker_service.pricing.columns import Column, Flags

STEPS: Final = 3
"""The guess is good to 26 %, which the first step makes 1 % and the second 1e-8; the tests hold the
result against 60 digits."""
PIECE_ROWS: Final = 1_024
"""Rows solved at once; more would only be more memory."""

_ZERO, _HALF, _ONE, _TWO = (constant(each) for each in (0.0, 0.5, 1.0, 2.0))
_MINUS_TWO: Final = constant(-2.0)
_LN_2: Final = constant(math.log(2.0))
_K_MAX: Final = constant(first_guess.LOG_MONEYNESS_MAX)
_TAIL_ABOVE: Final = tuple(constant(each) for each in (0.010328, 0.802853, 2.515517))
_TAIL_BELOW: Final = tuple(constant(each) for each in (0.001308, 0.189269, 1.432788, 1.0))
"""Abramowitz and Stegun 26.2.23: the normal quantile to 4.5e-4."""


class WideRows:
    """Takes flagged rows out of a pass and puts them back solved; owned by one kernel."""

    def __init__(self, capacity: int) -> None:
        """Make room for passes of so many rows."""
        self._memory = Memory(min(capacity + 1, PIECE_ROWS))
        self._scratch = Scratch(self._memory, 2)
        self._flagged = np.empty(capacity, np.intp)
        self._place = np.empty(capacity, np.intp)
        self._number = np.arange(capacity)
        self._chosen = np.empty(capacity + 2, np.intp)

    def solve(self, scratch: Scratch) -> None:
        """Replace ``total_volatility`` of the rows flagged ``wide``.

        Their ``z_far`` and ``mills_far`` are left at the last step's guess, as the others' are.
        """
        for rows, piece in self._pieces(scratch.wide):
            np.take(scratch.log_moneyness, rows, out=piece.log_moneyness, mode="clip")
            np.take(scratch.time_value, rows, out=piece.time_value, mode="clip")
            np.take(scratch.total_volatility, rows, out=piece.total_volatility, mode="clip")
            _solve(piece)
            np.put(scratch.total_volatility, rows, piece.total_volatility, mode="clip")
            np.put(scratch.z_far, rows, piece.z_far, mode="clip")
            np.put(scratch.mills_far, rows, piece.mills_far, mode="clip")

    def evaluate(self, scratch: Scratch) -> None:
        """Redo the rows flagged ``wide``, whose z_near is below the range of the polynomial.

        Phi(-z) is 1 - Phi(z): that needs s above 1.5, where p is above 0.5 and the subtraction
        harmless. ``time_value`` and ``far_tail`` are replaced.
        """
        for rows, piece in self._pieces(scratch.wide):
            np.take(scratch.z_near, rows, out=piece.z_near, mode="clip")
            np.take(scratch.z_far, rows, out=piece.z_far, mode="clip")
            np.take(scratch.density, rows, out=piece.density, mode="clip")
            np.negative(piece.z_near, out=piece.z_near)
            near, far = _ratios(piece)
            near *= piece.density
            far *= piece.density
            np.subtract(_ONE, near, out=near)
            near -= far
            np.put(scratch.time_value, rows, near, mode="clip")
            np.put(scratch.far_tail, rows, far, mode="clip")

    def _pieces(self, wide: Flags) -> Iterator[tuple[NDArray[np.intp], Scratch]]:
        """Yield the numbers of flagged rows, and scratch for as many."""
        chosen, count = self._choose(wide)
        for first in range(0, count, PIECE_ROWS):
            rows = chosen[first : min(first + PIECE_ROWS, count)]
            if self._scratch.rows != len(rows):
                self._scratch = Scratch(self._memory, len(rows))
            yield rows, self._scratch

    def _choose(self, wide: Flags) -> tuple[NDArray[np.intp], int]:
        # A flagged row goes to the place that a running count gives it, all others to place 0.
        # `flatnonzero` would allocate.
        n = len(wide)
        flagged, place = self._flagged[:n], self._place[:n]
        np.copyto(flagged, wide)
        np.cumsum(flagged, out=place)
        count = int(place[-1])
        place *= flagged
        np.put(self._chosen, place, self._number[:n], mode="clip")
        if count == 1:  # numpy takes twice as long for one element as for two
            self._chosen[2] = self._chosen[1]
            count = 2
        return self._chosen[1:], count


def _solve(piece: Scratch) -> None:
    """Replace the guess in ``total_volatility``, of which only some is good, by the solution."""
    # Not among the columns that a step works in.
    side, target = piece.discount, piece.root_years
    is_high = piece.solvable
    np.greater(piece.time_value, _HALF, out=is_high)
    np.copyto(side, is_high)
    np.subtract(_ONE, piece.time_value, out=target)
    np.copyto(piece.time_value, target, where=is_high)
    np.log(piece.time_value, out=target)
    _guess(piece, side, target)
    side *= _MINUS_TWO
    side += _ONE
    for _ in range(STEPS):
        _step(piece, side, target)


def _guess(piece: Scratch, is_high: Column, target: Column) -> None:
    """Put a guess good to 26 % where that of the first guess is no good; ``docs/pricing.md`` §4.

    Args:
        piece: Its ``solvable`` says where p is above a half, its ``time_value`` is lost.
        is_high: The same as numbers.
        target: ln p, or ln(1 - p) where p is above a half.
    """
    z, squared, low, high, below = piece.spare
    k = piece.log_moneyness
    # The quantile of p; or of (1 - p) / 2 * exp(-k/2), exact at the money.
    np.multiply(k, _HALF, out=z)
    z += _LN_2
    z *= is_high
    np.subtract(target, z, out=z)
    z *= _MINUS_TWO
    np.sqrt(z, out=z)
    _polynomial(z, _TAIL_ABOVE, out=low)
    _polynomial(z, _TAIL_BELOW, out=below)
    low /= below
    z -= low
    np.multiply(z, z, out=squared)

    # Below a half: k/s - s/2 = z. Above: s**2/4 - k**2/(4 s**2) + ... = z**2, see the docs.
    np.multiply(k, _TWO, out=low)
    low += squared
    np.sqrt(low, out=low)
    low -= z
    np.multiply(squared, squared, out=high)
    np.multiply(k, k, out=below)
    high -= below
    np.maximum(high, _ZERO, out=high)
    np.sqrt(high, out=high)
    high += squared
    high *= _TWO
    np.sqrt(high, out=high)

    keeps_first, is_far = piece.spare_flags
    np.greater(k, _K_MAX, out=is_far)
    np.logical_or(is_far, piece.solvable, out=keeps_first)
    np.copyto(low, high, where=piece.solvable)
    np.copyto(piece.total_volatility, low, where=keeps_first)


def _polynomial(z: Column, coefficients: tuple[Column, ...], *, out: Column) -> None:
    leading, *middle, last = coefficients
    np.multiply(z, leading, out=out)
    for coefficient in middle:
        out += coefficient
        out *= z
    out += last


def _step(piece: Scratch, side: Column, target: Column) -> None:
    """Take a step of ``householder.py`` on ln p, or on ln(1 - p) where ``side`` is -1."""
    householder.arguments(piece)
    # M grows without limit on the left: M(-z) of the complement instead.
    piece.z_near *= side
    near, far = _ratios(piece)
    piece.z_near *= side
    np.copyto(piece.mills_far, far)
    np.multiply(near, side, out=piece.mills_gap)
    piece.mills_gap -= far
    mismatch = piece.spare[0]
    np.multiply(piece.mills_gap, side, out=mismatch)
    np.log(mismatch, out=mismatch)
    np.subtract(target, mismatch, out=mismatch)
    householder.move(piece, mismatch)


def _ratios(piece: Scratch) -> tuple[Column, Column]:
    """Return M(z_near) and M(z_far) in the first two spare columns."""
    both, v_both = piece.spare_pairs
    mills.ratio(piece.z_both, both, v=v_both, w=piece.mills_both)
    return piece.spare[0], piece.spare[1]
