"""The tape: what the tick path's task did, step by step, in compressed and checksummed blocks.

Beside the path: feed -> [record] -> decode -> validate -> batch -> price -> publish.
Pure but for the file a ``Tape`` is given to read. The format is ours; docs/record.md explains it.

A file is ``MAGIC`` and then blocks: a header of 48 bytes with the length, the times and the
checksums, then the body. The first block says what the run was (``tape_header``), every other one
holds whole steps. Nothing is ever rewritten, so a crash can only tear the end off; headers are read
by hopping from one to the next, which is the index. Whatever a reader finds broken it leaves out
and reports as lost, with the times between which something is missing.
"""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from ticker_service.errors import RecordingError
from ticker_service.ports import Frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

MAGIC: Final = b"TKTAPE\x01\n"
"""Begins every file; the byte before the line end is the version of the block layout."""
MARKER: Final = b"\xabBK\xba"
"""Begins every block header, so that a reader finds its way again after damage."""
BLOCK_HEADER: Final = struct.Struct("<4sBBHIIIIqqII")
"""Marker, kind, codec, flags, number, raw bytes, stored bytes, steps, first and last instant (ns),
checksum of the body, checksum of what stands before it in this header."""

KIND_HEADER: Final = 1
KIND_STEPS: Final = 2
CODEC_ZSTD: Final = 1
FLAG_HAS_WANT: Final = 1
"""A change of what is subscribed is among the steps: a reader that seeks looks for the last one."""

BLOCK_RAW_BYTES: Final = 1 << 20
"""A block is closed when it holds so much: large enough to compress, small enough to lose."""
STEP_BYTES_MAX: Final = 128 << 20
"""A step larger than this is not recorded but counted as lost; the feed's whole backlog fits."""
RAW_BYTES_MAX: Final = 2 * STEP_BYTES_MAX
ZSTD_LEVEL: Final = 3
"""Measured on frames of the simulator: levels above cost up to four times the CPU for 4 % less."""

FLUSH: Final = "flush"
WANT: Final = "want"
LOST: Final = "lost"

_FLUSH: Final = 1
_PLAIN: Final = 2
_RECORD: Final = struct.Struct("<BI")
_FLUSH_HEAD: Final = struct.Struct("<qHI")
_NO_ARGUMENTS: Final[Mapping[str, object]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a method of the tick path, or what stands beside them.

    ``name`` is the method; or ``want``: the universe rows subscribed from here on, ``rows``; or
    ``lost``: steps that are missing here, ``from_ns``, ``to_ns``, ``reason``. ``at_ns`` is when it
    began, ``readings_ns`` what the clock said each time the step asked; ns since the Unix epoch.
    Frames are a flush's own; ``arguments`` are values JSON has words for.
    """

    name: str
    at_ns: int
    readings_ns: Sequence[int] = ()
    frames: Sequence[Frame] = ()
    arguments: Mapping[str, object] = field(default_factory=lambda: _NO_ARGUMENTS)


class TapeWriter:
    """Turns one file's header and steps into its bytes, in order; keeps no step."""

    def __init__(self) -> None:
        self._number = 0
        self._compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)

    def opening(self, header: bytes, *, at_ns: int) -> bytes:
        """Return what the file begins with."""
        return MAGIC + self._block(KIND_HEADER, header, _Span(at_ns, at_ns))

    def blocks(self, steps: Iterable[Step]) -> Iterator[bytes]:
        """Return the steps as blocks; every step is whole in one of them.

        Lazy: encoding and compression cost CPU, and happen in whichever thread asks for the next.
        """
        waiting: list[bytes] = []
        span, raw_bytes = _Span(), 0
        for step in steps:
            encoded = encode(step)
            waiting.append(encoded)
            span.add(step)
            raw_bytes += len(encoded)
            if raw_bytes >= BLOCK_RAW_BYTES:
                yield self._block(KIND_STEPS, b"".join(waiting), span)
                waiting, span, raw_bytes = [], _Span(), 0
        if waiting:
            yield self._block(KIND_STEPS, b"".join(waiting), span)

    def _block(self, kind: int, raw: bytes, span: _Span) -> bytes:
        body = self._compressor.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)
        head = BLOCK_HEADER.pack(
            MARKER,
            kind,
            CODEC_ZSTD,
            span.flags,
            self._number,
            len(raw),
            len(body),
            span.steps,
            span.first_ns,
            span.last_ns,
            zlib.crc32(body),
            0,
        )[:-4]
        self._number += 1
        return head + zlib.crc32(head).to_bytes(4, "little") + body


@dataclass(slots=True)
class _Span:
    """What a block's header says of its steps."""

    first_ns: int = 0
    last_ns: int = 0
    steps: int = 0
    flags: int = 0

    def add(self, step: Step) -> None:
        self.first_ns = min(self.first_ns, step.at_ns) if self.steps else step.at_ns
        self.last_ns = max(self.last_ns, step.at_ns) if self.steps else step.at_ns
        self.steps += 1
        self.flags |= FLAG_HAS_WANT if step.name == WANT else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block's place in the file and what its header says; times in ns since the Unix epoch."""

    offset: int
    kind: int
    codec: int
    flags: int
    number: int
    raw_bytes: int
    stored_bytes: int
    steps: int
    first_ns: int
    last_ns: int
    checksum: int

    @property
    def end(self) -> int:
        """Return the offset of what follows."""
        return self.offset + BLOCK_HEADER.size + self.stored_bytes


class Tape:
    """A recording opened for reading; the file stays the caller's to close.

    Attributes:
        blocks: The index: every readable block of steps, in order.
        torn_bytes: What a crash left of an unfinished block at the end, and was dropped.
        damaged_bytes: What could not be read elsewhere, as far as it is known by now.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Read the magic, the header and the index, but no step.

        Raises:
            RecordingError: It is no recording, of an unknown version, or without its header.
        """
        self.name = name
        self._file = file
        self._size = file.seek(0, 2)
        self.blocks: list[Block] = []
        self.torn_bytes = 0
        self.damaged_bytes = 0
        if self._read(0, len(MAGIC)) != MAGIC:
            raise RecordingError(f"Condition failed: {name} is no recording of this version")
        self._hop()
        if not self.blocks or self.blocks[0].kind != KIND_HEADER:
            raise RecordingError(f"Condition failed: {name} has lost its header")
        self._opening = self.blocks.pop(0)
        header = self._body(self._opening)
        if header is None:
            raise RecordingError(f"Condition failed: {name}: its header is damaged")
        self.header = header
        self._drop_torn_tail()

    @property
    def first_ns(self) -> int:
        """Return when the first step began, ns since the Unix epoch; 0 if there is none."""
        return self.blocks[0].first_ns if self.blocks else 0

    @property
    def last_ns(self) -> int:
        """Return when the last step began, likewise."""
        return max((block.last_ns for block in self.blocks), default=0)

    def steps(self, *, from_ns: int = 0) -> Iterator[Step]:
        """Return the steps in order, reading one block at a time.

        Args:
            from_ns: Begin with the block that holds this instant, so a little before it; the
                subscription that was in force there comes first.
        """
        first = next((n for n, b in enumerate(self.blocks) if b.last_ns >= from_ns), None)
        if first is None:
            return
        if first:
            yield from self._subscription_before(first)
        before = self.blocks[first - 1] if first else self._opening
        for block in self.blocks[first:]:
            if block.number != before.number + 1:
                yield _lost(before.last_ns, block.first_ns)
            body = self._body(block)
            try:
                steps = [] if body is None else list(decode(body))
            except (ValueError, KeyError, TypeError, struct.error):
                self.damaged_bytes += block.end - block.offset
                body = None
            if body is None:
                yield _lost(block.first_ns, block.last_ns)
            else:
                yield from steps
            before = block

    def _subscription_before(self, first: int) -> Iterator[Step]:
        for block in reversed(self.blocks[:first]):
            body = self._body(block) if block.flags & FLAG_HAS_WANT else None
            if body is not None:
                yield [step for step in decode(body) if step.name == WANT][-1]
                return

    def _hop(self) -> None:
        at = len(MAGIC)
        while at < self._size:
            block = self._block_at(at)
            if block is None:
                found = self._next_marker(at + 1)
                if found is None:
                    self.torn_bytes = self._size - at
                    return
                self.damaged_bytes += found - at
                at = found
                continue
            self.blocks.append(block)
            at = block.end

    def _block_at(self, offset: int) -> Block | None:
        """Return the block whose header is here, None if there is none or it is not all there."""
        head = self._read(offset, BLOCK_HEADER.size)
        if len(head) < BLOCK_HEADER.size:
            return None
        marker, *facts, checksum, own = BLOCK_HEADER.unpack(head)
        if marker != MARKER or own != zlib.crc32(head[:-4]):
            return None
        kind, codec, flags, number, raw_bytes, stored_bytes, steps, first_ns, last_ns = facts
        block = Block(
            offset=offset,
            kind=kind,
            codec=codec,
            flags=flags,
            number=number,
            raw_bytes=raw_bytes,
            stored_bytes=stored_bytes,
            steps=steps,
            first_ns=first_ns,
            last_ns=last_ns,
            checksum=checksum,
        )
        return block if block.end <= self._size else None

    def _next_marker(self, at: int) -> int | None:
        """Return the next offset at which a whole block stands, looking at every byte."""
        while at < self._size:
            part = self._read(at, BLOCK_RAW_BYTES)
            place = part.find(MARKER)
            while place >= 0:
                if self._block_at(at + place) is not None:
                    return at + place
                place = part.find(MARKER, place + 1)
            # A marker may lie across the border of two parts.
            at += max(len(part) - len(MARKER) + 1, 1)
        return None

    def _drop_torn_tail(self) -> None:
        """Leave out last blocks that were begun and not finished: only their length is there."""
        while self.blocks and self._body(self.blocks[-1], count=False) is None:
            block = self.blocks.pop()
            self.torn_bytes += block.end - block.offset

    def _body(self, block: Block, *, count: bool = True) -> bytes | None:
        """Return a block's body as it was before compression, None if it is damaged."""
        if block.codec != CODEC_ZSTD or block.kind not in {KIND_HEADER, KIND_STEPS}:
            raise RecordingError(
                f"Condition failed: {self.name} at {block.offset}: kind={block.kind} "
                f"codec={block.codec} are of a later version"
            )
        stored = self._read(block.offset + BLOCK_HEADER.size, block.stored_bytes)
        raw = None
        if zlib.crc32(stored) == block.checksum and block.raw_bytes <= RAW_BYTES_MAX:
            raw = _decompressed(stored, block.raw_bytes)
        if raw is None and count:
            self.damaged_bytes += block.end - block.offset
        return raw

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(min(size, max(self._size - offset, 0)))


def encode(step: Step) -> bytes:
    """Return one step's record."""
    if step.name == FLUSH:
        kind, body = _FLUSH, _encode_flush(step)
    else:
        kind, body = (
            _PLAIN,
            orjson.dumps(
                {
                    "step": step.name,
                    "at_ns": step.at_ns,
                    "readings_ns": list(step.readings_ns),
                    **step.arguments,
                },
                option=orjson.OPT_SERIALIZE_NUMPY,
            ),
        )
    return _RECORD.pack(kind, len(body)) + body


def decode(raw: bytes) -> Iterator[Step]:
    """Return the steps of one block's body.

    Raises:
        ValueError: The body contradicts itself; ``struct.error``, ``KeyError`` and ``TypeError``
            mean the same.
    """
    at = 0
    while at < len(raw):
        kind, size = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        if at + size > len(raw):
            raise ValueError(f"a record of {size} bytes at {at} in a body of {len(raw)}")
        body = raw[at : at + size]
        at += size
        yield _decode_flush(body) if kind == _FLUSH else _decode_plain(body)


def size_bytes(step: Step) -> int:
    """Return about what a step occupies while it waits."""
    return 256 + sum(len(frame.payload) + 160 for frame in step.frames)


def _encode_flush(step: Step) -> bytes:
    frames = step.frames
    return b"".join(
        [
            _FLUSH_HEAD.pack(step.at_ns, len(step.readings_ns), len(frames)),
            np.array(step.readings_ns, "<i8").tobytes(),
            np.array([frame.received_at_ns for frame in frames], "<i8").tobytes(),
            np.array([frame.connection for frame in frames], "<u2").tobytes(),
            np.array([len(frame.payload) for frame in frames], "<u4").tobytes(),
            *[frame.payload for frame in frames],
        ]
    )


def _decode_flush(body: bytes) -> Step:
    at_ns, readings, count = _FLUSH_HEAD.unpack_from(body)
    at = _FLUSH_HEAD.size
    columns: list[list[int]] = []
    for dtype, length in (("<i8", readings), ("<i8", count), ("<u2", count), ("<u4", count)):
        # Raises when the body is shorter than it says, before anything is allocated.
        column = np.frombuffer(body, dtype, length, at)
        at += column.nbytes
        columns.append(column.tolist())
    readings_ns, received_at_ns, connections, sizes = columns
    if at + sum(sizes) != len(body):
        raise ValueError(f"{count} frames of {sum(sizes)} bytes in {len(body) - at}")
    frames = []
    for received_ns, connection, size in zip(received_at_ns, connections, sizes, strict=True):
        frames.append(Frame(received_ns, body[at : at + size], connection))
        at += size
    return Step(name=FLUSH, at_ns=at_ns, readings_ns=readings_ns, frames=frames)


def _decode_plain(body: bytes) -> Step:
    facts = orjson.loads(body)
    return Step(
        name=facts.pop("step"),
        at_ns=facts.pop("at_ns"),
        readings_ns=facts.pop("readings_ns"),
        arguments=facts,
    )


def _lost(from_ns: int, to_ns: int) -> Step:
    arguments = {"from_ns": from_ns, "to_ns": to_ns, "reason": "damaged"}
    return Step(name=LOST, at_ns=to_ns, arguments=arguments)


def _decompressed(stored: bytes, raw_bytes: int) -> bytes | None:
    """Return what was compressed, never more than it says it was."""
    decompressor = zstd.ZstdDecompressor()
    try:
        raw = decompressor.decompress(stored, max_length=raw_bytes + 1)
    except zstd.ZstdError:
        return None
    return raw if len(raw) == raw_bytes and decompressor.eof else None
