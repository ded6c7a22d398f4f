"""Order events on Redis: a channel and a bounded stream per account, and notices for everybody.

Ports ``OrderEventSink`` and ``NoticeBoard``.

The stream's ids are the account's own numbers, so an event that is delivered again is refused there
and a reader can ask for what comes after a number. Pub/sub gets it again; subscribers drop what
they have by ``account_seq`` (docs/wire.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ticker_service.domain.order import event_message
from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.domain.order import Account, OrderEvent

STREAM_LENGTH_MAX: Final = 100_000
SOCKET_S_MAX: Final = 2.0
ALREADY_THERE: Final = "equal or smaller"


class RedisOrderEvents:
    """Publishes to ``orders:ACCOUNT`` and appends to ``orderlog:ACCOUNT``."""

    def __init__(self, url: str, *, channel_prefix: str) -> None:
        self._prefix = channel_prefix
        self._redis: Redis = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            socket_timeout=SOCKET_S_MAX,
            socket_connect_timeout=SOCKET_S_MAX,
            max_connections=4,
            client_name="ticker-service-orders",
        )

    async def publish(self, account: Account, events: Sequence[OrderEvent]) -> None:
        """Deliver events in order, each at least once.

        Raises:
            PublishError: Not confirmed; the same events will come again.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for event in events:
            message = orjson.dumps(event_message(event))
            pipeline.xadd(
                f"{self._prefix}orderlog:{account}",
                {"event": message},
                id=f"{event.account_seq}-0",
                maxlen=STREAM_LENGTH_MAX,
                approximate=True,
            )
            pipeline.publish(f"{self._prefix}orders:{account}", message)
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise PublishError(f"Redis did not confirm: {type(error).__name__}: {error}") from error
        for answer in answers:
            is_repeat = isinstance(answer, ResponseError) and ALREADY_THERE in str(answer)
            if isinstance(answer, Exception) and not is_repeat:
                raise PublishError(f"Redis did not take an order event: {answer}")

    async def post(self, notice: Mapping[str, object]) -> None:
        """Publish one notice for everybody on ``events``.

        Raises:
            PublishError: Not confirmed.
        """
        try:
            await self._redis.publish(f"{self._prefix}events", orjson.dumps(notice))
        except (RedisError, OSError) as error:
            raise PublishError(f"Redis did not confirm: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()
