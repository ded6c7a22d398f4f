"""End the process when its event loop stands still: its accounts must not stay with it.

Goal: a loop that is held up (a blocking call, an endless loop, a name look-up on a dead disk) sends
nothing, but keeps the sessions that lock its accounts, so that no other daemon takes over and no
cancel goes out. Death releases them (measured: 4 ms). What was sent is found in the broker's book
by whoever comes next.

What does not work is a clock: every one that goes on while the process is stopped (SIGSTOP, a
paused container, a laptop that sleeps) calls the stop a stall, and would end a daemon that has only
to go on. So a thread counts its own looks: it asks the loop to answer, and each further look that
finds no answer is one, of ``LOOKS`` in ``stall_s_max``. A stopped process looks at most once.

Still open: a call that keeps the interpreter's lock for so long keeps the thread from looking, too.
What was to be sent meanwhile is held back by its send window all the same (``orders.execute``,
``adapters.kite_session``). Source: reliability.md §1.9. Tests: ``test_runtime_watchdog.py``,
``tests/integration/crash/test_crash_stalls.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOKS: Final = 20
"""More than a few, so that a stop and its end in the middle of a stall hardly count."""
LAST_WORDS_S: Final = 1.0
"""What holds the loop up may hold the log up as well; the end does not wait for it."""
EXIT_STALLED: Final = 70
"""The status the process ends with; ``EX_SOFTWARE`` of sysexits.h."""


@contextlib.contextmanager
def ending_stalls(stall_s_max: float, say: Callable[[list[str]], None]) -> Iterator[None]:
    """Watch the running loop for the length of the block, from a thread of its own.

    Args:
        stall_s_max: How long it may go without answering.
        say: Called once, on a thread, with where the loop stands, outermost call first; then the
            process ends with ``EXIT_STALLED``, whatever becomes of the call.
    """
    watch = _Watch(asyncio.get_running_loop(), threading.get_ident(), stall_s_max / LOOKS)
    thread = threading.Thread(target=watch.run, args=(say,), name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.is_over.set()
        thread.join()


class _Watch:
    """Asks one loop, which runs on one thread, again and again whether it goes on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread_id: int, period_s: float) -> None:
        self.is_over = threading.Event()
        self._loop = loop
        self._thread_id = thread_id
        self._period_s = period_s
        self._has_answered = threading.Event()

    def run(self, say: Callable[[list[str]], None]) -> None:
        """Look until it is over; end the process at the last look of a stall."""
        self._has_answered.set()
        unanswered = 0
        while not self.is_over.wait(self._period_s):
            if self._has_answered.is_set():
                unanswered = 0
                self._has_answered.clear()
                self._loop.call_soon_threadsafe(self._has_answered.set)
                continue
            unanswered += 1
            if unanswered >= LOOKS:
                last = threading.Thread(target=say, args=(self._stack(),), daemon=True)
                last.start()
                last.join(LAST_WORDS_S)
                # No unwinding, which would wait for the loop; no core, which would hold secrets.
                os._exit(EXIT_STALLED)

    def _stack(self) -> list[str]:
        """Return where the loop's thread stands, without its values, which may be secret."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - there is no other way
        calls = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
        return [f"{call.filename}:{call.lineno} {call.name}" for call in reversed(calls)]
