"""One writer per account: who holds it, how its loss is noticed, and what a superseded one cannot do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from journal_values import ACCOUNT, OPTIONS, claim, journal_at, ready
from journals_beside_contract import JournalsBesideContract

from ticker_service.adapters.postgres_writer import lock_key
from ticker_service.domain.order import Account
from ticker_service.errors import AccountTaken, TaskMoved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Any

    from ticker_service.adapters.postgres_journal import PostgresJournal

OTHER = Account("ZY9876")

HOLDER = """
import sys, time
import psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
print(connection.execute("SELECT pg_try_advisory_lock(%s)", (int(sys.argv[2]),)).fetchone()[0], flush=True)
sys.stdin.read()
"""


def two_journals(
    url: str, scenario: Callable[[PostgresJournal, PostgresJournal], Coroutine[Any, Any, None]]
) -> None:
    async def opened() -> None:
        async with journal_at(url) as one, journal_at(url) as other:
            await scenario(one, other)

    asyncio.run(opened())


def cut_lock_session(url: str) -> None:
    """End the session that holds account locks, as a network or an operator does."""
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'"
        ).fetchall()
    assert ended == [(True,)]


class _TwoJournals:
    def __init__(self, url: str, one: PostgresJournal, other: PostgresJournal) -> None:
        self.one = one
        self.other = other
        self._url = url

    def cut(self) -> None:
        cut_lock_session(self._url)

    async def notice(self) -> None:
        assert await self.one.heartbeat() == {ACCOUNT}


class TestPostgresJournalsBeside(JournalsBesideContract):
    @pytest.fixture(autouse=True)
    def _database(self, database_url: str) -> None:
        self.url = database_url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_TwoJournals]:
        async with journal_at(self.url) as one, journal_at(self.url) as other:
            yield _TwoJournals(self.url, one, other)


def test_the_death_of_another_process_frees_its_account(database_url: str) -> None:
    key = str(lock_key(ACCOUNT))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"

        async def refused_while_it_lives() -> None:
            async with journal_at(database_url) as journal:
                with pytest.raises(AccountTaken):
                    await journal.acquire(ACCOUNT)
                holder.kill()
                holder.wait()
                async with asyncio.timeout(10):
                    while not journal.is_writer(ACCOUNT):
                        try:
                            await journal.acquire(ACCOUNT)
                        except AccountTaken:
                            continue

        asyncio.run(refused_while_it_lives())


def test_a_lost_session_is_noticed_and_loses_every_account_of_it(database_url: str) -> None:
    async def scenario(one: PostgresJournal, _other: PostgresJournal) -> None:
        await one.acquire(ACCOUNT)
        await one.acquire(OTHER)
        assert await one.heartbeat() == frozenset()
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks"
                " WHERE locktype = 'advisory' GROUP BY pid"
            )
        assert await one.heartbeat() == {ACCOUNT, OTHER}
        assert not one.is_writer(ACCOUNT)
        assert not one.is_writer(OTHER)
        assert await one.heartbeat() == frozenset()
        task = await ready(one)
        with pytest.raises(TaskMoved, match="not ours"):
            await claim(one, task, 1)

    two_journals(database_url, scenario)


def test_the_watch_tells_of_a_loss_by_itself(database_url: str) -> None:
    async def scenario() -> None:
        async with journal_at(database_url, replace(OPTIONS, heartbeat_s=0.01)) as journal:
            await journal.acquire(ACCOUNT)
            told: asyncio.Queue[frozenset[Account]] = asyncio.Queue()
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                watch = group.create_task(journal.watch_writers(told.put_nowait))
                cut_lock_session(database_url)
                assert await told.get() == {ACCOUNT}
                watch.cancel()

    asyncio.run(scenario())


def test_a_loss_that_an_acquire_ran_into_is_still_told(database_url: str) -> None:
    async def scenario(one: PostgresJournal, _other: PostgresJournal) -> None:
        await one.acquire(ACCOUNT)
        cut_lock_session(database_url)
        with pytest.raises(Exception, match="terminat"):
            await one.acquire(OTHER)
        assert not one.is_writer(ACCOUNT)
        await one.acquire(OTHER)
        assert await one.heartbeat() == {ACCOUNT}
        assert one.is_writer(OTHER)

    two_journals(database_url, scenario)


def test_a_new_epoch_waits_for_a_claim_that_is_about_to_commit(database_url: str) -> None:
    async def scenario(old: PostgresJournal, new: PostgresJournal) -> None:
        epoch = await old.acquire(ACCOUNT)
        cut_lock_session(database_url)
        async with await psycopg.AsyncConnection.connect(database_url) as slow:
            # What a claim holds from its statement to its commit.
            await slow.execute(
                "SELECT FROM account_writer WHERE account = %s AND epoch = %s FOR SHARE",
                (ACCOUNT, epoch),
            )
            with pytest.raises(Exception, match="lock timeout"):
                await new.acquire(ACCOUNT)
            assert not new.is_writer(ACCOUNT)
        assert await new.acquire(ACCOUNT) > epoch

    two_journals(database_url, scenario)


def test_the_lock_number_of_an_account_is_the_same_for_ever() -> None:
    # Two releases that run side by side have to mean the same lock.
    assert lock_key(Account("ZX1234")) == -8_257_684_037_559_934_578
    assert lock_key(Account("ZX1234")) != lock_key(Account("ZX1235"))
    assert -(2**63) <= lock_key(ACCOUNT) < 2**63
