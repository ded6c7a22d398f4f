"""Turn raw frames into columns of ticks, many frames at once.

Path: feed -> [decode] -> validate -> batch -> price -> publish.
Pure. Source of the format: kite.md §1.4 to §1.7.

A packet's length alone tells its layout. Unpacking field by field costs a Python object per value,
and a numpy call per field or per layout costs more than the work in it. So the frames that wait
together are joined (``market.packets``), and every packet is read as the longest one, at its own
place: the shorter layouts of a tradable instrument are its beginnings, and what is read beyond a
packet's end is blanked. One gather and one transposition then make columns of native integers,
whatever the mix of modes, and each block of ``Ticks`` is filled in one go.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain.segment import PRICE_SCALES
from ticker_service.domain.tick import (
    COUNT_ROWS,
    DEPTH_LEVEL_DTYPE,
    DEPTH_LEVELS,
    FULL_PACKET,
    INDEX_FULL_PACKET,
    LTP_PACKET,
    MODE_BY_LENGTH,
    NOT_CARRIED,
    PRICE_ROWS,
    QUOTE_PACKET,
    Ticks,
)
from ticker_service.market import packets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.market.packets import Packets
    from ticker_service.ports import Frame

    Arrange = Callable[[NDArray[np.uint32]], tuple[NDArray[np.intp], NDArray[np.intp] | None]]

MALFORMED_FRAME: Final = "malformed_frame"
UNKNOWN_LENGTH: Final = "unknown_length"
EXAMPLE_BYTES_MAX: Final = 64
WORD_BYTES: Final = 4


def _bytes_before(layout: np.dtype[np.void], name: str) -> int:
    return layout.fields[name][1] if layout.fields else 0


def _words_of(layout: np.dtype[np.void], *names: str) -> list[int]:
    """Return where a packet holds some fields, in words of four bytes."""
    return [_bytes_before(layout, name) // WORD_BYTES for name in names]


def _depth_words(name: str) -> slice:
    """Return where a full packet holds a field of its ten levels, bids first."""
    (first,) = _words_of(FULL_PACKET, "bid")
    (within,) = _words_of(DEPTH_LEVEL_DTYPE, name)
    return slice(first + within, None, DEPTH_LEVEL_DTYPE.itemsize // WORD_BYTES)


# The rows of the blocks of ``Ticks`` as words of a full packet, and what of them is depth.
_PRICES: Final = np.array(
    _words_of(FULL_PACKET, "ltp", "average_price", "open", "high", "low", "close")
    + list(range(FULL_PACKET.itemsize // WORD_BYTES))[_depth_words("price")]
)
_COUNTS: Final = np.array(
    _words_of(FULL_PACKET, "last_quantity", "volume", "buy_quantity", "sell_quantity")
    + _words_of(FULL_PACKET, "oi", "oi_day_high", "oi_day_low")
)
_DEPTH: Final = tuple(_depth_words(name) for name in ("quantity", "price", "orders"))
_ORDERS_SHIFT: Final = 16
"""The number of orders is the upper half of its word; the lower half is padding."""
_STAMPS: Final = np.array(_words_of(FULL_PACKET, "exchange_ts", "last_trade_ts"))
_DEPTH_PRICES: Final = slice(PRICE_ROWS - 2 * DEPTH_LEVELS, PRICE_ROWS)
_DEPTH_QUANTITIES: Final = slice(COUNT_ROWS - 4 * DEPTH_LEVELS, COUNT_ROWS - 2 * DEPTH_LEVELS)
_DEPTH_ORDERS: Final = slice(COUNT_ROWS - 2 * DEPTH_LEVELS, COUNT_ROWS)

# What a packet shorter than a quote lacks, and what one shorter than a full packet lacks.
_QUOTE_COUNTS: Final = slice(0, 4)
_FULL_COUNTS: Final = slice(4, _DEPTH_QUANTITIES.start)
_QUOTE_WORDS: Final = QUOTE_PACKET.itemsize // WORD_BYTES
_LTP_WORDS: Final = LTP_PACKET.itemsize // WORD_BYTES

# An index packet has the day's prices, and the time, in places of its own (kite.md §1.5).
_INDEX_PRICES: Final = ("open", "high", "low", "close")
_WORDS_OF_INDEX: Final = np.array(_words_of(INDEX_FULL_PACKET, *_INDEX_PRICES, "exchange_ts"))
_WORDS_FOR_INDEX: Final = np.array(_words_of(FULL_PACKET, *_INDEX_PRICES, "exchange_ts"))

_LENGTH_KNOWN_MAX: Final = max(MODE_BY_LENGTH)


def _modes_by_length() -> NDArray[np.uint8]:
    modes = np.zeros(_LENGTH_KNOWN_MAX + 2, np.uint8)  # the last stands for all that are longer
    modes[list(MODE_BY_LENGTH)] = list(MODE_BY_LENGTH.values())
    modes.flags.writeable = False
    return modes


_MODES: Final = _modes_by_length()
"""Mode by packet length; 0 where there is no such packet."""

if ~NOT_CARRIED:  # pragma: no cover - the constant was edited
    raise AssertionError(f"Invariant: NOT_CARRIED={NOT_CARRIED} must have all bits set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Ticks in the order that was asked for, and what could not become one, by reason.

    ``rows`` is where each tick's instrument stands, if somebody who knows arranged them, shape
    ``(n,)``; ``examples`` has the first bytes of one frame or packet for each reason.
    """

    ticks: Ticks
    rows: NDArray[np.intp] | None
    packets: int
    rejected: Mapping[str, int]
    examples: Mapping[str, bytes]


def frames(waiting: Sequence[Frame], *, arrange: Arrange | None = None) -> Decoded:
    """Decode all frames that wait together.

    Args:
        waiting: Binary messages in order of arrival; heartbeats among them are passed over.
        arrange: Says from the tokens where each stands, and in which other order they are wanted,
            None for this one. The packets are gathered from all over the buffer in any case, so
            that here an order costs nothing.

    Returns:
        One row per readable packet, in order, and the count of the others by reason.
    """
    found = packets.find(waiting, padding_bytes=FULL_PACKET.itemsize)
    rejected: Counter[str] = Counter()
    examples: dict[str, bytes] = {}
    if found.broken_frames:
        rejected[MALFORMED_FRAME] = len(found.broken_frames)
        examples[MALFORMED_FRAME] = found.broken_frames[0][:EXAMPLE_BYTES_MAX]
    mode = _MODES[np.minimum(found.length, _LENGTH_KNOWN_MAX + 1)]
    known = found
    if not mode.all():
        is_known = mode != 0
        rejected[UNKNOWN_LENGTH] = len(found) - int(np.count_nonzero(is_known))
        examples[UNKNOWN_LENGTH] = found.head(int(np.argmin(is_known)), EXAMPLE_BYTES_MAX)
        known, mode = found.take(is_known), mode[is_known]
    rows, order = arrange(known.tokens()) if arrange else (None, None)
    if order is not None:
        known, mode = known.take(order), mode[order]
        rows = None if rows is None else rows[order]
    return Decoded(
        ticks=_ticks(known, mode),
        rows=rows,
        packets=len(found),
        rejected=rejected,
        examples=examples,
    )


def _ticks(found: Packets, mode: NDArray[np.uint8]) -> Ticks:
    rows = _as_full(found)
    is_lesser = found.length != FULL_PACKET.itemsize
    is_least = is_lesser & (found.length != QUOTE_PACKET.itemsize)
    if is_lesser.any():
        _blank(rows, np.flatnonzero(is_lesser), np.flatnonzero(is_least), found.length)
    words = rows.T.astype(np.int32, order="C")
    token = words[0].view(np.uint32).copy()  # a view would keep all the words
    return Ticks(
        instrument_token=token,
        mode=mode,
        received_at_ns=found.received_at_ns,
        stamps_ns=words[_STAMPS].view(np.uint32) * np.int64(NS_PER_S),
        prices=_rupees(words[_PRICES], PRICE_SCALES[token & 0xFF]),
        counts=_counts(words, is_lesser, is_least),
    )


def _as_full(found: Packets) -> NDArray[np.int32]:
    """Return every packet's words as if it were a full one, shape ``(n, 46)``, big-endian.

    The buffer is viewed as overlapping items of that size, one starting at every byte, so that a
    plain index copies whole packets at once.
    """
    size = FULL_PACKET.itemsize
    windows: NDArray[np.void] = np.ndarray(
        shape=(len(found.buffer) - size + 1,),
        dtype=f"V{size}",
        buffer=found.buffer,
        strides=(1,),
    )
    return windows[found.offset].view(">i4").reshape(len(found), size // WORD_BYTES)


def _blank(
    rows: NDArray[np.int32],
    lesser: NDArray[np.intp],
    least: NDArray[np.intp],
    length: NDArray[np.int64],
) -> None:
    """Make zero what lies beyond a packet's end, and put the prices of indices where all are.

    Zero is how Kite says "none yet"; quantities, where it is a number, are seen to later.
    """
    rows[lesser, _QUOTE_WORDS:] = 0
    indices = least[length[least] != LTP_PACKET.itemsize]
    if len(indices):
        facts = rows[indices[:, None], _WORDS_OF_INDEX]
        facts[length[indices] != INDEX_FULL_PACKET.itemsize, -1] = 0
    rows[least, _LTP_WORDS:] = 0
    if len(indices):
        rows[indices[:, None], _WORDS_FOR_INDEX] = facts


def _counts(
    words: NDArray[np.int32], is_lesser: NDArray[np.bool_], is_least: NDArray[np.bool_]
) -> NDArray[np.int64]:
    counts = np.empty((COUNT_ROWS, words.shape[1]), np.int64)
    # Seen as unsigned before they are widened: a quantity may use all 32 bits.
    quantity, price, orders = (words[column].view(np.uint32) for column in _DEPTH)
    counts[: _DEPTH_QUANTITIES.start] = words[_COUNTS].view(np.uint32)
    counts[_DEPTH_QUANTITIES] = quantity
    np.right_shift(orders, _ORDERS_SHIFT, out=counts[_DEPTH_ORDERS])
    # Kite fills absent levels with zeros, as we do. A level with a quantity and no price holds
    # market orders before the opening: it has no price either.
    absent = _all_bits_where((quantity | price) == 0)
    counts[_DEPTH_QUANTITIES] |= absent
    counts[_DEPTH_ORDERS] |= absent
    if is_lesser.any():
        counts[_FULL_COUNTS] |= _all_bits_where(is_lesser)
        counts[_QUOTE_COUNTS] |= _all_bits_where(is_least)
    return counts


def _rupees(raw: NDArray[np.int32], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale wire prices; zero is how Kite says "none yet" and becomes NaN.

    Division, not multiplication by a reciprocal: 2345.05 must come out as the nearest double.
    """
    rupees: NDArray[np.float64] = raw / scale
    rupees.view(np.int64)[:] |= _all_bits_where(raw == 0)
    return rupees


def _all_bits_where(is_absent: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return what makes a number "not carried" when it is or-ed to it, and else changes nothing.

    All bits set are -1 as an integer, which is ``NOT_CARRIED``, and NaN as a float. An "or" of
    whole columns is done sooner than an assignment to chosen places.
    """
    return -is_absent.astype(np.int64)
