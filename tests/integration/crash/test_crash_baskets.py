"""Kill -9 in the middle of a basket: the next daemon brings it to its end, and no leg is doubled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import crash_records
import pytest
from crash_parts import cancel_frame, door, limit_order
from exactly_once import violations
from running import eventually

if TYPE_CHECKING:
    from crash_parts import Daemon, World

KEY = "basket"
MODES = ("independent", "all_or_compensate")
POINTS = ("C0", "C1", "C2", "C3", "C4", "C6", "C7")


def frame(own: World, mode: str) -> dict[str, object]:
    """Return a basket of which two legs rest, one is filled and one is refused by the exchange."""
    last = own.quote()["last_price"]
    low, high = f"{last * 0.9:.0f}.00", f"{last * 1.1:.0f}.00"
    orders = [
        limit_order("BUY", 1, low),
        limit_order("BUY", 2, high),
        limit_order("BUY", 3, low),
        limit_order("BUY", 4, f"{last * 3:.0f}.00"),
    ]
    return {
        "op": "basket",
        "client_order_id": KEY,
        "request_id": KEY,
        "account": own.account,
        "mode": mode,
        "legs": [{"order": order} for order in orders],
    }


def job(own: World) -> dict[str, Any]:
    (found,) = [task for task in own.tasks() if task["kind"] == "BASKET"]
    return found


def is_quiet(own: World) -> bool:
    """Return whether every leg has been journalled and has ended or rests."""
    orders = [task for task in own.tasks() if task["kind"] == "PLACE"]
    at_rest = {"WORKING", "FILLED", "REJECTED", "CANCELLED", "NOT_PLACED", "EXPIRED"}
    return len(orders) == 4 and all(task["state"] in at_rest for task in orders)


def brought_to_its_end(own: World, daemon: Daemon, asked: dict[str, object]) -> None:
    assert daemon.opens(own.account)
    with door(own, daemon) as calls:
        told = calls.ask(asked)
        assert (told["op"], told["kind"], told["client_order_id"]) == ("ack", "BASKET", KEY)
        if asked["mode"] == "independent":
            assert eventually(lambda: is_quiet(own)), own.tasks()
            # Its filled leg and its refused one are told as they are; what rests goes with it.
            assert job(own)["state"] == "RUNNING"
            assert calls.ask(cancel_frame(KEY))["op"] == "ack"
        assert eventually(lambda: job(own)["state"] == "DONE"), own.tasks()
    assert eventually(lambda: not violations(crash_records.read(own, daemon=daemon))), violations(
        crash_records.read(own, daemon=daemon)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", POINTS)
def test_a_basket_whose_daemon_is_killed_is_brought_to_its_end(
    point: str, mode: str, own: World
) -> None:
    asked = frame(own, mode)
    first = own.start(kill_at=point)
    if first.opens(own.account):
        with door(own, first) as calls:
            calls.say(asked)
    assert first.wait() == -9

    brought_to_its_end(own, own.start(), asked)

    filled = [order for order in own.book().values() if order["filled_quantity"]]
    assert len(filled) <= 1
    told = {row["leg"]: row["filled_quantity"] for row in own.tasks() if row["kind"] == "PLACE"}
    assert told[2] == sum(order["filled_quantity"] for order in filled)
    assert job(own)["facts"]["filled"] == {str(leg): told[leg] for leg in sorted(told)}
