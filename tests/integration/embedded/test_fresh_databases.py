"""Databases for tests: a copy of the template each, independent of each other, then gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from app.embedded import embedded_postgres_process
from app.fresh_databases import fresh_database, template_database

if TYPE_CHECKING:
    from collections.abc import Iterator


def migrate(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
        connection.execute("INSERT INTO orders VALUES (1)")


def orders(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM orders ORDER BY id")]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with embedded_postgres_process(durable=False) as server:
        yield server.url


@pytest.fixture(scope="module")
def template(server_url: str) -> Iterator[str]:
    with template_database(server_url, migrate) as url:
        yield url


def databases(server_url: str) -> set[str]:
    with psycopg.connect(server_url) as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}


def name_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


def test_a_fresh_database_is_a_migrated_one(template: str) -> None:
    with fresh_database(template) as url:
        assert orders(url) == [1]


def test_fresh_databases_are_independent(template: str) -> None:
    with fresh_database(template) as one, fresh_database(template) as other:
        with psycopg.connect(one) as connection:
            connection.execute("INSERT INTO orders VALUES (2)")
        assert orders(one) == [1, 2]
        assert orders(other) == [1]
    with fresh_database(template) as later:
        assert orders(later) == [1]


def test_a_fresh_database_is_dropped_even_while_in_use(server_url: str, template: str) -> None:
    with fresh_database(template) as url:
        assert name_of(url) in databases(server_url)
        connection = psycopg.connect(url)
    assert name_of(url) not in databases(server_url)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()


def test_a_fresh_database_is_dropped_after_an_error(server_url: str, template: str) -> None:
    with pytest.raises(LookupError), fresh_database(template) as url:
        raise LookupError
    assert name_of(url) not in databases(server_url)


def test_several_are_made_at_the_same_time(template: str) -> None:
    def use(_turn: int) -> list[int]:
        with fresh_database(template) as url:
            return orders(url)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, range(8))) == [[1]] * 8


def test_nobody_can_change_the_template_any_more(template: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        psycopg.connect(template)


def test_a_template_that_cannot_be_filled_is_dropped(server_url: str) -> None:
    before = databases(server_url)

    def fail(_url: str) -> None:
        raise LookupError

    with pytest.raises(LookupError), template_database(server_url, fail):
        pytest.fail("the template is not ready")
    assert databases(server_url) == before
