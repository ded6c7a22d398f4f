"""The watchdog ends a process whose event loop stands still, and no other."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import pytest

from ticker_service.runtime.watchdog import EXIT_STALLED

PROGRAM: Final = """
import asyncio, sys, time
from ticker_service.runtime.watchdog import ending_stalls

def standing_still():
    print("stalls", flush=True)
    time.sleep(60.0)

def say(calls):
    print(*calls, sep="\\n", flush=True)
    {saying}

async def main():
    with ending_stalls(0.2, say):
        await asyncio.sleep(0.5)
        {work}
    print("over", flush=True)

asyncio.run(main())
"""


def start(work: str, saying: str = "") -> subprocess.Popen[bytes]:
    program = PROGRAM.format(work=work, saying=saying)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)


@pytest.mark.parametrize("saying", ["", "time.sleep(60.0)", "raise OSError"])
def test_a_stall_ends_the_process_whatever_becomes_of_its_last_words(saying: str) -> None:
    process = start("standing_still()", saying)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == EXIT_STALLED
    assert b"over" not in said
    outermost, innermost = said.splitlines()[1], said.splitlines()[-1]
    assert outermost.endswith(b"<module>")
    assert innermost.endswith(b"standing_still")


def test_a_loop_that_waits_is_not_stalled() -> None:
    process = start("await asyncio.sleep(0.5)")
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, b"over\n")


def test_a_stop_is_not_a_stall_however_long_it_lasts() -> None:
    process = start("print('runs', flush=True); await asyncio.sleep(0.5)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"runs\n"
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)  # five times as long as a stall may last
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, b"over\n")
