"""A real PostgreSQL for the journal's tests, and a fresh migrated database for each of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.embedded import embedded_postgres_process
from app.fresh_databases import fresh_database, template_database
from ticker_service.adapters.postgres_migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The address of an empty database on a server that these tests share."""
    with embedded_postgres_process(durable=False) as server:
        yield server.url


@pytest.fixture(scope="session")
def template_url(server_url: str) -> Iterator[str]:
    """The address of a migrated database to copy; nobody connects to it."""
    with template_database(server_url, lambda url: asyncio.run(migrate(url))) as url:
        yield url


@pytest.fixture
def database_url(template_url: str) -> Iterator[str]:
    """The address of a fresh migrated database of this test's own."""
    with fresh_database(template_url) as url:
        yield url


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    """The address of a database without any table."""
    with (
        template_database(server_url, lambda _url: None) as template,
        fresh_database(template) as url,
    ):
        yield url
