"""Time as an argument: the only module that may ask the machine what time it is.

Wall time is an integer of nanoseconds since 1970 UTC; deadlines use the monotonic reading.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol, Self


class Clock(Protocol):
    """Where the engine reads the time."""

    def now_ns(self) -> int:
        """Return wall time, ns since the Unix epoch (UTC)."""
        ...

    def monotonic_ns(self) -> int:
        """Return a reading that never goes back, ns since an arbitrary start."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One instant by both readings: wall time can be set, the other only goes on."""

    now_ns: int
    monotonic_ns: int

    @classmethod
    def of(cls, clock: Clock) -> Self:
        """Read a clock."""
        return cls(now_ns=clock.now_ns(), monotonic_ns=clock.monotonic_ns())


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        """Return wall time, ns since the Unix epoch (UTC)."""
        return time.time_ns()  # noqa: TID251 - this is the one place

    def monotonic_ns(self) -> int:
        """Return the machine's monotonic reading, ns."""
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told to, for tests and replays."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = 0

    def now_ns(self) -> int:
        """Return the wall time set so far, ns since the Unix epoch (UTC)."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Return the ns advanced since this clock was made."""
        return self._monotonic_ns

    def advance(self, step_ns: int) -> None:
        """Move both readings forward by ``step_ns``, which must not be negative."""
        if step_ns < 0:
            raise ValueError(f"Condition failed: a clock moves forward, step_ns={step_ns}")
        self._now_ns += step_ns
        self._monotonic_ns += step_ns
