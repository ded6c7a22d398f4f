"""A consumer of the real daemon's channels: complete, or told that it is not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from kite_stand_in import raw_server
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from running import Daemon, Exchange, daemon

from ticker_service.client import Message, TickReader, arrivals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from app.embedded import EmbeddedRedis

DEADLINE_S = 15.0
BOOK = "NIFTY"


@pytest.fixture
def settings(lively_exchange: Exchange, redis_url: str, prefix: str) -> dict[str, object]:
    return lively_exchange.settings(
        redis_url=redis_url,
        channel_prefix=prefix,
        snapshot_ms=100,
        heartbeat_ms=500,
        encodings="json,arrow",
    )


@pytest.fixture
def published(settings: dict[str, object]) -> Iterator[Daemon]:
    with daemon(settings) as running:
        running.becomes_ready()
        yield running


class Read:
    """Everything a reader has yielded, with a way to wait for more."""

    def __init__(self, reader: TickReader) -> None:
        self.reader = reader
        self.messages: list[Message] = []
        self._stream = aiter(reader)

    async def until(self, condition: Callable[[Message], object]) -> Message:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = await anext(self._stream)
                self.messages.append(message)
                if condition(message):
                    return message

    def assert_complete(self) -> None:
        """Check that every number follows on the one before, or a snapshot stands between."""
        at: tuple[int, int] | None = None
        for message in self.messages:
            epoch = message.body["epoch"]
            seq = message.body["seq"]
            if message.kind == "missed":
                at = None
                continue
            if message.kind == "gap" and (at is None or at[0] != epoch):
                continue  # told at once, and not in its turn
            if message.kind != "snapshot":
                assert at is not None, f"{message.kind} before a snapshot"
                assert (epoch, seq) == (at[0], at[1] + (message.kind != "heartbeat"))
            at = (epoch, seq)


@contextlib.asynccontextmanager
async def reading(url: str, prefix: str, **options: Any) -> AsyncIterator[Read]:
    async with TickReader(url, [BOOK], channel_prefix=prefix, **options) as reader:
        yield Read(reader)


def batches(count: int) -> Callable[[Message], bool]:
    """Return a condition that holds at the so-manieth batch."""
    left = itertools.count(count - 1, -1)
    return lambda message: message.kind == "batch" and next(left) <= 0


def test_it_starts_from_a_snapshot_and_goes_on_without_a_gap(
    published: Daemon, redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        async with reading(redis_url, prefix) as read:
            await read.until(batches(30))
            await read.until(lambda message: message.kind == "heartbeat")
            assert read.messages[0].kind == "snapshot"
            assert read.reader.missed == 0
            read.assert_complete()
            assert {message.body["epoch"] for message in read.messages} == {published.epoch}

    asyncio.run(scene())


def test_readers_of_either_encoding_hold_the_same_table_at_the_same_number(
    published: Daemon, redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        async with (
            reading(redis_url, prefix) as text,
            reading(redis_url, prefix, encoding="arrow") as arrow,
        ):
            await text.until(batches(20))
            await arrow.until(batches(1))
            tables = [read.reader.table(BOOK) for read in (text, arrow)]
            while tables[0].seq != tables[1].seq:
                behind = text if tables[0].seq < tables[1].seq else arrow
                await behind.until(lambda _: True)
            for read in (text, arrow):
                read.assert_complete()
            assert len(tables[0]) > 5
            shared = ["instrument_token", "ltp", "bid", "ask", "volume", "received_at_us"]
            rows = [table.to_pandas()[shared] for table in tables]
            assert rows[0].equals(rows[1])

    del published
    asyncio.run(scene())


def test_a_snapshot_and_what_follows_name_known_instruments(
    published: Daemon, redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        async with reading(redis_url, prefix) as read:
            batch = await read.until(batches(1))
            known = await read.reader.instruments(BOOK)
            snapshot = read.messages[0]
            rows = [*snapshot.rows(), *batch.rows()]
            assert {row["instrument_token"] for row in rows} <= known.keys()
            kinds = {known[row["instrument_token"]]["instrument_type"] for row in rows}
            assert kinds <= {"EQ", "FUT", "CE", "PE"}
            assert await read.reader.instruments("NOSUCH") == {}

    del published
    asyncio.run(scene())


def test_a_book_joined_late_and_one_joined_early_agree_on_every_row(
    published: Daemon, redis_url: str, prefix: str, lively_exchange: Exchange
) -> None:
    async def scene() -> None:
        async with reading(redis_url, prefix) as early, reading(redis_url, prefix) as late:
            await early.until(batches(20))
            await late.until(lambda message: message.kind == "snapshot")
            snapshot = late.messages[-1].body
            rows = {}
            await early.until(lambda message: message.body["seq"] >= snapshot["seq"])
            for message in early.messages:
                if message.kind in {"snapshot", "batch"} and message.body["seq"] <= snapshot["seq"]:
                    rows |= {row["instrument_token"]: row for row in message.rows()}
            for row in late.messages[-1].rows():
                mine = rows[row["instrument_token"]]
                for name in ("ltp", "bid", "ask", "volume", "exchange_ts_us", "received_at_us"):
                    assert row[name] == mine[name]

    del published, lively_exchange
    asyncio.run(scene())


def test_its_connection_killed_at_redis_is_no_reason_to_be_fooled(
    published: Daemon, redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        async with reading(redis_url, prefix) as read, Redis.from_url(redis_url) as admin:
            for _ in range(3):
                await read.until(batches(5))
                assert await admin.client_kill_filter(_type="pubsub") >= 1
            await read.until(batches(5))
            read.assert_complete()
            lost = [m for m in read.messages if m.kind == "missed"]
            assert read.reader.missed == sum(m.body["seq"] - m.body["expected_seq"] for m in lost)

    del published
    asyncio.run(scene())


class Gate:
    """A way to Redis that can be shut: connections break, and new ones are turned away."""

    def __init__(self, redis_url: str) -> None:
        self.target_port = int(redis_url.rsplit(":", 1)[1].split("/", maxsplit=1)[0])
        self.is_open = True
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            return
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        self._writers += [writer, their_writer]
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(reader, their_writer))
                tasks.create_task(self._carry(their_reader, writer))
        finally:
            their_writer.transport.abort()

    def shut(self) -> None:
        self.is_open = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    @staticmethod
    async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


def test_a_password_that_is_taken_back_ends_the_reading_with_a_word(
    own_redis: EmbeddedRedis,
) -> None:
    async def scene() -> None:
        async with reading(own_redis.url, "x:") as read, Redis.from_url(own_redis.url) as admin:
            await admin.config_set("requirepass", "another")
            await admin.client_kill_filter(_type="pubsub")
            with pytest.raises(AuthenticationError):
                await read.until(lambda _: True)

    asyncio.run(scene())


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    async def scene() -> None:
        with pytest.raises(RedisConnectionError):
            async with asyncio.timeout(DEADLINE_S), reading("redis://127.0.0.1:1/0", "x:"):
                pass

    asyncio.run(scene())


def test_an_error_of_the_caller_comes_out_of_the_block_as_it_is(redis_url: str) -> None:
    async def scene() -> None:
        with pytest.raises(KeyError, match="the caller's own"):
            async with reading(redis_url, "x:"):
                raise KeyError("the caller's own")

    asyncio.run(scene())


def test_a_caller_may_stop_waiting_and_wait_again(
    published: Daemon, redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        async with TickReader(redis_url, [BOOK], channel_prefix=prefix) as reader:
            read = Read(reader)
            while len(read.messages) < 20:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.003):
                        read.messages.append(await anext(reader))
            read.assert_complete()
            assert reader.missed == 0

    del published
    asyncio.run(scene())


def test_messages_lost_on_the_way_are_told_and_made_good_by_a_snapshot(
    published: Daemon, redis_url: str, prefix: str
) -> None:
    gate = Gate(redis_url)

    async def scene() -> None:
        async with raw_server(gate.serve) as port, reading(redis_url, prefix) as witness:
            behind = redis_url.replace(f":{gate.target_port}/", f":{port}/")
            async with reading(behind, prefix) as read:
                await read.until(batches(5))
                gate.shut()
                # What comes now, only the witness sees.
                await witness.until(batches(10))
                gate.is_open = True
                missed = await read.until(lambda message: message.kind == "missed")
                assert read.reader.missed == missed.body["seq"] - missed.body["expected_seq"] > 0
                snapshot = await read.until(lambda message: message.kind == "snapshot")
                assert snapshot.body["seq"] >= missed.body["expected_seq"]
                await read.until(batches(5))
                read.assert_complete()

    del published
    asyncio.run(scene())


def test_a_new_run_of_the_daemon_is_a_new_epoch_with_a_gap_before_it(
    settings: dict[str, object], redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        async with reading(redis_url, prefix) as read:
            with daemon(settings) as first:
                await asyncio.to_thread(first.becomes_ready)
                await read.until(batches(5))
                first.program.signal(15)
                stopped = await read.until(
                    lambda m: m.kind == "status" and m.body["state"] == "stopped"
                )
                assert await asyncio.to_thread(first.program.wait) == 0
            with daemon(settings) as second:
                gap = await read.until(lambda m: m.kind == "gap")
                await read.until(batches(5))
            assert second.epoch > first.epoch
            # What lies between the runs is told, from the last heartbeat of the first one.
            assert (gap.body["epoch"], gap.body["reason"]) == (second.epoch, "restart")
            heard_us = stopped.body["published_at_us"]
            assert heard_us - 2_000_000 < gap.body["from_us"] <= heard_us < gap.body["to_us"]
            assert read.reader.missed == 0
            read.assert_complete()

    asyncio.run(scene())


def test_a_caller_that_takes_too_long_is_cut_off_by_redis_told_so_and_joins_again(
    own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "WAITING_BYTES_MAX", 1 << 16)
    channel, numbers = "ticker:v1:ticks:NIFTY", itertools.count(1)

    async def publish(client: Redis) -> int:
        seq = next(numbers)
        body = {"v": 1, "book": BOOK, "epoch": 1, "seq": seq, "published_at_us": 1, "n": 1}
        body["columns"] = {"instrument_token": [1], "ltp": [float(seq)]}
        snapshot = orjson.dumps(body | {"kind": "snapshot"})
        await client.set("ticker:v1:snapshot:NIFTY", snapshot)
        await client.publish(
            channel, orjson.dumps(body | {"kind": "batch", "padding": "x" * 8_192})
        )
        return seq

    async def scene() -> None:
        async with (
            asyncio.timeout(2 * DEADLINE_S),
            Redis.from_url(own_redis.url) as client,
            TickReader(own_redis.url, [BOOK]) as reader,
        ):
            await client.config_set("client-output-buffer-limit", "pubsub 262144 0 0")
            await publish(client)
            assert (await anext(reader)).kind == "snapshot"
            while (await client.pubsub_numsub(channel))[0][1]:
                await publish(client)  # and nobody reads
            lost = next(numbers)
            seen = [1]
            while True:
                reading = asyncio.timeout(1.0)
                with contextlib.suppress(TimeoutError):
                    async with reading:
                        message = await anext(reader)
                        if message.kind == "missed":
                            break
                        assert message.body["seq"] == seen[-1] + 1
                        seen.append(message.body["seq"])
                if reading.expired():
                    await publish(client)
            assert reader.missed > 0
            assert not reader.table(BOOK).is_current
            assert (await anext(reader)).kind == "snapshot"
            table = reader.table(BOOK)
            assert table.is_current
            row = table.row(1)
            assert row is not None
            assert row["ltp"] > lost > seen[-1]

    asyncio.run(scene())
