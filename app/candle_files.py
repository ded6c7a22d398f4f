"""Candles from CSV or Parquet files, checked, and priced candles back into them.

A file is read whole; every fault is one line that names file, column, row and rule. Rows are
counted from 1 below the header. Parquet needs the optional extra ``arrow``.
"""

from __future__ import annotations

import csv
import datetime as dt
import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import numpy as np

from ticker_service.domain.session import IST, instant_ns
from ticker_service.errors import CandleError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")
DateT = TypeVar("DateT", bound=dt.date)

CSV: Final = ".csv"
PARQUET: Final = ".parquet"
KINDS: Final = {"CE": True, "PE": False}
"""Kite's ``instrument_type`` of options, and whether it is a call."""
SHOWN_CHARACTERS_MAX: Final = 40
NAMES_SHOWN_MAX: Final = 20
YEAR_MIN: Final = 1990
YEAR_MAX: Final = 2199


@dataclass(frozen=True, slots=True, kw_only=True)
class CandleFile:
    """A table as it was read: columns by name, cells as text (CSV) or as values (Parquet)."""

    name: str
    columns: Mapping[str, Sequence[object]]
    rows: int

    def has(self, column: str) -> bool:
        """Return whether the file has a column."""
        return column in self.columns

    def numbers(
        self, column: str, *, is_needed: bool, is_positive: bool = False
    ) -> NDArray[np.float64]:
        """Return a column of numbers, NaN where a cell is empty.

        Raises:
            CandleError: The column is missing, or a cell is no number; or is not positive where
                one ``is_positive``; or is that or empty where one ``is_needed``.
        """
        cells = self._cells(column)
        try:
            values = np.array([_plain(cell) for cell in cells], np.float64)
        except (TypeError, ValueError):
            # Somewhere in it; one by one shows where.
            listed = [self._number(cell, column, row) for row, cell in enumerate(cells)]
            values = np.array(listed, np.float64)
        self._refuse(column, np.isinf(values), "is not finite")
        if is_needed:
            self._refuse(column, ~(values > 0.0), "must be a number above 0")
        elif is_positive:
            self._refuse(column, values <= 0.0, "must be a number above 0, or empty")
        return values

    def stamps(self, column: str) -> NDArray[np.int64]:
        """Return a column of instants, ns since the Unix epoch; one without a zone is IST.

        Raises:
            CandleError: The column is missing, or a cell is no ISO 8601 date and time.
        """
        return np.array(self._each(column, instant_of), np.int64)

    def dates(self, column: str) -> list[dt.date]:
        """Return a column of dates.

        Raises:
            CandleError: The column is missing, or a cell is no ISO 8601 date.
        """
        return self._each(column, date_of)

    def dates_or_none(self, column: str) -> list[dt.date | None]:
        """Return a column of dates, None where a cell is empty.

        Raises:
            CandleError: The column is missing, or a cell is something else.
        """
        return self._each(column, _date_or_none)

    def is_call(self, column: str) -> NDArray[np.bool_]:
        """Return True for ``CE`` and False for ``PE``.

        Raises:
            CandleError: The column is missing, or a cell is something else.
        """
        return np.array(self._each(column, _is_call), np.bool_)

    def words(self, column: str) -> list[str]:
        """Return a column of words.

        Raises:
            CandleError: The column is missing, or a cell is empty.
        """
        return self._each(column, _word)

    def _cells(self, column: str) -> Sequence[object]:
        if column not in self.columns:
            names = [name[:SHOWN_CHARACTERS_MAX] for name in list(self.columns)[:NAMES_SHOWN_MAX]]
            there = ", ".join(names) or "none"
            raise CandleError(f"is missing; there are {there}", table=self.name, column=column)
        return self.columns[column]

    def _each(self, column: str, read: Callable[[object], T]) -> list[T]:
        """Read every cell; equal ones, of which there are many, only once."""
        known: dict[object, T] = {}
        values = []
        for row, cell in enumerate(self._cells(column)):
            try:
                if cell not in known:
                    known[cell] = read(cell)
            except (TypeError, ValueError) as error:
                raise self._fault(column, row, cell, str(error)) from error
            values.append(known[cell])
        return values

    def _number(self, cell: object, column: str, row: int) -> float:
        try:
            return number_of(cell)
        except (TypeError, ValueError) as error:
            raise self._fault(column, row, cell, "is not a number") from error

    def _refuse(self, column: str, wrong: NDArray[np.bool_], rule: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise self._fault(column, row, self.columns[column][row], rule)

    def _fault(self, column: str, row: int, cell: object, rule: str) -> CandleError:
        shown = "an empty cell" if _is_empty(cell) else repr(cell)[:SHOWN_CHARACTERS_MAX]
        return CandleError(f"{shown} {rule}", table=self.name, column=column, row=row)


def read(path: Path) -> CandleFile:
    """Read a file; its suffix says what it is.

    Raises:
        CandleError: It cannot be read, or is not what its suffix says.
        ConfigurationError: The suffix is neither, or Parquet's library is not installed.
    """
    suffix = _suffix(path)
    try:
        columns = _read_csv(path) if suffix == CSV else _read_parquet(path)
    except OSError as error:
        raise CandleError(f"cannot be read: {error.strerror or error}", table=str(path)) from error
    rows = len(next(iter(columns.values()), []))
    return CandleFile(name=str(path), columns=columns, rows=rows)


def write(columns: Mapping[str, Sequence[object] | NDArray[Any]], path: Path | None) -> None:
    """Write columns of one length; a file appears whole or not at all.

    Args:
        columns: By name; NaN is written as an empty cell.
        path: A ``.csv`` or ``.parquet`` file; None for CSV on standard output.

    Raises:
        CandleError: It cannot be written.
        ConfigurationError: The suffix is neither, or Parquet's library is not installed.
    """
    if path is None:
        _write_csv(columns, sys.stdout)
        return
    write_to = _write_csv_file if _suffix(path) == CSV else _write_parquet
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            write_to(columns, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        message = f"cannot be written: {error.strerror or error}"
        raise CandleError(message, table=str(path)) from error


def number_of(cell: object) -> float:
    """Return a cell's number, NaN for an empty one.

    Raises:
        ValueError: It is text but no number, or holds what only Python takes for a part of one.
        TypeError: It is something else.
    """
    return float(_plain(cell))  # type: ignore[arg-type]  # what else it is raises TypeError


def instant_of(cell: object) -> int:
    """Return a cell's instant, ns since the Unix epoch; one without a zone is IST.

    Raises:
        ValueError: It is text but no date and time in ISO 8601.
        TypeError: It is something else.
    """
    # A bare number may be seconds, milliseconds or nanoseconds, so it is refused.
    if isinstance(cell, str):
        try:
            cell = dt.datetime.fromisoformat(cell.strip())
        except ValueError:
            raise ValueError("is not a date and time in ISO 8601") from None
    if not isinstance(cell, dt.datetime):
        raise TypeError("is not a date and time")
    return instant_ns(_in_range(cell) if cell.tzinfo else _in_range(cell).replace(tzinfo=IST))


def date_of(cell: object) -> dt.date:
    """Return a cell's date.

    Raises:
        ValueError: It is text but no date in ISO 8601.
        TypeError: It is something else.
    """
    if isinstance(cell, str):
        try:
            return _in_range(dt.date.fromisoformat(cell.strip()))
        except ValueError:
            raise ValueError(f"is not a date in ISO 8601, {YEAR_MIN} to {YEAR_MAX}") from None
    if isinstance(cell, dt.datetime):
        return _in_range(cell).date()
    if isinstance(cell, dt.date):
        return _in_range(cell)
    raise TypeError("is not a date")


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in {CSV, PARQUET}:
        raise ConfigurationError(f"{path}: the name must end in {CSV} or {PARQUET}")
    return suffix


def _read_csv(path: Path) -> dict[str, Sequence[object]]:
    try:
        # A byte order mark, as spreadsheets write it, is not part of the first name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            rows = [line for line in lines if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CandleError(f"is not CSV in UTF-8: {error}", table=str(path)) from error
    _check_header(header, path)
    for row, cells in enumerate(rows):
        if len(cells) != len(header):
            rule = f"has {len(cells)} cells, the header {len(header)}"
            raise CandleError(rule, table=str(path), row=row)
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return dict(zip(header, columns, strict=True))


def _check_header(header: Sequence[str], path: Path) -> None:
    if not header:
        raise CandleError("has no header", table=str(path))
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise CandleError("is there twice", table=str(path), column=twice[0])


def _read_parquet(path: Path) -> dict[str, Sequence[object]]:
    pa, parquet = _arrow()
    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        message = str(error).splitlines()[0]
        raise CandleError(f"is not Parquet: {message}", table=str(path)) from error
    _check_header(table.column_names, path)
    return {
        name: _cells_of(pa, column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _cells_of(pa: Any, column: Any) -> list[object]:  # noqa: ANN401 - of an untyped library
    """Return a Parquet column's values; instants in IST, without asking for a zone's name.

    A machine without a time zone database cannot say what ``Asia/Kolkata`` means.
    """
    if not pa.types.is_timestamp(column.type):
        cells: list[object] = column.to_pylist()
        return cells
    zone = "UTC" if column.type.tz else None
    instants = column.cast(pa.timestamp("us", zone), safe=False).to_pylist()
    return [each.astimezone(IST) if each is not None and zone else each for each in instants]


def _write_csv_file(columns: Mapping[str, Sequence[object] | NDArray[Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        _write_csv(columns, file)


def _write_csv(columns: Mapping[str, Sequence[object] | NDArray[Any]], file: TextIO) -> None:
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows(zip(*(_texts(column) for column in columns.values()), strict=True))


def _texts(column: Sequence[object] | NDArray[Any]) -> list[str]:
    cells: Sequence[object] = column.tolist() if isinstance(column, np.ndarray) else column
    return ["" if _is_empty(cell) else _text(cell) for cell in cells]


def _text(cell: object) -> str:
    return cell.isoformat() if isinstance(cell, dt.date) else str(cell)


def _write_parquet(columns: Mapping[str, Sequence[object] | NDArray[Any]], path: Path) -> None:
    pa, parquet = _arrow()
    arrays = {
        name: pa.array(column, from_pandas=True)  # NaN as null
        for name, column in columns.items()
    }
    parquet.write_table(pa.table(arrays), path)


def _arrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module, or say how to get them."""
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional extra
        from pyarrow import parquet  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise ConfigurationError(
            "Parquet needs pyarrow, which is not installed: pip install 'ticker-service[arrow]'. "
            "CSV works without"
        ) from error
    return pa, parquet


def _is_empty(cell: object) -> bool:
    return cell is None or cell == "" or cell != cell  # noqa: PLR0124 - NaN


def _plain(cell: object) -> object:
    """Return a cell that Python may read as a number, NaN for an empty one.

    Raises:
        ValueError: It holds an underscore, which Python skips (``9_4.45`` is no price of 94.45), or
            the digits of another script.
    """
    if isinstance(cell, str) and ("_" in cell or not cell.isascii()):
        raise ValueError("is not a number")
    return math.nan if _is_empty(cell) else cell


def _date_or_none(cell: object) -> dt.date | None:
    return None if _is_empty(cell) else date_of(cell)


def _in_range(day: DateT) -> DateT:
    """Refuse dates that are typing errors, and whose nanoseconds fit no column."""
    if not YEAR_MIN <= day.year <= YEAR_MAX:
        raise ValueError(f"is not between {YEAR_MIN} and {YEAR_MAX}")
    return day


def _is_call(cell: object) -> bool:
    if not isinstance(cell, str) or cell.strip() not in KINDS:
        raise ValueError("must be CE or PE")
    return KINDS[cell.strip()]


def _word(cell: object) -> str:
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError("must be a word")
    return cell.strip()
