"""Recordings on a real disk: what the folder promises beyond its port."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from port_contracts import RecordFolderContract

from ticker_service.adapters.record_folder import LocalFolder
from ticker_service.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TestLocalFolder(RecordFolderContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[LocalFolder]:
        with tempfile.TemporaryDirectory() as root:
            yield LocalFolder(Path(root) / "not yet there")


def test_files_and_folders_appear_when_they_are_needed(tmp_path: Path) -> None:
    root = tmp_path / "state" / "record"

    async def scenario() -> None:
        await LocalFolder(root).append("frames/2026-11-20/a.tape", [b"abc"], sync=True)

    asyncio.run(scenario())
    path = root / "frames/2026-11-20/a.tape"
    assert path.read_bytes() == b"abc"
    assert path.stat().st_mode & 0o007 == 0


def test_a_folder_that_is_not_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "record").write_text("a file")
    folder = LocalFolder(tmp_path / "record")

    async def scenario() -> None:
        for attempt in (
            folder.append("frames/a.tape", [b""], sync=False),
            folder.free_bytes(),
            folder.files(),
        ):
            with pytest.raises(RecordingError, match="record"):
                await attempt

    asyncio.run(scenario())


def test_a_file_that_another_process_writes_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "frames" / "a.tape"
    path.parent.mkdir()
    path.write_bytes(b"abc")
    descriptor = os.open(path, os.O_WRONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another process's folder does
    folder = LocalFolder(tmp_path)
    assert not asyncio.run(folder.delete("frames/a.tape"))
    os.close(descriptor)
    assert asyncio.run(folder.delete("frames/a.tape"))
    assert not path.parent.exists()


def test_deleting_what_is_gone_already_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="frames/a"):
        asyncio.run(LocalFolder(tmp_path).delete("frames/a.tape"))


def test_a_write_that_does_not_fit_is_a_clear_error_and_keeps_what_did(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario() -> None:
        await folder.append("a.tape", [b"x" * 1_000], sync=False)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, hard))
        try:
            with pytest.raises(RecordingError, match=r"a\.tape"):
                await folder.append("a.tape", [b"y" * 1_000], sync=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await folder.close("a.tape")

    asyncio.run(scenario())
    assert (tmp_path / "a.tape").read_bytes() == b"x" * 1_000 + b"y" * 500


def test_a_link_is_not_a_recording(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"not ours")
    folder = LocalFolder(tmp_path / "record")

    async def scenario() -> list[str]:
        await folder.append("a.tape", [b"x"], sync=False)
        (tmp_path / "record" / "link.tape").symlink_to(tmp_path / "elsewhere")
        return [file.name for file in await folder.files()]

    assert asyncio.run(scenario()) == ["a.tape"]
