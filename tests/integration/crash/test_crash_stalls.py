"""A daemon whose event loop stands still gives its account up; one that was stopped does not.

Rows F8 and F9 of the fault matrix, between the intent and its first byte (I1, I4, I6).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import crash_verdict as verdict
import orjson
from crash_parts import SCALED, door, limit_order, place_frame
from running import eventually

from ticker_service.runtime.watchdog import EXIT_STALLED

if TYPE_CHECKING:
    from crash_parts import World

TAKEOVER_S = 30.0
STALL_S = 1.0


def test_a_stalled_daemon_dies_and_its_successor_settles_what_it_held(own: World) -> None:
    stalled = own.start(kill_at="C3", at_point="stall", stall_s=STALL_S)
    assert stalled.opens(own.account)
    successor = own.start()
    assert eventually(lambda: successor.desk_state(own.account) == "standby")
    with door(own, stalled) as calls:
        assert calls.ask(place_frame("k", own.account, limit_order("BUY", 1, "1.00")))

    assert stalled.wait() == EXIT_STALLED

    last = orjson.loads(stalled.log().splitlines()[-1])
    assert last["event"] == "event_loop_stalled"
    assert last["calls"][-1].endswith("reach")
    assert successor.opens(own.account, within_s=TAKEOVER_S)
    assert eventually(lambda: not verdict.unsettled(own), within_s=TAKEOVER_S)
    assert [task["state"] for task in own.tasks()] == ["NOT_PLACED"]
    assert verdict.broker_side(own).orders == {}


def test_a_stopped_daemon_keeps_its_account_and_sends_nothing_late(own: World) -> None:
    stopped = own.start(kill_at="C3", at_point="stop", stall_s=STALL_S)
    assert stopped.opens(own.account)
    second = own.start()
    assert eventually(lambda: second.desk_state(own.account) == "standby")
    resting = limit_order("BUY", 1, f"{own.quote()['last_price'] * 0.9:.0f}.00")
    with door(own, stopped) as calls:
        assert calls.ask(place_frame("k", own.account, resting))
    assert eventually(lambda: is_stopped(stopped.pid))
    # Longer than what a stall may last, and than what was committed may still leave.
    window_s = float(str(SCALED["order_send_window_s"]))
    until_s = time.monotonic() + 2.0 * max(STALL_S, window_s)
    assert eventually(lambda: time.monotonic() > until_s)
    assert second.desk_state(own.account) == "standby"
    first_tag = own.attempts()[0]["tag"]

    os.kill(stopped.pid, signal.SIGCONT)

    assert eventually(lambda: not verdict.unsettled(own), within_s=TAKEOVER_S)
    assert stopped.is_running()
    assert own.attempts()[0]["outcome"] == "NOT_SENT"
    side = verdict.broker_side(own)
    assert side.places_by_tag[first_tag] == 0
    assert len(side.orders) == 1
    assert verdict.never_twice(own) == []
    assert stopped.desk_state(own.account) == "open"


def is_stopped(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    return state == "T"
