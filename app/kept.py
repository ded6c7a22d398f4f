"""Run a program for the length of a block, under a keeper, so that nothing is left behind.

Whatever ends the owner also ends the program and removes its private directory: that is the
keeper's part (:mod:`app.keeper`, a process of its own). Here is the owner's part: start the keeper,
hear what became of the program, end both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

from app import keeper
from ticker_service.errors import ConfigurationError, TickerServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

# A keeper takes about 0.05 s; what takes this long is a machine that swaps.
START_S: Final = 20.0
STOP_MARGIN_S: Final = 10.0


class EmbeddedServerError(TickerServiceError):
    """A program under a keeper did not start or did not become ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepOptions:
    """How a program is started and ended, beyond what :func:`keep` takes itself.

    Attributes:
        stdin: What the program reads on standard input, at most 4,096 bytes: the way in for
            secrets, which everyone could read in its arguments.
        stop_signal: What asks the program to end.
        grace_s: Seconds from there to SIGKILL.
        user: ``(uid, gid)`` to run as, when we are root; the directory becomes theirs.
    """

    stdin: bytes = field(default=b"", repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = keeper.GRACE_S
    user: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.stdin) > keeper.INPUT_BYTES_MAX:
            raise ConfigurationError(
                f"Condition failed: stdin of a kept program bytes={len(self.stdin)}"
                f" limit_bytes={keeper.INPUT_BYTES_MAX}"
            )


DEFAULT_OPTIONS: Final = KeepOptions()


class Child:
    """A program and its keeper, both running when :func:`keep` hands this out.

    Thread/Task: belongs to the event loop it was started in.

    Attributes:
        keeper_pid: Process id of the keeper.
        pid: Process id of the program.
        returncode: How it ended, or ``None`` while it runs: the program's exit status, 128 + N
            when signal N ended it, negative when the keeper itself was killed.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, lifeline: int, report: int) -> None:
        self.keeper_pid = process.pid
        self.pid = 0
        self.returncode: int | None = None
        self._process = process
        # The write end of the keeper's standard input. Nobody else has it: Python's descriptors
        # are not inheritable. Forked workers, which share it, are covered by `--owner`.
        self._lifeline = lifeline
        self._report = report
        self._reported = asyncio.Event()
        self._ended = asyncio.Event()
        self._refusal = ""
        os.set_blocking(report, False)
        asyncio.get_running_loop().add_reader(report, self._read_report)

    def terminate(self) -> None:
        """Ask the keeper to end the program; it will, whatever becomes of us."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    async def wait(self) -> int:
        """Wait until program, keeper and private directory are gone; return the exit status."""
        await self._ended.wait()
        return self._process.wait()

    async def started(self) -> None:
        """Wait until the program runs.

        Raises:
            EmbeddedServerError: It does not, for the reason given.
        """
        try:
            async with asyncio.timeout(START_S):
                await self._reported.wait()
        except TimeoutError as error:
            raise EmbeddedServerError(f"a keeper is silent limit_s={START_S}") from error
        if not self.pid:
            reason = self._refusal or f"the keeper ended with status {self.returncode}"
            raise EmbeddedServerError(f"a program did not start: {reason}")

    async def stop(self, *, grace_s: float) -> None:
        """End the program and wait; kill a keeper that does not answer in time."""
        self.terminate()
        try:
            async with asyncio.timeout(grace_s + STOP_MARGIN_S):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()
        finally:
            # Cancelled while it stops: the keeper goes on alone.
            if self.returncode is None:
                self._let_go()

    def _read_report(self) -> None:
        """Take what the keeper says; its end-of-file is the keeper's end, noticed without polls."""
        line = os.read(self._report, keeper.REPORT_BYTES_MAX).decode(errors="replace").strip()
        if line.isdecimal():
            self.pid = int(line)
        elif line:
            self._refusal = line
        else:
            self._let_go()
            self.returncode = self._process.wait()
            if self.returncode < 0 and self.pid:
                # Somebody killed the keeper: what it would have done is left to us.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._ended.set()
        self._reported.set()

    def _let_go(self) -> None:
        asyncio.get_running_loop().remove_reader(self._report)
        os.close(self._report)
        self.terminate()


@contextlib.asynccontextmanager
async def keep(
    command: Sequence[str | Path],
    *,
    directory: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    options: KeepOptions = DEFAULT_OPTIONS,
) -> AsyncIterator[Child]:
    """Run a program under a keeper for the length of the block.

    Args:
        command: Program and arguments. No secrets: everyone can read them.
        directory: Private directory (ours, mode 0700) that is gone after the block.
        env: Environment of the program; ours when left out. A C locale becomes C.UTF-8 on the way.
        stdout: As for :class:`subprocess.Popen`, without ``PIPE``.
        stderr: Likewise.
        options: How it is started and ended.

    Raises:
        EmbeddedServerError: The program could not be run, or the directory is not private.
    """
    if directory is not None:
        _check_removable(directory, options)
    child: Child | None = None
    try:
        child = _spawn(command, directory, env, stdout, stderr, options)
        await child.started()
        yield child
    finally:
        if child is not None:
            await child.stop(grace_s=options.grace_s)
        # Normally the keeper has done so; one that was killed leaves it to us. When we are too much
        # in a hurry to wait (cancelled again), the keeper is still at it, and does so.
        if directory is not None and (child is None or child.returncode is not None):
            shutil.rmtree(directory, ignore_errors=True)


def _check_removable(directory: Path, options: KeepOptions) -> None:
    # The keeper checks it too; here it saves the directory from our own hand.
    try:
        keeper.check_private(directory, user=options.user)
    except (OSError, keeper.NotStarted) as error:
        raise EmbeddedServerError(f"a program was not started: {error}") from error


def _spawn(
    command: Sequence[str | Path],
    directory: Path | None,
    env: Mapping[str, str] | None,
    stdout: int | IO[bytes] | None,
    stderr: int | IO[bytes] | None,
    options: KeepOptions,
) -> Child:
    stdin, lifeline = os.pipe()
    report, report_write = os.pipe()
    arguments = [sys.executable, "-I", "-S", keeper.__file__]
    arguments += ["--owner", str(os.getpid()), "--report-fd", str(report_write)]
    arguments += ["--input-bytes", str(len(options.stdin)), "--grace-s", str(options.grace_s)]
    arguments += ["--stop-signal", options.stop_signal.name]
    if directory is not None:
        arguments += ["--directory", str(directory)]
    if options.user is not None:
        arguments += ["--user", ":".join(map(str, options.user))]
    try:
        # The pipe holds it until the keeper is up; see keeper.INPUT_BYTES_MAX.
        os.write(lifeline, options.stdin)
        process = subprocess.Popen(  # noqa: S603 - no shell; the caller names the program
            [*arguments, "--", *map(str, command)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            pass_fds=[report_write],
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline)
        os.close(report)
        raise
    finally:
        os.close(stdin)
        os.close(report_write)
    return Child(process, lifeline=lifeline, report=report)
