"""The bar reader's promise: every bar that was published is yielded once, or missed is."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from ticker_service.client import BarReader, Message
from ticker_service.errors import ConfigurationError

BOOK = "NIFTY"
EPOCH = 1_000


class StandInSource:
    """Keys, and messages that come and then end."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.arriving: list[bytes] = []

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def receive(self) -> bytes | None:
        return self.arriving.pop(0) if self.arriving else None


class Reading:
    """A reader whose Redis is a list and whose time is a number."""

    def __init__(self) -> None:
        self.reader = BarReader("redis://127.0.0.1:1", [BOOK], "1m")
        self.redis = self.reader._source = StandInSource()
        self.now_s = 1_000.0
        self.reader._monotonic_s = lambda: self.now_s

    def receive(
        self, kind: str, seq: int, *, epoch: int = EPOCH, later_s: float = 1.0
    ) -> list[str]:
        """Let a message come; return what the caller gets to see, as kind and seq."""
        self.now_s += later_s
        self.redis.arriving.append(raw(kind, seq, epoch=epoch))
        return [f"{each.kind} {each.body['seq']}" for each in self.read()]

    def read(self) -> list[Message]:
        async def everything() -> list[Message]:
            return [message async for message in self.reader]

        return asyncio.run(everything())


def raw(kind: str, seq: int, *, epoch: int = EPOCH) -> bytes:
    body = {"v": 1, "kind": kind, "book": BOOK, "interval": "1m", "epoch": epoch, "seq": seq}
    if kind in {"bars", "bar"}:
        columns = {"instrument_token": [7], "close": [1.5], "volume": [None], "ticks": [3]}
        body |= {"n": 1, "start_us": 0, "end_us": 60_000_000, "columns": columns}
    return json.dumps(body | {"published_at_us": 1}).encode()


@pytest.fixture
def reading() -> Reading:
    return Reading()


def test_who_joins_late_has_missed_nothing(reading: Reading) -> None:
    assert reading.receive("bars", 41) == ["bars 41"]
    assert reading.receive("heartbeat", 41) == ["heartbeat 41"]
    assert reading.receive("gap", 42) == ["gap 42"]
    assert reading.receive("bars", 43) == ["bars 43"]
    assert reading.reader.missed == 0


def test_who_joins_with_a_heartbeat_expects_the_next_number(reading: Reading) -> None:
    assert reading.receive("heartbeat", 41) == ["heartbeat 41"]
    assert reading.receive("bars", 42) == ["bars 42"]


def test_a_number_that_is_skipped_is_told_before_what_follows(reading: Reading) -> None:
    reading.receive("bars", 41)
    assert reading.receive("bars", 44) == ["missed 44", "bars 44"]
    assert reading.reader.missed == 2


def test_a_heartbeat_that_is_ahead_tells_of_what_was_lost_at_the_end(reading: Reading) -> None:
    reading.receive("bars", 41)
    assert reading.receive("heartbeat", 42) == ["missed 42", "heartbeat 42"]
    assert reading.receive("bars", 43) == ["bars 43"]


def test_what_is_sent_again_is_yielded_once(reading: Reading) -> None:
    reading.receive("bars", 41)
    assert reading.receive("bars", 41) == []


def test_a_new_run_is_followed_and_told(reading: Reading) -> None:
    reading.receive("bars", 41)
    assert reading.receive("gap", 1, epoch=EPOCH + 1) == ["missed 1", "gap 1"]
    assert reading.receive("bars", 42, epoch=EPOCH) == []
    assert reading.receive("bars", 2, epoch=EPOCH + 1) == ["bars 2"]


def test_a_lower_epoch_is_followed_once_the_higher_one_is_silent(reading: Reading) -> None:
    reading.receive("bars", 41)
    assert reading.receive("bars", 1, epoch=EPOCH - 1, later_s=4.0) == ["missed 1", "bars 1"]


def test_the_newest_bars_are_read_from_their_key(reading: Reading) -> None:
    reading.redis.values["ticker:v1:bar:NIFTY:1m"] = raw("bar", 40)
    newest = asyncio.run(reading.reader.newest(BOOK))
    assert newest is not None
    columns = newest.to_numpy()
    assert (columns["close"].tolist(), columns["ticks"].tolist()) == ([1.5], [3.0])
    assert np.isnan(columns["volume"][0])
    assert asyncio.run(reading.reader.newest("BANKNIFTY")) is None


def test_an_interval_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="interval='2m': must be one of"):
        BarReader("redis://127.0.0.1:1", [BOOK], "2m")
