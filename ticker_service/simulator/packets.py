"""Encode the board as Kite's packets, once per change, whatever the number of readers.

Each mode has a table of packets with their 2-byte lengths in front, so the body of a frame is a
gather of rows. The shorter packets of a tradable instrument are prefixes of its full packet, and
those of an index likewise. Layouts: ``domain.tick``; container: kite.md §1.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain.tick import (
    FULL_PACKET,
    INDEX_FULL_PACKET,
    INDEX_QUOTE_PACKET,
    LTP_PACKET,
    QUOTE_PACKET,
    Mode,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ticker_service.simulator.board import Board

LENGTH_BYTES: Final = 2
PACKETS_PER_FRAME_MAX: Final = 500
"""A full frame then stays under 100 kB, well below the message limits of common clients."""
UNCHANGED: Final = np.uint8(max(Mode) + 1)


class PacketTables:
    """The latest packet of every instrument in every mode."""

    def __init__(self, instrument_token: NDArray[np.uint32], *, index_count: int) -> None:
        self._index_count = index_count
        rows = len(instrument_token)
        self._full = np.zeros(rows, _framed(FULL_PACKET))
        self._index_full = np.zeros(index_count, _framed(INDEX_FULL_PACKET))
        self._full["packet"]["instrument_token"] = instrument_token
        self._index_full["packet"]["instrument_token"] = instrument_token[:index_count]
        self._tradable = {
            Mode.LTP: _table(rows, LTP_PACKET.itemsize),
            Mode.QUOTE: _table(rows, QUOTE_PACKET.itemsize),
            Mode.FULL: _bytes_of(self._full, FULL_PACKET.itemsize),
        }
        self._index = {
            Mode.LTP: _table(index_count, LTP_PACKET.itemsize),
            Mode.QUOTE: _table(index_count, INDEX_QUOTE_PACKET.itemsize),
            Mode.FULL: _bytes_of(self._index_full, INDEX_FULL_PACKET.itemsize),
        }

    def encode(self, board: Board, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Take over the board's state of ``rows``, which ascend.

        Returns:
            The least mode in which each row's packet changed, shape ``(n,)``; ``UNCHANGED`` if
            none did. Kite sends a packet when the subscribed mode's content changed.
        """
        split = int(np.searchsorted(rows, self._index_count))
        index_rows, tradable_rows = rows[:split], rows[split:]
        return np.concatenate(
            [
                _refresh(self._index, index_rows, self._encode_index(board, index_rows)),
                _refresh(self._tradable, tradable_rows, self._encode_full(board, tradable_rows)),
            ]
        )

    def frames(self, rows: NDArray[np.intp], mode: NDArray[np.uint8]) -> Iterator[bytes]:
        """Yield containers with the latest packet of each row in its mode.

        Args:
            rows: Rows to send, ascending, shape ``(n,)``.
            mode: Their modes, shape ``(n,)``.
        """
        for start in range(0, len(rows), PACKETS_PER_FRAME_MAX):
            part = slice(start, start + PACKETS_PER_FRAME_MAX)
            yield self._frame(rows[part], mode[part])

    def latest(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return the latest full packets, shape ``(n, 184)``, those of indices padded.

        Those of the lesser modes are their first :meth:`lengths` bytes.
        """
        packets = np.zeros((len(rows), FULL_PACKET.itemsize), np.uint8)
        is_index = rows < self._index_count
        of_index = self._index[Mode.FULL][rows[is_index], LENGTH_BYTES:]
        packets[is_index, : of_index.shape[1]] = of_index
        packets[~is_index] = self._tradable[Mode.FULL][rows[~is_index], LENGTH_BYTES:]
        return packets

    def lengths(self, rows: NDArray[np.intp], mode: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Return the length in bytes of each row's packet in its mode, shape ``(n,)``."""
        lengths = np.zeros(len(rows), np.intp)
        is_index = rows < self._index_count
        for each in Mode:
            for tables, members in ((self._index, is_index), (self._tradable, ~is_index)):
                lengths[members & (mode == each)] = tables[each].shape[1] - LENGTH_BYTES
        return lengths

    def _frame(self, rows: NDArray[np.intp], mode: NDArray[np.uint8]) -> bytes:
        is_index = rows < self._index_count
        pieces = [len(rows).to_bytes(LENGTH_BYTES, "big")]
        for each in Mode:
            chosen = mode == each
            for table, members in ((self._index, is_index), (self._tradable, ~is_index)):
                picked = rows[chosen & members]
                if len(picked):
                    pieces.append(table[each][picked].tobytes())
        return b"".join(pieces)

    def _encode_index(self, board: Board, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        packets = self._index_full[rows]
        packet = packets["packet"]
        packet["ltp"] = board.ltp_raw[rows]
        packet["high"] = board.high_raw[rows]
        packet["low"] = board.low_raw[rows]
        packet["open"] = board.open_raw[rows]
        packet["close"] = board.close_raw[rows]
        packet["price_change"] = board.ltp_raw[rows] - board.close_raw[rows]
        packet["exchange_ts"] = board.exchange_s[rows]
        return _bytes_of(packets, INDEX_FULL_PACKET.itemsize)

    def _encode_full(self, board: Board, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        packets = self._full[rows]
        packet = packets["packet"]
        packet["ltp"] = board.ltp_raw[rows]
        packet["last_quantity"] = board.last_quantity[rows]
        packet["average_price"] = board.average_raw(rows)
        packet["volume"] = board.volume[rows]
        packet["buy_quantity"] = board.buy_quantity[rows]
        packet["sell_quantity"] = board.sell_quantity[rows]
        packet["open"] = board.open_raw[rows]
        packet["high"] = board.high_raw[rows]
        packet["low"] = board.low_raw[rows]
        packet["close"] = board.close_raw[rows]
        packet["last_trade_ts"] = board.last_trade_s[rows]
        packet["oi"] = board.oi[rows]
        packet["oi_day_high"] = board.oi_day_high[rows]
        packet["oi_day_low"] = board.oi_day_low[rows]
        packet["exchange_ts"] = board.exchange_s[rows]
        packet["bid"]["price"] = board.bid_raw[rows]
        packet["bid"]["quantity"] = board.bid_quantity[rows]
        packet["bid"]["orders"] = board.bid_orders[rows]
        packet["ask"]["price"] = board.ask_raw[rows]
        packet["ask"]["quantity"] = board.ask_quantity[rows]
        packet["ask"]["orders"] = board.ask_orders[rows]
        return _bytes_of(packets, FULL_PACKET.itemsize)


def _framed(layout: np.dtype[np.void]) -> np.dtype[np.void]:
    return np.dtype([("length", ">u2"), ("packet", layout)])


def _table(rows: int, packet_bytes: int) -> NDArray[np.uint8]:
    table = np.zeros((rows, LENGTH_BYTES + packet_bytes), np.uint8)
    table[:, :LENGTH_BYTES] = tuple(packet_bytes.to_bytes(LENGTH_BYTES, "big"))
    return table


def _bytes_of(packets: NDArray[np.void], packet_bytes: int) -> NDArray[np.uint8]:
    packets["length"] = packet_bytes
    return packets.view(np.uint8).reshape(len(packets), LENGTH_BYTES + packet_bytes)


def _refresh(
    tables: dict[Mode, NDArray[np.uint8]], rows: NDArray[np.intp], latest: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    changed = tables[Mode.FULL][rows] != latest
    least = np.full(len(rows), UNCHANGED, np.uint8)
    for mode in sorted(Mode, reverse=True):
        table = tables[mode]
        width = table.shape[1]
        table[rows, LENGTH_BYTES:] = latest[:, LENGTH_BYTES:width]
        least[changed[:, LENGTH_BYTES:width].any(axis=1)] = mode
    return least
