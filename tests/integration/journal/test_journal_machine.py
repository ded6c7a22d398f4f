"""Hypothesis looks for a life of orders that breaks a promise, on the journal in PostgreSQL."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from journal_values import ACCOUNT, journal_at
from order_machine import OrderMachine

from app.fresh_databases import fresh_database
from ticker_service.adapters.postgres_journal import PostgresJournal

if TYPE_CHECKING:
    from ticker_service.ports import OrderJournal


class PostgresMachine(OrderMachine):
    template_url: ClassVar[str]

    async def open_two(self) -> tuple[PostgresJournal, PostgresJournal]:
        self.stack = contextlib.ExitStack()
        self.url = self.stack.enter_context(fresh_database(self.template_url))
        one, other = journal_at(self.url), journal_at(self.url)
        await one.open()
        await other.open()
        return one, other

    async def cut(self, journal: OrderJournal) -> None:
        assert journal.is_writer(ACCOUNT)
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            found = await connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            assert await found.fetchall() == [(True,)]

    async def notice(self, journal: OrderJournal) -> None:
        assert isinstance(journal, PostgresJournal)
        assert await journal.heartbeat() == {ACCOUNT}

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "stack"):
            self.stack.close()


@pytest.mark.slow
def test_no_life_of_orders_breaks_a_promise(template_url: str) -> None:
    PostgresMachine.template_url = template_url
    run_state_machine_as_test(
        PostgresMachine,
        settings=settings(
            max_examples=4,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
