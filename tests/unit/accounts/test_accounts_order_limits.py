"""What an account may send holds over restarts, days and other apps (I10); virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import LoopClock, run

from ticker_service.accounts.limits import Lane, OrderLimits
from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.limit import LIMITS, LimitName, LimitScope, limits_of
from ticker_service.domain.order import Account, TaskKind
from ticker_service.errors import ConfigurationError
from ticker_service.ports import PastSend
from ticker_service.runtime.clock import ManualClock
from ticker_service.testing import MemoryJournal

MAIN = Account("MAIN")
NOON_NS = 1_795_242_600 * NS_PER_S
"""2026-11-21 12:00 IST."""
DAY_S = 86_400
FOREVER_NS = 1 << 62


class SentBefore(MemoryJournal):
    """A journal that tells of earlier sends."""

    def __init__(self, sends: list[PastSend], *, placed: int = 0) -> None:
        super().__init__()
        self.sends = sends
        self.placed = placed

    async def sends_since(self, _: Account, since_ns: int) -> list[PastSend]:
        return sorted(
            (sent for sent in self.sends if sent.at_ns >= since_ns), key=lambda sent: sent.at_ns
        )

    async def placed_since(self, *_: Any) -> int:
        return self.placed


def test_the_table_has_the_brokers_numbers_with_their_scopes() -> None:
    told = {row.name: (row.scope, row.window_s, row.at_most) for row in LIMITS}
    assert told == {
        LimitName.ORDERS_PER_SECOND: (LimitScope.ACCOUNT, 1.0, 10),
        LimitName.ORDERS_PER_MINUTE: (LimitScope.ACCOUNT, 60.0, 400),
        LimitName.ORDERS_PER_DAY: (LimitScope.ACCOUNT, None, 5_000),
        LimitName.MODIFICATIONS_PER_ORDER: (LimitScope.ORDER, None, 25),
        LimitName.QUOTES_PER_SECOND: (LimitScope.API_KEY, 1.0, 1),
        LimitName.HISTORICAL_PER_SECOND: (LimitScope.API_KEY, 1.0, 3),
        LimitName.READS_PER_SECOND: (LimitScope.API_KEY, 1.0, 10),
    }


def test_a_change_of_a_row_leaves_the_others_and_never_leaves_one_without_room() -> None:
    rows = limits_of({"orders_per_minute": 100, "orders_per_minute_reserve": 30})
    assert rows[LimitName.ORDERS_PER_MINUTE].open == 70
    assert rows[LimitName.ORDERS_PER_SECOND].open == 8
    assert limits_of({"orders_per_day": 10})[LimitName.ORDERS_PER_DAY].open == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"orders_per_hour": 3}, "orders_per_hour: is no limit"),
        ({"orders_per_day": 0}, "orders_per_day=0: must be 1"),
        ({"orders_per_day_reserve": 5_000}, "orders_per_day_reserve=5000: must be 0 or more"),
        ({"orders_per_minute_reserve": -1}, "orders_per_minute_reserve=-1"),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_name(change: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        limits_of(change)


@given(
    before_ms=st.lists(st.integers(0, 3_000), max_size=30),
    lanes=st.lists(st.sampled_from(["place", "cancel"]), min_size=1, max_size=40),
    pause_ms=st.integers(0, 400),
)
def test_a_restart_at_any_moment_leaves_no_second_and_no_minute_too_full(
    before_ms: list[int], lanes: list[Lane], pause_ms: int
) -> None:
    """What an earlier run sent in its own rate counts with what this one sends."""
    rows = limits_of({"orders_per_second": 3, "orders_per_minute": 20})

    async def main() -> list[int]:
        clock = LoopClock(NOON_NS)
        earlier = OrderLimits(MAIN, clock, rows)
        sends: list[PastSend] = []
        for gap_ms in before_ms:
            await asyncio.sleep(gap_ms / 1_000)
            if earlier.pacer.try_admit("place"):
                sends.append(PastSend(kind=TaskKind.PLACE, at_ns=clock.now_ns()))
        await asyncio.sleep(pause_ms / 1_000)
        limits = OrderLimits(MAIN, clock, rows)
        await limits.restore(SentBefore(sends))
        sent_ns = [sent.at_ns for sent in sends]
        for lane in lanes:
            assert await limits.pacer.admit(lane, deadline_ns=FOREVER_NS)
            sent_ns.append(clock.now_ns())
        return sent_ns

    sent_ns = run(main())
    for at_most, length_s in ((3, 1), (20, 60)):
        for first, later in zip(sent_ns, sent_ns[at_most:], strict=False):
            assert later - first > length_s * NS_PER_S


def test_a_clock_that_was_set_back_makes_no_send_of_the_future_free() -> None:
    async def main() -> bool:
        clock = LoopClock(NOON_NS)
        limits = OrderLimits(MAIN, clock, limits_of({"orders_per_second": 2}))
        ahead = PastSend(kind=TaskKind.PLACE, at_ns=NOON_NS + 3_600 * NS_PER_S)
        await limits.restore(SentBefore([ahead]))
        return limits.pacer.try_admit("place")

    assert run(main()) is False


def test_the_days_orders_are_counted_from_the_journal_and_its_reserve_is_not_used() -> None:
    async def main() -> None:
        clock = LoopClock(NOON_NS)
        rows = limits_of({"orders_per_day": 10, "orders_per_day_reserve": 4})
        limits = OrderLimits(MAIN, clock, rows)
        await limits.restore(SentBefore([], placed=4))
        taken = [limits.take_order_of_day() for _ in range(4)]
        assert [each is not None for each in taken] == [True, True, False, False]
        refused = limits.day_refusal()
        assert refused is not None
        assert refused.code == "ORDER_LIMIT"
        for word in ("orders_per_day=10", "account MAIN", "6 placed", "4 are kept", "midnight IST"):
            assert word in refused.rule
        assert taken[0] is not None
        taken[0]()  # it had not left after all
        assert limits.day_refusal() is None

    run(main())


def test_orders_of_other_apps_use_up_the_day_as_well() -> None:
    limits = OrderLimits(MAIN, ManualClock(NOON_NS), limits_of({"orders_per_day": 300}))
    limits.placed_elsewhere = lambda: 50
    assert limits.day_refusal() is not None


@given(steps=st.lists(st.integers(-2 * DAY_S, 2 * DAY_S), max_size=40))
def test_whichever_way_the_wall_clock_is_set_a_day_has_no_more_than_its_orders(
    steps: list[int],
) -> None:
    """Set back over midnight at most once between two orders, the day before keeps its count."""
    clock = LoopClock(NOON_NS)
    rows = limits_of({"orders_per_day": 4, "orders_per_day_reserve": 1})

    async def main() -> None:
        limits = OrderLimits(MAIN, clock, rows)
        for _ in steps:
            limits.take_order_of_day()
            assert limits.placed_today <= 3
        clock.set_by(DAY_S)
        assert limits.take_order_of_day() is not None
        clock.set_by(-DAY_S)
        assert (limits.take_order_of_day() is None) is (len(steps) >= 3)

    run(main())


def test_what_this_process_sent_is_not_counted_twice_when_it_takes_the_account_again() -> None:
    """As after a moment without the database: cancels must not wait a minute for it."""
    clock = ManualClock(now_ns=NOON_NS)
    limits = OrderLimits(MAIN, clock)
    sends = []
    for _ in range(300):
        clock.advance(150 * NS_PER_MS)
        assert limits.pacer.try_admit("place")
        sends.append(PastSend(kind=TaskKind.PLACE, at_ns=clock.now_ns()))
        assert limits.departures.turn(TaskKind.PLACE, leave_by_ns=clock.monotonic_ns())
    # Another daemon had the account for a moment, and what it sent counts.
    for _ in range(8):
        clock.advance(150 * NS_PER_MS)
        sends.append(PastSend(kind=TaskKind.PLACE, at_ns=clock.now_ns()))
    asyncio.run(limits.restore(SentBefore(sends)))
    clock.advance(2 * NS_PER_S)
    admitted = [limits.pacer.try_admit("cancel") for _ in range(10)]
    leave_by_ns = clock.monotonic_ns()
    left = [limits.departures.turn(TaskKind.CANCEL, leave_by_ns=leave_by_ns) for _ in range(10)]
    assert admitted == left == [True] * 10
    places = 0
    while limits.pacer.try_admit("place"):
        places += 1
        clock.advance(200 * NS_PER_MS)
    assert places <= 360 - 308
