"""Packets against Kite's layouts, read with ``struct`` as an outsider would."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ticker_service.constants import NS_PER_S
from ticker_service.domain.tick import Mode
from ticker_service.simulator.packets import PACKETS_PER_FRAME_MAX, UNCHANGED

if TYPE_CHECKING:
    from ticker_service.simulator.market import Market


def _packets(market: Market, rows: list[int], mode: Mode) -> list[bytes]:
    frames = market.packets.frames(np.array(rows), np.full(len(rows), mode, np.uint8))
    return [packet for frame in frames for packet in _split(frame)]


def _split(frame: bytes) -> list[bytes]:
    (count,) = struct.unpack_from(">H", frame)
    packets, at = [], 2
    for _ in range(count):
        (length,) = struct.unpack_from(">H", frame, at)
        packets.append(frame[at + 2 : at + 2 + length])
        at += 2 + length
    assert at == len(frame)
    return packets


def _row(market: Market, key: str) -> int:
    row = market.catalogue.row_of(key)
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("mode", "index_bytes", "tradable_bytes"),
    [(Mode.LTP, 8, 8), (Mode.QUOTE, 28, 44), (Mode.FULL, 32, 184)],
)
def test_packet_lengths_tell_mode_and_kind(
    market: Market, mode: Mode, index_bytes: int, tradable_bytes: int
) -> None:
    rows = [_row(market, "NSE:NIFTY 50"), _row(market, "NSE:RELIANCE")]

    assert [len(each) for each in _packets(market, rows, mode)] == [index_bytes, tradable_bytes]


def test_an_index_packet_states_high_low_open_close_then_signed_change(market: Market) -> None:
    row = _row(market, "NSE:NIFTY 50")
    board = market.board

    (packet,) = _packets(market, [row], Mode.FULL)

    assert struct.unpack(">IiiiiiiI", packet) == (
        256265,
        board.ltp_raw[row],
        board.high_raw[row],
        board.low_raw[row],
        board.open_raw[row],
        board.close_raw[row],
        board.ltp_raw[row] - board.close_raw[row],
        board.exchange_s[row],
    )


def test_a_full_packet_states_every_field_in_kites_order(market: Market) -> None:
    row = _row(market, "NSE:RELIANCE")
    board = market.board

    (packet,) = _packets(market, [row], Mode.FULL)

    assert struct.unpack(">16I", packet[:64]) == (
        738561,
        board.ltp_raw[row],
        board.last_quantity[row],
        board.average_raw(np.array([row]))[0],
        board.volume[row],
        board.buy_quantity[row],
        board.sell_quantity[row],
        board.open_raw[row],
        board.high_raw[row],
        board.low_raw[row],
        board.close_raw[row],
        board.last_trade_s[row],
        board.oi[row],
        board.oi_day_high[row],
        board.oi_day_low[row],
        board.exchange_s[row],
    )
    sides = [
        (board.bid_quantity, board.bid_raw, board.bid_orders),
        (board.ask_quantity, board.ask_raw, board.ask_orders),
    ]
    wanted = [
        (quantity[row, level], price[row, level], orders[row, level], 0)
        for quantity, price, orders in sides
        for level in range(5)
    ]
    assert list(struct.iter_unpack(">IIHH", packet[64:])) == wanted


@pytest.mark.parametrize("mode", [Mode.LTP, Mode.QUOTE])
def test_shorter_modes_are_prefixes_of_the_full_packet(market: Market, mode: Mode) -> None:
    rows = list(range(len(market.catalogue)))

    for short, full in zip(
        _packets(market, rows, mode), _packets(market, rows, Mode.FULL), strict=True
    ):
        assert full.startswith(short)


@pytest.mark.parametrize(
    ("key", "segment", "scale"),
    [
        ("NSE:RELIANCE", 1, 100),
        ("BSE:SENSEX", 9, 100),
        ("CDS:USDINR26NOVFUT", 3, 10_000_000),
        ("NCO:NATURALGAS26NOVFUT", 12, 10_000),
    ],
)
def test_each_segment_has_its_price_scale(
    market: Market, key: str, segment: int, scale: int
) -> None:
    row = _row(market, key)

    (packet,) = _packets(market, [row], Mode.LTP)

    token, raw = struct.unpack(">II", packet)
    assert token & 0xFF == segment
    assert raw / scale == pytest.approx(float(market.last_price_inr[row]))


def test_long_lists_are_split_over_several_frames_without_loss(market: Market) -> None:
    rows = np.arange(len(market.catalogue))
    mode = np.full(len(rows), Mode.QUOTE, np.uint8)

    frames = list(market.packets.frames(rows, mode))

    counts = [struct.unpack_from(">H", frame)[0] for frame in frames]
    assert max(counts) == PACKETS_PER_FRAME_MAX
    tokens = [struct.unpack_from(">I", each)[0] for frame in frames for each in _split(frame)]
    assert sorted(tokens) == sorted(market.catalogue.instrument_token.tolist())


def test_one_frame_mixes_modes_and_kinds(market: Market) -> None:
    rows = np.array([0, 1, _row(market, "NSE:RELIANCE"), _row(market, "NSE:M&M")])
    mode = np.array([Mode.FULL, Mode.LTP, Mode.QUOTE, Mode.FULL], np.uint8)

    (frame,) = market.packets.frames(rows, mode)

    assert sorted(len(each) for each in _split(frame)) == [8, 32, 44, 184]


def test_a_change_counts_from_the_least_mode_that_shows_it(market: Market, now_ns: int) -> None:
    board, rows = market.board, np.array([_row(market, "NSE:RELIANCE")])

    assert market.packets.encode(board, rows).tolist() == [UNCHANGED]
    board.bid_quantity[rows, 4] += 1
    assert market.packets.encode(board, rows).tolist() == [Mode.FULL]
    board.volume[rows] += 1
    board.exchange_s[rows] = now_ns // NS_PER_S + 1
    assert market.packets.encode(board, rows).tolist() == [Mode.QUOTE]
    board.ltp_raw[rows] += 5
    assert market.packets.encode(board, rows).tolist() == [Mode.LTP]
