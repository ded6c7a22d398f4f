"""A process that does not stop says what holds it up, and ends."""

from __future__ import annotations

import subprocess
import sys

from running import DEADLINE_S, ROOT

PROGRAM = """
import asyncio, sys
from ticker_service.runtime.slow_stop import StopLimit

async def deaf():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def run():
    limit = StopLimit(float(sys.argv[1]), lambda tasks: print(sorted(tasks), flush=True))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(deaf() if sys.argv[2] == "deaf" else asyncio.sleep(0), name="job")
        limit.begin()
        limit.begin()
        await asyncio.sleep(0)
        task.cancel()
    limit.over()
    print("stopped")

asyncio.run(run())
"""


def stop(limit_s: float, job: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(limit_s), job],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_what_does_not_stop_is_named_with_where_it_waits_and_the_process_ends() -> None:
    ended = stop(0.1, "deaf")
    assert ended.returncode == 70, ended.stderr
    assert "job: <string>:8 deaf > " in ended.stdout
    assert "sleep" in ended.stdout
    assert "stopped" not in ended.stdout


def test_what_stops_in_time_is_left_alone() -> None:
    ended = stop(3600.0, "quick")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "stopped\n", "")
