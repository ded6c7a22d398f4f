"""Readings keep the rates of their app and leave a broker alone that is down; virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import LoopClock, run

from ticker_service.accounts.breaker import Breaker, BreakerOpen, BreakerRules
from ticker_service.accounts.reads import THROTTLED_S, WAIT_S_MAX, PacedReads, ReadPace
from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerState
from ticker_service.domain.limit import LimitName, limits_of
from ticker_service.errors import BrokerThrottled, BrokerUnavailable

READS = LimitName.READS_PER_SECOND
PER_APP = (LimitName.QUOTES_PER_SECOND, LimitName.HISTORICAL_PER_SECOND, READS)


def reads_of(pace: ReadPace, clock: LoopClock) -> PacedReads:
    rules = BreakerRules(failures_max=2, open_s=5.0)
    return PacedReads(pace, Breaker("reads", rules=rules, clock=clock))


async def well() -> str:
    return "read"


async def down() -> str:
    raise BrokerUnavailable("told to be down")


async def too_often() -> str:
    raise BrokerThrottled("told to say 429")


@pytest.mark.parametrize("name", PER_APP)
@given(gaps_ms=st.lists(st.integers(0, 900), min_size=1, max_size=50))
def test_two_accounts_of_one_app_never_exceed_its_rate_together(
    name: LimitName, gaps_ms: list[int]
) -> None:
    at_most = limits_of()[name].at_most
    asked_ns: list[int] = []

    async def main() -> None:
        clock = LoopClock()
        pace = ReadPace(limits_of(), clock)
        accounts = [reads_of(pace, clock), reads_of(pace, clock)]

        async def note() -> None:
            asked_ns.append(clock.monotonic_ns())

        async def ask(account: PacedReads) -> None:
            try:
                await account.read(name, note)
            except BrokerUnavailable:
                return  # there was no turn in time

        async with asyncio.TaskGroup() as tasks:
            for number, gap_ms in enumerate(gaps_ms):
                await asyncio.sleep(gap_ms / 1_000)
                tasks.create_task(ask(accounts[number % 2]))

    run(main())
    assert asked_ns
    for first, later in zip(asked_ns, asked_ns[at_most:], strict=False):
        assert later - first > NS_PER_S


def test_each_limit_has_turns_of_its_own() -> None:
    async def main() -> int:
        clock = LoopClock()
        reads = reads_of(ReadPace(limits_of(), clock), clock)
        for name in PER_APP:
            assert await reads.read(name, well) == "read"
        return clock.monotonic_ns()

    assert run(main()) == 0


def test_who_would_wait_too_long_is_told_which_limit_and_when() -> None:
    async def main() -> None:
        clock = LoopClock()
        reads = reads_of(ReadPace(limits_of({"reads_per_second": 1}), clock), clock)
        told: list[str] = []

        async def ask() -> None:
            try:
                await reads.read(READS, well)
            except BrokerUnavailable as error:
                told.append(str(error))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(int(WAIT_S_MAX) + 3):
                tasks.create_task(ask())
        assert told
        assert "reads_per_second=1" in told[0]
        assert "room in 10." in told[0]

    run(main())


def test_after_a_429_nothing_is_read_for_a_while_and_the_breaker_stays_closed() -> None:
    async def main() -> float:
        clock = LoopClock()
        reads = reads_of(ReadPace(limits_of(), clock), clock)
        for _ in range(3):
            with pytest.raises(BrokerThrottled):
                await reads.read(READS, too_often)
        assert await reads.read(READS, well) == "read"
        return clock.monotonic_ns() / NS_PER_S

    assert run(main()) == 3 * THROTTLED_S


def test_a_broker_that_fails_is_left_alone_and_then_tried_once() -> None:
    async def main() -> None:
        clock = LoopClock()
        pace = ReadPace(limits_of(), clock)
        breaker = Breaker("reads", rules=BreakerRules(failures_max=2, open_s=5.0), clock=clock)
        reads = PacedReads(pace, breaker)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await reads.read(READS, down)
        with pytest.raises(BreakerOpen):
            await reads.read(READS, well)
        await asyncio.sleep(5.0)
        assert await reads.read(READS, well) == "read"
        assert breaker.state is BreakerState.CLOSED

    run(main())
