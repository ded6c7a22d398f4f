"""Crash points: nothing in every process but the one that is told to die at a named one."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ticker_service.runtime.crash_points import POINTS, dying_at, never

PROGRAM = """
import sys
from ticker_service.runtime.crash_points import POINTS, dying_at
reach = dying_at(sys.argv[1])
for point in POINTS:
    print(point, flush=True)
    reach(point)
"""


def test_a_process_passes_every_point_unless_told() -> None:
    for point in POINTS:
        never(point)


@pytest.mark.parametrize("point", ["C0", "C7"])
def test_a_process_dies_at_its_point_as_at_a_power_cut(point: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, point], capture_output=True, check=False, timeout=30
    )
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout.split()[-1].decode() == point


def test_a_point_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="C9"):
        dying_at("C9")
