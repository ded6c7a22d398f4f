"""The orders' WebSocket and the notices are described whole: what the code has, the document has."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from asyncapi_document import document, faults, schema, schemas_of
from pydantic.json_schema import models_json_schema

from app.http import exits, schemas
from app.ws import orders as door

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

ROOT: Final = Path(__file__).resolve().parents[2]
ASKED: Final[dict[str, type[BaseModel]]] = {
    "place": schemas.PlaceRequest,
    "basket": schemas.BasketRequest,
    "exit": exits.ExitRequest,
    "modify": door._Modify,
    "cancel": door._Cancel,
    "status": door._Target,
    "subscribe": door._Subscribe,
    "ping": door._Ping,
    "cancel_on_disconnect": door._CancelOnDisconnect,
}
FIRST: Final = "auth"
"""It has no model of its own: a token is read before anything else is believed."""
TOLD: Final = {"ack", "error", "event", "pong"}


def described() -> dict[str, Any]:
    """Return the schemas of all that may be asked, as the code's models make them."""
    models = [(model, "validation") for model in ASKED.values()]
    names, whole = models_json_schema(
        models,  # type: ignore[arg-type] - a list of such pairs is what it takes
        ref_template="#/components/schemas/{model}",
    )
    parts = whole["$defs"]
    made: dict[str, Any] = {}
    for op, model in ASKED.items():
        part = dict(parts[names[model, "validation"]["$ref"].rsplit("/", 1)[1]])
        part.pop("title", None)
        properties = {"op": {"const": op}, **part["properties"]}
        required = ["op", *part.get("required", [])]
        made[f"ask_{op}"] = part | {"properties": properties, "required": required}
    asked = {model.__name__ for model in ASKED.values()}
    return made | {name: part for name, part in parts.items() if name not in asked}


def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def asked_by_the_code() -> Iterator[str]:
    """Yield every ``op`` that the door compares a frame's with."""
    for node in ast.walk(tree("app/ws/orders.py")):
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "frame.get('op')":
            (other,) = node.comparators
            assert isinstance(other, ast.Constant)
            yield str(other.value)


def told_by_the_code() -> Iterator[str]:
    """Yield every ``op`` of a message that the door sends."""
    for node in ast.walk(tree("app/ws/orders.py")):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "op":
                    assert isinstance(value, ast.Constant)
                    yield str(value.value)


def noticed_by_the_code() -> Iterator[str]:
    """Yield every kind of notice."""
    for path in (ROOT / "ticker_service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("notices.tell"):
                (kind,) = node.args
                assert isinstance(kind, ast.Constant), f"{path}:{node.lineno}"
                yield str(kind.value)
    yield "recording"  # which the recorder posts itself


def ops_of(channel: str) -> set[str]:
    return {schema(name)["properties"]["op"]["const"] for name in schemas_of(channel)}


def test_every_op_that_the_door_takes_is_in_the_document_and_no_other() -> None:
    assert set(asked_by_the_code()) == {FIRST, *ASKED}
    assert ops_of("orders_ask") == {FIRST, *ASKED}


def test_every_op_that_the_door_sends_is_in_the_document_and_no_other() -> None:
    assert set(told_by_the_code()) == TOLD
    assert ops_of("orders_tell") == TOLD


@pytest.mark.parametrize("name", sorted(described()))
def test_what_is_asked_has_the_fields_of_the_code(name: str) -> None:
    assert schema(name) == described()[name]


def test_an_unknown_op_is_told_every_one_there_is() -> None:
    source = (ROOT / "app/ws/orders.py").read_text()
    _, _, rule = source.partition('"UNKNOWN_OP",')
    rule = rule.partition("field=")[0]
    assert {op for op in {FIRST, *ASKED} if op not in rule} == set()


def test_an_event_over_the_door_is_the_one_on_redis_with_its_op() -> None:
    over_the_door = schema("tell_event")
    assert (
        over_the_door["properties"]
        == {"op": {"const": "event"}} | schema("order_event")["properties"]
    )
    assert set(over_the_door["required"]) == {"op", *schema("order_event")["required"]}


def test_an_error_over_the_door_has_the_fields_of_one_over_rest() -> None:
    assert set(schema("tell_error")["properties"]) == {"op", *schemas.ErrorAnswer.model_fields}


def test_every_kind_of_notice_is_in_the_document_and_no_other() -> None:
    kinds = {schema(name)["properties"]["kind"]["const"] for name in schemas_of("events")}
    assert kinds == set(noticed_by_the_code())


def test_a_request_that_differs_from_the_document_is_found() -> None:
    one = {"op": "exit", "client_order_id": "x-1", "account": "MAIN", "all": True}
    assert faults("ask_exit", one) == []
    assert faults("ask_exit", one | {"al": True})
    assert faults("ask_exit", one | {"op": "basket"})


def test_every_channel_of_the_door_says_which_server_has_it() -> None:
    for name in ("orders_ask", "orders_tell"):
        channel = document()["channels"][name]
        assert channel["address"] == "/v1/orders/ws"
        assert channel["servers"] == [{"$ref": "#/servers/orders"}]
