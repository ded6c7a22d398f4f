"""``TickPublisher`` when its server comes and goes: one suite for Redis and for the stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Protocol

import pytest
from redis.asyncio import Redis

from ticker_service.adapters import redis_servers
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.errors import PublishError
from ticker_service.ports import Outgoing
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.embedded import EmbeddedRedis
    from ticker_service.ports import TickPublisher

    Play = Callable[[Callable[["Stage"], Awaitable[None]]], None]

DEADLINE_S = 9.0
CHANNEL = "contract:ticks:NIFTY"
KEY = "contract:snapshot:NIFTY"
LONG_MS = 60_000


class Stage(Protocol):
    """A publisher, what arrived behind it, and a way to take its server away."""

    publisher: TickPublisher

    async def received(self, count: int) -> list[bytes]:
        """Return the first messages a subscriber got."""

    async def value(self) -> bytes | None:
        """Return what is at the key now."""

    def stop(self) -> None:
        """Let the server answer nothing from now on."""

    def resume(self) -> None:
        """Let it answer again."""


class MemoryStage:
    def __init__(self) -> None:
        self.publisher = MemoryPublisher()

    async def received(self, count: int) -> list[bytes]:
        return [message for channel, message in self.publisher.messages if channel == CHANNEL][
            :count
        ]

    async def value(self) -> bytes | None:
        return self.publisher.values.get(KEY)

    def stop(self) -> None:
        self.publisher.is_down = True

    def resume(self) -> None:
        self.publisher.is_down = False


class RedisStage:
    def __init__(self, server: EmbeddedRedis, client: Redis) -> None:
        self.publisher = RedisPublisher(server.url, channel_prefix="ticker:v1:")
        self._pid = server.child.pid
        self._client = client
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._got: list[bytes] = []

    async def subscribe(self) -> None:
        await self._pubsub.subscribe(CHANNEL)
        await self._pubsub.get_message(ignore_subscribe_messages=False, timeout=DEADLINE_S)

    async def received(self, count: int) -> list[bytes]:
        while len(self._got) < count:
            message = await self._pubsub.get_message(timeout=DEADLINE_S)
            if message is not None:
                self._got.append(message["data"])
        return self._got[:count]

    async def value(self) -> bytes | None:
        found: bytes | None = await self._client.get(KEY)
        return found

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    async def close(self) -> None:
        self.resume()
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]


@contextlib.asynccontextmanager
async def staged(kind: str, server: EmbeddedRedis) -> AsyncIterator[Stage]:
    if kind == "memory":
        memory = MemoryStage()
        yield memory
        await memory.publisher.close()
        return
    async with Redis.from_url(server.url) as client:
        stage = RedisStage(server, client)
        await stage.subscribe()
        try:
            yield stage
        finally:
            await stage.close()
            await stage.publisher.close()


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def play(kind: str, own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Play:
    monkeypatch.setattr(redis_servers, "SOCKET_S_MAX", 0.3)

    def run(scene: Callable[[Stage], Awaitable[None]]) -> None:
        async def stage() -> None:
            async with asyncio.timeout(DEADLINE_S), staged(kind, own_redis) as stage:
                await scene(stage)

        asyncio.run(stage())

    return run


def messages(*texts: str) -> Outgoing:
    return Outgoing(messages=[(CHANNEL, text.encode()) for text in texts])


def test_messages_arrive_in_the_order_they_were_handed_over(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        expected = [str(number) for number in range(500)]
        for start in range(0, 500, 7):
            await stage.publisher.send(messages(*expected[start : start + 7]))
        assert await stage.received(500) == [text.encode() for text in expected]

    play(scene)


def test_any_bytes_arrive_unchanged(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        everything = bytes(range(256)) * 4_000
        await stage.publisher.send(
            Outgoing(messages=[(CHANNEL, everything)], values=[(KEY, everything, LONG_MS)])
        )
        assert await stage.received(1) == [everything]
        assert await stage.value() == everything

    play(scene)


def test_a_value_is_gone_after_its_lifetime(own_redis: EmbeddedRedis) -> None:
    async def scene() -> None:
        async with asyncio.timeout(DEADLINE_S), staged("redis", own_redis) as stage:
            await stage.publisher.send(Outgoing(values=[(KEY, b"short", 50)]))
            while await stage.value() is not None:  # noqa: ASYNC110 - a key tells nobody
                await asyncio.sleep(0.01)

    asyncio.run(scene())


def test_a_dead_server_is_an_error_within_bounded_time(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.stop()
        async with asyncio.timeout(3.0):
            with pytest.raises(PublishError, match="did not confirm"):
                await stage.publisher.send(messages("lost"))

    play(scene)


def test_sending_again_works_once_the_server_is_back(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        await stage.publisher.send(messages("before"))
        stage.stop()
        with pytest.raises(PublishError):
            await stage.publisher.send(messages("during"))
        stage.resume()
        await stage.publisher.send(messages("during", "after"))
        await stage.publisher.send(messages("end"))

        # Not confirmed is not the same as not delivered: the first try may arrive as well.
        got: list[bytes] = []
        while not got or got[-1] != b"end":
            got = await stage.received(len(got) + 1)
        once = list(dict.fromkeys(got))
        assert once == [b"before", b"during", b"after", b"end"]
        assert got.count(b"after") == got.count(b"end") == 1

    play(scene)


def test_a_send_that_is_cancelled_does_not_disturb_the_next(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.stop()
        with contextlib.suppress(TimeoutError, PublishError):
            async with asyncio.timeout(0.05):
                await stage.publisher.send(messages("cut"))
        stage.resume()
        await stage.publisher.send(messages("next"))
        got = await stage.received(1)
        if got == [b"cut"]:
            got = await stage.received(2)
        assert got[-1] == b"next"

    play(scene)


def test_a_server_that_refuses_is_an_error_with_its_reason(own_redis: EmbeddedRedis) -> None:
    async def scene() -> None:
        wrong = own_redis.url.replace("redis://:", "redis://:not-")
        publisher = RedisPublisher(wrong, channel_prefix="ticker:v1:")
        with pytest.raises(PublishError, match="AuthenticationError") as refused:
            await publisher.check()
        password = own_redis.url.split(":")[2].split("@")[0]
        assert password not in str(refused.value)
        await publisher.close()

    asyncio.run(scene())


def test_a_server_too_full_for_snapshots_still_gets_the_messages(
    own_redis: EmbeddedRedis,
) -> None:
    async def scene() -> None:
        async with Redis.from_url(own_redis.url) as client:
            await client.config_set("maxmemory", "1mb")
            publisher = RedisPublisher(own_redis.url, channel_prefix="ticker:v1:")
            big = Outgoing(messages=[("a", b"tick")], values=[(KEY, b"x" * 4_000_000, LONG_MS)])
            await publisher.send(big)
            assert publisher.refused_values == 1
            await client.config_set("maxmemory", "100mb")
            await publisher.send(Outgoing(values=[(KEY, b"fits", LONG_MS)]))
            assert await client.get(KEY) == b"fits"
            await publisher.close()

    asyncio.run(scene())


def test_a_server_that_is_gone_is_an_error_at_once() -> None:
    async def scene() -> None:
        url = "redis://:secret-canary@127.0.0.1:1/0"  # allow-secret
        publisher = RedisPublisher(url, channel_prefix="ticker:v1:")
        async with asyncio.timeout(2.0):
            with pytest.raises(PublishError) as refused:
                await publisher.send(messages("lost"))
            with pytest.raises(PublishError):
                await publisher.check()
        assert "secret-canary" not in str(refused.value)
        await publisher.close()

    asyncio.run(scene())
