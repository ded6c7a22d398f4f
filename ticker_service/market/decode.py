"""Turn raw frames into columns of ticks, many frames at once.

Path: feed -> [decode] -> validate -> batch -> price -> publish.
Pure. Source of the format: kite.md §1.4 to §1.7.

A frame is ``u16 count`` and then ``count`` packets of ``u16 length`` and ``length`` bytes; the
length alone tells the layout. Unpacking field by field costs a Python object per value, and one
numpy view per frame costs more than it saves at one packet a frame. So frames that wait together
are joined first, the packet offsets found in one walk, and each length class gathered with one
copy. What cannot be read is counted, never raised: a broken frame must not take its neighbours
along, and nothing is allocated by a number read from the wire.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain.segment import PRICE_SCALES
from ticker_service.domain.tick import (
    FULL_PACKET,
    MODE_BY_LENGTH,
    NOT_CARRIED,
    PACKET_LAYOUTS,
    Ticks,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.ports import Frame

COUNT_BYTES: Final = 2
LENGTH_BYTES: Final = 2
HEARTBEAT_BYTES_MAX: Final = 1
EXAMPLE_BYTES_MAX: Final = 64

MALFORMED_FRAME: Final = "malformed_frame"
UNKNOWN_LENGTH: Final = "unknown_length"

_QUANTITIES: Final = ("last_quantity", "volume", "buy_quantity", "sell_quantity")
_OPEN_INTERESTS: Final = ("oi", "oi_day_high", "oi_day_low")
_PRICES: Final = ("ltp", "average_price", "open", "high", "low", "close")
_TIMES: Final = ("exchange_ts", "last_trade_ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Ticks in order of arrival, and what could not become one, by reason.

    ``examples`` has the first bytes of one frame or packet for each reason.
    """

    ticks: Ticks
    packets: int
    rejected: Mapping[str, int]
    examples: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Packets:
    """Where each packet's body begins in the joined bytes, its length, and its receive time."""

    buffer: bytes
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    received_at_ns: NDArray[np.int64]

    def head(self, place: int) -> bytes:
        """Return the first bytes of one packet, its length before them."""
        start = int(self.offset[place]) - LENGTH_BYTES
        end = int(self.offset[place] + self.length[place])
        return self.buffer[start : min(end, start + EXAMPLE_BYTES_MAX)]


def frames(waiting: Sequence[Frame]) -> Decoded:
    """Decode all frames that wait together.

    Args:
        waiting: Binary messages in order of arrival; heartbeats among them are passed over.

    Returns:
        One row per readable packet, in order, and the count of the others by reason.
    """
    rejected: Counter[str] = Counter()
    examples: dict[str, bytes] = {}
    packets = _find_packets(waiting, rejected, examples)
    known = np.isin(packets.length, _LENGTHS)
    if not known.all():
        rejected[UNKNOWN_LENGTH] = int(len(known) - np.count_nonzero(known))
        examples[UNKNOWN_LENGTH] = packets.head(int(np.argmin(known)))
    rows = np.cumsum(known) - 1
    ticks = Ticks.empty(int(np.count_nonzero(known)))
    for length in np.unique(packets.length[known]).tolist():
        chosen = np.flatnonzero(packets.length == length)
        body = _gather(packets.buffer, packets.offset[chosen], length)
        _fill(ticks, rows[chosen], body, MODE_BY_LENGTH[length])
    ticks.received_at_ns[:] = packets.received_at_ns[known]
    return Decoded(ticks=ticks, packets=len(packets.length), rejected=rejected, examples=examples)


_LENGTHS: Final = np.array(sorted(PACKET_LAYOUTS))


def _find_packets(
    waiting: Sequence[Frame], rejected: Counter[str], examples: dict[str, bytes]
) -> _Packets:
    """Walk every frame's lengths once; a frame that contradicts itself yields what came before."""
    bodies: list[bytes] = []
    offsets: list[int] = []
    lengths: list[int] = []
    times: list[int] = []
    counts: list[int] = []
    base = 0
    for frame in waiting:
        payload = frame.payload
        size = len(payload)
        if size <= HEARTBEAT_BYTES_MAX:
            continue
        declared = payload[0] << 8 | payload[1]
        at = COUNT_BYTES
        found = 0
        # The count only ever ends the walk early: the bytes themselves bound it.
        while found < declared and at + LENGTH_BYTES <= size:
            length = payload[at] << 8 | payload[at + 1]
            at += LENGTH_BYTES
            if at + length > size:
                break
            offsets.append(base + at)
            lengths.append(length)
            at += length
            found += 1
        if found != declared or at != size:
            rejected[MALFORMED_FRAME] += 1
            examples.setdefault(MALFORMED_FRAME, bytes(payload[:EXAMPLE_BYTES_MAX]))
        bodies.append(payload)
        times.append(frame.received_at_ns)
        counts.append(found)
        base += size
    return _Packets(
        buffer=b"".join(bodies),
        offset=np.array(offsets, np.int64),
        length=np.array(lengths, np.int64),
        received_at_ns=np.repeat(np.array(times, np.int64), counts),
    )


def _gather(buffer: bytes, offset: NDArray[np.int64], length: int) -> NDArray[np.void]:
    """Copy equal-length packets from anywhere in the buffer into one structured array.

    The buffer is viewed as overlapping items of ``length`` bytes, one starting at every byte, so
    that a plain index copies whole packets at once.
    """
    windows: NDArray[np.void] = np.ndarray(
        shape=(len(buffer) - length + 1,), dtype=f"V{length}", buffer=buffer, strides=(1,)
    )
    return windows[offset].view(PACKET_LAYOUTS[length])


def _fill(ticks: Ticks, rows: NDArray[np.intp], body: NDArray[np.void], mode: int) -> None:
    """Write one length class into its rows; what the layout lacks stays "not carried"."""
    names = body.dtype.names or ()
    token = body["instrument_token"].astype(np.uint32)
    scale = PRICE_SCALES[token & 0xFF]
    ticks.instrument_token[rows] = token
    ticks.mode[rows] = mode
    for name in _PRICES:
        if name in names:
            getattr(ticks, name)[rows] = _rupees(body[name], scale)
    for name in (*_QUANTITIES, *_OPEN_INTERESTS):
        if name in names:
            getattr(ticks, name)[rows] = body[name]
    for name in _TIMES:
        if name in names:
            getattr(ticks, f"{name}_ns")[rows] = body[name].astype(np.int64) * NS_PER_S
    if body.dtype == FULL_PACKET:
        _fill_side(ticks.bid_price, ticks.bid_quantity, ticks.bid_orders, rows, body["bid"], scale)
        _fill_side(ticks.ask_price, ticks.ask_quantity, ticks.ask_orders, rows, body["ask"], scale)


def _rupees(raw: NDArray[Any], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale wire prices; zero is how Kite says "none yet" and becomes NaN.

    Division, not multiplication by a reciprocal: 2345.05 must come out as the nearest double.
    """
    return np.where(raw == 0, np.nan, raw / scale)


def _fill_side(
    price: NDArray[np.float64],
    quantity: NDArray[np.int64],
    orders: NDArray[np.int64],
    rows: NDArray[np.intp],
    levels: NDArray[Any],
    scale: NDArray[np.float64],
) -> None:
    """Write one side of the depth.

    Kite fills absent levels with zeros. A level with a quantity and no price holds market orders
    before the opening: it has no price either.
    """
    levels = levels.T  # (n, 5) as packed -> (5, n) as columns
    is_empty = (levels["quantity"] == 0) & (levels["price"] == 0)
    price[:, rows] = _rupees(levels["price"], scale)
    # Signed first: among unsigned numbers -1 would silently become 4,294,967,295.
    quantity[:, rows] = np.where(is_empty, NOT_CARRIED, levels["quantity"].astype(np.int64))
    orders[:, rows] = np.where(is_empty, NOT_CARRIED, levels["orders"].astype(np.int64))
