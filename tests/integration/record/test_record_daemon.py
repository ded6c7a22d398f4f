"""A daemon that records, and what its recording gives back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow.dataset as ds
import pytest
import redis
from running import (
    DEADLINE_S,
    Exchange,
    daemon,
    environment,
    eventually,
    is_kind,
    program,
    subscriber,
)

from ticker_service.assembly import open_recordings
from ticker_service.market.replay import Replay, ReplayOptions
from ticker_service.market.tape import Tape
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


QUIET_S: Final = 1.0


class Listener:
    """Every message under a prefix, byte by byte, in order; joined before anybody publishes."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=False)
        self._pubsub.psubscribe(f"{prefix}ticks:*")
        assert self._pubsub.get_message(timeout=DEADLINE_S) is not None
        self.seen: list[tuple[str, bytes]] = []
        self._heard_at_s = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def is_quiet(self) -> bool:
        """Return whether nothing has come for a while."""
        return time.monotonic() - self._heard_at_s > QUIET_S

    def close(self) -> None:
        self._is_over.set()
        self._thread.join(DEADLINE_S)
        self._pubsub.close()
        self._client.close()

    def _read(self) -> None:
        while not self._is_over.is_set():
            raw = self._pubsub.get_message(timeout=0.1)
            if raw is not None and raw["type"] == "pmessage":
                self.seen.append((raw["channel"].decode(), raw["data"]))
                self._heard_at_s = time.monotonic()


@contextlib.contextmanager
def listening(url: str, prefix: str) -> Iterator[Listener]:
    listener = Listener(url, prefix)
    try:
        yield listener
    finally:
        listener.close()


def kind_of(message: bytes) -> str:
    kind: str = orjson.loads(message)["kind"]
    return kind


def replayed(files: Sequence[Path], prefix: str, **options: Any) -> MemoryPublisher:
    """Replay into memory under the recorded prefix, so that channels compare as well."""

    async def play() -> MemoryPublisher:
        publisher = MemoryPublisher()
        surroundings = Surroundings(
            clock=SystemClock(),
            chance=random.Random(1),  # noqa: S311 - jitter, not a secret
            telemetry=Telemetry(),
        )
        async with open_recordings(files) as recordings:
            wanted = ReplayOptions(channel_prefix=prefix, **options)
            await Replay(recordings, publisher, wanted, surroundings=surroundings).run()
        return publisher

    return asyncio.run(play())


def replay_command(*arguments: object) -> dict[str, Any]:
    """Run the command to its end and return its summary."""
    with program("replay", *(str(argument) for argument in arguments), "--json") as running:
        assert running.wait(DEADLINE_S) == 0, running.err.text()
        (line,) = running.out.lines()
        summary: dict[str, Any] = orjson.loads(line)
        return summary


def rows_below(folder: Path) -> Any:
    table = ds.dataset(folder / "columns", partitioning="hive").to_table()
    return table.sort_by([("published_at_us", "ascending"), ("seq", "ascending")])


def tapes_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.tape"))


@pytest.fixture
def settings(
    lively_exchange: Exchange, redis_url: str, prefix: str, tmp_path: Path
) -> dict[str, object]:
    return lively_exchange.settings(
        redis_url=redis_url,
        channel_prefix=prefix,
        record="true",
        record_folder=tmp_path / "record",
    )


def test_the_replay_of_a_run_is_what_the_run_published_byte_by_byte(
    settings: dict[str, object],
    lively_exchange: Exchange,
    redis_client: redis.Redis,
    redis_url: str,
    prefix: str,
    tmp_path: Path,
) -> None:
    with listening(redis_url, prefix) as listener, daemon(settings) as running:
        running.becomes_ready()
        lively_exchange.fault(fault="kill_sockets")
        assert eventually(lambda: "gap" in {kind_of(m) for _, m in listener.seen})
        seen = len(listener.seen)
        assert eventually(lambda: len(listener.seen) > seen + 100)
        running.program.signal(signal.SIGTERM)
        assert running.program.wait(DEADLINE_S) == 0
        keys = {key.decode(): redis_client.get(key) for key in redis_client.keys(f"{prefix}*")}
        assert eventually(lambda: listener.seen and kind_of(listener.seen[-1][1]) == "status")
        published = list(listener.seen)
    publisher = replayed(tapes_in(tmp_path), prefix)
    assert {"batch", "heartbeat", "gap", "status"} <= {kind_of(m) for _, m in published}
    assert publisher.messages == published
    assert keys
    assert {key: publisher.values[key] for key in keys} == keys


def test_a_killed_daemon_leaves_a_recording_that_opens_and_replays(
    settings: dict[str, object], redis_url: str, prefix: str, tmp_path: Path
) -> None:
    with listening(redis_url, prefix) as listener, daemon(settings) as running:
        running.becomes_ready()
        assert eventually(lambda: running.metric("record_frames_total") > 20)
        running.program.signal(signal.SIGKILL)
        running.program.wait(DEADLINE_S)
        # What the server had taken by then comes in order; the replay must not have more.
        assert eventually(listener.is_quiet)
        published = list(listener.seen)
    replayed_messages = replayed(tapes_in(tmp_path), prefix).messages
    assert len(replayed_messages) > 10
    assert replayed_messages == published[: len(replayed_messages)]


def test_a_kill_costs_the_open_part_of_the_columns_and_the_tape_has_it(
    settings: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "record"
    with daemon(settings | {"record_part_s": 10}) as running:
        running.becomes_ready()
        assert eventually(lambda: list(folder.rglob("*.parquet")))
        assert eventually(lambda: list(folder.rglob(".*.open")))
        running.program.signal(signal.SIGKILL)
        running.program.wait(DEADLINE_S)
    whole = rows_below(folder)
    assert whole.num_rows > 0
    replay_command(folder, "--no-publish", "--speed", "max", "--columns", tmp_path / "again")
    again = rows_below(tmp_path / "again")
    assert again.num_rows > whole.num_rows
    assert again.slice(0, whole.num_rows).equals(whole)

    with daemon(settings) as running:
        running.program.err.wait_for(lambda line: "record_part_lost" in line)
        running.program.signal(signal.SIGTERM)
        assert running.program.wait(DEADLINE_S) == 0
    assert not list(folder.rglob(".*.open"))


def test_the_columns_of_a_replay_are_the_same_files(
    settings: dict[str, object], tmp_path: Path
) -> None:
    folder, again = tmp_path / "record", tmp_path / "again"
    with daemon(settings) as running:
        running.becomes_ready()
        assert eventually(lambda: running.metric("record_frames_total") > 20)
        running.program.signal(signal.SIGTERM)
        assert running.program.wait(DEADLINE_S) == 0
    replay_command(folder, "--no-publish", "--speed", "max", "--columns", again)
    recorded = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.parquet")}
    assert recorded
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*.parquet")} == recorded


def test_two_replays_into_redis_are_the_same_bytes_whatever_the_speed(
    settings: dict[str, object], redis_url: str, prefix: str, tmp_path: Path
) -> None:
    with daemon(settings) as running:
        running.becomes_ready()
        assert eventually(lambda: running.metric("record_frames_total") > 20)
        running.program.signal(signal.SIGTERM)
        assert running.program.wait(DEADLINE_S) == 0
    seen: list[list[tuple[str, bytes]]] = []
    digests = set()
    for number, speed in enumerate(["max", "5"]):
        into = f"{prefix}again-{number}:"
        with listening(redis_url, into) as listener:
            done = replay_command(
                tmp_path / "record",
                "--speed",
                speed,
                "--channel-prefix",
                into,
                "--redis-url",
                redis_url,
            )
            assert eventually(lambda n=done["messages"]: len(listener.seen) == n)  # type: ignore[misc]
            seen.append([(name.removeprefix(into), raw) for name, raw in listener.seen])
            digests.add(done["sha256"])
    assert seen[0] == seen[1]
    assert len(digests) == 1
    assert digests == {
        replay_command(tmp_path / "record", "--no-publish", "--speed", "max")["sha256"]
    }


def test_part_of_a_recording_is_that_part_of_what_was_published(
    settings: dict[str, object], tmp_path: Path, prefix: str
) -> None:
    with daemon(settings) as running:
        running.becomes_ready()
        assert eventually(lambda: running.metric("record_frames_total") > 40)
        running.program.signal(signal.SIGTERM)
        assert running.program.wait(DEADLINE_S) == 0
    files = tapes_in(tmp_path)
    whole = replayed(files, prefix).messages
    times_us = [orjson.loads(raw)["published_at_us"] for _, raw in whole]
    from_ns = (times_us[len(times_us) // 3] + 1) * 1_000
    to_ns = times_us[2 * len(times_us) // 3] * 1_000
    part = replayed(files, prefix, from_ns=from_ns, to_ns=to_ns).messages
    assert 0 < len(part) < len(whole)
    begin = whole.index(part[0])
    assert part == whole[begin : begin + len(part)]


def test_recording_alone_needs_no_redis_and_publishes_nothing(
    lively_exchange: Exchange,
    redis_client: redis.Redis,
    redis_url: str,
    prefix: str,
    tmp_path: Path,
) -> None:
    wanted = lively_exchange.settings(
        channel_prefix=prefix, record_folder=tmp_path / "record", health_port=0
    )
    env = environment(wanted, REDIS_URL=redis_url)
    with (
        listening(redis_url, prefix) as listener,
        program("record", "--config", os.devnull, env=env) as running,
    ):
        running.out.wait_for(lambda _: True)
        running.err.wait_for(lambda line: "recording_frames" in line)
        assert eventually(lambda: sum(f.stat().st_size for f in tapes_in(tmp_path)) > 10_000)
        running.signal(signal.SIGTERM)
        assert running.wait(DEADLINE_S) == 0
        assert listener.seen == []
        assert redis_client.keys(f"{prefix}*") == []
    assert replay_command(tmp_path / "record", "--no-publish", "--speed", "max")["messages"] > 10


def test_a_disk_without_room_stops_the_recording_and_nothing_else(
    settings: dict[str, object], redis_client: redis.Redis, redis_url: str, prefix: str
) -> None:
    with (
        subscriber(redis_url, f"{prefix}events") as events,
        subscriber(redis_url, f"{prefix}ticks:NIFTY") as book,
        daemon(settings | {"record_free_bytes_min": 1 << 60}) as running,
    ):
        told = events.until(lambda notice: notice["kind"] == "recording")
        assert (told["state"], told["reason"]) == ("stopped", "disk")
        body = running.becomes_ready()
        assert body["recording"] == "disk"
        assert running.metric("record_on") == 0
        assert running.metric("record_bytes_total") == 0
        book.until(is_kind("batch"))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of others are a Linux thing")
def test_a_write_that_fails_stops_the_recording_and_nothing_else(
    settings: dict[str, object], redis_url: str, prefix: str, tmp_path: Path
) -> None:
    with (
        subscriber(redis_url, f"{prefix}ticks:NIFTY") as book,
        daemon(settings) as running,
    ):
        assert running.becomes_ready()["recording"] == "on"
        assert eventually(lambda: running.metric("record_bytes_total") > 10_000)
        written = sum(file.stat().st_size for file in tapes_in(tmp_path))
        resource.prlimit(running.program.pid, resource.RLIMIT_FSIZE, (written + 100, -1))
        assert eventually(lambda: running.ready().json()["recording"] == "write_failed")
        seen = len(book.seen)
        book.until(is_kind("batch"))
        assert len(book.seen) > seen
        assert running.ready().status_code == 200
    (file,) = tapes_in(tmp_path)
    with file.open("rb") as opened:
        assert Tape(opened, file.name).torn_bytes > 0
    assert replayed([file], prefix).messages


def test_a_replay_does_not_begin_where_somebody_publishes(
    settings: dict[str, object], redis_url: str, prefix: str, tmp_path: Path
) -> None:
    with daemon(settings) as running:
        running.becomes_ready()
        assert eventually(lambda: running.metric("record_frames_total") > 0)
        arguments = [str(tmp_path / "record"), "--channel-prefix", prefix, "--redis-url", redis_url]
        with program("replay", *arguments) as refused:
            assert refused.wait(DEADLINE_S) == 2
            assert "somebody publishes these books there now" in refused.err.text()
