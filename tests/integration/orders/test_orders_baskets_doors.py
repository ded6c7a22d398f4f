"""Baskets and sliced orders from the doors to the exchange and back, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from order_house import House, new_name
from running import DEADLINE_S, ROOT, environment, eventually

from ticker_service.client import OrderClient

if TYPE_CHECKING:
    from pathlib import Path

    from order_house import Caller

LOT = 65
FREEZE = 1_800


def future(home: House, **changed: object) -> dict[str, object]:
    """Return an order for the nearest future of NIFTY that rests, far below the market."""
    dump = httpx.get(f"{home.exchange.rest_root}/instruments", trust_env=False).text
    rows = [line.split(",") for line in dump.splitlines()]
    symbols = [row[2] for row in rows if row[9:12] == ["FUT", "NFO-FUT", "NFO"]]
    symbol = next(name for name in sorted(symbols) if name.startswith("NIFTY2"))
    order = {"exchange": "NFO", "tradingsymbol": symbol, "product": "NRML", "quantity": LOT}
    return home.order(**order | changed)


def knows_the_day_s_instruments(caller: Caller, order: dict[str, Any]) -> bool:
    """Return whether a quantity that is no whole lot is refused by now."""
    asked = caller.place(new_name("early"), {**order, "quantity": LOT + 1})
    return asked.status_code == 422


def basket(key: str, *orders: dict[str, Any], **how: object) -> dict[str, Any]:
    legs = [{"order": order} for order in orders]
    return {"client_order_id": key, "account": "MAIN", "legs": legs, **how}


def job(caller: Caller, key: str, *states: str) -> dict[str, Any]:
    """Return a job once it is in one of the states."""

    def looked() -> dict[str, Any] | None:
        answer = caller.ask("GET", f"/basket/{key}")
        if answer.status_code == 429:
            return None
        told: dict[str, Any] = answer.raise_for_status().json()
        return told if told["state"] in states else None

    found = eventually(looked, pace_s=0.15)
    assert found, caller.ask("GET", f"/basket/{key}").json()
    return found


def orders_of(caller: Caller, key: str, count: int) -> list[dict[str, Any]]:
    """Return the orders of a job once it has placed so many."""

    def looked() -> list[dict[str, Any]] | None:
        legs = job(caller, key, "RUNNING", "STOPPING", "DONE")["legs"]
        orders = [order for leg in legs for order in leg["orders"]]
        return orders if len(orders) == count else None

    found = eventually(looked, pace_s=0.3)
    assert found, job(caller, key, "RUNNING", "STOPPING", "DONE")
    return found


def test_a_basket_is_checked_whole_answered_leg_by_leg_and_cancelled_as_one(home: House) -> None:
    key = new_name("basket")
    with home.caller() as caller:
        wrong = caller.ask("POST", "/basket", json=basket(key, home.order(), home.order(price="0")))
        assert (wrong.status_code, wrong.json()["field"]) == (422, "legs.2.order.price")
        placed = caller.ask("POST", "/basket", json=basket(key, home.order(), home.order()))
        assert placed.status_code == 202
        told = placed.json()
        assert (told["kind"], told["state"], len(told["legs"])) == ("BASKET", "RUNNING", 2)
        assert [leg["status"] for leg in told["legs"]] == ["WAITING", "WAITING"]
        orders_of(caller, key, 2)
        for leg in ("1", "2"):
            caller.reaches(f"{key}~{leg}", "WORKING")
        again = caller.ask("POST", "/basket", json=basket(key, home.order(), home.order()))
        assert (again.status_code, again.json()["task_id"]) == (200, told["task_id"])
        assert [leg["status"] for leg in again.json()["legs"]] == ["OPEN", "OPEN"]
        other = caller.ask("POST", "/basket", json=basket(key, home.order()))
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        assert caller.place(key, home.order()).json()["code"] == "IDEMPOTENCY_CONFLICT"
        assert caller.place(f"{key}~1", home.order()).status_code == 422
        gone = caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-c"})
        assert gone.status_code == 202
        ended = job(caller, key, "DONE")
        (cancel,) = caller.changes(key)
        assert (cancel["request_id"], cancel["kind"]) == (f"{key}-c", "CANCEL")
        assert (ended["code"], ended["filled_quantity"]) == ("CANCELLED_BY_CALLER", 0)
        assert [leg["error"]["state"] for leg in ended["legs"]] == ["CANCELLED"] * 2
        steps = [
            event["event"]
            for event in caller.events("MAIN", after=0)
            if event["client_order_id"] == key
        ]
        assert steps[0] == "received"
        assert {"job_stops", "job_done"} <= set(steps)


def test_after_a_refused_leg_the_others_are_taken_back_and_the_report_is_the_broker_s_truth(
    home: House,
) -> None:
    key = new_name("basket")
    with home.caller() as caller:
        # A share that nobody holds cannot be sold for delivery; the exchange's own word on it.
        legs = [home.order(), home.order(quantity=100_000, price="5000")]
        asked = caller.ask("POST", "/basket", json=basket(key, *legs, mode="all_or_compensate"))
        assert asked.status_code == 202, asked.json()
        ended = job(caller, key, "DONE")
        assert ended["code"] == "LEG_FAILED"
        assert [leg["error"]["state"] for leg in ended["legs"]] == ["CANCELLED", "REJECTED"]
        first = ended["legs"][0]
        assert [cancel["state"] for cancel in first["cancels"]] == ["ACKED"]
        (row,) = [
            row for row in home.broker_rows() if row["order_id"] == first["orders"][0]["order_id"]
        ]
        assert (row["status"], row["filled_quantity"]) == ("CANCELLED", 0)


def test_an_order_above_the_freeze_quantity_is_cut_only_when_it_is_asked_for(home: House) -> None:
    key = new_name("sliced")
    quantity = 2 * (FREEZE // LOT * LOT) + LOT
    with home.caller() as caller:
        order = future(home, quantity=quantity)
        assert eventually(lambda: knows_the_day_s_instruments(caller, order), pace_s=0.5)
        refused = caller.place(key, order)
        assert refused.status_code == 422
        assert "`slice`: true" in refused.json()["message"]
        cut = caller.place(key, order, slice=True)
        assert cut.status_code == 202, cut.json()
        orders = orders_of(caller, key, 3)
        assert sum(int(each["order"]["quantity"]) for each in orders) == quantity
        assert [each["client_order_id"] for each in orders] == [f"{key}~1.{n}" for n in (1, 2, 3)]
        more = {"request_id": f"{key}-m", "order": {"quantity": quantity}}
        assert caller.ask("PUT", f"/{key}~1.1", json=more).status_code == 422
        caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-c"})
        job(caller, key, "DONE")


def test_the_socket_and_the_typed_client_speak_of_baskets_alike(home: House) -> None:
    key = new_name("basket")

    async def talk() -> dict[str, Any]:
        async with OrderClient(home.ws_url, home.token(new_name("caller"))) as client:
            placed = await client.basket(key, "MAIN", [{"order": home.order()}], is_buys_first=True)
            assert (placed["op"], placed["request_id"], placed["buys_first"]) == ("ack", key, True)
            assert (
                await client.basket(key, "MAIN", [{"order": home.order()}], is_buys_first=True)
            )["task_id"] == placed["task_id"]
            cancel = await client.cancel(key, f"{key}-c")
            assert cancel["kind"] == "CANCEL"
            return await client.status(key)

    assert asyncio.run(talk())["kind"] == "BASKET"


def test_a_basket_in_a_file_is_placed_from_the_shell(home: House, tmp_path: Path) -> None:
    key = new_name("basket")
    file = tmp_path / "basket.json"
    file.write_text(json.dumps(basket(key, home.order())))
    env = {
        **environment(),
        "TICKER_ORDERS_URL": home.ws_url,
        "TICKER_ORDERS_TOKEN": home.token(new_name("caller")),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app.cli", "order", *arguments],
            cwd=ROOT,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )

    ran = run("basket", str(file))
    assert (ran.returncode, json.loads(ran.stdout)["client_order_id"]) == (0, key)
    assert run("cancel", key).returncode == 0
    file.write_text('{"client_order_id": "x", "legs": 1}')
    ran = run("basket", str(file))
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)


@pytest.mark.parametrize("legs", [0, 21])
def test_a_basket_of_too_many_or_no_legs_is_refused(home: House, legs: int) -> None:
    key = new_name("basket")
    with home.caller() as caller:
        asked = caller.ask("POST", "/basket", json=basket(key, *[home.order()] * legs))
        assert (asked.status_code, asked.json()["field"]) == (422, "legs")
        assert caller.ask("GET", f"/basket/{key}").status_code == 404


def test_an_exit_is_no_basket_and_a_basket_no_exit(home: House) -> None:
    exit_key, key = new_name("exit"), new_name("basket")
    with home.caller() as caller:
        nobodys = {"exchange": "NSE", "tradingsymbol": "TCS"}  # other tests hold positions
        asked = {"client_order_id": exit_key, "account": "MAIN", **nobodys}
        assert caller.at("POST", "/exits", json=asked).status_code == 202
        assert caller.ask("GET", f"/basket/{exit_key}").status_code == 404
        assert caller.ask("GET", f"/{exit_key}").json()["kind"] == "EXIT"
        assert caller.ask("POST", "/basket", json=basket(key, home.order())).status_code == 202
        assert caller.at("GET", f"/exits/{key}").status_code == 404
        assert caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-c"}).is_success
