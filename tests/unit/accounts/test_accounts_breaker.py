from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ticker_service.accounts.breaker import (
    Breaker,
    BreakerChange,
    BreakerOpen,
    BreakerRules,
    Health,
)
from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerState
from ticker_service.errors import (
    BrokerUnavailable,
    ConfigurationError,
    LoginRequired,
    OrderOutcomeUnknown,
)
from ticker_service.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

RULES = BreakerRules(failures_max=3, window_s=30.0, open_s=10.0, probe_s_max=20.0)
NOW_NS = 1_800_000_000 * NS_PER_S


class Bench:
    """A breaker, its clock, and every transition it announced."""

    def __init__(self, rules: BreakerRules = RULES) -> None:
        self.clock = ManualClock(NOW_NS)
        self.changes: list[BreakerChange] = []
        self.breaker = Breaker(
            "orders", rules=rules, clock=self.clock, on_change=self.changes.append
        )

    def report(self, health: Health) -> None:
        permit = self.breaker.admit()
        assert permit is not None
        permit.report(health)

    def opened(self) -> Bench:
        for _ in range(RULES.failures_max):
            self.report(Health.FAILURE)
        assert self.breaker.state is BreakerState.OPEN
        return self

    def half_opened(self) -> Bench:
        self.opened()
        self.advance(RULES.open_s)
        return self

    def advance(self, seconds: float) -> None:
        self.clock.advance(round(seconds * NS_PER_S))


async def fail() -> None:
    raise BrokerUnavailable("503")


def test_trap_1_failures_of_coroutines_are_counted() -> None:
    bench = Bench()

    async def three_times() -> None:
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match="503"):
                await bench.breaker.call(fail)

    asyncio.run(three_times())
    assert bench.breaker.state is BreakerState.OPEN


def test_trap_2_cancelled_calls_never_open_it() -> None:
    bench = Bench()

    for _ in range(10):
        asyncio.run(cancelled_call(bench))
    assert bench.breaker.state is BreakerState.CLOSED
    assert bench.breaker.failures == 0


async def cancelled_call(bench: Bench) -> None:
    begun = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.breaker.call(lambda: hang(begun)))
        await begun.wait()
        task.cancel()


async def hang(begun: asyncio.Event) -> None:
    begun.set()
    await asyncio.Event().wait()


def test_trap_3_a_cancelled_probe_neither_closes_it_nor_blocks_the_next_probe() -> None:
    bench = Bench().half_opened()
    asyncio.run(cancelled_call(bench))
    assert bench.breaker.state is BreakerState.HALF_OPEN
    assert bench.breaker.admit() is not None


def test_trap_4_half_open_admits_exactly_one_of_fifty_concurrent_calls() -> None:
    bench = Bench().half_opened()
    done = asyncio.Event()
    ran: list[int] = []
    refused: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)
        await done.wait()

    async def caller(number: int) -> None:
        try:
            await bench.breaker.call(lambda: work(number))
        except BreakerOpen:
            refused.append(number)
            if len(refused) == 49:
                done.set()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(caller(number))

    asyncio.run(main())
    assert len(ran) == 1
    assert bench.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("step_s", [-86_400, 86_400])
def test_trap_5_a_step_of_the_wall_clock_neither_holds_it_open_nor_opens_it_early(
    step_s: int,
) -> None:
    bench = Bench().opened()
    bench.clock._now_ns += step_s * NS_PER_S
    bench.advance(RULES.open_s - 0.001)
    assert bench.breaker.admit() is None
    bench.advance(0.001)
    assert bench.breaker.admit() is not None


@pytest.mark.parametrize("error", [BrokerUnavailable("a"), OrderOutcomeUnknown("b")])
def test_trap_6_the_call_that_trips_it_raises_its_own_error(error: Exception) -> None:
    bench = Bench(BreakerRules(failures_max=1))

    async def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        asyncio.run(bench.breaker.call(work))
    assert raised.value is error
    assert bench.breaker.state is BreakerState.OPEN


def test_trap_7_successes_between_failures_do_not_hide_a_failing_broker() -> None:
    bench = Bench()
    for _ in range(RULES.failures_max):
        bench.report(Health.SUCCESS)
        bench.report(Health.FAILURE)
    assert bench.breaker.state is BreakerState.OPEN


def test_failures_older_than_the_window_do_not_count() -> None:
    bench = Bench()
    for _ in range(10):
        bench.report(Health.FAILURE)
        bench.advance(RULES.window_s / 2 + 1)
    assert bench.breaker.state is BreakerState.CLOSED


def test_a_call_runs_outside_the_lock_so_that_others_run_beside_it() -> None:
    bench = Bench()

    async def outer() -> str:
        return await bench.breaker.call(inner)

    async def inner() -> str:
        return "both ran"

    assert asyncio.run(bench.breaker.call(outer)) == "both ran"


def test_an_ambiguous_outcome_counts_double() -> None:
    bench = Bench()
    bench.report(Health.AMBIGUOUS)
    assert bench.breaker.failures == 2
    bench.report(Health.AMBIGUOUS)
    assert bench.breaker.state is BreakerState.OPEN


def test_a_double_count_that_trips_it_opens_it_once() -> None:
    bench = Bench(BreakerRules(failures_max=1))
    bench.report(Health.AMBIGUOUS)
    assert [change.after for change in bench.changes] == [BreakerState.OPEN]


def test_cancels_pass_an_open_breaker_and_change_nothing() -> None:
    bench = Bench().opened()
    for health in Health:
        permit = bench.breaker.admit(bypass=True)
        assert permit is not None
        permit.report(health)
    assert bench.breaker.state is BreakerState.OPEN


def test_cancels_do_not_take_the_probes_place() -> None:
    bench = Bench().half_opened()
    assert bench.breaker.admit(bypass=True) is not None
    assert bench.breaker.admit() is not None


def test_an_open_breaker_asks_nobody_and_says_when_to_come_back() -> None:
    bench = Bench().opened()
    bench.advance(4)
    begun: list[bool] = []

    async def work() -> None:
        begun.append(True)

    with pytest.raises(BreakerOpen, match="retry_in_s=6"):
        asyncio.run(bench.breaker.call(work))
    assert not begun
    assert bench.breaker.refused_count == 1


def test_a_good_probe_closes_it_and_forgets_the_failures() -> None:
    bench = Bench().half_opened()
    bench.report(Health.SUCCESS)
    assert bench.breaker.state is BreakerState.CLOSED
    assert bench.breaker.failures == 0


def test_a_bad_probe_opens_it_for_the_whole_time_again() -> None:
    bench = Bench().half_opened()
    bench.report(Health.FAILURE)
    assert bench.breaker.state is BreakerState.OPEN
    assert bench.breaker.retry_in_s == RULES.open_s


def test_a_probe_that_never_reports_back_is_given_up() -> None:
    bench = Bench().half_opened()
    lost = bench.breaker.admit()
    assert lost is not None
    bench.advance(RULES.probe_s_max - 1)
    assert bench.breaker.admit() is None
    assert bench.breaker.retry_in_s == 1.0
    bench.advance(1)
    found = bench.breaker.admit()
    assert found is not None
    lost.report(Health.SUCCESS)
    assert bench.breaker.state is BreakerState.HALF_OPEN
    found.report(Health.SUCCESS)
    assert bench.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("health", [Health.SUCCESS, Health.FAILURE, Health.AMBIGUOUS])
def test_a_report_about_a_call_from_before_the_trip_changes_nothing(health: Health) -> None:
    bench = Bench()
    late = bench.breaker.admit()
    assert late is not None
    bench.half_opened()
    probe = bench.breaker.admit()
    late.report(health)
    assert bench.breaker.state is BreakerState.HALF_OPEN
    assert probe is not None
    probe.report(Health.SUCCESS)
    assert bench.breaker.state is BreakerState.CLOSED


def test_only_the_first_report_of_a_permit_counts() -> None:
    bench = Bench()
    with bench.breaker.admit() or pytest.fail("refused") as permit:
        permit.report(Health.FAILURE)
        permit.report(Health.FAILURE)
    assert bench.breaker.failures == 1


def test_every_transition_is_announced_with_its_failures_and_time() -> None:
    bench = Bench().half_opened()
    bench.report(Health.SUCCESS)
    assert [(change.before, change.after) for change in bench.changes] == [
        (BreakerState.CLOSED, BreakerState.OPEN),
        (BreakerState.OPEN, BreakerState.HALF_OPEN),
        (BreakerState.HALF_OPEN, BreakerState.CLOSED),
    ]
    assert bench.changes[0].failures == 3
    assert [change.at_ns for change in bench.changes] == [0, 10 * NS_PER_S, 10 * NS_PER_S]


@pytest.mark.parametrize(
    ("work_error", "failures"),
    [
        (BrokerUnavailable("x"), 1),
        (TimeoutError(), 1),
        (OrderOutcomeUnknown("x"), 2),
        (LoginRequired("x"), 0),
        (KeyError("our bug"), 0),
    ],
)
def test_errors_count_by_what_they_say_about_the_broker(
    work_error: Exception, failures: int
) -> None:
    bench = Bench()

    async def work() -> None:
        raise work_error

    with pytest.raises(type(work_error)):
        asyncio.run(bench.breaker.call(work))
    assert bench.breaker.failures == failures


def test_a_result_counts_by_what_the_judge_says() -> None:
    bench = Bench()
    health_of: Callable[[int], Health] = lambda status: (  # noqa: E731 - the judge is one line
        Health.FAILURE if status >= 500 else Health.SUCCESS
    )

    async def answer(status: int) -> int:
        return status

    async def main() -> None:
        for status in (200, 400, 403, 429, 502):
            await bench.breaker.call(lambda status=status: answer(status), judge=health_of)

    asyncio.run(main())
    assert bench.breaker.failures == 1


@pytest.mark.parametrize("field", ["failures_max", "window_s", "open_s", "probe_s_max"])
def test_rules_that_could_never_open_or_close_are_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        BreakerRules(**{field: 0})
