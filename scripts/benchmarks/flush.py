"""Suite ``flush``: the path with as little in each flush as a live feed brings.

The suite ``path`` says what a tick costs, this one what a flush costs, whatever is in it: at a
flush every 5 ms 60,000 ticks a second are 300 to 500 in each, of three books and nine expiries, and
some five hundred numpy calls cost more than the rows in them. Frames, market and peer are those of
``path``, in JSON with depth; seconds are CPU seconds of the path's thread, so that it can be
measured on a machine that is busy with other things, which ``live`` cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scripts.benchmarks import scene
from scripts.benchmarks.path import Ours, compared_path, redis_elsewhere, runner
from ticker_service.config import Encoding

if TYPE_CHECKING:
    from scripts.benchmarks.measure import Options, Result

TICKS: Final = (50, 200, 500, 2_000)
TICKS_QUICK: Final = (50,)
FLUSHES: Final = 100
FLUSHES_QUICK: Final = 2


def run(options: Options) -> list[Result]:
    """Check, measure and return a comparison for each size of a flush."""
    flushes = FLUSHES_QUICK if options.is_quick else FLUSHES
    with redis_elsewhere() as url, runner() as runs:
        return [
            compared_path(
                Ours(scene.play(flushes, flush_ticks=ticks), url, Encoding.JSON, runs),
                options,
                name=f"flush_{ticks}",
            )
            for ticks in (TICKS_QUICK if options.is_quick else TICKS)
        ]
