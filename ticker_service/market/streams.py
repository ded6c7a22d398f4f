"""What each instrument's own stream of ticks has been doing: the memory of the validate step.

Since when an instrument is subscribed tells the last tick that Kite kept from news; how far its
exchange time has come tells a tick that arrives out of order; how often it speaks tells whether its
silence means anything. One row per universe row, so memory does not grow. Owned by the path's task.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain.segment import KNOWN_SEGMENTS

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe

MEMORY_S: Final = 900.0
"""Ticks of so long ago count a third of those of now when the usual rate is asked for."""
TICKS_TO_KNOW_A_RATE: Final = 5.0
_VOLUME_BITS: Final = 32
_ONE: Final = np.int64(1)


class Doubt(IntEnum):
    """Why a tick may not be believed; of one that goes on all the same the wire's ``doubt``."""

    NONE = 0
    CROSSED_DEPTH = 1
    OFF_PRICE_STEP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What the validate step found worth saying of each tick that goes on, shape ``(n,)``.

    ``is_cached``: made before the subscription, the tick Kite kept; ``doubt``: see ``Doubt``.
    """

    is_cached: NDArray[np.bool_]
    doubt: NDArray[np.uint8]

    @classmethod
    def none(cls, rows: int) -> Self:
        """Return marks that say nothing."""
        return cls(is_cached=np.zeros(rows, np.bool_), doubt=np.zeros(rows, np.uint8))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """Return the marks of the chosen ticks."""
        return type(self)(is_cached=self.is_cached[rows], doubt=self.doubt[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far each row that goes out can be taken for news, shape ``(n,)``.

    ``staleness_ratio`` is the age of the row against the usual time between two ticks of its
    instrument; NaN where that is not known.
    """

    marks: Marks
    staleness_ratio: NDArray[np.float64]

    def part(self, part: slice) -> Self:
        """Return the standing of the rows of one part."""
        return type(self)(marks=self.marks.take(part), staleness_ratio=self.staleness_ratio[part])


class Streams:
    """One stream per universe row.

    Attributes:
        is_readable: Whether the scale of the row's prices is known, by its segment.
        step_or_infinity: The row's price step, rupees; infinity where it has none.
        subscribed_ns: When the row was last asked for; 0 before the first time.
        awaits_first: No tick has come since then.
        progress: How far the row's exchange time and volume have come, see ``progress_of``.
        heard_ns: When the row's last tick came that Kite had not kept; 0 before the first.
    """

    def __init__(self, universe: Universe) -> None:
        rows = len(universe)
        segment = universe.instrument_token & np.uint32(0xFF)
        self.is_readable = np.isin(segment, np.array(sorted(KNOWN_SEGMENTS), np.uint32))
        self.all_readable = bool(self.is_readable.all())
        step = universe.price_step
        self.step_or_infinity = np.where(step > 0.0, step, np.inf)
        self.subscribed_ns = np.zeros(rows, np.int64)
        self.newest_subscription_ns = 0
        self.awaits_first = np.ones(rows, np.bool_)
        self.progress = np.zeros(rows, np.int64)
        self.heard_ns = np.zeros(rows, np.int64)
        self._marks = Marks.none(rows)
        self._seen = np.zeros(rows, np.int64)
        self._counted = np.zeros(rows, np.int64)
        self._ticks = np.zeros(rows)
        self._watched_s = np.zeros(rows)
        self._silent_s = np.zeros(rows)
        self._is_audible = np.zeros(rows, np.bool_)
        self._place = np.zeros(rows, np.intp)

    def subscribe(self, rows: NDArray[np.intp], *, at_ns: int) -> None:
        """Note that rows were asked for: what is older is what Kite had kept."""
        self.subscribed_ns[rows] = at_ns
        self.awaits_first[rows] = True
        self.newest_subscription_ns = max(self.newest_subscription_ns, at_ns)

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop what is known of instruments that are no longer subscribed."""
        self.awaits_first[rows] = True
        self.progress[rows] = 0
        self._marks.is_cached[rows] = False
        self._marks.doubt[rows] = Doubt.NONE
        self._ticks[rows] = self._watched_s[rows] = self._silent_s[rows] = 0.0
        self._counted[rows] = self._seen[rows]

    def take(
        self,
        rows: NDArray[np.intp],
        received_at_ns: NDArray[np.int64],
        *,
        progress: NDArray[np.int64],
        marks: Marks,
    ) -> None:
        """Remember ticks that were accepted, in order of arrival.

        Args:
            rows: Their universe rows, shape ``(n,)``.
            received_at_ns: When each came.
            progress: See ``progress_of``; without a stamp it is below any with one.
            marks: What was found of them.
        """
        self.awaits_first[rows] = False
        np.maximum.at(self.progress, rows, progress)
        self._marks.is_cached[rows] = marks.is_cached
        self._marks.doubt[rows] = marks.doubt
        # What Kite had kept is no sign of life.
        if marks.is_cached.any():
            is_alive = ~marks.is_cached
            rows, received_at_ns = rows[is_alive], received_at_ns[is_alive]
        np.add.at(self._seen, rows, _ONE)
        self.heard_ns[rows] = received_at_ns

    def repeats(self, rows: NDArray[np.intp]) -> bool:
        """Return whether a row occurs more than once."""
        places = np.arange(len(rows))
        self._place[rows] = places
        return not bool((self._place[rows] == places).all())

    def listen(self, rows: NDArray[np.intp]) -> None:
        """Make these the rows that could be heard: subscribed, feed up, market open."""
        self._is_audible[:] = False
        self._is_audible[rows] = True

    def watch(self, *, lasted_s: float) -> None:
        """Count ticks against the time in which they could be heard.

        A silence counts when it ends: until then the rate stays what it was, and the silence grows
        stale against it.

        Args:
            lasted_s: Seconds since the last call.
        """
        self._silent_s += lasted_s * self._is_audible
        came = self._seen - self._counted
        spoke = np.flatnonzero(came)
        fade = np.exp(-self._silent_s[spoke] / MEMORY_S)
        self._ticks[spoke] = self._ticks[spoke] * fade + came[spoke]
        self._watched_s[spoke] = self._watched_s[spoke] * fade + self._silent_s[spoke]
        self._silent_s[spoke] = 0.0
        self._counted[spoke] = self._seen[spoke]

    def ticks_per_s(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return each row's usual rate; NaN where too few ticks have been seen to say."""
        ticks, watched_s = self._ticks[rows], self._watched_s[rows]
        known = (ticks >= TICKS_TO_KNOW_A_RATE) & (watched_s > 0.0)
        rate = np.full(len(rows), np.nan)
        np.divide(ticks, watched_s, out=rate, where=known)
        return rate

    def standing(
        self,
        rows: NDArray[np.intp],
        received_at_ns: NDArray[np.int64],
        *,
        now_ns: int,
        marks: Marks | None = None,
    ) -> Standing:
        """Return how rows stand that go out now.

        Args:
            rows: Universe rows, shape ``(n,)``.
            received_at_ns: When the tick that each shows was received.
            now_ns: The instant they are published.
            marks: Those of these very ticks; without them, those of each row's latest.
        """
        age_s = (now_ns - received_at_ns) / NS_PER_S
        return Standing(
            marks=self._marks.take(rows) if marks is None else marks,
            staleness_ratio=age_s * self.ticks_per_s(rows),
        )


def progress_of(ticks: Ticks) -> NDArray[np.int64]:
    """Return each tick's exchange second and, within it, its volume as one number that only grows.

    Stamps have whole seconds; within one the day's cumulative volume tells the order. A tick
    without a volume counts as none traded.
    """
    volume = np.maximum(ticks.volume, 0)
    return (ticks.exchange_ts_ns // NS_PER_S << _VOLUME_BITS) + volume
