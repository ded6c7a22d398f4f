"""What a statement may take: interrupted once, and once more if the driver holds on to it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from running import DEADLINE_S

from ticker_service.adapters.postgres_pool import CUT_AFTER_S, limited

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Driver:
    """As psycopg: the first interruption begins a cancel of its own, the second one ends it."""

    def __init__(self) -> None:
        self.interruptions = 0

    async def run(self) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                self.interruptions += 1
        raise asyncio.CancelledError


async def over_limit(driver: Driver, *, stands_still_s: float) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(time.sleep, stands_still_s)
    async with limited(0.01):
        await driver.run()


async def in_time(work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(TimeoutError):
            await work


@pytest.mark.parametrize("stands_still_s", [0.0, 1.5 * CUT_AFTER_S])
def test_the_driver_is_interrupted_twice_also_when_the_loop_stood_still_over_both(
    stands_still_s: float,
) -> None:
    driver = Driver()
    asyncio.run(in_time(over_limit(driver, stands_still_s=stands_still_s)))
    assert driver.interruptions == 2


def test_what_ends_in_time_is_not_interrupted() -> None:
    async def quick() -> str:
        async with limited(DEADLINE_S):
            return "rows"

    assert asyncio.run(quick()) == "rows"


def test_a_caller_that_is_cancelled_is_not_told_of_a_limit() -> None:
    async def cancelled() -> None:
        async with asyncio.TaskGroup() as tasks:
            driver = Driver()
            task = tasks.create_task(over_limit(driver, stands_still_s=0.0))
            await asyncio.sleep(0)
            task.cancel()
        assert task.cancelled()
        assert driver.interruptions == 2

    asyncio.run(cancelled())
