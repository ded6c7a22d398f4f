"""What the tests of kept programs share: deadlines on processes, and owners to kill."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S: Final = 30.0
ROOT: Final = Path(__file__).resolve().parents[3]
KEEPER: Final = ROOT / "app" / "keeper.py"

# An owner as a user writes it: it says what it started, then waits to be ended.
OWNER: Final = """
import asyncio
from app.embedded import embedded_redis

async def main():
    async with embedded_redis() as server:
        print(server.child.keeper_pid, server.child.pid, server.directory, server.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Watched:
    """A process whose end can be awaited, whoever its parent is."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        # A pidfd also sees the end of a process that nobody has reaped yet.
        self._fd = os.pidfd_open(pid) if sys.platform == "linux" else -1

    def has_ended(self, *, within_s: float = DEADLINE_S) -> bool:
        if self._fd < 0:
            return eventually(self._is_unknown, within_s=within_s)
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _is_unknown(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Watched]:
    process = Watched(pid)
    try:
        yield process
    finally:
        process.close()


def eventually(condition: Callable[[], bool], *, within_s: float = DEADLINE_S) -> bool:
    """Ask until the condition holds or the time is over."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)  # the pace of asking, not a wait for something to have happened
    return True


@contextlib.contextmanager
def owner(program: str = OWNER) -> Iterator[subprocess.Popen[str]]:
    """Run Python code that starts kept programs, in a process group of its own."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def kept(
    *command: str, options: tuple[str, ...] = (), pass_fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Run the keeper by hand. Without -I -S, so that coverage sees it; the rest runs it as shipped."""
    with subprocess.Popen(
        [sys.executable, "-P", KEEPER, *options, "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
        start_new_session=True,
    ) as process:
        yield process


@dataclass(frozen=True, kw_only=True)
class Owned:
    """An owner in a process of its own, and the server it has started."""

    owner: subprocess.Popen[str]
    keeper: Watched
    program: Watched
    directory: Path
    port: int


@contextlib.contextmanager
def owned_server(program: str = OWNER) -> Iterator[Owned]:
    with owner(program) as process:
        assert process.stdout is not None
        keeper_pid, program_pid, directory, url = process.stdout.readline().split()
        with watched(int(keeper_pid)) as keeper, watched(int(program_pid)) as server:
            yield Owned(
                owner=process,
                keeper=keeper,
                program=server,
                directory=Path(directory),
                port=int(url.rsplit(":", 1)[1].split("/")[0]),
            )
