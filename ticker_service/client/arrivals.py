"""What has reached a reader and its caller has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

WAITING_MAX: Final = 1_000
WAITING_BYTES_MAX: Final = 32 << 20
"""As much as Redis keeps for a subscriber by default: a message may be of a megabyte."""

Item = bytes | Exception


class Arrivals:
    """A queue bounded in messages and bytes, BLOCK; several put, one takes.

    Who puts waits while it is full, so that the rest stays with the server, which ends the
    subscription at its own limit: what is lost by then is told by its numbers (docs/wire.md).
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """Size of the messages that wait."""
        return self._bytes

    async def put(self, item: Item) -> None:
        """Take an item; one that alone is too large comes in when nothing else waits."""
        while self._is_full():
            self._room.clear()
            await self._room.wait()
        self._items.append(item)
        self._bytes += _size_bytes(item)
        self._news.set()

    async def get(self) -> Item:
        """Return the oldest item, waiting as long as it takes; may be cancelled."""
        while not self._items:
            self._news.clear()
            await self._news.wait()
        item = self._items.popleft()
        self._bytes -= _size_bytes(item)
        self._room.set()
        return item

    def _is_full(self) -> bool:
        return len(self._items) >= WAITING_MAX or self._bytes >= WAITING_BYTES_MAX


def _size_bytes(item: Item) -> int:
    return len(item) if isinstance(item, bytes) else 0
