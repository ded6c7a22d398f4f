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


SETTLED = """
import gc, weakref
from ticker_service.runtime import memory

class Node:
    pass

def ring():
    node = Node()
    node.itself = node
    return weakref.ref(node)

gc.collect()
before = len(gc.get_objects())
memory.settle()
frozen, looked_at = gc.get_freeze_count(), len(gc.get_objects())
later = ring()
gc.collect()
print(frozen > 0.9 * before, looked_at < 0.1 * before, later() is None)
"""


def test_what_lives_at_the_start_is_searched_no_more_and_later_garbage_still_goes() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "True", "True"]
