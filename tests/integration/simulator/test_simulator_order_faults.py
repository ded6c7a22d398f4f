"""Each fault of the order side, seen by a client and by the ledger."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from running import eventually
from websockets.sync.client import connect

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
        self.price_across = depth["sell"][0]["price"]

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

    def until(self, is_so: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until the one order is so, and return its row."""

        def shown() -> dict[str, Any] | None:
            (row,) = self.book()
            return row if is_so(row) else None

        row = eventually(shown)
        assert row, self.book()
        return row

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


@pytest.mark.parametrize("body", ["garbage", "empty", "html", "no_order_id"])
def test_a_senseless_success_leaves_the_order_in_the_book(trader: Trader, body: str) -> None:
    trader.arm("garbage_200", count=1, body=body)

    answer = trader.place()

    assert answer.status_code == 200
    assert 'order_id":' not in answer.text
    assert len(trader.book()) == 1


def test_a_senseless_success_can_hide_that_nothing_was_accepted(trader: Trader) -> None:
    trader.arm("garbage_200", count=1, accept=False)

    assert trader.place().status_code == 200

    assert trader.book() == []
    assert len(trader.ledger("refused")) == 1


def test_an_answer_that_dribbles_outlasts_a_timeout_per_read(trader: Trader) -> None:
    trader.arm("dribble", count=1, interval_ms=10)

    answer = trader.place()

    assert answer.json()["data"]["order_id"] == trader.book()[0]["order_id"]
    assert answer.elapsed.total_seconds() > 0.3  # The client's timeout, which it never noticed.


def test_an_answer_that_dribbles_too_slowly_is_given_up(trader: Trader) -> None:
    trader.arm("dribble", count=1, interval_ms=2_000)

    with pytest.raises(httpx.ReadTimeout):
        trader.place()

    assert len(trader.book()) == 1


def test_who_follows_a_redirect_places_a_second_order(trader: Trader) -> None:
    trader.arm("redirect_307", count=1)

    answer = trader.place()
    assert (answer.status_code, answer.headers["location"]) == (307, str(answer.request.url))
    trader.http.follow_redirects = True
    trader.arm("redirect_307", count=1)
    trader.place("T2")

    assert [row["tag"] for row in trader.book()] == ["T1", "T2", "T2"]


def test_a_redirect_can_lead_elsewhere(trader: Trader) -> None:
    trader.arm("redirect_307", count=1, location="http://127.0.0.1:9/elsewhere", accept=False)

    answer = trader.place()

    assert answer.headers["location"] == "http://127.0.0.1:9/elsewhere"
    assert trader.book() == []


def test_a_throttled_order_was_never_accepted(trader: Trader) -> None:
    trader.arm("http_429", count=1)

    answer = trader.place()

    assert (answer.status_code, answer.json()["error_type"]) == (429, "NetworkException")
    assert trader.book() == []


def test_any_refusal_of_kite_s_can_be_asked_for(trader: Trader) -> None:
    message = "Order placement is not allowed from this IP."
    trader.arm(
        "refuse_4xx", count=1, status_code=403, error_type="PermissionException", message=message
    )

    answer = trader.place()

    assert answer.status_code == 403
    assert answer.json()["error_type"] == "PermissionException"
    assert answer.json()["message"] == message
    assert trader.book() == []
    assert trader.ledger("refused") == [] or trader.ledger("accepted") == []


@pytest.mark.parametrize(
    "fields", [{"status_code": 500}, {"error_type": "NoException"}, {"body": "html"}]
)
def test_a_refusal_that_is_none_of_kite_s_cannot(trader: Trader, fields: dict[str, Any]) -> None:
    answer = trader.http.post("/sim/faults", json={"fault": "refuse_4xx", **fields})

    assert answer.status_code == 400


def test_an_order_late_in_the_book_can_be_asked_for_by_its_id(trader: Trader) -> None:
    trader.arm("late_in_book", count=1, delay_ms=3_600_000)

    order_id = trader.place().json()["data"]["order_id"]

    assert trader.book() == []
    history = trader.http.get(f"/orders/{order_id}").json()["data"]
    assert history[0]["status"] == "PUT ORDER REQ RECEIVED"


def test_an_order_can_be_stuck_in_its_first_state(trader: Trader) -> None:
    trader.arm("slow_states", count=1, delay_ms=3_600_000)

    trader.place()

    assert trader.book()[0]["status"] == "PUT ORDER REQ RECEIVED"


def test_an_order_can_be_filled_in_parts(trader: Trader) -> None:
    trader.arm("partial_fills", count=1, part=2)

    trader.place(price=trader.price_across, quantity=5)

    row = trader.until(lambda row: row["filled_quantity"])
    assert (row["status"], row["filled_quantity"], row["pending_quantity"]) == ("OPEN", 2, 3)
    assert [each["quantity"] for each in trader.ledger("trade")] == [2]


def test_a_cancelled_order_can_turn_out_filled(trader: Trader) -> None:
    trader.arm("fill_after_cancel", count=1, delay_ms=50)
    order_id = trader.place(quantity=5).json()["data"]["order_id"]
    trader.until(lambda row: row["status"] == "OPEN")

    trader.http.delete(f"/orders/regular/{order_id}")

    row = trader.until(lambda row: row["status"] == "COMPLETE")
    assert (row["filled_quantity"], row["cancelled_quantity"]) == (5, 0)
    shown = [each["status"] for each in trader.ledger("status")]
    assert shown[-2:] == ["CANCELLED", "COMPLETE"]
    (position,) = trader.http.get("/portfolio/positions").json()["data"]["net"]
    assert position["quantity"] == 5


def test_a_book_can_lack_tags_or_rows_for_a_while(trader: Trader) -> None:
    trader.place("T1")
    trader.place("T2")
    trader.arm("null_tags", count=1)
    trader.arm("truncated_book", count=1, keep=1)

    broken, whole = trader.book(), trader.book()

    assert [(row["tag"], row["tags"]) for row in broken] == [(None, [])]
    assert [row["tag"] for row in whole] == ["T1", "T2"]


def test_a_book_can_be_that_of_a_while_ago(trader: Trader) -> None:
    trader.place("T1")
    trader.arm("stale_book")
    trader.book()
    trader.place("T2")

    stale = trader.book()
    trader.http.delete("/sim/faults")
    fresh = trader.book()

    assert [row["tag"] for row in stale] == ["T1"]
    assert [row["tag"] for row in fresh] == ["T1", "T2"]
    trader.arm("stale_book")
    assert [row["tag"] for row in trader.book()] == ["T1", "T2"]


def test_a_request_can_be_taken_up_after_its_client_has_given_up(trader: Trader) -> None:
    trader.arm("late_request", count=1, delay_ms=600)

    with pytest.raises(httpx.ReadTimeout):
        trader.place()
    received, accepted = trader.ledger("received"), trader.ledger("accepted")

    assert (len(received), accepted, trader.book()) == (1, [], [])
    while not (rows := trader.book()):
        pass
    assert rows[0]["tag"] == "T1"
    assert trader.place("T2").status_code == 200


def test_only_the_requests_a_fault_names_are_taken_up_late(trader: Trader) -> None:
    order_id = trader.place().json()["data"]["order_id"]
    trader.arm("late_request", method="cancel", delay_ms=3_600_000)

    assert trader.place("T2").status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        trader.http.delete(f"/orders/regular/{order_id}")
    assert trader.book()[0]["status"] == "OPEN"
    trader.http.delete("/sim/faults")

    while trader.book()[0]["status"] != "CANCELLED":
        pass


def test_a_late_update_is_overtaken_by_the_next_and_still_comes(trader: Trader) -> None:
    order_id = trader.place().json()["data"]["order_id"]
    trader.arm("late_updates", count=1, delay_ms=300)
    key, _, token = trader.http.headers["Authorization"].removeprefix("token ").partition(":")
    url = f"{trader.running.ws_root}?api_key={key}&access_token={token}"

    with connect(url, proxy=None) as ws:
        trader.http.put(f"/orders/regular/{order_id}", data={"quantity": "2"})
        trader.http.delete(f"/orders/regular/{order_id}")
        statuses: list[str] = []
        while len(statuses) < 2:
            frame = ws.recv(20.0)
            if isinstance(frame, str) and (told := json.loads(frame))["type"] == "order":
                statuses.append(told["data"]["status"])

    assert statuses == ["CANCELLED", "UPDATE"]


@pytest.mark.parametrize("method", ["modify", "cancel"])
def test_changes_and_cancellations_can_be_accepted_and_their_answer_lost(
    trader: Trader, method: str
) -> None:
    order_id = trader.place().json()["data"]["order_id"]
    trader.arm("accept_then_5xx", count=1, method=method)
    assert trader.place("T2").status_code == 200

    verb = {"modify": "PUT", "cancel": "DELETE"}[method]
    form = {"quantity": "2"} if method == "modify" else None
    answer = trader.http.request(verb, f"/orders/regular/{order_id}", data=form)

    assert answer.status_code == 502
    assert [each["method"] for each in trader.ledger("accepted")] == ["place", method]


def test_reading_the_book_can_fail_too(trader: Trader) -> None:
    trader.arm("accept_then_5xx", count=1, method="read", status_code=503, body="html")

    assert trader.place().status_code == 200
    assert trader.http.get("/orders").status_code == 503
    assert len(trader.book()) == 1


def test_a_refusal_does_not_use_up_a_fault_of_acceptance(trader: Trader) -> None:
    trader.arm("accept_then_5xx", count=1)

    assert trader.place(price="0.01").status_code == 400
    assert trader.place().status_code == 502


@pytest.mark.parametrize("verb", ["POST", "DELETE"])
def test_lifting_all_faults_lets_go_what_they_hold_back(trader: Trader, verb: str) -> None:
    trader.http.timeout = httpx.Timeout(20.0)
    trader.arm("accept_then_timeout")
    trader.arm("null_tags")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(trader.place)
        while not trader.ledger("answered"):
            pass
        body = {"fault": "clear"} if verb == "POST" else None
        lifted = trader.http.request(verb, "/sim/faults", json=body).json()["data"]["lifted"]

        with pytest.raises(httpx.TransportError):
            held.result()

    assert lifted == 2
    assert trader.http.get("/sim/faults").json()["data"]["faults"] == []


def test_armed_faults_are_listed(trader: Trader) -> None:
    trader.arm("http_429", count=3, method="cancel", user_id="AB1234")

    (listed,) = trader.http.get("/sim/faults").json()["data"]["faults"]

    assert listed == {
        "fault": "http_429",
        "number": 1,
        "user_id": "AB1234",
        "method": "cancel",
        "count_left": 3,
        "seconds_left": None,
    }


def test_a_request_that_breaks_off_is_not_in_the_ledger(trader: Trader) -> None:
    host, port = trader.running.rest_root.removeprefix("http://").split(":")
    head = b"POST /orders/regular HTTP/1.1\r\nHost: sim\r\nContent-Length: 500\r\n\r\ntag=T1&exch"
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(head)

    trader.place("T2")

    assert trader.ledger("received") == []
    assert len(trader.ledger("received", tag="T2")) == 1


def test_requests_without_a_session_are_counted_too(trader: Trader) -> None:
    answer = trader.http.post(
        "/orders/regular", data={"tag": "T1"}, headers={"Authorization": "token x:y"}
    )

    assert (answer.status_code, answer.json()["error_type"]) == (403, "TokenException")
    (received,) = trader.ledger("received")
    assert (received["user_id"], received["method"]) == (None, "place")
    assert len(trader.ledger("refused")) == 1


def test_every_request_is_one_received_entry_and_one_answer(trader: Trader) -> None:
    trader.place("T1")
    trader.place("T1", price="0.01")
    trader.arm("accept_then_5xx", count=1)
    trader.place("T1")

    assert [entry["request"] for entry in trader.ledger("answered")] == [
        entry["number"] for entry in trader.ledger("received")
    ]
    assert [entry["status_code"] for entry in trader.ledger("answered")] == [200, 400, 502]
