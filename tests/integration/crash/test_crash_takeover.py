"""Two daemons on one account: one works, the other stands by and takes over (I4, I6)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import crash_verdict as verdict
from crash_parts import door, limit_order, place_frame
from running import eventually

if TYPE_CHECKING:
    from crash_parts import World

TAKEOVER_S = 30.0
ORDERS = 7  # four are sent at a time: the others wait meanwhile


def test_a_second_daemon_stands_by_and_takes_no_orders(own: World) -> None:
    first = own.start()
    assert first.opens(own.account)
    second = own.start()
    assert eventually(lambda: second.desk_state(own.account) == "standby")

    with door(own, second) as calls:
        answer = calls.ask(place_frame("k", own.account, limit_order("BUY", 1, "1.00")))

    assert answer["code"] == "ACCOUNT_NOT_OPEN"
    assert own.tasks() == []


def test_the_second_sends_what_waited_and_settles_what_was_being_sent(own: World) -> None:
    long_lived = {
        "order_deadline_s": 60.0,
        "order_request_s": 20.0,
        "order_settle_after_s": 25.0,
    }
    first = own.start(**long_lived)
    assert first.opens(own.account)
    second = own.start(**long_lived)
    assert eventually(lambda: second.desk_state(own.account) == "standby")
    price = f"{own.quote()['last_price'] * 1.02:.0f}.00"
    keys = [f"k{number}" for number in range(ORDERS)]
    own.strike("accept_then_timeout")
    own.strike("truncated_book")  # else the book tells of them before any answer does
    own.strike("drop_updates")
    with door(own, first) as calls:
        for key in keys:
            assert calls.ask(place_frame(key, own.account, limit_order("BUY", 1, price)))
    assert eventually(lambda: states(own) == ["RECEIVED"] * 3 + ["SENDING"] * 4), states(own)
    assert eventually(lambda: len(verdict.broker_side(own).orders) == 4)
    being_sent = {task["task_id"] for task in own.tasks() if task["state"] == "SENDING"}

    first.signal(signal.SIGKILL)
    own.lane.lift_faults()

    assert second.opens(own.account, within_s=TAKEOVER_S)
    assert eventually(lambda: not verdict.unsettled(own), within_s=TAKEOVER_S)
    assert eventually(lambda: states(own) == ["FILLED"] * ORDERS), states(own)
    assert verdict.never_twice(own) == []
    attempts = own.attempts()
    assert len(attempts) == ORDERS
    epochs = {attempt["task_id"] in being_sent: attempt["writer_epoch"] for attempt in attempts}
    assert epochs[True] < epochs[False]
    assert verdict.events_are_whole(own, second) == []


def states(own: World) -> list[str]:
    return sorted(task["state"] for task in own.tasks())
