"""Servers that stand still or crash, and a daemon that is told to stop in mid-order."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import crash_verdict as verdict
import psycopg
import pytest
from crash_parts import (
    PATIENT,
    DaemonGone,
    World,
    door,
    limit_order,
    own_postgres,
    place_frame,
    world,
)
from running import DEADLINE_S, descendants, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crash_parts import Daemon, Lane, Servers

    from app.embedded import EmbeddedPostgres, EmbeddedRedis

RECOVERY_S = 40.0
FOR_NOW = {"JOURNAL_UNAVAILABLE", "ACCOUNT_NOT_OPEN", "TOO_MANY_REQUESTS"}
"""Refusals after which the same key may be sent again."""


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, with a migrated database."""
    with own_postgres() as (server, _):
        yield server


@pytest.fixture
def on_own_postgres(postgres: EmbeddedPostgres, shared: Servers, one_lane: Lane) -> Iterator[World]:
    with world(shared, one_lane, database_url=postgres.url) as made:
        yield made
        one_lane.lift_faults()


def test_nothing_is_acknowledged_or_sent_while_the_database_stands_still(
    on_own_postgres: World, postgres: EmbeddedPostgres
) -> None:
    own = on_own_postgres
    daemon = own.start(order_deadline_s=120)
    assert daemon.opens(own.account)
    body = marketable(own)
    with door(own, daemon) as calls, frozen(postgres):
        refused = calls.ask(place_frame("k", own.account, body))
        sent = posts(own)
    again = insist(own, daemon, "k", body)

    assert refused["code"] == "JOURNAL_UNAVAILABLE"
    assert sent == []
    assert eventually(lambda: not verdict.unsettled(own), within_s=RECOVERY_S)
    assert verdict.nothing_lost(own, {"k": again["task_id"]}) == []
    assert verdict.never_twice(own) == []
    assert eventually(lambda: [task["state"] for task in own.tasks()] == ["FILLED"])


def test_an_answer_that_finds_no_journal_is_recorded_once_there_is_one(
    on_own_postgres: World, postgres: EmbeddedPostgres
) -> None:
    own = on_own_postgres
    daemon = own.start(**PATIENT)
    assert daemon.opens(own.account)
    own.strike("accept_then_timeout", answer_after_s=1.0, count=1)
    with door(own, daemon) as calls:
        calls.ask(place_frame("k", own.account, marketable(own)))
    assert eventually(lambda: posts(own))

    with frozen(postgres):
        answered = eventually(lambda: "outcome_not_recorded" in daemon.log())

    assert answered
    assert eventually(lambda: not verdict.unsettled(own), within_s=RECOVERY_S)
    assert verdict.never_twice(own) == []
    assert eventually(lambda: [task["state"] for task in own.tasks()] == ["FILLED"])


def test_orders_survive_a_crash_of_the_database_among_them(
    on_own_postgres: World, postgres: EmbeddedPostgres
) -> None:
    own = on_own_postgres
    daemon = own.start(order_deadline_s=60)
    assert daemon.opens(own.account)
    acknowledged = {}
    for number in range(6):
        if number == 3:
            crash(postgres)
        acknowledged[f"k{number}"] = insist(own, daemon, f"k{number}", marketable(own))["task_id"]

    assert eventually(lambda: not verdict.unsettled(own), within_s=RECOVERY_S)
    assert verdict.nothing_lost(own, acknowledged) == []
    assert verdict.never_twice(own) == []
    assert verdict.events_are_whole(own, daemon) == []
    assert daemon.is_running()


def test_orders_do_not_wait_for_redis_and_their_events_come_in_order_later(
    shared: Servers, one_lane: Lane, own_redis: EmbeddedRedis
) -> None:
    with world(shared, one_lane, redis_url=own_redis.url) as own:
        daemon = own.start()
        assert daemon.opens(own.account)
        with door(own, daemon) as calls:
            calls.ask(place_frame("before", own.account, marketable(own)))
            assert eventually(lambda: not verdict.unsettled(own))

            os.kill(own_redis.child.pid, signal.SIGSTOP)
            try:
                for number in range(4):
                    answer = calls.ask(place_frame(f"k{number}", own.account, marketable(own)))
                    assert answer["op"] == "ack"
                is_traded = eventually(lambda: not verdict.unsettled(own))
            finally:
                os.kill(own_redis.child.pid, signal.SIGCONT)

        assert is_traded, verdict.unsettled(own)
        assert eventually(lambda: [task["state"] for task in own.tasks()] == ["FILLED"] * 5)
        assert verdict.events_are_whole(own, daemon) == []


def test_an_order_under_way_at_sigterm_is_recorded_before_the_daemon_ends(own: World) -> None:
    daemon = own.start(**PATIENT)
    assert daemon.opens(own.account)
    own.strike("accept_then_timeout", answer_after_s=0.5, count=1)
    with door(own, daemon) as calls:
        calls.ask(place_frame("k", own.account, marketable(own)))
        assert eventually(lambda: posts(own))

        daemon.signal(signal.SIGTERM)

        assert daemon.wait() == 0
    (task,) = own.tasks()
    assert task["state"] in {"ACKED", "FILLED"}
    assert [attempt["outcome"] for attempt in own.attempts()] in ([None], ["ACKED"])


def test_an_order_without_an_answer_at_sigterm_is_left_to_the_next_daemon(own: World) -> None:
    daemon = own.start()
    assert daemon.opens(own.account)
    own.strike("accept_then_timeout")
    with door(own, daemon) as calls:
        calls.ask(place_frame("k", own.account, marketable(own)))
        assert eventually(lambda: posts(own))
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    own.lane.lift_faults()

    next_one = own.start()

    assert next_one.opens(own.account)
    assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
    assert eventually(lambda: [task["state"] for task in own.tasks()] == ["FILLED"])
    assert verdict.never_twice(own) == []


def test_a_stop_while_the_database_stands_still_leaves_the_order_to_the_next_daemon(
    on_own_postgres: World, postgres: EmbeddedPostgres
) -> None:
    own = on_own_postgres
    daemon = own.start()
    assert daemon.opens(own.account)
    own.strike("accept_then_timeout", answer_after_s=0.3, count=1)
    with door(own, daemon) as calls:
        calls.ask(place_frame("k", own.account, marketable(own)))
    assert eventually(lambda: posts(own))

    with frozen(postgres):
        daemon.signal(signal.SIGTERM)
        status = daemon.wait(2 * DEADLINE_S)

    assert status == 0, daemon.log()
    next_one = own.start()
    assert next_one.opens(own.account)
    assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
    assert eventually(lambda: [task["state"] for task in own.tasks()] == ["FILLED"])
    assert verdict.never_twice(own) == []


@contextlib.contextmanager
def frozen(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Let every process of the server stand still for the length of the block."""
    os.kill(postgres.child.pid, signal.SIGSTOP)  # first, so that it starts no more of them
    stopped = [postgres.child.pid, *descendants(postgres.child.pid)]
    for pid in stopped[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def crash(postgres: EmbeddedPostgres) -> None:
    """Kill one server process: the others end at once and the log is replayed."""
    with psycopg.connect(postgres.url) as connection:
        victim = connection.info.backend_pid
        os.kill(victim, signal.SIGKILL)
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute("SELECT 1")


def insist(own: World, daemon: Daemon, key: str, body: dict[str, object]) -> dict[str, Any]:
    """Repeat a request with its key until it is acknowledged."""

    def asked() -> dict[str, Any]:
        with contextlib.suppress(DaemonGone), door(own, daemon) as calls:
            answer = calls.ask(place_frame(key, own.account, body))
            if answer["op"] == "ack":
                return answer
            assert answer["code"] in FOR_NOW, answer
        return {}

    return eventually(asked, within_s=RECOVERY_S)


def marketable(own: World) -> dict[str, object]:
    return limit_order("BUY", 1, f"{own.quote()['last_price'] * 1.02:.0f}.00")


def posts(own: World) -> list[dict[str, Any]]:
    """Return the orders whose bytes reached the broker."""
    return [
        entry
        for entry in own.ledger()
        if entry["kind"] == "received" and entry["method"] == "place"
    ]
