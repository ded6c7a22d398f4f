"""What every adapter of a port promises, whatever stands behind it.

A test module inherits a contract and says how to open the adapter; the in-memory ones in
``ticker_service.testing`` and the real ones pass the same tests. Example::

    class TestMemoryPublisher(TickPublisherContract):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[PublisherUnderTest]: ...
"""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

import pytest

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import (
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    Side,
    TaskKind,
    Variety,
)
from ticker_service.domain.order_state import TaskState, state_of
from ticker_service.domain.portfolio import PositionKey
from ticker_service.domain.tick import Mode
from ticker_service.errors import LoginRequired, PublishError, RecordingError
from ticker_service.orders import classify
from ticker_service.orders.classify import Outcome
from ticker_service.ports import FeedDown, FeedUp, Frame, Outgoing, Withheld
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ticker_service.domain.instrument import InstrumentTable
    from ticker_service.domain.order import BrokerOrder
    from ticker_service.ports import (
        BrokerGateway,
        ColumnParts,
        FeedEvent,
        FeedSource,
        InstrumentCatalog,
        RecordFolder,
        TickPublisher,
    )


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


class PartsUnderTest(Protocol):
    """Where parts are written, and a reader's view of them."""

    parts: ColumnParts

    def names(self) -> list[str]:
        """Return the parts a reader finds."""
        ...

    def seqs(self, name: str) -> list[int]:
        """Return the column ``seq`` of a part."""
        ...


class RecordFolderContract:
    """``RecordFolder``: files that only grow, and are there for everybody at once."""

    def open(self) -> AbstractAsyncContextManager[RecordFolder]:
        raise NotImplementedError

    async def sizes(self, folder: RecordFolder) -> dict[str, int]:
        return {file.name: file.size_bytes for file in await folder.files()}

    @pytest.mark.parametrize("sync", [False, True])
    def test_what_is_appended_is_there_at_once(self, *, sync: bool) -> None:
        async def scenario() -> tuple[int, int, dict[str, int]]:
            async with self.open() as folder:
                first = await folder.append("frames/2026-11-20/a.tape", [b"abc", b""], sync=sync)
                more = (part for part in (b"de", b"f"))
                second = await folder.append("frames/2026-11-20/a.tape", more, sync=sync)
                return first, second, await self.sizes(folder)

        assert asyncio.run(scenario()) == (3, 3, {"frames/2026-11-20/a.tape": 6})

    def test_a_file_of_another_run_is_never_added_to(self) -> None:
        async def scenario() -> None:
            async with self.open() as folder:
                await folder.append("frames/a.tape", [b"abc"], sync=False)
                await folder.close("frames/a.tape")
                await folder.append("frames/a.tape", [b"def"], sync=False)

        with pytest.raises(RecordingError, match=r"frames/a\.tape"):
            asyncio.run(scenario())

    def test_an_open_file_is_not_deleted_a_closed_one_is(self) -> None:
        async def scenario() -> tuple[bool, bool, dict[str, int]]:
            async with self.open() as folder:
                await folder.append("frames/2026-11-20/a.tape", [b"abc"], sync=False)
                refused = await folder.delete("frames/2026-11-20/a.tape")
                await folder.close("frames/2026-11-20/a.tape")
                deleted = await folder.delete("frames/2026-11-20/a.tape")
                return refused, deleted, await self.sizes(folder)

        assert asyncio.run(scenario()) == (False, True, {})

    def test_closing_what_is_not_open_is_no_fault(self) -> None:
        async def scenario() -> None:
            async with self.open() as folder:
                await folder.close("frames/a.tape")

        asyncio.run(scenario())

    def test_an_empty_folder_has_room_and_no_files(self) -> None:
        async def scenario() -> tuple[int, dict[str, int]]:
            async with self.open() as folder:
                return await folder.free_bytes(), await self.sizes(folder)

        free_bytes, files = asyncio.run(scenario())
        assert free_bytes > 0
        assert files == {}


class ColumnPartsContract:
    """``ColumnParts``: a part appears when it is whole, with all its rows, or never."""

    def open(self) -> AbstractAsyncContextManager[PartsUnderTest]:
        raise NotImplementedError

    @staticmethod
    def stream(*seqs: int) -> bytes:
        """A group of rows, as an Arrow IPC stream."""
        arrow = pytest.importorskip("pyarrow")
        batch = arrow.RecordBatch.from_pydict({"seq": list(seqs), "book": ["NIFTY"] * len(seqs)})
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def test_a_closed_part_has_all_its_rows_in_order(self) -> None:
        async def scenario() -> tuple[int, list[int]]:
            async with self.open() as test:
                streams = (self.stream(*seqs) for seqs in ([1, 2], [3]))
                count = await test.parts.append("columns/a.parquet", streams)
                await test.parts.append("columns/a.parquet", [self.stream(4)])
                await test.parts.close("columns/a.parquet")
                return count, test.seqs("columns/a.parquet")

        count, seqs = asyncio.run(scenario())
        assert count > 0
        assert seqs == [1, 2, 3, 4]

    def test_an_unfinished_part_is_not_there(self) -> None:
        async def scenario() -> list[str]:
            async with self.open() as test:
                await test.parts.append("columns/a.parquet", [self.stream(1)])
                names = test.names()
                await test.parts.abandon("columns/a.parquet")
                return names

        assert asyncio.run(scenario()) == []

    def test_an_abandoned_part_never_appears_and_leaves_nothing(self) -> None:
        async def scenario() -> list[str]:
            async with self.open() as test:
                await test.parts.append("columns/a.parquet", [self.stream(1)])
                await test.parts.append("columns/b.parquet", [self.stream(2)])
                await test.parts.abandon("columns/a.parquet")
                await test.parts.abandon("columns/never-begun.parquet")
                await test.parts.close("columns/b.parquet")
                return test.names()

        assert asyncio.run(scenario()) == ["columns/b.parquet"]

    def test_a_part_that_is_there_is_never_replaced(self) -> None:
        async def scenario() -> list[int]:
            async with self.open() as test:
                await test.parts.append("columns/a.parquet", [self.stream(1)])
                await test.parts.close("columns/a.parquet")
                with pytest.raises(RecordingError, match=r"columns/a\.parquet"):
                    await test.parts.append("columns/a.parquet", [self.stream(2)])
                return test.seqs("columns/a.parquet")

        assert asyncio.run(scenario()) == [1]


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


class BrokerUnderTest(Protocol):
    """A gateway, an order at its broker that rests, and the broker's side of the token."""

    gateway: BrokerGateway
    symbol: str
    price: str
    price_across: str
    """At which an order to buy does not rest."""

    def fill(self, order_id: str) -> None:
        """Let an order at that price be filled, if the broker does not do so by itself."""
        ...

    def refuse_token(self) -> None:
        """Let the broker refuse the access token from now on."""
        ...


class BrokerGatewayContract:
    """``BrokerGateway``: sent at most once, never raising, and a book that shows the tag."""

    def open(self) -> AbstractAsyncContextManager[BrokerUnderTest]:
        raise NotImplementedError

    def run(self, scenario: Callable[[BrokerUnderTest], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with asyncio.timeout(LIMIT_S), self.open() as test:
                await scenario(test)

        asyncio.run(opened())

    def test_a_placed_order_is_in_the_book_once_with_its_tag_and_its_exact_price(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            tag, order_id = await self._place(test)
            row = await self._row(test, order_id)
            assert (row.tags, row.price, row.quantity) == ((tag,), Decimal(test.price), 1)
            tagged = [row for row in await test.gateway.orders() if tag in row.tags]
            assert len(tagged) == 1

        self.run(scenario)

    def test_after_the_deadline_nothing_leaves(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            tag = _new_tag()
            late_ns = SystemClock().monotonic_ns() - 1
            reply = await test.gateway.place(_order(test), tag=tag, deadline_ns=late_ns)
            assert reply.withheld is Withheld.NOTHING_LEFT
            assert all(tag not in row.tags for row in await test.gateway.orders())

        self.run(scenario)

    def test_a_change_and_a_cancel_show_in_the_book(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            _, order_id = await self._place(test)
            change = OrderChange(quantity=2)
            reply = await test.gateway.modify(
                order_id, Variety.REGULAR, change, deadline_ns=_soon_ns()
            )
            assert classify.judge(TaskKind.MODIFY, reply).outcome is Outcome.ACKED
            reply = await test.gateway.cancel(order_id, Variety.REGULAR, deadline_ns=_soon_ns())
            assert classify.judge(TaskKind.CANCEL, reply).outcome is Outcome.ACKED
            row = await self._row(test, order_id)
            assert (state_of(row), row.quantity) == (TaskState.CANCELLED, 2)

        self.run(scenario)

    def test_a_cancel_of_what_has_ended_is_refused(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            _, order_id = await self._place(test)
            await test.gateway.cancel(order_id, Variety.REGULAR, deadline_ns=_soon_ns())
            again = await test.gateway.cancel(order_id, Variety.REGULAR, deadline_ns=_soon_ns())
            assert classify.judge(TaskKind.CANCEL, again).outcome is Outcome.REJECTED

        self.run(scenario)

    def test_a_refused_token_is_told_and_no_order_is_placed(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            test.refuse_token()
            reply = await test.gateway.place(_order(test), tag=_new_tag(), deadline_ns=_soon_ns())
            assert classify.judge(TaskKind.PLACE, reply).outcome is Outcome.REJECTED_AUTH
            with pytest.raises(LoginRequired):
                await test.gateway.orders()

        self.run(scenario)

    def test_a_filled_order_is_in_the_trades_and_in_the_position(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            before = await self._traded(test)
            _, order_id = await self._place(test, test.price_across)
            test.fill(order_id)
            row = await self._row(test, order_id)
            while row.status != "COMPLETE":
                await asyncio.sleep(0.02)
                row = await self._row(test, order_id)
            (fill,) = [each for each in await test.gateway.trades() if each.order_id == order_id]
            assert fill.key == PositionKey("NSE", test.symbol, Product.CNC)
            assert (fill.transaction_type, fill.quantity) == (Side.BUY, 1)
            assert fill.average_price == row.average_price
            assert await self._traded(test) == before + 1

        self.run(scenario)

    def test_what_an_order_needs_and_what_is_free_is_told_and_nothing_is_placed(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            before = SystemClock().now_ns()
            rows = len(await test.gateway.orders())
            told = await test.gateway.order_margin(_order(test))
            assert 0 <= told.total_inr <= told.available_inr
            assert before <= told.at_ns <= SystemClock().now_ns()
            assert len(await test.gateway.orders()) == rows
            test.refuse_token()
            with pytest.raises(LoginRequired):
                await test.gateway.order_margin(_order(test))

        self.run(scenario)

    def test_a_refused_token_is_told_of_fills_and_positions_too(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            test.refuse_token()
            for read in (test.gateway.trades, test.gateway.positions):
                with pytest.raises(LoginRequired):
                    await read()

        self.run(scenario)

    def test_an_update_that_is_no_order_of_ours_is_none(self) -> None:
        async def scenario(test: BrokerUnderTest) -> None:
            for data in (None, [], {"order_id": "1"}, {"user_id": "ZZ9999"}):
                assert test.gateway.order_update(data) is None

        self.run(scenario)

    async def _traded(self, test: BrokerUnderTest) -> int:
        positions = await test.gateway.positions()
        return sum(each.traded_quantity for each in positions if each.key[1] == test.symbol)

    async def _place(self, test: BrokerUnderTest, price: str = "") -> tuple[str, str]:
        tag = _new_tag()
        reply = await test.gateway.place(_order(test, price), tag=tag, deadline_ns=_soon_ns())
        verdict = classify.judge(TaskKind.PLACE, reply)
        assert verdict.outcome is Outcome.ACKED, verdict
        return tag, verdict.order_id

    async def _row(self, test: BrokerUnderTest, order_id: str) -> BrokerOrder:
        (row,) = [row for row in await test.gateway.orders() if row.order_id == order_id]
        return row


def _order(test: BrokerUnderTest, price: str = "") -> OrderRequest:
    return OrderRequest(
        exchange="NSE",
        tradingsymbol=test.symbol,
        transaction_type=Side.BUY,
        order_type=OrderType.LIMIT,
        product=Product.CNC,
        quantity=1,
        price=Decimal(price or test.price),
    )


def _new_tag() -> str:
    return uuid.uuid4().hex[:20].upper()


def _soon_ns() -> int:
    return SystemClock().monotonic_ns() + int(LIMIT_S * NS_PER_S)
