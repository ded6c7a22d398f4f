"""Stand between an owner and one program, so that nothing is left behind whatever dies.

    python -I -S keeper.py [OPTIONS] -- PROGRAM ARGUMENTS...

A program of its own, run by path in a session of its own, with the standard library only: it has
to start in milliseconds and to outlive whatever is wrong with its owner.

What is wanted: when the owner ends in any way, the program ends and its private directory goes.
What does not work: clean-up code in the owner (kill -9 skips it), a parent-death signal alone
(nobody is left to remove the directory, and macOS has none), a daemon (outlives everybody).
What is done: standard input is a pipe whose write end only the owner holds, so the kernel itself
reports the owner's end as end-of-file. At end-of-file, or at SIGTERM, SIGINT or SIGHUP, the
program gets its stop signal, after the grace time its whole process group is killed, then the
directory is removed. On Linux the program also dies with a keeper that is killed with -9 (the
owner then removes the directory), and descendants that left the group are found and killed too.
What stays open: after kill -9 of the keeper, the program's own children are up to the program
(PostgreSQL's and Valkey's follow their parent); without Linux, so is the program itself.
Guarded by ``tests/integration/embedded/test_keeper.py``.

Exit status: the program's; 128 + N when signal N ended it; 125 when the keeper refused to start
it, 126 when it could not be run, 127 when it was not found.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import os
import select
import shutil
import signal
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

STDIN: Final = 0
STDERR: Final = 2
# The first bytes for the program travel through pipes that nobody reads yet. Every system's pipe
# takes this many without blocking, also Linux' one-page pipes of a user who holds many.
INPUT_BYTES_MAX: Final = 4096
REPORT_BYTES_MAX: Final = 512
GRACE_S: Final = 5.0
STATUS_REFUSED: Final = 125
STATUS_NOT_RUN: Final = 126
STATUS_NOT_FOUND: Final = 127
STATUS_SIGNAL_BASE: Final = 128
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Python ignores these; a program expects the system's own behaviour.
SIGNALS_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
# The kernel's numbers; Python has no names for them.
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36


class NotStarted(Exception):  # noqa: N818 - a state of the program, with the status to leave with
    """The program does not run; the message says why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Options(argparse.Namespace):
    directory: Path | None
    grace_s: float
    input_bytes: int
    owner: int | None
    report_fd: int | None
    stop_signal: signal.Signals
    user: tuple[int, int] | None
    command: list[str]


def main(arguments: Sequence[str]) -> int:
    """Run the program named after ``--`` until it ends or has to end.

    Returns:
        The exit status, as described at the top of this module.
    """
    options = _parse(arguments)
    try:
        if options.directory is not None:
            check_private(options.directory, user=options.user)
    except (OSError, NotStarted) as error:
        _report(options, str(error))
        return STATUS_REFUSED

    wakeups = _Wakeups()
    _adopt_orphans()
    try:
        return _run(options, wakeups)
    except NotStarted as error:
        _report(options, str(error))
        return error.status
    except OSError as error:
        _report(options, str(error))
        return STATUS_REFUSED
    finally:
        if options.directory is not None:
            shutil.rmtree(options.directory, ignore_errors=True)


def _run(options: _Options, wakeups: _Wakeups) -> int:
    if options.owner is not None:
        wakeups.watch_owner(options.owner)
    first_input = _read_input(options.input_bytes)
    if options.directory is not None and options.user is not None:
        os.chown(options.directory, *options.user)
    program = _start(options, first_input)
    try:
        _report(options, str(program))
        status = _wait(program, options, wakeups)
    finally:
        _kill_leftovers(program)
    return status if status >= 0 else STATUS_SIGNAL_BASE - status


class _Wakeups:
    """Everything that can end the wait, as file descriptors of one poll: no race, no timer."""

    def __init__(self) -> None:
        self._signals, write = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(write, False)
        # First the pipe, then the handlers: a signal in between must not get lost.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, _noticed)
        # An owner that blocks signals hands its mask down.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self._poll = select.poll()
        self._poll.register(self._signals, select.POLLIN)
        self._poll.register(STDIN, select.POLLIN)

    def watch_owner(self, owner: int) -> None:
        """Also end with the process ``owner``, the keeper's parent.

        End-of-file alone misses an owner whose forked worker still holds the write end.
        """
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError):
                self._poll.register(os.pidfd_open(owner), select.POLLIN)
        # After, not before: had the owner ended earlier, its number might be another's by now.
        if os.getppid() != owner:
            raise NotStarted("the owner has ended", STATUS_REFUSED)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for a signal, the owner's end or the timeout; return whether to stop."""
        stop = False
        for fd, _ in self._poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000)):
            if fd == self._signals:
                stop |= any(number != signal.SIGCHLD for number in os.read(fd, REPORT_BYTES_MAX))
            elif fd != STDIN or not os.read(fd, INPUT_BYTES_MAX):
                self._poll.unregister(fd)
                stop = True
        return stop


def _noticed(_number: int, _frame: FrameType | None) -> None:
    """Exist, so that the signal reaches the wakeup pipe instead of its default action."""


def _wait(program: int, options: _Options, wakeups: _Wakeups) -> int:
    """Return the program's exit code, ending it when asked to."""
    kill_at: float | None = None
    while (status := _reap(program)) is None:
        if kill_at is None:
            if wakeups.wait(None):
                os.kill(program, options.stop_signal)
                kill_at = time.monotonic() + options.grace_s
        elif (left_s := kill_at - time.monotonic()) > 0:
            wakeups.wait(left_s)
        else:
            _kill_group(program)
            # The program itself, should it have moved to another group.
            os.kill(program, signal.SIGKILL)
            wakeups.wait(None)
    return status


def _reap(program: int) -> int | None:
    """Collect whoever has ended; return the program's exit code once it is among them."""
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == program:
            return os.waitstatus_to_exitcode(status)
        if ended == 0:
            return None


def _kill_leftovers(program: int) -> None:
    # The program is reaped already, but its number cannot be another group's: the kernel gives it
    # to nobody while a member lives, and hands numbers out in turn.
    _kill_group(program)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(ChildProcessError, FileNotFoundError):
        while True:
            for child in children.read_text(encoding="ascii").split():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(child), signal.SIGKILL)
            # One at a time: the children of each become ours, and are in the next reading.
            os.waitpid(-1, 0)


def _kill_group(group: int) -> None:
    # PermissionError is macOS' word for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _start(options: _Options, first_input: bytes) -> int:
    """Return the process id of the program, which is running by then."""
    stdin = _stdin(first_input)
    keeper = os.getpid()
    trouble, trouble_write = os.pipe()
    program = os.fork()
    if program == 0:
        _become_program(options, stdin=stdin, trouble=trouble_write, keeper=keeper)
    os.close(stdin)
    os.close(trouble_write)
    # The pipe closes without a byte when the program has taken over the process.
    with open(trouble, "rb") as reader:  # noqa: PTH123 - a descriptor, not a path
        reason = reader.read()
    if not reason:
        return program
    _, status = os.waitpid(program, 0)
    raise NotStarted(
        f"cannot run {options.command[0]}: {reason.decode(errors='replace')}",
        os.waitstatus_to_exitcode(status),
    )


def _become_program(options: _Options, *, stdin: int, trouble: int, keeper: int) -> NoReturn:
    status = STATUS_NOT_RUN
    try:
        signal.set_wakeup_fd(-1)
        for number in (*STOP_SIGNALS, signal.SIGCHLD, *SIGNALS_IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.dup2(stdin, STDIN)
        if options.user is not None:
            uid, gid = options.user
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        # After the change of user, which clears it.
        _die_with(keeper)
        os.execvp(options.command[0], options.command)  # noqa: S606 - no shell is the point
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            status = STATUS_NOT_FOUND
        os.write(trouble, (error.strerror or str(error)).encode()[:REPORT_BYTES_MAX])
    finally:
        # Reached only when there is no program: nothing of the keeper may run twice.
        os._exit(status)


def _stdin(first_input: bytes) -> int:
    if not first_input:
        return os.open(os.devnull, os.O_RDONLY)
    read, write = os.pipe()
    os.write(write, first_input)
    os.close(write)
    return read


def _read_input(count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = os.read(STDIN, count - len(received))
        if not part:
            raise NotStarted("the owner has ended", STATUS_REFUSED)
        received += part
    return received


def check_private(directory: Path, *, user: tuple[int, int] | None) -> None:
    """Refuse what must not be deleted: only a private directory of ours goes.

    Raises:
        NotStarted: The path is no directory, another user's, or open to others.
        OSError: The path cannot be looked at.
    """
    facts = directory.lstat()
    owners = {os.geteuid()} if user is None else {os.geteuid(), user[0]}
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in owners or facts.st_mode & 0o077:
        raise NotStarted(
            f"Condition failed: {directory} is to be a directory of uid {os.geteuid()}, mode 0700;"
            f" uid={facts.st_uid} mode={stat.filemode(facts.st_mode)}",
            STATUS_REFUSED,
        )


def _die_with(keeper: int) -> None:
    """Ask Linux to kill this process when the keeper dies, even by kill -9."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # A keeper that died before the call above would never be noticed.
        if os.getppid() != keeper:
            raise ProcessLookupError("the keeper has ended")


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, instead of process 1."""
    if sys.platform == "linux":
        _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _report(options: _Options, line: str) -> None:
    """Tell the owner the program's process id, or in words why there is none."""
    with contextlib.suppress(OSError):  # An owner that has gone needs no report.
        if options.report_fd is not None:
            os.write(options.report_fd, os.fsencode(f"{line}\n")[:REPORT_BYTES_MAX])
        elif not line.isdecimal():
            os.write(STDERR, os.fsencode(f"keeper: {line}\n"))


def _parse(arguments: Sequence[str]) -> _Options:
    parser = argparse.ArgumentParser(
        prog="keeper", usage="%(prog)s [options] -- PROGRAM ARGUMENTS...", allow_abbrev=False
    )
    add = parser.add_argument
    add("--directory", type=Path, help="private directory (mode 0700) to remove at the end")
    add("--grace-s", type=float, default=GRACE_S, help="from stop signal to SIGKILL")
    add("--input-bytes", type=int, default=0, help="first bytes of stdin that go to the program")
    add("--owner", type=int, metavar="PID", help="the parent, watched beside its pipe")
    add("--report-fd", type=int, help="gets the program's pid or why there is none, closes last")
    add("--stop-signal", type=_signal, default=signal.SIGTERM)
    add("--user", type=_user, metavar="UID:GID", help="whom the program runs as")
    own, separator, command = _split(arguments)
    options = parser.parse_args(own, namespace=_Options())
    if not separator or not command:
        parser.error("a program is needed after --")
    if not 0 <= options.input_bytes <= INPUT_BYTES_MAX:
        parser.error(f"--input-bytes is to be within 0 and {INPUT_BYTES_MAX}")
    if options.report_fd is not None:
        # Only the keeper holds it, so that its end-of-file means the keeper's end.
        os.set_inheritable(options.report_fd, False)  # noqa: FBT003
    options.command = command
    return options


def _split(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """Split at the first ``--``; the program may have others of its own."""
    if "--" not in arguments:
        return list(arguments), False, []
    at = list(arguments).index("--")
    return list(arguments[:at]), True, list(arguments[at + 1 :])


def _signal(name: str) -> signal.Signals:
    if name not in signal.Signals.__members__:
        raise argparse.ArgumentTypeError(f"{name!r} is not the name of a signal, such as SIGINT")
    return signal.Signals[name]


def _user(text: str) -> tuple[int, int]:
    uid, gid = text.split(":")
    return int(uid), int(gid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
