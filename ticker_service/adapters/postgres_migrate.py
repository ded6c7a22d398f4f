"""Bring the journal's database to the schema this program wants, one numbered file at a time.

``migrations/NNNN_pre_what.sql`` runs before the new program starts and leaves the old one working;
``NNNN_post_what.sql`` runs once no old program is left. Each file is one transaction with its
record in ``schema_migration``; a session lock lets one process migrate at a time. A file that was
applied is never edited: its checksum is kept.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from ticker_service.adapters.postgres_pool import Database, JournalOptions, PoolOptions, translated
from ticker_service.adapters.postgres_statements import Statements
from ticker_service.errors import ConfigurationError, InvariantViolatedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.adapters.postgres_pool import Connection

NAME_PATTERN: Final = re.compile(r"(?P<number>\d{4})_(?P<phase>pre|post)_[a-z0-9_]+\.sql")
LOCK_KEY: Final = 0x7469_636B_6D69_6772
# A migration may rewrite a table, and a second process waits for the first.
STATEMENT_MS_MAX: Final = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file.

    Attributes:
        name: File name without ``.sql``.
        is_pre: Whether the program needs it before it starts.
        sql: Content.
    """

    name: str
    is_pre: bool
    sql: bytes

    @property
    def checksum(self) -> bytes:
        """Digest of the content, 32 bytes."""
        return hashlib.sha256(self.sql).digest()


def packaged() -> list[Migration]:
    """Return the migrations of this program in order.

    Raises:
        ConfigurationError: A file's name is not of the form, or a number is used twice.
    """
    folder = resources.files("ticker_service.adapters") / "migrations"
    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        named = NAME_PATTERN.fullmatch(file.name)
        if named is None:
            raise ConfigurationError(f"Condition failed: no migration is named {file.name!r}")
        found.append(
            Migration(
                name=file.name.removesuffix(".sql"),
                is_pre=named["phase"] == "pre",
                sql=file.read_bytes(),
            )
        )
    numbers = [migration.name[:4] for migration in found]
    if len(set(numbers)) != len(numbers):
        raise ConfigurationError(f"Condition failed: a migration number is used twice: {numbers}")
    return found


async def migrate(url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is pending and return the names, in order.

    Args:
        url: The database; its user may create tables.
        migrations: Other than the packaged ones.

    Raises:
        ConfigurationError: An applied migration was changed since, or is unknown to this program.
        JournalUnavailable: The database did not confirm; running it again is safe.
    """
    migrations = packaged() if migrations is None else migrations
    database = _database(url)
    connection = await _connect(database)
    try:
        with translated(database):
            # One at a time; the lock goes with the session.
            await connection.execute("SELECT pg_advisory_lock(%s::bigint)", (LOCK_KEY,))
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migration ("
                " name text PRIMARY KEY, checksum bytea NOT NULL, applied_at timestamptz NOT NULL)"
            )
            todo = _pending(await _applied(connection), migrations)
        for migration in todo:
            await _apply(database, connection, migration)
        return [migration.name for migration in todo]
    finally:
        await connection.close()


async def pending(url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Return the names of what :func:`migrate` would apply; raises as it does."""
    migrations = packaged() if migrations is None else migrations
    database = _database(url)
    connection = await _connect(database)
    try:
        with translated(database):
            applied = await _applied(connection)
    finally:
        await connection.close()
    return [migration.name for migration in _pending(applied, migrations)]


async def check_current(database: Database, connection: Connection) -> None:
    """Raise unless everything is applied that this program needs to start.

    Migrations of a newer program are no obstacle: theirs that run while we do leave us working.

    Raises:
        ConfigurationError: Something is missing.
    """
    with translated(database):
        applied = await _applied(connection)
    missing = [one.name for one in packaged() if one.is_pre and one.name not in applied]
    if missing:
        raise ConfigurationError(
            f"Condition failed: the database lacks migrations {missing}; migrate it first"
        )


def _pending(applied: dict[str, bytes], migrations: Sequence[Migration]) -> list[Migration]:
    known = {migration.name: migration for migration in migrations}
    unknown = sorted(set(applied) - set(known))
    if unknown:
        raise ConfigurationError(
            f"Condition failed: the database has migrations {unknown}, which this program does not"
            " know; it belongs to a newer one"
        )
    changed = [name for name in sorted(applied) if known[name].checksum != applied[name]]
    if changed:
        raise ConfigurationError(
            f"Condition failed: migrations {changed} are not what was applied to the database;"
            " an applied migration is never edited, write a new one"
        )
    return [migration for migration in migrations if migration.name not in applied]


async def _applied(connection: Connection) -> dict[str, bytes]:
    cursor = await connection.execute("SELECT to_regclass('schema_migration') IS NULL AS is_new")
    row = await cursor.fetchone()
    if row is None or row["is_new"]:
        return {}
    cursor = await connection.execute("SELECT name, checksum FROM schema_migration")
    return {row["name"]: bytes(row["checksum"]) for row in await cursor.fetchall()}


async def _apply(database: Database, connection: Connection, migration: Migration) -> None:
    try:
        with translated(database):
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migration (name, checksum, applied_at)"
                    " VALUES (%s, %s, clock_timestamp())",
                    (migration.name, migration.checksum),
                )
    except InvariantViolatedError as error:
        raise InvariantViolatedError(f"{error} migration={migration.name}") from error


def _database(url: str) -> Database:
    # A schema on a server without fsync is harmless; the journal itself refuses such a server.
    options = JournalOptions(requires_durable_storage=False, operation_s=STATEMENT_MS_MAX / 1_000)
    return Database(url, options, Statements.load().configure_session)


async def _connect(database: Database) -> Connection:
    return await database.connect(
        PoolOptions(statement_ms=STATEMENT_MS_MAX, lock_ms=STATEMENT_MS_MAX)
    )
