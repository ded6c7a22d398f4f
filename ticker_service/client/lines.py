"""Subscriptions to some channels, at one Redis server or at several of a cluster.

A connection that breaks is made anew, however long that takes; what was published meanwhile is
noticed by its numbers, as any loss is. On a cluster each server that holds some of the channels has
a connection of its own, and when one breaks, or a channel moves to another server, who holds what
is asked anew and all are made again: that is rare, and what it loses is made good like any loss.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ticker_service.client.arrivals import Arrivals
from ticker_service.domain.book import hash_tagged
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.pacing import Backoff
from ticker_service.runtime.redis_mode import is_cluster_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio.client import PubSub

CONNECTION_SILENT_S_MAX: Final = 30.0
"""A connection on which nothing came for so long, three of the slowest heartbeats, is given up."""
REQUEST_S_MAX: Final = 5.0
RECONNECT: Final = Backoff(delay_s_min=0.05, delay_s_max=5.0)
CONNECTION_LOST: Final = (RedisConnectionError, RedisTimeoutError, OSError)
ACCESS_REFUSED: Final = (AuthenticationError, AuthorizationError)
"""Kinds of a lost connection, to redis; trying again does not help against them."""
_ARRIVALS: Final = frozenset({"message", "smessage"})

Address = tuple[str, int]


@dataclass(slots=True)
class _Line:
    """One connection and who carries its messages."""

    client: Redis
    pubsub: PubSub
    carrier: asyncio.Task[None] | None = None


class Lines:
    """The connections of a reader. One task opens, receives and closes."""

    def __init__(self, url: str, channels: Sequence[str], *, channel_prefix: str) -> None:
        """Take what to subscribe to.

        Args:
            url: Of the server, or of any server of the cluster.
            channels: Names as a single server knows them.
            channel_prefix: What every name begins with.

        Raises:
            ConfigurationError: The address is not one of a Redis server.
        """
        self._url = url
        self._client = _client(url)
        self._cluster: RedisCluster | None = None
        self._is_known = False
        self._channels = list(channels)
        self._prefix = channel_prefix
        self._tasks = asyncio.TaskGroup()
        self._lines: list[_Line] = []
        self._arrived = Arrivals()
        self._is_open = False
        self._chance = random.Random()  # noqa: S311 - jitter, not a secret

    async def open(self) -> None:
        """Subscribe; messages are kept from here on.

        Raises:
            redis.exceptions.RedisError: The server does not answer or refuses us.
        """
        await self._tasks.__aenter__()
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                await self._subscribe()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give the connections back."""
        await self._leave()
        # Never with the caller's error: a group would wrap it in one of its own.
        await self._tasks.__aexit__(None, None, None)
        await self._client.aclose()
        if self._cluster is not None:
            await self._cluster.aclose()

    async def get(self, key: str) -> bytes | None:
        """Return what a key holds.

        Raises:
            redis.exceptions.RedisError: The server does not answer or refuses us.
        """
        async with asyncio.timeout(REQUEST_S_MAX):
            if self._cluster is None:
                value: Any = await self._client.get(key)
            else:
                value = await self._cluster.get(hash_tagged(key, self._prefix))
        held: bytes | None = value
        return held

    async def receive(self) -> bytes | None:
        """Return the next message, waiting as long as it takes; may be cancelled.

        Raises:
            redis.exceptions.AuthenticationError: The server took the password back.
        """
        while True:
            if not self._is_open:
                await self._subscribe_again()
            item = await self._arrived.get()
            if isinstance(item, bytes):
                return item
            if isinstance(item, ACCESS_REFUSED):
                raise item
            await self._leave()

    async def _subscribe(self) -> None:
        if not self._is_known:
            await self._find_out()
        self._arrived = Arrivals()
        for address, channels in await self._places():
            client = _client(self._url, address)
            line = _Line(client, client.pubsub())
            self._lines.append(line)
            if self._cluster is None:
                await line.pubsub.subscribe(*channels)
            else:
                for channel in channels:  # one call would have to be for one slot
                    await line.pubsub.ssubscribe(channel)
            carrying = _carry(line.pubsub, self._arrived)
            line.carrier = self._tasks.create_task(carrying, name="carry")
        self._is_open = True

    async def _find_out(self) -> None:
        """Ask the server once whether it is one of a cluster."""
        try:
            hello = await self._client.execute_command("HELLO")  # type: ignore[no-untyped-call]
        except ResponseError:
            hello = None  # too old for a cluster with sharded channels
        if is_cluster_mode(hello):
            self._cluster = RedisCluster.from_url(self._url)
        self._is_known = True

    async def _places(self) -> list[tuple[Address | None, list[str]]]:
        """Return every server that holds some of the channels, and which; None for the only one."""
        if self._cluster is None:
            return [(None, self._channels)]
        await self._cluster.aclose()  # what it knew may be why we are here
        await self._cluster.initialize()
        held: defaultdict[Address | None, list[str]] = defaultdict(list)
        for channel in self._channels:
            name = hash_tagged(channel, self._prefix)
            node = self._cluster.get_node_from_key(name)
            if node is None:
                raise RedisConnectionError(f"no server of the cluster holds {name}")
            held[node.host, int(node.port)].append(name)
        return list(held.items())

    async def _subscribe_again(self) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(RECONNECT.delay_s(attempt, self._chance))
            attempt += 1
            try:
                async with asyncio.timeout(REQUEST_S_MAX):
                    await self._subscribe()
            except ACCESS_REFUSED:
                raise
            except (*CONNECTION_LOST, RedisClusterException, ResponseError):
                await self._leave()
            else:
                return

    async def _leave(self) -> None:
        """Give up all connections; one that is not closed yet is closed the next time."""
        self._is_open = False
        while self._lines:
            line = self._lines[-1]
            if line.carrier is not None:
                line.carrier.cancel()
                await asyncio.wait([line.carrier])
            await line.pubsub.aclose()  # type: ignore[no-untyped-call]  # redis leaves it untyped
            await line.client.aclose()
            self._lines.pop()


async def _carry(pubsub: PubSub, arrived: Arrivals) -> None:
    """Carry one connection's messages to the caller until it breaks, and say that it did."""
    arriving = pubsub.listen()
    try:
        while True:
            async with asyncio.timeout(CONNECTION_SILENT_S_MAX):
                raw: dict[str, Any] = await anext(arriving)
            if raw["type"] in _ARRIVALS:
                await arrived.put(raw["data"])
            elif raw["type"] == "sunsubscribe":
                await arrived.put(RedisConnectionError("the channel moved"))
    except (*CONNECTION_LOST, ResponseError, StopAsyncIteration) as error:
        await arrived.put(error)


def _client(url: str, address: Address | None = None) -> Redis:
    """Return a client; what is wrong with its address is told without repeating it.

    The address may hold a password, and parts of it show in what redis says. The client's own
    retries are off: a subscription that it renews on its own hides the loss from us for as long as
    it tries.
    """
    try:
        options: dict[str, Any] = dict(parse_url(url))
        if address is not None:
            options |= {"host": address[0], "port": address[1]}
        pool = ConnectionPool(retry=Retry(NoBackoff(), 0), retry_on_error=[], **options)
        # Only this looks at every parameter of the address; it connects to nothing.
        pool.make_connection()  # type: ignore[no-untyped-call]  # as above
    except (ValueError, TypeError):
        raise ConfigurationError(
            "the Redis address must be like redis://HOST:PORT/DATABASE (or rediss://, unix://), "
            "its port 0 to 65535 and its password percent-encoded"
        ) from None
    return Redis.from_pool(pool)
