"""The journal's database is gone for twenty seconds while orders stream in, and comes back.

Callers repeat their keys until they are acknowledged, as docs/orders.md tells them to. Nothing may
be acknowledged that the journal does not have afterwards, nothing may reach the broker without its
intent, every answer is a yes or a no that may be asked again, and the daemon mends itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import crash_verdict as verdict
import pytest
from crash_parts import Door, door, limit_order, place_frame, world
from running import eventually
from stoppable_postgres import stoppable_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crash_parts import Daemon, Lane, Servers, World
    from stoppable_postgres import StoppablePostgres

OUTAGE_S: Final = 20.0
RECOVERY_S: Final = 60.0
CALLERS: Final = 4
PAUSE_S: Final = 0.3
"""Four callers that pause so long stay below the twenty requests a second of one principal."""
ENOUGH: Final = 3
"""Orders of each caller before the outage, and again after it."""
AGAIN: Final = frozenset({"JOURNAL_UNAVAILABLE", "ACCOUNT_NOT_OPEN", "TOO_MANY_REQUESTS"})
"""What a caller may hear instead of a yes: the same key may be sent again."""


@contextlib.contextmanager
def stopped(postgres: StoppablePostgres) -> Iterator[None]:
    """The database ends in mid-work and is started again after the block."""
    postgres.stop_at_once()
    try:
        yield
    finally:
        postgres.start()


@contextlib.contextmanager
def frozen(postgres: StoppablePostgres) -> Iterator[None]:
    """The database takes connections and answers nothing, then goes on where it was."""
    with postgres.frozen():
        yield


class Stream:
    """Callers who place one order after the other, each on a socket of its own."""

    def __init__(self, own: World, daemon: Daemon, price: str) -> None:
        self._own = own
        self._daemon = daemon
        self._order = limit_order("BUY", 1, price)
        self._over = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.refusals: Counter[str] = Counter()
        self.faults: list[str] = []
        self.counts: Counter[int] = Counter()

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        """Let the callers come for the length of the block."""
        with ThreadPoolExecutor(CALLERS) as pool:
            calling = [pool.submit(self._call, number) for number in range(CALLERS)]
            try:
                yield
            finally:
                self._over.set()
        for each in calling:
            each.result()

    def each_has(self, more: int, than: Counter[int]) -> bool:
        """Return whether every caller was acknowledged so many orders more."""
        return all(self.counts[n] >= than[n] + more for n in range(CALLERS))

    def _call(self, caller: int) -> None:
        with door(self._own, self._daemon) as calls:
            number = 0
            while not self._over.wait(PAUSE_S):
                number += self._place(calls, caller, f"c{caller}-{number}")

    def _place(self, calls: Door, caller: int, key: str) -> bool:
        """Send a key once; True when it was acknowledged."""
        answer = calls.ask(place_frame(key, self._own.account, self._order))
        if answer["op"] == "ack":
            self.acknowledged[key] = answer["task_id"]
            self.counts[caller] += 1
            return True
        self.refusals[answer["code"]] += 1
        if answer["code"] not in AGAIN:
            self.faults.append(f"{key}: {answer}")
        return False


@pytest.mark.slow
@pytest.mark.parametrize("outage", [stopped, frozen], ids=["stopped at once", "standing still"])
def test_twenty_seconds_without_the_database_lose_double_and_invent_nothing(
    shared: Servers, one_lane: Lane, outage: object
) -> None:
    with (
        stoppable_postgres() as postgres,
        world(shared, one_lane, database_url=postgres.url, is_durable=True) as own,
    ):
        daemon = own.start(order_deadline_s=120)
        assert daemon.opens(own.account), daemon.log()
        stream = Stream(own, daemon, f"{own.quote()['last_price'] * 1.05:.0f}.00")

        with stream.flowing():
            assert eventually(lambda: stream.each_has(ENOUGH, Counter()))
            with outage(postgres):  # type: ignore[operator]
                threading.Event().wait(OUTAGE_S)  # the length of the outage is what is tested
                posted = set(verdict.broker_side(own).places_by_tag)
            intended = {each["tag"] for each in own.attempts()}
            before = Counter(stream.counts)
            recovers = eventually(lambda: stream.each_has(ENOUGH, before), within_s=RECOVERY_S)

        assert stream.faults == []
        assert stream.refusals["JOURNAL_UNAVAILABLE"] >= CALLERS, stream.refusals
        assert posted <= intended
        assert recovers, daemon.log()[-3000:]
        assert daemon.is_running()
        assert eventually(lambda: not verdict.unsettled(own), within_s=RECOVERY_S)
        assert verdict.nothing_lost(own, stream.acknowledged) == []
        assert verdict.never_twice(own) == []
        assert verdict.events_are_whole(own, daemon) == []
        # All that was acknowledged was carried out, too: the outage was shorter than the deadline.
        assert {task["state"] for task in own.tasks()} == {"FILLED"}
