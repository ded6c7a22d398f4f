"""The in-memory stand-ins keep the promises of the ports they stand in for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from port_contracts import (
    ColumnPartsContract,
    FeedSourceContract,
    InstrumentCatalogContract,
    RecordFolderContract,
    TickPublisherContract,
)
from small_exchange import nifty, table_of

from ticker_service.errors import PublishError
from ticker_service.ports import FeedDown, FeedUp, Frame, Outgoing
from ticker_service.testing import (
    FixedCatalog,
    MemoryFolder,
    MemoryParts,
    MemoryPublisher,
    ScriptedFeed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class _Memory:
    def __init__(self) -> None:
        self.publisher = MemoryPublisher()

    async def received(self, count: int) -> Sequence[tuple[str, bytes]]:
        return self.publisher.messages[:count]

    async def value(self, key: str) -> bytes | None:
        return self.publisher.values.get(key)

    async def break_down(self) -> None:
        self.publisher.is_down = True


class TestMemoryPublisher(TickPublisherContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Memory]:
        yield _Memory()


class TestMemoryFolder(RecordFolderContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[MemoryFolder]:
        yield MemoryFolder()


class _Parts:
    def __init__(self) -> None:
        self.parts = MemoryParts()

    def names(self) -> list[str]:
        return sorted(self.parts.whole)

    def seqs(self, name: str) -> list[int]:
        tables = [pa.ipc.open_stream(stream).read_all() for stream in self.parts.whole[name]]
        found: list[int] = pa.concat_tables(tables)["seq"].to_pylist()
        return found


class TestMemoryParts(ColumnPartsContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Parts]:
        yield _Parts()


class _Script:
    def __init__(self) -> None:
        self.feed = ScriptedFeed()

    async def connect(self) -> None:
        await self.feed.receive(FeedUp(connection=0, at_ns=1))

    async def tick(self) -> None:
        await self.feed.receive(Frame(2, b"\x00"))

    async def drop(self) -> None:
        await self.feed.receive(FeedDown(connection=0, at_ns=3, last_frame_ns=2, reason="told"))


class TestScriptedFeed(FeedSourceContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Script]:
        yield _Script()


class TestFixedCatalog(InstrumentCatalogContract):
    EXPECTED = table_of(nifty())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[FixedCatalog]:
        yield FixedCatalog(self.EXPECTED)


def test_a_publisher_that_is_down_keeps_nothing_and_counts_the_attempt() -> None:
    publisher = MemoryPublisher()
    publisher.is_down = True
    with pytest.raises(PublishError):
        asyncio.run(publisher.send(Outgoing(messages=[("a", b"1")], values=[("k", b"v", 1)])))
    assert (publisher.messages, publisher.values, publisher.attempts) == ([], {}, 1)


def test_a_publisher_remembers_that_it_was_closed() -> None:
    publisher = MemoryPublisher()
    asyncio.run(publisher.close())
    assert publisher.is_closed
