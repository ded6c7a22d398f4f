"""A real daemon before a broker that answers wrongly, late, twice or not at all.

Rows F4, F11 to F14, F16, F17, F19 and F28 of the fault matrix in docs/reliability.md. The verdict is the
ledger's: one POST per tag, one order at most, and the journal says of it what the broker does.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import crash_verdict as verdict
import pytest
from crash_parts import PATIENT, Door, cancel_frame, door, limit_order, place_frame
from cuttable_proxy import CuttableProxy
from running import Beside, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crash_parts import Daemon, World

LONG_S: Final = 60.0
"""A life long enough for an order to be tried again on a machine with much to do."""
SEVERAL_PROOFS_S: Final = 4.0
"""In so long absence would be proven twice over, were the books believed."""
UNDER_WAY: Final = frozenset({"RECEIVED", "READY", "SENDING", "UNKNOWN", "ACKED"})
ENDED: Final = frozenset({"NOT_PLACED", "MANUAL", "REJECTED", "EXPIRED", "CANCELLED"})


@pytest.fixture
def calls(own: World) -> Iterator[tuple[World, Daemon, Door]]:
    """A caller of a daemon whose account is open."""
    daemon = own.start(order_deadline_s=LONG_S)
    assert daemon.opens(own.account), daemon.log()
    with door(own, daemon) as opened:
        yield own, daemon, opened


def marketable(own: World) -> dict[str, object]:
    return limit_order("BUY", 1, f"{own.quote()['last_price'] * 1.02:.0f}.00")


def resting(own: World, quantity: int = 1) -> dict[str, object]:
    return limit_order("BUY", quantity, f"{own.quote()['last_price'] * 0.9:.0f}.00")


def states(own: World, key: str) -> list[str]:
    """Return the states an instruction has been through."""
    found = own.rows(
        "SELECT event.state FROM order_event AS event JOIN order_task AS task USING (task_id)"
        " WHERE task.request_id = %s ORDER BY event.version",
        key,
    )
    return [str(row["state"]) for row in found]


def settles(own: World) -> None:
    """Wait until journal and broker agree, and hold them to one POST a tag."""
    assert eventually(lambda: not verdict.unsettled(own), within_s=LONG_S), verdict.unsettled(own)
    assert verdict.never_twice(own) == []


AFTER: Final = [
    ("accept_then_5xx", {"status_code": 500}),
    ("accept_then_5xx", {"status_code": 502, "body": "html"}),
    ("accept_then_5xx", {"status_code": 503}),
    ("accept_then_timeout", {}),
    ("accept_then_timeout", {"answer_after_s": 0.9}),
    ("accept_then_reset", {}),
    ("accept_then_400_timeout", {"delay_ms": 100}),
    ("garbage_200", {"body": "garbage"}),
    ("garbage_200", {"body": "empty"}),
    ("garbage_200", {"body": "html"}),
    ("garbage_200", {"body": "no_order_id"}),
    ("redirect_307", {}),
]
BEFORE: Final = [
    ("reject_5xx_before_accept", {"status_code": 500}),
    ("reject_5xx_before_accept", {"status_code": 502, "body": "html"}),
    ("garbage_200", {"body": "garbage", "accept": False}),
    ("redirect_307", {"accept": False}),
]


@pytest.mark.parametrize(("fault", "fields"), AFTER)
def test_an_order_that_was_taken_without_a_word_of_it_is_found_and_not_sent_again(
    fault: str, fields: dict[str, Any], calls: tuple[World, Daemon, Door]
) -> None:
    own, _, caller = calls
    own.strike("drop_updates")  # else an update may tell of it before the answer does not
    own.strike(fault, method="place", count=1, **fields)

    caller.ask(place_frame("k", own.account, marketable(own)))

    assert eventually(lambda: states(own, "k")[-1:] == ["FILLED"]), states(own, "k")
    settles(own)
    assert len(own.attempts()) == 1
    assert "REJECTED" not in states(own, "k")


@pytest.mark.parametrize(("fault", "fields"), BEFORE)
def test_an_order_that_was_not_taken_and_not_refused_is_proven_absent_and_not_sent_again(
    fault: str, fields: dict[str, Any], calls: tuple[World, Daemon, Door]
) -> None:
    own, _, caller = calls
    own.strike(fault, method="place", count=1, **fields)

    caller.ask(place_frame("k", own.account, marketable(own)))

    assert eventually(lambda: states(own, "k")[-1:] == ["NOT_PLACED"]), states(own, "k")
    assert "UNKNOWN" in states(own, "k")
    settles(own)
    assert len(own.attempts()) == 1
    assert verdict.broker_side(own).orders == {}


def test_a_redirect_elsewhere_is_not_followed_and_nobody_there_learns_anything(
    calls: tuple[World, Daemon, Door],
) -> None:
    own, _, caller = calls
    with listening() as (port, visits):
        location = f"http://127.0.0.1:{port}/orders/regular"
        own.strike("redirect_307", method="place", count=1, location=location)
        caller.ask(place_frame("k", own.account, marketable(own)))
        assert eventually(lambda: states(own, "k")[-1:] == ["FILLED"]), states(own, "k")

    assert visits == []
    settles(own)


def test_an_order_that_cannot_leave_reaches_nobody_and_goes_out_once_when_it_can(
    own: World,
) -> None:
    with way_to_broker(own) as way:
        daemon = own.start(kite_rest_root=way.part.url, order_deadline_s=LONG_S)
        assert daemon.opens(own.account), daemon.log()
        with door(own, daemon) as caller:
            way.call(way.part.stop)

            caller.ask(place_frame("k", own.account, marketable(own)))

            assert eventually(
                lambda: [each["outcome"] for each in own.attempts()][:1] == ["NOT_SENT"]
            )
            assert verdict.broker_side(own).places_by_tag == {}
            way.call(way.part.start)
            assert eventually(lambda: states(own, "k")[-1] not in UNDER_WAY, within_s=LONG_S)

        settles(own)
        assert sum(verdict.broker_side(own).places_by_tag.values()) <= 1
        # On a busy machine its three tries may be over before the way is open again.
        assert states(own, "k")[-1] in {"FILLED", "REJECTED_LOCAL", "EXPIRED"}


def test_half_a_request_and_a_dead_daemon_are_no_order(own: World) -> None:
    with way_to_broker(own) as way:
        daemon = own.start(kite_rest_root=way.part.url, **PATIENT)
        assert daemon.opens(own.account), daemon.log()
        way.call(lambda: way.part.halve(b"POST /orders"))
        with door(own, daemon) as caller:
            caller.ask(place_frame("k", own.account, marketable(own)))
            assert eventually(way.part.halved.is_set)
            daemon.kill()

        next_one = own.start()
        assert next_one.opens(own.account), next_one.log()
        assert eventually(lambda: states(own, "k")[-1] == "NOT_PLACED"), states(own, "k")

    settles(own)
    assert verdict.broker_side(own).orders == {}
    assert len(own.attempts()) == 1


def test_a_broker_that_vanishes_without_a_word_leaves_doubt_and_then_the_truth(own: World) -> None:
    with way_to_broker(own) as way:
        daemon = own.start(kite_rest_root=way.part.url, order_deadline_s=LONG_S)
        assert daemon.opens(own.account), daemon.log()
        with door(own, daemon) as caller:
            way.call(way.part.freeze)

            caller.ask(place_frame("k", own.account, marketable(own)))

            # The sockets are open and nothing comes back: the wait has an end of its own.
            assert eventually(lambda: states(own, "k")[-1] == "UNKNOWN"), states(own, "k")
            assert caller.ask(place_frame("next", own.account, resting(own)))["op"] == "ack"
            way.call(way.part.thaw)
            assert eventually(lambda: states(own, "k")[-1] in {"FILLED", "NOT_PLACED"})

        settles(own)


@pytest.mark.parametrize(
    "updates", ["duplicate_updates", "shuffle_updates", "drop_updates", "late_updates"]
)
def test_updates_twice_in_any_order_late_or_never_lead_to_the_ledger_s_truth(
    updates: str, own: World
) -> None:
    daemon = own.start(order_deadline_s=LONG_S)
    assert daemon.opens(own.account), daemon.log()
    own.strike(updates, **({"delay_ms": 600_000} if updates == "late_updates" else {}))
    with door(own, daemon) as caller:
        # More than the quotes hold at one price: filled in parts, with updates of each.
        price = f"{own.quote()['last_price'] * 1.02:.0f}.00"
        caller.ask(place_frame("parts", own.account, limit_order("BUY", 2_000, price)))
        # And one whose fills are told before its answer is.
        own.strike("accept_then_timeout", method="place", count=1, answer_after_s=0.3)
        caller.ask(place_frame("before", own.account, marketable(own)))
        assert eventually(lambda: states(own, "before")[-1:] == ["FILLED"]), states(own, "before")

        settles(own)
        own.lane.lift_faults()  # what was kept back comes now, in any order, all at once
        caller.ask(place_frame("last", own.account, marketable(own)))
        assert eventually(lambda: states(own, "last")[-1:] == ["FILLED"]), states(own, "last")

    settles(own)
    assert verdict.events_are_whole(own, daemon) == []


BOOKS: Final = [
    ("truncated_book", {"keep": 0}, {}),
    ("truncated_book", {"keep": 1}, {}),
    ("null_tags", {}, {}),
    # An old book is told from a new one by nothing but time: this is what the wait is for.
    ("stale_book", {}, {"order_settle_after_s": 30.0}),
]


@pytest.mark.parametrize(("book", "fields", "settings"), BOOKS)
def test_an_order_that_lives_is_never_called_not_placed_whatever_the_book_lacks(
    book: str, fields: dict[str, Any], settings: dict[str, object], own: World
) -> None:
    daemon = own.start(order_deadline_s=LONG_S, **settings)
    assert daemon.opens(own.account), daemon.log()
    with door(own, daemon) as caller:
        for key in ("known", "known-too"):
            caller.ask(place_frame(key, own.account, resting(own)))
        assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
        own.strike("drop_updates")
        own.strike(book, **fields)
        own.strike("accept_then_5xx", method="place", count=1)

        caller.ask(place_frame("k", own.account, resting(own, 3)))

        assert eventually(lambda: "UNKNOWN" in states(own, "k")), states(own, "k")
        ended = eventually(lambda: states(own, "k")[-1] in ENDED, within_s=SEVERAL_PROOFS_S)
        assert not ended or states(own, "k")[-1] == "MANUAL", states(own, "k")
        own.lane.lift_faults()
        assert eventually(lambda: states(own, "k")[-1] == "WORKING"), states(own, "k")

    settles(own)


@contextlib.contextmanager
def way_to_broker(own: World) -> Iterator[Beside]:
    """Put a proxy before the broker's REST side, to be cut."""
    with Beside(lambda: CuttableProxy(own.lane.rest_root)) as way:
        yield way


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """Listen at a port of another host's; yields what whoever comes there says."""
    visits: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    with connection:
                        visits.append(connection.recv(65_536))

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], visits
        finally:
            over.set()
            thread.join()


def test_a_fill_that_overtakes_a_cancel_stands_and_the_cancel_says_so(own: World) -> None:
    daemon = own.start(order_deadline_s=LONG_S)
    assert daemon.opens(own.account), daemon.log()
    own.strike("slow_states", count=1, delay_ms=400)
    with door(own, daemon) as caller:
        caller.ask(place_frame("k", own.account, marketable(own)))
        assert eventually(lambda: states(own, "k")[-1:] == ["ACKED"]), states(own, "k")

        caller.ask(cancel_frame("k"))

        assert eventually(lambda: states(own, "k")[-1] == "FILLED"), states(own, "k")

    settles(own)
    assert "CANCELLED" not in states(own, "k")
    assert verdict.cancels_tell_the_truth(own) == []


def test_an_order_filled_after_it_was_cancelled_is_filled_with_an_alarm(own: World) -> None:
    daemon = own.start(order_deadline_s=LONG_S)
    assert daemon.opens(own.account), daemon.log()
    own.strike("fill_after_cancel", count=1, delay_ms=3_000)
    with door(own, daemon) as caller:
        caller.ask(place_frame("k", own.account, resting(own, 4)))
        assert eventually(lambda: states(own, "k")[-1] == "WORKING"), states(own, "k")
        caller.ask(cancel_frame("k"))
        assert eventually(lambda: "CANCELLED" in states(own, "k")), states(own, "k")

        assert eventually(lambda: states(own, "k")[-1] == "FILLED"), states(own, "k")

    settles(own)
    assert "late_fact_wins" in daemon.log()
    assert [task["filled_quantity"] for task in own.tasks() if task["kind"] == "PLACE"] == [4]
