"""Kill the daemon with -9 at random under load, many times over, and judge what all lives left.

Run as `./scripts/chaos --cycles 100`, with `--json` for one line of JSON at the end. Starts
everything it needs on this machine; nothing is left behind. Exit status 0 means that no order was
doubled, none lost, none left unknown, no other promise broken, and that enough of it hit: half of
the orders reached the broker, and a tenth of the kills came while one was being sent.
docs/reliability.md says more.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
# In the place of this folder, whose `secrets.py` would be taken for the standard library's.
sys.path[:1] = [str(ROOT / each) for each in ("", "tests", "tests/integration/crash")]

import crash_campaign as campaign  # noqa: E402 - its folder is known only now
from chaos_loop import CYCLES, Chapter, is_proof, play, totals  # noqa: E402

from scripts.typed_numbers import whole  # noqa: E402

if TYPE_CHECKING:
    from argparse import Namespace

    import crash_parts as parts

LOG_CHARACTERS = 6_000


def main() -> int:
    """Play what the arguments ask for, or add up what was played before."""
    options = _options()
    began = time.monotonic()
    if options.sum:
        lines = [line for path in options.sum for line in path.read_text().splitlines()]
        chapters = [Chapter.from_json(line) for line in lines]
    else:
        print(f"seed {options.seed}, {options.cycles} cycles", file=sys.stderr, flush=True)
        chapters = _Run(options).chapters()
    figures = totals(chapters)
    figures |= {"seed": options.seed, "seconds": round(time.monotonic() - began, 1)}
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:>24} {value}" for name, value in figures.items()))
    return 0 if is_proof(figures) else 1


def _options() -> Namespace:
    parser = campaign.arguments("chaos", __doc__, parts_called="chapters")
    parser.add_argument("--cycles", type=whole(at_least=1), default=100, help="lives of a daemon")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", type=Path, help="add a line of JSON per chapter to this file")
    parser.add_argument(
        "--sum", type=Path, nargs="+", default=[], help="play nothing; add up files of --keep"
    )
    return parser.parse_args()


class _Run:
    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._turn = threading.Lock()
        self._chapters: list[Chapter] = []

    def chapters(self) -> list[Chapter]:
        cycles = self._options.cycles
        lengths = [min(CYCLES, cycles - at) for at in range(0, cycles, CYCLES)]
        campaign.play_all(enumerate(lengths, start=self._options.first), self._options, self._play)
        return self._chapters

    def _play(self, part: tuple[int, int], shared: parts.Servers, lane: parts.Lane) -> None:
        number, cycles = part
        seed = f"{self._options.seed}/{number}"
        try:
            chance = random.Random(seed)  # noqa: S311 - to be repeated
            chapter = play(chance, shared, lane, cycles=cycles)
        except Exception as error:  # noqa: BLE001 - the loop goes on and says so at its end
            said = [f"could not be played: {error!r}"]
            chapter = Chapter(violations=said, log=traceback.format_exc())
        chapter.seed = seed
        with self._turn:
            self._chapters.append(chapter)
            self._tell(chapter, number)

    def _tell(self, chapter: Chapter, number: int) -> None:
        if self._options.keep:
            with self._options.keep.open("a") as file:
                file.write(chapter.to_json() + "\n")
        if chapter.violations:
            again = f"--seed {self._options.seed} --first {number} --cycles {CYCLES}"
            print(f"FAILED {again}: {'; '.join(chapter.violations)}", flush=True)
            print(chapter.log[-LOG_CHARACTERS:], file=sys.stderr, flush=True)
        elif len(self._chapters) % 10 == 0:
            print(f"{len(self._chapters)} chapters", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
