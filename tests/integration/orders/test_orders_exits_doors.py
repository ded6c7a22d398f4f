"""Positions closed over REST, the socket and the shell, at the simulated exchange."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from order_house import NO_MARKET, Caller, House, new_name
from running import DEADLINE_S, ROOT, environment, eventually

from app.security.tokens import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

ADMIN = (Scope.ORDERS_READ, Scope.ORDERS_WRITE, Scope.ADMIN)
SYMBOL = {"exchange": "NSE", "tradingsymbol": "RELIANCE"}
"""Nobody else trades it: what others leave resting on a position, an exit waits for."""
ENDED = {"DONE", "ESCALATED"}


@pytest.fixture
def operator(home: House) -> Iterator[Caller]:
    """Somebody who may flatten; what they stopped is released in the end."""
    with home.caller(scopes=ADMIN, accounts="all") as caller:
        yield caller
        for scope in ("account:SPARE", "account:MAIN", "all"):
            caller.release(scope)


def bought(home: House, caller: Caller, quantity: int, account: str, side: str = "BUY") -> None:
    """Trade so many shares within the day."""
    market: dict[str, object] = {"order_type": "MARKET", "market_protection": "-1", "price": None}
    order = home.order(product="MIS", quantity=quantity, transaction_type=side, **market, **SYMBOL)
    key = new_name("open")
    assert caller.place(key, order, account=account).status_code == 202
    assert caller.reaches(key, "FILLED")


def ended(caller: Caller, key: str) -> dict[str, Any]:
    """Return an exit once it has ended."""
    found = eventually(
        lambda: (
            told if (told := caller.at("GET", f"/exits/{key}").json())["state"] in ENDED else None
        ),
        pace_s=0.3,
    )
    assert found, caller.at("GET", f"/exits/{key}").json()
    return found


def command(home: House, *arguments: str, token: str) -> subprocess.CompletedProcess[str]:
    url = {"TICKER_ORDERS_URL": home.ws_url, "TICKER_ORDERS_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment(home.settings), **url},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
        input="something else\n",
    )


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_a_position_is_closed_and_the_answer_tells_how(home: House, side: str) -> None:
    with home.caller(accounts=["MAIN"]) as caller:
        bought(home, caller, 5, "MAIN", side)
        key = new_name("exit")
        asked = {"client_order_id": key, "account": "MAIN", "product": "MIS", **SYMBOL}
        begun = caller.at("POST", "/exits", json=asked)
        assert begun.status_code == 202, begun.text
        assert begun.json()["state"] == "RUNNING"
        told = ended(caller, key)
        assert told["state"] == "DONE", told
        held = 5 if side == "BUY" else -5
        assert told["held_before"] == {"NSE:RELIANCE:MIS": held}
        report = told["report"]["NSE:RELIANCE:MIS"]
        assert (report["held"], report["is_flat"], report["filled"]) == (0, True, 5)
        again = caller.at("POST", "/exits", json=asked)
        assert (again.status_code, again.json()["task_id"]) == (200, told["task_id"])
        other = caller.at("POST", "/exits", json=asked | {"within_s": 60})
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        assert caller.status(key)["state"] == "DONE"


def test_where_no_market_order_is_taken_a_position_is_closed_by_limit(home: House) -> None:
    symbol = {"exchange": "NSE", "tradingsymbol": NO_MARKET}
    with home.caller(accounts=["MAIN"]) as caller:
        key = new_name("open")
        across = {"price": home.offered(NO_MARKET), "product": "MIS", "quantity": 4}
        assert caller.place(key, home.order(**symbol, **across)).status_code == 202
        caller.reaches(key, "FILLED")
        key = new_name("exit")
        asked = {"client_order_id": key, "account": "MAIN", "product": "MIS", **symbol}
        assert caller.at("POST", "/exits", json=asked).status_code == 202
        told = ended(caller, key)
        assert told["state"] == "DONE", told
    report = told["report"][f"NSE:{NO_MARKET}:MIS"]
    assert (report["held"], report["is_flat"], report["filled"]) == (0, True, 4)
    sent = [order["order_type"] for order in home.broker_rows() if _closes(order, symbol)]
    assert sent == ["LIMIT"], "the broker has none that it refused"


def _closes(order: dict[str, Any], symbol: dict[str, str]) -> bool:
    return symbol.items() <= order.items() and order["transaction_type"] == "SELL"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "all"),
        ({"all": True, **SYMBOL}, "all"),
        ({"exchange": "NSE"}, "tradingsymbol"),
        ({"exchange": "LSE", "tradingsymbol": "INFY"}, "exchange"),
        ({"all": True, "market_protection": "0"}, "market_protection"),
        ({"all": True, "within_s": 1}, "within_s"),
    ],
)
def test_what_is_not_said_clearly_closes_nothing(
    home: House, asked: dict[str, object], field: str
) -> None:
    with home.caller(accounts=["MAIN"]) as caller:
        body = {"client_order_id": new_name("exit"), "account": "MAIN", **asked}
        answer = caller.at("POST", "/exits", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text


def test_flatten_closes_cancels_and_lets_nothing_new_open(home: House, operator: Caller) -> None:
    bought(home, operator, 3, "SPARE")
    resting = new_name("rests")
    operator.place(resting, home.order(), account="SPARE")
    operator.reaches(resting, "WORKING")
    key = new_name("flatten")
    body = {"client_order_id": key, "account": "SPARE", "why": "enough"}

    unsure = operator.at("POST", "/flatten", json=body | {"confirm": "SPAR"})

    assert (unsure.status_code, unsure.json()["field"]) == (422, "confirm")
    begun = operator.at("POST", "/flatten", json=body | {"confirm": "SPARE"})
    assert begun.status_code == 202, begun.text
    switch = begun.json()["kill_switch"]
    assert (switch["level"], switch["scope"]) == ("REDUCE_ONLY", "account:SPARE")
    (account,) = begun.json()["accounts"]
    assert (account["account"], account["client_order_id"]) == ("SPARE", key)
    told = ended(operator, key)
    assert told["state"] == "DONE", told
    assert operator.status(resting)["state"] == "CANCELLED"
    refused = operator.place(new_name(), home.order(), account="SPARE")
    assert (refused.status_code, refused.json()["code"]) == (503, "KILL_SWITCH")
    assert "REDUCE_ONLY" in refused.json()["rule"]
    assert operator.place(new_name(), home.order()).status_code == 202


def test_flatten_is_for_administrators(home: House) -> None:
    body = {"client_order_id": new_name(), "account": "MAIN", "confirm": "MAIN"}
    with home.caller(accounts=["MAIN"]) as caller:
        assert caller.at("POST", "/flatten", json=body).json()["code"] == "FORBIDDEN"


def test_the_shell_closes_a_position_and_flattens_only_what_is_named_twice(
    home: House, operator: Caller
) -> None:
    bought(home, operator, 4, "SPARE")
    symbol = ("--account", "SPARE", "--symbol", "NSE:RELIANCE", "--product", "mis")
    said = command(home, "exit", *symbol, token=operator.token)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "DONE; began with NSE:RELIANCE:MIS 4; filled 4 in 1 orders" in said.stdout
    bought(home, operator, 2, "SPARE")
    typed = command(home, "flatten", "SPARE", token=operator.token)
    assert typed.returncode != 0
    assert "nothing was done" in typed.stderr
    sure = command(home, "flatten", "SPARE", "--yes-flatten", "SPARE", token=operator.token)
    assert sure.returncode == 0, sure.stdout + sure.stderr
    assert "REDUCE_ONLY on account:SPARE" in sure.stdout


def test_the_socket_begins_an_exit(home: House) -> None:
    who = new_name("caller")
    with home.caller(who) as caller, home.talk(who) as talk:
        assert talk.reply()["authenticated"]
        key = new_name("exit")
        asked = {"client_order_id": key, "request_id": key, "account": "MAIN", **SYMBOL}
        told = talk.ask(op="exit", **asked)
        assert (told["op"], told["kind"], told["state"]) == ("ack", "EXIT", "RUNNING")
        ended(caller, key)  # else it may close what the next test has bought


def test_an_exit_is_told_alike_wherever_it_is_asked_for(home: House) -> None:
    """An exit that filled was shown as an order `DONE` with nothing filled."""
    who = new_name("caller")
    with home.caller(who) as caller, home.talk(who) as talk:
        assert talk.reply()["authenticated"]
        bought(home, caller, 5, "MAIN")
        key = new_name("exit")
        asked = {"client_order_id": key, "account": "MAIN", "product": "MIS", **SYMBOL}
        assert caller.at("POST", "/exits", json=asked).status_code == 202
        told = ended(caller, key)
        assert told["report"].keys() == {"NSE:RELIANCE:MIS"}
        assert caller.status(key) == told
        over_the_socket = talk.ask(op="status", client_order_id=key, request_id="s-1")
        assert over_the_socket == told | {"op": "ack", "request_id": "s-1"}
        listed = caller.ask("GET").json()["orders"]
        (job,) = [each for each in listed if each["client_order_id"] == key]
        assert (job["filled_quantity"], job["average_price"]) == (None, None)
