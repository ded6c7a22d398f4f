"""Which of several sources an expiry's forward is read from, and no flapping between them.

Goal: the best source that speaks. Taking it anew at every flush does not work: a third strike that
comes and goes would move the forward by the whole basis, and every Greek with it, several times a
second. So a source that falls silent is waited for a moment while its last value stands, and one
that was lost has to speak for a while before it is read again, twice as long after every further
loss until it has been read for long enough to be forgiven. A source that was never lost is taken
at once: at the start the spot comes first, then the future, then parity.

Pure apart from its own state. Guarded by ``test_market_forward_source.py``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Collection


class ForwardSource(IntEnum):
    """Where an expiry's forward comes from, best first."""

    NONE = 0
    PARITY = 1
    FUTURE = 2
    SPOT_CARRY = 3


BEST: Final = ForwardSource.PARITY
PATIENCE_NS: Final = NS_PER_S
"""How long a silent source is waited for before the next best is read."""
SILENCES_MIN: Final = 2
"""Readings without it that make a source silent: with rare flushes one proves nothing."""
SETTLING_NS: Final = 5 * NS_PER_S
"""How long a source that was lost once has to speak without a break before it is read again."""
LOSSES_MAX: Final = 7
"""Losses that count: the longest settling is five minutes and some."""
FORGIVING_NS: Final = 600 * NS_PER_S
"""A source that was read for so long without a loss is as good as one that was never lost."""


class SourceChoice:
    """One expiry's choice.

    Attributes:
        source: What the forward is read from; ``NONE`` before the first.
    """

    def __init__(self) -> None:
        self.source = ForwardSource.NONE
        self._heard_ns = 0
        self._taken_ns = 0
        self._silences = 0
        self._losses: dict[ForwardSource, int] = {}
        self._speaks_since_ns: dict[ForwardSource, int] = {}
        self._lost: set[ForwardSource] = set()

    def choose(self, speaking: Collection[ForwardSource], now_ns: int) -> ForwardSource:
        """Return the source to read now; if it is silent, its last value stands.

        Args:
            speaking: The sources that have a value now. Worse ones than the present source may be
                left out while that speaks.
            now_ns: Now, ns since the Unix epoch.
        """
        if self.source is BEST and len(speaking) == 1 and BEST in speaking:
            # What nearly every flush says of nearly every expiry; all that follows comes to this.
            self._heard_ns = now_ns
            self._silences = 0
            self._speaks_since_ns = {BEST: self._speaks_since_ns.get(BEST, now_ns)}
            self._lost.clear()
            return BEST
        since_ns = {source: self._speaks_since_ns.get(source, now_ns) for source in speaking}
        self._speaks_since_ns = since_ns
        settled = [
            source
            for source in speaking
            if source not in self._lost or now_ns - since_ns[source] >= self._settling_ns(source)
        ]
        self._silences = 0 if self.source in speaking else self._silences + 1
        if self.source in speaking:
            self._heard_ns = now_ns
            self._take(min([*settled, self.source]), now_ns)
        elif speaking and (not self.source or self._is_silent(now_ns)):
            self._lose(now_ns)
            self._take(min(settled or speaking), now_ns)
            self._heard_ns = now_ns
        return self.source

    def _is_silent(self, now_ns: int) -> bool:
        return self._silences >= SILENCES_MIN and now_ns - self._heard_ns > PATIENCE_NS

    def _settling_ns(self, source: ForwardSource) -> int:
        return SETTLING_NS << (self._losses.get(source, 1) - 1)

    def _lose(self, now_ns: int) -> None:
        before = 0 if now_ns - self._taken_ns > FORGIVING_NS else self._losses.get(self.source, 0)
        self._losses[self.source] = min(before + 1, LOSSES_MAX)
        self._lost.add(self.source)

    def _take(self, source: ForwardSource, now_ns: int) -> None:
        if source is not self.source:
            self.source, self._taken_ns, self._silences = source, now_ns, 0
        # Whether worse ones were lost meant something only while one of them was read.
        self._lost = {lost for lost in self._lost if lost < source}
