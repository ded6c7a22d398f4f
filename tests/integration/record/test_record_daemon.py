"""A daemon that records, and what its recording gives back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
from typing import TYPE_CHECKING

import orjson
import pytest
import redis
from running import DEADLINE_S, Exchange, daemon, eventually

from ticker_service.assembly import open_recordings
from ticker_service.market.replay import Replay, ReplayOptions
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Listener:
    """Every message under a prefix, byte by byte, in order; joined before anybody publishes."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=False)
        self._pubsub.psubscribe(f"{prefix}ticks:*")
        assert self._pubsub.get_message(timeout=DEADLINE_S) is not None
        self.seen: list[tuple[str, bytes]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

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


def replayed(files: Sequence[Path], prefix: str) -> MemoryPublisher:
    """Replay into memory under the recorded prefix, so that channels compare as well."""

    async def play() -> MemoryPublisher:
        publisher = MemoryPublisher()
        surroundings = Surroundings(
            clock=SystemClock(),
            chance=random.Random(1),  # noqa: S311 - jitter, not a secret
            telemetry=Telemetry(),
        )
        async with open_recordings(files) as recordings:
            options = ReplayOptions(channel_prefix=prefix)
            await Replay(recordings, publisher, options, surroundings=surroundings).run()
        return publisher

    return asyncio.run(play())


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
