"""The machine a benchmark runs on: said in one line, and one core of it taken."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


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
