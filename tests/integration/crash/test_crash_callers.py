"""What callers may rely on when they repeat themselves: one key is one order (I1, I2)."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import crash_verdict as verdict
import httpx
import pytest
from crash_parts import DaemonGone, Door, DoorBusy, door, limit_order, place_frame
from running import DEADLINE_S, eventually

if TYPE_CHECKING:
    from crash_parts import Daemon, World

CALLERS = 50
SOCKETS = 10  # of one caller; more are closed with 1013
REFUSED_FOR_NOW = {"TOO_MANY_REQUESTS", "ACCOUNT_NOT_OPEN", "JOURNAL_UNAVAILABLE"}


def marketable(own: World, quantity: int = 1) -> dict[str, object]:
    return limit_order("BUY", quantity, f"{own.quote()['last_price'] * 1.02:.0f}.00")


@pytest.mark.parametrize("point", ["C0", "C1", "C4"])
def test_a_caller_without_an_answer_repeats_its_key_and_has_one_order(
    point: str, own: World
) -> None:
    body, doomed = marketable(own), own.start(kill_at=point)
    assert doomed.opens(own.account)
    with door(own, doomed) as calls:
        calls.say(place_frame("k", own.account, body))
        assert doomed.wait() == -9
    survivor = own.start()
    assert survivor.opens(own.account)

    with door(own, survivor) as calls:
        answers = [calls.ask(place_frame("k", own.account, body)) for _ in range(3)]

    assert len({answer["task_id"] for answer in answers}) == 1
    assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
    assert eventually(lambda: [task["state"] for task in own.tasks()] == ["FILLED"])
    assert len(verdict.broker_side(own).orders) == 1
    assert verdict.never_twice(own) == []


@pytest.mark.parametrize("kill_at", ["", "C2"])
def test_one_key_from_fifty_callers_at_once_is_one_order(kill_at: str, own: World) -> None:
    body = marketable(own)
    daemons = [own.start(kill_at=kill_at)]
    assert daemons[0].opens(own.account)

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        asking = [
            pool.submit(_insist, own, daemons, body, by_socket=number < SOCKETS)
            for number in range(CALLERS)
        ]
        if kill_at:
            assert daemons[0].wait() == -9
            daemons.append(own.start())
        task_ids = {each.result(2 * DEADLINE_S) for each in asking}

    assert len(task_ids) == 1
    assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
    assert len(own.tasks()) == 1
    assert len(verdict.broker_side(own).orders) == 1
    assert verdict.never_twice(own) == []


def test_a_used_key_with_another_body_conflicts_and_changes_nothing(own: World) -> None:
    daemon = own.start()
    assert daemon.opens(own.account)
    with door(own, daemon) as calls:
        calls.ask(place_frame("k", own.account, marketable(own)))
        assert eventually(lambda: [task["state"] for task in own.tasks()] == ["FILLED"])
        journal, ledger = own.tasks(), _changes(own)

        other = calls.ask(place_frame("k", own.account, marketable(own, quantity=2)))
        over_rest = own.rest(
            daemon,
            "POST",
            body={"client_order_id": "k", "account": own.account, "order": marketable(own, 3)},
        )

    assert (other["op"], other["code"]) == ("error", "IDEMPOTENCY_CONFLICT")
    assert over_rest.status_code == 409
    assert own.tasks() == journal
    assert _changes(own) == ledger


def test_a_conflict_survives_a_restart(own: World) -> None:
    first = own.start()
    assert first.opens(own.account)
    with door(own, first) as calls:
        task_id = calls.ask(place_frame("k", own.account, marketable(own)))["task_id"]
    first.kill()
    second = own.start()
    assert second.opens(own.account)

    with door(own, second) as calls:
        other = calls.ask(place_frame("k", own.account, marketable(own, quantity=2)))

    assert other["code"] == "IDEMPOTENCY_CONFLICT"
    assert [str(task["task_id"]) for task in own.tasks()] == [task_id]
    assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
    assert verdict.never_twice(own) == []


def _insist(own: World, daemons: list[Daemon], body: dict[str, object], *, by_socket: bool) -> str:
    """Ask until acknowledged, at whichever daemon is the newest; return the task's id."""
    frame = place_frame("k", own.account, body)

    def asked() -> str:
        with contextlib.suppress(DaemonGone, DoorBusy, httpx.HTTPError):
            answer = _by_socket(own, daemons[-1], frame) if by_socket else None
            answer = answer or _by_rest(own, daemons[-1], frame)
            if "task_id" in answer:
                return str(answer["task_id"])
            assert answer["code"] in REFUSED_FOR_NOW, answer
        return ""

    return eventually(asked, within_s=1.5 * DEADLINE_S)


def _by_socket(own: World, daemon: Daemon, frame: dict[str, object]) -> dict[str, Any]:
    calls = Door(own, daemon)

    def answered() -> dict[str, Any] | None:
        answer = calls.ask(frame)
        return None if answer.get("code") == "TOO_MANY_REQUESTS" else answer

    try:
        # On the same socket: opening another costs a request, too, and would leave none for this.
        return eventually(answered) or {"code": "TOO_MANY_REQUESTS"}
    finally:
        calls.close()


def _by_rest(own: World, daemon: Daemon, frame: dict[str, object]) -> dict[str, Any]:
    body = {name: value for name, value in frame.items() if name != "op"}
    answer: dict[str, Any] = own.rest(daemon, "POST", body=body).json()
    return answer


def _changes(own: World) -> list[dict[str, Any]]:
    return [entry for entry in own.ledger() if entry.get("method") in {"place", "modify", "cancel"}]
