"""Kill -9 in the middle of an exit: the next daemon closes the position, and closes it once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import crash_records
import pytest
from crash_parts import door, limit_order, place_frame
from exactly_once import violations
from running import eventually

if TYPE_CHECKING:
    from crash_parts import Daemon, World

KEY = "exit"
HELD = 3
POINTS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7")


def frame(own: World) -> dict[str, object]:
    return {
        "op": "exit",
        "client_order_id": KEY,
        "request_id": KEY,
        "account": own.account,
        "exchange": "NSE",
        "tradingsymbol": "INFY",
    }


def exits(own: World) -> list[dict[str, Any]]:
    return [task for task in own.tasks() if task["kind"] == "EXIT"]


def filled(own: World, side: str) -> int:
    rows = own.book().values()
    return sum(row["filled_quantity"] for row in rows if row["transaction_type"] == side)


def hold(own: World, daemon: Daemon) -> None:
    """Buy so many shares that an exit has something to do."""
    high = f"{own.quote()['last_price'] * 1.1:.0f}.00"
    assert daemon.opens(own.account), daemon.log()
    with door(own, daemon) as calls:
        order = limit_order("BUY", HELD, high) | {"product": "MIS"}
        assert calls.ask(place_frame("hold", own.account, order))["op"] == "ack"
        assert eventually(lambda: filled(own, "BUY") == HELD)
        assert eventually(lambda: [t["state"] for t in own.tasks()] == ["FILLED"])
    daemon.kill()


@pytest.mark.parametrize("point", POINTS)
def test_an_exit_whose_daemon_is_killed_ends_flat_and_closes_nothing_twice(
    point: str, own: World
) -> None:
    hold(own, own.start())
    killed = own.start(kill_at=point)
    if killed.opens(own.account):
        with door(own, killed) as calls:
            calls.say(frame(own))
    assert killed.wait() == -9

    last = own.start()

    assert last.opens(own.account), last.log()
    with door(own, last) as calls:
        assert calls.ask(frame(own))["op"] == "ack"
    assert eventually(lambda: [each["state"] for each in exits(own)] == ["DONE"]), exits(own)
    assert (filled(own, "BUY"), filled(own, "SELL")) == (HELD, HELD)
    found = eventually(
        lambda: not violations(crash_records.read(own, daemon=last)), within_s=10, pace_s=2.0
    )
    assert found, violations(crash_records.read(own, daemon=last))
