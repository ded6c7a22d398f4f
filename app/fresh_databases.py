"""Copy a migrated database for each test, in tens of milliseconds instead of a migration.

For pytest fixtures: one :func:`template_database` per server, one :func:`fresh_database` per test.
Knows nothing of the service: what fills the template is handed in.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psycopg
from psycopg import errors, sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAINTENANCE_DATABASE: Final = "postgres"
DROP_TRIES_MAX: Final = 50
DROP_PAUSE_S: Final = 0.1


@contextlib.contextmanager
def template_database(server_url: str, fill: Callable[[str], object]) -> Iterator[str]:
    """Make a database to copy others from, once per server: see :func:`fresh_database`.

    Args:
        server_url: A database of the server, whose role may create others.
        fill: Gets the new, empty database's address and brings it up to date, as migrations do. It
            leaves no connection behind.

    Yields:
        The address of the template. Nobody can connect to it any more.
    """
    with _database(server_url, template=None) as url:
        fill(url)
        _administer(url, sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false"), _name(url))
        yield url


@contextlib.contextmanager
def fresh_database(template_url: str) -> Iterator[str]:
    """Make a database like the template for the length of the block and hand out its address.

    What is still connected to it at the end of the block is cut off.
    """
    with _database(template_url, template=_name(template_url)) as url:
        yield url


@contextlib.contextmanager
def _database(server_url: str, *, template: str | None) -> Iterator[str]:
    name = f"ticker_{uuid.uuid4().hex}"
    create = sql.SQL("CREATE DATABASE {}")
    if template is None:
        _administer(server_url, create, name)
    else:
        _administer(server_url, create + sql.SQL(" TEMPLATE {}"), name, template)
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        _drop(server_url, name)


def _drop(server_url: str, name: str) -> None:
    """Drop a database; an autovacuum worker that is just in it may not be ended by us, so wait."""
    for attempt in range(DROP_TRIES_MAX):
        try:
            _administer(server_url, sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)
        except (errors.InsufficientPrivilege, errors.ObjectInUse):
            if attempt == DROP_TRIES_MAX - 1:
                raise
            time.sleep(DROP_PAUSE_S)
        else:
            return


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def _administer(url: str, statement: sql.SQL | sql.Composed, *names: str) -> None:
    """Run a statement about whole databases, from one that is none of them."""
    maintenance = urlsplit(url)._replace(path=f"/{MAINTENANCE_DATABASE}").geturl()
    filled = sql.SQL(statement.as_string()).format(*map(sql.Identifier, names))
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(filled)
