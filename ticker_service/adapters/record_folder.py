"""Recordings on a local disk. Port ``RecordFolder``.

Every call runs in a worker thread. A file is made by the run that writes it, only ever grows, and
is locked while it is open, so that a deletion by limits, in this process or in another one beside
it, leaves it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING, Final

from ticker_service.errors import RecordingError
from ticker_service.ports import RecordedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import TypeVar

    T = TypeVar("T")

PERMISSIONS: Final = 0o640


class LocalFolder:
    """The recordings below one folder, which is made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    async def append(self, name: str, parts: Iterable[bytes], *, sync: bool) -> int:
        """Add to the end of a file, making it if this run has not yet; return the bytes added."""
        return await _in_thread(lambda: self._append(name, parts, sync=sync), name)

    async def close(self, name: str) -> None:
        """Bring a file to the disk and let go of it."""
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            with contextlib.suppress(RecordingError):  # nothing is lost that a crash would keep
                await _in_thread(lambda: _sync(descriptor), name)
            os.close(descriptor)

    async def free_bytes(self) -> int:
        """Return how much room is left for this user."""
        return await _in_thread(lambda: shutil.disk_usage(self._made(self._root)).free, "")

    async def files(self) -> Sequence[RecordedFile]:
        """Return everything that is there."""
        return await _in_thread(self._files, "")

    async def delete(self, name: str) -> bool:
        """Delete a file unless somebody holds it open for writing; return whether it is gone."""
        return await _in_thread(lambda: self._delete(name), name)

    def _append(self, name: str, parts: Iterable[bytes], *, sync: bool) -> int:
        if name not in self._open:
            self._open[name] = self._create(name)
        descriptor = self._open[name]
        count = 0
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(descriptor, left) :]
            count += len(part)
        if sync:
            _sync(descriptor)
        return count

    def _create(self, name: str) -> int:
        path = self._root / name
        self._made(path.parent)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, PERMISSIONS)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Else a power cut could keep the bytes and lose the name, or that of a folder just made.
        for folder in [parent for parent in path.parents if parent.is_relative_to(self._root)]:
            sync_folder(folder)
        return descriptor

    def _files(self) -> list[RecordedFile]:
        found = []
        for path in self._made(self._root).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # deleted by another run meanwhile
                if path.is_file() and not path.is_symlink():
                    name = path.relative_to(self._root).as_posix()
                    found.append(RecordedFile(name=name, size_bytes=path.stat().st_size))
        return found

    def _delete(self, name: str) -> bool:
        path = self._root / name
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty yet
            path.parent.rmdir()
        return True

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(descriptor)


async def _in_thread(work: Callable[[], T], name: str) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise RecordingError(f"{name or 'recordings'}: {error}") from error
