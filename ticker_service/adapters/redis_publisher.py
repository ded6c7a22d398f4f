"""Redis pub/sub and snapshot keys. Port ``TickPublisher``.

One pipeline per flush: one round trip, and the order of messages is the order of the list; on a
cluster one per server, and the order within a book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.adapters.redis_servers import RedisServers, words
from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.ports import Outgoing

CONNECTIONS_MAX: Final = 2
REFUSALS_PER_WARNING: Final = 100

log = structlog.get_logger()


class RedisPublisher:
    """Sends to the server or cluster of one URL."""

    def __init__(self, url: str, *, channel_prefix: str) -> None:
        self.refused_values = 0
        self._servers = RedisServers(
            url,
            channel_prefix=channel_prefix,
            client_name="ticker-service",
            connections_max=CONNECTIONS_MAX,
        )

    async def check(self) -> str:
        """Ask for a sign of life, and return what is there: a server or a cluster.

        Raises:
            PublishError: It is not there, does not answer, or refuses us.
        """
        await self._servers.look()
        return "cluster" if self._servers.is_cluster else "server"

    async def longest_life_ms(self, keys: Sequence[str]) -> int:
        """Return how long the last of these keys will still be there; 0 if there is none.

        Raises:
            PublishError: It does not answer.
        """
        exchange = await self._servers.exchange()
        for key in keys:
            exchange.commands.pttl(self._servers.name(key))
        answers = await exchange.send()
        _refuse(answers)
        return max(0, *map(int, answers))  # negative: no such key

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what these keys hold; None where there is nothing that we may read.

        Raises:
            PublishError: It does not answer.
        """
        exchange = await self._servers.exchange()
        for key in keys:
            exchange.commands.get(self._servers.name(key))
        answers = await exchange.send()
        return [answer if isinstance(answer, bytes) else None for answer in answers]

    async def send(self, outgoing: Outgoing) -> None:
        """Send everything in order in one exchange.

        Raises:
            PublishError: Not confirmed; some or all of it may have been delivered.
        """
        exchange = await self._servers.exchange()
        for channel, message in outgoing.messages:
            exchange.publish(channel, message)
        for key, value, lifetime_ms in outgoing.values:
            exchange.commands.set(self._servers.name(key), value, px=lifetime_ms)
        answers = await exchange.send()
        _refuse(answers[: len(outgoing.messages)])
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        if not refused:
            return
        # A full memory or a missing right must not stop the ticks: a key that is not renewed ends
        # by itself, and a reader that finds none waits for one.
        self.refused_values += len(refused)
        if self.refused_values % REFUSALS_PER_WARNING == len(refused):
            log.warning("snapshot_refused", refused=self.refused_values, error=words(refused[0]))

    async def close(self) -> None:
        """Give the connections back."""
        await self._servers.close()


def _refuse(answers: Sequence[object]) -> None:
    """Raise the first error among some answers."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise PublishError(f"Redis refused a message: {words(answer)}") from answer
