"""Fork daemons that start in a fraction of a second: everything they import is here already.

A daemon started afresh spends a second of processor time on imports, a campaign of hundreds of
kills nothing else. Each child is a process of its own in a session of its own and runs the command
line as ``python -m app.cli run`` would; nothing runs in this process before it forks. Speaks JSON
lines: ``{"env", "out", "err", "at_point"}`` in, ``{"pid"}`` and later ``{"pid", "status"}`` out; ``status`` is
negative for a signal. When the input ends, so do the children.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from app import cli, daemon, settings

if TYPE_CHECKING:
    from collections.abc import Callable

ARGUMENTS = ("ticker-service", "run", "--config", os.devnull)


def main() -> None:
    """Serve requests until the input ends."""
    # Bound before the fork, so that no child imports them.
    _ = daemon, settings
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    alive: set[int] = set()
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
                    alive.add(_start(json.loads(line), (woken, wakes)))
    finally:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _report_ended(alive: set[int]) -> None:
    for pid in list(alive):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            alive.discard(pid)
            _tell({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _start(request: dict[str, Any], ours: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        _tell({"pid": pid})
        return pid
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 70
    try:
        os.setsid()
        _redirect(request, ours)
        os.environ.clear()
        os.environ.update(request["env"])
        if request["at_point"]:
            daemon.dying_at = INSTEAD_OF_DYING[request["at_point"]]
        sys.argv = list(ARGUMENTS)
        cli.main()
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


def _tell(message: dict[str, int]) -> None:
    sys.__stdout__.write(json.dumps(message) + "\n")
    sys.__stdout__.flush()


if __name__ == "__main__":
    main()
