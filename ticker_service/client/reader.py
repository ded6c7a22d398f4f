"""What the readers of channels have in common: subscribe, hand out one message after the other."""

from __future__ import annotations

import abc
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, Self

from ticker_service.client.lines import Lines
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.client.messages import Message

UNNUMBERED_KINDS: Final = frozenset({"heartbeat"})
"""They repeat the last ``seq``; every other kind consumes one, those of later versions, too."""
EPOCH_SILENT_S: Final = 3.0
"""A lower epoch is followed once the higher one has said nothing for so long."""


class Source(Protocol):
    """Where a reader's messages come from."""

    async def open(self) -> None:
        """Subscribe."""
        ...

    async def close(self) -> None:
        """Unsubscribe."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return what a key holds."""
        ...

    async def receive(self) -> bytes | None:
        """Return the next message, None when there will be none."""
        ...


class ChannelReader(abc.ABC):
    """Reads one channel per book; its kinds decide what a message means and what they yield."""

    def __init__(
        self, redis_url: str, books: Sequence[str], channels: Sequence[str], *, channel_prefix: str
    ) -> None:
        """Take what to read; raises ``ConfigurationError`` for a wrong address or books."""
        if len(set(books)) < len(books) or not books:
            raise ConfigurationError(f"books={list(books)!r}: must name one or more, each once")
        self.missed = 0
        """Numbers that never arrived."""
        self.unreadable = 0
        """Messages that were none of this contract's version 1, and were passed over."""
        self._prefix = channel_prefix
        self._source: Source = Lines(redis_url, channels, channel_prefix=channel_prefix)
        self._ready: deque[Message] = deque()
        self._monotonic_s = time.monotonic

    async def __aenter__(self) -> Self:
        """Subscribe; messages are kept by the connection from here on."""
        await self._source.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Unsubscribe and give the connections back."""
        await self._source.close()

    def __aiter__(self) -> Self:
        """Yield messages until the caller stops."""
        return self

    async def __anext__(self) -> Message:
        """Return the next message, waiting as long as it takes.

        Raises:
            redis.exceptions.AuthenticationError: The server took the password back.
        """
        while not self._ready:
            raw = await self._source.receive()
            if raw is None:
                raise StopAsyncIteration
            message = self._read(raw)
            if message is None:
                self.unreadable += 1
            else:
                await self._accept(message)
        return self._ready.popleft()

    @abc.abstractmethod
    def _read(self, raw: bytes) -> Message | None:
        """Return what came as a message, None if it is none of version 1."""

    @abc.abstractmethod
    async def _accept(self, message: Message) -> None:
        """Make ready what the caller should see now that this message came."""
