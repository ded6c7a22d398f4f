"""Each fault of the order side, seen by a client and by the ledger."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunningSimulator

TIMED_OUT = "Order request timed out. Please check the order book and confirm before placing again."


class Trader:
    """A client that says exactly what came back, and the panel beside it."""

    def __init__(self, running: RunningSimulator, access_token: str) -> None:
        self.running = running
        key = f"token {running.options.api_key}:{access_token}"
        self.http = httpx.Client(
            base_url=running.rest_root,
            headers={"Authorization": key},
            trust_env=False,
            timeout=0.3,
            follow_redirects=False,
        )
        depth = self.http.get("/quote?i=NSE:INFY").json()["data"]["NSE:INFY"]["depth"]
        self.resting_price = depth["buy"][4]["price"]

    def arm(self, fault: str, **fields: object) -> None:
        answer = self.http.post("/sim/faults", json={"fault": fault, **fields})
        assert answer.status_code == 200, answer.text

    def place(self, tag: str = "T1", **changed: object) -> httpx.Response:
        fields = {
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "order_type": "LIMIT",
            "quantity": 1,
            "product": "MIS",
            "price": self.resting_price,
            "tag": tag,
        }
        return self.http.post("/orders/regular", data={**fields, **changed})

    def book(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.http.get("/orders").json()["data"]
        return rows

    def ledger(self, kind: str, tag: str = "T1") -> list[dict[str, Any]]:
        entries = self.http.get("/sim/ledger").json()["data"]["entries"]
        return [each for each in entries if each["kind"] == kind and each["tag"] == tag]


@pytest.fixture
def trader(still: RunningSimulator, log_in: Callable[..., str]) -> Iterator[Trader]:
    opened = Trader(still, log_in(still.simulator))
    with contextlib.closing(opened.http):
        yield opened


def test_an_accepted_order_whose_answer_never_comes_is_in_the_book(trader: Trader) -> None:
    trader.arm("accept_then_timeout", count=1)

    with pytest.raises(httpx.ReadTimeout):
        trader.place()

    assert [row["tag"] for row in trader.book()] == ["T1"]
    (answered,) = trader.ledger("answered")
    assert (answered["withheld"], answered["fault"]) == (True, "accept_then_timeout")
    assert trader.place("T2").status_code == 200


def test_a_late_answer_comes_after_its_seconds(trader: Trader) -> None:
    trader.arm("accept_then_timeout", count=1, answer_after_s=0.05)

    answer = trader.place()

    assert answer.json()["data"]["order_id"] == trader.book()[0]["order_id"]


@pytest.mark.parametrize("status_code", [500, 502, 503, 504])
@pytest.mark.parametrize("body", ["json", "html"])
def test_a_gateway_failure_after_acceptance_leaves_the_order_in_the_book(
    trader: Trader, status_code: int, body: str
) -> None:
    trader.arm("accept_then_5xx", count=1, status_code=status_code, body=body)

    answer = trader.place()

    assert answer.status_code == status_code
    assert body in answer.headers["content-type"]
    assert [row["tag"] for row in trader.book()] == ["T1"]


def test_a_gateway_failure_before_acceptance_leaves_no_order(trader: Trader) -> None:
    trader.arm("reject_5xx_before_accept", count=1)

    assert trader.place().status_code == 503

    assert trader.book() == []
    assert len(trader.ledger("received")) == len(trader.ledger("refused")) == 1


def test_an_order_may_appear_after_kite_has_said_it_timed_out(trader: Trader) -> None:
    trader.arm("accept_then_400_timeout", count=1, delay_ms=50)

    answer = trader.place()

    assert (answer.status_code, answer.json()["message"]) == (400, TIMED_OUT)
    assert len(trader.ledger("accepted")) == 1
    while not (rows := trader.book()):
        pass
    assert rows[0]["tag"] == "T1"


def test_a_reset_connection_leaves_the_order_in_the_book(trader: Trader) -> None:
    trader.arm("accept_then_reset", count=1)

    with pytest.raises(httpx.ReadError):
        trader.place()

    assert [row["tag"] for row in trader.book()] == ["T1"]
