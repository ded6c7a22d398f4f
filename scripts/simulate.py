"""Play seeds of the simulated order path and judge each: exactly-once effect at virtual time.

Run as `./scripts/simulate --seed 17 --story` to see what happens in one seed, or with `--seeds` for
so many from it on; without `--seed` from a random one. Everything follows from the seed. Exit
status 0 means that every seed kept every promise. docs/reliability.md says what is judged.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
# In the place of this folder, whose `secrets.py` would be taken for the standard library's.
sys.path[:1] = [str(ROOT / each) for each in ("", "tests", "tests/unit", "tests/unit/simulation")]

import structlog  # noqa: E402 - the path is known only now
from exactly_once import reached_broker, states  # noqa: E402
from sim_pair import play_pair  # noqa: E402
from sim_play import play  # noqa: E402

from scripts.typed_numbers import positive, whole  # noqa: E402

if TYPE_CHECKING:
    from sim_play import Outcome

BLOCK = 25
PLAYS = {1: play, 2: play_pair}
"""By the number of accounts."""


def main() -> int:
    """Play what the arguments ask for."""
    options = _options()
    _be_quiet()
    if options.story or options.seeds == 1:
        return _tell(PLAYS[options.accounts](options.seed), is_whole=options.story)
    return _play_many(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 40))
    parser.add_argument(
        "--seeds", type=whole(at_least=1), default=1, help="so many, from that one on"
    )
    parser.add_argument(
        "--accounts", type=int, choices=sorted(PLAYS), default=1, help="2: in a group"
    )
    parser.add_argument("--story", action="store_true", help="tell everything that happens")
    parser.add_argument("--jobs", type=whole(at_least=1), default=2, help="processes at a time")
    parser.add_argument("--minutes", type=positive, default=1e6, help="begin no seed after so long")
    return parser.parse_args()


def _be_quiet() -> None:
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)


def _tell(outcome: Outcome, *, is_whole: bool) -> int:
    if is_whole or outcome.violations:
        print("\n".join(outcome.story))
    for sentence in outcome.violations:
        print(f"VIOLATION {sentence}")
    tasks = outcome.records.tasks
    print(f"seed {outcome.seed}: {len(tasks)} instructions, {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


def _play_many(options: argparse.Namespace) -> int:
    began = time.monotonic()
    totals: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    failed = 0
    firsts = range(options.seed, options.seed + options.seeds, BLOCK)
    last = options.seed + options.seeds
    with ProcessPoolExecutor(options.jobs, initializer=_be_quiet) as pool:
        blocks = pool.map(
            _play_block,
            (
                (options.accounts, first, min(first + BLOCK, last), began + 60.0 * options.minutes)
                for first in firsts
            ),
        )
        for counted, ended, violations in blocks:
            totals += counted
            ends += ended
            for seed, found in violations:
                failed += 1
                again = f"./scripts/simulate --accounts {options.accounts} --seed {seed}"
                print(f"FAILED {again}: {'; '.join(found)}", flush=True)
    figures = {
        "first_seed": options.seed,
        "seeds": totals["seeds"],
        "failed": failed,
        "orders": totals["orders"],
        "at_broker": totals["at_broker"],
        "kills": totals["kills"],
        "ends": dict(ends.most_common()),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(figures))
    return 1 if failed or not totals["seeds"] else 0


def _play_block(
    block: tuple[int, int, int, float],
) -> tuple[Counter[str], Counter[str], list[tuple[int, list[str]]]]:
    accounts, first, last, until = block
    totals: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    failed = []
    for seed in range(first, last):
        if time.monotonic() > until:
            break
        outcome = PLAYS[accounts](seed)
        placed = outcome.records.kinds("PLACE")
        ends += states(placed)
        totals["seeds"] += 1
        totals["orders"] += len(placed)
        totals["at_broker"] += reached_broker(outcome.records)
        totals["kills"] += outcome.kills.total()
        if outcome.violations:
            failed.append((seed, outcome.violations))
    return totals, ends, failed


if __name__ == "__main__":
    sys.exit(main())
