"""Die at a named point, for tests that prove what survives; a no-op in every other process.

The points C0 to C7 are those of reliability.md §1.4. The shell arms one from a setting, and refuses
to do so unless the broker is a simulator on loopback.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

POINTS: Final = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7")

Reach = Callable[[str], None]
"""Called when a point is reached."""


def never(point: str) -> None:
    """Pass every point."""


def dying_at(fatal: str) -> Reach:
    """Return what kills this process with SIGKILL at one point, as a power cut would."""
    if fatal not in POINTS:
        raise ValueError(f"Condition failed: crash point {fatal!r} must be one of {POINTS}")

    def reach(point: str) -> None:
        if point == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach
