"""Publishing to a real cluster of three nodes: each book on its own, in order, wherever it moves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from typing import TYPE_CHECKING, Any, Self

import orjson
import pytest
from valkey_cluster import Cluster, Node, valkey_cluster

from ticker_service.adapters import redis_servers
from ticker_service.adapters.redis_events import RedisOrderEvents
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.domain.order import Account, OrderEvent
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import PublishError
from ticker_service.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

PREFIX = "ticker:v1:"
DEADLINE_S = 60.0
BOOKS = ["NIFTY", "BANKNIFTY", "SENSEX", "MANDM", "RELIANCE", "NSE-EQ"]
LONG_MS = 60_000


@pytest.fixture(scope="module")
def run() -> Callable[[Callable[[Cluster], Awaitable[None]]], None]:
    """Return what plays a scene on a cluster of its own."""

    def play(scene: Callable[[Cluster], Awaitable[None]]) -> None:
        async def staged() -> None:
            async with asyncio.timeout(DEADLINE_S), valkey_cluster() as cluster:
                await scene(cluster)

        asyncio.run(staged())

    return play


@contextlib.asynccontextmanager
async def publishing(cluster: Cluster) -> AsyncIterator[RedisPublisher]:
    publisher = RedisPublisher(cluster.url, channel_prefix=PREFIX)
    try:
        yield publisher
    finally:
        await publisher.close()


class ShardSubscriber:
    """What a subscriber at the server of one channel gets."""

    def __init__(self, client: Redis, channel: str) -> None:
        self._pubsub = client.pubsub()
        self._channel = channel

    async def __aenter__(self) -> Self:
        await self._pubsub.ssubscribe(self._channel)
        assert await self._next() is not None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()

    async def take(self, count: int) -> list[bytes]:
        return [(await self._next())["data"] for _ in range(count)]

    async def _next(self) -> dict[str, Any]:
        while True:
            message: dict[str, Any] | None = await self._pubsub.get_message(timeout=None)
            if message is not None:
                return message


async def subscribed(cluster: Cluster, channel: str) -> ShardSubscriber:
    return ShardSubscriber((await cluster.node_of(channel)).client, channel)


@contextlib.contextmanager
def stopped(node: Node) -> Any:
    os.kill(node.child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.child.pid, signal.SIGCONT)


def numbered(first: int, count: int, book: str = "NIFTY") -> Outgoing:
    messages = [(f"{PREFIX}ticks:{book}", b"%d" % number) for number in range(first, first + count)]
    return Outgoing(messages=messages)


def test_a_cluster_is_known_for_one(run: Any) -> None:
    async def scene(cluster: Cluster) -> None:
        async with publishing(cluster) as publisher:
            assert await publisher.check() == "cluster"
            assert await publisher.check() == "cluster"

    run(scene)


def test_every_book_arrives_in_order_at_its_own_server(run: Any) -> None:
    async def scene(cluster: Cluster) -> None:
        channels = [f"{PREFIX}ticks:{{{book}}}" for book in BOOKS]
        owners = {(await cluster.node_of(channel)).port for channel in channels}
        assert len(owners) == len(cluster.nodes), "the books must be on all servers to prove it"
        async with contextlib.AsyncExitStack() as stack, publishing(cluster) as publisher:
            subscribers = [
                await stack.enter_async_context(await subscribed(cluster, channel))
                for channel in channels
            ]
            for start in range(0, 100, 20):
                together = Outgoing.join(numbered(start, 20, book) for book in BOOKS)
                await publisher.send(together)
            for subscriber in subscribers:
                assert await subscriber.take(100) == [b"%d" % number for number in range(100)]

    run(scene)


def test_a_book_s_channel_and_keys_share_a_server(run: Any) -> None:
    async def scene(cluster: Cluster) -> None:
        async with publishing(cluster) as publisher:
            names = [f"{PREFIX}{kind}:NIFTY" for kind in ("snapshot", "arrow-snapshot")]
            await publisher.send(Outgoing(values=[(name, b"rows", LONG_MS) for name in names]))
            node = await cluster.node_of(f"{PREFIX}ticks:{{NIFTY}}")
            for name in ("snapshot", "arrow-snapshot"):
                assert await node.client.get(f"{PREFIX}{name}:{{NIFTY}}") == b"rows"
            assert await publisher.longest_life_ms([*names, f"{PREFIX}snapshot:NOSUCH"]) > 0

    run(scene)


def test_a_book_that_moves_to_another_server_loses_nothing(run: Any) -> None:
    async def scene(cluster: Cluster) -> None:
        channel = f"{PREFIX}ticks:{{NIFTY}}"
        source = await cluster.node_of(channel)
        target = next(node for node in cluster.nodes if node is not source)
        async with publishing(cluster) as publisher:
            async with await subscribed(cluster, channel) as before:
                await publisher.send(numbered(0, 3))
                assert await before.take(3) == [b"0", b"1", b"2"]
            await cluster.move(channel, target)
            async with await subscribed(cluster, channel) as after:
                await publisher.send(numbered(3, 3))
                assert await after.take(3) == [b"3", b"4", b"5"]

    run(scene)


def test_a_server_that_stands_still_is_an_error_and_then_used_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_servers, "SOCKET_S_MAX", 0.5)

    async def scene(cluster: Cluster) -> None:
        channel = f"{PREFIX}ticks:{{NIFTY}}"
        node = await cluster.node_of(channel)
        async with publishing(cluster) as publisher, await subscribed(cluster, channel) as book:
            await publisher.send(numbered(0, 1))
            with stopped(node):
                for _ in range(2):
                    with pytest.raises(PublishError):
                        await publisher.send(numbered(1, 1))
            while True:
                try:
                    await publisher.send(numbered(1, 1))
                except PublishError:
                    await asyncio.sleep(0.05)
                else:
                    break
            await publisher.send(numbered(2, 1))
            got = await book.take(3)
            while got[-1] != b"2":
                got += await book.take(1)
            assert list(dict.fromkeys(got)) == [b"0", b"1", b"2"]

    run(scene)


def an_event(account: Account, account_seq: int) -> OrderEvent:
    return OrderEvent(
        event_id=uuid.uuid4(),
        account=account,
        account_seq=account_seq,
        task_id=uuid.UUID(int=7),
        version=account_seq,
        event="acked",
        event_version=1,
        at_ns=1,
        principal="desk",
        client_order_id="c-1",
        state=TaskState.ACKED,
        data={},
    )


def test_order_events_of_an_account_lie_on_one_server_in_order(run: Any) -> None:
    async def scene(cluster: Cluster) -> None:
        account = Account("AB1234")
        channel, stream = f"{PREFIX}orders:{{AB1234}}", f"{PREFIX}orderlog:{{AB1234}}"
        node = await cluster.node_of(channel)
        assert await cluster.node_of(stream) is node
        events = RedisOrderEvents(cluster.url, channel_prefix=PREFIX)
        try:
            async with await subscribed(cluster, channel) as orders:
                told = [an_event(account, number) for number in (1, 2, 3)]
                await events.publish(account, told)
                await events.publish(account, told[1:])  # delivered again: the stream refuses it
                numbers = [orjson.loads(raw)["account_seq"] for raw in await orders.take(5)]
            assert numbers == [1, 2, 3, 2, 3]
            kept = await node.client.xrange(stream)
            assert [entry for entry, _ in kept] == [b"1-0", b"2-0", b"3-0"]
        finally:
            await events.close()

    run(scene)


def test_notices_for_everybody_have_a_channel_without_a_tag(run: Any) -> None:
    async def scene(cluster: Cluster) -> None:
        events = RedisOrderEvents(cluster.url, channel_prefix=PREFIX)
        try:
            async with await subscribed(cluster, f"{PREFIX}events") as notices:
                await events.post({"kind": "breaker"})
                assert await notices.take(1) == [b'{"kind":"breaker"}']
        finally:
            await events.close()

    run(scene)
