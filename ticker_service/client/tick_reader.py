"""Read books from Redis without being fooled by what got lost.

Subscribe, buffer, fetch the snapshot, drop what it already holds, apply the rest (DESIGN D10). A
missing ``seq`` starts that over, so that what the reader yields is complete or says that it is not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from redis.asyncio import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

NUMBERED_KINDS: Final = frozenset({"batch", "gap", "status"})
SUPPORTED_VERSION: Final = 1
SNAPSHOT_RETRY_S: Final = 0.1
WAITING_MAX: Final = 1_000
"""How many messages of a book may wait for its snapshot, which is renewed twice a second."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a book: its ``kind``, its ``book``, and everything it says in ``body``.

    ``kind`` is ``batch``, ``heartbeat``, ``gap`` or ``status`` as published, ``snapshot`` for the
    rows a reader starts from, and ``missed`` when numbers were skipped (a snapshot follows).
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
        """
        self.missed = 0
        """Numbers that never arrived, after each book's first snapshot."""
        self._redis: Redis = Redis.from_url(redis_url)
        self._prefix = channel_prefix
        self._books = list(books)
        self._positions: dict[str, _Position] = {}
        self._monotonic_s = time.monotonic
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)

    async def __aenter__(self) -> Self:
        """Subscribe; messages are kept by the connection from here on."""
        await self._pubsub.subscribe(*(f"{self._prefix}ticks:{book}" for book in self._books))
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
        raw = await self._redis.get(f"{self._prefix}instruments:{book}")
        if raw is None:
            return {}
        rows = Message("instruments", book, orjson.loads(raw)).rows()
        return {row["instrument_token"]: row for row in rows}

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until the caller stops."""
        async for raw in self._pubsub.listen():
            body: dict[str, Any] = orjson.loads(raw["data"])
            if body.get("v") != SUPPORTED_VERSION:
                continue
            for message in await self._accept(Message(body["kind"], body["book"], body)):
                yield message

    async def _accept(self, message: Message) -> list[Message]:
        """Return what the caller should see now that this message came."""
        position = self._positions.get(message.book)
        epoch, seq = message.body["epoch"], message.body["seq"]
        if position is None or epoch > position.epoch:
            return await self._restart(message)
        if epoch < position.epoch:
            return []
        expected = position.seq + 1 if message.kind in NUMBERED_KINDS else position.seq
        if seq < expected:
            # A repeat of what we have; a heartbeat may also have crossed the snapshot.
            return []
        if seq > expected:
            self.missed += seq - expected
            missed = {"expected_seq": expected, "seq": seq, "epoch": epoch}
            return [Message("missed", message.book, missed), *await self._restart(message)]
        position.seq = seq
        if position.waiting is None:
            return [message]
        position.waiting.append(message)
        return await self._catch_up(position, message.book)

    async def _restart(self, message: Message) -> list[Message]:
        """Begin the book anew: this message waits until a snapshot reaches up to it."""
        position = _Position(message.body["epoch"], message.body["seq"], [message])
        self._positions[message.book] = position
        return await self._catch_up(position, message.book)

    async def _catch_up(self, position: _Position, book: str) -> list[Message]:
        """Fetch the snapshot; once it joins what waits, return it and what it does not hold."""
        waiting = position.waiting or []
        now_s = self._monotonic_s()
        if now_s - position.asked_at_s < SNAPSHOT_RETRY_S and len(waiting) < WAITING_MAX:
            return []
        position.asked_at_s = now_s
        raw = await self._redis.get(f"{self._prefix}snapshot:{book}")
        snapshot: dict[str, Any] | None = orjson.loads(raw) if raw else None
        if snapshot is None or snapshot["epoch"] != position.epoch:
            del waiting[:-1]  # nothing to join to yet; the newest still tells where we stand
            return []
        first = waiting[0]
        joins_at = first.body["seq"] - (1 if first.kind in NUMBERED_KINDS else 0)
        if snapshot["seq"] < joins_at:
            # Set before the first message that waits: what came between is in the next snapshot.
            del waiting[:-WAITING_MAX]
            return []
        position.waiting = None
        position.seq = max(position.seq, snapshot["seq"])
        newer = [m for m in waiting if m.body["seq"] > snapshot["seq"]]
        return [Message("snapshot", book, snapshot), *newer]
