"""The machine a benchmark runs on: said in one line, and one core of it taken."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


STEAL_PLACE: Final = 8
"""Of the steal among the words of the first line of ``/proc/stat``."""
NS_PER_S: Final = 1e9


def pin() -> int | None:
    """Stay on one core from now on, children included; return its number, or None."""
    if not hasattr(os, "sched_setaffinity"):
        return None  # macOS has no such call
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def other_cores() -> set[int]:
    """Return the cores beside the pinned one; all there are if there is no other."""
    if not hasattr(os, "sched_setaffinity"):
        return set()
    return set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0) or os.sched_getaffinity(0)


@contextlib.contextmanager
def on_other_cores() -> Iterator[None]:
    """Leave the pinned core for the length of the block: what is started there stays away."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, other_cores())
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


@contextlib.contextmanager
def on_all_cores() -> Iterator[None]:
    """Leave the pin for the length of the block: what is started there runs where there is room."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What the system has counted up to an instant, to be subtracted from a later one.

    Attributes:
        at_s: The instant, seconds of a monotonic clock.
        for_a_core_s: How long a process was ready to run and another one had its core.
        put_aside: How often it was interrupted for another one.
        steal_s: What the host of a virtual machine took from all cores.
    """

    at_s: float
    for_a_core_s: float
    put_aside: int
    steal_s: float

    def until(self, later: Waits) -> dict[str, float]:
        """Return shares of the time in between, and interruptions a second, by name."""
        lasted_s = later.at_s - self.at_s
        cores = os.cpu_count() or 1
        return {
            "waits_for_core_share": (later.for_a_core_s - self.for_a_core_s) / lasted_s,
            "interruptions_per_s": (later.put_aside - self.put_aside) / lasted_s,
            "steal_share": (later.steal_s - self.steal_s) / lasted_s / cores,
            "load": os.getloadavg()[0],
        }


def waits(pid: int) -> Waits | None:
    """Return what Linux has counted of a process; None elsewhere.

    Latencies are of the clock. On a busy machine these facts say how much of them was waiting for
    others, which is no fault of the process.
    """
    process = Path("/proc") / str(pid)
    try:
        scheduled = (process / "schedstat").read_text(encoding="ascii").split()
        status = (process / "status").read_text(encoding="ascii")
        cpu = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=STEAL_PLACE + 1)
    except OSError:
        return None
    return Waits(
        at_s=time.monotonic(),
        for_a_core_s=int(scheduled[1]) / NS_PER_S,
        put_aside=int(status.partition("nonvoluntary_ctxt_switches:")[2].split()[0]),
        steal_s=int(cpu[STEAL_PLACE]) / os.sysconf("SC_CLK_TCK"),
    )


def line(core: int | None) -> str:
    """Describe the machine: a rate without it says little."""
    load = "/".join(f"{each:.1f}" for each in os.getloadavg())
    pinned = f"pinned to core {core}" if core is not None else "not pinned: no such call here"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {pinned}; {platform.system()}; "
        f"Python {platform.python_version()}, numpy {np.__version__}; load {load}"
    )


def _processor() -> str:
    try:
        for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or sys.platform
