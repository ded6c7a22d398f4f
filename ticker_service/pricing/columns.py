"""What the kernel reads and where it works: option columns in, scratch columns to compute in.

A pass makes some two hundred numpy calls. Were each to return a new array, the time of a pass
would depend on the state of the heap; so every intermediate column is taken from one block that
lives as long as the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np

from ticker_service.errors import InvariantViolatedError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Column: TypeAlias = "NDArray[np.float64]"
Flags: TypeAlias = "NDArray[np.bool_]"

COLUMN_NAMES: Final = ("given", "forward", "strike", "years", "is_call")
REAL_KINDS: Final = "fiubO"
"""numpy's kinds that may hold real numbers; ``O`` is tried, as Decimals come so."""
FLAG_KINDS: Final = "biu"
CACHE_LINE_BYTES: Final = 64
_NUMBERS_A_LINE: Final = 8
SCRATCH_NUMBERS: Final = 17
"""Float64 columns of a pass: twelve with names, five spare. The fewer they are the better: of 9,000
rows, they and the caller's columns just fit into a core's second-level cache."""
_Z_NEAR: Final = 8
_MILLS_GAP: Final = 10
_FIRST_SPARE: Final = 12
SCRATCH_FLAGS: Final = 5
"""Bool columns of a pass: three with a name, two spare."""


@dataclass(frozen=True, slots=True)
class OptionColumns:
    """Market terms of a batch of options, one row each.

    Attributes:
        given: What is known besides the terms: the price in rupees, or the volatility per year as
            a fraction. Shape ``(n,)``, like all others.
        forward: Forward of the option's own expiry, rupees.
        strike: Strike, rupees.
        years: Time to expiry, years of 365 days.
        rate: Continuous rate per year as a fraction; a number or a column.
        is_call: True for a call.
    """

    given: Column
    forward: Column
    strike: Column
    years: Column
    rate: float | Column
    is_call: Flags

    @classmethod
    def of(cls, *columns: ArrayLike) -> Self:
        """Convert what the caller has to contiguous columns, copying only what needs it.

        Raises:
            InvariantViolatedError: The columns differ in length, or one is not a column of numbers,
                or ``is_call`` is neither of booleans nor of whole numbers.
        """
        *numbers, rate, is_call = columns
        given, forward, strike, years = (np.ascontiguousarray(_numbers(c)) for c in numbers)
        options = cls(
            given=given,
            forward=forward,
            strike=strike,
            years=years,
            rate=_number_or_column(rate),
            is_call=_flags(is_call),
        )
        options._check_lengths()
        return options

    def check_apart(self, out: NDArray[np.float64] | NDArray[np.uint8]) -> None:
        """Raise ``InvariantViolatedError`` when writing the result would overwrite the input."""
        for name in (*COLUMN_NAMES, "rate"):
            column = getattr(self, name)
            if not isinstance(column, float) and np.may_share_memory(out, column):
                raise InvariantViolatedError(f"Invariant: out or status overlaps {name}")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.given)

    def rows(self, chunk: slice) -> OptionColumns:
        """Return a view of some of the rows."""
        if chunk.stop - chunk.start == len(self):
            return self
        return OptionColumns(
            given=self.given[chunk],
            forward=self.forward[chunk],
            strike=self.strike[chunk],
            years=self.years[chunk],
            rate=self.rate if isinstance(self.rate, float) else self.rate[chunk],
            is_call=self.is_call[chunk],
        )

    def twice(self) -> OptionColumns:
        """Return the only row and a copy of it, which costs less than the row alone.

        Of one element numpy does not see that input and output are the same place in memory, and
        takes the long way round: nearly twice the time a call.
        """
        return OptionColumns(
            given=np.repeat(self.given, 2),
            forward=np.repeat(self.forward, 2),
            strike=np.repeat(self.strike, 2),
            years=np.repeat(self.years, 2),
            rate=self.rate if isinstance(self.rate, float) else np.repeat(self.rate, 2),
            is_call=np.repeat(self.is_call, 2),
        )

    def _check_lengths(self) -> None:
        columns = [getattr(self, name) for name in COLUMN_NAMES]
        if not isinstance(self.rate, float):
            columns.append(self.rate)
        shapes = [column.shape for column in columns]
        if any(shape != (shapes[0][0],) for shape in shapes):
            raise InvariantViolatedError(f"Invariant: option columns differ in shape: {shapes}")


class Scratch:
    """The columns of one pass, views of the kernel's memory.

    The letters are those of ``docs/pricing.md``.

    Attributes:
        rows: n.
        is_call: 1 for a call, 0 for a put.
        discount: exp(-rate * years).
        root_years: sqrt(years).
        smaller: m, the smaller of forward and strike.
        excess: u = abs(F - K) / m.
        log_moneyness: k = abs(ln(F / K)).
        time_value: p, the out-of-the-money leg's undiscounted price over m.
        total_volatility: s = volatility * sqrt(years).
        z_near: k/s - s/2.
        z_far: k/s + s/2.
        mills_gap: M(z_near) - M(z_far).
        mills_far: M(z_far).
        density: phi(z_near), which is dp/ds; it takes the place of ``excess``.
        far_tail: phi(z_near) * M(z_far), which is exp(k) * Phi(-z_far); it takes that of
            ``mills_far``.
        spare: Columns without a name; a step may use them and must not expect to find them again.
        z_both: ``z_near`` and ``z_far`` as one column, shape ``(n + padding + n,)``: what is done
            to both takes half the calls.
        mills_both: Likewise ``mills_gap`` and ``mills_far``.
        spare_pairs: Likewise the first and second spare column, and the third and fourth.
        solvable: The row has an answer.
        in_the_money: The row's option is the in-the-money leg of its strike.
        wide: The row lies outside what the first guess, or the Mills polynomial, covers.
        spare_flags: Flags without a name, as ``spare``.
    """

    rows: int
    is_call: Column
    discount: Column
    root_years: Column
    smaller: Column
    excess: Column
    log_moneyness: Column
    time_value: Column
    total_volatility: Column
    z_near: Column
    z_far: Column
    mills_gap: Column
    mills_far: Column
    density: Column
    far_tail: Column
    spare: list[Column]
    z_both: Column
    mills_both: Column
    spare_pairs: list[Column]
    solvable: Flags
    in_the_money: Flags
    wide: Flags
    spare_flags: list[Flags]

    def __init__(self, memory: Memory, rows: int) -> None:
        """Lay the columns out for a number of rows.

        Args:
            memory: Has room for them; what else lies in it is lost.
            rows: n.
        """
        self.rows = rows
        self._stride = _on_cache_lines(rows, _NUMBERS_A_LINE)
        self._numbers = memory.numbers
        flags = _on_cache_lines(rows, CACHE_LINE_BYTES)
        (
            self.is_call,
            self.discount,
            self.root_years,
            self.smaller,
            self.excess,
            self.log_moneyness,
            self.time_value,
            self.total_volatility,
            self.z_near,
            self.z_far,
            self.mills_gap,
            self.mills_far,
            *self.spare,
        ) = [self._columns(place, 1) for place in range(SCRATCH_NUMBERS)]
        self.density, self.far_tail = self.excess, self.mills_far
        self.z_both = self._columns(_Z_NEAR, 2)
        self.mills_both = self._columns(_MILLS_GAP, 2)
        self.spare_pairs = [self._columns(_FIRST_SPARE + place, 2) for place in (0, 2)]
        self.solvable, self.in_the_money, self.wide, *self.spare_flags = [
            memory.flags[place * flags : place * flags + rows] for place in range(SCRATCH_FLAGS)
        ]

    def _columns(self, first: int, count: int) -> Column:
        """Return neighbouring columns as one, with whatever lies between them."""
        start = first * self._stride
        return self._numbers[start : start + (count - 1) * self._stride + self.rows]


class Memory:
    """What a kernel holds between calls: room for the columns of so many rows at most.

    numpy aligns to 16 bytes. A vector register takes 64, so every load and every store of a column
    that begins elsewhere touches two cache lines; here each begins on one.
    """

    def __init__(self, capacity: int) -> None:
        """Allocate."""
        stride = _on_cache_lines(capacity, _NUMBERS_A_LINE)
        # Numbers and not rubbish: what lies between two columns is calculated with, too.
        self.numbers = _aligned(SCRATCH_NUMBERS * stride, np.float64)
        self.numbers.fill(1.0)
        self.flags = _aligned(SCRATCH_FLAGS * _on_cache_lines(capacity, CACHE_LINE_BYTES), np.bool_)


def _on_cache_lines(rows: int, a_line: int) -> int:
    return -(-rows // a_line) * a_line


def _aligned(items: int, dtype: type[np.generic]) -> NDArray[Any]:
    size = items * np.dtype(dtype).itemsize
    memory = np.empty(size + CACHE_LINE_BYTES, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[first : first + size].view(dtype)


def constant(value: float) -> Column:
    """Return a number as numpy takes it fastest: no conversion in each of some hundred calls."""
    number = np.array(value)
    number.flags.writeable = False
    return number


def _numbers(values: ArrayLike) -> Column:
    """Return floats; a masked value is a missing one.

    Raises:
        InvariantViolatedError: These are no real numbers.
    """
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float64), np.nan)
    try:
        column = np.asarray(values)
        if column.dtype.kind not in REAL_KINDS:
            raise InvariantViolatedError(f"Invariant: a column of {column.dtype} is no numbers")
        return column.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvariantViolatedError(f"Invariant: a column is no numbers: {error}") from error


def _flags(is_call: ArrayLike) -> Flags:
    """Return ``is_call``; words such as CE and PE are all true and would make every row a call."""
    column = np.asarray(is_call)
    if column.dtype.kind not in FLAG_KINDS and column.size:
        raise InvariantViolatedError(
            f"Invariant: is_call is {column.dtype}; give booleans, True for a call"
        )
    return np.ascontiguousarray(column, np.bool_)


def _number_or_column(rate: ArrayLike) -> float | Column:
    column = _numbers(rate)
    return np.ascontiguousarray(column) if column.ndim else float(column)
