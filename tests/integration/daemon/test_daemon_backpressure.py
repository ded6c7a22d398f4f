"""Redis too slow, or away: the newest win, order holds, what was merged is counted, nothing grows.

Each scene runs a whole daemon against a real server that stands still, that refuses to write, or
that ends and comes back empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest
import redis
from running import (
    DEADLINE_S,
    LIVELY,
    Daemon,
    assert_gap_free,
    daemon,
    eventually,
    exchange,
    is_kind,
    subscriber,
)
from sent_truth import difference, truth

from app import valkey_program
from ticker_service.client import TickReader
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.embedded import EmbeddedRedis

BOOK: Final = "NIFTY"
CHANNEL: Final = f"ticker:v1:ticks:{BOOK}"
MIB: Final = 1 << 20
OUTAGE_S: Final = 3.0
"""Well beyond the age at which a backlog is merged."""
PAUSE_MS: Final = 60_000
PACE_S: Final = 0.05


class Server(Protocol):
    """A Redis that can be put out of action."""

    url: str

    def away(self) -> contextlib.AbstractContextManager[None]: ...


class StandingStill:
    """Its process is stopped: connections stay open, nothing is answered."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self.url = server.url
        self._pid = server.child.pid

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        os.kill(self._pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)


class PausingWrites:
    """It answers, and keeps everybody who writes or publishes waiting."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self.url = server.url

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        with redis.Redis.from_url(self.url) as admin:
            admin.client_pause(PAUSE_MS, all=False)
            try:
                yield
            finally:
                admin.client_unpause()


class StartedAnew:
    """It is killed, its port refuses, and it comes back there with nothing in it."""

    def __init__(self, directory: Path) -> None:
        self._password = secrets.token_hex(16)
        self._directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        self._start()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self.kill()
        try:
            yield
        finally:
            self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def _start(self) -> None:
        configuration = valkey_program.configuration(
            password=self._password,
            directory=self._directory,
            unix_socket=self._directory / "valkey.sock",
        )
        self._process = subprocess.Popen(
            [valkey_program.find(), "-", "--port", str(self._port)], stdin=subprocess.PIPE
        )
        assert self._process.stdin is not None
        self._process.stdin.write(configuration.encode())
        self._process.stdin.close()
        with redis.Redis.from_url(self.url) as client:
            assert eventually(lambda: answers(client))


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(params=["standing_still", "pausing_writes", "started_anew"])
def server(
    request: pytest.FixtureRequest, own_redis: EmbeddedRedis, tmp_path: Path
) -> Iterator[Server]:
    if request.param == "standing_still":
        yield StandingStill(own_redis)
    elif request.param == "pausing_writes":
        yield PausingWrites(own_redis)
    else:
        anew = StartedAnew(tmp_path)
        yield anew
        anew.kill()


class Consumer:
    """A reader beside the test that keeps every tick it was given, by instrument."""

    def __init__(self, reader: TickReader) -> None:
        self.reader = reader
        self.batches = 0
        self.beat: dict[str, Any] = {}
        self.reversals: list[str] = []
        self._last: dict[int, tuple[int, int]] = {}

    async def read(self) -> None:
        async for message in self.reader:
            if message.kind == "heartbeat":
                self.beat = dict(message.body)
            elif message.kind == "batch":
                self.batches += 1
                for row in message.rows():
                    self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        at = (row["received_at_us"], row["volume"] or 0)
        before = self._last.get(row["instrument_token"], at)
        if at < before:
            self.reversals.append(f"{row['instrument_token']}: {at} after {before}")
        self._last[row["instrument_token"]] = at

    async def goes_on(self) -> None:
        wanted = self.batches + 5
        while self.batches < wanted:  # noqa: ASYNC110 - the reading goes on beside us
            await asyncio.sleep(PACE_S)


def packets_told(running: Daemon) -> tuple[float, float]:
    """Return the packets that came, and those of which it was said what became of them."""
    metrics = running.metrics()
    told = sum(
        value
        for name, value in metrics.items()
        if name.startswith(("ticks_published_total", "ticks_conflated_total"))
        or (name.startswith("feed_packets_rejected_total") and "malformed_frame" not in name)
    )
    return metrics["feed_packets_total"], told


def is_seen_away(running: Daemon, since_s: float) -> bool:
    """Return whether nothing has gone out for long enough, and metrics and health say so."""
    metrics = running.metrics()
    return (
        time.monotonic() - since_s > OUTAGE_S
        and metrics["publish_failures_total"] >= 1
        and metrics["inbox_bytes"] > 0
        and running.ready().status_code == 503
    )


def test_after_redis_was_away_the_newest_have_won_in_order_and_all_the_others_are_counted(
    server: Server,
) -> None:
    with exchange(LIVELY) as at:
        settings = at.settings(redis_url=server.url, depth=True, snapshot_ms=100, heartbeat_ms=200)

        async def scene(running: Daemon) -> None:
            await asyncio.to_thread(running.becomes_ready)
            async with (
                asyncio.timeout(2 * DEADLINE_S),
                TickReader(server.url, [BOOK]) as reader,
                asyncio.TaskGroup() as tasks,
            ):
                consumer = Consumer(reader)
                reading = tasks.create_task(consumer.read())
                await consumer.goes_on()
                conflated = running.metric("ticks_conflated_total")
                with server.away():
                    since_s = time.monotonic()
                    assert await asyncio.to_thread(
                        eventually, lambda: is_seen_away(running, since_s)
                    )
                await consumer.goes_on()

                # At rest every instrument stands at what the exchange sent of it last.
                at.fault(fault="mute_sockets")
                table = reader.table(BOOK)
                rested = "the table is not current"
                while rested:
                    await asyncio.sleep(PACE_S)
                    rested = difference(table, truth(at)) if table.is_current else rested
                # The heartbeat that tells of the last merge comes within a second of it.
                merged = running.metric("ticks_conflated_total")
                while consumer.beat["conflated"] != merged:  # noqa: ASYNC110 - the reader sets it
                    await asyncio.sleep(PACE_S)
                reading.cancel()

            assert consumer.reversals == []
            # Every packet is accounted for, and the merged ones are in metric and heartbeat.
            came, told = packets_told(running)
            assert came == told
            assert running.metric("ticks_conflated_total") == merged > conflated
            # How late the message was that waited for Redis is in the ledger of latencies.
            late = running.metrics()
            within = late['tick_latency_ms_bucket{le="1000.0",stage="ours"}']
            assert late['tick_latency_ms_count{stage="ours"}'] > within

        with daemon(settings) as running:
            asyncio.run(scene(running))


@pytest.mark.slow
def test_a_minute_without_redis_grows_nothing_and_is_announced_afterwards(
    own_redis: EmbeddedRedis,
) -> None:
    options = SimulatorOptions(seed=7, rate_per_s=20_000.0, enforce_rate_limits=False)
    with exchange(options) as at:
        settings = at.settings(
            redis_url=own_redis.url,
            backlog_bytes_max=4 * MIB,
            flush_bytes_max=MIB,
            expiries=3,
            strikes_each_side=20,
        )
        with subscriber(own_redis.url, CHANNEL) as book, daemon(settings) as running:
            running.becomes_ready(subscribed_min=200)
            with StandingStill(own_redis).away():
                assert eventually(lambda: running.metric("inbox_frames_dropped_total") > 0)
                began_us = at.call(lambda: time.time_ns() // 1_000)  # noqa: TID251 - compared below
                early = sizes(running)
                until = time.monotonic() + 60.0
                frames = running.metric("feed_frames_total")
                peak = 0.0
                while time.monotonic() < until:
                    peak = max(peak, running.metric("inbox_bytes"))
                    time.sleep(0.5)
                assert peak <= 4 * MIB
                late = sizes(running)
                # The feed went on all the time; nothing of it was counted as read meanwhile.
                assert running.metric("feed_frames_total") == frames
                assert at.simulator.upgrades == 1
            gap = book.until(is_kind("gap"))
            batch = book.until(is_kind("batch"))
            running.becomes_ready()

        assert gap["reason"] == "overflow"
        assert gap["from_us"] <= began_us
        assert gap["to_us"] - began_us > 40_000_000
        assert batch["seq"] == gap["seq"] + 1
        # It was Redis and not the feed, and the feed is not blamed for it.
        assert {m["state"] for m in book.seen if m["kind"] == "status"} == {"feed_up"}
        assert_gap_free(book.seen)
        assert late["threads"] == early["threads"]
        assert late["files"] <= early["files"] + 2
        assert late["resident_bytes"] < early["resident_bytes"] + 32 * MIB


def sizes(running: Daemon) -> dict[str, int]:
    """Return what of a process could grow; Linux only."""
    own = Path(f"/proc/{running.program.pid}")
    status = dict(
        line.split(":", 1) for line in (own / "status").read_text(encoding="ascii").splitlines()
    )
    return {
        "threads": int(status["Threads"]),
        "files": len(list((own / "fd").iterdir())),
        "resident_bytes": int(status["VmRSS"].split()[0]) * 1_024,
    }
