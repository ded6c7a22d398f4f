"""Parquet on a real disk: what a reader of the folder finds, at any moment and after a kill."""

from __future__ import annotations

import asyncio
import resource
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from port_contracts import ColumnPartsContract

from ticker_service.adapters.parquet_parts import ParquetParts
from ticker_service.adapters.record_folder import LocalFolder
from ticker_service.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PART = "columns/date=2026-11-20/book=NIFTY/7-0000.parquet"
stream = ColumnPartsContract.stream


class _OnDisk:
    def __init__(self, root: Path) -> None:
        self.parts = ParquetParts(root)
        self._root = root

    def names(self) -> list[str]:
        found = ds.dataset(self._root, format="parquet").files if self._root.exists() else []
        return [Path(name).relative_to(self._root).as_posix() for name in found]

    def seqs(self, name: str) -> list[int]:
        found: list[int] = pq.read_table(self._root / name)["seq"].to_pylist()
        return found


class TestParquetParts(ColumnPartsContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_OnDisk]:
        with tempfile.TemporaryDirectory() as root:
            yield _OnDisk(Path(root) / "not yet there")


def test_a_folder_of_parts_is_read_as_one_table_by_day_and_book(tmp_path: Path) -> None:
    async def scenario() -> None:
        parts = ParquetParts(tmp_path)
        for day, book, seq in (("20", "NIFTY", 1), ("20", "MANDM", 2), ("21", "NIFTY", 3)):
            name = f"columns/date=2026-11-{day}/book={book}/7-0000.parquet"
            await parts.append(name, [stream(seq).replace(b"book", b"name")])
            await parts.close(name)
        unfinished = PART.replace("-0000", "-0001")
        await parts.append(unfinished, [stream(4)])
        found.append(ds.dataset(tmp_path / "columns", partitioning="hive").to_table())
        await parts.abandon(unfinished)

    found: list[Any] = []
    asyncio.run(scenario())
    rows = {(row["date"], row["book"], row["seq"]) for row in found[0].to_pylist()}
    assert rows == {
        ("2026-11-20", "NIFTY", 1),
        ("2026-11-20", "MANDM", 2),
        ("2026-11-21", "NIFTY", 3),
    }


def test_a_group_of_rows_is_bounded_however_much_comes_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        parts = ParquetParts(tmp_path)
        await parts.append(PART, [stream(*range(200_000))])
        await parts.close(PART)

    asyncio.run(scenario())
    metadata = pq.read_metadata(tmp_path / PART)
    assert metadata.num_rows == 200_000
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert max(groups) == 65_536


def test_a_part_that_does_not_fit_is_a_clear_error_and_can_be_abandoned(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario() -> None:
        parts = ParquetParts(tmp_path)
        await parts.append(PART, [stream(1)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        try:
            with pytest.raises(RecordingError, match="7-0000"):
                await parts.append(PART, [stream(*range(100_000))])
            await parts.abandon(PART)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    asyncio.run(scenario())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_part_of_a_living_run_is_not_deleted_as_a_dead_one_s(tmp_path: Path) -> None:
    async def scenario() -> None:
        parts, folder = ParquetParts(tmp_path), LocalFolder(tmp_path)
        await parts.append(PART, [stream(1)])
        (unfinished,) = [file.name for file in await folder.files()]
        assert unfinished.endswith(".open")
        assert not await folder.delete(unfinished)
        await parts.close(PART)
        assert [file.name for file in await folder.files()] == [PART]

    asyncio.run(scenario())
