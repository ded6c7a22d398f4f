"""The daemon's channels in several encodings: one numbering, the same rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import redis
from running import Exchange, daemon, is_kind, subscriber

if TYPE_CHECKING:
    from collections.abc import Callable


def from_arrow(stream: bytes) -> dict[str, Any]:
    """Return an Arrow message in the shape of the JSON one."""
    table = pa.ipc.open_stream(stream).read_all()
    table.validate(full=True)
    header: dict[str, Any] = json.loads(table.schema.metadata[b"message"])
    return header | ({"columns": table.to_pydict()} if table.num_columns else {})


def enough(batches: int) -> Callable[[dict[str, Any]], bool]:
    """Return a condition that holds once a heartbeat comes after so many batches."""
    seen = []

    def is_enough(message: dict[str, Any]) -> bool:
        seen.append(message["kind"])
        return message["kind"] == "heartbeat" and seen.count("batch") >= batches

    return is_enough


def test_both_channels_carry_the_same_messages_under_the_same_numbers(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url,
        channel_prefix=prefix,
        encodings="json,arrow",
        depth=True,
        smile_ms=200,
    )
    with (
        subscriber(redis_url, f"{prefix}ticks:NIFTY") as text,
        subscriber(redis_url, f"{prefix}arrow:NIFTY", read=from_arrow) as arrow,
        daemon(settings) as running,
    ):
        running.becomes_ready()
        lively_exchange.fault(fault="kill_sockets")
        text.until(is_kind("gap"))
        last = text.until(enough(20))
        arrow.until(is_kind("heartbeat", published_at_us=last["published_at_us"]))
        assert {message["kind"] for message in text.seen} == {
            "batch",
            "gap",
            "status",
            "heartbeat",
            "smile",
        }
        assert arrow.seen == text.seen


def test_a_daemon_that_is_asked_for_arrow_alone_writes_no_json(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, encodings="arrow"
    )
    with (
        subscriber(redis_url, f"{prefix}arrow:NIFTY", read=from_arrow) as arrow,
        daemon(settings) as running,
        redis.Redis.from_url(redis_url) as client,
    ):
        running.becomes_ready()
        batch = arrow.until(is_kind("batch"))
        assert batch["n"] == len(batch["columns"]["ltp"])
        assert client.exists(f"{prefix}snapshot:NIFTY") == 0
        assert client.pubsub_channels(f"{prefix}ticks:*") == []
        raw: Any = client.get(f"{prefix}arrow-snapshot:NIFTY")
        snapshot = from_arrow(raw)
        assert (snapshot["kind"], snapshot["epoch"]) == ("snapshot", running.epoch)
        instruments: Any = client.get(f"{prefix}instruments:NIFTY")
        assert json.loads(instruments)["kind"] == "instruments"


def test_a_simple_consumer_reads_one_instrument_from_its_channel_or_its_key(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, instrument_channels=True
    )
    name = f"{prefix}tick:NSE:NIFTY_50"
    with (
        subscriber(redis_url, name) as index,
        daemon(settings) as running,
        redis.Redis.from_url(redis_url) as client,
    ):
        running.becomes_ready()
        first, second = index.until(is_kind("tick")), index.until(is_kind("tick"))
        assert first["seq"] < second["seq"]
        assert (second["exchange"], second["tradingsymbol"]) == ("NSE", "NIFTY 50")
        raw: Any = client.get(name)
        assert json.loads(raw)["seq"] >= second["seq"]
        left_ms: Any = client.pttl(name)
        assert 0 < left_ms <= 60_000
