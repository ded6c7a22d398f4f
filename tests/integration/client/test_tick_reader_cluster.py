"""A consumer of the real daemon's channels on a real cluster of three servers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from running import Daemon, Exchange, daemon
from valkey_cluster import Cluster, valkey_cluster

from ticker_service.client import Message, TickReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

BOOKS = ["BANKNIFTY", "NIFTY", "SENSEX"]
PREFIX = "ticker:v1:"
DEADLINE_S = 60.0


class Read:
    """Everything a reader has yielded of several books."""

    def __init__(self, reader: TickReader) -> None:
        self.reader = reader
        self.messages: list[Message] = []

    async def until_each_book_has(self, kind: str, count: int) -> None:
        """Read on until so many new messages of a kind have come from every book."""
        missing = dict.fromkeys(BOOKS, count)
        while any(left > 0 for left in missing.values()):
            message = await anext(self.reader)
            self.messages.append(message)
            missing[message.book] -= message.kind == kind

    def assert_complete(self) -> None:
        """Check that in each book every number follows on the one before, or a snapshot does."""
        at: dict[str, int | None] = dict.fromkeys(BOOKS)
        for message in self.messages:
            seq, last = message.body["seq"], at[message.book]
            if message.kind == "missed":
                at[message.book] = None
                continue
            if message.kind != "snapshot":
                assert last is not None, f"{message.kind} before a snapshot"
                assert seq == last + (message.kind != "heartbeat"), message.book
            at[message.book] = seq


@contextlib.asynccontextmanager
async def published(exchange: Exchange) -> AsyncIterator[tuple[Cluster, Daemon]]:
    async with valkey_cluster() as cluster:
        settings = exchange.settings(
            redis_url=cluster.url,
            underlyings=",".join(BOOKS),
            snapshot_ms=100,
            heartbeat_ms=200,
        )
        with daemon(settings) as running:
            await asyncio.to_thread(running.becomes_ready)
            yield cluster, running


def play(exchange: Exchange, scene: Callable[[Cluster, Read], Awaitable[None]]) -> None:
    async def staged() -> None:
        async with (
            asyncio.timeout(DEADLINE_S),
            published(exchange) as (cluster, _),
            TickReader(cluster.url, BOOKS) as reader,
        ):
            await scene(cluster, Read(reader))

    asyncio.run(staged())


def test_books_on_all_servers_are_read_without_a_gap(lively_exchange: Exchange) -> None:
    async def scene(cluster: Cluster, read: Read) -> None:
        owners = {(await cluster.node_of(f"{PREFIX}ticks:{{{b}}}")).port for b in BOOKS}
        assert len(owners) > 1, "the books must be on several servers to prove it"
        await read.until_each_book_has("batch", 10)
        await read.until_each_book_has("heartbeat", 2)
        read.assert_complete()
        assert read.reader.missed == 0
        for book in BOOKS:
            known = await read.reader.instruments(book)
            assert set(read.reader.table(book).to_numpy()["instrument_token"]) <= known.keys()

    play(lively_exchange, scene)


def test_a_book_that_moves_to_another_server_is_followed(lively_exchange: Exchange) -> None:
    async def scene(cluster: Cluster, read: Read) -> None:
        await read.until_each_book_has("batch", 3)
        channel = f"{PREFIX}ticks:{{NIFTY}}"
        source = await cluster.node_of(channel)
        target = next(node for node in cluster.nodes if node is not source)
        await cluster.move(channel, target)
        # A heartbeat is newer than the move once its server has one subscriber more.
        while not (await target.ask("PUBSUB", "SHARDNUMSUB", channel))[1]:
            await read.until_each_book_has("heartbeat", 1)
        await read.until_each_book_has("batch", 5)
        read.assert_complete()
        assert read.reader.table("NIFTY").is_current

    play(lively_exchange, scene)


def test_a_server_that_cuts_its_subscribers_off_is_asked_again(lively_exchange: Exchange) -> None:
    async def scene(cluster: Cluster, read: Read) -> None:
        await read.until_each_book_has("batch", 3)
        for node in cluster.nodes:
            await node.ask("CLIENT", "KILL", "TYPE", "PUBSUB")
        await read.until_each_book_has("batch", 10)
        read.assert_complete()
        assert all(read.reader.table(book).is_current for book in BOOKS)

    play(lively_exchange, scene)
