"""Freed memory is kept for the next flush, so that its pages are not zeroed again and again."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from ticker_service.runtime import memory

if sys.argv[1] == "kept" and not memory.keep_freed():
    sys.exit(3)
def flush():
    for _ in range(100):
        np.ones(1 << 17)  # 1 MiB, given back at once
flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
flush()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False
    )
    if run.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_a_column_allocated_again_costs_no_page_faults() -> None:
    assert page_faults("kept") < 300  # 25,600 pages are touched
