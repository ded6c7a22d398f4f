"""Black-76 on columns: implied volatility with its Greeks, or price and Greeks of a volatility.

Pure but for the scratch columns that a kernel owns; numpy only. The steps, in order, are
``normalise`` -> ``first_guess`` -> ``householder`` (or ``wide``) -> ``greeks``; ``docs/pricing.md``
derives them. A row without an answer is NaN with a status; it never raises and never touches its
neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ticker_service.errors import InvariantViolatedError
from ticker_service.pricing import (
    evaluation,
    first_guess,
    greeks,
    householder,
    normalise,
)
from ticker_service.pricing.columns import Memory, OptionColumns, Scratch
from ticker_service.pricing.wide import WideRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

SOLVE_ROWS: Final = ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")
EVALUATE_ROWS: Final = ("price", "delta", "gamma", "theta", "vega", "rho")


class PricingKernel:
    """Prices columns of options; one instance per thread, because it owns its scratch columns.

    Any number of rows may be given: they are worked through in chunks of at most ``capacity``, so
    memory never grows. Chunks of 9,000 rows or more are fastest; small ones pay the fixed cost of
    some two hundred numpy calls again and again (``docs/pricing.md``, "Speed").

    Args of both methods are columns of shape ``(n,)``, positional and more than five on purpose:
    this is the hot path, the order is that of Black's formula, and a value object per call would
    be built only to be taken apart. Float64 contiguous columns are used as they are, others are
    converted; a masked value is a missing one. ``out`` and ``status`` may not overlap the inputs;
    without them new ones are made.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise InvariantViolatedError(f"Invariant: capacity={capacity} rows_min=1")
        self._capacity = capacity
        rows = max(capacity, 2)  # a single row is worked on twice, see OptionColumns.twice
        self._memory = Memory(rows)
        self._wide = WideRows(rows)
        self._pair = np.empty((len(SOLVE_ROWS), 2))
        self._pair_status = np.empty(2, np.uint8)
        self._scratch = Scratch(self._memory, rows)

    @property
    def capacity(self) -> int:
        """Rows of one chunk."""
        return self._capacity

    def solve(  # noqa: PLR0913, PLR0917 - the hot path, see the class
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
        """Return the implied volatility and the Greeks of prices.

        Args:
            price: Discounted option price, rupees, shape ``(n,)``.
            forward: Forward of the option's own expiry, rupees, shape ``(n,)``.
            strike: Strike, rupees, shape ``(n,)``.
            years: Time to expiry, years of 365 days, shape ``(n,)``.
            rate: Continuous rate per year as a fraction; a number or shape ``(n,)``.
            is_call: True for a call, shape ``(n,)``.
            out: Float64, shape ``(6, n)``, to write into.
            status: Uint8, shape ``(n,)``, to write into.

        Returns:
            ``out`` with rows as ``SOLVE_ROWS`` (volatility as a fraction, Greeks in the units of
            ``greeks.py``), and ``status`` with ``PriceStatus`` codes. Where the status is not
            ``OK`` the whole row is NaN.

        Raises:
            InvariantViolatedError: Columns differ in length or are no numbers, ``is_call`` is no
                booleans, or ``out`` or ``status`` do not fit or overlap a column.
        """
        with np.errstate(all="ignore"):
            options = OptionColumns.of(price, forward, strike, years, rate, is_call)
            out, status = _output(out, options), _status(status, options)
            if np.may_share_memory(out, status):
                raise InvariantViolatedError("Invariant: out overlaps status")
            for chunk in self._chunks(len(options)):
                self._solve_chunk(options.rows(chunk), out[:, chunk], status[chunk])
        return out, status

    def evaluate(  # noqa: PLR0913, PLR0917 - the hot path, see the class
        self,
        volatility: ArrayLike,
        forward: ArrayLike,
        strike: ArrayLike,
        years: ArrayLike,
        rate: ArrayLike,
        is_call: ArrayLike,
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Return the price and the Greeks of volatilities.

        Args:
            volatility: Volatility per year as a fraction, shape ``(n,)``.
            forward: Forward of the option's own expiry, rupees, shape ``(n,)``.
            strike: Strike, rupees, shape ``(n,)``.
            years: Time to expiry, years of 365 days, shape ``(n,)``.
            rate: Continuous rate per year as a fraction; a number or shape ``(n,)``.
            is_call: True for a call, shape ``(n,)``.
            out: Float64, shape ``(6, n)``, to write into.

        Returns:
            ``out`` with rows as ``EVALUATE_ROWS``; a row whose inputs make no sense (among them a
            volatility that is not positive) is NaN throughout.

        Raises:
            InvariantViolatedError: As ``solve``.
        """
        with np.errstate(all="ignore"):
            options = OptionColumns.of(volatility, forward, strike, years, rate, is_call)
            out = _output(out, options)
            for chunk in self._chunks(len(options)):
                self._evaluate_chunk(options.rows(chunk), out[:, chunk])
        return out

    def _chunks(self, rows: int) -> Iterator[slice]:
        for first in range(0, rows, self._capacity):
            yield slice(first, min(first + self._capacity, rows))

    def _scratch_of(self, rows: int) -> Scratch:
        """Return the scratch columns, laid out anew only for another number of rows."""
        if self._scratch.rows != rows:
            self._scratch = Scratch(self._memory, rows)
        return self._scratch

    def _solve_chunk(
        self, options: OptionColumns, out: NDArray[np.float64], status: NDArray[np.uint8]
    ) -> None:
        if len(options) == 1:
            self._solve_chunk(options.twice(), self._pair, self._pair_status)
            out[:], status[:] = self._pair[:, :1], self._pair_status[:1]
            return
        scratch = self._scratch_of(len(options))
        normalise.terms(options, scratch)
        normalise.time_value(options, scratch, status)
        first_guess.total_volatility(scratch)
        wide_rows = np.count_nonzero(scratch.wide)
        if wide_rows < scratch.rows:
            householder.step(scratch)
        if wide_rows:
            self._wide.solve(scratch)
        np.divide(scratch.total_volatility, scratch.root_years, out=out[0])
        greeks.far_tail(scratch)
        greeks.fill(options, options.given, scratch, out)
        _blank_unsolvable(scratch, out)

    def _evaluate_chunk(self, options: OptionColumns, out: NDArray[np.float64]) -> None:
        if len(options) == 1:
            self._evaluate_chunk(options.twice(), self._pair)
            out[:] = self._pair[:, :1]
            return
        scratch = self._scratch_of(len(options))
        normalise.terms(options, scratch)
        normalise.total_volatility(options, scratch)
        evaluation.time_value(scratch)
        if scratch.wide.any():
            self._wide.evaluate(scratch)
        evaluation.price(options, scratch, out[0])
        greeks.fill(options, out[0], scratch, out)
        _blank_unsolvable(scratch, out)


def _blank_unsolvable(scratch: Scratch, out: NDArray[np.float64]) -> None:
    """Make rows without an answer NaN throughout; rho, for one, would come out as a number."""
    if scratch.solvable.all():
        return
    unsolvable = np.logical_not(scratch.solvable, out=scratch.spare_flags[0])
    for column in out:
        np.copyto(column, np.nan, where=unsolvable)


def _output(out: NDArray[np.float64] | None, options: OptionColumns) -> NDArray[np.float64]:
    rows = len(options)
    if out is None:
        return np.empty((len(SOLVE_ROWS), rows))
    _check_given(out, (len(SOLVE_ROWS), rows), np.dtype(np.float64), "out")
    options.check_apart(out)
    return out


def _status(status: NDArray[np.uint8] | None, options: OptionColumns) -> NDArray[np.uint8]:
    rows = len(options)
    if status is None:
        return np.empty(rows, np.uint8)
    _check_given(status, (rows,), np.dtype(np.uint8), "status")
    options.check_apart(status)
    return status


def _check_given(given: object, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Raise ``InvariantViolatedError`` unless the array can take the result."""
    is_fit = isinstance(given, np.ndarray) and (given.shape, given.dtype) == (shape, dtype)
    # What is written into a masked array would stay hidden where it was masked.
    is_fit = is_fit and not isinstance(given, np.ma.MaskedArray)
    if not is_fit or not cast("np.ndarray[Any, Any]", given).flags.writeable:
        raise InvariantViolatedError(f"Invariant: {name} has to be a writable {dtype} of {shape}")
