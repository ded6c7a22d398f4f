"""End a process that was told to stop and does not: its accounts must not stay with it.

Goal: a stop waits for what was sent to be recorded, and every wait has a limit of its own. Should
one of them be missed (a library that swallows a cancellation, a peer that never answers), the
sessions that lock the accounts would stay until somebody kills the process. Death releases them,
and what was sent is found in the broker's book by whoever comes next.

Tests: ``test_runtime_slow_stop.py``.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from ticker_service.runtime.watchdog import EXIT_STALLED

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS_TOLD_MAX: Final = 8
"""So many calls of a task are told, innermost last."""


class StopLimit:
    """The time that a stop may take, from :meth:`begin` to :meth:`over`.

    Thread/Task: belongs to the event loop it is begun in.
    """

    def __init__(self, limit_s: float, say: Callable[[list[str]], None]) -> None:
        """Take the limit.

        Args:
            limit_s: So long after the first ``begin`` the process ends with ``EXIT_STALLED``.
            say: Called with every task that still runs and where it waits, right before that.
        """
        self._limit_s = limit_s
        self._say = say
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Count from now; once more changes nothing."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._end)

    def over(self) -> None:
        """Stop counting: the stop has come to its end."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        try:
            self._say([_where(task) for task in asyncio.all_tasks()])
        finally:
            # No unwinding, which would wait for what does not end.
            os._exit(EXIT_STALLED)


def _where(task: asyncio.Task[object]) -> str:
    """Return a task's name and where it waits, without values, which may be secret."""
    calls = []
    waiting: object = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None)
        if frame is not None:
            calls.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        waiting = getattr(waiting, "cr_await", None)
    return f"{task.get_name()}: {' > '.join(calls[-CALLS_TOLD_MAX:])}"
