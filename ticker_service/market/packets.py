"""Find the packets in raw frames: where each begins, how long it is, when it was received.

Part of the decode step. Pure. Source of the format: kite.md §1.4.

A frame is ``u16 count`` and then ``count`` packets of ``u16 length`` and ``length`` bytes, so that
where a packet begins depends on all before it. Frames of equal packets, which is what one mode
gives, are cut up by arithmetic, all at once; only the others are walked. What cannot be read is
counted, never raised: a broken frame must not take its neighbours along, and nothing is allocated
by a number read from the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ticker_service.ports import Frame

COUNT_BYTES: Final = 2
LENGTH_BYTES: Final = 2
HEARTBEAT_BYTES_MAX: Final = 1
TOKEN_BYTES: Final = 4
LENGTH_QUICK_MAX: Final = 255
LARGE_FRAMES_BYTES_MIN: Final = 400
"""From this mean size on, walking through frames costs less than the arithmetic on all of them."""
LONG_PACKETS_BYTES_MIN: Final = 170
"""A frame with more bytes a packet than this has nine full packets in ten."""
LONG_RUNS_PACKETS_MIN: Final = 40
RUNS_MAX: Final = 8
"""With fewer packets, or more runs of equal ones, walking costs less than finding the runs."""

_received_at_ns: Final = attrgetter("received_at_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """Packets in order of arrival; columns of shape ``(n,)``.

    ``buffer`` holds all frames and some padding, ``offset`` and ``length`` say where in it a
    packet's body lies, and ``broken_frames`` are the frames that contradict themselves.
    """

    buffer: bytes
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    received_at_ns: NDArray[np.int64]
    broken_frames: Sequence[bytes]

    def __len__(self) -> int:
        """Return the number of packets."""
        return len(self.offset)

    def head(self, place: int, bytes_max: int) -> bytes:
        """Return the first bytes of one packet, its length before them."""
        start = int(self.offset[place]) - LENGTH_BYTES
        end = int(self.offset[place] + self.length[place])
        return self.buffer[start : min(end, start + bytes_max)]

    def tokens(self) -> NDArray[np.uint32]:
        """Return the first four bytes of each packet as a number, which is its token."""
        token_at: NDArray[np.uint32] = np.ndarray(
            shape=(len(self.buffer) - TOKEN_BYTES + 1,),
            dtype=">u4",
            buffer=self.buffer,
            strides=(1,),
        )
        return token_at[self.offset].astype(np.uint32)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Packets:
        """Return some of the packets, in the order in which they are named."""
        return Packets(
            buffer=self.buffer,
            offset=self.offset[chosen],
            length=self.length[chosen],
            received_at_ns=self.received_at_ns[chosen],
            broken_frames=self.broken_frames,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """Where packets begin in the joined frames, their lengths and number by frame, what broke."""

    offset: NDArray[np.int64]
    length: NDArray[np.uint16]
    count: NDArray[np.int64]
    broken_frames: Sequence[bytes]


def find(waiting: Sequence[Frame], *, padding_bytes: int) -> Packets:
    """Find the packets of all frames that wait together.

    Args:
        waiting: Binary messages in order of arrival; heartbeats among them are passed over.
        padding_bytes: How much may be read from any packet's beginning on, two bytes at least.

    Returns:
        The packets. A frame that contradicts itself yields those before the contradiction.
    """
    payloads = [frame.payload for frame in waiting]
    buffer = b"".join([*payloads, bytes(padding_bytes)])
    size = np.fromiter(map(len, payloads), np.int64, len(payloads))
    start = np.cumsum(size) - size
    number_at = _numbers(buffer)
    if len(buffer) < LARGE_FRAMES_BYTES_MIN * len(payloads):
        found = _by_arithmetic(payloads, number_at, start, size)
    else:
        found = _by_walking(payloads, number_at, start)
    times = np.fromiter(map(_received_at_ns, waiting), np.int64, len(waiting))
    return Packets(
        buffer=buffer,
        offset=found.offset,
        length=found.length.astype(np.int64),
        received_at_ns=np.repeat(times, found.count),
        broken_frames=found.broken_frames,
    )


def _numbers(buffer: bytes) -> NDArray[np.uint16]:
    """Return the big-endian number that begins at every byte but the last."""
    return np.ndarray(shape=(len(buffer) - 1,), dtype=">u2", buffer=buffer, strides=(1,))


def _spaced(
    first: NDArray[np.int64], count: NDArray[np.int64], step: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return ``count`` places from each ``first`` on, ``step`` apart, one list after the other."""
    before = np.cumsum(count) - count
    place = np.arange(int(count.sum())) - np.repeat(before, count)
    return np.repeat(first, count) + place * np.repeat(step, count)


def _by_arithmetic(
    payloads: Sequence[bytes],
    number_at: NDArray[np.uint16],
    start: NDArray[np.int64],
    size: NDArray[np.int64],
) -> _Found:
    """Cut up all frames at once whose packets are as long as their first; walk the others."""
    count = number_at[start].astype(np.int64)
    length = number_at[start + COUNT_BYTES].astype(np.int64)
    is_even = size == COUNT_BYTES + count * (LENGTH_BYTES + length)
    count[~is_even] = 0  # no number of the wire is believed that the size contradicts
    is_even |= size <= HEARTBEAT_BYTES_MAX
    offset = _spaced(start + COUNT_BYTES + LENGTH_BYTES, count, LENGTH_BYTES + length)
    frame = np.repeat(np.arange(len(count)), count)
    # By induction: where all lengths equal the first, the packets are where they were sought.
    lengths = number_at[offset - LENGTH_BYTES]
    is_even[frame[lengths != length[frame]]] = False
    if is_even.all():
        return _Found(offset, lengths, count, ())
    uneven = np.flatnonzero(~is_even)
    walked = _by_walking([payloads[k] for k in uneven.tolist()], number_at, start[uneven])
    counts = count.copy()
    counts[uneven] = walked.count
    is_of_even = np.repeat(is_even, counts)
    offsets = np.empty(len(is_of_even), np.int64)
    offsets[is_of_even] = offset[np.repeat(is_even, count)]
    offsets[~is_of_even] = walked.offset
    lengths = number_at[offsets - LENGTH_BYTES]
    return _Found(offsets, lengths, counts, walked.broken_frames)


def _by_walking(
    payloads: Sequence[bytes], number_at: NDArray[np.uint16], start: NDArray[np.int64]
) -> _Found:
    """Walk frames packet by packet, or run by run."""
    for walk in (_walk_quickly, _walk_all):
        within, found, broken = walk(payloads)
        count = np.array(found, np.int64)
        offset = np.repeat(start, count) + within
        length = number_at[offset - LENGTH_BYTES]
        if length.max(initial=0) <= LENGTH_QUICK_MAX:  # else the quick walk went wrong
            break
    return _Found(offset, length, count, broken)


def _walk_quickly(payloads: Sequence[bytes]) -> tuple[NDArray[np.int64], list[int], list[bytes]]:
    """Do what ``_walk_all`` does for frames that are whole and whose lengths all fit a byte.

    Looks at the lower byte of each length alone; the caller looks at all upper bytes at once.
    """
    parts: list[NDArray[np.int64]] = []
    within: list[int] = []  # what is not in the parts yet
    found: list[int] = []
    broken: list[bytes] = []
    for payload in payloads:
        size = len(payload)
        if size <= HEARTBEAT_BYTES_MAX:
            found.append(0)
            continue
        count = payload[0] << 8 | payload[1]
        if size > LONG_PACKETS_BYTES_MIN * count and count >= LONG_RUNS_PACKETS_MIN:
            runs = _runs(payload)
            if runs is not None and sum(map(len, runs)) == count:
                parts += [np.fromiter(within, np.int64, len(within)), *runs]
                within = []
                found.append(count)
                continue
        at = COUNT_BYTES + LENGTH_BYTES
        before = len(within)
        while at <= size:
            within.append(at)
            at += payload[at - 1] + LENGTH_BYTES
        if at != size + LENGTH_BYTES or len(within) - before != count:
            del within[before:]
            offsets, is_whole = _walk(payload)
            within += offsets
            if not is_whole:
                broken.append(payload)
        found.append(len(within) - before)
    parts.append(np.fromiter(within, np.int64, len(within)))
    return np.concatenate(parts), found, broken


def _runs(payload: bytes) -> list[NDArray[np.int64]] | None:
    """Return where packets begin, an array for each run of equal lengths; None if they do not fit.

    One step of the interpreter finds a run however long it is, and takes as long as some twenty
    packets one by one.
    """
    size = len(payload)
    at = COUNT_BYTES + LENGTH_BYTES
    runs: list[NDArray[np.int64]] = []
    while at <= size:
        step = payload[at - 1] + LENGTH_BYTES
        lengths = payload[at - 1 :: step]
        run = len(lengths) - len(lengths.lstrip(lengths[:1]))
        runs.append(np.arange(at, at + run * step, step))
        at += run * step
        if len(runs) > RUNS_MAX:
            return None
    return runs if at == size + LENGTH_BYTES else None


def _walk_all(payloads: Sequence[bytes]) -> tuple[NDArray[np.int64], list[int], list[bytes]]:
    """Return the packets' places in their frames, their number by frame, and the broken frames."""
    walks = [_walk(payload) for payload in payloads]
    within = [at for offsets, _ in walks for at in offsets]
    broken = [p for p, (_, is_whole) in zip(payloads, walks, strict=True) if not is_whole]
    return np.fromiter(within, np.int64, len(within)), [len(o) for o, _ in walks], broken


def _walk(payload: bytes) -> tuple[list[int], bool]:
    """Return where one frame's packets begin, and whether it is what it says.

    The count only ever ends the list early: the bytes themselves bound it.
    """
    size = len(payload)
    if size <= HEARTBEAT_BYTES_MAX:
        return [], True
    at = COUNT_BYTES
    offsets: list[int] = []
    while at + LENGTH_BYTES <= size:
        length = payload[at] << 8 | payload[at + 1]
        at += LENGTH_BYTES
        offsets.append(at)
        at += length
    if at > size:
        offsets.pop()
    count = payload[0] << 8 | payload[1]
    is_whole = at == size and len(offsets) == count
    del offsets[count:]
    return offsets, is_whole
