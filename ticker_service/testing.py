"""In-memory stand-ins for the engine's ports, held to the same contract tests as the real adapters.

For this project's tests and for anyone who embeds the engine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ticker_service.errors import PublishError
from ticker_service.ports import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.domain.instrument import InstrumentTable
    from ticker_service.domain.tick import Mode
    from ticker_service.ports import FeedEvent, FeedSink, Outgoing


class FixedCatalog:
    """An ``InstrumentCatalog`` that always returns the same dump."""

    def __init__(self, table: InstrumentTable) -> None:
        self._table = table

    async def fetch(self) -> InstrumentTable:
        """Return the dump it was made with."""
        return self._table


class MemoryPublisher:
    """A ``TickPublisher`` that keeps what it is given; ``is_down`` makes it refuse."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.values: dict[str, bytes] = {}
        self.is_down = False
        self.is_closed = False
        self.attempts = 0

    async def send(self, outgoing: Outgoing) -> None:
        """Keep the messages, or raise ``PublishError`` while down, keeping none of them."""
        self.attempts += 1
        if self.is_down:
            raise PublishError("Redis did not confirm: told to be down")
        self.messages.extend(outgoing.messages)
        self.values.update((key, value) for key, value, _ in outgoing.values)

    async def close(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True


class ScriptedFeed:
    """A ``FeedSource`` that hands on what a test gives it, as one connection numbered 0."""

    def __init__(self) -> None:
        self.wanted: dict[int, Mode] = {}
        self._sink: FeedSink | None = None
        self._running = asyncio.Event()

    def want(self, modes: Mapping[int, Mode]) -> None:
        """Remember what is wanted."""
        self.wanted = dict(modes)

    def connection_of(self, instrument_token: int) -> int | None:
        """Return 0 for everything that is wanted."""
        return 0 if instrument_token in self.wanted else None

    async def run(self, sink: FeedSink) -> None:
        """Hand on to ``sink`` until cancelled."""
        self._sink = sink
        self._running.set()
        await asyncio.Event().wait()

    async def receive(self, *items: Frame | FeedEvent) -> None:
        """Act as if the broker had sent these, in order."""
        await self._running.wait()
        if self._sink is None:  # pragma: no cover - the event above says otherwise
            raise AssertionError("Invariant: running without a sink")
        for item in items:
            if isinstance(item, Frame):
                self._sink.put_frame(item)
            else:
                self._sink.put_event(item)
