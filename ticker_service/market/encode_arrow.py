"""Arrow IPC: each message a complete stream that any Arrow library opens without copying.

Path: feed -> decode -> validate -> batch -> price -> [publish].
Pure. Needs the optional extra ``arrow``.

Format: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format - a schema, the
dictionaries of the word columns, one record batch, the end mark. The header of the message, the
same as in JSON, is JSON in the schema's metadata under ``message``. The dictionaries never change,
so their bytes are made once; the record batch is written by ``market.arrow_batches``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, assert_never

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types

from ticker_service.market.arrow_batches import RecordBatches
from ticker_service.market.columns import Kind
from ticker_service.market.encode import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.market.columns import Column
    from ticker_service.ports import Payload

METADATA_KEY: Final = b"message"
END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class ArrowEncoder:
    """Columns as Arrow arrays over our own memory; words as dictionaries, missing as null."""

    channel: ClassVar[str] = "arrow"
    snapshot_key: ClassVar[str] = "arrow-snapshot"

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = list(columns)
        self._words = [pa.array(column.words, pa.string()) for column in columns]
        self._schema = pa.schema([field_of(column) for column in columns])
        self._no_columns = pa.schema([])
        self._dictionaries = self._dictionary_messages()
        example = self._record_batch([np.ones(1, column.dtype) for column in columns])
        self._batches = RecordBatches(columns, example.serialize().to_pybytes())

    def encode(
        self, header: Mapping[str, object], values: Sequence[NDArray[Any]] | None = None
    ) -> Payload:
        """Return the message as one IPC stream; without columns it has a schema alone."""
        metadata = {METADATA_KEY: dumps(header)}
        if values is None:
            return b"".join((self._no_columns.with_metadata(metadata).serialize(), END_OF_STREAM))
        schema = self._schema.with_metadata(metadata)
        before = b"".join((schema.serialize(), self._dictionaries))
        return self._batches.encode(values, before=before, after=END_OF_STREAM)

    def encode_parts(
        self,
        headers: Sequence[Mapping[str, object]],
        values: Sequence[NDArray[Any]],
        parts: Sequence[slice],
    ) -> list[Payload]:
        """Return one stream per part."""
        return [
            self.encode(header, [column[part] for column in values])
            for header, part in zip(headers, parts, strict=True)
        ]

    def _record_batch(self, values: Sequence[NDArray[Any]]) -> pa.RecordBatch:
        columns = zip(self._columns, self._words, values, strict=True)
        arrays = [array_of(column, words, array) for column, words, array in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _dictionary_messages(self) -> bytes:
        """Return what a stream writer puts between the schema and the first record batch."""
        nothing = self._record_batch([np.empty(0, column.dtype) for column in self._columns])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._schema) as writer:
            writer.write_batch(nothing)
        stream: bytes = sink.getvalue().to_pybytes()
        around = len(nothing.serialize()) + len(END_OF_STREAM)
        return stream[len(self._schema.serialize()) : -around]


def field_of(column: Column) -> pa.Field:
    """Return a column's name and type in Arrow."""
    if column.kind is Kind.WORD:
        return pa.field(column.name, pa.dictionary(pa.int8(), pa.string()))
    return pa.field(column.name, pa.from_numpy_dtype(column.dtype))


def array_of(column: Column, words: pa.Array, values: NDArray[Any]) -> pa.Array:
    """Return a column over the memory of ``values`` where its layout is Arrow's own."""
    values = np.ascontiguousarray(values, column.dtype)
    is_valid = _is_valid(column, values)
    if is_valid is not None and is_valid.all():
        is_valid = None
    validity = None if is_valid is None else _bits(is_valid)
    match column.kind:
        case Kind.FLAG:
            return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])
        case Kind.WORD:
            # A reader that checks the bounds of codes may also check those of missing words.
            codes = values if is_valid is None else np.where(is_valid, values, np.uint8(0))
            buffers = [validity, pa.py_buffer(codes)]
            indices = pa.Array.from_buffers(pa.int8(), len(values), buffers)
            return pa.DictionaryArray.from_arrays(indices, words, safe=False)
        case Kind.NUMBER | Kind.WHOLE:
            kind = pa.from_numpy_dtype(column.dtype)
            return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)])
        case _:
            assert_never(column.kind)


def _is_valid(column: Column, values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where a value is there, None for a column that has one in every row."""
    is_valid: NDArray[np.bool_] | None = None
    match column.kind:
        case Kind.NUMBER:
            is_valid = np.isfinite(values)
        case Kind.WHOLE if column.missing is not None:
            is_valid = values != column.missing
        case Kind.WORD:
            is_valid = values < len(column.words)
        case Kind.WHOLE | Kind.FLAG:
            pass
        case _:
            assert_never(column.kind)
    return is_valid


def _bits(flags: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
