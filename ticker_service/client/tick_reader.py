"""Read books from Redis without being fooled by what got lost.

Subscribe, buffer, fetch the snapshot, drop what it already holds, apply the rest (DESIGN D10). A
missing ``seq`` starts that over, so that what the reader yields is complete or says that it is not.
A connection that breaks is made anew; what was lost meanwhile shows as a missing ``seq``.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ticker_service.errors import ConfigurationError
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

UNNUMBERED_KINDS: Final = frozenset({"heartbeat"})
"""They repeat the last ``seq``; every other kind consumes one, those of later versions, too."""
SUPPORTED_VERSION: Final = 1
SNAPSHOT_RETRY_S: Final = 0.1
WAITING_MAX: Final = 1_000
"""How many messages of a book may wait for its snapshot, which is renewed twice a second."""
EPOCH_SILENT_S: Final = 3.0
"""A lower epoch is followed once the higher one has said nothing for so long."""
CONNECTION_SILENT_S_MAX: Final = 30.0
"""A connection on which nothing came for so long, three of the slowest heartbeats, is given up."""
REQUEST_S_MAX: Final = 5.0
RECONNECT: Final = Backoff(delay_s_min=0.05, delay_s_max=5.0)
CONNECTION_LOST: Final = (RedisConnectionError, RedisTimeoutError, OSError)
ACCESS_REFUSED: Final = (AuthenticationError, AuthorizationError)
"""Kinds of a lost connection, to redis; trying again does not help against them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a book: its ``kind``, its ``book``, and everything it says in ``body``.

    ``kind`` is ``batch``, ``heartbeat``, ``gap``, ``status`` or ``smile`` as published,
    ``snapshot`` for the rows a reader starts from, and ``missed`` when numbers were skipped (a
    snapshot follows).
    The body of ``missed`` says ``expected_seq``, ``seq`` and ``epoch``; with the ``reason``
    ``epoch_stepped_back`` a publisher of a lower epoch is followed from here on, and nothing is
    known of how many messages lie between.
    """

    kind: str
    book: str
    body: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """Return a batch's or snapshot's columns as one dict per row; for small uses."""
        columns: dict[str, list[Any]] = self.body["columns"]
        names = list(columns)
        return [
            dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)
        ]


@dataclass(slots=True)
class _Position:
    """Where a book stands: the last number seen, and what waits while it has no snapshot."""

    epoch: int
    seq: int
    waiting: list[Message] | None
    heard_at_s: float
    asked_at_s: float = 0.0


class TickReader:
    """Yields the messages of some books in order, starting each book from its snapshot.

    Use as ``async with TickReader(url, ["NIFTY"]) as reader: async for message in reader``.
    One task reads; it may be cancelled between messages.
    """

    def __init__(
        self, redis_url: str, books: Sequence[str], *, channel_prefix: str = "ticker:v1:"
    ) -> None:
        """Take what to read.

        Args:
            redis_url: Address of the Redis server.
            books: Names of books, such as ``NIFTY``.
            channel_prefix: The publisher's setting of the same name.

        Raises:
            ConfigurationError: The address is not one of a Redis server.
        """
        self.missed = 0
        """Numbers that never arrived, after each book's first snapshot."""
        self._redis: Redis = _client(redis_url)
        self._prefix = channel_prefix
        self._books = list(books)
        self._positions: dict[str, _Position] = {}
        self._begun: set[str] = set()  # books whose first snapshot has been shown
        self._monotonic_s = time.monotonic
        self._chance = random.Random()  # noqa: S311 - jitter, not a secret
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)

    async def __aenter__(self) -> Self:
        """Subscribe; messages are kept by the connection from here on."""
        await self._subscribe()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Unsubscribe and give the connections back."""
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis leaves it untyped
        await self._redis.aclose()

    async def instruments(self, book: str) -> dict[int, dict[str, Any]]:
        """Return what a book's tokens stand for, by token; empty while nobody publishes the book.

        Fields: ``tradingsymbol``, ``exchange``, ``instrument_type``, ``expiry``, ``strike``,
        ``lot_size``, ``price_step``.
        """
        async with asyncio.timeout(REQUEST_S_MAX):
            raw = await self._redis.get(f"{self._prefix}instruments:{book}")
        if raw is None:
            return {}
        rows = Message("instruments", book, orjson.loads(raw)).rows()
        return {row["instrument_token"]: row for row in rows}

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until the caller stops.

        Raises:
            redis.exceptions.AuthenticationError: The server took the password back.
        """
        arriving = self._pubsub.listen()
        while True:
            try:
                async with asyncio.timeout(CONNECTION_SILENT_S_MAX):
                    raw = await anext(arriving, None)
            except ACCESS_REFUSED:
                raise
            except CONNECTION_LOST:
                await self._subscribe_again()
                arriving = self._pubsub.listen()
                continue
            if raw is None:
                return
            body: dict[str, Any] = orjson.loads(raw["data"])
            if body.get("v") != SUPPORTED_VERSION:
                continue
            for message in await self._accept(Message(body["kind"], body["book"], body)):
                yield message

    async def _subscribe(self) -> None:
        async with asyncio.timeout(REQUEST_S_MAX):
            await self._pubsub.subscribe(*(f"{self._prefix}ticks:{book}" for book in self._books))

    async def _subscribe_again(self) -> None:
        """Subscribe over a new connection, however long that takes.

        What was published meanwhile is noticed by its numbers, as any loss is.
        """
        attempt = 0
        while True:
            await asyncio.sleep(RECONNECT.delay_s(attempt, self._chance))
            attempt += 1
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # as above
            self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
            try:
                await self._subscribe()
            except ACCESS_REFUSED:
                raise
            except CONNECTION_LOST:
                continue
            return

    async def _accept(self, message: Message) -> list[Message]:
        """Return what the caller should see now that this message came."""
        position = self._positions.get(message.book)
        epoch, seq = message.body["epoch"], message.body["seq"]
        if position is None or epoch > position.epoch:
            return await self._restart(message)
        if epoch < position.epoch:
            return await self._step_back(position, message)
        position.heard_at_s = self._monotonic_s()
        expected = position.seq + (message.kind not in UNNUMBERED_KINDS)
        if seq < expected:
            # A repeat of what we have; a heartbeat may also have crossed the snapshot.
            return []
        if seq > expected:
            return await self._lose(message, {"expected_seq": expected, "seq": seq, "epoch": epoch})
        position.seq = seq
        if position.waiting is None:
            return [message]
        position.waiting.append(message)
        return await self._catch_up(position, message.book)

    async def _step_back(self, position: _Position, message: Message) -> list[Message]:
        """Follow a lower epoch, but only once the higher one has gone silent.

        Epochs come from the publisher's clock. One that stepped back, or a publisher that moved to
        another host, must not silence a consumer for ever; a publisher of the past, whose last
        messages arrive beside those of its successor, must not be believed.
        """
        if self._monotonic_s() - position.heard_at_s < EPOCH_SILENT_S:
            return []
        epoch, seq = message.body["epoch"], message.body["seq"]
        facts = {"expected_seq": seq, "seq": seq, "epoch": epoch, "reason": "epoch_stepped_back"}
        return await self._lose(message, facts)

    async def _lose(self, message: Message, facts: dict[str, Any]) -> list[Message]:
        """Begin the book anew; a caller who has seen some of it is told what is missing."""
        if message.book not in self._begun:
            return await self._restart(message)
        self.missed += facts["seq"] - facts["expected_seq"]
        return [Message("missed", message.book, facts), *await self._restart(message)]

    async def _restart(self, message: Message) -> list[Message]:
        """Begin the book anew: this message waits until a snapshot reaches up to it."""
        epoch, seq = message.body["epoch"], message.body["seq"]
        position = _Position(epoch, seq, [message], self._monotonic_s())
        self._positions[message.book] = position
        return await self._catch_up(position, message.book)

    async def _catch_up(self, position: _Position, book: str) -> list[Message]:
        """Fetch the snapshot; once it joins what waits, return it and what it does not hold."""
        waiting = position.waiting or []
        now_s = self._monotonic_s()
        if now_s - position.asked_at_s < SNAPSHOT_RETRY_S and len(waiting) < WAITING_MAX:
            return []
        position.asked_at_s = now_s
        snapshot = await self._snapshot(book)
        if snapshot is None or snapshot["epoch"] != position.epoch:
            del waiting[:-1]  # nothing to join to yet; the newest still tells where we stand
            return []
        first = waiting[0]
        joins_at = first.body["seq"] - (first.kind not in UNNUMBERED_KINDS)
        if snapshot["seq"] < joins_at:
            # Set before the first message that waits: what came between is in the next snapshot.
            del waiting[:-WAITING_MAX]
            return []
        self._begun.add(book)
        position.waiting = None
        position.seq = max(position.seq, snapshot["seq"])
        newer = [m for m in waiting if m.body["seq"] > snapshot["seq"]]
        return [Message("snapshot", book, snapshot), *newer]

    async def _snapshot(self, book: str) -> dict[str, Any] | None:
        """Return a book's snapshot, or None while there is none or it cannot be read."""
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                raw = await self._redis.get(f"{self._prefix}snapshot:{book}")
        except ACCESS_REFUSED:
            raise
        except CONNECTION_LOST:
            return None  # asked for again with a later message
        snapshot: dict[str, Any] | None = orjson.loads(raw) if raw else None
        return snapshot


def _client(redis_url: str) -> Redis:
    """Return a client; what is wrong with its address is told without repeating it.

    The address may hold a password, and parts of it show in what redis says.
    """
    try:
        client: Redis = Redis.from_url(redis_url)
        # Only this looks at every parameter of the address; it connects to nothing.
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # as above
    except (ValueError, TypeError):
        raise ConfigurationError(
            "the Redis address must be like redis://HOST:PORT/DATABASE (or rediss://, unix://), "
            "its port 0 to 65535 and its password percent-encoded"
        ) from None
    return client
