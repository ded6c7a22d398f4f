"""Fork daemons that start in a fraction of a second: everything they import is here already.

A daemon started afresh spends a second of processor time on imports, a campaign of thousands of
kills nothing else. Each child is a process of its own in a session of its own and runs the command
line as ``python -m app.cli run`` would; nothing runs in this process before it forks. A child that
is asked for ``afresh`` runs exactly that. Speaks JSON lines: ``{"number", "env", "out", "err",
"afresh", "at_point"}`` in, ``{"number", "pid"}`` and later ``{"number", "status", "cpu_s"}`` out;
``status`` is negative for a signal. When the input ends, so do the children.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from typer.main import get_command

from app import cli, daemon
from ticker_service.adapters import kite_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer._click.core import Command

ARGUMENTS = ("run", "--config", os.devnull)
IMPORTED_LATE = (
    "anyio._backends._asyncio",
    "app.settings",
    "httpcore",
    "numpy.ma",
    "typer._click.decorators",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)
"""What a daemon imports only once it runs; here before the fork, so that no child has to."""


def main() -> None:
    """Serve requests until the input ends."""
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    kite_session.tls_context()
    command = get_command(cli.cli)
    # What is here stays in pages that all children share.
    gc.collect()
    gc.freeze()
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    alive: dict[int, int] = {}
    waiting = b""
    try:
        while True:
            ready, _, _ = select.select([0, woken], [], [])
            if woken in ready:
                os.read(woken, 1 << 12)
                _report_ended(alive)
            if 0 in ready:
                read = os.read(0, 1 << 16)
                if not read:
                    return
                *lines, waiting = (waiting + read).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    alive[_start(command, request, (woken, wakes))] = request["number"]
    finally:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _report_ended(alive: dict[int, int]) -> None:
    for pid in list(alive):
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            number, status = alive.pop(pid), os.waitstatus_to_exitcode(status)
            _tell({"number": number, "status": status, "cpu_s": used.ru_utime + used.ru_stime})


def _start(command: Command, request: dict[str, Any], ours: tuple[int, int]) -> int:
    # A thread would be missing in the child, with whatever it holds. (OpenBLAS has one of its own,
    # ends it before each fork and starts it again when it is needed.)
    assert threading.active_count() == 1
    pid = os.fork()
    if pid:
        _tell({"number": request["number"], "pid": pid})
        return pid
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 70
    try:
        os.setsid()
        _redirect(request, ours)
        if request["afresh"]:
            os.execve(sys.executable, [sys.executable, "-m", "app.cli", *ARGUMENTS], request["env"])  # noqa: S606 - ours
        os.environ.clear()
        os.environ.update(request["env"])
        if request["at_point"]:
            daemon.dying_at = INSTEAD_OF_DYING[request["at_point"]]
        sys.argv = ["ticker-service", *ARGUMENTS]
        command(ARGUMENTS, prog_name=sys.argv[0])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _standing_still_at(fatal: str) -> Callable[[str], None]:
    """Block at a point for good; at C0 to C3, C6 and C7 that is the event loop."""

    def reach(point: str) -> None:
        while point == fatal:
            time.sleep(1.0)

    return reach


def _stopping_at(fatal: str) -> Callable[[str], None]:
    """Stop the process when it first comes to a point, as SIGSTOP from outside would."""
    left = [fatal]

    def reach(point: str) -> None:
        if point in left:
            left.clear()
            os.kill(os.getpid(), signal.SIGSTOP)

    return reach


INSTEAD_OF_DYING = {"stall": _standing_still_at, "stop": _stopping_at}


def _redirect(request: dict[str, Any], ours: tuple[int, int]) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    err = os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    for descriptor in (nothing, out, err, *ours):
        os.close(descriptor)


def _tell(message: dict[str, float]) -> None:
    sys.__stdout__.write(json.dumps(message) + "\n")
    sys.__stdout__.flush()


if __name__ == "__main__":
    main()
