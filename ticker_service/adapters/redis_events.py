"""Order events on Redis: a channel and a bounded stream per account, and notices for everybody.

Ports ``OrderEventSink`` and ``NoticeBoard``.

The stream's ids are the account's own numbers, so an event that is delivered again is refused there
and a reader can ask for what comes after a number. Pub/sub gets it again; subscribers drop what
they have by ``account_seq`` (docs/wire.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
import structlog
from redis.exceptions import ResponseError

from ticker_service.adapters.redis_servers import RedisServers, words
from ticker_service.domain.order import event_message
from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.domain.order import Account, OrderEvent

log = structlog.get_logger()

STREAM_LENGTH_MAX: Final = 100_000
CONNECTIONS_MAX: Final = 4
ALREADY_THERE: Final = "equal or smaller"
PUT_ASIDE: Final = ":of-another-journal"
"""Added to the name of a stream that cannot take our events; an older one of this name goes."""


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

        The server takes all or nothing: were one refused, for want of memory, and the next taken,
        the stream would refuse the first for ever after. A cluster gets one after the other.

        Raises:
            PublishError: Not confirmed; the same events will come again.
        """
        is_cluster = await self._servers.find_out()
        for part in [[event] for event in events] if is_cluster else [events]:
            await self._publish(account, part)

    async def _publish(self, account: Account, events: Sequence[OrderEvent]) -> None:
        exchange = await self._servers.exchange(is_whole=True)
        stream = self._servers.name(f"{self._prefix}orderlog:{account}")
        for event in events:
            # Who reads the stream of an account is known to be good for that one alone.
            message = orjson.dumps(event_message(event, may_use=account.__eq__))
            exchange.commands.xadd(
                stream,
                {"event": message},
                id=f"{event.account_seq}-0",
                maxlen=STREAM_LENGTH_MAX,
                approximate=True,
            )
            exchange.publish(f"{self._prefix}orders:{account}", message)
        # Of each event there are two answers, the stream's first.
        repeated = []
        for number, answer in enumerate(await exchange.send()):
            if isinstance(answer, ResponseError) and ALREADY_THERE in str(answer):
                repeated.append(events[number // 2])
            elif isinstance(answer, Exception):
                raise PublishError(f"Redis did not take an order event: {answer}")
        if repeated:
            await self._check_stream(stream, repeated)

    async def _check_stream(self, stream: str, events: Sequence[OrderEvent]) -> None:
        """Hold what the stream says it has against what we have.

        An event is there if the stream holds that very event under its number. A stream of another
        journal, such as that of a database that was made anew, is ahead of ours and would swallow
        our events; so would one with a hole, which can never be filled. It is put aside; nobody's
        truth is in it.

        Raises:
            PublishError: It was in the way; the same events will come again.
        """
        exchange = await self._servers.exchange()
        for event in events:
            number = f"{event.account_seq}-0"
            exchange.commands.xrange(stream, number, number)
        for event, entries in zip(events, await exchange.send(), strict=True):
            if isinstance(entries, Exception):
                raise PublishError(f"Redis does not say what the stream holds: {entries}")
            if not any(_event_id(fields) == str(event.event_id) for _, fields in entries):
                await self._put_aside(stream, event, is_other=bool(entries))

    async def _put_aside(self, stream: str, event: OrderEvent, *, is_other: bool) -> None:
        aside = await self._servers.exchange()
        aside.commands.rename(stream, stream + PUT_ASIDE)
        (answer,) = await aside.send()
        if isinstance(answer, Exception):
            raise PublishError(f"{stream} is in the way and cannot be put aside: {words(answer)}")
        log.error(
            "order_log_conflict",
            stream=stream,
            account_seq=event.account_seq,
            holds="another event" if is_other else "nothing",
            renamed=stream + PUT_ASIDE,
        )
        raise PublishError(f"{stream} held another journal's events and was put aside")

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


def _event_id(fields: Mapping[bytes, bytes]) -> object:
    try:
        return orjson.loads(fields[b"event"])["event_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
