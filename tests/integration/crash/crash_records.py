"""Bring what a run left behind into the shapes of the verdict: tables, ledger, streams.

The verdict is that of the simulation (`exactly_once`); only where its records come from differs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from exactly_once import COVER_EXIT, AtBroker, Attempt, Event, Post, Records, Task, Told

from ticker_service.constants import NS_PER_US
from ticker_service.domain.order_state import TaskState

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from crash_parts import Daemon, World

CHANGES: Final = ("place", "modify", "cancel")
SAID: Final = ("transaction_type", "quantity", "price")
"""What an instruction's body is known by: callers write numbers in more than one way."""


def says(body: Mapping[str, object]) -> str:
    """Return what a body asks for, in the words in which all records are compared."""
    words = []
    for name in SAID:
        if name in body:
            text = str(body[name])
            is_number = name != "transaction_type"
            words.append(f"{name}={Decimal(text).normalize():f}" if is_number else text)
    return " ".join(words)


def read(
    world: World,
    told: Sequence[Told] = (),
    daemon: Daemon | None = None,
    *,
    has_redis: bool = True,
) -> Records:
    """Return everything that was written down of a run so far.

    Args:
        world: The run's own database, user and stream.
        told: What its callers noted.
        daemon: Asked for the events by REST too, if given.
        has_redis: Whether the stream there is read; a test may have it stand still.
    """
    attempts = world.attempts()  # first: a daemon at work on a basket makes tasks all the while
    events = world.rows(
        "SELECT * FROM order_event WHERE account = %s ORDER BY account_seq", world.account
    )
    intents = {
        (event["task_id"], event["data"].get("attempt")): event["account_seq"]
        for event in events
        if event["event"] == "intent_recorded"
    }
    tasks = world.tasks()
    bodies = {task["task_id"]: says(task["body"]) for task in tasks}
    delivered = {"redis": [_heard(event) for _, event in world.stream()]} if has_redis else {}
    if daemon is not None:
        delivered["rest"] = [_heard(event) for event in world.rest_events(daemon)]
    entries = world.ledger()
    return Records(
        told=list(told),
        tasks=[_task(row) for row in tasks],
        attempts=[
            Attempt(
                task_id=str(row["task_id"]),
                attempt=row["attempt"],
                tag=row["tag"],
                writer_epoch=row["writer_epoch"],
                intent_at_ns=_ns(row["intent_at"]),
                send_not_after_ns=_ns(row["send_not_after"]),
                account_seq=intents.get((row["task_id"], row["attempt"]), 0),
                body=bodies[row["task_id"]],
            )
            for row in attempts
        ],
        events=[_event(row) for row in events],
        posts=posts(entries),
        orders=orders(entries),
        delivered=delivered,
    )


def _task(row: Mapping[str, Any]) -> Task:
    return Task(
        task_id=str(row["task_id"]),
        kind=row["kind"],
        principal=row["principal"],
        request_id=row["request_id"],
        body=says(row["body"]),
        state=TaskState(row["state"]),
        version=row["version"],
        broker_order_id=row["broker_order_id"],
        filled_quantity=row["filled_quantity"],
        average_price=row["average_price"],
        target_task_id=str(row["target_task_id"] or ""),
        job_id=str(row["job_id"] or ""),
        leg=row["leg"] or 0,
        form=row["body"],
        code=row["reason_code"] or "",
    )


def _event(row: Mapping[str, Any]) -> Event:
    return Event(
        account_seq=row["account_seq"],
        task_id=str(row["task_id"]),
        version=row["version"],
        state=TaskState(row["state"]),
        event=row["event"],
        filled_quantity=row["data"].get("filled_quantity"),
        outcome=row["data"].get("outcome", ""),
    )


def _heard(event: Mapping[str, Any]) -> tuple[int, str, int]:
    return event["account_seq"], event["task_id"], event["version"]


def posts(entries: Sequence[Mapping[str, Any]]) -> list[Post]:
    """Return the requests that the ledger has, whatever became of them.

    What went to a leg is of its order; a cancel of a cover order's stop is an exit.
    """
    refused = {entry["request"] for entry in entries if entry["kind"] == "refused"}
    firsts, stops = first_legs(entries), _stops(entries)
    return [
        Post(
            kind=COVER_EXIT
            if entry["method"] == "cancel" and entry["order_id"] in stops
            else entry["method"].upper(),
            # The ledger counts whole microseconds, and an intent is never younger than its POST.
            at_ns=(entry["at_us"] + 1) * NS_PER_US,
            took_effect=entry["number"] not in refused,
            tag=entry["tag"] or "",
            target=firsts.get(entry["order_id"], entry["order_id"] or ""),
            body=says(entry["fields"]),
        )
        for entry in entries
        if entry["kind"] == "received" and entry["method"] in CHANGES
    ]


def orders(entries: Sequence[Mapping[str, Any]]) -> dict[str, AtBroker]:
    """Return the orders that the ledger tells of, by order id.

    An iceberg is one, under the id of its first leg, with the sum of its legs. A cover order's
    stop is an order of its own that names the other.
    """
    found: dict[str, AtBroker] = {}
    icebergs: dict[str, _Iceberg] = {}
    legs = {leg: first for leg, first in first_legs(entries).items() if leg not in _stops(entries)}
    for entry in entries:
        order_id = entry["order_id"] or ""
        first = legs.get(order_id, order_id)
        if entry["kind"] == "accepted" and entry["method"] == "place":
            if entry["legs"] > 1:
                icebergs.setdefault(first, _Iceberg(entry["legs"])).filled[order_id] = 0
            if first == order_id:
                found[order_id] = AtBroker(
                    order_id=order_id,
                    tag=entry["tag"] or "",
                    parent_order_id=entry["parent_order_id"] or "",
                )
        elif entry["kind"] == "status":
            status, filled = entry["status"], entry["filled_quantity"]
            if first in icebergs:
                status, filled = icebergs[first].shows(order_id, status, filled)
            found[first].status, found[first].filled_quantity = status, filled
        elif entry["kind"] == "trade":
            price = Decimal(str(entry["average_price"]))
            found[first].value_inr += price * entry["quantity"]
    return found


@dataclass(slots=True)
class _Iceberg:
    """The legs of one iceberg so far, by order id and in the order in which they were placed."""

    legs: int
    filled: dict[str, int] = field(default_factory=dict)

    def shows(self, order_id: str, status: str, filled: int) -> tuple[str, int]:
        """Take a leg's status and return that of the whole; the newest leg speaks for it."""
        self.filled[order_id] = filled
        whole = sum(self.filled.values())
        if status == "COMPLETE" and len(self.filled) < self.legs:
            status = "OPEN"
        if status == "REJECTED" and whole:
            status = "CANCELLED"  # what was filled before stays filled
        return status, whole


def first_legs(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return of each order that the exchange placed itself the one that it is a leg of."""
    firsts: dict[str, str] = {}
    by_tag: dict[str, str] = {}
    for entry in entries:
        if entry["kind"] == "accepted" and entry["method"] == "place":
            if entry["parent_order_id"]:
                firsts[entry["order_id"]] = entry["parent_order_id"]
            elif entry["leg"] == 1:
                by_tag[entry["tag"]] = entry["order_id"]
            else:
                firsts[entry["order_id"]] = by_tag[entry["tag"]]
    return firsts


def _stops(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the second legs of cover orders."""
    return {entry["order_id"] for entry in entries if entry.get("parent_order_id")}


def net_after_each_trade(entries: Sequence[Mapping[str, Any]], tradingsymbol: str) -> list[int]:
    """Return the net position of a share after each of its trades; it has orders without legs."""
    sides = {
        entry["tag"]: 1 if entry["fields"]["transaction_type"] == "BUY" else -1
        for entry in entries
        if entry["kind"] == "received"
        and entry["method"] == "place"
        and entry["fields"].get("tradingsymbol") == tradingsymbol
    }
    trades = [
        sides[entry["tag"]] * entry["quantity"]
        for entry in entries
        if entry["kind"] == "trade" and entry["tag"] in sides
    ]
    return list(itertools.accumulate(trades))


def _ns(instant: dt.datetime) -> int:
    # Whole microseconds, as the database keeps them: a float would lose digits.
    return int(instant.timestamp()) * 1_000_000_000 + instant.microsecond * NS_PER_US
