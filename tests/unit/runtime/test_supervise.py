"""What must be finished is finished, and the cancellation that came meanwhile is not lost."""

from __future__ import annotations

import asyncio

import pytest

from ticker_service.runtime.supervise import finish


def test_the_result_is_handed_on() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(finish(work())) == 7


def test_an_error_is_handed_on() -> None:
    async def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(finish(work()))


@pytest.mark.parametrize("times", [1, 3])
def test_cancelled_any_number_of_times_the_work_still_ends_before_the_caller(times: int) -> None:
    done: list[str] = []

    async def scenario() -> None:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            started.set()
            await go_on.wait()
            done.append("work")

        async def call() -> None:
            try:
                await finish(work())
            except asyncio.CancelledError:
                done.append("cancelled")
                raise

        async with asyncio.TaskGroup() as tasks:
            calling = tasks.create_task(call())
            await started.wait()
            for _ in range(times):
                calling.cancel()
                await asyncio.sleep(0)
            assert not calling.done()
            go_on.set()
        assert calling.cancelled()

    asyncio.run(scenario())
    assert done == ["work", "cancelled"]


def test_an_error_during_cancellation_is_not_left_unheard_and_the_caller_is_cancelled() -> None:
    async def scenario() -> None:
        started = asyncio.Event()

        async def work() -> None:
            started.set()
            await asyncio.sleep(0)
            raise LookupError

        async with asyncio.TaskGroup() as tasks:
            calling = tasks.create_task(finish(work()))
            await started.wait()
            calling.cancel()
        assert calling.cancelled()

    asyncio.run(scenario())


def test_a_time_limit_around_it_ends_when_the_work_has() -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []

        async def work() -> None:
            await asyncio.sleep(0.02)
            seen.append("done")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await finish(work())
        return seen

    assert asyncio.run(scenario()) == ["done"]
