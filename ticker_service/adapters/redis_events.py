"""Order events on Redis: a channel and a bounded stream per account, and notices for everybody.

Ports ``OrderEventSink`` and ``NoticeBoard``.

The stream's ids are the account's own numbers, so an event that is delivered again is refused there
and a reader can ask for what comes after a number. Pub/sub gets it again; subscribers drop what
they have by ``account_seq`` (docs/wire.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from redis.exceptions import ResponseError

from ticker_service.adapters.redis_servers import RedisServers, words
from ticker_service.domain.order import event_message
from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.domain.order import Account, OrderEvent

STREAM_LENGTH_MAX: Final = 100_000
CONNECTIONS_MAX: Final = 4
ALREADY_THERE: Final = "equal or smaller"


class RedisOrderEvents:
    """Publishes to ``orders:ACCOUNT`` and appends to ``orderlog:ACCOUNT``."""

    def __init__(self, url: str, *, channel_prefix: str) -> None:
        self._prefix = channel_prefix
        self._servers = RedisServers(
            url,
            channel_prefix=channel_prefix,
            client_name="ticker-service-orders",
            connections_max=CONNECTIONS_MAX,
        )

    async def publish(self, account: Account, events: Sequence[OrderEvent]) -> None:
        """Deliver events in order, each at least once.

        Raises:
            PublishError: Not confirmed; the same events will come again.
        """
        exchange = await self._servers.exchange()
        for event in events:
            message = orjson.dumps(event_message(event))
            exchange.commands.xadd(
                self._servers.name(f"{self._prefix}orderlog:{account}"),
                {"event": message},
                id=f"{event.account_seq}-0",
                maxlen=STREAM_LENGTH_MAX,
                approximate=True,
            )
            exchange.publish(f"{self._prefix}orders:{account}", message)
        answers = await exchange.send()
        for answer in answers:
            is_repeat = isinstance(answer, ResponseError) and ALREADY_THERE in str(answer)
            if isinstance(answer, Exception) and not is_repeat:
                raise PublishError(f"Redis did not take an order event: {answer}")

    async def post(self, notice: Mapping[str, object]) -> None:
        """Publish one notice for everybody on ``events``.

        Raises:
            PublishError: Not confirmed.
        """
        exchange = await self._servers.exchange()
        exchange.publish(f"{self._prefix}events", orjson.dumps(notice))
        for answer in await exchange.send():
            if isinstance(answer, Exception):
                raise PublishError(f"Redis did not take a notice: {words(answer)}")

    async def close(self) -> None:
        """Give the connections back."""
        await self._servers.close()
