"""Time pieces of work fairly on a machine that others use, too.

Seconds are CPU seconds of the measuring thread, so that what other programs take from the core
counts for neither side. Sides of one comparison take turns, so that a change of the core's clock
or of its neighbours' load meets them all; medians of several turns are reported, with their spread.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

TURN_S_MIN: Final = 0.05
"""A turn repeats short work for so long: a clock's resolution and a cold cache then say nothing."""


class Disagreement(Exception):  # noqa: N818 - it is not an error of the program
    """Two sides of a comparison do not compute the same thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks of every suite."""

    runs: int
    is_quick: bool
    tapes: Sequence[Path] = ()
    orders_per_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One comparison: rates of ours and of the peer, higher is better.

    Attributes:
        name: What was measured.
        ours: Median rate.
        peer: Median rate of the other side; None where there is none.
        unit: Of both rates.
        against: What the peer is, or why there is none.
        ours_goal: The rate that was promised; None without a promise.
        ratio_goal: Likewise the ratio.
        spread: Lowest and highest ratio of single turns.
        more: Further facts by name; they are printed below the table.
        at_most: What of these was promised not to be exceeded.
    """

    name: str
    ours: float
    peer: float | None
    unit: str
    against: str
    ours_goal: float | None = None
    ratio_goal: float | None = None
    spread: tuple[float, float] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Ours over the peer."""
        return self.ours / self.peer if self.peer else None

    @property
    def is_met(self) -> bool | None:
        """Whether this run keeps what was promised; None without a promise or a peer."""
        kept = [
            value >= goal
            for value, goal in ((self.ours, self.ours_goal), (self.ratio, self.ratio_goal))
            if goal is not None and value is not None
        ]
        kept += [self.more[name] <= limit for name, limit in self.at_most.items()]
        return all(kept) if kept else None


@dataclass(frozen=True, slots=True)
class Turns:
    """Seconds of every turn of one side."""

    seconds: list[float]

    @property
    def median_s(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)


def repeated(work: Callable[[], object]) -> Callable[[], float]:
    """Return a turn: do short work often enough to be timed, and return CPU seconds for once."""
    work()  # what is compiled, allocated or cached at first use is not what is measured
    once_s = _timed(work, 1)
    count = max(1, round(TURN_S_MIN / max(once_s, 1e-7)))
    return lambda: _timed(work, count)


def interleaved(sides: Mapping[str, Callable[[], float]], *, runs: int) -> dict[str, Turns]:
    """Let the sides take turns, and return the seconds of each.

    Args:
        sides: A turn per side; each returns the CPU seconds of one pass over the same input.
        runs: Turns of each side.
    """
    turns: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for run in range(runs):
        # Nobody always follows the same neighbour, whose data fills the caches.
        for name in names if run % 2 == 0 else reversed(names):
            turns[name].append(sides[name]())
    return {name: Turns(seconds) for name, seconds in turns.items()}


def compared(
    name: str,
    ours: Turns,
    peer: Turns,
    *,
    items: int,
    **facts: Any,  # noqa: ANN401 - of Result
) -> Result:
    """Return the rates of two sides that worked on the same number of items."""
    ratios = [theirs / own for own, theirs in zip(ours.seconds, peer.seconds, strict=True)]
    return Result(
        name=name,
        ours=items / ours.median_s,
        peer=items / peer.median_s,
        spread=(min(ratios), max(ratios)),
        **facts,
    )


def _timed(work: Callable[[], object], count: int) -> float:
    began = time.thread_time()
    for _ in range(count):
        work()
    return (time.thread_time() - began) / count
