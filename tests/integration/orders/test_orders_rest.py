"""The REST door against the running daemon: what it takes, what it answers, what it never does."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from order_house import ALLOWED_PACE_S, House, new_name
from running import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = {"Content-Type": "application/json"}
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


def test_an_order_is_placed_changed_cancelled_and_told_of(home: House) -> None:
    key = new_name()
    with home.caller() as caller:
        placed = caller.place(key, home.order())
        assert placed.status_code == 202
        resting = caller.reaches(key, "WORKING")
        (row,) = [row for row in home.broker_rows() if row["order_id"] == resting["order_id"]]
        assert row["quantity"] == 1
        changed = caller.ask(
            "PUT", f"/{key}", json={"request_id": f"{key}-m", "order": {"quantity": 2}}
        )
        assert changed.status_code == 202
        # A cancel does not wait for a change, and would take the order from under it.
        assert eventually(lambda: caller.changes(key)[0]["state"] == "ACKED", pace_s=ALLOWED_PACE_S)
        gone = caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-c"})
        assert gone.status_code == 202
        assert caller.reaches(key, "CANCELLED")["filled_quantity"] == 0
        listed = caller.ask("GET").json()["orders"]
        assert [task["kind"] for task in listed] == ["CANCEL", "MODIFY", "PLACE"]
        told = [(task["kind"], task["request_id"], task["state"]) for task in caller.changes(key)]
        assert told == [
            ("CANCEL", f"{key}-c", "ACKED"),
            ("MODIFY", f"{key}-m", "ACKED"),
        ]
        assert caller.ask("GET", "?open=true").json() == {"orders": []}
        events: list[dict[str, Any]] = []
        while page := caller.events("MAIN", after=len(events)):
            events += page
        ours = [event for event in events if event["client_order_id"] == key]
        assert [event["event"] for event in ours][:3] == ["received", "ready", "intent_recorded"]
        numbers = [event["account_seq"] for event in events]
        assert numbers == list(range(1, len(numbers) + 1))


def test_the_same_key_and_body_give_the_same_task_and_one_order(home: House) -> None:
    key = new_name()
    with home.caller() as caller:
        answers = [caller.place(key, home.order()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 200, 200]
        assert len({answer.json()["task_id"] for answer in answers}) == 1
        order_id = caller.reaches(key, "WORKING")["order_id"]
        assert caller.place(key, home.order()).json()["order_id"] == order_id
        rows = home.broker_rows()
        (tags,) = (row["tags"] for row in rows if row["order_id"] == order_id)
        assert [row["order_id"] for row in rows if {*tags} & {*(row["tags"] or ())}] == [order_id]


def test_the_same_key_with_another_body_is_a_conflict_without_effect(home: House) -> None:
    key = new_name()
    with home.caller() as caller:
        caller.place(key, home.order())
        other = caller.place(key, home.order(quantity=2))
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        assert caller.status(key)["order"]["quantity"] == "1"


def test_the_same_price_written_in_another_way_is_the_same_request(home: House) -> None:
    key = new_name()
    with home.caller() as caller:
        prices = ("1000.40", "1000.4", "1000.400", "1000.41")
        answers = [caller.place(key, home.order(price=price)) for price in prices]
        assert [answer.status_code for answer in answers] == [202, 200, 200, 409]
        assert caller.status(key)["order"]["price"] == "1000.40"


def test_two_callers_may_use_one_key_for_two_orders(home: House) -> None:
    key = new_name()
    with home.caller() as one, home.caller() as other:
        tasks = {each.place(key, home.order()).json()["task_id"] for each in (one, other)}
    assert len(tasks) == 2


@pytest.mark.parametrize("written", ["100.05", '"100.05"', "100.050", '"100.0500"'])
def test_a_price_is_the_digits_that_were_written(home: House, written: str) -> None:
    key = new_name()
    order = json.dumps(home.order(price=None))[:-1] + f', "price": {written}}}'
    body = f'{{"client_order_id": "{key}", "account": "MAIN", "order": {order}}}'
    with home.caller() as caller:
        answer = caller.ask("POST", content=body, headers=JSON)
        assert answer.status_code == 202, answer.text
        assert Decimal(caller.status(key)["order"]["price"]) == Decimal("100.05")


def _with(**changed: object) -> Callable[[dict[str, object]], dict[str, object]]:
    return lambda order: order | changed


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("order.quantity", _with(quantity=0)),
        ("order.price", _with(price="0")),
        ("order.price", _with(price="100.00001")),
        ("order.exchange", _with(exchange="NASDAQ")),
        ("order.tradingsymbol", _with(tradingsymbol="")),
        ("order.tradingsymbol", _with(tradingsymbol="INFYX")),
        ("order.tradingsymbol", _with(tradingsymbol="NIFTY 50")),
        ("order.price", _with(price="100.02")),
        ("order.tradingsymbol", _with(tradingsymbol="IN\0FY")),
        ("order.tradingsymbol", _with(tradingsymbol="\ud800")),
        ("order.trigger_price", _with(trigger_price="1")),
        ("order.product", _with(variety="co")),
        ("order.quantity", _with(quantity=1.5)),
        ("order.quantity", _with(quantity="1")),
        ("order.quantity", _with(quantity=True)),
        ("order.price", _with(price="NaN")),
        ("order.price", _with(price=float("nan"))),
        ("order.price", _with(price=float("-inf"))),
        ("order.quantity", _with(quantity=float("nan"))),
        ("order.price", _with(price=10**400)),
        ("order.price", _with(price="Infinity")),
        ("order.price", _with(price=[])),
        ("order.price", _with(price="9" * 300)),
        ("order.order_type", _with(order_type="ICEBERG")),
        ("order.tag", _with(tag="MINE")),
        ("order", _with(**{"\ud800": 1})),
        ("order.transaction_type", _with(transaction_type="\ud800")),
    ],
)
def test_a_fault_names_field_value_and_rule(
    home: House, field: str, changed: Callable[[dict[str, object]], dict[str, object]]
) -> None:
    body = {"client_order_id": new_name(), "account": "MAIN", "order": changed(home.order())}
    with home.caller() as caller:
        answer = caller.ask("POST", content=json.dumps(body), headers=JSON)
    fault = answer.json()
    assert answer.status_code == 422, answer.text
    assert fault["code"] in {"INVALID_FIELD", "INVALID_REQUEST"}
    assert fault["field"] == field
    assert fault["rule"]
    assert set(fault) == {"code", "message", "field", "value", "rule", "request_id"}


@pytest.mark.parametrize("written", ["118.40000000000000001", "1e400", "1e99999999999999999999"])
def test_a_number_that_is_no_price_is_refused_and_not_rounded(home: House, written: str) -> None:
    order = json.dumps(home.order(price=None))[:-1] + f', "price": {written}}}'
    body = f'{{"client_order_id": "{new_name()}", "account": "MAIN", "order": {order}}}'
    with home.caller() as caller:
        answer = caller.ask("POST", content=body, headers=JSON)
    fault = answer.json()
    assert (answer.status_code, fault["field"]) == (422, "order.price")
    assert fault["value"] in {written, "1E+400", "Infinity"}
    assert fault["rule"]


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"{",
        b"{} {}",
        b"\xff\xfe",
        b"[" * 8_000,
        b'{"a":' * 2_000,
        b'{"client_order_id": "k", "client_order_id": "k"}',
        b"",
        b"null",
        b"[1]",
        b'"text"',
        b"1" * 10_000,
        b"true",
    ],
    ids=range(13),
)
def test_a_body_that_is_no_json_object_is_told_as_on_the_socket(
    home: House, content: bytes
) -> None:
    with home.caller() as caller:
        answer = caller.ask("POST", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_JSON")
    assert answer.json()["rule"].startswith("must be one JSON object: ")


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"client_order_id": NaN}',
        b'{"client_order_id": "k", "account": "MAIN", "order": {"quantity": NaN}}',
        b'{"client_order_id": "k", "account": "MAIN", "order": {"quantity": 1e999}}',
        b'{"client_order_id": "k", "account": "MAIN", "order": {"quantity": '
        + b"9" * 5_000
        + b"}}",
        b'{"client_order_id": "\\ud800", "account": "MAIN", "order": {}}',
    ],
    ids=range(6),
)
def test_no_body_is_more_than_a_refusal(home: House, content: bytes) -> None:
    with home.caller() as caller:
        answer = caller.ask("POST", content=content, headers=JSON)
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "INVALID_REQUEST"
        assert caller.ask("GET").json() == {"orders": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/events?account=MAIN&after=-1"),
        ("GET", "/events?account=MAIN&after=9223372036854775808"),
        ("GET", "/events?account=MAIN&after=x"),
        ("GET", "/events"),
        ("GET", "?limit=0"),
        ("GET", "?limit=501"),
        ("GET", "?account=%00"),
        ("GET", "/a%00b"),
        ("GET", "/" + "a" * 65),
        ("DELETE", "/k"),
        ("DELETE", "/k?request_id=%ff"),
        ("DELETE", "/k?request_id=r&request_id=s"),
        ("DELETE", "/k?request_id=r&quantity=5"),
        ("GET", "/events?account=MAIN&account=MAIN"),
        ("GET", "?acount=MAIN"),
        ("GET", "/k?%ff=1"),
    ],
)
def test_no_parameter_is_more_than_a_refusal(home: House, method: str, path: str) -> None:
    with home.caller() as caller:
        answer = caller.ask(method, path)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("content", "headers", "expected"),
    [
        (b"x" * 16_385, {}, (413, "BODY_TOO_LARGE", "Content-Length", 16_385)),
        (iter([b"{}"]), {}, (411, "LENGTH_REQUIRED", "Content-Length", None)),
        (
            b"{}",
            {"Content-Type": "application/x-www-form-urlencoded"},
            (
                415,
                "UNSUPPORTED_MEDIA_TYPE",
                "Content-Type",
                "application/x-www-form-urlencoded",
            ),
        ),
    ],
    ids=["too long", "chunked", "as curl says it"],
)
def test_a_body_that_is_not_read_is_refused_with_field_value_and_rule(
    home: House, content: Any, headers: dict[str, str], expected: tuple[object, ...]
) -> None:
    with home.caller() as caller:
        answer = caller.ask("POST", content=content, headers=headers)
    fault = answer.json()
    assert (answer.status_code, fault["code"], fault["field"], fault["value"]) == expected
    assert fault["rule"].startswith("must be ")


def test_events_after_a_number_that_no_event_has_are_refused(home: House) -> None:
    with home.caller() as caller:
        newest = len(caller.events("MAIN", after=0))
        assert newest < 500
        assert caller.events("MAIN", after=newest) == []
        answer = caller.ask("GET", "/events", params={"account": "MAIN", "after": newest + 1})
    fault = answer.json()
    assert (answer.status_code, fault["code"]) == (422, "AFTER_THE_NEWEST")
    assert (fault["field"], fault["value"]) == ("after", newest + 1)
    assert str(newest) in fault["rule"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/orders"),
        ("GET", "/v1/orders/none"),
        ("GET", "/elsewhere"),
        ("PATCH", "/v1/orders"),
        ("POST", "/v1/orders"),
        ("GET", "/openapi.json"),
    ],
)
def test_every_answer_has_its_security_headers_and_no_name_of_the_server(
    home: House, method: str, path: str
) -> None:
    answer = httpx.request(method, home.rest_url + path, trust_env=False)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert "server" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_with_a_slash_too_many_leads_nowhere(home: House, method: str) -> None:
    with home.caller() as caller:
        answer = caller.ask(method, "/")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert "location" not in answer.headers


def test_a_parameter_at_fault_is_named_as_it_was_written(home: House) -> None:
    with home.caller() as caller:
        answers = [caller.ask("GET", path) for path in ("?limit=0", "?limt=5", "/events?after=1")]
    assert [answer.json()["field"] for answer in answers] == ["limit", "limt", "account"]


def test_the_door_describes_itself(home: House) -> None:
    api = httpx.get(f"{home.rest_url}/openapi.json", trust_env=False).json()
    assert api["openapi"].startswith("3.")
    assert {(path, method) for path, methods in api["paths"].items() for method in methods} == {
        ("/v1/orders", "post"),
        ("/v1/orders", "get"),
        ("/v1/orders/basket", "post"),
        ("/v1/orders/basket/{client_order_id}", "get"),
        ("/v1/orders/events", "get"),
        ("/v1/orders/{client_order_id}", "get"),
        ("/v1/orders/{client_order_id}/changes", "get"),
        ("/v1/orders/{client_order_id}", "put"),
        ("/v1/orders/{client_order_id}", "delete"),
        ("/v1/desk", "get"),
        ("/v1/desk/orphans", "post"),
        ("/v1/desk/{task_id}", "get"),
        ("/v1/desk/{task_id}/adopt", "post"),
        ("/v1/desk/{task_id}/close", "post"),
        ("/v1/desk/{task_id}/not-placed", "post"),
        ("/v1/desk/{task_id}/resend", "post"),
        ("/v1/exits", "post"),
        ("/v1/exits/{client_order_id}", "get"),
        ("/v1/flatten", "post"),
        ("/v1/kill-switch", "post"),
        ("/v1/kill-switch", "get"),
        ("/v1/kill-switch", "delete"),
        ("/v1/risk", "get"),
        ("/v1/risk/reload", "post"),
        ("/v1/risk/latch", "delete"),
    }
    (scheme,) = api["components"]["securitySchemes"].items()
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    for methods in api["paths"].values():
        for operation in methods.values():
            assert operation["security"] == [{scheme[0]: []}]
            assert "authorization" not in {p["name"] for p in operation.get("parameters", [])}
    defined = set(api["components"]["schemas"])
    refs = {part.split('"')[0] for part in json.dumps(api).split("#/components/schemas/")[1:]}
    assert refs <= defined


def test_a_caller_beyond_its_rate_is_told_to_wait_and_nobody_else_is(home: House) -> None:
    with home.caller() as busy, home.caller() as other:
        # Eight at a time: one after the other may be slower than the rate on a machine that is busy.
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: busy.ask("GET", "/none"), range(200)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].json()["code"] == "TOO_MANY_REQUESTS"
        assert other.ask("GET").status_code == 200
