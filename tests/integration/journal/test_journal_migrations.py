"""The schema is brought up to date once, by one process at a time, and never by guesswork."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from journal_values import journal_at

from ticker_service.adapters.postgres_migrate import Migration, migrate, packaged, pending
from ticker_service.errors import ConfigurationError, InvariantViolatedError

if TYPE_CHECKING:
    from collections.abc import Sequence

ONE = Migration(name="0001_pre_one", is_pre=True, sql=b"CREATE TABLE one (n int); SELECT 1;")
TWO = Migration(name="0002_post_two", is_pre=False, sql=b"CREATE TABLE two (n int)")
BAD = Migration(name="0002_pre_bad", is_pre=True, sql=b"CREATE TABLE bad (n int); SELECT nothing")


def run(url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    return asyncio.run(migrate(url, migrations))


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
    return {name for (name,) in rows}


def test_everything_is_applied_once_in_order(empty_url: str) -> None:
    names = [migration.name for migration in packaged()]
    assert asyncio.run(pending(empty_url)) == names
    assert run(empty_url) == names
    assert run(empty_url) == []
    assert asyncio.run(pending(empty_url)) == []


def test_only_what_is_new_is_applied(empty_url: str) -> None:
    assert run(empty_url, [ONE]) == ["0001_pre_one"]
    assert asyncio.run(pending(empty_url, [ONE, TWO])) == ["0002_post_two"]
    assert run(empty_url, [ONE, TWO]) == ["0002_post_two"]
    assert tables(empty_url) == {"one", "two", "schema_migration"}


def test_two_processes_at_once_apply_each_migration_once(empty_url: str) -> None:
    async def both() -> list[list[str]]:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(migrate(empty_url, [ONE, TWO])) for _ in range(5)]
        return [call.result() for call in calls]

    applied = asyncio.run(both())
    assert sorted(map(len, applied)) == [0, 0, 0, 0, 2]


def test_a_migration_that_fails_leaves_nothing(empty_url: str) -> None:
    with pytest.raises(InvariantViolatedError, match="0002_pre_bad"):
        run(empty_url, [ONE, BAD])
    assert tables(empty_url) == {"one", "schema_migration"}
    assert run(empty_url, [ONE, TWO]) == ["0002_post_two"]


def test_a_migration_that_was_changed_is_refused(empty_url: str) -> None:
    run(empty_url, [ONE])
    changed = Migration(name=ONE.name, is_pre=True, sql=b"CREATE TABLE other (n int)")
    for use in (migrate, pending):
        with pytest.raises(ConfigurationError, match="0001_pre_one"):
            asyncio.run(use(empty_url, [changed, TWO]))
    assert tables(empty_url) == {"one", "schema_migration"}


def test_a_database_of_a_newer_program_is_refused(empty_url: str) -> None:
    run(empty_url, [ONE, TWO])
    with pytest.raises(ConfigurationError, match="newer"):
        run(empty_url, [ONE])


def test_a_journal_does_not_open_before_its_migrations(empty_url: str) -> None:
    async def opened() -> None:
        async with journal_at(empty_url):
            pass

    with pytest.raises(ConfigurationError, match="0001_pre_order_journal"):
        asyncio.run(opened())


def test_a_journal_opens_beside_a_newer_program(database_url: str) -> None:
    newer = Migration(name="9999_pre_newer", is_pre=True, sql=b"CREATE TABLE newer (n int)")
    run(database_url, [*packaged(), newer])

    async def opened() -> None:
        async with journal_at(database_url):
            pass

    asyncio.run(opened())
