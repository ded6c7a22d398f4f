"""``./scripts/soak`` as a user runs it, for a few seconds."""

from __future__ import annotations

import sys

import pytest
from running import program

RUN_S = 120.0
SOAK = (sys.executable, "-m", "scripts.soak")


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is known on Linux only")
def test_a_short_run_prints_what_the_daemon_takes_and_cuts_its_sockets() -> None:
    arguments = ("--minutes", "0.15", "--samples", "15", "--rate", "1000", "--cut-every-s", "2")
    with program(*arguments, command=SOAK) as running:
        status = running.wait(RUN_S)
        heading, *lines = running.out.lines()
        said = running.err.text()
    assert heading.split() == ["minutes", "memory", "MB", "tasks", "fds", "ticks"]
    rows = [line.split() for line in lines if line != "flat"]
    assert len(rows) == 15
    assert all(float(number) > 0.0 for row in rows for number in row)
    # A run as short as this may still warm up: it says so, and its status agrees.
    assert status == (1 if said else 0), said
    assert ("flat" in lines) == (status == 0)


def test_a_run_too_short_to_judge_is_refused() -> None:
    with program("--samples", "3", command=SOAK) as running:
        assert running.wait(RUN_S) == 2
        assert "--samples: '3': must be a whole number from 15 on" in running.err.text()
