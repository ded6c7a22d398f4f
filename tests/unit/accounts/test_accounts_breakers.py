"""A restart finds an account's breakers as they were, and never for ever; virtual time."""

from __future__ import annotations

import asyncio

import pytest
from virtual_time import LoopClock, run

from ticker_service.accounts.breaker import Breaker, BreakerChange, BreakerRules
from ticker_service.accounts.breakers import Breakers
from ticker_service.domain.breaker import BreakerName, BreakerState
from ticker_service.domain.order import Account
from ticker_service.errors import JournalUnavailable
from ticker_service.testing import MemoryJournal

MAIN = Account("MAIN")
RULES = dict.fromkeys(BreakerName, BreakerRules(failures_max=1, open_s=10.0))


def breakers_at(clock: LoopClock, told: list[BreakerChange] | None = None) -> Breakers:
    heard = [] if told is None else told
    return Breakers(
        MAIN, clock=clock, rules=RULES, on_change=lambda _, change: heard.append(change)
    )


def trip(breaker: Breaker) -> None:
    permit = breaker.admit()
    assert permit is not None
    permit.failed()
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize("name", list(BreakerName))
def test_a_restart_keeps_an_open_breaker_open_for_what_is_left_of_its_time(
    name: BreakerName,
) -> None:
    async def main() -> None:
        clock, journal = LoopClock(), MemoryJournal()
        earlier = breakers_at(clock)
        trip(getattr(earlier, name))
        await earlier.settle(journal)
        await asyncio.sleep(4.0)
        later = breakers_at(clock)
        await later.restore(journal)
        breaker: Breaker = getattr(later, name)
        assert breaker.admit() is None
        assert breaker.retry_in_s == pytest.approx(6.0)
        others = {each for each in BreakerName if each is not name}
        assert all(getattr(later, each).state is BreakerState.CLOSED for each in others)
        await asyncio.sleep(6.0)
        probe = breaker.admit()
        assert probe is not None
        assert breaker.admit() is None
        probe.succeeded()
        assert breaker.state is BreakerState.CLOSED

    run(main())


def test_one_that_was_open_long_ago_lets_its_probe_through_at_once_and_only_one() -> None:
    async def main() -> None:
        clock, journal = LoopClock(), MemoryJournal()
        earlier = breakers_at(clock)
        trip(earlier.orders)
        await earlier.settle(journal)
        await asyncio.sleep(3_600.0)
        later = breakers_at(clock)
        await later.restore(journal)
        assert later.orders.admit() is not None
        assert later.orders.admit() is None

    run(main())


def test_one_that_was_trying_tries_again_with_one_probe() -> None:
    async def main() -> None:
        clock, journal = LoopClock(), MemoryJournal()
        earlier = breakers_at(clock)
        trip(earlier.orders)
        await asyncio.sleep(10.0)
        assert earlier.orders.admit() is not None
        await earlier.settle(journal)
        later = breakers_at(clock)
        await later.restore(journal)
        await asyncio.sleep(10.0)
        assert later.orders.admit() is not None
        assert later.orders.admit() is None

    run(main())


def test_a_daemon_that_restarts_every_few_seconds_still_comes_to_its_probe() -> None:
    async def main() -> bool:
        clock, journal = LoopClock(), MemoryJournal()
        earlier = breakers_at(clock)
        trip(earlier.orders)
        await earlier.settle(journal)
        for _ in range(3):
            await asyncio.sleep(3.0)
            again = breakers_at(clock)
            await again.restore(journal)
            assert again.orders.admit() is None
            await again.settle(journal)
        await asyncio.sleep(1.0)
        last = breakers_at(clock)
        await last.restore(journal)
        return last.orders.admit() is not None

    assert run(main())


def test_one_that_closed_again_is_restored_closed() -> None:
    async def main() -> BreakerState:
        clock, journal = LoopClock(), MemoryJournal()
        earlier = breakers_at(clock)
        trip(earlier.reads)
        await asyncio.sleep(10.0)
        probe = earlier.reads.admit()
        assert probe is not None
        probe.succeeded()
        await earlier.settle(journal)
        later = breakers_at(clock)
        await later.restore(journal)
        return later.reads.state

    assert run(main()) is BreakerState.CLOSED


def test_a_transition_that_the_journal_did_not_take_is_kept_for_the_next_try() -> None:
    async def main() -> None:
        clock, journal = LoopClock(), MemoryJournal()
        breakers = breakers_at(clock)
        trip(breakers.orders)
        journal.is_down = True
        with pytest.raises(JournalUnavailable):
            await breakers.settle(journal)
        assert breakers.has_news
        journal.is_down = False
        await breakers.settle(journal)
        assert not breakers.has_news
        (kept,) = await journal.breakers(MAIN)
        assert kept.state is BreakerState.OPEN

    run(main())


def test_being_restored_is_told_as_what_it_is() -> None:
    async def main() -> list[tuple[BreakerState, bool]]:
        clock, journal = LoopClock(), MemoryJournal()
        earlier = breakers_at(clock)
        trip(earlier.feed)
        await earlier.settle(journal)
        told: list[BreakerChange] = []
        later = breakers_at(clock, told)
        await later.restore(journal)
        await later.restore(journal)  # as when the account was lost and taken back
        return [(change.after, change.is_resumed) for change in told]

    assert run(main()) == [(BreakerState.OPEN, True)]
