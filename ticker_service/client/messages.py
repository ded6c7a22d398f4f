"""What a reader yields, and how it is read from either encoding.

Pure. A message that is none of ours, or of another version of the contract, is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from ticker_service.client.rows import ArrowRows, JsonRows, Rows
from ticker_service.errors import ConfigurationError, TickerServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd  # type: ignore[import-untyped]  # its stubs are a package of their own
    import polars as pl
    import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
    from numpy.typing import NDArray

SUPPORTED_VERSION: Final = 1
Encoding = Literal["json", "arrow"]
CHANNELS: Final = {"json": "ticks", "arrow": "arrow"}
SNAPSHOTS: Final = {"json": "snapshot", "arrow": "arrow-snapshot"}


class NoColumns(TickerServiceError):  # noqa: N818 - names what is missing
    """The message is of a kind that has no rows."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a book: its ``kind``, its ``book``, and everything it says in ``body``.

    ``kind`` is ``batch``, ``heartbeat``, ``gap``, ``status`` or ``smile`` as published,
    ``snapshot`` for the rows a reader starts from, and ``missed`` when numbers were skipped (a
    snapshot follows).
    The body of ``missed`` says ``expected_seq``, ``seq`` and ``epoch``; with the ``reason``
    ``epoch_stepped_back`` a publisher of a lower epoch is followed from here on, and nothing is
    known of how many messages lie between. Rows are in ``body["columns"]`` if they came as JSON;
    the methods read them from either encoding.
    """

    kind: str
    book: str
    body: dict[str, Any]
    arrow: Any = field(default=None, repr=False)
    """The ``pyarrow.Table`` of a batch or snapshot that came as Arrow."""

    @property
    def view(self) -> Rows:
        """The rows, to be had in any form.

        Raises:
            NoColumns: The message is of a kind that has none.
        """
        if self.arrow is not None:
            return ArrowRows(self.arrow)
        if "columns" not in self.body:
            raise NoColumns(f"Condition failed: kind={self.kind!r} has no rows")
        return JsonRows(self.body["columns"])

    def rows(self) -> list[dict[str, Any]]:
        """Return a batch's or snapshot's columns as one dict per row; for small uses."""
        return self.view.rows()

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Return one numpy array per column; see :meth:`Rows.to_numpy`."""
        return self.view.to_numpy()

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas data frame; see :meth:`Rows.to_pandas`."""
        return self.view.to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Return a polars data frame; see :meth:`Rows.to_polars`."""
        return self.view.to_polars()

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table; see :meth:`Rows.to_arrow`."""
        return self.view.to_arrow()


def reader_of(encoding: Encoding) -> Callable[[bytes], Message | None]:
    """Return what reads a message of an encoding; it returns None for what is none of ours.

    Raises:
        ConfigurationError: There is no such encoding, or pyarrow is not installed.
    """
    if encoding == "json":
        return from_json
    if encoding != "arrow":
        raise ConfigurationError(f"encoding={encoding!r}: must be 'json' or 'arrow'")
    try:
        arrow = import_module("pyarrow")
    except ImportError as error:
        raise ConfigurationError(
            "encoding='arrow' needs pyarrow, which is not installed: "
            "pip install 'ticker-service[arrow]'"
        ) from error

    def from_arrow(raw: bytes) -> Message | None:
        try:
            table = arrow.ipc.open_stream(raw).read_all()
            header = (table.schema.metadata or {})[b"message"]
        except (arrow.ArrowException, OSError, KeyError):
            return None
        return _message(header, table if table.num_columns else None)

    return from_arrow


def from_json(raw: bytes) -> Message | None:
    """Return a JSON message, None if it is none of ours."""
    return _message(raw, None)


def _message(raw: bytes, table: pa.Table | None) -> Message | None:
    try:
        body = orjson.loads(raw)
        if body["v"] != SUPPORTED_VERSION:
            return None
        message = Message(str(body["kind"]), str(body["book"]), body, table)
        is_numbered = isinstance(body["epoch"], int) and isinstance(body["seq"], int)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return message if is_numbered else None
