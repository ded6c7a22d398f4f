"""Redis pub/sub and snapshot keys. Port ``TickPublisher``.

One pipeline per flush: one round trip, and the order of messages is the order of the list. The
client's own retries are off, because a retry it makes on its own can deliver twice without our
knowing and takes seconds against a dead server; the pipeline decides when to send again
(DESIGN D3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.ports import Outgoing

SOCKET_S_MAX: Final = 2.0
REFUSALS_PER_WARNING: Final = 100

log = structlog.get_logger()


class RedisPublisher:
    """Sends to the server of one URL; the URL may hold a password and is never shown."""

    def __init__(self, url: str) -> None:
        self.refused_values = 0
        self._redis: Redis = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            socket_timeout=SOCKET_S_MAX,
            socket_connect_timeout=SOCKET_S_MAX,
            max_connections=2,
            client_name="ticker-service",
        )

    async def check(self) -> None:
        """Ask the server for a sign of life.

        Raises:
            PublishError: It is not there, does not answer, or refuses us.
        """
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            raise PublishError(f"Redis does not answer: {_words(error)}") from error

    async def existing(self, keys: Sequence[str]) -> int:
        """Return how many of these keys there are now.

        Raises:
            PublishError: It does not answer.
        """
        try:
            return int(await self._redis.exists(*keys))
        except (RedisError, OSError) as error:
            raise PublishError(f"Redis does not answer: {_words(error)}") from error

    async def send(self, outgoing: Outgoing) -> None:
        """Send everything in order in one exchange.

        Raises:
            PublishError: Not confirmed; some or all of it may have been delivered.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for channel, message in outgoing.messages:
            pipeline.publish(channel, message)
        for key, value, lifetime_ms in outgoing.values:
            pipeline.set(key, value, px=lifetime_ms)
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise PublishError(f"Redis did not confirm: {_words(error)}") from error
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        if not refused:
            return
        if any(isinstance(answer, Exception) for answer in answers[: len(outgoing.messages)]):
            raise PublishError(f"Redis refused a message: {_words(refused[0])}")
        # A full memory or a missing right must not stop the ticks: a key that is not renewed ends
        # by itself, and a reader that finds none waits for one.
        self.refused_values += len(refused)
        if self.refused_values % REFUSALS_PER_WARNING == len(refused):
            log.warning("snapshot_refused", refused=self.refused_values, error=_words(refused[0]))

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()


def is_readable_url(url: str) -> bool:
    """Return whether the client can read an address; its own words may quote the password."""
    try:
        parse_url(url)
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
