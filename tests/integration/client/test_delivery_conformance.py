"""Whatever is killed in turn, a reader's table ends up as what the exchange had really sent.

The oracle is the exchange's own record of the bytes it put on the socket last, read by Kite's
official parser: nothing of our decoder, publisher or reader is trusted.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from kiteconnect import KiteTicker
from redis.asyncio import Redis
from running import LIVELY, Exchange, daemon, exchange

from ticker_service.client import TickReader

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Awaitable, Callable, Iterator

    from running import Daemon

    from app.embedded import EmbeddedRedis
    from ticker_service.client import BookTable

BOOK: Final = "NIFTY"
PREFIX: Final = "ticker:v1:"
DEADLINE_S: Final = 60.0
REST_S: Final = 20.0
"""A muted feed is opened anew after half a minute; by then both sides must have come to rest."""
PACE_S: Final = 0.05
COLUMN_OF: Final = {
    "last_price": "ltp",
    "last_traded_quantity": "last_quantity",
    "average_traded_price": "average_price",
    "volume_traded": "volume",
    "total_buy_quantity": "buy_quantity",
    "total_sell_quantity": "sell_quantity",
    "oi": "oi",
}


@pytest.fixture
def still_exchange() -> Iterator[Exchange]:
    with exchange(LIVELY) as running:
        yield running


def truth(at: Exchange) -> dict[int, dict[str, Any]]:
    """Return what Kite's parser reads in the packets sent last on the one open socket."""
    answer = httpx.get(f"{at.rest_root}/sim/sent", trust_env=False).raise_for_status()
    connections = answer.json()["data"]["connections"]
    if len(connections) != 1:
        return {}
    packets = [base64.b64decode(packet) for packet in connections[0]["packets"].values()]
    frame = len(packets).to_bytes(2, "big")
    frame += b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets)
    ticks = KiteTicker("key", "token")._parse_binary(frame)
    return {tick["instrument_token"]: expected_row(tick) for tick in ticks}


def expected_row(tick: dict[str, Any]) -> dict[str, Any]:
    """Return a tick of the official parser in the names of the wire."""
    row = {ours: tick[theirs] for theirs, ours in COLUMN_OF.items() if theirs in tick}
    row |= {name: tick["ohlc"][name] for name in ("open", "high", "low", "close")}
    stamp = tick.get("exchange_timestamp")
    if stamp is not None:
        row["exchange_ts_us"] = int(stamp.timestamp()) * 1_000_000
    for side, name in (("buy", "bid"), ("sell", "ask")):
        for number, level in enumerate(tick.get("depth", {}).get(side, ()), start=1):
            row[f"{name}_price_{number}"] = level["price"] or None
            row[f"{name}_quantity_{number}"] = level["quantity"]
            row[f"{name}_orders_{number}"] = level["orders"]
    return row


def difference(table: BookTable, expected: dict[int, dict[str, Any]]) -> str:
    """Return the first difference between a table and the truth, empty if there is none."""
    got = {row["instrument_token"]: row for row in table.rows()}
    if got.keys() != expected.keys():
        return f"instruments differ: {sorted(got.keys() ^ expected.keys())[:5]} of {len(expected)}"
    for token, row in expected.items():
        for name, value in row.items():
            mine = got[token][name]
            is_same = mine == value or (value == 0 and mine is None)
            if not is_same and isinstance(value, float) and mine is not None:
                is_same = abs(mine - value) < 1e-9
            if not is_same:
                return f"token={token} {name}: {mine!r} is not {value!r}"
    return "" if expected else "nothing was sent yet"


class Consumer:
    """A reader that goes on reading while things are killed, and the means to kill them."""

    def __init__(self, reader: TickReader, at: Exchange, redis: EmbeddedRedis) -> None:
        self.reader = reader
        self.at = at
        self.redis = redis
        self.kinds: list[str] = []

    async def read(self) -> None:
        async for message in self.reader:
            self.kinds.append(message.kind)

    async def has_read(self, kind: str, count: int) -> None:
        """Wait until so many more messages of a kind have come."""
        wanted = self.kinds.count(kind) + count
        while self.kinds.count(kind) < wanted:  # noqa: ASYNC110 - the reading goes on beside us
            await asyncio.sleep(PACE_S)

    async def comes_to_rest(self) -> None:
        """Let the exchange send nothing more, and wait until the table is what it had sent."""
        self.at.fault(fault="mute_sockets")
        deadline_s = time.monotonic() + REST_S
        while found := self.difference():
            assert time.monotonic() < deadline_s, found
            await asyncio.sleep(PACE_S)
        self.at.fault(fault="unmute_sockets")

    def difference(self) -> str:
        table = self.reader.table(BOOK)
        if not table.is_current:
            return "the table is not current"
        return difference(table, truth(self.at))


def play(
    at: Exchange,
    redis: EmbeddedRedis,
    scene: Callable[[Consumer, Callable[[], contextlib.AbstractContextManager[Daemon]]], Any],
    **options: Any,
) -> None:
    settings = at.settings(
        redis_url=redis.url,
        snapshot_ms=100,
        heartbeat_ms=200,
        depth=True,
        encodings="json,arrow",
    )

    async def staged() -> None:
        async with (
            asyncio.timeout(DEADLINE_S),
            TickReader(redis.url, [BOOK], **options) as reader,
            asyncio.TaskGroup() as tasks,
        ):
            consumer = Consumer(reader, at, redis)
            reading = tasks.create_task(consumer.read())
            awaited: Awaitable[None] = scene(consumer, lambda: daemon(settings))
            await awaited
            reading.cancel()

    asyncio.run(staged())


async def begin(running: Daemon, consumer: Consumer) -> None:
    await asyncio.to_thread(running.becomes_ready)
    await consumer.has_read("batch", 5)


@pytest.mark.parametrize("encoding", ["json", "arrow"])
def test_with_nothing_killed_the_table_is_what_was_sent(
    still_exchange: Exchange, own_redis: EmbeddedRedis, encoding: str
) -> None:
    async def scene(consumer: Consumer, run: Any) -> None:
        with run() as running:
            await begin(running, consumer)
            await consumer.comes_to_rest()
            assert consumer.reader.missed == 0

    play(still_exchange, own_redis, scene, encoding=encoding)


@pytest.mark.parametrize("encoding", ["json", "arrow"])
def test_connection_feed_redis_and_daemon_killed_in_turn_leave_the_table_true(
    still_exchange: Exchange, own_redis: EmbeddedRedis, encoding: str
) -> None:
    async def scene(consumer: Consumer, run: Any) -> None:
        async with Redis.from_url(own_redis.url) as admin:
            with run() as running:
                await begin(running, consumer)

                # 1. The reader's own connection.
                assert await admin.client_kill_filter(_type="pubsub") >= 1
                await consumer.has_read("batch", 5)
                await consumer.comes_to_rest()

                # 2. The daemon's connection to the exchange.
                consumer.at.fault(fault="kill_sockets")
                await consumer.has_read("gap", 1)
                await consumer.has_read("batch", 5)
                await consumer.comes_to_rest()

                # 3. Redis: it stands still, loses its keys and cuts every connection.
                os.kill(own_redis.child.pid, signal.SIGSTOP)
                await asyncio.to_thread(failing, running)
                os.kill(own_redis.child.pid, signal.SIGCONT)
                await admin.flushall()
                await admin.client_kill_filter(_type="pubsub")
                await admin.client_kill_filter(_type="normal", skipme=True)
                await consumer.has_read("batch", 5)
                await consumer.comes_to_rest()

                # 4. The daemon, without a word.
                running.program.signal(signal.SIGKILL)
                await asyncio.to_thread(running.program.wait)
            with run() as running:
                await begin(running, consumer)
                await consumer.comes_to_rest()
                assert consumer.reader.table(BOOK).epoch == running.epoch

    play(still_exchange, own_redis, scene, encoding=encoding)


def failing(running: Daemon) -> None:
    """Wait until the daemon has noticed that Redis confirms nothing."""
    deadline_s = time.monotonic() + DEADLINE_S
    while running.metric("publish_failures_total") < 1:
        assert time.monotonic() < deadline_s
        time.sleep(PACE_S)


def test_the_comparison_can_fail(still_exchange: Exchange, own_redis: EmbeddedRedis) -> None:
    async def scene(consumer: Consumer, run: Any) -> None:
        with run() as running:
            await begin(running, consumer)
            await consumer.comes_to_rest()
            table = consumer.reader.table(BOOK)
            expected = truth(consumer.at)
            token = next(iter(expected))
            assert difference(table, {t: row for t, row in expected.items() if t != token})
            wrong = expected | {token: expected[token] | {"ltp": expected[token]["ltp"] + 0.05}}
            assert "ltp" in difference(table, wrong)

    play(still_exchange, own_redis, scene)
