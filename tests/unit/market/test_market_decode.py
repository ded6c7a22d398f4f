"""Frames become columns; what cannot be read is counted and never takes its neighbours along."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_packets import (
    frame_of,
    full_packet,
    index_full_packet,
    index_quote_packet,
    ltp_packet,
    payload_of,
    quote_packet,
)

from ticker_service.domain.segment import Segment
from ticker_service.domain.tick import NOT_CARRIED, TICK_COLUMNS, Mode, Ticks
from ticker_service.market import decode
from ticker_service.ports import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

NIFTY = 1_001 << 8 | Segment.INDICES
SBIN = 3_045 << 8 | Segment.NSE
USDINR = 77 << 8 | Segment.CDS
BSE_USDINR = 78 << 8 | Segment.BCD
COTTON = 79 << 8 | Segment.NCO
SCALES = {SBIN: 100, USDINR: 10_000_000, COTTON: 10_000}

FULL = full_packet(
    SBIN,
    81_235,
    last_quantity=25,
    average_price=81_100,
    volume=4_000_000_000,
    buy_quantity=1_111,
    sell_quantity=2_222,
    ohlc=(80_000, 82_000, 79_500, 80_500),
    times=(1_763_615_400, 1_763_615_460),
    interest=(500, 600, 400),
    bids=[(10, 81_230, 1), (20, 81_225, 2), (30, 81_220, 3), (40, 81_215, 4), (50, 81_210, 5)],
    asks=[(11, 81_240, 6), (21, 81_245, 7), (31, 81_250, 8), (41, 81_255, 9), (51, 81_260, 10)],
)


def ticks_of(*packets: bytes) -> Ticks:
    return decode.frames([frame_of(*packets)]).ticks


def only_row(packet: bytes) -> dict[str, Any]:
    ticks = ticks_of(packet)
    assert len(ticks) == 1
    return {name: getattr(ticks, name)[..., 0].tolist() for name in TICK_COLUMNS}


def assert_same(left: Ticks, right: Ticks) -> None:
    for name in TICK_COLUMNS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def test_an_ltp_packet_carries_a_price_and_nothing_else() -> None:
    row = only_row(ltp_packet(SBIN, 81_235))
    blank = {n: getattr(Ticks.empty(1), n)[..., 0].tolist() for n in TICK_COLUMNS}
    blank |= {"instrument_token": SBIN, "ltp": 812.35, "mode": 1, "received_at_ns": 1}
    assert str(row) == str(blank)  # as text, because NaN is unequal to itself


def test_an_index_states_high_low_open_close_in_this_order() -> None:
    row = only_row(
        index_quote_packet(NIFTY, 2_400_000, (2_410_000, 2_390_000, 2_395_000, 2_394_000))
    )
    prices = row["high"], row["low"], row["open"], row["close"]
    assert prices == (24_100.0, 23_900.0, 23_950.0, 23_940.0)


def test_a_tradable_instrument_states_open_high_low_close_in_this_order() -> None:
    row = only_row(quote_packet(SBIN, 81_235, ohlc=(80_000, 82_000, 79_500, 80_500)))
    prices = row["open"], row["high"], row["low"], row["close"]
    assert prices == (800.0, 820.0, 795.0, 805.0)


def test_a_full_index_packet_carries_the_exchange_s_time() -> None:
    row = only_row(index_full_packet(NIFTY, 2_400_000, (0, 0, 0, 0), 1_763_615_460))
    assert (row["exchange_ts_ns"], row["mode"]) == (1_763_615_460 * 10**9, Mode.FULL)


def test_a_falling_index_is_no_obstacle_to_its_packet() -> None:
    row = only_row(index_quote_packet(NIFTY, 2_400_000, (1, 1, 1, 1), change=-12_345))
    assert row["ltp"] == 24_000.0


def test_a_quote_carries_its_quantities_and_no_time() -> None:
    packet = quote_packet(
        SBIN,
        81_235,
        last_quantity=7,
        average_price=81_000,
        volume=9,
        buy_quantity=3,
        sell_quantity=4,
    )
    row = only_row(packet)
    quantities = [row[n] for n in ("last_quantity", "volume", "buy_quantity", "sell_quantity")]
    assert quantities == [7, 9, 3, 4]
    assert (row["average_price"], row["exchange_ts_ns"], row["oi"]) == (810.0, 0, NOT_CARRIED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ltp", 812.35),
        ("average_price", 811.0),
        ("last_quantity", 25),
        ("volume", 4_000_000_000),
        ("buy_quantity", 1_111),
        ("sell_quantity", 2_222),
        ("open", 800.0),
        ("high", 820.0),
        ("low", 795.0),
        ("close", 805.0),
        ("last_trade_ts_ns", 1_763_615_400 * 10**9),
        ("exchange_ts_ns", 1_763_615_460 * 10**9),
        ("oi", 500),
        ("oi_day_high", 600),
        ("oi_day_low", 400),
        ("bid_price", [812.3, 812.25, 812.2, 812.15, 812.1]),
        ("bid_quantity", [10, 20, 30, 40, 50]),
        ("bid_orders", [1, 2, 3, 4, 5]),
        ("ask_price", [812.4, 812.45, 812.5, 812.55, 812.6]),
        ("ask_quantity", [11, 21, 31, 41, 51]),
        ("ask_orders", [6, 7, 8, 9, 10]),
        ("mode", Mode.FULL),
    ],
)
def test_a_full_packet_fills_every_column(name: str, value: object) -> None:
    assert only_row(FULL)[name] == value


@pytest.mark.parametrize(
    ("token", "raw", "rupees"),
    [
        (SBIN, 81_235, 812.35),
        (USDINR, 844_725_000, 84.4725),
        (BSE_USDINR, 844_725, 84.4725),
        (COTTON, 3_782_000, 378.2),
        (99 << 8 | 200, 81_235, 812.35),
    ],
)
def test_a_price_is_scaled_by_its_segment_to_the_nearest_double(
    token: int, raw: int, rupees: float
) -> None:
    assert only_row(ltp_packet(token, raw))["ltp"] == rupees


def test_segments_may_be_mixed_within_one_frame() -> None:
    ticks = ticks_of(
        ltp_packet(USDINR, 844_725_000), ltp_packet(SBIN, 100), ltp_packet(COTTON, 10_000)
    )
    assert ticks.ltp.tolist() == [84.4725, 1.0, 1.0]


def test_a_price_below_zero_is_read_as_such() -> None:
    assert only_row(ltp_packet(SBIN, -3_763))["ltp"] == -37.63


@pytest.mark.parametrize("name", ["ltp", "average_price", "open", "high", "low", "close"])
def test_a_price_of_zero_is_none_yet_and_not_a_price(name: str) -> None:
    assert np.isnan(only_row(quote_packet(SBIN, 0))[name])


def test_levels_filled_with_zeros_are_missing_and_not_free_of_charge() -> None:
    row = only_row(full_packet(SBIN, 100, bids=[(10, 99, 1)]))
    assert np.isnan(row["bid_price"][1:]).all()
    assert np.isnan(row["ask_price"]).all()
    assert row["bid_quantity"] == [10, *[NOT_CARRIED] * 4]
    assert row["ask_orders"] == [NOT_CARRIED] * 5


def test_no_time_on_the_wire_is_no_time_and_not_1970() -> None:
    row = only_row(full_packet(SBIN, 100))
    assert (row["exchange_ts_ns"], row["last_trade_ts_ns"]) == (0, 0)


def test_the_largest_numbers_of_the_wire_do_not_overflow() -> None:
    top = 2**32 - 1
    row = only_row(
        full_packet(SBIN, 2**31 - 1, volume=top, times=(top, top), interest=(top, top, top))
    )
    assert (row["volume"], row["oi"], row["exchange_ts_ns"]) == (top, top, top * 10**9)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\xff"])
def test_a_heartbeat_is_no_packet_and_no_fault(payload: bytes) -> None:
    decoded = decode.frames([Frame(1, payload)])
    assert (decoded.packets, len(decoded.ticks), dict(decoded.rejected)) == (0, 0, {})


def test_nothing_decodes_to_nothing() -> None:
    assert len(decode.frames([]).ticks) == 0


def test_an_empty_container_is_no_fault() -> None:
    assert dict(decode.frames([Frame(1, b"\x00\x00")]).rejected) == {}


def test_a_heartbeat_between_two_frames_does_not_disturb_them() -> None:
    frames = [frame_of(ltp_packet(SBIN, 100)), Frame(2, b"\x00"), frame_of(ltp_packet(NIFTY, 200))]
    assert decode.frames(frames).ticks.ltp.tolist() == [1.0, 2.0]


def test_every_row_has_the_time_its_own_frame_was_received() -> None:
    one, two = ltp_packet(SBIN, 100), ltp_packet(NIFTY, 200)
    frames = [frame_of(one, two, at_ns=10), Frame(15, b"\x00"), frame_of(one, at_ns=20)]
    assert decode.frames(frames).ticks.received_at_ns.tolist() == [10, 10, 20]


def test_packets_of_all_lengths_keep_their_order_of_arrival() -> None:
    packets = [
        full_packet(SBIN, 100),
        ltp_packet(SBIN, 200),
        index_full_packet(NIFTY, 300, (1, 1, 1, 1), 5),
        quote_packet(SBIN, 400),
        index_quote_packet(NIFTY, 500, (1, 1, 1, 1)),
        full_packet(SBIN, 600),
    ]
    assert ticks_of(*packets).ltp.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("length", [0, 1, 7, 9, 43, 45, 183, 185, 500])
def test_a_packet_of_unknown_length_is_counted_and_its_neighbours_survive(length: int) -> None:
    packets = (ltp_packet(SBIN, 100), b"\x7f" * length, ltp_packet(SBIN, 200))
    decoded = decode.frames([frame_of(*packets)])
    assert decoded.ticks.ltp.tolist() == [1.0, 2.0]
    assert (decoded.packets, dict(decoded.rejected)) == (3, {"unknown_length": 1})


@pytest.mark.parametrize("cut", [1, 5, 8, 9])
def test_a_truncated_packet_is_counted_and_its_neighbours_survive(cut: int) -> None:
    broken = payload_of(ltp_packet(SBIN, 100), ltp_packet(SBIN, 200))[:-cut]
    decoded = decode.frames([Frame(1, broken), frame_of(ltp_packet(SBIN, 300))])
    assert decoded.ticks.ltp.tolist() == [1.0, 3.0]
    assert dict(decoded.rejected) == {"malformed_frame": 1}


@pytest.mark.parametrize("declared", [0, 1, 3, 0xFFFF])
def test_a_lying_count_is_counted_and_what_can_be_read_is_kept(declared: int) -> None:
    payload = (
        struct.pack(">H", declared) + payload_of(ltp_packet(SBIN, 100), ltp_packet(SBIN, 200))[2:]
    )
    decoded = decode.frames([Frame(1, payload)])
    assert len(decoded.ticks) == min(declared, 2)
    assert dict(decoded.rejected) == {"malformed_frame": 1}


def test_a_length_beyond_the_frame_ends_the_frame_and_reads_nothing_of_the_next() -> None:
    lying = struct.pack(">HH", 1, 184) + ltp_packet(SBIN, 100)
    decoded = decode.frames([Frame(1, lying), Frame(2, payload_of(full_packet(SBIN, 200)))])
    assert decoded.ticks.ltp.tolist() == [2.0]


def test_memory_is_not_allocated_by_a_number_read_from_the_wire() -> None:
    lying = [Frame(1, struct.pack(">HH", 0xFFFF, 0xFFFF))] * 100
    tracemalloc.start()
    decode.frames(lying)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def many(rng: np.random.Generator, kinds: list[bytes], shares: list[float]) -> list[bytes]:
    """Return a hundred packets of random kinds, each with a price of its own."""
    chosen = [kinds[kind] for kind in rng.choice(len(kinds), 100, p=shares)]
    prices = (struct.pack(">i", 100 * number + 100) for number in range(100))
    return [packet[:4] + price + packet[8:] for packet, price in zip(chosen, prices, strict=True)]


KINDS = [FULL, quote_packet(SBIN, 1), ltp_packet(SBIN, 1), index_full_packet(NIFTY, 1, (1,) * 4, 5)]


@pytest.mark.parametrize("shares", [[0.97, 0.01, 0.01, 0.01], [0.3, 0.3, 0.3, 0.1], [1, 0, 0, 0]])
def test_packets_are_the_same_in_large_frames_and_in_frames_of_their_own(
    shares: list[float],
) -> None:
    packets = many(np.random.default_rng(7), KINDS, shares)
    alone = decode.frames([frame_of(packet) for packet in packets]).ticks
    halves = [frame_of(*packets[:50]), Frame(1, b"\x00"), Frame(1, b""), frame_of(*packets[50:])]
    together = decode.frames(halves)
    assert_same(alone, together.ticks)
    assert alone.ltp.tolist() == [float(number) for number in range(1, 101)]
    assert dict(together.rejected) == {}


def test_a_length_beyond_a_byte_does_not_disturb_the_packets_of_a_large_frame() -> None:
    packets = many(np.random.default_rng(7), KINDS, [0.97, 0.01, 0.01, 0.01])
    strange = b"\x00\xb8" * 200
    decoded = decode.frames([frame_of(*packets[:50], strange, *packets[50:])] * 2)
    assert decoded.ticks.ltp.tolist() == [float(number) for number in range(1, 101)] * 2
    assert dict(decoded.rejected) == {"unknown_length": 2}


@pytest.mark.parametrize("shares", [[0.97, 0.01, 0.01, 0.01], [0.3, 0.3, 0.3, 0.1]])
def test_a_large_frame_that_is_cut_short_keeps_what_is_whole(shares: list[float]) -> None:
    packets = many(np.random.default_rng(7), KINDS, shares)
    whole, cut = payload_of(*packets), payload_of(*packets)[:-5]
    decoded = decode.frames([Frame(1, cut), Frame(2, whole), Frame(3, cut + b"\x00" * 9)])
    prices = [float(number) for number in range(1, 101)]
    assert decoded.ticks.ltp[:99].tolist() == prices[:99]
    assert decoded.ticks.ltp[99:199].tolist() == prices
    assert decoded.rejected["malformed_frame"] == 2


@pytest.mark.parametrize("packet", KINDS[1:])
def test_nothing_is_read_beyond_the_end_of_a_packet(packet: bytes) -> None:
    followed = decode.frames([frame_of(packet, b"\xff" * 200)]).ticks
    assert_same(followed, decode.frames([frame_of(packet)]).ticks)


payloads = st.one_of(
    st.binary(max_size=600),
    st.lists(
        st.one_of(st.just(FULL), st.just(ltp_packet(SBIN, 5)), st.binary(max_size=300)),
        max_size=12,
    ).map(lambda packets: payload_of(*packets)),
)


@given(st.lists(payloads, max_size=6))
def test_any_bytes_become_rows_or_are_counted_and_never_raise(received: list[bytes]) -> None:
    decoded = decode.frames([Frame(at, payload) for at, payload in enumerate(received)])
    unknown = decoded.rejected.get("unknown_length", 0)
    assert len(decoded.ticks) + unknown == decoded.packets
    assert decoded.rejected.get("malformed_frame", 0) <= len(received)


@given(st.lists(payloads, max_size=6))
def test_frames_joined_give_the_rows_of_frames_one_by_one(received: list[bytes]) -> None:
    frames = [Frame(at, payload) for at, payload in enumerate(received)]
    joined = decode.frames(frames).ticks
    parts = [decode.frames([frame]).ticks for frame in frames]
    rebuilt = Ticks.empty(len(joined))
    start = 0
    for part in parts:
        rebuilt.put(np.arange(start, start + len(part)), part)
        start += len(part)
    assert start == len(joined)
    assert_same(joined, rebuilt)


def test_rows_come_in_the_order_that_is_asked_for() -> None:
    packets = [FULL, ltp_packet(SBIN, 200), b"?" * 7, index_full_packet(NIFTY, 300, (1,) * 4, 5)]
    seen = []

    def backwards(tokens: NDArray[np.uint32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        seen.extend(tokens.tolist())
        return np.array([70, 71, 72, 73]), np.arange(len(tokens))[::-1]

    one, other = frame_of(*packets, at_ns=1), frame_of(ltp_packet(NIFTY, 400), at_ns=2)
    decoded = decode.frames([one, other], arrange=backwards)
    ticks, rows = decoded.ticks, decoded.rows
    assert rows is not None
    assert rows.tolist() == [73, 72, 71, 70]
    assert seen == [SBIN, SBIN, NIFTY, NIFTY]
    assert ticks.ltp.tolist() == [4.0, 3.0, 2.0, 812.35]
    assert ticks.mode.tolist() == [Mode.LTP, Mode.FULL, Mode.LTP, Mode.FULL]
    assert ticks.received_at_ns.tolist() == [2, 1, 1, 1]
    as_they_are = decode.frames([one, other], arrange=lambda t: (t, None)).ticks
    assert_same(as_they_are, decode.frames([one, other]).ticks)


price = st.integers(-(2**31), 2**31 - 1)
count = st.integers(0, 2**32 - 1)
# Quantity and price of zero together are an absent level, which has a test of its own.
level = st.tuples(st.integers(1, 2**32 - 1), price, st.integers(0, 2**16 - 1))


@st.composite
def random_packets(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """Return a packet of any layout and scale, and the numbers that went into it."""
    layout = draw(st.sampled_from([8, 28, 32, 44, 184]))
    token = NIFTY if layout in {28, 32} else draw(st.sampled_from(sorted(SCALES)))
    facts: dict[str, Any] = {"instrument_token": token, "ltp": draw(price)}
    if layout == 8:
        return ltp_packet(token, facts["ltp"]), facts
    o, h, low, c = (draw(price) for _ in range(4))
    facts |= {"open": o, "high": h, "low": low, "close": c}
    if layout in {28, 32}:
        args = token, facts["ltp"], (h, low, o, c)
        if layout == 28:
            return index_quote_packet(*args, draw(price)), facts
        facts["exchange_ts_ns"] = draw(count)
        return index_full_packet(*args, facts["exchange_ts_ns"], draw(price)), facts
    quote = {n: draw(count) for n in ("last_quantity", "volume", "buy_quantity", "sell_quantity")}
    quote["average_price"] = draw(price)
    facts |= quote
    if layout == 44:
        return quote_packet(token, facts["ltp"], ohlc=(o, h, low, c), **quote), facts
    times = draw(count), draw(count)
    interest = draw(count), draw(count), draw(count)
    bids, asks = (draw(st.lists(level, min_size=5, max_size=5)) for _ in range(2))
    facts |= dict(zip(("last_trade_ts_ns", "exchange_ts_ns"), times, strict=True))
    facts |= dict(zip(("oi", "oi_day_high", "oi_day_low"), interest, strict=True))
    for side, levels in (("bid", bids), ("ask", asks)):
        for place, name in enumerate(("quantity", "price", "orders")):
            facts[f"{side}_{name}"] = [one[place] for one in levels]
    packet = full_packet(
        token,
        facts["ltp"],
        ohlc=(o, h, low, c),
        times=times,
        interest=interest,
        bids=bids,
        asks=asks,
        **quote,
    )
    return packet, facts


def wire_number(name: str, value: float, scale: int) -> int:
    """Return the number the wire held for a decoded one."""
    if name.endswith("_ts_ns"):
        return int(value) // 10**9
    is_price = name in {"ltp", "average_price", "open", "high", "low", "close"}
    if is_price or name in {"bid_price", "ask_price"}:
        return 0 if np.isnan(value) else round(value * scale)
    return int(value)


@settings(max_examples=300)
@given(st.lists(random_packets(), min_size=1, max_size=5))
def test_decoding_is_the_inverse_of_encoding(packets: list[tuple[bytes, dict[str, Any]]]) -> None:
    ticks = ticks_of(*(packet for packet, _ in packets))
    read, sent = [], []
    for row, (_, facts) in enumerate(packets):
        scale = SCALES.get(facts["instrument_token"], 100)
        for name, value in facts.items():
            column = getattr(ticks, name)[..., row]
            read.append([name, *(wire_number(name, v, scale) for v in np.atleast_1d(column))])
            sent.append([name, *np.atleast_1d(value).tolist()])
    assert read == sent


def long_frame(lengths: list[int]) -> bytes:
    packets = {8: ltp_packet(SBIN, 5), 44: b"q" * 44, 184: FULL, 7: b"?" * 7}
    return frame_of(*(packets[length] for length in lengths)).payload


@pytest.mark.parametrize(
    "lengths",
    [
        [184] * 60,
        [8] + [184] * 60,
        [184] * 60 + [7],
        [184, 184, 184, 184, 184, 184, 184, 8] * 20,
        [184] * 39,
    ],
)
def test_a_long_frame_of_full_packets_is_cut_up_like_any_other(lengths: list[int]) -> None:
    payload = long_frame(lengths)
    assert decode.frames([Frame(1, payload)]).packets == len(lengths)
    cut = decode.frames([Frame(1, payload[:-1]), Frame(2, payload)])
    assert cut.packets == 2 * len(lengths) - 1
    assert cut.rejected["malformed_frame"] == 1


@pytest.mark.parametrize("count", [59, 61])
def test_a_long_frame_that_lies_about_its_count_is_malformed(count: int) -> None:
    payload = struct.pack(">H", count) + long_frame([184] * 60)[2:]
    found = decode.frames([Frame(1, payload)])
    assert found.packets == min(count, 60)
    assert found.rejected["malformed_frame"] == 1
