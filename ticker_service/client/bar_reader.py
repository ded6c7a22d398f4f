"""Read finished bars of books from Redis, and be told what did not arrive.

Bars have no snapshot: what is missing is told as ``missed`` and is to be had from Kite's candles;
the newest is kept under a key for who joins (docs/wire.md, "Bars").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ticker_service.client.messages import Message, from_json
from ticker_service.client.reader import EPOCH_SILENT_S, UNNUMBERED_KINDS, ChannelReader
from ticker_service.domain.bar import BAR_SECONDS
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class _Position:
    epoch: int
    seq: int
    heard_at_s: float


class BarReader(ChannelReader):
    """Yields ``bars``, ``gap`` and ``heartbeat`` of some books at one interval, and ``missed``.

    Use as ``async with BarReader(url, ["NIFTY"], "1m") as reader: async for message in reader``.
    One task reads. ``missed`` says ``expected_seq``, ``seq`` and ``epoch``: messages between them
    never came, or a new run of the publisher has begun.
    """

    def __init__(
        self,
        redis_url: str,
        books: Sequence[str],
        interval: str,
        *,
        channel_prefix: str = "ticker:v1:",
    ) -> None:
        """Take what to read.

        Args:
            redis_url: Address of the Redis server, or of any server of a cluster.
            books: Names of books, such as ``NIFTY``.
            interval: One of those that the publisher's setting ``bars`` names, such as ``1m``.
            channel_prefix: The publisher's setting of the same name.

        Raises:
            ConfigurationError: The address is not one of a Redis server, a book is named twice, or
                there is no such interval.
        """
        if interval not in BAR_SECONDS:
            raise ConfigurationError(f"interval={interval!r}: must be one of {list(BAR_SECONDS)}")
        channels = [f"{channel_prefix}bars:{book}:{interval}" for book in books]
        super().__init__(redis_url, books, channels, channel_prefix=channel_prefix)
        self._interval = interval
        self._positions: dict[str, _Position] = {}

    async def newest(self, book: str) -> Message | None:
        """Return a book's newest finished bars, None while the key is not there."""
        raw = await self._source.get(f"{self._prefix}bar:{book}:{self._interval}")
        return from_json(raw) if raw else None

    def _read(self, raw: bytes) -> Message | None:
        return from_json(raw)

    async def _accept(self, message: Message) -> None:
        epoch, seq = message.body["epoch"], message.body["seq"]
        is_numbered = message.kind not in UNNUMBERED_KINDS
        now_s = self._monotonic_s()
        position = self._positions.get(message.book)
        if position is None:
            # Who joins has missed nothing that was promised.
            position = _Position(epoch, seq - is_numbered, now_s)
            self._positions[message.book] = position
        if epoch != position.epoch:
            is_past = now_s - position.heard_at_s < EPOCH_SILENT_S
            if epoch < position.epoch and is_past:
                return  # the last words of an earlier run
            self._tell(message.book, 1, seq, epoch)
            position.epoch, position.seq = epoch, seq - is_numbered
        position.heard_at_s = now_s
        expected = position.seq + is_numbered
        if seq < expected:
            return  # sent again because nobody confirmed it
        if seq > expected:
            self.missed += seq - expected
            self._tell(message.book, expected, seq, epoch)
        position.seq = seq
        self._ready.append(message)

    def _tell(self, book: str, expected_seq: int, seq: int, epoch: int) -> None:
        facts = {"expected_seq": expected_seq, "seq": seq, "epoch": epoch}
        self._ready.append(Message("missed", book, facts))
