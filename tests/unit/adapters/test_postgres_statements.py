"""The journal's SQL files: each is used, and each says what it is for."""

from __future__ import annotations

import dataclasses
from importlib import resources

import pytest

from ticker_service.adapters.postgres_migrate import packaged
from ticker_service.adapters.postgres_statements import Statements

FILES = sorted(file.name for file in (resources.files("ticker_service.adapters") / "sql").iterdir())


def test_every_file_is_a_statement_of_the_journal_and_every_statement_a_file() -> None:
    names = {f"{field.name}.sql" for field in dataclasses.fields(Statements)}
    assert names == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_statement_begins_with_its_purpose_and_is_one(name: str) -> None:
    text = getattr(Statements.load(), name.removesuffix(".sql")).decode()
    assert text.startswith("-- ")
    assert ";" not in "".join(line for line in text.splitlines() if not line.startswith("--"))


def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [int(migration.name[:4]) for migration in packaged()]
    assert numbers == list(range(1, len(numbers) + 1))
