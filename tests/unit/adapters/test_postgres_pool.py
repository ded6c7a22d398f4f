"""What a database address may be, and that its password stays with us."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.errors import ConfigurationError, JournalUnavailable

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "url", [f"postgresql://desk:{SECRET}@[bad", f"mysql {SECRET}", f"postgresql://h/d?{SECRET}=1"]
)
def test_an_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        PostgresJournal(url)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_no_password_in_what_is_said_of_a_database_that_is_not_there() -> None:
    journal = PostgresJournal(f"postgresql://desk:{SECRET}@127.0.0.1:1/orders")
    with pytest.raises(JournalUnavailable) as gone:
        asyncio.run(journal.open())
    assert SECRET not in "".join(traceback.format_exception(gone.value))
    assert SECRET not in repr(journal)
    assert not journal.is_available
