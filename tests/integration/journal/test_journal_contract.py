"""The journal on PostgreSQL keeps the contract of its port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from journal_values import journal_at
from order_journal_contract import OrderJournalContract

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ticker_service.ports import OrderJournal


class TestPostgresJournal(OrderJournalContract):
    @pytest.fixture(autouse=True)
    def _database(self, database_url: str) -> None:
        self.url = database_url

    def open(self) -> AbstractAsyncContextManager[OrderJournal]:
        return journal_at(self.url)
