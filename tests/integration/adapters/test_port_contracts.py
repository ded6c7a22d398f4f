"""The real adapters keep the promises of their ports: the suites of the stand-ins, on real sockets."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from kite_stand_in import NIFTY, KiteStandIn, answering, frame, ltp, raw_server
from port_contracts import (
    FeedSourceContract,
    InstrumentCatalogContract,
    TickPublisherContract,
)
from redis.asyncio import Redis

from app.embedded import embedded_redis
from ticker_service.accounts.token_watch import FixedToken
from ticker_service.adapters import redis_servers
from ticker_service.adapters.kite_feed import KiteFeed
from ticker_service.adapters.kite_instruments import COLUMNS, KiteInstruments, parse_dump
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.config import KiteConfig
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest

    from app.embedded import EmbeddedRedis

CHANNELS: Final = ("a", "b")
DUMP: Final = "\n".join(
    [
        ",".join(COLUMNS),
        "256265,1001,NIFTY 50,NIFTY 50,0,,0,0,0,EQ,INDICES,NSE",
        "738561,2885,RELIANCE,RELIANCE INDUSTRIES,0,,0,0.05,1,EQ,NSE,NSE",
    ]
)


def config(
    *, rest_root: str = "http://127.0.0.1:1", ws_root: str = "ws://127.0.0.1:1"
) -> KiteConfig:
    return KiteConfig(rest_root=rest_root, ws_root=ws_root, api_key="key", access_token="")


class _Redis:
    def __init__(self, server: EmbeddedRedis, client: Redis) -> None:
        self.publisher = RedisPublisher(server.url, channel_prefix="ticker:v1:")
        self._server = server
        self._client = client
        self.pubsub = client.pubsub(ignore_subscribe_messages=True)

    async def received(self, count: int) -> Sequence[tuple[str, bytes]]:
        got: list[tuple[str, bytes]] = []
        async with asyncio.timeout(5.0):
            while len(got) < count:
                message = await self.pubsub.get_message(timeout=5.0)
                if message is not None:
                    got.append((message["channel"].decode(), message["data"]))
        return got

    async def value(self, key: str) -> bytes | None:
        found: bytes | None = await self._client.get(key)
        return found

    async def break_down(self) -> None:
        os.kill(self._server.child.pid, signal.SIGSTOP)


class TestRedisPublisher(TickPublisherContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Redis]:
        async with embedded_redis() as server, Redis.from_url(server.url) as client:
            redis = _Redis(server, client)
            await redis.pubsub.subscribe(*CHANNELS)
            try:
                yield redis
            finally:
                os.kill(server.child.pid, signal.SIGCONT)
                await redis.pubsub.aclose()  # type: ignore[no-untyped-call]
                await redis.publisher.close()

    def test_a_distributor_that_does_not_answer_is_a_publish_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_servers, "SOCKET_S_MAX", 0.2)
        super().test_a_distributor_that_does_not_answer_is_a_publish_error()


class _Kite:
    def __init__(self, kite: KiteStandIn) -> None:
        self.feed = KiteFeed(
            config(ws_root=kite.url),
            tokens=FixedToken("stand-in"),
            clock=SystemClock(),
            chance=random.Random(1),  # noqa: S311 - jitter
        )
        self._kite = kite

    async def connect(self) -> None:
        await self._kite.until(lambda: self._kite.sockets)

    async def tick(self) -> None:
        await self._kite.broadcast(frame(ltp(NIFTY, 2_500_000)))

    async def drop(self) -> None:
        await self._kite.sockets[-1].close()


async def _silent(_: object) -> None:
    await asyncio.Event().wait()


class TestKiteFeed(FeedSourceContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Kite]:
        async with KiteStandIn(converse=_silent) as kite:
            yield _Kite(kite)


class TestKiteInstruments(InstrumentCatalogContract):
    EXPECTED = parse_dump(DUMP)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[KiteInstruments]:
        body = DUMP.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        async with raw_server(answering(head.encode() + body)) as port:
            yield KiteInstruments(config(rest_root=f"http://127.0.0.1:{port}"))
