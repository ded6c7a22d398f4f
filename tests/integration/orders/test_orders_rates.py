"""The broker's rates, measured at the broker (I10, fault F15)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson
from order_house import ALLOWED_PACE_S, USERS, Caller, House, house, new_name
from running import eventually

from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

AS_KITE: Final = SimulatorOptions(seed=7, rate_per_s=0.0, order_cooldown_s=0.3)
ASKED: Final = frozenset({"place", "modify", "cancel"})
BROKER_PER_S: Final = 10
OURS_PER_S: Final = 6
"""Below the broker's: what a loaded machine delays between our gate and its ledger comes closer
together there. That the gate itself is exact is shown with a clock of our own
(`test_accounts_departures.py`)."""


def received(home: House, user_id: str) -> list[dict[str, Any]]:
    """Return what the broker was asked by a user that changes something, oldest first."""
    answer = httpx.get(f"{home.exchange.rest_root}/sim/ledger", trust_env=False).json()["data"]
    return [
        entry
        for entry in answer["entries"]
        if entry["kind"] == "received" and entry["user_id"] == user_id and entry["method"] in ASKED
    ]


def now(caller: Caller) -> dict[str, str]:
    """Return the states of a caller's orders, in one request: polls have an allowance, too."""
    answer = caller.ask("GET", params={"account": "MAIN", "limit": 100}).raise_for_status()
    return {each["client_order_id"]: each["state"] for each in answer.json()["orders"]}


def busiest_second(at_us: Sequence[int]) -> int:
    return max(
        (sum(start <= each < start + 1_000_000 for each in at_us) for start in at_us), default=0
    )


def test_in_a_storm_of_429_the_broker_is_not_asked_too_often_and_cancels_get_through(
    redis_url: str,
) -> None:
    limits = {"orders_per_second": OURS_PER_S, "orders_per_second_reserve": 2}
    settings = {
        "limits": orjson.dumps(limits).decode(),
        "order_cooldown_s": 0.5,
        "order_deadline_s": 60,
    }
    prefix = f"test-{uuid.uuid4().hex}:"
    with (
        house(redis_url, prefix, options=AS_KITE, **settings) as home,
        home.caller() as first,
        home.caller() as second,
    ):
        resting = [new_name() for _ in range(4)]
        for key in resting:
            first.place(key, home.order())
            first.reaches(key, "WORKING")

        home.exchange.fault(fault="http_429", user_id=USERS["MAIN"], count=12)
        placed = [new_name() for _ in range(30)]
        for key in placed:
            answer = second.place(key, home.order())
            assert answer.status_code == 202, answer.text
        for key in resting:
            answer = first.ask("DELETE", f"/{key}", params={"request_id": new_name()})
            assert answer.status_code == 202, answer.text

        for key in resting:
            first.reaches(key, "CANCELLED")
        ends = {"WORKING", "REJECTED_LOCAL"}
        states = eventually(
            lambda: found if set((found := now(second)).values()) <= ends else None,
            pace_s=ALLOWED_PACE_S,
        )
        assert states, now(second)

        asked = received(home, USERS["MAIN"])
        assert busiest_second([entry["at_us"] for entry in asked]) <= BROKER_PER_S
        # One order for each that rests, none for the others, and no tag twice.
        working = [key for key in placed if states[key] == "WORKING"]
        rows = [row for row in home.broker_rows() if row["status"] == "OPEN"]
        assert len(rows) == len(working) > 0
        tags = [entry["tag"] for entry in asked if entry["method"] == "place"]
        assert len(set(tags)) == len(tags)
        # Cancels do not wait behind the thirty orders that were there before them.
        cancelled = [number for number, e in enumerate(asked) if e["method"] == "cancel"]
        assert cancelled[0] < len(asked) - len(placed) // 2
