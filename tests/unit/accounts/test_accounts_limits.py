from __future__ import annotations

import asyncio
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import LoopClock, run

from ticker_service.accounts.limits import Lane, Pacer, PaceRules
from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import ManualClock

RULES = PaceRules()
SMALL = PaceRules(
    place_per_s=2, total_per_s=3, place_per_minute=10, total_per_minute=12, jitter_ms=50
)
FOREVER_NS = 1 << 62


def busiest(sent_ns: list[int], length_ns: int) -> int:
    """The most sends in any half-open stretch of a length."""
    return max(
        (
            bisect_right(sent_ns, start + length_ns - 1) - index
            for index, start in enumerate(sent_ns)
        ),
        default=0,
    )


def assert_within(rules: PaceRules, sent: list[tuple[Lane, int]]) -> None:
    places = [at for lane, at in sent if lane == "place"]
    everything = [at for _, at in sent]
    assert busiest(places, NS_PER_S + rules.jitter_ms * NS_PER_MS) <= rules.place_per_s
    assert busiest(places, 60 * NS_PER_S) <= rules.place_per_minute
    assert busiest(everything, NS_PER_S + rules.jitter_ms * NS_PER_MS) <= rules.total_per_s
    assert busiest(everything, 60 * NS_PER_S) <= rules.total_per_minute
    by_calendar_second: dict[int, int] = {}
    for at in everything:
        by_calendar_second[at // NS_PER_S] = by_calendar_second.get(at // NS_PER_S, 0) + 1
    assert max(by_calendar_second.values(), default=0) <= rules.total_per_s


@given(
    asks=st.lists(
        st.tuples(st.integers(0, 700 * NS_PER_MS), st.sampled_from(["place", "cancel"])),
        max_size=120,
    )
)
def test_no_window_of_any_phase_ever_exceeds_its_bound(asks: list[tuple[int, Lane]]) -> None:
    clock = ManualClock(0)
    pacer = Pacer(SMALL, clock)
    sent: list[tuple[Lane, int]] = []
    for gap_ns, lane in asks:
        clock.advance(gap_ns)
        if pacer.try_admit(lane):
            sent.append((lane, clock.monotonic_ns()))
    assert_within(SMALL, sent)


@given(lanes=st.lists(st.sampled_from(["place", "cancel"]), max_size=60), seed=st.integers(0, 99))
def test_waiters_are_served_within_every_window_and_first_come_first_served(
    lanes: list[Lane], seed: int
) -> None:
    sent: list[tuple[Lane, int]] = []
    order: dict[Lane, list[int]] = {"place": [], "cancel": []}

    async def ask(pacer: Pacer, clock: LoopClock, number: int, lane: Lane) -> None:
        await asyncio.sleep(number * seed / 1_000)
        assert await pacer.admit(lane, deadline_ns=FOREVER_NS)
        sent.append((lane, clock.monotonic_ns()))
        order[lane].append(number)

    async def main() -> None:
        clock = LoopClock()
        pacer = Pacer(SMALL, clock)
        async with asyncio.TaskGroup() as group:
            for number, lane in enumerate(lanes):
                group.create_task(ask(pacer, clock, number, lane))

    run(main())
    assert len(sent) == len(lanes)
    assert_within(SMALL, sent)
    assert order["place"] == sorted(order["place"])
    assert order["cancel"] == sorted(order["cancel"])


@given(
    asks=st.lists(
        st.tuples(
            st.integers(0, 3_000),
            st.sampled_from(["place", "cancel"]),
            st.integers(0, 5_000),
            st.none() | st.integers(0, 3_000),
        ),
        max_size=30,
    )
)
def test_whoever_gives_up_or_is_cancelled_leaves_no_trace(
    asks: list[tuple[int, Lane, int, int | None]],
) -> None:
    """Each asks after so many ms, waits so many at most, and is perhaps cancelled after so many."""
    sent: list[tuple[Lane, int]] = []

    async def ask(pacer: Pacer, clock: LoopClock, lane: Lane, patience_ms: int) -> None:
        deadline_ns = clock.monotonic_ns() + patience_ms * NS_PER_MS
        if await pacer.admit(lane, deadline_ns=deadline_ns):
            sent.append((lane, clock.monotonic_ns()))
        assert clock.monotonic_ns() <= deadline_ns + NS_PER_MS

    async def one(pacer: Pacer, clock: LoopClock, plan: tuple[int, Lane, int, int | None]) -> None:
        after_ms, lane, patience_ms, cancelled_ms = plan
        await asyncio.sleep(after_ms / 1_000)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ask(pacer, clock, lane, patience_ms))
            if cancelled_ms is not None:
                await asyncio.sleep(cancelled_ms / 1_000)
                task.cancel()

    async def main() -> tuple[int, int, bool]:
        clock = LoopClock()
        pacer = Pacer(SMALL, clock)
        async with asyncio.TaskGroup() as group:
            for plan in asks:
                group.create_task(one(pacer, clock, plan))
        await asyncio.sleep(120)
        return pacer.waiting("place"), pacer.waiting("cancel"), pacer.try_admit("place")

    assert run(main()) == (0, 0, True)
    assert_within(SMALL, sorted(sent, key=lambda send: send[1]))


def test_the_default_lets_eight_places_through_and_two_cancels_beside_them() -> None:
    pacer = Pacer(RULES, ManualClock(0))
    assert [pacer.try_admit("place") for _ in range(20)].count(True) == 8
    assert [pacer.try_admit("cancel") for _ in range(20)].count(True) == 2


def test_a_cancel_finds_room_however_many_places_wait() -> None:
    async def main() -> float:
        clock = LoopClock()
        pacer = Pacer(RULES, clock)
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(pacer.admit("place", deadline_ns=FOREVER_NS))
            await asyncio.sleep(3.3)
            asked_ns = clock.monotonic_ns()
            assert await pacer.admit("cancel", deadline_ns=FOREVER_NS)
            return (clock.monotonic_ns() - asked_ns) / NS_PER_S

    assert run(main()) == 0.0


def test_a_minute_of_places_leaves_the_minutes_last_sends_to_cancels() -> None:
    clock = ManualClock(0)
    pacer = Pacer(RULES, clock)
    placed = 0
    for _ in range(57):
        placed += [pacer.try_admit("place") for _ in range(8)].count(True)
        clock.advance(1_050 * NS_PER_MS + 1)
    assert placed == 360
    assert pacer.try_admit("cancel")


def test_the_ninth_place_goes_out_as_soon_as_the_first_has_left_the_window() -> None:
    async def main() -> int:
        clock = LoopClock()
        pacer = Pacer(RULES, clock)
        for _ in range(8):
            assert pacer.try_admit("place")
        assert await pacer.admit("place", deadline_ns=FOREVER_NS)
        return clock.monotonic_ns()

    assert 0 < run(main()) - 1_050 * NS_PER_MS <= NS_PER_MS


def test_a_deadline_before_the_next_room_is_answered_at_once() -> None:
    async def main() -> tuple[bool, int]:
        clock = LoopClock()
        pacer = Pacer(RULES, clock)
        for _ in range(8):
            pacer.try_admit("place")
        return await pacer.admit("place", deadline_ns=NS_PER_S // 2), clock.monotonic_ns()

    assert run(main()) == (False, 0)


def test_a_deadline_behind_others_is_answered_when_it_passes() -> None:
    async def main() -> tuple[list[bool], int]:
        clock = LoopClock()
        pacer = Pacer(SMALL, clock)
        async with asyncio.TaskGroup() as group:
            patient = [
                group.create_task(pacer.admit("place", deadline_ns=FOREVER_NS)) for _ in range(7)
            ]
            await asyncio.sleep(0)
            hasty = await pacer.admit("place", deadline_ns=3 * NS_PER_S // 2)
            gave_up_ns = clock.monotonic_ns()
        return [hasty, *(task.result() for task in patient)], gave_up_ns

    answers, gave_up_ns = run(main())
    assert answers == [False] + [True] * 7
    assert gave_up_ns == 3 * NS_PER_S // 2


def test_a_deadline_in_the_past_is_refused_even_with_room() -> None:
    async def main() -> bool:
        return await Pacer(RULES, LoopClock(0)).admit("place", deadline_ns=0)

    assert run(main()) is False


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_a_cancelled_waiter_takes_no_place_and_wakes_the_next(cancelled: int) -> None:
    async def main() -> tuple[list[int], int]:
        clock = LoopClock()
        pacer = Pacer(SMALL, clock)
        for _ in range(2):
            pacer.try_admit("place")
        served: list[int] = []

        async def ask(number: int) -> None:
            assert await pacer.admit("place", deadline_ns=FOREVER_NS)
            served.append(number)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(number)) for number in range(3)]
            await asyncio.sleep(0.5)
            tasks[cancelled].cancel()
        return served, clock.monotonic_ns()

    served, ended_ns = run(main())
    assert served == [number for number in range(3) if number != cancelled]
    assert 0 < ended_ns - 1_050 * NS_PER_MS <= NS_PER_MS


def test_an_exit_takes_the_next_turn_however_many_places_wait() -> None:
    sent: list[tuple[Lane, int]] = []

    async def ask(pacer: Pacer, clock: LoopClock, lane: Lane) -> None:
        assert await pacer.admit(lane, deadline_ns=FOREVER_NS)
        sent.append((lane, clock.monotonic_ns()))

    async def main() -> None:
        clock = LoopClock()
        pacer = Pacer(PaceRules(), clock)
        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(ask(pacer, clock, "place"))
            await asyncio.sleep(0.1)
            group.create_task(ask(pacer, clock, "exit"))

    run(main())
    assert [lane for lane, _ in sent].index("exit") == 8
    assert_within(PaceRules(), [("place", sent_ns) for _, sent_ns in sent])


def test_nobody_overtakes_those_who_wait() -> None:
    async def main() -> bool:
        pacer = Pacer(SMALL, LoopClock())
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(pacer.admit("place", deadline_ns=FOREVER_NS))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert pacer.waiting("place") == 1
            return pacer.try_admit("place")

    assert run(main()) is False


def test_more_than_the_queue_holds_are_refused_at_once() -> None:
    rules = PaceRules(waiting_max=2)

    async def main() -> list[bool]:
        pacer = Pacer(rules, LoopClock())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(pacer.admit("place", deadline_ns=FOREVER_NS)) for _ in range(12)
            ]
        assert pacer.refused_count == 2
        return [task.result() for task in tasks]

    assert run(main()) == [True] * 10 + [False] * 2


def test_a_refusal_for_rate_holds_both_lanes_back() -> None:
    clock = ManualClock(0)
    pacer = Pacer(RULES, clock)
    pacer.cool_down()
    clock.advance(10 * NS_PER_S - 1)
    assert not pacer.try_admit("place")
    assert not pacer.try_admit("cancel")
    clock.advance(1)
    assert pacer.try_admit("place")
    assert pacer.try_admit("cancel")


@pytest.mark.parametrize(
    "numbers",
    [
        {"place_per_s": 10},
        {"place_per_s": 0},
        {"place_per_minute": 400},
        {"total_per_minute": 0},
        {"jitter_ms": -1},
        {"waiting_max": 0},
    ],
)
def test_rules_without_room_for_cancels_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        PaceRules(**numbers)
