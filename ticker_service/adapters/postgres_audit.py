"""Replay the whole journal of a database and compare it with its tables, while others write.

One transaction, REPEATABLE READ and READ ONLY: all of it is of one instant, and nobody waits for
it. Events, tasks and attempts are read by three server-side cursors in the order of their task and
merged, so memory is a page of each and the newest state of one task, however long the journal is.
What it holds back meanwhile is vacuum, as every long reader does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import psycopg
from psycopg.types.numeric import Int8

from ticker_service.adapters.postgres_migrate import check_current
from ticker_service.adapters.postgres_pool import Database, JournalOptions, PoolOptions, translated
from ticker_service.adapters.postgres_rows import attempt_of, event_of, task_of
from ticker_service.adapters.postgres_statements import Statements
from ticker_service.domain.journal_audit import AccountAudit, Audit, FaultCode, JournalFault
from ticker_service.domain.order import Account
from ticker_service.domain.order_replay import EventRefused, Replay, differences
from ticker_service.errors import InvariantViolatedError, UnknownAccount

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncIterator

    from ticker_service.adapters.postgres_pool import Connection
    from ticker_service.adapters.postgres_rows import Row
    from ticker_service.domain.order import OrderAttempt, OrderTask

PAGE_ROWS: Final = 1_000
# Every page is a statement; the first of a large journal is a sort.
OPTIONS: Final = JournalOptions(
    requires_durable_storage=False, operation_s=3_600.0, idle_in_transaction_ms=600_000
)
SESSION: Final = PoolOptions(statement_ms=3_600_000, lock_ms=2_000)


@dataclass(slots=True)
class TaskHistory:
    """One task: what its events make of it, and its rows.

    ``refused`` is the fault that stopped the replay, if one did.
    """

    replayed: Replay
    row: OrderTask | None = None
    attempts: list[OrderAttempt] = field(default_factory=list)
    refused: JournalFault | None = None


Named: TypeAlias = dict[str, object]
OnHistory: TypeAlias = Callable[[TaskHistory, Audit], Awaitable[None]]


async def verify(url: str, account: str | None = None, *, newest: int | None = None) -> Audit:
    """Replay the journal of a database, or of one account of it, and compare it with its tables.

    With ``newest`` only the tasks that have a part in so many events of the account's log, the
    newest: what a look that must not take long can afford.

    Raises:
        JournalUnavailable: The database does not answer.
        ConfigurationError: It lacks a migration, or has no such account.
    """
    database = Database(url, OPTIONS, Statements.load().configure_session)
    connection = await database.connect(SESSION)
    try:
        await check_current(database, connection)
        with translated(database):
            async with snapshot(connection):
                return await look_through(connection, account, newest=newest)
    finally:
        await connection.close()


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[None]:
    """Read what was true at one instant, however long it takes; nothing can be written."""
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    async with connection.transaction():
        yield


async def look_through(
    connection: Connection,
    account: str | None,
    on_history: OnHistory | None = None,
    *,
    newest: int | None = None,
) -> Audit:
    """Look at all of a journal, or of one account, in a transaction that is open.

    Args:
        connection: In :func:`snapshot`.
        account: Whose tasks; all if None.
        newest: Only tasks of so many events of the account, the newest; all if None.
        on_history: Awaited with every task, also a broken one, after its faults are counted.

    Raises:
        UnknownAccount: There is none of this name.
    """
    audit = Audit()
    sql = Statements.load()
    named: Named = {"account": account, "after_seq": Int8(0)}
    if newest is not None:
        cursor = await connection.execute(sql.last_seq, {"account": account})
        row = await cursor.fetchone()
        named["after_seq"] = Int8(max(0, row["last_seq"] - newest) if row else 0)
    await _look_at_logs(connection, sql, named, audit)
    if account is not None and not audit.accounts:
        everyone = await connection.execute(sql.verify_accounts, {"account": None})
        names = ", ".join(row["account"] for row in await everyone.fetchall())
        raise UnknownAccount(
            f"account={account!r}: the journal has no such account; it has {names or 'none yet'}"
        )
    async for history in _histories(connection, sql, named, audit):
        _judge(history, audit)
        if on_history is not None:
            await on_history(history, audit)
    return audit


async def _look_at_logs(
    connection: Connection, sql: Statements, named: Named, audit: Audit
) -> None:
    cursor = await connection.execute(sql.verify_accounts, named)
    for row in await cursor.fetchall():
        account = Account(row["account"])
        audit.accounts[account] = AccountAudit(
            account=account,
            events=row["events"],
            last_seq=row["newest_seq"],
            is_whole=True,
            writer_epoch=row["epoch"],
        )
        if row["last_seq"] != row["newest_seq"]:
            told, found = f"last_seq {row['newest_seq']}", f"{row['last_seq']}"
            _add(audit, FaultCode.SEQUENCE_HEAD, account, "account_sequence", told, found)
        if row["delivered_seq"] > row["newest_seq"]:
            told = f"at most {row['newest_seq']}"
            found = f"{row['delivered_seq']}"
            _add(audit, FaultCode.CURSOR_AHEAD, account, "event_delivery", told, found)
    async for row in _rows(connection, "gaps", sql.verify_gaps, named):
        told, found = f"account_seq {row['seq_before'] + 1}", f"{row['account_seq']}"
        where = f"after account_seq {row['seq_before']}"
        _add(audit, FaultCode.SEQUENCE_GAP, Account(row["account"]), where, told, found)
    async for row in _rows(connection, "epochs", sql.verify_epochs, named):
        where = f"account_seq {row['account_seq']}"
        told, found = f"writer_epoch {row['epoch_before']} or later", f"{row['epoch']}"
        _add(audit, FaultCode.EPOCH_FELL, Account(row["account"]), where, told, found)
    async for row in _rows(connection, "tags", sql.verify_tags, named):
        where = f"tag {row['tag']}"
        found = f"{row['intents']}"
        _add(audit, FaultCode.TAG_TWICE, Account(row["account"]), where, "1 intent", found)


async def _histories(
    connection: Connection, sql: Statements, named: Named, audit: Audit
) -> AsyncIterator[TaskHistory]:
    """Yield every task with what its events make of it, in order of their ids."""
    async with (
        _Reading(connection, "events", sql.verify_events, named) as events,
        _Reading(connection, "tasks", sql.verify_tasks, named) as tasks,
        _Reading(connection, "attempts", sql.verify_attempts, named) as attempts,
    ):
        readings = (events, tasks, attempts)
        while heads := [each.task_id for each in readings if each.task_id is not None]:
            task_id = min(heads)
            history = TaskHistory(Replay())
            while events.task_id == task_id:
                audit.events += 1
                _take(history, await events.take())
            while tasks.task_id == task_id:
                audit.tasks += 1
                history.row = task_of(await tasks.take())
            while attempts.task_id == task_id:
                audit.attempts += 1
                history.attempts.append(attempt_of(await attempts.take()))
            yield history


def _take(history: TaskHistory, row: Row) -> None:
    """Give an event to the replay; after one that it refused no other of its task."""
    if history.refused is not None:
        return
    try:
        history.replayed.take(event_of(row))
    except EventRefused as error:
        code, name, told, found = error.code, error.field, error.told, error.found
    except (InvariantViolatedError, KeyError, TypeError, ValueError) as error:
        code, name, told = FaultCode.UNREADABLE, "event", "readable"
        found = f"{type(error).__name__}: {error}"
    else:
        return
    version = f"{row['client_order_id']} version {row['version']}"
    history.refused = JournalFault(
        code=code,
        account=Account(row["account"]),
        where=f"account_seq {row['account_seq']}, {version}",
        task_id=row["task_id"],
        field=name,
        told=told,
        found=found,
    )


def _judge(history: TaskHistory, audit: Audit) -> None:
    for attempt in history.replayed.attempts:
        newest = audit.of(attempt.account).writer_epoch
        if newest is not None and (attempt.writer_epoch or 0) > newest:
            where, found = f"attempt with tag {attempt.tag}", f"{attempt.writer_epoch}"
            told = f"writer_epoch {newest} or less"
            _add(audit, FaultCode.EPOCH_AHEAD, attempt.account, where, told, found)
    task = history.row or history.replayed.task
    if task is not None:
        audit.of(task.account).tasks += 1
    if history.refused is not None:
        audit.add(history.refused)
        return
    audit.untold_tasks += bool(history.replayed.untold)
    for fault in differences(history.replayed, history.row, history.attempts):
        audit.add(fault)


def _add(
    audit: Audit, code: FaultCode, account: Account, where: str, told: str, found: str
) -> None:
    audit.add(JournalFault(code=code, account=account, where=where, told=told, found=found))


async def _rows(
    connection: Connection, name: str, statement: bytes, named: Named
) -> AsyncIterator[Row]:
    async with connection.cursor(name=name) as cursor:
        await cursor.execute(statement, named)
        while page := await cursor.fetchmany(PAGE_ROWS):
            for row in page:
                yield row


class _Reading:
    """Rows of tasks in order of their ids, of which the first can be looked at before it is taken.

    ``task_id`` is that of the first, None at the end.
    """

    def __init__(self, connection: Connection, name: str, statement: bytes, named: Named) -> None:
        self._cursor = connection.cursor(name=name)
        self._statement = statement
        self._named = named
        self._page: deque[Row] = deque()
        self.task_id: uuid.UUID | None = None

    async def __aenter__(self) -> Self:
        await self._cursor.execute(self._statement, self._named)
        await self._turn()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cursor.close()

    async def take(self) -> Row:
        """Return the first and go on to the next."""
        row = self._page.popleft()
        await self._turn()
        return row

    async def _turn(self) -> None:
        if not self._page:
            self._page.extend(await self._cursor.fetchmany(PAGE_ROWS))
        self.task_id = self._page[0]["task_id"] if self._page else None
