"""What the fuzzer runs: one function per target that takes any bytes and checks the promises.

Used by ``./scripts/fuzz`` and, with the seeds alone, by the tests. A broken promise raises.
"""

from __future__ import annotations

import functools
import math
import random
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from ticker_service.adapters.kite_feed import read_text
from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.config import (
    BarsConfig,
    EngineConfig,
    KiteConfig,
    PublishConfig,
    SubscriptionConfig,
)
from ticker_service.domain import universe
from ticker_service.domain.session import ist_date
from ticker_service.domain.tick import PACKET_LAYOUTS, Mode
from ticker_service.market import decode
from ticker_service.market.pipeline import TickPath
from ticker_service.ports import Frame
from ticker_service.runtime.clock import ManualClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

NOW_NS: Final = 1_795_239_000_000_000_000
"""Saturday 21 November 2026, 11:00 IST."""
FRAMES_MAX: Final = 8
MESSAGES_MAX: Final = 1_000
LENGTHS: Final = sorted(PACKET_LAYOUTS)
FREE_SIZED: Final = len(LENGTHS)


def decode_any(data: bytes) -> None:
    """Decode arbitrary bytes as arbitrary frames: each packet becomes a row or is counted."""
    received = [Frame(at, part) for at, part in enumerate(_parts(data))]
    decoded = decode.frames(received)
    size = sum(len(frame.payload) for frame in received)
    unknown = decoded.rejected.get(decode.UNKNOWN_LENGTH, 0)
    check(len(decoded.ticks) + unknown == decoded.packets, "a packet was neither read nor counted")
    check(2 * decoded.packets <= size, "more packets than the bytes can hold")
    check(
        decoded.rejected.get(decode.MALFORMED_FRAME, 0) <= len(received), "more faults than frames"
    )
    one_by_one = [decode.frames([frame]) for frame in received]
    check(
        sum(len(one.ticks) for one in one_by_one) == len(decoded.ticks),
        "frames joined read otherwise than one by one",
    )


def carry_any(data: bytes) -> None:
    """Carry frames with known tokens and any content down the whole path, to valid messages."""
    path, publisher, clock = _scene()
    clock.advance(20_000_000)
    received = [Frame(clock.now_ns(), payload) for payload in _frames_of(data)]
    wanted = np.ones(len(path.universe), np.bool_)
    _run(path.flush(received, wanted))
    _run(path.snapshot())
    _run(path.bars())
    for _, message in publisher.messages:
        _check_message(orjson.loads(message))
    for value in publisher.values.values():
        _check_message(orjson.loads(value))
    publisher.messages.clear()


def rows_published() -> float:
    """Return how many rows have gone out of the path so far, whatever the input."""
    path, _, _ = _scene()
    return float(path.announcer._counters[0].published)


def text_any(data: bytes) -> None:
    """Read any text as a message of the broker: a kind always comes out."""
    event = read_text(data.decode(errors="replace"), connection=0, at_ns=NOW_NS)
    check(
        event.kind in {"order", "error", "message", "unknown", "unreadable"},
        f"a kind nobody knows: {event.kind}",
    )


def planted(data: bytes) -> None:
    """Break on one prefix, found byte by byte: proves that a fault is found at all."""
    check(data[:1] != b"T" or data[1:2] != b"I" or data[2:3] != b"C", "the planted fault")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "decode": decode_any,
    "path": carry_any,
    "text": text_any,
    "planted": planted,
}


def seeds(target: str) -> Iterator[bytes]:
    """Yield inputs to start from: good ones, and the lies that were thought of."""
    if target == "planted":
        yield b"TAP"
        return
    if target == "text":
        yield from (
            b'{"type":"order","data":{"order_id":"1","status":"OPEN"}}',
            b'{"type":"error","data":"x"}',
            b'{"type":"message","data":null}',
            b'{"type":"instruments_meta","data":{"count":1}}',
            b"[" * 300,
            b"\xff\xfe{}",
        )
        return
    if target == "path":
        whole = bytes(range(256)) * 8
        yield from (bytes([kind, 1]) + whole for kind in range(FREE_SIZED + 1))
        yield b"".join(bytes([kind % 6, kind]) + whole[:184] for kind in range(12))
        yield from _truthful()
        return
    market = _market()
    rows = np.arange(len(market.catalogue))
    for mode in Mode:
        modes = np.full(len(rows), mode, np.uint8)
        for payload in market.packets.frames(rows, modes):
            yield bytes([1]) + payload
            yield bytes([3]) + payload[: len(payload) // 2]
    yield from (b"", b"\x00", b"\x01\x00\x00", b"\x01\xff\xff\xff\xff", b"\x01\x00\x01\x00\x2d" * 9)


def _truthful() -> Iterator[bytes]:
    """Yield what the simulated market says of each instrument, alone and all together."""
    market, tokens = _market(), _universe().instrument_token.tolist()
    said = []
    for place, token in enumerate(tokens):
        row = market.catalogue.row_by_token[token]
        (payload,) = market.packets.frames(np.array([row]), np.array([Mode.FULL], np.uint8))
        packet = payload[4:]
        said.append(bytes([LENGTHS.index(len(packet)), place]) + packet)
    yield from said
    yield b"".join(said)


def check(holds: bool, promise: str) -> None:  # noqa: FBT001 - reads like an assertion
    """Raise unless a promise holds; ``assert`` is not, because instrumented code may drop it."""
    if not holds:
        raise AssertionError(promise)


def _check_message(body: dict[str, Any]) -> None:
    if body["kind"] not in {"batch", "snapshot", "bars", "bar"}:
        return
    columns = body["columns"]
    check({len(column) for column in columns.values()} == {body["n"]}, "columns differ in length")
    for name, column in columns.items():
        numbers = (value for value in column if isinstance(value, float))
        check(all(map(math.isfinite, numbers)), f"{name} holds what is no number")
    prices = ("ltp", "bid", "ask", "implied_volatility")
    low = {
        name: min((v for v in columns.get(name, []) if v is not None), default=1) for name in prices
    }
    check(min(low.values()) > 0, f"a price at or below zero was published: {low}")


def _parts(data: bytes) -> list[bytes]:
    """Cut an input into frames: the first byte says how many, their sizes are equal."""
    if not data:
        return [b""]
    count = data[0] % FRAMES_MAX + 1
    size = max(1, -(-(len(data) - 1) // count))
    return [data[1 + at : 1 + at + size] for at in range(0, max(len(data) - 1, 1), size)]


def _frames_of(data: bytes) -> list[bytes]:
    """Build a frame of packets whose lengths and tokens are known and whose content is the input's.

    Two bytes choose the kind and the instrument; then comes the content. Random bytes would hardly
    ever hit a known token, and the later steps would never be reached.
    """
    tokens = _universe().instrument_token
    packets: list[bytes] = []
    at = 0
    while at + 2 <= len(data) and len(packets) < 100:
        kind, instrument = data[at] % (FREE_SIZED + 1), data[at + 1]
        at += 2
        length = LENGTHS[kind] if kind < FREE_SIZED else instrument
        body = data[at : at + length]
        at += length
        token = int(tokens[instrument % len(tokens)])
        packet = struct.pack(">I", token) + body[4:]
        packets.append(packet.ljust(length, b"\0") if kind < FREE_SIZED else body)
    parts = b"".join(struct.pack(">H", len(packet)) + packet for packet in packets)
    return [struct.pack(">H", len(packets)) + parts]


@functools.cache
def _market() -> Market:
    return Market(SimulatorOptions(seed=3, strikes_each_side=2), now_ns=NOW_NS)


@functools.cache
def _universe() -> universe.Universe:
    market = _market()
    return universe.select(
        parse_dump(market.catalogue.dump(market.last_price_inr).decode()),
        underlyings=("NIFTY",),
        instruments=(),
        expiries_max=2,
        today=ist_date(NOW_NS),
    )


@functools.cache
def _scene() -> tuple[TickPath, MemoryPublisher, ManualClock]:
    """Return one path for the whole run: what an input leaves behind is the next one's past."""
    publisher, clock = MemoryPublisher(), ManualClock(NOW_NS)
    config = EngineConfig(
        kite=KiteConfig(rest_root="", ws_root="", api_key="", access_token=""),
        redis_url="",
        subscription=SubscriptionConfig(underlyings=("NIFTY",)),
        publish=PublishConfig(depth=True),
        bars=BarsConfig(intervals=("1s", "1m"), grace_ms=0),
    )
    surroundings = Surroundings(
        clock=clock,
        chance=random.Random(1),  # noqa: S311 - jitter
        telemetry=Telemetry(),
    )
    path = TickPath(_universe(), config, publisher, surroundings=surroundings, pause=_never)
    return path, publisher, clock


async def _never(_: int) -> None:
    raise AssertionError("a publisher in memory never fails")


def _run(work: Coroutine[object, object, None]) -> None:
    """Run a coroutine that never waits; an event loop would be most of the time."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the path waited for something")
