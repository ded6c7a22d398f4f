"""Kill the daemon with -9 at random under load, many times over, and judge what all lives left.

Run as `./scripts/chaos --cycles 100`, with `--json` for one line of JSON at the end. Starts
everything it needs on this machine; nothing is left behind. Exit status 0 means that no order was
doubled, none lost, none left unknown, and no other promise broken. docs/reliability.md says more.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# In the place of this folder, whose `secrets.py` would be taken for the standard library's.
sys.path[:1] = [str(ROOT / each) for each in ("", "tests", "tests/integration/crash")]

import crash_parts as parts  # noqa: E402 - its folder is known only now
from chaos_loop import CYCLES, Chapter, play  # noqa: E402
from chaos_loop import totals as totalled  # noqa: E402

from scripts.typed_numbers import whole  # noqa: E402

JOBS = 2


def main() -> int:
    """Play what the arguments ask for."""
    options = _options()
    print(f"seed {options.seed}, {options.cycles} cycles", file=sys.stderr, flush=True)
    began = time.monotonic()
    chapters = _play_all(options)
    figures = totalled(chapters)
    figures |= {"seed": options.seed, "seconds": round(time.monotonic() - began, 1)}
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:>16} {value}" for name, value in figures.items()))
    wrong = ("doubled", "lost", "unknown_left", "violations")
    return 1 if any(figures[name] for name in wrong) or not chapters else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--cycles", type=whole(at_least=1), default=100, help="lives of a daemon")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--first", type=int, default=0, help="number of the first chapter")
    parser.add_argument("--jobs", type=whole(at_least=1), default=JOBS, help="chapters at a time")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no chapter after so long")
    parser.add_argument(
        "--durable", action="store_true", help="let PostgreSQL wait for the disk, as it should"
    )
    return parser.parse_args()


def _play_all(options: argparse.Namespace) -> list[Chapter]:
    lengths = [min(CYCLES, options.cycles - at) for at in range(0, options.cycles, CYCLES)]
    waiting = iter(enumerate(lengths, start=options.first))
    turn = threading.Lock()
    chapters: list[Chapter] = []
    over = time.monotonic() + 60.0 * options.minutes

    def work(number: int) -> None:
        with parts.lane(options.seed + number) as lane:
            while True:
                with turn:
                    at, cycles = next(waiting, (0, 0))
                if not cycles or time.monotonic() > over:
                    return
                chapter = _played(f"{options.seed}/{at}", shared, lane, cycles)
                with turn:
                    chapters.append(chapter)
                    _tell(chapter, f"--seed {options.seed} --first {at}", len(chapters))

    with parts.servers(durable=options.durable) as shared, ThreadPoolExecutor(options.jobs) as pool:
        for future in [pool.submit(work, number) for number in range(options.jobs)]:
            future.result()
    return chapters


def _played(seed: str, shared: parts.Servers, lane: parts.Lane, cycles: int) -> Chapter:
    try:
        chance = random.Random(seed)  # noqa: S311 - to be repeated
        return play(chance, shared, lane, cycles=cycles)
    except Exception as error:  # noqa: BLE001 - the loop goes on and says so at its end
        return Chapter(violations=[f"could not be played: {error!r}"])


def _tell(chapter: Chapter, again: str, done: int) -> None:
    if chapter.violations:
        print(f"FAILED {again} --cycles {CYCLES}: {'; '.join(chapter.violations)}", flush=True)
        print(chapter.log, file=sys.stderr, flush=True)
    elif done % 10 == 0:
        print(f"{done} chapters", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
