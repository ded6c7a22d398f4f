"""Files that were made to break the pricer end in one clear line, whatever is in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.cli import cli

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "timestamp,expiry,strike,instrument_type,close,volume,forward,underlying"
GOOD = ("2026-11-20T10:00:00", "2026-11-24", "25000", "CE", "120", "75", "25010", "NIFTY")
CELL = st.one_of(
    st.sampled_from(["", "nan", "-inf", "1e400", "1_000", "0x10", "٣", "=1+1", '"', "1,5", "\x00"]),
    st.text(max_size=12),
    st.floats().map(repr),
    st.datetimes().map(str),
    st.dates().map(str),
)
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_answered(path: Path) -> None:
    """Priced, or refused in one line that names the file."""
    answer = CliRunner().invoke(cli, ["greeks", str(path), "--out", str(path) + ".csv"])

    assert answer.exit_code in {0, 1}, answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    assert len(answer.stderr.splitlines()) == 1
    assert (answer.exit_code == 0) == os.path.exists(str(path) + ".csv")  # noqa: PTH110
    if answer.exit_code == 0:
        os.unlink(str(path) + ".csv")  # noqa: PTH108


@FUZZ
@given(column=st.integers(0, len(GOOD) - 1), cell=CELL)
@example(column=0, cell="0001-01-01T00:00:00+23:59")
@example(column=0, cell="9999-12-31")
@example(column=1, cell="0001-01-01")
def test_any_cell_is_priced_or_refused(tmp_path: Path, column: int, cell: str) -> None:
    cells = [*GOOD[:column], '"' + cell.replace('"', '""') + '"', *GOOD[column + 1 :]]
    path = tmp_path / "day.csv"
    path.write_text(f"{HEADER}\n{','.join(cells)}\n", encoding="utf-8", errors="replace")

    assert_answered(path)


@FUZZ
@given(
    content=st.binary(max_size=300)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_any_bytes_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"day{suffix}"
    path.write_bytes(content)

    assert_answered(path)


def test_a_cell_of_megabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text(f"{HEADER}\n{'9' * 5_000_000},{','.join(GOOD[1:])}\n")

    assert_answered(path)
