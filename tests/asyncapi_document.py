"""``docs/asyncapi.json``, read for checking real messages against it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PATH: Final = Path(__file__).resolve().parents[1] / "docs" / "asyncapi.json"


@functools.cache
def document() -> dict[str, Any]:
    read: dict[str, Any] = orjson.loads(PATH.read_bytes())
    return read


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = document()["components"]["schemas"][name]
    return found


def schemas_of(channel: str) -> list[str]:
    """Return the names of the schemas of a channel's JSON messages."""
    messages = document()["channels"][channel]["messages"].values()
    names = [each["$ref"].rsplit("/", 1)[1] for each in messages]
    return [name for name in names if name in document()["components"]["schemas"]]


def schema_of(channel: str, kind: str) -> str:
    """Return the name of the schema of a channel's messages of one kind."""
    (name,) = (
        name for name in schemas_of(channel) if schema(name)["properties"]["kind"]["const"] == kind
    )
    return name


@functools.cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    )


def faults(name: str, message: object) -> list[str]:
    """Return what of a message is not as its schema says."""
    return [
        f"{name} {list(error.absolute_path)}: {error.message[:200]}"
        for error in validator(name).iter_errors(message)
    ]


def unseen(name: str, messages: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return what a schema has and none of the messages had, columns as ``columns.NAME``."""
    listed = list(messages)
    seen = {field for message in listed for field in message}
    own = schema(name)["properties"]
    missing = set(own) - seen
    columns = own.get("columns")
    if columns is not None:
        inside = columns if "properties" in columns else schema("columns")
        held = {column for message in listed for column in message.get("columns", ())}
        missing |= {f"columns.{column}" for column in set(inside["properties"]) - held}
    return missing
