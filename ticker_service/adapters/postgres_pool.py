"""Connections to the journal's database: few, checked, configured, each wait with a limit.

Two pools, so that a report cannot keep an order waiting: ``orders`` commits durably, ``queries``
reads. One statement is one transaction (autocommit), so nothing is ever left open. The errors of
the driver end here: what is not confirmed is ``JournalUnavailable``.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from ticker_service.errors import (
    ConfigurationError,
    InvariantViolatedError,
    JournalError,
    JournalUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from ticker_service.adapters.postgres_rows import Row

Connection = AsyncConnection[DictRow]

# A server that stands still does not even cancel: this long after its limit a connection is cut.
CUT_AFTER_S: Final = 0.5
CLOSE_S: Final = 2.0
# A connection that answered so lately is handed out unasked: asking costs a round trip a statement.
FRESH_S: Final = 1.0
NAME: Final = "ticker-service"
# SQLSTATE classes "connection exception" and "operator intervention" (the server is going down).
LOST_CLASSES: Final = frozenset({"08", "57"})
# "Internal error": its files cannot be written or are damaged. A fault of the server, not of what
# we asked: nothing was done, and the daemon outlives it.
BROKEN_CLASSES: Final = frozenset({"XX"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How many connections of one purpose there are, and what each may take.

    Attributes:
        size_min: Connections kept open.
        size_max: Connections at most.
        waiting_max: Callers that may wait for one; the next is refused at once.
        wait_s: How long a caller waits for one.
        statement_ms: The server ends a statement after this.
        lock_ms: The server ends a wait for a lock after this.
        lifetime_s: A connection is replaced after this.
        synchronous_commit: ``on`` where a commit is a promise.
    """

    size_min: int = 1
    size_max: int = 4
    waiting_max: int = 64
    wait_s: float = 1.0
    statement_ms: int = 2_000
    lock_ms: int = 500
    lifetime_s: float = 1_800.0
    synchronous_commit: str = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOptions:
    """Limits of the journal's connections.

    Attributes:
        orders: For what an order waits for.
        queries: For questions and delivery cursors; a cursor lost in a crash only means that
            events come again, so its commits need not wait for the disk.
        operation_s: No call takes longer, whatever the server does; plus ``CUT_AFTER_S``.
        connect_s: Limit for one try to connect.
        reconnect_s: After this the pool says that the database is gone; it is tried again when
            somebody asks.
        idle_in_transaction_ms: The server ends a session that leaves a transaction open.
        heartbeat_s: How often the session that holds the account locks is asked for a sign of life.
        requires_durable_storage: Refuse a server with ``fsync`` or ``full_page_writes`` off. Only
            tests say no.
    """

    orders: PoolOptions = field(
        default_factory=lambda: PoolOptions(size_min=2, size_max=8, waiting_max=256)
    )
    queries: PoolOptions = field(
        default_factory=lambda: PoolOptions(statement_ms=5_000, synchronous_commit="off")
    )
    operation_s: float = 4.0
    connect_s: float = 3.0
    reconnect_s: float = 5.0
    idle_in_transaction_ms: int = 5_000
    heartbeat_s: float = 2.0
    requires_durable_storage: bool = True


class _Kept(AsyncConnection[DictRow]):
    """A connection of a pool, which knows when it last answered, by the event loop's clock."""

    answered_at_s = -FRESH_S


class Unconfirmed(JournalUnavailable):
    """The connection was lost after a statement was sent: it may have been committed."""


class Database:
    """One database: how to connect to it, and whether it was there when last asked.

    Attributes:
        is_available: False from a failure to reach it until the next success.
    """

    def __init__(self, url: str, options: JournalOptions, configure_session: bytes) -> None:
        self.options = options
        self.is_available = False
        self._configure_session = configure_session
        try:
            self._conninfo = make_conninfo(
                url,
                connect_timeout=max(2, round(options.connect_s)),
                keepalives=1,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
                target_session_attrs="read-write",
                application_name=NAME,
            )
        except psycopg.ProgrammingError:
            # The driver's message would repeat the address, password included.
            raise ConfigurationError(
                "Condition failed: the database address is not a PostgreSQL URL or conninfo"
            ) from None

    async def connect(self, pool: PoolOptions) -> Connection:
        """Open one connection of its own, configured as those of a pool.

        Raises:
            JournalUnavailable: The database is not there.
            ConfigurationError: It does not keep what it confirms.
        """
        with translated(self):
            async with limited(self.options.connect_s):
                connection = await AsyncConnection.connect(
                    self._conninfo, autocommit=True, row_factory=dict_row
                )
            try:
                async with limited(self.options.operation_s):
                    await self.configure(connection, pool)
            except BaseException:
                await connection.close()
                raise
            return connection

    async def configure(self, connection: Connection, pool: PoolOptions) -> None:
        """Set a connection up.

        Raises:
            ConfigurationError: The server may lose what it confirms.
        """
        cursor = await connection.execute(
            self._configure_session,
            {
                "synchronous_commit": pool.synchronous_commit,
                "statement_timeout": str(pool.statement_ms),
                "lock_timeout": str(pool.lock_ms),
                "idle_in_transaction_timeout": str(self.options.idle_in_transaction_ms),
            },
        )
        row = await cursor.fetchone()
        if row is None:
            raise InvariantViolatedError("Invariant: a SELECT without FROM returns a row")
        unsafe = [name for name in ("fsync", "full_page_writes") if row[name] != "on"]
        if unsafe and self.options.requires_durable_storage:
            raise ConfigurationError(
                f"Condition failed: the database has {' and '.join(unsafe)} off, so that what it"
                " confirms does not survive a crash; orders are not journalled there"
            )
        self.is_available = True

    def new_pool(self, name: str, options: PoolOptions) -> AsyncConnectionPool[_Kept]:
        """Return the driver's pool, not yet open."""

        async def configure(connection: Connection) -> None:
            await self.configure(connection, options)

        return AsyncConnectionPool(
            self._conninfo,
            kwargs={"autocommit": True, "row_factory": dict_row},
            connection_class=_Kept,
            min_size=options.size_min,
            max_size=options.size_max,
            max_waiting=options.waiting_max,
            timeout=options.wait_s,
            max_lifetime=options.lifetime_s,
            reconnect_timeout=self.options.reconnect_s,
            reconnect_failed=self._reconnect_failed,
            configure=configure,
            check=_check_rested,
            name=f"{NAME}-{name}",
            open=False,
        )

    def _reconnect_failed(self, _pool: object) -> None:
        self.is_available = False


class Pool:
    """The connections of one purpose.

    Thread/Task: belongs to the event loop it was opened in.
    """

    def __init__(self, database: Database, name: str, options: PoolOptions) -> None:
        self._database = database
        self._name = name
        self._options = options
        self._pool = database.new_pool(name, options)

    async def open(self) -> None:
        """Begin to open connections, without waiting for them."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close(timeout=CLOSE_S)

    async def run(self, statement: bytes, parameters: Mapping[str, Any]) -> list[Row]:
        """Run one statement as one transaction and return its rows.

        Raises:
            JournalUnavailable: Not confirmed.
            InvariantViolatedError: The database refused it.
        """
        with translated(self._database):
            try:
                async with (
                    limited(self._database.options.operation_s),
                    self._pool.connection() as one,
                ):
                    found = await rows(one, statement, parameters, prepare=True)
                    one.answered_at_s = asyncio.get_running_loop().time()
            except TooManyRequests:
                await self._begin_anew_if_stuck()
                raise
            self._database.is_available = True
            return found

    async def _begin_anew_if_stuck(self) -> None:
        """Replace a pool that would never connect again.

        The driver's pool counts callers that gave up long ago among those that wait, until a
        connection comes back. After an outage longer than ``reconnect_s`` it has no connection, is
        not trying to get one, and begins to try only when a caller may wait: with its queue full
        of the gone, never. Guarded by ``tests/integration/journal/test_journal_outage.py``.
        """
        stuck = self._pool
        if stuck.get_stats()["pool_size"] > 0:
            return
        fresh = self._database.new_pool(self._name, self._options)
        await fresh.open(wait=False)
        stuck, self._pool = self._pool, fresh
        await stuck.close(timeout=0)


async def rows(
    connection: Connection,
    statement: bytes,
    parameters: Mapping[str, Any],
    *,
    prepare: bool | None = None,
) -> list[Row]:
    """Run a statement on a connection; a loss on the way is :class:`Unconfirmed`."""
    try:
        cursor = await connection.execute(statement, parameters, prepare=prepare)
        return await cursor.fetchall() if cursor.description else []
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if connection.closed:
            raise Unconfirmed(_words(error)) from error
        raise


async def _check_rested(connection: _Kept) -> None:
    """Ask a connection that has rested whether it is still there, before it is handed out.

    One that dies sooner after an answer than that fails its statement, as one that dies under it
    does, and its caller reads what became of it.
    """
    if asyncio.get_running_loop().time() - connection.answered_at_s >= FRESH_S:
        await AsyncConnectionPool.check_connection(connection)


@contextlib.asynccontextmanager
async def limited(limit_s: float) -> AsyncIterator[None]:
    """Limit what a block may take, even when the server stands still.

    At the limit the driver asks the server to cancel and waits up to ten seconds for that; the
    second interruption makes it cut the connection instead. It is counted from the first: if the
    event loop stood still over both at once, the driver would see one.
    """
    loop = asyncio.get_running_loop()
    at = loop.time() + limit_s
    async with asyncio.timeout(None) as cut:
        cutting = loop.call_at(at, lambda: cut.reschedule(loop.time() + CUT_AFTER_S))
        try:
            async with asyncio.timeout_at(at):
                yield
        finally:
            cutting.cancel()


@contextlib.contextmanager
def translated(database: Database) -> Iterator[None]:
    """Turn the driver's errors into ours and remember whether the database was there."""
    try:
        yield
    except Unconfirmed:
        database.is_available = False
        raise
    except TimeoutError as error:
        # After the limit nobody knows how far the statement got.
        database.is_available = False
        raise Unconfirmed("the database did not answer within the limit") from error
    except (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege) as error:
        raise JournalUnavailable(_words(error)) from error
    except (PoolTimeout, TooManyRequests) as error:
        # Busy or gone; the pool itself says which (``reconnect_failed``).
        raise JournalUnavailable(_words(error)) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if not error.sqlstate or error.sqlstate[:2] in LOST_CLASSES:
            database.is_available = False
        raise JournalUnavailable(_words(error)) from error
    except psycopg.DataError as error:
        raise JournalError(f"the database cannot hold this: {_words(error)}") from error
    except psycopg.Error as error:
        raise _refused(error) from error
    except OSError as error:
        database.is_available = False
        raise JournalUnavailable(_words(error)) from error


def _refused(error: psycopg.Error) -> JournalUnavailable | InvariantViolatedError:
    if error.sqlstate and error.sqlstate[:2] in BROKEN_CLASSES:
        return JournalUnavailable(_words(error))
    return InvariantViolatedError(f"Invariant: the database refused a statement: {_words(error)}")


def _words(error: Exception) -> str:
    """Return the first line of an error; the details of PostgreSQL's repeat whole rows."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"
