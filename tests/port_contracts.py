"""What every adapter of a port promises, whatever stands behind it.

A test module inherits a contract and says how to open the adapter; the in-memory ones in
``ticker_service.testing`` and the real ones pass the same tests. Example::

    class TestMemoryPublisher(TickPublisherContract):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[PublisherUnderTest]: ...
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import pytest

from ticker_service.domain.tick import Mode
from ticker_service.errors import PublishError
from ticker_service.ports import FeedDown, FeedUp, Frame, Outgoing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ticker_service.domain.instrument import InstrumentTable
    from ticker_service.ports import FeedEvent, FeedSource, InstrumentCatalog, TickPublisher


class PublisherUnderTest(Protocol):
    """A publisher, and the subscriber's view of what it sent."""

    publisher: TickPublisher

    async def received(self, count: int) -> Sequence[tuple[str, bytes]]:
        """Return the first ``count`` messages as subscribers got them."""
        ...

    async def value(self, key: str) -> bytes | None:
        """Return what a key holds now."""
        ...

    async def break_down(self) -> None:
        """Make the distributor stop answering."""
        ...


class TickPublisherContract:
    """``TickPublisher``: in order, complete, or ``PublishError``."""

    def open(self) -> AbstractAsyncContextManager[PublisherUnderTest]:
        raise NotImplementedError

    def test_messages_arrive_in_order_and_unchanged(self) -> None:
        messages = [("a", b"1"), ("b", b"\x00\xff"), ("a", b"2"), ("a", b"3")]

        async def scenario() -> Sequence[tuple[str, bytes]]:
            async with self.open() as test:
                await test.publisher.send(Outgoing(messages=messages[:1]))
                await test.publisher.send(Outgoing(messages=messages[1:]))
                return await test.received(4)

        received = asyncio.run(scenario())
        by_channel = [[body for name, body in received if name == channel] for channel in "ab"]
        assert by_channel == [[b"1", b"2", b"3"], [b"\x00\xff"]]

    def test_a_value_set_later_replaces_the_one_before(self) -> None:
        async def scenario() -> bytes | None:
            async with self.open() as test:
                values = [("key", b"old", 60_000), ("key", b"new", 60_000)]
                await test.publisher.send(Outgoing(values=values))
                return await test.value("key")

        assert asyncio.run(scenario()) == b"new"

    def test_sending_nothing_is_no_fault(self) -> None:
        async def scenario() -> bytes | None:
            async with self.open() as test:
                await test.publisher.send(Outgoing())
                return await test.value("key")

        assert asyncio.run(scenario()) is None

    def test_a_distributor_that_does_not_answer_is_a_publish_error(self) -> None:
        async def scenario() -> None:
            async with self.open() as test:
                await test.break_down()
                await test.publisher.send(Outgoing(messages=[("a", b"1")]))

        with pytest.raises(PublishError):
            asyncio.run(scenario())

    def test_closing_twice_is_no_fault(self) -> None:
        async def scenario() -> None:
            async with self.open() as test:
                await test.publisher.close()
                await test.publisher.close()

        asyncio.run(scenario())


class Collector:
    """A ``FeedSink`` that keeps what it is given."""

    def __init__(self) -> None:
        self.items: list[Frame | FeedEvent] = []
        self._more = asyncio.Event()

    def put_frame(self, frame: Frame) -> None:
        self.items.append(frame)
        self._more.set()

    def put_event(self, event: FeedEvent) -> None:
        self.items.append(event)
        self._more.set()

    async def wait_for(self, *kinds: type) -> None:
        """Return once these have come, in this order, perhaps with others between."""
        while True:
            rest = iter(self.items)
            if all(any(isinstance(item, kind) for item in rest) for kind in kinds):
                return
            self._more.clear()
            await self._more.wait()


class FeedUnderTest(Protocol):
    """A feed, and the broker's side of it."""

    feed: FeedSource

    async def connect(self) -> None:
        """Let the broker accept the feed, if anything is needed for it."""
        ...

    async def tick(self) -> None:
        """Let the broker send a frame."""
        ...

    async def drop(self) -> None:
        """Let the broker close the connection."""
        ...


LIMIT_S = 10.0


class FeedSourceContract:
    """``FeedSource``: what is wanted is carried, and every change of state is told in order."""

    def open(self) -> AbstractAsyncContextManager[FeedUnderTest]:
        raise NotImplementedError

    TOKENS = (256_265, 408_065)

    def test_a_wanted_token_has_a_connection(self) -> None:
        async def scenario() -> list[int | None]:
            async with self.open() as test:
                test.feed.want(dict.fromkeys(self.TOKENS, Mode.FULL))
                return [test.feed.connection_of(token) for token in (*self.TOKENS, 1)]

        assert asyncio.run(scenario()) == [0, 0, None]

    def test_what_is_wanted_replaces_what_was(self) -> None:
        async def scenario() -> list[int | None]:
            async with self.open() as test:
                test.feed.want({self.TOKENS[0]: Mode.FULL})
                test.feed.want({self.TOKENS[1]: Mode.LTP})
                return [test.feed.connection_of(token) for token in self.TOKENS]

        assert asyncio.run(scenario()) == [None, 0]

    def test_the_caller_s_mapping_may_change_afterwards(self) -> None:
        async def scenario() -> int | None:
            async with self.open() as test:
                modes = {self.TOKENS[0]: Mode.FULL}
                test.feed.want(modes)
                modes.clear()
                return test.feed.connection_of(self.TOKENS[0])

        assert asyncio.run(scenario()) == 0

    def test_coming_up_a_frame_and_going_down_are_told_in_this_order(self) -> None:
        async def scenario() -> list[Frame | FeedEvent]:
            sink = Collector()
            async with (
                asyncio.timeout(LIMIT_S),
                self.open() as test,
                asyncio.TaskGroup() as tasks,
            ):
                test.feed.want({self.TOKENS[0]: Mode.FULL})
                running = tasks.create_task(test.feed.run(sink))
                await test.connect()
                await sink.wait_for(FeedUp)
                await test.tick()
                await sink.wait_for(FeedUp, Frame)
                await test.drop()
                await sink.wait_for(FeedUp, Frame, FeedDown)
                running.cancel()
            return sink.items

        kinds = [type(item) for item in asyncio.run(scenario())]
        assert kinds.index(FeedUp) < kinds.index(Frame) < kinds.index(FeedDown)

    def test_a_feed_that_is_cancelled_ends(self) -> None:
        async def scenario() -> bool:
            async with asyncio.timeout(LIMIT_S), self.open() as test:
                test.feed.want({self.TOKENS[0]: Mode.FULL})
                async with asyncio.TaskGroup() as tasks:
                    running = tasks.create_task(test.feed.run(Collector()))
                    await asyncio.sleep(0)
                    running.cancel()
                return running.cancelled()

        assert asyncio.run(scenario())


class InstrumentCatalogContract:
    """``InstrumentCatalog``: the whole dump, every time it is asked for."""

    EXPECTED: InstrumentTable

    def open(self) -> AbstractAsyncContextManager[InstrumentCatalog]:
        raise NotImplementedError

    def test_the_dump_is_fetched_whole_and_as_often_as_asked(self) -> None:
        async def scenario() -> list[InstrumentTable]:
            async with self.open() as catalog:
                return [await catalog.fetch(), await catalog.fetch()]

        tables = asyncio.run(scenario())
        expected = self.EXPECTED.instrument_token.tolist()
        assert [table.instrument_token.tolist() for table in tables] == [expected, expected]
