"""The database goes away: every call ends in time, says what is not known, and all comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import psycopg
import pytest
from cuttable_proxy import CuttableProxy
from journal_values import (
    ACCOUNT,
    NOON_NS,
    OPTIONS,
    all_of,
    claim,
    journal_at,
    new_task,
    ready,
    step,
)

from app.embedded import embedded_postgres
from ticker_service.adapters.postgres_migrate import migrate
from ticker_service.adapters.postgres_pool import PoolOptions
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import JournalUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from ticker_service.adapters.postgres_journal import PostgresJournal
    from ticker_service.ports import Admitted

T = TypeVar("T")
HASTY: Final = replace(
    OPTIONS,
    operation_s=1.0,
    connect_s=2.0,
    reconnect_s=0.5,
    orders=PoolOptions(size_min=1, size_max=2, wait_s=0.5, waiting_max=4),
    queries=PoolOptions(size_min=1, size_max=1, wait_s=0.5),
)
# Well above the second above, well below the ten that the driver would take by itself.
IN_TIME_S: Final = 6.0
RECOVERY_S: Final = 60.0


def behind_proxy(
    url: str, scenario: Callable[[PostgresJournal, CuttableProxy], Coroutine[Any, Any, None]]
) -> None:
    async def opened() -> None:
        async with CuttableProxy(url) as proxy, journal_at(proxy.url, HASTY) as journal:
            await scenario(journal, proxy)

    asyncio.run(opened())


async def admitted_in_the_end(journal: PostgresJournal) -> Admitted:
    """Send one instruction until it is confirmed, as a caller does."""
    new = new_task()
    return await in_the_end(lambda: journal.admit(new))


async def in_the_end(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the database confirms."""
    async with asyncio.timeout(RECOVERY_S):
        while True:
            try:
                return await call()
            except JournalUnavailable:
                # A refusal may not wait for anything; the others need their turn.
                await asyncio.sleep(0)


def test_a_stopped_database_is_unavailable_in_time_and_back_by_itself(database_url: str) -> None:
    async def scenario(journal: PostgresJournal, proxy: CuttableProxy) -> None:
        await journal.acquire(ACCOUNT)
        task = await ready(journal)
        assert journal.is_available
        await proxy.stop()
        calls = [
            lambda: journal.admit(new_task()),
            lambda: journal.record(task, step(TaskState.EXPIRED), now_ns=NOON_NS),
            lambda: claim(journal, task, 1),
            lambda: journal.task(task.task_id),
            lambda: journal.events_after(ACCOUNT, 0, limit=1),
            lambda: journal.set_delivered(ACCOUNT, "redis", 1),
        ]
        for call in calls:
            async with asyncio.timeout(IN_TIME_S):
                with pytest.raises(JournalUnavailable):
                    await call()
        assert await journal.heartbeat() == {ACCOUNT}
        assert not journal.is_available
        await proxy.start()
        assert (await admitted_in_the_end(journal)).task.state is TaskState.RECEIVED
        assert journal.is_available
        assert await journal.task(task.task_id) == task
        assert await journal.acquire(ACCOUNT) == 2

    behind_proxy(database_url, scenario)


def test_an_outage_that_outlasts_every_attempt_is_over_when_the_database_is(
    database_url: str,
) -> None:
    async def scenario(journal: PostgresJournal, proxy: CuttableProxy) -> None:
        await ready(journal)
        await proxy.stop()
        # Callers that give up stay in the driver's queue; fill it, and let every attempt end.
        async with asyncio.timeout(RECOVERY_S):
            while not (
                journal._orders._pool.get_stats()["pool_size"] == 0
                and journal._orders._pool.get_stats()["requests_waiting"] == 4
            ):
                await all_of([journal.admit(new_task()) for _ in range(4)])
                await asyncio.sleep(0)
        await proxy.start()
        await admitted_in_the_end(journal)

    behind_proxy(database_url, scenario)


def test_a_database_that_stands_still_is_unavailable_in_time(database_url: str) -> None:
    async def scenario(journal: PostgresJournal, proxy: CuttableProxy) -> None:
        await journal.acquire(ACCOUNT)
        task = await ready(journal)
        proxy.freeze()
        async with asyncio.timeout(IN_TIME_S):
            with pytest.raises(JournalUnavailable):
                await journal.record(task, step(TaskState.EXPIRED), now_ns=NOON_NS)
        async with asyncio.timeout(IN_TIME_S):
            assert await journal.heartbeat() == {ACCOUNT}
        proxy.thaw()
        await admitted_in_the_end(journal)

    behind_proxy(database_url, scenario)


def test_more_callers_than_may_wait_are_refused_at_once(database_url: str) -> None:
    async def scenario(journal: PostgresJournal, proxy: CuttableProxy) -> None:
        await ready(journal)
        proxy.freeze()
        outcomes = await all_of([journal.admit(new_task()) for _ in range(50)])
        assert all(isinstance(outcome, JournalUnavailable) for outcome in outcomes)
        refused = [outcome for outcome in outcomes if "TooManyRequests" in str(outcome)]
        assert len(refused) >= 40

    behind_proxy(database_url, scenario)


def test_a_commit_whose_answer_is_lost_is_found_again(database_url: str) -> None:
    async def scenario(journal: PostgresJournal, proxy: CuttableProxy) -> None:
        task = await ready(journal)
        proxy.lose_answer_to(b"lost_answer")
        expired = step(TaskState.EXPIRED, event="lost_answer")
        moved = await journal.record(task, expired, now_ns=NOON_NS)
        assert proxy.answer_lost.is_set()
        assert (moved.state, moved.version) == (TaskState.EXPIRED, 3)
        assert await journal.last_seq(ACCOUNT) == 3

    behind_proxy(database_url, scenario)


def test_an_admission_whose_answer_is_lost_is_found_by_its_key(database_url: str) -> None:
    async def scenario(journal: PostgresJournal, proxy: CuttableProxy) -> None:
        await ready(journal)
        proxy.lose_answer_to(b"the-lost-key")
        new = new_task(request_id="the-lost-key")
        admitted = await journal.admit(new)
        assert proxy.answer_lost.is_set()
        assert admitted.is_new
        assert admitted.task.task_id == new.task_id
        assert await journal.last_seq(ACCOUNT) == 3

    behind_proxy(database_url, scenario)


def test_a_commit_that_cannot_be_looked_up_is_unknown_not_lost(database_url: str) -> None:
    async def scenario(journal: PostgresJournal, proxy: CuttableProxy) -> None:
        task = await ready(journal)

        async def stop_when_lost() -> None:
            await proxy.answer_lost.wait()
            await proxy.stop()

        proxy.lose_answer_to(b"lost_answer")
        async with asyncio.TaskGroup() as group:
            group.create_task(stop_when_lost())
            with pytest.raises(JournalUnavailable):
                await journal.record(
                    task, step(TaskState.EXPIRED, event="lost_answer"), now_ns=NOON_NS
                )
        await proxy.start()
        await admitted_in_the_end(journal)
        known = await journal.task(task.task_id)
        assert known is not None
        assert known.state is TaskState.EXPIRED

    behind_proxy(database_url, scenario)


def test_a_database_that_is_not_there_is_unavailable_from_the_start(database_url: str) -> None:
    async def scenario() -> None:
        async with CuttableProxy(database_url) as proxy:
            await proxy.stop()
            journal = journal_at(proxy.url, HASTY)
            with pytest.raises(JournalUnavailable):
                await journal.open()
            await proxy.start()
            async with journal:
                assert (await admitted_in_the_end(journal)).task.state == TaskState.RECEIVED

    asyncio.run(scenario())


def test_what_was_confirmed_survives_a_crash_of_the_server() -> None:
    async def scenario() -> None:
        async with embedded_postgres() as server:
            await migrate(server.url)
            options = replace(HASTY, requires_durable_storage=True, operation_s=10.0)
            async with journal_at(server.url, options) as journal:
                confirmed = [(await journal.admit(new_task())).task for _ in range(20)]
                with psycopg.connect(server.url) as victim, psycopg.connect(server.url) as witness:
                    # The end of one session by SIGKILL makes the server end all and recover.
                    os.kill(victim.info.backend_pid, signal.SIGKILL)
                    with pytest.raises(psycopg.OperationalError):
                        witness.execute("SELECT pg_sleep(60)")
                after = (await admitted_in_the_end(journal)).task
                found = await in_the_end(lambda: journal.unsent(ACCOUNT))
                assert {task.task_id for task in found} == {
                    task.task_id for task in [*confirmed, after]
                }
                assert await in_the_end(lambda: journal.last_seq(ACCOUNT)) == 21

    asyncio.run(scenario())
