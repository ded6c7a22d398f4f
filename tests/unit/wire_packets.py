"""Kite's packets packed by hand with ``struct``, so that the dtypes under test are not their own
witnesses. Prices are raw wire integers; depth levels are ``(quantity, price, orders)``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ticker_service.ports import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

Level = tuple[int, int, int]


def ltp_packet(token: int, ltp: int) -> bytes:
    return struct.pack(">Ii", token, ltp)


def index_quote_packet(token: int, ltp: int, hloc: Sequence[int], change: int = 0) -> bytes:
    return struct.pack(">I6i", token, ltp, *hloc, change)


def index_full_packet(
    token: int, ltp: int, hloc: Sequence[int], exchange_ts: int, change: int = 0
) -> bytes:
    return struct.pack(">I6iI", token, ltp, *hloc, change, exchange_ts)


def quote_packet(
    token: int,
    ltp: int,
    *,
    last_quantity: int = 0,
    average_price: int = 0,
    volume: int = 0,
    buy_quantity: int = 0,
    sell_quantity: int = 0,
    ohlc: Sequence[int] = (0, 0, 0, 0),
) -> bytes:
    return struct.pack(
        ">IiIiIII4i",
        token,
        ltp,
        last_quantity,
        average_price,
        volume,
        buy_quantity,
        sell_quantity,
        *ohlc,
    )


def full_packet(
    token: int,
    ltp: int,
    *,
    times: tuple[int, int] = (0, 0),
    interest: tuple[int, int, int] = (0, 0, 0),
    bids: Sequence[Level] = (),
    asks: Sequence[Level] = (),
    **quote: int | Sequence[int],
) -> bytes:
    """``times`` are (last trade, exchange) and ``interest`` (oi, its high, its low)."""
    trade_ts, exchange_ts = times
    tail = struct.pack(">IIIII", trade_ts, *interest, exchange_ts)
    return quote_packet(token, ltp, **quote) + tail + _side(bids) + _side(asks)  # type: ignore[arg-type]


def _side(levels: Sequence[Level]) -> bytes:
    padded = [*levels, *[(0, 0, 0)] * (5 - len(levels))]
    return b"".join(struct.pack(">IiHxx", *level) for level in padded)


def payload_of(*packets: bytes) -> bytes:
    body = b"".join(struct.pack(">H", len(packet)) + packet for packet in packets)
    return struct.pack(">H", len(packets)) + body


def frame_of(*packets: bytes, at_ns: int = 1) -> Frame:
    return Frame(at_ns, payload_of(*packets))
