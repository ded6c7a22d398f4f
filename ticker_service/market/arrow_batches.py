"""Write Arrow record batches of one schema straight from our columns.

Part of the publish step. Pure; pyarrow is not needed here.
Format: https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message and, for the
metadata, https://flatbuffers.dev/internals/.

Goal: a batch of some hundred rows and seventy columns in the time of copying it. Making an Arrow
array takes five microseconds whatever its length, which for seventy is longer than pricing the
rows. But two batches of one schema differ in numbers at fixed places only: the rows, the nulls of
each column, and where each buffer lies. So one batch is written by pyarrow when the writer is made,
and every other one is its metadata with these numbers replaced, and a body that is ours: columns of
one width lie together there, so that what is missing is looked for in all of them at once.
``test_market_encode`` holds the result to what pyarrow reads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, assert_never

import numpy as np

from ticker_service.errors import InvariantViolatedError
from ticker_service.market.columns import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ticker_service.market.columns import Column

PREFIX_BYTES: Final = 8
"""Mark and length before the metadata of a message."""
ALIGNMENT: Final = 8
BITS_PER_BYTE: Final = 8

# Numbers of the fields of Message and of RecordBatch in Arrow's Message.fbs.
_HEADER: Final = 2
_BODY_LENGTH: Final = 3
_LENGTH: Final = 0
_NODES: Final = 1
_BUFFERS: Final = 2


@dataclass(frozen=True, slots=True)
class _Group:
    """Columns of one kind and width, whose data lie together in the body.

    ``places`` are their numbers in the schema. ``limit``, of shape ``(columns, 1)``, is the mark of
    a missing number or the number of words; None where nothing is ever missing.
    """

    kind: Kind
    dtype: np.dtype[Any]
    places: NDArray[np.intp]
    limit: NDArray[np.int64] | None

    def row_bytes(self, rows: int) -> int:
        """Return the length of one column's data, without padding."""
        return _bits(rows) if self.kind is Kind.FLAG else rows * self.dtype.itemsize


class RecordBatches:
    """Writes the record batches of one schema."""

    def __init__(self, columns: Sequence[Column], example: bytes) -> None:
        """Learn where the numbers of the metadata are.

        Args:
            columns: The columns in the order of the schema.
            example: A record batch of at least one row as pyarrow writes it. Flatbuffers leave out
                a number that is zero, so none would tell nothing.

        Raises:
            InvariantViolatedError: The example has other columns.
        """
        self._count = len(columns)
        self._groups = list(_grouped(columns))
        (metadata_bytes,) = struct.unpack_from("<i", example, PREFIX_BYTES // 2)
        self._metadata = example[: PREFIX_BYTES + metadata_bytes]
        message = _Table(self._metadata, _target(self._metadata, PREFIX_BYTES))
        batch = _Table(self._metadata, _target(self._metadata, message.field(_HEADER)))
        self._body_length_at = message.field(_BODY_LENGTH)
        self._length_at = batch.field(_LENGTH)
        self._nodes_at, nodes = _vector(self._metadata, batch.field(_NODES))
        self._buffers_at, buffers = _vector(self._metadata, batch.field(_BUFFERS))
        if (nodes, buffers) != (self._count, 2 * self._count):
            raise InvariantViolatedError(
                f"Invariant: columns={self._count} nodes={nodes} buffers={buffers}"
            )

    def encode(
        self, values: Sequence[NDArray[Any]], *, before: bytes = b"", after: bytes = b""
    ) -> memoryview:
        """Return a record batch between what goes before and after it in the stream.

        All of it is written in its place, so that a megabyte of columns is copied once.

        Args:
            values: One array per column, shape ``(n,)``.
            before: Whole messages, padded as Arrow's are.
            after: Whatever ends the stream.

        Raises:
            InvariantViolatedError: The columns would not be aligned.
        """
        rows = len(values[0])
        start = len(before) + len(self._metadata)
        if start % ALIGNMENT:
            raise InvariantViolatedError(f"Invariant: start={start} alignment={ALIGNMENT}")
        octets = np.empty(start + self._body_bytes(rows) + len(after), np.uint8)
        body = _Body(octets[start:])
        nulls = np.zeros(self._count, np.int64)
        # Offset and length of each column's validity and data; no validity where none is missing.
        buffers = np.zeros((self._count, 2, 2), np.int64)
        for group in self._groups:
            valid = _write(group, values, body, buffers, rows)
            if valid is not None:
                _write_validity(group, valid, body, buffers, nulls)
        whole = octets.data
        whole[: len(before)] = before
        whole[len(before) : start] = self._numbered(rows, nulls, buffers, body.used)
        end = start + body.used
        whole[end : end + len(after)] = after
        return whole[: end + len(after)].toreadonly()

    def _body_bytes(self, rows: int) -> int:
        """Return how long a body can be at most, every column having something missing."""
        return sum(
            len(group.places) * (_padded(group.row_bytes(rows)) + _padded(_bits(rows)))
            for group in self._groups
        )

    def _numbered(
        self, rows: int, nulls: NDArray[np.int64], buffers: NDArray[np.int64], body_bytes: int
    ) -> bytearray:
        metadata = bytearray(self._metadata)
        struct.pack_into("<q", metadata, self._length_at, rows)
        struct.pack_into("<q", metadata, self._body_length_at, body_bytes)
        nodes = np.frombuffer(metadata, "<i8", 2 * self._count, self._nodes_at)
        nodes[0::2] = rows
        nodes[1::2] = nulls
        np.frombuffer(metadata, "<i8", buffers.size, self._buffers_at)[:] = buffers.ravel()
        return metadata


class _Body:
    """The body of a record batch, filled from its beginning on."""

    def __init__(self, octets: NDArray[np.uint8]) -> None:
        self.octets = octets
        self.used = 0

    def lines(self, count: int, line_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Take lines of bytes, each beginning at a multiple of eight; return them and where."""
        width = _padded(line_bytes)
        offset = self.used + width * np.arange(count)
        self.used += width * count
        lines = self.octets[self.used - width * count : self.used].reshape(count, width)
        lines[:, line_bytes:] = 0  # what was in this memory before is nobody's business
        return lines[:, :line_bytes], offset


def _write(
    group: _Group,
    values: Sequence[NDArray[Any]],
    body: _Body,
    buffers: NDArray[np.int64],
    rows: int,
) -> NDArray[np.bool_] | None:
    """Write a group's data; return where it has values, shape ``(columns, n)``, None for all."""
    columns = [values[place] for place in group.places.tolist()]
    lines, offset = body.lines(len(columns), group.row_bytes(rows))
    buffers[group.places, 1, 0] = offset
    buffers[group.places, 1, 1] = group.row_bytes(rows)
    if group.kind is Kind.FLAG:
        lines[:] = np.packbits(columns, axis=1, bitorder="little")
        return None
    numbers = lines.view(group.dtype)
    for line, column in zip(numbers, columns, strict=True):
        line[:] = column
    match group.kind:
        case Kind.NUMBER:
            valid: NDArray[np.bool_] = np.isfinite(numbers)
        case Kind.WHOLE:
            if group.limit is None:
                return None
            valid = numbers != group.limit
        case Kind.WORD:
            valid = numbers < group.limit
            # A reader that checks the bounds of codes may also check those of missing words.
            numbers *= valid
        case _:
            assert_never(group.kind)
    return valid


def _write_validity(
    group: _Group,
    valid: NDArray[np.bool_],
    body: _Body,
    buffers: NDArray[np.int64],
    nulls: NDArray[np.int64],
) -> None:
    """Write the validity of the group's columns that lack something."""
    bits = np.packbits(valid, axis=1, bitorder="little")
    missing = valid.shape[1] - np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    lacking = np.flatnonzero(missing)
    lines, offset = body.lines(len(lacking), bits.shape[1])
    lines[:] = bits[lacking]
    places = group.places[lacking]
    nulls[places] = missing[lacking]
    buffers[places, 0, 0] = offset
    buffers[places, 0, 1] = bits.shape[1]


def _grouped(columns: Sequence[Column]) -> Iterator[_Group]:
    def likeness(place: int) -> tuple[str, str, bool]:
        column = columns[place]
        return column.kind.value, column.dtype.str, column.missing is None

    for _, members in groupby(sorted(range(len(columns)), key=likeness), likeness):
        places = list(members)
        first = columns[places[0]]
        limits: list[int] = []
        if first.kind is Kind.WORD:
            limits = [len(columns[place].words) for place in places]
        elif first.missing is not None:
            limits = [columns[place].missing or 0 for place in places]
        yield _Group(
            first.kind,
            first.dtype,
            np.array(places),
            np.array(limits, np.int64)[:, None] if limits else None,
        )


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a flatbuffer: at its place is the way back to where its fields are listed."""

    octets: bytes
    at: int

    def field(self, number: int) -> int:
        """Return where a field is.

        Raises:
            InvariantViolatedError: It is not there.
        """
        (back,) = struct.unpack_from("<i", self.octets, self.at)
        listed = self.at - back
        (size,) = struct.unpack_from("<H", self.octets, listed)
        entry = 2 * struct.calcsize("<H") + struct.calcsize("<H") * number
        offset = struct.unpack_from("<H", self.octets, listed + entry)[0] if entry < size else 0
        if not offset:
            raise InvariantViolatedError(f"Invariant: field={number} is not in the example")
        return self.at + int(offset)


def _target(octets: bytes, at: int) -> int:
    """Return the place that the offset at another place leads to."""
    (offset,) = struct.unpack_from("<I", octets, at)
    return at + int(offset)


def _vector(octets: bytes, at: int) -> tuple[int, int]:
    """Return where a vector's elements begin and how many there are."""
    start = _target(octets, at)
    (count,) = struct.unpack_from("<I", octets, start)
    return start + struct.calcsize("<I"), int(count)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _bits(rows: int) -> int:
    return -(-rows // BITS_PER_BYTE)
