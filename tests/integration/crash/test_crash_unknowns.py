"""Orders nobody can speak for yet, and what must go on around them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import crash_verdict as verdict
import pytest
from crash_parts import PATIENT, cancel_frame, door, limit_order, place_frame
from running import eventually

from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S, SECONDS_PER_DAY
from ticker_service.domain.order import OrderTask, TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.orders.settle import Evidence
from ticker_service.runtime.clock import Moment

if TYPE_CHECKING:
    from crash_parts import World


@pytest.mark.parametrize("op", ["cancel", "modify"])
def test_what_is_asked_of_an_unknown_order_does_not_hold_up_the_others(op: str, own: World) -> None:
    daemon = own.start(order_settle_after_s=60)
    assert daemon.opens(own.account)
    hide(own)
    own.strike("accept_then_5xx", count=1)
    with door(own, daemon) as calls:
        calls.ask(place_frame("unknown", own.account, marketable(own)))
        assert eventually(lambda: state(own, "unknown") == "UNKNOWN")
        change = {"order": {"quantity": 2}} if op == "modify" else {}
        calls.ask({**cancel_frame("unknown"), "op": op, **change})
        assert eventually(lambda: state(own, "unknown-cancel") == "READY")

        calls.ask(place_frame("next", own.account, marketable(own)))

    assert eventually(lambda: state(own, "next") == "ACKED", within_s=4.0), state(own, "next")


def test_an_answer_that_a_newer_writer_has_overtaken_does_not_keep_the_account(own: World) -> None:
    daemon = own.start(**PATIENT)
    assert daemon.opens(own.account)
    hide(own)
    own.strike("accept_then_timeout", answer_after_s=2.0, count=1)
    with door(own, daemon) as calls:
        calls.ask(place_frame("k", own.account, marketable(own)))
        assert eventually(lambda: verdict.broker_side(own).orders)

    # Another process takes the account and ends before it has looked at a single order.
    own.rows("UPDATE account_writer SET epoch = epoch + 1 RETURNING epoch")
    own.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    own.lane.lift_faults()

    assert eventually(lambda: not verdict.unsettled(own)), daemon.log()[-2000:]
    assert state(own, "k") == "FILLED"
    assert verdict.never_twice(own) == []


def hide(own: World) -> None:
    """Let the broker tell of its orders by answers alone."""
    own.strike("truncated_book")
    own.strike("drop_updates")


def state(own: World, request_id: str) -> str:
    found = own.rows("SELECT state FROM order_task WHERE request_id = %s", request_id)
    return str(found[0]["state"]) if found else ""


def marketable(own: World) -> dict[str, object]:
    return limit_order("BUY", 1, f"{own.quote()['last_price'] * 1.02:.0f}.00")


def test_a_cancel_that_the_broker_is_still_working_on_is_not_called_without_effect(
    own: World,
) -> None:
    daemon = own.start()
    assert daemon.opens(own.account)
    own.strike("slow_states", delay_ms=2_000)
    resting = limit_order("BUY", 1, f"{own.quote()['last_price'] * 0.9:.0f}.00")
    with door(own, daemon) as calls:
        calls.ask(place_frame("k", own.account, resting))
        assert eventually(lambda: state(own, "k") == "ACKED")
        own.strike("accept_then_5xx", method="cancel", count=1)
        calls.ask(cancel_frame("k"))

    assert eventually(lambda: state(own, "k") == "CANCELLED"), state(own, "k")
    assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
    assert state(own, "k-cancel") == "ACKED"
    assert verdict.cancels_tell_the_truth(own) == []


def test_a_cancel_still_unknown_when_its_day_is_over_is_a_persons() -> None:
    sent_ns = 1_795_255_200 * NS_PER_S
    cancel = OrderTask(
        **dict.fromkeys(field.name for field in fields(OrderTask)) | {"kind": TaskKind.CANCEL},
    )
    cancel = replace(cancel, intent_at_ns=sent_ns, send_not_after_ns=sent_ns, created_at_ns=sent_ns)

    next_day = Moment(now_ns=sent_ns + SECONDS_PER_DAY * NS_PER_S, monotonic_ns=0)
    update = Evidence(OrdersConfig()).judge_target(cancel, None, began=next_day)

    assert update is not None
    assert update.state is TaskState.MANUAL
