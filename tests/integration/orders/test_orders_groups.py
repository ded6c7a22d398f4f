"""Orders for a group of two accounts, through the doors, on a real database and broker."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson
import psycopg
import pytest
from order_house import House, house, new_name
from running import DEADLINE_S, log_in

if TYPE_CHECKING:
    from collections.abc import Iterator

PAIR: Final = {"PAIR": {"accounts": ["MAIN", "SPARE"], "basis": "one_owner"}}
BOTH: Final = {"accounts": ["MAIN", "SPARE"]}


@pytest.fixture
def pair(redis_url: str) -> Iterator[House]:
    """A daemon of its own, whose tokens may die."""
    prefix = f"test-{uuid.uuid4().hex}:"
    # Two a second: however slow the machine is, most of what it takes waits when the token dies.
    settings = {"order_deadline_s": 120, "limits": '{"orders_per_second": 2}'}
    with house(redis_url, prefix, groups=orjson.dumps(PAIR).decode(), **settings) as running:
        yield running


def orders_at_broker(home: House, account: str, *, token: str = "") -> dict[str, dict[str, Any]]:
    """Return the orders of an account's day, by their tag."""
    own = json.loads(str(home.settings["accounts"]))[account]
    key = f"token {own['api_key']}:{token or own['access_token']}"
    answer = httpx.get(
        f"{home.exchange.rest_root}/orders",
        headers={"Authorization": key},
        trust_env=False,
        timeout=DEADLINE_S,
    )
    return {row["tag"]: row for row in answer.raise_for_status().json()["data"]}


def test_what_waits_when_a_token_dies_goes_out_once_on_the_other_account(pair: House) -> None:
    with pair.caller("desk", **BOTH) as caller, pair.talk("desk", **BOTH) as talk:
        assert talk.reply()["authenticated"]
        first = caller.ask(
            "POST", json={"client_order_id": "before", "group": "PAIR", "order": pair.order()}
        )
        assert (first.status_code, first.json()["account"]) == (202, "MAIN")
        caller.reaches("before", "WORKING")
        keys = [new_name("group") for _ in range(8)]
        for key in keys:
            talk.say(op="place", client_order_id=key, group="PAIR", order=pair.order())
        told = [talk.reply() for _ in keys]
        assert {(each["op"], each["account"], each["group"]) for each in told} == {
            ("ack", "MAIN", "PAIR")
        }

        pair.exchange.fault(fault="expire_tokens", user_id=pair.exchange.user_id)

        went = [caller.reaches(key, "WORKING") for key in keys]
        moved = [each for each in went if each["failed_over_from"]]
        assert moved
        assert {each["account"] for each in moved} == {"SPARE"}
        assert all(each["account"] == "MAIN" for each in went if each not in moved)
        again = caller.ask(
            "POST", json={"client_order_id": keys[0], "group": "PAIR", "order": pair.order()}
        )
        assert (again.status_code, again.json()["task_id"]) == (200, went[0]["task_id"])
        over = [each for each in caller.events("MAIN", after=0) if each["event"] == "failed_over"]
        assert len(over) == len(moved)
        assert {each["data"]["facts"]["to_account"] for each in over} == {"SPARE"}
        token = log_in(pair.exchange.simulator, pair.exchange.user_id)
        with psycopg.connect(str(pair.settings["database_url"])) as connection:
            tags = connection.execute(
                "SELECT order_attempt.tag FROM order_attempt JOIN order_task USING (task_id)"
                " WHERE order_task.request_id = ANY(%s)",
                (keys,),
            ).fetchall()
        books = [*orders_at_broker(pair, "MAIN", token=token), *orders_at_broker(pair, "SPARE")]
        assert sum((tag in books) for (tag,) in tags) == len(keys)
        # A cancel finds its order where it is.
        name = moved[0]["client_order_id"]
        caller.ask("DELETE", f"/{name}", params={"request_id": "c"}).raise_for_status()
        caller.reaches(name, "CANCELLED")


def test_a_group_is_asked_for_at_every_door_and_only_by_those_who_may(pair: House) -> None:
    order = pair.order()
    with pair.caller(**BOTH) as caller:
        both = {"client_order_id": "a", "account": "MAIN", "group": "PAIR", "order": order}
        answer = caller.ask("POST", json=both)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")
        unknown = caller.ask("POST", json={"client_order_id": "a", "group": "X", "order": order})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "UNKNOWN_GROUP")
    with pair.caller(accounts=["MAIN"]) as half:
        refused = half.ask("POST", json={"client_order_id": "a", "group": "PAIR", "order": order})
        assert (refused.status_code, refused.json()["code"]) == (404, "UNKNOWN_GROUP")
