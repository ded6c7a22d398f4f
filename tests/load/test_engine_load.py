"""The engine under more than it can send: memory bounded, order kept, nothing lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pytest

from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.config import (
    EngineConfig,
    FlushConfig,
    KiteConfig,
    PublishConfig,
    SubscriptionConfig,
)
from ticker_service.domain import universe
from ticker_service.domain.session import ist_date
from ticker_service.domain.tick import Mode
from ticker_service.engine import Engine
from ticker_service.ports import FeedText, FeedUp, Frame
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.testing import MemoryPublisher, ScriptedFeed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from numpy.typing import NDArray

DEADLINE_S: Final = 30.0
MIB: Final = 1 << 20
PAISE: Final = 100
UNDERLYINGS: Final = ("NIFTY", "BANKNIFTY", "SENSEX")

Body = dict[str, Any]


@dataclass(kw_only=True)
class Stage:
    """An engine with a scripted feed and a publisher in memory."""

    engine: Engine
    feed: ScriptedFeed
    publisher: MemoryPublisher
    market: Market
    clock: SystemClock
    telemetry: Telemetry

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - the publisher tells nobody
                await asyncio.sleep(0.005)

    async def receive(self, *payloads: bytes) -> None:
        await self.feed.receive(*(Frame(self.clock.now_ns(), payload) for payload in payloads))

    def tokens(self) -> NDArray[np.uint32]:
        return np.array(sorted(self.feed.wanted), np.uint32)

    def bodies(self, kind: str, book: str | None = None) -> list[Body]:
        parsed = (orjson.loads(message) for _, message in list(self.publisher.messages))
        return [b for b in parsed if b["kind"] == kind and book in {None, b["book"]}]

    def rows(self) -> int:
        """Return the ticks that went out, repeats for a moved forward aside."""
        return sum(body["n"] for body in self.bodies("batch") if not is_repriced(body))

    def sent_metric(self, name: str) -> float:
        lines = self.telemetry.exposition().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    async def open_windows(self) -> None:
        """Give every underlying a price, and wait until its strikes are wanted."""
        await self.feed.receive(FeedUp(connection=0, at_ns=self.clock.now_ns()))
        rows = np.arange(len(self.market.catalogue))
        tokens = set(self.feed.wanted)
        listed = self.market.catalogue.instrument_token
        wanted = rows[[int(token) in tokens for token in listed]]
        modes = np.full(len(wanted), Mode.FULL, np.uint8)
        before = len(self.feed.wanted)
        await self.receive(*self.market.packets.frames(wanted, modes))
        await self.until(lambda: len(self.feed.wanted) > before)


def is_repriced(body: Body) -> bool:
    return bool(body["columns"]["is_repriced"][0])


@contextlib.asynccontextmanager
async def staged(
    *,
    flush: FlushConfig | None = None,
    strikes_each_side: int = 20,
    instruments: tuple[str, ...] = (),
) -> AsyncIterator[Stage]:
    clock, telemetry = SystemClock(), Telemetry()
    market = Market(
        SimulatorOptions(seed=7, strikes_each_side=strikes_each_side), now_ns=clock.now_ns()
    )
    config = EngineConfig(
        kite=KiteConfig(rest_root="", ws_root="", api_key="", access_token=""),
        redis_url="",
        subscription=SubscriptionConfig(
            underlyings=UNDERLYINGS,
            instruments=instruments,
            strikes_each_side=strikes_each_side,
            expiries_max=9,
        ),
        flush=flush or FlushConfig(),
        publish=PublishConfig(heartbeat_ms=200, snapshot_ms=200),
    )
    chosen = universe.select(
        parse_dump(market.catalogue.dump(market.last_price_inr).decode()),
        underlyings=UNDERLYINGS,
        instruments=instruments,
        expiries_max=9,
        today=ist_date(clock.now_ns()),
    )
    feed, publisher = ScriptedFeed(), MemoryPublisher()
    engine = Engine(
        chosen,
        config,
        feed=feed,
        publisher=publisher,
        surroundings=Surroundings(
            clock=clock,
            chance=random.Random(1),  # noqa: S311 - jitter
            telemetry=telemetry,
        ),
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(engine.run(stop))
        try:
            yield Stage(
                engine=engine,
                feed=feed,
                publisher=publisher,
                market=market,
                clock=clock,
                telemetry=telemetry,
            )
        except BaseException:
            running.cancel()
            raise
        stop.set()
    assert_numbers(publisher)


def assert_numbers(publisher: MemoryPublisher) -> None:
    """Check every channel's numbers: without a gap, heartbeats repeating the last."""
    at: dict[str, int] = {}
    for channel, message in publisher.messages:
        body = orjson.loads(message)
        expected = at.get(channel, 0) + (body["kind"] != "heartbeat")
        assert body["seq"] == expected
        at[channel] = expected


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await scene()

    asyncio.run(bounded())


def ltp_frame(tokens: NDArray[np.uint32], rupees: int) -> bytes:
    """Return one frame with a last price for each token, as the wire packs it."""
    packets = np.zeros(
        len(tokens), np.dtype([("length", ">u2"), ("token", ">u4"), ("price", ">i4")])
    )
    packets["length"] = 8
    packets["token"] = tokens
    packets["price"] = rupees * PAISE
    return struct.pack(">H", len(tokens)) + packets.tobytes()


def without_underlyings(stage: Stage) -> NDArray[np.uint32]:
    """Return the options: their prices do not move the windows."""
    of = stage.engine.universe
    options = set(of.instrument_token[of.is_option].tolist())
    return np.array([token for token in stage.tokens().tolist() if token in options], np.uint32)


def prices_in_order(stage: Stage) -> dict[int, list[float]]:
    """Return the last prices of each instrument in the order they were published."""
    prices: dict[int, list[float]] = {}
    for body in stage.bodies("batch"):
        if not is_repriced(body):
            columns = body["columns"]
            for token, price in zip(columns["instrument_token"], columns["ltp"], strict=True):
                prices.setdefault(token, []).append(price)
    return prices


def test_a_steady_flood_is_published_whole_and_in_order() -> None:
    flushed = FlushConfig(conflate_after_ms=60_000)

    async def scene() -> None:
        async with staged(flush=flushed) as stage:
            await stage.open_windows()
            tokens = without_underlyings(stage)
            assert len(tokens) > 400
            for rupees in range(1, 301):
                await stage.receive(ltp_frame(tokens, rupees))
                if rupees % 20 == 0:
                    await asyncio.sleep(0)
            expected = [float(rupees) for rupees in range(1, 301)]
            await stage.until(
                lambda: (
                    (p := prices_in_order(stage))
                    and all(p.get(token, [0.0])[-1] == 300.0 for token in tokens.tolist())
                )
            )
            prices = prices_in_order(stage)
            for token in tokens.tolist():
                assert prices[token][-300:] == expected
            assert stage.bodies("gap") == []

    play(scene)


def test_a_burst_beyond_the_backlog_is_bounded_and_the_newest_wins() -> None:
    limited = FlushConfig(backlog_bytes_max=MIB, bytes_max=MIB // 4)

    async def scene() -> None:
        async with staged(flush=limited) as stage:
            await stage.open_windows()
            tokens = without_underlyings(stage)
            stage.publisher.is_down = True
            attempts = stage.publisher.attempts
            await stage.receive(ltp_frame(tokens, 1))
            await stage.until(lambda: stage.publisher.attempts > attempts)
            peak = 0
            for rupees in range(2, 2_002):
                await stage.receive(ltp_frame(tokens, rupees))
                peak = max(peak, stage.engine.health().inbox_bytes)
            sent_bytes = 2_000 * len(ltp_frame(tokens, 1))
            assert sent_bytes > 5 * MIB
            assert peak <= MIB

            stage.publisher.is_down = False
        prices = prices_in_order(stage)
        for token in tokens.tolist():
            assert prices[token][-1] == 2_001.0
            # The first ones are the prices of the day, before those that only count.
            counted = prices[token][prices[token].index(1.0) :]
            assert counted == sorted(counted)
        gaps = stage.bodies("gap")
        assert {gap["book"] for gap in gaps} == set(UNDERLYINGS)
        assert {gap["reason"] for gap in gaps} == {"overflow"}
        told = {token for gap in gaps for token in gap["instruments"]}
        assert set(tokens.tolist()) <= told
        assert all(gap["from_us"] <= gap["to_us"] for gap in gaps)
        assert stage.sent_metric("inbox_frames_dropped_total") > 0

    play(scene)


def test_a_long_outage_comes_out_merged_and_not_as_a_flood() -> None:
    merging = FlushConfig(interval_ms=5, conflate_after_ms=20)

    async def scene() -> None:
        async with staged(flush=merging) as stage:
            await stage.open_windows()
            tokens = without_underlyings(stage)
            stage.publisher.is_down = True
            attempts = stage.publisher.attempts
            await stage.receive(ltp_frame(tokens, 1))
            await stage.until(lambda: stage.publisher.attempts > attempts)
            for rupees in range(2, 502):
                await stage.receive(ltp_frame(tokens, rupees))
            # Each failed attempt is followed by a wait of at least 50 ms: that is late enough.
            attempts = stage.publisher.attempts
            await stage.until(lambda: stage.publisher.attempts > attempts + 1)
            before = len(stage.publisher.messages)
            stage.publisher.is_down = False
        prices = prices_in_order(stage)
        assert {prices[token][-1] for token in tokens.tolist()} == {501.0}
        after = [orjson.loads(message) for _, message in stage.publisher.messages[before:]]
        batches = [b for b in after if b["kind"] == "batch" and not is_repriced(b)]
        # The message that was under way, and one merged batch, of each book.
        assert len(batches) <= 2 * len(UNDERLYINGS)
        assert stage.sent_metric("ticks_conflated_total") >= 499 * len(tokens)

    play(scene)


def test_thousands_of_instruments_in_many_books_all_come_through() -> None:
    shares = ("NSE:RELIANCE", "NSE:TCS", "NSE:INFY")

    async def scene() -> None:
        async with staged(strikes_each_side=160, instruments=shares) as stage:
            await stage.open_windows()
            books = stage.engine.universe.books
            assert set(books) == {*UNDERLYINGS, "NSE-EQ"}
            await stage.until(lambda: len(stage.feed.wanted) > 3_000)
            rows = np.arange(len(stage.market.catalogue))
            wanted = set(stage.feed.wanted)
            listed = stage.market.catalogue.instrument_token
            rows = rows[[int(token) in wanted for token in listed]]
            modes = np.full(len(rows), Mode.FULL, np.uint8)
            await stage.until(lambda: stage.engine.health().inbox_bytes == 0)
            before = stage.sent_metric("ticks_published_total")
            rejected = stage.sent_metric("feed_packets_rejected_total")
            for _ in range(10):
                await stage.receive(*stage.market.packets.frames(rows, modes))
                await asyncio.sleep(0)
            merged = stage.sent_metric
            await stage.until(
                lambda: (
                    merged("ticks_published_total") + merged("ticks_conflated_total") - before
                    >= 10 * len(rows)
                )
            )
            assert stage.sent_metric("feed_packets_rejected_total") == rejected
            seen = {
                token
                for body in stage.bodies("batch")
                for token in body["columns"]["instrument_token"]
            }
            assert set(listed[rows].tolist()) <= seen
            # Every book says of itself what was sent on it.
            await stage.until(lambda: {b["book"] for b in stage.bodies("heartbeat")} == set(books))

    play(scene)


def test_texts_that_pile_up_while_nothing_goes_out_are_bounded() -> None:
    limited = FlushConfig(backlog_bytes_max=MIB, bytes_max=MIB // 4)

    async def scene() -> None:
        async with staged(flush=limited) as stage:
            await stage.open_windows()
            stage.publisher.is_down = True
            attempts = stage.publisher.attempts
            await stage.receive(ltp_frame(without_underlyings(stage), 1))
            await stage.until(lambda: stage.publisher.attempts > attempts)
            for number in range(50_000):
                await stage.feed.receive(
                    FeedText(connection=0, at_ns=number, kind="order", data={"text": "x" * 500})
                )
            waiting = stage.engine._inbox._items
            assert len(waiting) < 20_000
            stage.publisher.is_down = False
            await stage.until(lambda: not waiting)

    play(scene)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x00"])
def test_frames_of_next_to_nothing_are_bounded_too(payload: bytes) -> None:
    limited = FlushConfig(backlog_bytes_max=MIB, bytes_max=MIB // 4)

    async def scene() -> None:
        async with staged(flush=limited) as stage:
            await stage.open_windows()
            stage.publisher.is_down = True
            attempts = stage.publisher.attempts
            await stage.receive(ltp_frame(without_underlyings(stage), 1))
            await stage.until(lambda: stage.publisher.attempts > attempts)
            await stage.receive(*[payload] * 100_000)
            assert len(stage.engine._inbox._items) < 50_000
            stage.publisher.is_down = False

    play(scene)
