"""The published description of the wire is sound, and is of the code that writes the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from asyncapi_document import document, faults, schema
from jsonschema import Draft202012Validator

from ticker_service.market import columns
from ticker_service.market.encode_arrow import ArrowEncoder

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY_COLUMN = columns.chosen(depth=True, options=True, own_volatility=True)
WIRE = {name: schema("row")["properties"][name] for name in schema("row")["properties"]}


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def test_it_is_an_asyncapi_document_of_version_3() -> None:
    whole = document()
    assert whole["asyncapi"].startswith("3.")
    assert {"title", "version"} <= whole["info"].keys()
    assert whole["channels"].keys() >= {"ticks", "arrow", "tick", "bars", "orders", "events"}
    for channel in whole["channels"].values():
        (server,) = channel["servers"]
        if server == {"$ref": "#/servers/redis"}:
            assert channel["address"].startswith("ticker:v1:")
        named = {part.split("}")[0] for part in channel["address"].split("{")[1:]}
        assert named == channel.get("parameters", {}).keys()


def test_every_reference_leads_somewhere() -> None:
    for reference in references(document()):
        place: Any = document()
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert isinstance(place, dict), reference


@pytest.mark.parametrize("name", sorted(document()["components"]["schemas"]))
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))


def test_its_columns_are_those_of_the_code() -> None:
    assert WIRE.keys() == {column.name for column in EVERY_COLUMN}
    assert schema("columns")["properties"].keys() == WIRE.keys()


def test_a_column_that_is_always_there_is_required_and_no_other() -> None:
    always = {column.name for column in columns.chosen(depth=False, options=False)}
    assert set(schema("row")["required"]) == always
    assert {name for name, cell in WIRE.items() if "x-when" not in cell} == always


@pytest.mark.parametrize("column", EVERY_COLUMN, ids=lambda column: column.name)
def test_the_words_of_a_column_are_those_of_the_code(column: columns.Column) -> None:
    assert WIRE[column.name].get("enum", []) == ([*column.words, None] if column.words else [])


def test_the_types_of_arrow_are_those_of_the_encoder() -> None:
    encoder = ArrowEncoder(EVERY_COLUMN)
    arrays = [column.dtype.type(0).repeat(0) for column in EVERY_COLUMN]
    made = pa.ipc.open_stream(encoder.encode({}, arrays)).schema
    assert {field.name: str(field.type) for field in made} == {
        name: cell["x-arrow-type"] for name, cell in WIRE.items()
    }


@pytest.mark.parametrize(
    "changed",
    [{"kind": "other"}, {"seq": 0}, {"v": 2}, {"new": 1}, {"book": "NIFTY 50"}, {"reason": None}],
)
def test_a_message_that_differs_from_it_is_found(changed: dict[str, object]) -> None:
    good = {
        "v": 1,
        "kind": "status",
        "book": "NIFTY",
        "epoch": 7,
        "seq": 1,
        "published_at_us": 1,
        "state": "feed_up",
        "reason": "subscribed",
    }
    assert faults("status", good) == []
    assert faults("status", good | changed)
