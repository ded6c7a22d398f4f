"""A real daemon whose database is cut off, slow, locked, full, or replaced by one that knows less.

Rows F24 to F27 and F33 of the fault matrix in docs/reliability.md. What was acknowledged is never
lost, what was not committed never leaves, and nothing is done twice because nobody heard that it
had been done.
"""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import crash_verdict as verdict
import psycopg
import pytest
from crash_parts import DaemonGone, DoorBusy, door, limit_order, place_frame, world
from cuttable_proxy import CuttableProxy
from running import Beside, eventually
from stoppable_postgres import standby_of, stoppable_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crash_parts import Daemon, Lane, Servers, World

LONG_S: Final = 90.0
AGAIN: Final = frozenset({"JOURNAL_UNAVAILABLE", "ACCOUNT_NOT_OPEN", "TOO_MANY_REQUESTS"})
"""What a caller may hear instead of a yes: the same key may be sent again."""
POINTS: Final = {
    "admission": b"the-key",
    "intent": b"intent_recorded",
    "outcome": b"send_acked",
}
"""What the journal is told at T1, T3 and T4, by a word of it."""


@contextlib.contextmanager
def way_to_database(own: World) -> Iterator[Beside]:
    """Put a proxy before the journal's database, to be cut."""
    with Beside(lambda: CuttableProxy(own.database_url)) as way:
        yield way


def marketable(own: World) -> dict[str, object]:
    return limit_order("BUY", 1, f"{own.quote()['last_price'] * 1.02:.0f}.00")


def hide(own: World) -> None:
    """Let the broker tell of its orders by answers alone, so that each point is come to."""
    own.strike("truncated_book")
    own.strike("drop_updates")


def insist(own: World, daemon: Daemon, key: str, body: dict[str, object]) -> dict[str, Any]:
    """Repeat a request with its key until it is acknowledged."""

    def asked() -> dict[str, Any]:
        with contextlib.suppress(DaemonGone, DoorBusy), door(own, daemon) as calls:
            answer = calls.ask(place_frame(key, own.account, body))
            if answer["op"] == "ack":
                return answer
            assert answer["code"] in AGAIN, answer
        return {}

    return eventually(asked, within_s=LONG_S)


def filled_once(own: World, daemon: Daemon, acknowledged: dict[str, str]) -> None:
    """Wait until all is quiet, and hold journal, ledger and events to each other."""
    assert eventually(lambda: not verdict.unsettled(own), within_s=LONG_S), verdict.unsettled(own)
    assert verdict.nothing_lost(own, acknowledged) == []
    assert verdict.never_twice(own) == []
    assert {task["state"] for task in own.tasks()} == {"FILLED"}
    assert len(verdict.broker_side(own).orders) == len(acknowledged)
    assert verdict.events_are_whole(own, daemon) == []


@pytest.mark.parametrize("point", POINTS)
def test_a_commit_whose_answer_is_lost_is_looked_up_and_nothing_is_done_twice(
    point: str, own: World
) -> None:
    with way_to_database(own) as way:
        daemon = own.start(database_url=way.part.url, order_deadline_s=LONG_S)
        assert daemon.opens(own.account), daemon.log()
        body = marketable(own)
        hide(own)
        way.call(lambda: way.part.lose_answer_to(POINTS[point]))

        task = insist(own, daemon, "the-key", body)["task_id"]

        assert eventually(way.part.answer_lost.is_set)
        own.lane.lift_faults()
        filled_once(own, daemon, {"the-key": task})
        assert insist(own, daemon, "the-key", body)["task_id"] == task


@pytest.mark.parametrize("point", POINTS)
def test_a_database_that_goes_away_before_a_commit_holds_the_order_up_and_no_more(
    point: str, own: World
) -> None:
    with way_to_database(own) as way:
        daemon = own.start(database_url=way.part.url, order_deadline_s=LONG_S)
        assert daemon.opens(own.account), daemon.log()
        body = marketable(own)
        hide(own)
        way.call(lambda: way.part.stop_before(POINTS[point]))
        with door(own, daemon) as calls:
            first = calls.ask(place_frame("the-key", own.account, body))
        assert eventually(way.part.stopped.is_set)

        # Without its intent nothing left; with it, the one order did.
        assert len(verdict.broker_side(own).orders) == (1 if point == "outcome" else 0)
        expected = "JOURNAL_UNAVAILABLE" if point == "admission" else None
        assert first["code"] == expected, first
        own.lane.lift_faults()
        way.call(way.part.start)
        task = insist(own, daemon, "the-key", body)["task_id"]

        filled_once(own, daemon, {"the-key": task})


def test_a_lock_that_somebody_holds_refuses_in_bounded_time_and_is_over_with_it(own: World) -> None:
    daemon = own.start(order_deadline_s=LONG_S)
    assert daemon.opens(own.account), daemon.log()
    body = marketable(own)
    with door(own, daemon) as calls:
        with psycopg.connect(own.database_url) as other:
            other.execute("LOCK TABLE order_task IN ACCESS EXCLUSIVE MODE")
            refused = calls.ask(place_frame("k", own.account, body))
            assert verdict.broker_side(own).orders == {}
        assert refused["code"] == "JOURNAL_UNAVAILABLE", refused

    task = insist(own, daemon, "k", body)["task_id"]

    filled_once(own, daemon, {"k": task})


def test_one_connection_for_all_orders_is_slow_and_loses_and_doubles_nothing(own: World) -> None:
    daemon = own.start(order_deadline_s=LONG_S, order_connections_max=1)
    assert daemon.opens(own.account), daemon.log()
    body = marketable(own)
    keys = [f"k{number}" for number in range(12)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda key: insist(own, daemon, key, body), keys))

    acknowledged = {key: answer["task_id"] for key, answer in zip(keys, answers, strict=True)}
    filled_once(own, daemon, acknowledged)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_a_disk_that_takes_no_more_of_the_journal_stops_orders_and_spares_what_there_is(
    shared: Servers, one_lane: Lane
) -> None:
    with (
        stoppable_postgres() as postgres,
        world(shared, one_lane, database_url=postgres.url, is_durable=True) as own,
    ):
        daemon = own.start(order_deadline_s=LONG_S)
        assert daemon.opens(own.account), daemon.log()
        body = marketable(own)
        before = insist(own, daemon, "before", body)["task_id"]
        assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
        postgres.let_no_file_grow()

        with door(own, daemon) as calls:
            refused = calls.ask(place_frame("k", own.account, body))

        assert refused["code"] in AGAIN, refused
        assert len(verdict.broker_side(own).orders) == 1
        assert daemon.is_running()
        postgres.close()
        postgres.start()
        task = insist(own, daemon, "k", body)["task_id"]
        filled_once(own, daemon, {"before": before, "k": task})


def test_a_replica_that_lacks_the_newest_orders_halts_the_account_and_doubles_none(
    shared: Servers, one_lane: Lane
) -> None:
    with (
        stoppable_postgres() as primary,
        Beside(lambda: CuttableProxy(primary.url)) as stream,
        standby_of(primary, by_way_of=stream.part.url) as standby,
        world(shared, one_lane, database_url=primary.url, is_durable=True) as own,
        Beside(lambda: CuttableProxy(primary.url)) as way,
    ):
        daemon = own.start(database_url=way.part.url, order_deadline_s=LONG_S)
        assert daemon.opens(own.account), daemon.log()
        body = marketable(own)
        insist(own, daemon, "replicated", body)
        assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
        assert eventually(lambda: standby.has_all_of(primary))
        stream.call(stream.part.stop)
        insist(own, daemon, "lost", body)
        assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
        orders = verdict.broker_side(own).orders
        assert len(orders) == 2

        way.call(way.part.stop)
        primary.stop_at_once()
        standby.promote()
        way.call(lambda: way.part.lead_to(standby.url))
        way.call(way.part.start)

        assert eventually(lambda: daemon.desk_state(own.account) == "halted", within_s=LONG_S)
        with door(own, daemon) as calls:  # the caller who was never told that it was lost
            refused = calls.ask(place_frame("lost", own.account, body))
        assert refused["code"] == "ACCOUNT_HALTED", refused
        assert "ORPHAN_ORDER" in refused["message"]
        shown = own.rest(daemon, "GET", account=own.account, external="true").json()["external"]
        assert [each["orphan"] for each in shown] == [True]
        assert len(verdict.broker_side(own).orders) == 2
        assert daemon.is_running()
