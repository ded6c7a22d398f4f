"""Make the tables of tasks and attempts anew from their events: shadow, compare, swap.

Goal: tables that are exactly what the events make of them, or exactly what they were before. All
events are replayed into temporary tables, which end with the session; then one transaction replaces
the rows that differ, and no other, with the guards of the tables off until its end. A process that
dies on the way leaves nothing. Whole tables are not exchanged: accounts share them, and every
foreign key and index would have to be made again under the eyes of those who go on trading.

Nobody may write meanwhile: the session holds the lock of every account concerned, so a daemon that
has one makes us refuse, and one that starts stands by. Events that come all the same, from a writer
that lost its lock, are noticed before the swap. Guarded by
``tests/integration/journal/test_journal_rebuild.py``.
"""

from __future__ import annotations

from dataclasses import fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from ticker_service.adapters.postgres_audit import OPTIONS, SESSION, look_through, snapshot
from ticker_service.adapters.postgres_migrate import check_current
from ticker_service.adapters.postgres_pool import Database, translated
from ticker_service.adapters.postgres_rows import time_of
from ticker_service.adapters.postgres_statements import Statements
from ticker_service.adapters.postgres_writer import lock_key
from ticker_service.domain.journal_audit import FaultCode, JournalFault, Rebuild
from ticker_service.domain.order import Account, OrderAttempt, OrderTask
from ticker_service.errors import AccountTaken, TaskMoved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.adapters.postgres_audit import OnHistory, TaskHistory
    from ticker_service.adapters.postgres_pool import Connection
    from ticker_service.domain.journal_audit import Audit

ROWS_PER_COPY: Final = 1_000


async def rebuild(url: str, account: str | None = None) -> Rebuild:
    """Make the tables anew, of all accounts or of one; nothing happens if events are damaged.

    Raises:
        AccountTaken: A daemon writes one of the accounts.
        TaskMoved: The journal grew meanwhile; nothing was done, run it again.
        JournalUnavailable: Not confirmed; either all of it was done or nothing.
        ConfigurationError: The database lacks a migration, or has no such account.
    """
    database = Database(url, OPTIONS, Statements.load().configure_session)
    writer = await database.connect(SESSION)
    try:
        await check_current(database, writer)
        with translated(database):
            return await _Rebuilding(database, writer, account).run()
    finally:
        await writer.close()


class _Rebuilding:
    """One rebuild; the session holds the locks and the shadow."""

    def __init__(self, database: Database, writer: Connection, account: str | None) -> None:
        self._database = database
        self._writer = writer
        self._account = account
        self._sql = Statements.load()
        self._tasks: list[OrderTask] = []
        self._attempts: list[OrderAttempt] = []

    async def run(self) -> Rebuild:
        accounts = await self._lock_accounts()
        await self._writer.execute(self._sql.shadow_task)
        await self._writer.execute(self._sql.shadow_attempt)
        before = await self._look(self._cast)
        await self._copy()
        if before.event_fault_count:
            return Rebuild(before=before, after=None)
        tasks, attempts = await self._swap(accounts, before)
        return Rebuild(
            before=before,
            after=await self._look(),
            tasks_changed=tasks,
            attempts_changed=attempts,
        )

    async def _lock_accounts(self) -> list[str]:
        """Keep every daemon from the accounts, to the end of the session."""
        cursor = await self._writer.execute(self._sql.rebuild_accounts, {"account": self._account})
        accounts = [str(row["account"]) for row in await cursor.fetchall()]
        for account in accounts:
            cursor = await self._writer.execute(
                self._sql.lock_account, {"key": lock_key(Account(account))}
            )
            row = await cursor.fetchone()
            if row is None or not row["taken"]:
                raise AccountTaken(
                    f"account={account}: a daemon writes it; stop that and run this again"
                )
        return accounts

    async def _look(self, on_history: OnHistory | None = None) -> Audit:
        reader = await self._database.connect(SESSION)
        try:
            async with snapshot(reader):
                return await look_through(reader, self._account, on_history)
        finally:
            await reader.close()

    async def _cast(self, history: TaskHistory, audit: Audit) -> None:
        """Put what a task's events make of it into the shadow."""
        made, untold = history.replayed.task, history.replayed.untold
        if history.refused is not None or made is None:
            return
        rows = {each.attempt: each for each in history.attempts}
        lost = [each.attempt for each in history.replayed.attempts if each.attempt not in rows]
        if untold and (history.row is None or lost):
            audit.add(
                JournalFault(
                    code=FaultCode.UNTOLD,
                    account=made.account,
                    where=f"task {made.client_order_id} version {made.version}",
                    task_id=made.task_id,
                    field=", ".join(sorted(untold)),
                )
            )
            return
        # What events of an older version did not tell only the row knows.
        self._tasks.append(_completed(made, history.row, untold))
        self._attempts += [
            _completed(each, rows.get(each.attempt), untold) for each in history.replayed.attempts
        ]
        if len(self._tasks) >= ROWS_PER_COPY:
            await self._copy()

    async def _copy(self) -> None:
        tasks, self._tasks = self._tasks, []
        attempts, self._attempts = self._attempts, []
        await _copy_into(self._writer, "shadow_task", [_columns(each) for each in tasks])
        await _copy_into(self._writer, "shadow_attempt", [_columns(each) for each in attempts])

    async def _swap(self, accounts: list[str], before: Audit) -> tuple[int, int]:
        """Replace the rows that differ, all or none; return how many of tasks and of attempts."""
        named = {"account": self._account}
        sql = self._sql
        async with self._writer.transaction():
            await self._writer.execute(sql.unguard_task)
            await self._writer.execute(sql.unguard_attempt)
            await self._check_heads(accounts, before)
            attempts = await self._changed(sql.rebuild_drop_attempts, named)
            tasks = await self._changed(sql.rebuild_drop_tasks, named)
            tasks += await self._changed(sql.rebuild_add_tasks, named)
            tasks += await self._changed(sql.rebuild_change_tasks, named)
            attempts += await self._changed(sql.rebuild_add_attempts, named)
            attempts += await self._changed(sql.rebuild_change_attempts, named)
            await self._writer.execute(b"SET CONSTRAINTS ALL IMMEDIATE")
            await self._writer.execute(sql.guard_task)
            await self._writer.execute(sql.guard_attempt)
        return tasks, attempts

    async def _check_heads(self, accounts: list[str], before: Audit) -> None:
        """Refuse if anything was journalled since: the shadow does not have it.

        The tables are locked against writing by now, so what is read here stays so.
        """
        cursor = await self._writer.execute(self._sql.rebuild_heads, {"accounts": accounts})
        for row in await cursor.fetchall():
            known = before.accounts.get(Account(row["account"]))
            if known is not None and known.is_whole and known.last_seq != row["last_seq"]:
                raise TaskMoved(
                    f"account={row['account']}: the journal grew from account_seq"
                    f" {known.last_seq} to {row['last_seq']}; nothing was done, run this again"
                )

    async def _changed(self, statement: bytes, named: dict[str, str | None]) -> int:
        return (await self._writer.execute(statement, named)).rowcount


Stored = TypeVar("Stored", OrderTask, OrderAttempt)


def _completed(made: Stored, row: Stored | None, untold: frozenset[str]) -> Stored:
    known = {each.name for each in fields(made)} & untold
    return made if row is None else replace(made, **{name: getattr(row, name) for name in known})


def _columns(row: OrderTask | OrderAttempt) -> dict[str, Any]:
    """Return a row of the domain as the columns of its table."""
    return {
        each.name.removesuffix("_ns"): _stored(each.name, getattr(row, each.name))
        for each in fields(row)
    }


def _stored(name: str, value: Any) -> Any:  # noqa: ANN401 - any column
    if name.endswith("_ns") and value is not None:
        return time_of(value)
    if isinstance(value, dict):
        return Jsonb(value, dumps=orjson.dumps)
    return value.value if isinstance(value, StrEnum) else value


async def _copy_into(connection: Connection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    names = list(rows[0])
    statement = SQL("COPY {} ({}) FROM STDIN").format(
        Identifier(table), SQL(", ").join(map(Identifier, names))
    )
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            await copy.write_row([row[name] for name in names])
