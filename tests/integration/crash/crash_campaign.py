"""What `./scripts/crash` and `./scripts/chaos` have in common: arguments, and plays side by side.

Each of the jobs has a simulated broker of its own; PostgreSQL, Redis and the nursery of daemons are
shared. SIGINT and SIGTERM let the plays that have begun come to their end, and begin no other.
"""

from __future__ import annotations

import argparse
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import crash_parts as parts

from scripts.typed_numbers import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from crash_parts import Lane, Servers

Part = TypeVar("Part")

JOBS: Final = 2


def arguments(prog: str, description: str | None, *, parts_called: str) -> argparse.ArgumentParser:
    """Return a parser of what both understand; ``parts_called`` is the word for what is played."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument(
        "--first", type=int, default=0, help=f"number of the first of {parts_called}"
    )
    parser.add_argument(
        "--jobs", type=whole(at_least=1), default=JOBS, help=f"{parts_called} at a time"
    )
    parser.add_argument(
        "--minutes", type=float, default=1e6, help=f"begin none of {parts_called} after so long"
    )
    parser.add_argument(
        "--durable", action="store_true", help="let PostgreSQL wait for the disk, as it should"
    )
    return parser


def play_all(
    all_parts: Iterable[Part],
    options: argparse.Namespace,
    play: Callable[[Part, Servers, Lane], None],
) -> None:
    """Play every part, several at a time, until all are played or the time is over."""
    waiting = iter(all_parts)
    turn = threading.Lock()
    over = time.monotonic() + 60.0 * options.minutes
    is_stopped = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        is_stopped.set()
        # The second one ends everything at once.
        signal.signal(number, signal.SIG_DFL)

    def work(number: int) -> None:
        with parts.lane(options.seed + number) as lane:
            while True:
                with turn:
                    part = next(waiting, None)
                if part is None or is_stopped.is_set() or time.monotonic() > over:
                    return
                play(part, shared, lane)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    with (
        parts.servers(durable=options.durable) as shared,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        for future in [pool.submit(work, number) for number in range(options.jobs)]:
            future.result()
