"""Whatever held sends up before, what leaves keeps the broker's rate (I10)."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from ticker_service.accounts.limits import Departures, PaceRules
from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.order import TaskKind

SMALL = PaceRules(
    place_per_s=3, total_per_s=4, place_per_minute=14, total_per_minute=16, jitter_ms=50
)
FOREVER_NS = 1 << 62


class StepClock:
    """A clock that goes on by a step whenever it is read: waiting costs no time."""

    def __init__(self, step_ns: int) -> None:
        self.at_ns = 0
        self._step_ns = step_ns
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        return self.monotonic_ns()

    def monotonic_ns(self) -> int:
        with self._lock:
            self.at_ns += self._step_ns
            return self.at_ns


class Fixed:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    def monotonic_ns(self) -> int:
        return self.at_ns


@given(
    asks=st.lists(
        st.tuples(
            st.integers(0, 700 * NS_PER_MS), st.sampled_from([TaskKind.PLACE, TaskKind.CANCEL])
        ),
        max_size=120,
    )
)
def test_no_second_and_no_minute_of_any_phase_has_more_than_its_number(
    asks: list[tuple[int, TaskKind]],
) -> None:
    clock = Fixed()
    gate = Departures(SMALL, clock)
    left: list[tuple[TaskKind, int]] = []
    for gap_ns, kind in asks:
        clock.at_ns += gap_ns
        if gate.turn(kind, leave_by_ns=clock.at_ns):
            left.append((kind, clock.at_ns))
    everything = [at_ns for _, at_ns in left]
    places = [at_ns for kind, at_ns in left if kind is TaskKind.PLACE]
    for sent_ns, per_s, per_minute in ((places, 3, 14), (everything, 4, 16)):
        for count, length_ns in ((per_s, NS_PER_S), (per_minute, 60 * NS_PER_S)):
            for first, later in zip(sent_ns, sent_ns[count:], strict=False):
                assert later - first > length_ns


def test_sends_that_were_held_up_together_do_not_leave_together() -> None:
    """As after a database that stood still: eight threads, and each waits for its own turn."""
    clock = StepClock(20 * NS_PER_MS)
    gate = Departures(SMALL, clock)
    left_ns: list[int] = []

    def send() -> None:
        assert gate.turn(TaskKind.PLACE, leave_by_ns=FOREVER_NS)
        left_ns.append(clock.at_ns)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left_ns.sort()
    for first, later in zip(left_ns, left_ns[3:], strict=False):
        # The instant is read again after the turn was taken, by one step of each thread at most.
        assert later - first > NS_PER_S - 8 * 20 * NS_PER_MS


def test_a_cancel_has_its_room_beside_the_orders_that_wait() -> None:
    clock = Fixed()
    gate = Departures(SMALL, clock)
    taken = [gate.turn(TaskKind.PLACE, leave_by_ns=0) for _ in range(5)]
    assert taken == [True] * 3 + [False] * 2
    assert gate.turn(TaskKind.CANCEL, leave_by_ns=0)


def test_what_left_before_a_restart_is_counted() -> None:
    clock = Fixed()
    clock.at_ns = 10 * NS_PER_S
    gate = Departures(SMALL, clock)
    for _ in range(3):
        gate.remember("place", clock.at_ns - NS_PER_S // 2)
    assert not gate.turn(TaskKind.PLACE, leave_by_ns=clock.at_ns)
    clock.at_ns += NS_PER_S
    assert gate.turn(TaskKind.PLACE, leave_by_ns=clock.at_ns)


def test_who_is_stopped_while_waiting_for_a_turn_stays_here_and_a_cancel_does_not() -> None:
    clock = StepClock(20 * NS_PER_MS)
    gate = Departures(SMALL, clock)
    for _ in range(3):
        assert gate.turn(TaskKind.PLACE, leave_by_ns=FOREVER_NS)
    thrown_ns = clock.at_ns + NS_PER_S // 2
    for kind in (TaskKind.PLACE, TaskKind.MODIFY):
        assert not gate.turn(
            kind, leave_by_ns=FOREVER_NS, may_leave=lambda: clock.at_ns < thrown_ns
        )
    assert clock.at_ns < 2 * thrown_ns
    assert gate.turn(TaskKind.CANCEL, leave_by_ns=FOREVER_NS)
