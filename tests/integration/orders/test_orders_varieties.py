"""Varieties and validities from the door to the exchange and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from order_house import new_name
from running import eventually

if TYPE_CHECKING:
    from order_house import House


def test_an_after_market_order_is_cancelled_by_the_route_it_has_come_to(home: House) -> None:
    key = new_name()
    with home.caller() as caller:
        assert caller.place(key, home.order(variety="amo")).status_code == 202
        kept = caller.reaches(key, "WORKING")
        assert kept["order"]["variety"] == "amo"
        assert eventually(lambda: caller.status(key)["broker_status"] == "OPEN")
        (row,) = [row for row in home.broker_rows() if row["order_id"] == kept["order_id"]]
        assert row["variety"] == "amo"
        assert caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-c"}).is_success
        caller.reaches(key, "CANCELLED")


def test_an_order_for_minutes_has_them_at_the_exchange(home: House) -> None:
    key = new_name()
    with home.caller() as caller:
        caller.place(key, home.order(validity="TTL", validity_ttl=3))
        resting = caller.reaches(key, "WORKING")
        (row,) = [row for row in home.broker_rows() if row["order_id"] == resting["order_id"]]
        assert (row["validity"], row["validity_ttl"]) == ("TTL", 3)
        assert caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-c"}).is_success
        caller.reaches(key, "CANCELLED")


def test_a_cover_order_is_filled_and_exits_by_its_second_leg(home: House) -> None:
    key = new_name()
    stop = f"{float(home.price) * 0.95:.1f}"
    at_market = {"order_type": "MARKET", "price": None, "market_protection": "5"}
    cover = home.order(variety="co", product="MIS", trigger_price=stop, **at_market)
    with home.caller() as caller:
        assert caller.place(key, cover).status_code == 202
        first = caller.reaches(key, "FILLED")["order_id"]
        leaving = {"request_id": f"{key}-x", "exit": "true"}
        assert caller.ask("DELETE", f"/{key}", params=leaving).is_success
        assert eventually(lambda: caller.changes(key)[0]["state"] == "ACKED", pace_s=0.2)
        (second,) = [row for row in home.broker_rows() if row["parent_order_id"] == first]
        assert eventually(lambda: _row(home, second["order_id"])["status"] == "COMPLETE")
        shown = caller.ask("GET", "", params={"account": "MAIN", "external": "true"}).json()
        assert second["order_id"] not in [row["order_id"] for row in shown["external"]]
        resting = new_name()
        caller.place(resting, home.order(variety="co", product="MIS", trigger_price=stop))
        caller.reaches(resting, "WORKING")
        change = {
            "request_id": f"{resting}-m",
            "order": {"trigger_price": f"{float(stop) - 1:.1f}"},
        }
        assert caller.ask("PUT", f"/{resting}", json=change).is_success
        assert eventually(lambda: caller.changes(resting)[0]["state"] == "ACKED", pace_s=0.2)
        assert caller.ask("DELETE", f"/{resting}", params={"request_id": f"{resting}-c"}).is_success
        caller.reaches(resting, "CANCELLED")


def test_an_exit_is_for_cover_orders_alone(home: House) -> None:
    key = new_name()
    with home.caller() as caller:
        caller.place(key, home.order())
        caller.reaches(key, "WORKING")
        answer = caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-x", "exit": "true"})
        assert (answer.status_code, answer.json()["field"]) == (422, "exit")
        caller.ask("DELETE", f"/{key}", params={"request_id": f"{key}-c"})
        caller.reaches(key, "CANCELLED")


def test_an_iceberg_is_one_order_however_many_legs_it_has(home: House) -> None:
    key = new_name()
    at_market = {"order_type": "MARKET", "price": None, "market_protection": "5"}
    legs = {"iceberg_legs": 3, "iceberg_quantity": 2, "quantity": 6}
    with home.caller() as caller:
        caller.place(key, home.order(variety="iceberg", product="MIS", **legs, **at_market))
        filled = caller.reaches(key, "FILLED")
        assert filled["filled_quantity"] == 6
        rows = [row for row in home.broker_rows() if row["variety"] == "iceberg"]
        assert [row["filled_quantity"] for row in rows] == [2, 2, 2]
        assert rows[0]["order_id"] == filled["order_id"]
        value = sum(row["filled_quantity"] * row["average_price"] for row in rows)
        assert float(filled["average_price"]) == pytest.approx(float(value) / 6, abs=1e-4)


def _row(home: House, order_id: str) -> dict[str, Any]:
    (row,) = [row for row in home.broker_rows() if row["order_id"] == order_id]
    return row
