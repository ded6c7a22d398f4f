"""The fault matrix of ``docs/reliability.md`` has every row it is to have, and its tests exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).resolve().parents[1]
TEXT: Final = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
TABLE: Final = TEXT.partition("## Fault matrix")[2].partition("\n## ")[0]
ROW: Final = re.compile(r"^\| (F\d+) \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
NAMED: Final = re.compile(r"`([\w/]+\.py)::(\w+)`")
DEMANDED: Final = [
    f"F{number}" for number in (*range(1, 23), *range(24, 29), 32, 33, 35, 36, 37, 38)
]
ROWS: Final = {row[0]: row[3] for row in ROW.findall(TABLE)}


@functools.cache
def functions_of(name: str) -> frozenset[str]:
    """Return the functions that a test file defines, in classes or not."""
    (path,) = TESTS.rglob(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_fault_has_its_row_once_and_in_order() -> None:
    assert [row[0] for row in ROW.findall(TABLE)] == DEMANDED


@pytest.mark.parametrize("fault", DEMANDED)
def test_every_row_names_tests_that_there_are(fault: str) -> None:
    named = NAMED.findall(ROWS[fault])

    assert named, f"{fault} names no test"
    missing = [f"{name}::{test}" for name, test in named if test not in functions_of(name)]
    assert missing == []
