"""Read books from Redis without being fooled by what got lost.

Subscribe, buffer, fetch the snapshot, drop what it already holds, apply the rest (DESIGN D10). A
missing ``seq`` starts that over, so that what the reader yields is complete or says that it is not.
A connection that breaks is made anew; what was lost meanwhile shows as a missing ``seq``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ticker_service.client.book_table import BookTable
from ticker_service.client.lines import ACCESS_REFUSED, CONNECTION_LOST
from ticker_service.client.messages import (
    CHANNELS,
    SNAPSHOTS,
    Encoding,
    Message,
    from_json,
    reader_of,
)
from ticker_service.client.reader import EPOCH_SILENT_S, UNNUMBERED_KINDS, ChannelReader
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SNAPSHOT_RETRY_S: Final = 0.1
WAITING_MAX: Final = 1_000
"""How many messages of a book may wait for its snapshot, which is renewed twice a second."""
PRUNE_S: Final = 10.0
"""How often a table is rid of what is no longer subscribed; no message says that."""
GAPS_MAX: Final = 100
"""Gaps of a book that are kept while it waits for its snapshot; then the oldest go."""


@dataclass(slots=True)
class _Position:
    """Where a book stands: the last number seen, and what waits while it has no snapshot."""

    epoch: int
    seq: int
    waiting: list[Message] | None
    heard_at_s: float
    asked_at_s: float = 0.0
    pruned_at_s: float = 0.0
    gaps: deque[Message] = field(default_factory=lambda: deque(maxlen=GAPS_MAX))

    def note_gap(self, message: Message) -> None:
        """Keep a gap that came while there is no snapshot."""
        if message.kind == "gap":
            self.gaps.append(message)


class TickReader(ChannelReader):
    """Yields the messages of some books in order, starting each book from its snapshot.

    Use as ``async with TickReader(url, ["NIFTY"]) as reader: async for message in reader``.
    One task reads. It may be cancelled while it waits, and go on reading afterwards: nothing that
    was received is lost by that.
    """

    def __init__(
        self,
        redis_url: str,
        books: Sequence[str],
        *,
        channel_prefix: str = "ticker:v1:",
        encoding: Encoding = "json",
        keep_tables: bool = True,
    ) -> None:
        """Take what to read.

        Args:
            redis_url: Address of the Redis server, or of any server of a cluster.
            books: Names of books, such as ``NIFTY``.
            channel_prefix: The publisher's setting of the same name.
            encoding: Which of the publisher's channels to read; ``arrow`` needs pyarrow.
            keep_tables: Keep every book's latest rows (:meth:`table`). It costs some microseconds
                a row with JSON, a tenth of that with Arrow.

        Raises:
            ConfigurationError: The address is not one of a Redis server, a book is named twice, or
                pyarrow is missing.
        """
        channels = [f"{channel_prefix}{CHANNELS[encoding]}:{book}" for book in books]
        super().__init__(redis_url, books, channels, channel_prefix=channel_prefix)
        self._read_one = reader_of(encoding)
        self._snapshot_key = f"{channel_prefix}{SNAPSHOTS[encoding]}:"
        self._tables = {book: BookTable(book) for book in books} if keep_tables else {}
        self._positions: dict[str, _Position] = {}
        self._begun: set[str] = set()  # books whose first snapshot has been shown

    @property
    def tables(self) -> Mapping[str, BookTable]:
        """Every book's latest rows, as of the message yielded last; empty if not kept."""
        return self._tables

    def table(self, book: str) -> BookTable:
        """Return a book's latest rows, as of the message yielded last.

        Raises:
            ConfigurationError: The reader does not read this book, or keeps no tables.
        """
        if book not in self._tables:
            raise ConfigurationError(f"book={book!r}: must be one of {list(self._tables)}")
        return self._tables[book]

    async def instruments(self, book: str) -> dict[int, dict[str, Any]]:
        """Return what a book's tokens stand for, by token; empty while nobody publishes the book.

        Fields: ``tradingsymbol``, ``exchange``, ``instrument_type``, ``expiry``, ``strike``,
        ``lot_size``, ``price_step``, and others of the instruments key (docs/wire.md).
        """
        raw = await self._source.get(f"{self._prefix}instruments:{book}")
        message = from_json(raw) if raw else None
        if message is None:
            return {}
        return {row["instrument_token"]: row for row in message.rows()}

    async def __anext__(self) -> Message:
        """Return the next message, its book's table brought up to it; waits and raises as above."""
        message = await super().__anext__()
        if message.book in self._tables:
            self._tables[message.book].take(message)
        return message

    def _read(self, raw: bytes) -> Message | None:
        return self._read_one(raw)

    async def _accept(self, message: Message) -> None:
        position = self._positions.get(message.book)
        epoch, seq = message.body["epoch"], message.body["seq"]
        if position is None or epoch > position.epoch:
            await self._restart(message)
            return
        if epoch < position.epoch:
            await self._step_back(position, message)
            return
        position.heard_at_s = self._monotonic_s()
        expected = position.seq + (message.kind not in UNNUMBERED_KINDS)
        if seq < expected:
            # A repeat of what we have; a heartbeat may also have crossed the snapshot.
            return
        if seq > expected:
            await self._lose(message, {"expected_seq": expected, "seq": seq, "epoch": epoch})
            return
        position.seq = seq
        if position.waiting is None:
            if message.kind == "heartbeat":
                await self._prune(position, message.book)
            self._ready.append(message)
            return
        position.waiting.append(message)
        position.note_gap(message)
        await self._catch_up(position, message.book)

    async def _step_back(self, position: _Position, message: Message) -> None:
        """Follow a lower epoch, but only once the higher one has gone silent.

        Epochs come from the publisher's clock. One that stepped back, or a publisher that moved to
        another host, must not silence a consumer for ever; a publisher of the past, whose last
        messages arrive beside those of its successor, must not be believed.
        """
        if self._monotonic_s() - position.heard_at_s < EPOCH_SILENT_S:
            return
        epoch, seq = message.body["epoch"], message.body["seq"]
        facts = {"expected_seq": seq, "seq": seq, "epoch": epoch, "reason": "epoch_stepped_back"}
        await self._lose(message, facts)

    async def _lose(self, message: Message, facts: dict[str, Any]) -> None:
        """Begin the book anew; a caller who has seen some of it is told what is missing."""
        if message.book in self._begun:
            self.missed += facts["seq"] - facts["expected_seq"]
            self._ready.append(Message("missed", message.book, facts))
        await self._restart(message)

    async def _restart(self, message: Message) -> None:
        """Begin the book anew: this message waits until a snapshot reaches up to it."""
        epoch, seq = message.body["epoch"], message.body["seq"]
        before = self._positions.get(message.book)
        position = _Position(epoch, seq, [message], self._monotonic_s())
        position.gaps += before.gaps if before else ()
        position.note_gap(message)
        self._positions[message.book] = position
        await self._catch_up(position, message.book)

    async def _catch_up(self, position: _Position, book: str) -> None:
        """Fetch the snapshot; once it joins what waits, show it and what it does not hold."""
        waiting = position.waiting or []
        now_s = self._monotonic_s()
        if now_s - position.asked_at_s < SNAPSHOT_RETRY_S and len(waiting) < WAITING_MAX:
            return
        position.asked_at_s = now_s
        snapshot = await self._snapshot(book)
        if snapshot is None or snapshot.body["epoch"] != position.epoch:
            del waiting[:-1]  # nothing to join to yet; the newest still tells where we stand
            return
        first = waiting[0]
        joins_at = first.body["seq"] - (first.kind not in UNNUMBERED_KINDS)
        seq = snapshot.body["seq"]
        if seq < joins_at:
            # Set before the first message that waits: what came between is in the next snapshot.
            del waiting[:-WAITING_MAX]
            return
        if book in self._begun:
            # The snapshot makes good where things stand, and not what a caller who keeps ticks
            # has missed: the gaps that it lies beyond are told before it.
            place = (position.epoch, seq)
            self._ready.extend(gap for gap in position.gaps if _place_of(gap) <= place)
        position.gaps.clear()
        self._begun.add(book)
        position.waiting = None
        position.pruned_at_s = now_s
        position.seq = max(position.seq, seq)
        self._ready.append(snapshot)
        self._ready.extend(message for message in waiting if message.body["seq"] > seq)

    async def _prune(self, position: _Position, book: str) -> None:
        """Drop from a book's table, now and then, what its snapshot no longer holds."""
        now_s = self._monotonic_s()
        if book not in self._tables or now_s - position.pruned_at_s < PRUNE_S:
            return
        position.pruned_at_s = now_s
        snapshot = await self._snapshot(book)
        if snapshot is not None and snapshot.body["epoch"] == position.epoch:
            self._tables[book].prune(snapshot)

    async def _snapshot(self, book: str) -> Message | None:
        """Return a book's snapshot, or None while there is none or it cannot be read."""
        try:
            raw = await self._source.get(self._snapshot_key + book)
        except ACCESS_REFUSED:
            raise
        except CONNECTION_LOST:
            return None  # asked for again with a later message
        return self._read(raw) if raw else None


def _place_of(message: Message) -> tuple[int, int]:
    return message.body["epoch"], message.body["seq"]
