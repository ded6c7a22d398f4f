"""The WebSocket door against the running daemon: the wire of DESIGN §5, and what is not of it."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import redis
from order_house import House, Talk, new_name
from running import eventually, subscriber
from websockets.sync.client import connect

from app.security.tokens import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def talk(home: House) -> Iterator[Talk]:
    """An authenticated socket."""
    with home.talk() as talking:
        assert talking.hear()["op"] == "ack"
        yield talking


def place(home: House, key: str, **order: object) -> dict[str, object]:
    return {
        "op": "place",
        "client_order_id": key,
        "account": "MAIN",
        "order": home.order(**order),
    }


def about(key: str, state: str) -> Any:
    return lambda event: event["client_order_id"] == key and event["state"] == state


def test_an_order_is_placed_changed_cancelled_and_followed_on_one_socket(
    home: House, talk: Talk
) -> None:
    key = new_name()
    assert talk.ask(op="subscribe", request_id="s", after={"MAIN": None})["following"] == ["MAIN"]
    placed = talk.ask(**place(home, key))
    assert (placed["op"], placed["request_id"], placed["state"]) == ("ack", key, "RECEIVED")
    talk.event(about(key, "WORKING"))
    changed = talk.ask(
        op="modify", client_order_id=key, request_id=f"{key}-m", order={"quantity": 2}
    )
    assert (changed["op"], changed["request_id"]) == ("ack", f"{key}-m")
    talk.event(lambda event: event["data"].get("kind") == "MODIFY" and event["state"] == "ACKED")
    gone = talk.ask(op="cancel", client_order_id=key, request_id=f"{key}-c")
    assert gone["op"] == "ack"
    talk.event(about(key, "CANCELLED"))
    told = talk.ask(op="status", client_order_id=key, request_id="q")
    assert (told["request_id"], told["state"]) == ("q", "CANCELLED")
    numbers = [event["account_seq"] for event in talk.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    versions = [event["version"] for event in talk.events if event["task_id"] == placed["task_id"]]
    assert versions == list(range(1, len(versions) + 1))


def test_the_same_key_is_the_same_task_and_another_body_is_a_conflict(
    home: House, talk: Talk
) -> None:
    key = new_name()
    first, second = talk.ask(**place(home, key)), talk.ask(**place(home, key))
    assert first["task_id"] == second["task_id"]
    refused = talk.ask(**place(home, key, quantity=2))
    assert (refused["op"], refused["code"]) == ("error", "IDEMPOTENCY_CONFLICT")
    assert refused["request_id"] == key


def test_a_key_means_the_same_at_both_doors(home: House) -> None:
    key, principal = new_name(), new_name("caller")
    with home.caller(principal) as caller, home.talk(principal) as talk:
        talk.hear()
        task_id = talk.ask(**place(home, key))["task_id"]
        again = caller.place(key, home.order())
        assert (again.status_code, again.json()["task_id"]) == (200, task_id)


def test_who_comes_back_gets_every_event_after_its_number_and_none_twice(home: House) -> None:
    principal = new_name("caller")
    keys = [new_name() for _ in range(3)]
    with home.talk(principal) as talk:
        talk.hear()
        talk.ask(op="subscribe", after={"MAIN": None})
        talk.ask(**place(home, keys[0]))
        last = talk.event(about(keys[0], "WORKING"))["account_seq"]
    with home.talk(principal) as talk:
        talk.hear()
        for key in keys[1:]:
            talk.ask(**place(home, key))
        talk.ask(op="subscribe", after={"MAIN": last})
        talk.event(about(keys[2], "WORKING"))
        numbers = [event["account_seq"] for event in talk.events]
        assert numbers == list(range(last + 1, last + 1 + len(numbers)))


def test_events_come_on_the_channel_and_on_the_stream_in_order(home: House, redis_url: str) -> None:
    prefix = home.settings["channel_prefix"]
    key = new_name()
    with (
        subscriber(redis_url, f"{prefix}orders:MAIN") as channel,
        home.caller() as caller,
        redis.Redis.from_url(redis_url) as client,
    ):
        caller.place(key, home.order())
        channel.until(about(key, "WORKING"))
        seen = [event["account_seq"] for event in channel.seen]
        assert seen == list(range(seen[0], seen[0] + len(seen)))
        stream: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(f"{prefix}orderlog:MAIN")  # type: ignore[assignment]
        events = [orjson.loads(fields[b"event"]) for _, fields in stream]
        assert [int(name.split(b"-")[0]) for name, _ in stream] == list(range(1, len(stream) + 1))
        assert [event["account_seq"] for event in events] == list(range(1, len(stream) + 1))
        assert events[seen[0] - 1 : seen[0] - 1 + len(seen)] == channel.seen


# --- authentication -------------------------------------------------------------------------------


def test_a_token_in_the_first_frame_opens_the_door_as_well(home: House) -> None:
    with Talk(home.ws_url, home.token(new_name("caller")), in_header=False) as talk:
        assert talk.hear()["op"] == "ack"
        assert talk.ask(op="ping", request_id="p") == {"op": "pong", "request_id": "p"}


@pytest.mark.parametrize(
    "frame",
    [
        '{"op": "ping"}',
        '{"op": "auth"}',
        '{"op": "auth", "token": 7}',
        '{"op": "auth", "token": "a.b.c"}',
        "garbage",
        "[]",
        '{"op": "auth", "token": "' + "x" * 8_000 + '"}',
    ],
)
def test_a_first_frame_that_brings_no_token_closes_the_door(home: House, frame: str) -> None:
    with Talk(home.ws_url, None) as talk:
        talk.socket.send(frame)
        assert talk.hear()["op"] == "error"
        assert talk.closed()[0] == 4401


def test_who_says_nothing_is_closed_within_five_seconds(home: House) -> None:
    with Talk(home.ws_url, None) as talk:
        assert talk.closed() == (4401, "no auth frame in time")


def test_a_first_frame_of_bytes_closes_the_door(home: House) -> None:
    with Talk(home.ws_url, None) as talk:
        talk.socket.send(b"\x00")
        assert talk.closed()[0] == 1008


def test_a_token_in_the_address_opens_nothing(home: House) -> None:
    with Talk(f"{home.ws_url}?token={home.token('caller')}", None) as talk:
        talk.say(op="ping")
        assert talk.closed()[0] == 4401


def test_a_socket_ends_with_its_token(home: House) -> None:
    with home.talk(lifetime_s=1) as talk:
        assert talk.hear()["op"] == "ack"
        assert talk.closed() == (4401, "token expired")


def test_an_op_beyond_the_token_s_scope_is_refused_and_the_socket_stays(home: House) -> None:
    with home.talk(scopes=[Scope.ORDERS_READ]) as talk:
        talk.hear()
        for frame in (
            place(home, new_name()),
            {"op": "cancel", "client_order_id": "k", "request_id": "r"},
            {"op": "modify", "client_order_id": "k", "request_id": "r", "order": {"quantity": 2}},
        ):
            assert talk.ask(**frame)["code"] == "FORBIDDEN"
        assert talk.ask(op="ping")["op"] == "pong"
    with home.talk(scopes=[Scope.ORDERS_WRITE]) as talk:
        talk.hear()
        assert talk.ask(op="subscribe", after={"MAIN": 0})["code"] == "FORBIDDEN"
        assert talk.ask(op="status", client_order_id="k", request_id="r")["code"] == "FORBIDDEN"


def test_an_account_of_others_and_one_that_is_not_there_are_told_apart_by_nobody(
    home: House, talk: Talk
) -> None:
    answers = []
    for account in ("SPARE", "NOSUCH"):
        frame = place(home, "k") | {"account": account}
        answers.append(talk.ask(**frame))
        answers.append(talk.ask(op="subscribe", request_id="k", after={account: 0}))
    told = {json.dumps(answer).replace("SPARE", "NOSUCH") for answer in answers}
    assert len(told) == 1
    assert "UNKNOWN_ACCOUNT" in told.pop()


# --- what is not of the wire ----------------------------------------------------------------------

NOT_FRAMES = [
    "garbage",
    "",
    "[]",
    "null",
    "7",
    '"text"',
    "[" * 4_000,
    '{"a":' * 1_000,
    "{} {}",
    '{"op": "ping", "op": "ping"}',
]


@pytest.mark.parametrize("raw", NOT_FRAMES, ids=range(len(NOT_FRAMES)))
def test_text_that_is_no_frame_is_refused_and_the_socket_stays(talk: Talk, raw: str) -> None:
    talk.socket.send(raw)
    refused = talk.reply()
    assert (refused["op"], refused["code"]) == ("error", "INVALID_JSON")
    assert talk.ask(op="ping")["op"] == "pong"


NOT_REQUESTS: list[tuple[dict[str, object], str]] = [
    ({}, "UNKNOWN_OP"),
    ({"op": float("nan")}, "UNKNOWN_OP"),
    ({"op": "\ud800", "request_id": "\ud800"}, "UNKNOWN_OP"),
    ({"op": "ping", "request_id": 7}, "INVALID_REQUEST"),
    ({"op": "ping", "request_id": float("inf")}, "INVALID_REQUEST"),
    (
        {"op": "modify", "client_order_id": "k", "request_id": "r", "order": {}, "price": 1},
        "INVALID_REQUEST",
    ),
    ({"op": "cancel", "client_order_id": "k", "request_id": "r", "quantity": 1}, "INVALID_REQUEST"),
    ({"op": None}, "UNKNOWN_OP"),
    ({"op": {"a": 1}}, "UNKNOWN_OP"),
    ({"op": "auth", "token": "x"}, "UNKNOWN_OP"),
    ({"op": "drop table"}, "UNKNOWN_OP"),
    ({"op": "place"}, "INVALID_REQUEST"),
    ({"op": "place", "client_order_id": "k", "account": "MAIN", "order": []}, "INVALID_REQUEST"),
    ({"op": "cancel", "client_order_id": "k"}, "INVALID_REQUEST"),
    ({"op": "cancel", "client_order_id": 7, "request_id": "r"}, "INVALID_REQUEST"),
    ({"op": "cancel", "client_order_id": "k", "request_id": "r" * 65}, "INVALID_REQUEST"),
    ({"op": "status", "client_order_id": "a\0b", "request_id": "r"}, "INVALID_REQUEST"),
    ({"op": "status", "client_order_id": "k", "request_id": "a\0b"}, "INVALID_REQUEST"),
    ({"op": "status", "client_order_id": "nobody's", "request_id": "r"}, "INVALID_REQUEST"),
    ({"op": "status", "client_order_id": "nobodys", "request_id": "r"}, "UNKNOWN_ORDER"),
    ({"op": "modify", "client_order_id": "k", "request_id": "r"}, "INVALID_REQUEST"),
    ({"op": "modify", "client_order_id": "k", "request_id": "r", "order": {}}, "UNKNOWN_ORDER"),
    ({"op": "subscribe"}, "INVALID_REQUEST"),
    ({"op": "subscribe", "after": {"MAIN": -1}}, "INVALID_REQUEST"),
    ({"op": "subscribe", "after": {"MAIN": 1.5}}, "INVALID_REQUEST"),
    ({"op": "subscribe", "after": {"MAIN": "1"}}, "INVALID_REQUEST"),
    ({"op": "subscribe", "after": {"MAIN": 9_223_372_036_854_775_808}}, "INVALID_REQUEST"),
    ({"op": "subscribe", "after": {"MA\0IN": 0}}, "UNKNOWN_ACCOUNT"),
    ({"op": "subscribe", "after": [["MAIN", 0]]}, "INVALID_REQUEST"),
]


@pytest.mark.parametrize(
    ("frame", "code"), NOT_REQUESTS, ids=[f"{n}-{code}" for n, (_, code) in enumerate(NOT_REQUESTS)]
)
def test_a_frame_that_is_no_request_is_refused_and_the_socket_stays(
    talk: Talk, frame: dict[str, object], code: str
) -> None:
    talk.socket.send(json.dumps(frame))
    refused = talk.reply()
    assert (refused["op"], refused["code"]) == ("error", code)
    assert set(refused) == {"op", "code", "message", "field", "value", "rule", "request_id"}
    assert talk.ask(op="ping")["op"] == "pong"


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"price": "0"}, "order.price"),
        ({"price": float("nan")}, "order.price"),
        ({"quantity": float("inf")}, "order.quantity"),
        ({"price": 1e30}, "order.price"),
        ({"quantity": 1.5}, "order.quantity"),
        ({"quantity": 2**63}, "order.quantity"),
        ({"quantity": 2**64}, "order.quantity"),
        ({"secret": 1}, "order.secret"),
    ],
)
def test_a_fault_in_an_order_names_its_field(
    home: House, talk: Talk, order: dict[str, object], field: str
) -> None:
    frame = place(home, new_name(), **order)
    talk.socket.send(json.dumps(frame))
    refused = talk.reply()
    assert (refused["op"], refused["field"]) == ("error", field)
    assert refused["rule"]
    assert refused["request_id"] == frame["client_order_id"]


@pytest.mark.parametrize("written", ["100.05", '"100.05"'])
def test_a_price_is_the_digits_that_were_written(home: House, talk: Talk, written: str) -> None:
    frame = place(home, new_name(), price="PRICE")
    talk.socket.send(json.dumps(frame).replace('"PRICE"', written))
    assert talk.reply()["order"]["price"] == "100.05"


def test_a_number_with_more_digits_than_a_price_is_refused_and_not_rounded(
    home: House, talk: Talk
) -> None:
    frame = place(home, new_name(), price="PRICE")
    talk.socket.send(json.dumps(frame).replace('"PRICE"', "118.40000000000000001"))
    refused = talk.reply()
    assert (refused["code"], refused["field"]) == ("INVALID_FIELD", "order.price")
    assert refused["value"] == "118.40000000000000001"
    assert "4 decimals" in refused["rule"]


def test_a_subscription_is_made_whole_or_not_at_all(home: House) -> None:
    with home.talk(accounts=["MAIN", "SPARE"]) as talk:
        talk.hear()
        refused = talk.ask(op="subscribe", request_id="s", after={"MAIN": 0, "NOSUCH": 0})
        assert (refused["code"], refused["field"]) == ("UNKNOWN_ACCOUNT", "account")
        # What follows an account sends its events at once; none comes before this answer.
        key = new_name()
        assert talk.ask(**place(home, key))["op"] == "ack"
        assert talk.ask(op="subscribe", after={"SPARE": None})["following"] == ["SPARE"]
        assert talk.events == []


def test_a_subscription_after_a_number_that_no_event_has_is_refused(
    home: House, talk: Talk
) -> None:
    refused = talk.ask(op="subscribe", request_id="s", after={"MAIN": 2**40})
    assert (refused["code"], refused["field"]) == ("AFTER_THE_NEWEST", "after.MAIN")
    assert refused["value"] == 2**40
    assert refused["rule"].startswith("must be at most ")
    assert refused["request_id"] == "s"


def test_bytes_close_the_socket(talk: Talk) -> None:
    talk.socket.send(b"{}")
    assert talk.closed() == (1008, "text frames only")


@pytest.mark.parametrize("characters", [8_193, 100_000])
def test_a_frame_that_is_too_long_closes_the_socket(talk: Talk, characters: int) -> None:
    talk.socket.send("x" * characters)
    assert talk.closed()[0] == 1009


def test_a_socket_that_speaks_another_language_is_closed(home: House) -> None:
    with home.talk() as talk:
        talk.hear()
        for _ in range(51):
            talk.socket.send("garbage")
        assert talk.closed() == (1008, "too many unreadable frames")


def test_a_caller_beyond_its_rate_is_told_to_wait_and_stays(home: House) -> None:
    with home.talk() as talk:
        talk.hear()
        for _ in range(80):
            talk.say(op="ping", request_id="p")
        answers = [talk.reply() for _ in range(80)]
        refused = [answer for answer in answers if answer["op"] == "error"]
        assert refused
        assert {answer["code"] for answer in refused} == {"TOO_MANY_REQUESTS"}


@pytest.mark.parametrize("in_header", [True, False], ids=["header", "frame"])
def test_a_caller_beyond_its_rate_is_told_at_the_door_to_try_later(
    home: House,
    in_header: bool,  # noqa: FBT001
) -> None:
    principal = new_name("caller")
    with home.talk(principal) as talk:
        talk.hear()
        for _ in range(80):
            talk.say(op="ping", request_id="p")
        with Talk(home.ws_url, home.token(principal), in_header=in_header) as late:
            assert late.hear()["code"] == "TOO_MANY_REQUESTS"
            assert late.closed() == (1013, "TOO_MANY_REQUESTS")


def test_an_eleventh_socket_of_one_caller_is_refused(home: House) -> None:
    principal = new_name("caller")
    with contextlib.ExitStack() as stack:
        talks = [stack.enter_context(home.talk(principal)) for _ in range(10)]
        assert [each.hear()["op"] for each in talks] == ["ack"] * 10
        with home.talk(principal) as one_more:
            assert one_more.hear()["code"] == "TOO_MANY_CONNECTIONS"
            assert one_more.closed() == (1013, "TOO_MANY_CONNECTIONS")


def test_many_open_sockets_leave_room_for_requests(home: House) -> None:
    principals = [new_name("caller") for _ in range(8)]
    with contextlib.ExitStack() as stack:
        talks = [
            stack.enter_context(home.talk(principal)) for principal in principals for _ in range(9)
        ]
        assert {each.hear()["op"] for each in talks} == {"ack"}
        with home.caller() as caller:
            assert caller.ask("GET").status_code == 200


def test_a_subscriber_that_reads_nothing_holds_up_nobody(home: House) -> None:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    host, port = home.rest_url.removeprefix("http://").split(":")
    slow.connect((host, int(port)))
    token = home.token(new_name("caller"))
    with connect(
        home.ws_url,
        sock=slow,
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
        proxy=None,
        close_timeout=0.1,
        max_queue=1,
    ) as stuck:
        stuck.send(orjson.dumps({"op": "subscribe", "after": {"MAIN": 0}}).decode())
        with home.talk() as talk:
            talk.hear()
            talk.ask(op="subscribe", after={"MAIN": None})
            for _ in range(5):
                key = new_name()
                talk.ask(**place(home, key))
                talk.event(about(key, "WORKING"))


def test_sockets_that_vanish_in_mid_answer_leave_no_trace(home: House) -> None:
    for _ in range(5):
        with home.talk() as talk:
            talk.hear()
            talk.say(op="subscribe", after={"MAIN": 0})
            for _ in range(10):
                talk.say(op="ping")
            talk.socket.socket.close()
    with home.caller() as caller:
        assert eventually(lambda: caller.ask("GET").status_code == 200)
    assert "Traceback" not in home.daemon.program.err.text()


def test_who_asked_for_it_and_is_lost_has_its_working_orders_cancelled_and_its_stops_kept(
    home: House,
) -> None:
    lost, stop, other, job = new_name(), new_name(), new_name(), new_name()
    with home.talk("bot") as stays:
        assert stays.hear()["op"] == "ack"
        assert stays.ask(**place(home, other))["op"] == "ack"
        gone = home.talk("bot").__enter__()
        assert gone.hear()["op"] == "ack"
        armed = gone.ask(op="cancel_on_disconnect", session="a", after_s=1, request_id="d")
        assert (armed["op"], armed["session"], armed["after_s"]) == ("ack", "a", 1)
        second = gone.ask(op="cancel_on_disconnect", session="b", after_s=1, request_id="e")
        assert (second["op"], second["code"]) == ("error", "SESSION_TAKEN")
        assert gone.ask(**place(home, lost))["op"] == "ack"
        below = {"trigger_price": home.price, "product": "MIS", "transaction_type": "SELL"}
        assert gone.ask(**place(home, stop, order_type="SL", **below))["op"] == "ack"
        basket = {"op": "basket", "client_order_id": job, "account": "MAIN"}
        assert gone.ask(**basket, legs=[{"order": home.order()}])["op"] == "ack"
        sliced = place(home, f"{job}-cut") | {"slice": True}
        assert gone.ask(**sliced)["op"] == "ack"
        with home.caller("bot") as caller:
            for key in (lost, stop, f"{job}~1", f"{job}-cut~1"):
                caller.reaches(key, "WORKING")
            gone.cut()
            caller.reaches(lost, "CANCELLED")
            (cancel,) = caller.changes(lost)
            assert (cancel["kind"], cancel["state"]) == ("CANCEL", "ACKED")
            assert caller.status(stop)["state"] == "WORKING"
            assert caller.status(other)["state"] == "WORKING"
            assert caller.status(f"{job}~1")["state"] == "WORKING"
            assert caller.status(f"{job}-cut~1")["state"] == "WORKING"
