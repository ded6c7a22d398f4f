"""Columns as a consumer wants them: numpy, pandas, polars, Arrow, or a dict per row.

The same types whatever the encoding and whatever is missing in a batch, so that code that worked on
one batch works on the next: missing is NaN or None in numpy and pandas, null in polars and Arrow.
Pure. pandas, polars and pyarrow are imported when they are asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd  # type: ignore[import-untyped]  # its stubs are a package of their own
    import polars as pl
    import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]


class Kind(Enum):
    """What a column holds."""

    TOKEN = "token"  # noqa: S105 - Kite's word for an instrument's number
    """A whole number that is never missing: uint32."""
    STAMP = "stamp"
    """A time in µs that is never missing: int64."""
    WHOLE = "whole"
    """Whole numbers below 2**53, exact as float64, so that NaN can say that one is missing."""
    NUMBER = "number"
    WORD = "word"
    FLAG = "flag"
    """True or False, never missing."""
    MAYBE = "maybe"
    """True, False, or missing."""


_DTYPES: Final[dict[Kind, np.dtype[Any]]] = {
    Kind.TOKEN: np.dtype(np.uint32),
    Kind.STAMP: np.dtype(np.int64),
    Kind.WHOLE: np.dtype(np.float64),
    Kind.NUMBER: np.dtype(np.float64),
    Kind.WORD: np.dtype(object),
    Kind.FLAG: np.dtype(np.bool_),
    Kind.MAYBE: np.dtype(object),
}
_WORDS: Final = frozenset({"doubt", "exchange", "expiry", "instrument_type", "mode"})
_WORD_ENDINGS: Final = ("_leg", "_source", "_status", "symbol")
_WHOLE: Final = frozenset({"lot_size", "oi", "points", "ticks", "volume"})


def kind_of(name: str) -> Kind:
    """Return what a column of this name holds; the wire's names say it (docs/wire.md)."""
    if name == "instrument_token":
        return Kind.TOKEN
    if name == "received_at_us":
        return Kind.STAMP
    if name.startswith("is_"):
        return Kind.FLAG
    if name.endswith("_ok"):
        return Kind.MAYBE
    if name in _WORDS or name.endswith(_WORD_ENDINGS):
        return Kind.WORD
    is_count = "quantity" in name or "_orders_" in name
    return Kind.WHOLE if is_count or name.endswith("_us") or name in _WHOLE else Kind.NUMBER


def missing(name: str, rows: int) -> NDArray[Any]:
    """Return a column in which every value is missing, as far as its kind can be."""
    kind = kind_of(name)
    if kind in {Kind.WHOLE, Kind.NUMBER}:
        return np.full(rows, np.nan)
    if kind in {Kind.WORD, Kind.MAYBE}:
        return np.full(rows, None, dtype=object)
    return np.zeros(rows, _DTYPES[kind])


class Rows(ABC):
    """Columns of equal length."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The columns' names, in their order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def to_numpy(self) -> Arrays:
        """Return one array per column, shape ``(n,)``.

        Numbers and quantities are float64 with NaN for missing (quantities and times are exact
        below 2**53), ``instrument_token`` uint32, ``received_at_us`` int64, words objects with None
        for missing, flags bool.
        """

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per row, None for missing; for small uses."""
        columns = {name: _listed(name, array) for name, array in self.to_numpy().items()}
        return rows_of(columns)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame of what :meth:`to_numpy` returns.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        frame: pd.DataFrame = _library("pandas", "to_pandas").DataFrame(self.to_numpy())
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Return a data frame with null for missing, quantities and times as Int64.

        Raises:
            ConfigurationError: polars is not installed.
        """
        polars = _library("polars", "to_polars")
        types = {
            Kind.TOKEN: polars.UInt32,
            Kind.STAMP: polars.Int64,
            Kind.WHOLE: polars.Int64,
            Kind.NUMBER: polars.Float64,
            Kind.WORD: polars.String,
            Kind.FLAG: polars.Boolean,
            Kind.MAYBE: polars.Boolean,
        }
        series = []
        for name, array in self.to_numpy().items():
            kind = kind_of(name)
            values: Any = array.tolist() if array.dtype == object else array
            wide = polars.Series(name, values, nan_to_null=kind in {Kind.WHOLE, Kind.NUMBER})
            series.append(wide.cast(types[kind]))
        frame: pl.DataFrame = polars.DataFrame(series)
        return frame

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table with the types of the Arrow channel, null for missing.

        Raises:
            ConfigurationError: pyarrow is not installed.
        """
        arrow = _library("pyarrow", "to_arrow")
        word = arrow.dictionary(arrow.int8(), arrow.string())
        columns = {}
        for name, array in self.to_numpy().items():
            kind = kind_of(name)
            if kind is Kind.WORD:
                columns[name] = arrow.array(array, arrow.string()).dictionary_encode().cast(word)
            elif kind in {Kind.WHOLE, Kind.NUMBER}:
                is_missing = np.isnan(array)
                held = np.where(is_missing, 0.0, array)
                exact = held.astype(np.int64) if kind is Kind.WHOLE else held
                columns[name] = arrow.array(exact, mask=is_missing)
            elif kind is Kind.MAYBE:
                columns[name] = arrow.array(array, arrow.bool_())
            else:
                columns[name] = arrow.array(array)
        return arrow.table(columns)


class JsonRows(Rows):
    """The columns of a JSON message."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = columns

    @property
    def names(self) -> list[str]:
        """The columns' names, in their order."""
        return list(self._columns)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._columns.values()), ()))

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per row, as the message has them."""
        return rows_of(self._columns)

    def to_numpy(self) -> Arrays:
        """Return one array per column; see :meth:`Rows.to_numpy`."""
        # None becomes NaN in a float array.
        return {
            name: np.array(values, _DTYPES[kind_of(name)]) for name, values in self._columns.items()
        }


class ArrowRows(Rows):
    """The columns of an Arrow message."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def names(self) -> list[str]:
        """The columns' names, in their order."""
        names: list[str] = self._table.column_names
        return names

    def __len__(self) -> int:
        """Return the number of rows."""
        rows: int = self._table.num_rows
        return rows

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per row, None for missing."""
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows

    def to_numpy(self) -> Arrays:
        """Return one array per column; see :meth:`Rows.to_numpy`.

        What needs no change lies in the message's own memory and cannot be written to.
        """
        return {
            name: np.asarray(column.to_numpy(zero_copy_only=False), _DTYPES[kind_of(name)])
            for name, column in self._columns()
        }

    def to_arrow(self) -> pa.Table:
        """Return the table as it came."""
        return self._table

    def _columns(self) -> Iterable[tuple[str, pa.Array]]:
        for name, column in zip(self.names, self._table.columns, strict=True):
            yield name, column.chunk(0) if column.num_chunks == 1 else column


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return lists of equal length as one dict per row."""
    names = list(columns)
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _listed(name: str, array: NDArray[Any]) -> list[Any]:
    values: list[Any] = array.tolist()
    kind = kind_of(name)
    if kind is Kind.NUMBER:
        return [None if value != value else value for value in values]  # noqa: PLR0124 - NaN
    if kind is Kind.WHOLE:
        return [None if value != value else int(value) for value in values]  # noqa: PLR0124
    return values


def _library(name: str, method: str) -> Any:  # noqa: ANN401 - a module
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"{method} needs {name}, which is not installed: pip install {name}"
        ) from error
