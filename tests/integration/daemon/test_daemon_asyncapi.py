"""What a running daemon publishes is what ``docs/asyncapi.json`` says, and all of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import redis
from asyncapi_document import document, faults, schema, schema_of, schemas_of, unseen
from running import Exchange, daemon, eventually, is_kind, subscriber

if TYPE_CHECKING:
    from collections.abc import Iterable


def read_arrow(stream: bytes) -> dict[str, Any]:
    """Return an Arrow message as its header, with the types of its fields."""
    table = pa.ipc.open_stream(stream).read_all()
    header: dict[str, Any] = json.loads(table.schema.metadata[b"message"])
    if table.num_columns:
        header["types"] = {field.name: str(field.type) for field in table.schema}
    return header


def name_of(address: str, prefix: str, **parts: str) -> str:
    """Return a channel's or key's name as the document spells it."""
    return prefix + document()["channels"][address]["address"].format(**parts).removeprefix(
        "ticker:v1:"
    )


def assert_as_written(channel: str, messages: Iterable[dict[str, Any]]) -> set[str]:
    """Check every message against its schema; return the schemas of what came."""
    seen = set()
    for message in messages:
        name = schema_of(channel, message["kind"])
        seen.add(name)
        assert faults(name, message) == []
    return seen


def test_every_message_of_a_book_is_as_the_document_says_and_nothing_in_it_is_made_up(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url,
        channel_prefix=prefix,
        encodings="json,arrow",
        instrument_channels=True,
        depth=True,
        own_volatility=True,
        smile_ms=500,
        bars="1s",
        snapshot_ms=100,
        heartbeat_ms=200,
    )
    index = {"exchange": "NSE", "tradingsymbol": "NIFTY_50"}
    with (
        subscriber(redis_url, name_of("ticks", prefix, book="NIFTY")) as book,
        subscriber(redis_url, name_of("arrow", prefix, book="NIFTY"), read=read_arrow) as arrow,
        subscriber(redis_url, name_of("tick", prefix, **index)) as one,
        subscriber(redis_url, name_of("bars", prefix, book="NIFTY", interval="1s")) as bars,
        redis.Redis.from_url(redis_url) as client,
        daemon(settings) as running,
    ):
        running.becomes_ready()
        one.until(is_kind("tick"))
        lively_exchange.fault(fault="kill_sockets")
        book.until(is_kind("gap"))
        book.until(is_kind("smile"))
        last = book.until(is_kind("heartbeat"))
        arrow.until(is_kind("heartbeat", published_at_us=last["published_at_us"]))
        bars.until(is_kind("gap"))
        bars.until(is_kind("bars"))
        bars.until(is_kind("heartbeat"))
        keys = {}
        for key in ("snapshot", "arrow_snapshot", "heartbeat", "instruments", "bar"):
            name = name_of(key, prefix, book="NIFTY", interval="1s")
            raw: Any = eventually(lambda name=name: client.get(name))
            keys[key] = read_arrow(raw) if key == "arrow_snapshot" else json.loads(raw)

    # Every kind and field in the wild is in the document ...
    kinds = assert_as_written("ticks", book.seen)
    assert_as_written("tick", one.seen)
    assert_as_written("snapshot", [keys["snapshot"]])
    assert_as_written("instruments", [keys["instruments"]])
    assert_as_written("bar", [keys["bar"]])
    assert_as_written("heartbeat", [keys["heartbeat"]])
    assert assert_as_written("bars", bars.seen) == set(schemas_of("bars"))
    types = {name: cell["x-arrow-type"] for name, cell in schema("row")["properties"].items()}
    for message in [*arrow.seen, keys["arrow_snapshot"]]:
        if "types" in message:
            assert message.pop("types") == types
            assert faults("arrow_header", message) == []
        else:
            assert faults(message["kind"], message) == []

    # ... and every one in the document is seen: with these settings nothing is left out.
    assert kinds == set(schemas_of("ticks"))
    assert {message["kind"] for message in arrow.seen} == kinds
    by_kind = {kind: [m for m in book.seen if m["kind"] == kind] for kind in kinds}
    by_kind |= {"tick": one.seen, "snapshot": [keys["snapshot"]]}
    by_kind |= {"instruments": [keys["instruments"]], "bar": [keys["bar"]]}
    by_kind |= {
        name: [m for m in bars.seen if schema_of("bars", m["kind"]) == name]
        for name in schemas_of("bars")
    }
    assert {kind: unseen(kind, messages) for kind, messages in by_kind.items()} == {
        kind: set() for kind in by_kind
    }


def test_what_the_document_calls_conditional_is_absent_with_the_settings_by_default(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(redis_url=redis_url, channel_prefix=prefix)
    with (
        subscriber(redis_url, name_of("ticks", prefix, book="NIFTY")) as book,
        daemon(settings) as running,
    ):
        running.becomes_ready()
        batch = book.until(is_kind("batch"))
    assert_as_written("ticks", book.seen)
    cells = schema("row")["properties"]
    by_setting = {name for name, cell in cells.items() if "setting" in cell.get("x-when", "")}
    assert batch["columns"].keys() == cells.keys() - by_setting
