"""Varieties and validities from the door to the exchange and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
