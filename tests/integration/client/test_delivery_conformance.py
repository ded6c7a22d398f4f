"""Whatever is killed in turn, a reader's table ends up as what the exchange had really sent.

The oracle is the exchange's own record of the bytes it put on the socket last, read by Kite's
official parser: nothing of our decoder, publisher or reader is trusted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from redis.asyncio import Redis
from running import LIVELY, Exchange, daemon, exchange
from sent_truth import difference, truth

from ticker_service.client import TickReader

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Awaitable, Callable, Iterator

    from running import Daemon

    from app.embedded import EmbeddedRedis

BOOK: Final = "NIFTY"
PREFIX: Final = "ticker:v1:"
DEADLINE_S: Final = 60.0
REST_S: Final = 20.0
"""A muted feed is opened anew after half a minute; by then both sides must have come to rest."""
PACE_S: Final = 0.05


@pytest.fixture
def still_exchange() -> Iterator[Exchange]:
    with exchange(LIVELY) as running:
        yield running


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
