"""A Redis server, or a cluster of them, behind one address.

Which of the two is asked once, in the first exchange. On a cluster every name is written with a
hash tag, so that all of a book lies on one server, and channels are sharded ones (``SPUBLISH``):
plain ``PUBLISH`` would be carried to every server of the cluster (DESIGN D18).

The client's own retries are off, because a retry it makes on its own can deliver twice without our
knowing and takes seconds against a dead server; the caller decides when to send again (DESIGN D3).
Only a redirection is followed at once: the server that gave it has done nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterError,
    MasterDownError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ticker_service.domain.book import hash_tagged
from ticker_service.errors import PublishError
from ticker_service.runtime.redis_mode import is_cluster_mode

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline
    from redis.asyncio.cluster import ClusterPipeline

    from ticker_service.ports import Payload

SOCKET_S_MAX: Final = 2.0
FAILURES: Final = (RedisError, RedisClusterException, OSError)
"""What the client raises when an exchange fails; the cluster's own is no ``RedisError`` to it."""


_MOVED: Final = (
    AskError,
    ClusterError,
    MasterDownError,
    ReadOnlyError,
    RedisConnectionError,
    RedisTimeoutError,
    TryAgainError,
)
"""Answers to a single command that say that another server of the cluster is to be asked."""


class RedisServers:
    """Exchanges with the server or servers of one URL, which may hold a password, never shown."""

    def __init__(
        self, url: str, *, channel_prefix: str, client_name: str, connections_max: int
    ) -> None:
        """Take the address; nothing is connected yet.

        Args:
            url: Of the server, or of any server of the cluster.
            channel_prefix: What every name begins with.
            client_name: How we call ourselves in the server's list of clients.
            connections_max: To each server.
        """
        self._url = url
        self._prefix = channel_prefix
        self._options: dict[str, Any] = {
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "socket_timeout": SOCKET_S_MAX,
            "socket_connect_timeout": SOCKET_S_MAX,
            "max_connections": connections_max,
            "client_name": client_name,
        }
        self._one: Redis = Redis.from_url(url, **self._options)
        self._cluster: RedisCluster | None = None
        self._is_known = False

    async def look(self) -> None:
        """Ask for a sign of life, and once what the server is.

        Raises:
            PublishError: It is not there, does not answer, or refuses us.
        """
        try:
            if self._is_known:
                await self._ping()
            else:
                await self._find_out()
        except FAILURES as error:
            raise PublishError(f"Redis does not answer: {words(error)}") from error

    async def exchange(self, *, is_whole: bool = False) -> Exchange:
        """Return an empty exchange.

        Args:
            is_whole: Whether a server on its own does all of it or nothing. A cluster's client has
                no such exchange that would not start a thread for each command.

        Raises:
            PublishError: What the server is, is not known yet, and it does not answer.
        """
        await self.find_out()
        return Exchange(self, is_whole=is_whole)

    async def find_out(self) -> bool:
        """Return whether these are servers of a cluster; raises as :meth:`exchange`."""
        if not self._is_known:
            try:
                await self._find_out()
            except FAILURES as error:
                raise PublishError(f"Redis did not confirm: {words(error)}") from error
        return self.is_cluster

    def name(self, name: str) -> str:
        """Return a channel or key as these servers spell it."""
        return name if self._cluster is None else hash_tagged(name, self._prefix)

    async def close(self) -> None:
        """Give the connections back."""
        await self._one.aclose()
        await self.forget()

    async def forget(self) -> None:
        """Leave the cluster's servers; who holds what is asked anew in the next exchange."""
        if self._cluster is not None:
            await self._cluster.aclose()

    def pipeline(self, *, is_whole: bool) -> Pipeline | ClusterPipeline:
        """Return the client's list of commands, to be sent to each server in one piece."""
        if self._cluster is not None:
            return self._cluster.pipeline()
        return self._one.pipeline(transaction=is_whole)

    @property
    def is_cluster(self) -> bool:
        """Whether these are servers of a cluster; False until known."""
        return self._cluster is not None

    async def _find_out(self) -> None:
        await self._one.ping()
        if is_cluster_mode(await self._hello()):
            self._cluster = RedisCluster.from_url(self._url, **self._options)
            await self._one.aclose()
        self._is_known = True

    async def _ping(self) -> None:
        if self._cluster is None:
            await self._one.ping()
        else:
            await self._cluster.ping()

    async def _hello(self) -> object:
        try:
            return await self._one.execute_command("HELLO")  # type: ignore[no-untyped-call]
        except ResponseError:
            return None  # a server without this command is none of a cluster with sharded channels


class Exchange:
    """Commands that go out together and keep their order, each book's on its server."""

    def __init__(self, servers: RedisServers, *, is_whole: bool) -> None:
        self._servers = servers
        self.commands: Any = servers.pipeline(is_whole=is_whole)
        """The client's commands; names must be given as :meth:`RedisServers.name` spells them."""

    def publish(self, channel: str, message: Payload) -> None:
        """Add a message to a channel."""
        name = self._servers.name(channel)
        if self._servers.is_cluster:
            self.commands.spublish(name, message)
        else:
            self.commands.publish(name, message)

    async def send(self) -> list[Any]:
        """Send everything and return the answers in order, errors of single commands among them.

        Raises:
            PublishError: Not confirmed; some or all of it may have been delivered.
        """
        try:
            answers: list[Any] = await self.commands.execute(raise_on_error=False)
        except FAILURES as error:
            await self._servers.forget()
            raise PublishError(f"Redis did not confirm: {words(error)}") from error
        if any(isinstance(answer, _MOVED) for answer in answers):
            await self._servers.forget()
        return answers


def is_readable_url(url: str) -> bool:
    """Return whether the client can read an address; its own words may quote the password."""
    try:
        parse_url(url)
        return urlsplit(url).port != 0
    except ValueError:
        return False


def words(error: BaseException) -> str:
    """Return what went wrong for people."""
    return f"{type(error).__name__}: {error}"
