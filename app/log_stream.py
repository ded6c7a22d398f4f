"""Standard error as far as somebody takes it: whoever reads the log stops no tick and no order.

A pipe into a pager, a collector that hangs, a terminal with its scroll lock on: a plain ``write``
waits for them without limit, with the event loop in it, and once the reader is gone it raises out
of whatever step wanted to log. So a line that cannot be written is dropped and counted, and the
next one that can says how many were.

The descriptor is not made non-blocking, because others hold it too (the shell its terminal): it is
asked whether it takes ``PIPE_BUF`` bytes, and given no more at a time.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_MS: Final = 20
"""What a reader that stalls costs us, once until it reads again: a burst is given time to pass."""


class LogStream:
    """A text stream of whole lines; any thread may write."""

    def __init__(self, descriptor: int, dropped_line: Callable[[int], str]) -> None:
        """Take a file descriptor, and how to say that so many lines were dropped."""
        self.dropped = 0
        """Lines that nobody took, since the start."""
        self._descriptor = descriptor
        self._dropped_line = dropped_line
        self._writing = threading.Lock()
        self._untold = 0
        self._is_torn = False
        self._is_stalled = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, line: str) -> int:
        """Write a line with its end, or drop it."""
        with self._writing:
            if self._untold and self._put(self._dropped_line(self._untold)):
                self._untold = 0
            if self._untold or not self._put(line):
                self.dropped += 1
                self._untold += 1
        return len(line)

    def flush(self) -> None:
        """Do nothing: what was written is written."""

    def _put(self, line: str) -> bool:
        """Return whether all of a line was taken; the rest of a torn one is not tried again."""
        if self._is_torn:
            line = "\n" + line
        data = line.encode(errors="backslashreplace")
        for start in range(0, len(data), select.PIPE_BUF):
            try:
                is_taken = self._takes_more() and self._gave(data[start : start + select.PIPE_BUF])
            except OSError:  # nobody reads any more, the terminal has gone, the disk is full
                is_taken = False
            if not is_taken:
                self._is_torn = self._is_torn or start > 0
                return False
        self._is_torn = False
        return True

    def _takes_more(self) -> bool:
        ready = self._poll.poll(0)
        if not ready and not self._is_stalled:
            ready = self._poll.poll(PATIENCE_MS)
        self._is_stalled = not ready
        return bool(ready)

    def _gave(self, part: bytes) -> bool:
        return os.write(self._descriptor, part) == len(part)
