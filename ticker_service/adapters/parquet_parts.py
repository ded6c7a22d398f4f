"""Published columns as Parquet files. Port ``ColumnParts``.

A part grows under a name that begins with a dot and ends in ``.open``, which readers of Parquet
folders pass over, and gets its own name when it is whole. The file is locked meanwhile, so that
what a killed run left is told from what another run is writing. Needs the optional extra ``arrow``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
from pyarrow import parquet

from ticker_service.adapters.record_folder import sync_folder
from ticker_service.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import TypeVar

    T = TypeVar("T")

ROW_GROUP_ROWS: Final = 1 << 16
ZSTD_LEVEL: Final = 3
HARDLY_REPEATED: Final = frozenset({"implied_volatility", "delta", "gamma", "theta", "vega", "rho"})
"""A dictionary of their values is a detour: without, 82 bytes a row became 73, in half the time."""
PERMISSIONS: Final = 0o640


@dataclass(frozen=True, slots=True)
class _Open:
    path: Path
    target: Path
    file: BinaryIO
    writer: Any


class ParquetParts:
    """The parts below one folder, which is made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, _Open] = {}

    async def append(self, name: str, streams: Iterable[bytes]) -> int:
        """Add rows to a part; return by how many bytes its file grew."""
        return await _in_thread(lambda: self._append(name, streams), name)

    async def close(self, name: str) -> None:
        """Finish a part and let it appear under its name."""
        await _in_thread(lambda: self._close(name), name)

    async def abandon(self, name: str) -> None:
        """Drop an unfinished part."""
        part = self._open.pop(name, None)
        if part is not None:
            with contextlib.suppress(RecordingError):
                await _in_thread(lambda: _drop(part), name)

    def _append(self, name: str, streams: Iterable[bytes]) -> int:
        before = 0
        for stream in streams:
            table = pa.ipc.open_stream(stream).read_all()
            if name not in self._open:
                self._open[name] = self._begin(name, table.schema)
            part = self._open[name]
            before = before or part.file.tell()
            part.writer.write_table(table, ROW_GROUP_ROWS)
        return self._open[name].file.tell() - before if name in self._open else 0

    def _begin(self, name: str, schema: pa.Schema) -> _Open:
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise FileExistsError(f"there is such a file: {target}")
        path = target.with_name(f".{target.name}.open")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, PERMISSIONS)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file = os.fdopen(descriptor, "wb")
        writer = parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            use_dictionary=[name for name in schema.names if name not in HARDLY_REPEATED],
        )
        return _Open(path, target, file, writer)

    def _close(self, name: str) -> None:
        part = self._open[name]
        part.writer.close()
        part.file.flush()
        os.fsync(part.file.fileno())
        part.path.rename(part.target)
        del self._open[name]
        part.file.close()
        for folder in [each for each in part.target.parents if each.is_relative_to(self._root)]:
            sync_folder(folder)


def _drop(part: _Open) -> None:
    part.path.unlink(missing_ok=True)
    # Its end can no longer be written, and would only fail again.
    with contextlib.suppress(OSError, pa.ArrowException):
        part.writer.close()
    with contextlib.suppress(OSError):
        part.file.close()


async def _in_thread(work: Callable[[], T], name: str) -> T:
    try:
        return await asyncio.to_thread(work)
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"{name}: {error}") from error
