"""Change the journal behind its back, as whoever owns its tables can."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN: Final = Path(__file__).resolve().parents[2] / "data" / "journal"
FILLED: Final = "00000000-0000-0000-0000-000000000001"
"""The task ``filled`` of the story."""
GUARDED: Final = (
    "order_task",
    "order_attempt",
    "order_event",
    "account_writer",
    "account_sequence",
)
KEYS: Final = {
    "order_task": ("order_task_has_its_event", "order_task_target_task_id_fkey"),
    "order_attempt": ("order_attempt_task_id_fkey",),
    "order_event": ("order_event_task_id_fkey",),
}


def unguarding(*, keys: bool = False) -> list[str]:
    """Return what turns triggers off, and with ``keys`` also drops foreign keys."""
    off = [f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in GUARDED]
    dropped = [
        f"ALTER TABLE {table} DROP CONSTRAINT {key}" for table in KEYS for key in KEYS[table]
    ]
    return [*off, *(dropped if keys else ())]


def of_filled(statement: str) -> bytes:
    """Return a statement in which ``THIS`` is the task ``filled`` of the story."""
    return statement.replace("THIS", f"task_id = '{FILLED}'").encode()


@contextlib.contextmanager
def unguarded(url: str, *, keys: bool = False) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Let the tables' owner do what they would refuse."""
    with psycopg.connect(url) as connection:
        for statement in unguarding(keys=keys):
            connection.execute(statement.encode())
        yield connection
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in GUARDED:
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())


def tamper(url: str, *statements: str, keys: bool = False) -> None:
    """Change rows behind the journal's back and leave its guards as they were."""
    with unguarded(url, keys=keys) as connection:
        for statement in statements:
            assert connection.execute(of_filled(statement)).rowcount, statement


def load_golden(url: str, file: Path) -> None:
    """Fill an empty migrated database with what the program of a golden journal left in its own."""
    held = json.loads(file.read_bytes())
    with unguarded(url) as connection:
        connection.execute("SET CONSTRAINTS ALL DEFERRED")
        for table in ("order_task", "order_attempt", "order_event", "account_sequence"):
            connection.execute(
                f"INSERT INTO {table} SELECT * FROM"  # noqa: S608 - a table of ours
                f" jsonb_populate_recordset(NULL::{table}, %s)",
                (Jsonb([_loadable(row) for row in held[table]]),),
            )
        for row in held["account_writer"]:
            connection.execute(
                "INSERT INTO account_writer VALUES (%(account)s, %(epoch)s, now())", row
            )


def _loadable(row: dict[str, Any]) -> dict[str, Any]:
    digest = row.get("body_sha256")
    # What a migration gave the rows of before.
    return row if digest is None else {"hop": 0} | row | {"body_sha256": f"\\x{digest}"}
