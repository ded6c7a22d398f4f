"""Events of the journal: what they say, and that old ones are read for ever."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from ticker_service.adapters.postgres_rows import event_of, ns_of, time_of
from ticker_service.domain import order_events as events
from ticker_service.domain.order import Account, NewTask, OrderTask, TaskKind, TaskUpdate
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import InvariantViolatedError

# Events as version 1 wrote them. This file only grows: what is in it is in somebody's journal.
GOLDEN: Final = json.loads(Path(__file__).with_name("test_order_events_v1.json").read_bytes())
NOON_NS: Final = 1_767_250_800_000_000_000
TASK_ID: Final = uuid.UUID(int=1)


def new_task(**changed: Any) -> NewTask:
    values: dict[str, Any] = {
        "task_id": TASK_ID,
        "kind": TaskKind.PLACE,
        "account": Account("ZX1234"),
        "principal": "desk",
        "request_id": "order-1",
        "client_order_id": "order-1",
        "body": {"tradingsymbol": "INFY", "price": "1500.05"},
        "body_sha256": bytes(32),
        "deadline_ns": NOON_NS,
        "received_at_ns": NOON_NS,
    }
    return NewTask(**values | changed)


def task(**changed: Any) -> OrderTask:
    new = new_task()
    values: dict[str, Any] = {
        name: getattr(new, name)
        for name in (
            "task_id",
            "kind",
            "account",
            "principal",
            "request_id",
            "client_order_id",
            "body",
            "body_sha256",
            "deadline_ns",
            "target_task_id",
        )
    }
    values |= dict.fromkeys(
        (
            "tag",
            "writer_epoch",
            "send_not_after_ns",
            "intent_at_ns",
            "broker_order_id",
            "broker_status",
            "average_price",
            "reason_code",
            "reason",
        )
    )
    values |= {"state": TaskState.READY, "version": 2, "attempt": 0, "filled_quantity": 0}
    values |= {"created_at_ns": NOON_NS, "updated_at_ns": NOON_NS}
    return OrderTask(**values | changed)


def data_written_today() -> dict[str, object]:
    """What each event of the golden file would be written as by this program."""
    sending = task(state=TaskState.SENDING, version=3, attempt=1, tag="T1")
    filled = TaskUpdate(
        state=TaskState.FILLED,
        event="broker_update",
        broker_order_id="260101000000001",
        broker_status="COMPLETE",
        filled_quantity=75,
        average_price=Decimal("1500.0500"),
        reason="",
    )
    refused = TaskUpdate(
        state=TaskState.REJECTED,
        event="send_refused",
        reason_code="BROKER_REJECTED",
        reason="Insufficient funds",
        outcome="REJECTED",
        http_status=400,
        facts={"error_type": "MarginException"},
    )
    cancel = new_task(
        kind=TaskKind.CANCEL, request_id="cancel-1", body={}, target_task_id=uuid.UUID(int=2)
    )
    return {
        "received": events.received(new_task()),
        "received of a cancel": events.received(cancel),
        "intent_recorded": events.intent_recorded(
            task(), tag="T1", writer_epoch=7, send_not_after_ns=NOON_NS + 1_999
        ),
        "broker_update": events.step(sending, filled),
        "send_refused": events.step(sending, refused),
    }


def row_of(golden: dict[str, Any]) -> dict[str, Any]:
    return {
        "event_id": uuid.UUID(int=3),
        "account": "ZX1234",
        "account_seq": 1,
        "task_id": TASK_ID,
        "version": golden["data"]["version"],
        "event": golden["event"],
        "event_version": golden["event_version"],
        "at": time_of(NOON_NS),
        "principal": "desk",
        "client_order_id": "order-1",
        "state": golden["data"]["state"],
        "data": golden["data"],
    }


@pytest.mark.parametrize("case", GOLDEN)
def test_an_event_of_version_one_reads_as_ever(case: str) -> None:
    golden = GOLDEN[case]
    event = event_of(row_of(golden))
    assert event.event_version == golden["read_as"]["event_version"]
    assert event.data == golden["read_as"]["data"]


def test_what_is_written_today_is_what_version_one_reads_as_with_nothing_untold() -> None:
    # A change here changes what consumers get: raise the event's version and write an upcaster.
    for name, data in data_written_today().items():
        read_as = GOLDEN[name]["read_as"]
        assert set(data) == set(read_as["data"])
        assert None not in data.values()
        told = {key: value for key, value in data.items() if read_as["data"][key] is not None}
        assert told == {k: v for k, v in read_as["data"].items() if v is not None}
        assert events.version_of(GOLDEN[name]["event"]) == read_as["event_version"]


def test_upcasters_are_applied_one_after_the_other() -> None:
    upcasters: dict[tuple[str, int], events.Upcaster] = {
        ("filled", 1): lambda data: {**data, "quantity": data["qty"]},
        ("filled", 2): lambda data: {k: v for k, v in data.items() if k != "qty"},
    }
    assert events.upcast("filled", 1, {"qty": 5}, upcasters=upcasters) == (3, {"quantity": 5})
    assert events.upcast("filled", 3, {"quantity": 5}, upcasters=upcasters) == (3, {"quantity": 5})


def test_an_event_of_a_newer_program_comes_back_as_it_is() -> None:
    assert events.upcast("received", 7, {"x": 1}) == (7, {"x": 1})


def test_times_in_events_are_whole_microseconds_as_the_tables_have_them() -> None:
    intent = events.intent_recorded(
        task(), tag="T1", writer_epoch=7, send_not_after_ns=NOON_NS + 1_999
    )
    assert intent["send_not_after_us"] == NOON_NS // 1_000 + 1
    assert events.received(new_task())["deadline_us"] == NOON_NS // 1_000


def test_every_event_written_in_a_later_version_has_its_upcasters() -> None:
    for event, version in events.EVENT_VERSIONS.items():
        assert {(event, earlier) for earlier in range(1, version)} <= set(events.UPCASTERS)


def test_a_missing_upcaster_is_our_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENT_VERSIONS", {"received": 3})
    with pytest.raises(InvariantViolatedError, match="received"):
        events.upcast("received", 1, {})


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (Decimal("1E+3"), "1000"),
        (Decimal("101.50"), "101.50"),
        (float("nan"), None),
        (float("inf"), None),
        (1.5, 1.5),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (-(2**63), "-9223372036854775808"),
        (TaskState.FILLED, "FILLED"),
        ({1: ("a\0", None)}, {"1": ["a\ufffd", None]}),
        ("\ud83d", "?"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_any_fact_has_a_form_that_can_be_kept(value: object, kept: object) -> None:
    assert events.storable(value) == kept


@pytest.mark.parametrize("at_ns", [0, NOON_NS, NOON_NS + 999, NOON_NS + 1_000, -1])
def test_times_are_cut_to_the_microsecond_before(at_ns: int) -> None:
    assert ns_of(time_of(at_ns)) == at_ns // 1_000 * 1_000
