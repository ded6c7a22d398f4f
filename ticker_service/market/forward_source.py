"""Which of several sources an expiry's forward is read from, and no flapping between them.

Goal: the best source that speaks. Taking it anew at every flush does not work: a third strike that
comes and goes would move the forward by the whole basis, and every Greek with it, several times a
second. So a source that falls silent is waited for a moment while its last value stands, and one
that was lost has to speak for a while before it is read again. A source that was never lost is
taken at once: at the start the spot comes first, then the future, then parity.

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


PATIENCE_NS: Final = NS_PER_S
"""How long a silent source is waited for before the next best is read."""
SETTLING_NS: Final = 5 * NS_PER_S
"""How long a source that was lost has to speak without a break before it is read again."""


class SourceChoice:
    """One expiry's choice.

    Attributes:
        source: What the forward is read from; ``NONE`` before the first.
    """

    def __init__(self) -> None:
        self.source = ForwardSource.NONE
        self._heard_ns = 0
        self._speaks_since_ns: dict[ForwardSource, int] = {}
        self._lost: set[ForwardSource] = set()

    def choose(self, speaking: Collection[ForwardSource], now_ns: int) -> ForwardSource:
        """Return the source to read now; if it is silent, its last value stands.

        Args:
            speaking: The sources that have a value now. Worse ones than the present source may be
                left out while that speaks.
            now_ns: Now, ns since the Unix epoch.
        """
        since_ns = {source: self._speaks_since_ns.get(source, now_ns) for source in speaking}
        self._speaks_since_ns = since_ns
        settled = [
            source
            for source in speaking
            if source not in self._lost or now_ns - since_ns[source] >= SETTLING_NS
        ]
        if self.source in speaking:
            self._heard_ns = now_ns
            self._take(min([*settled, self.source]))
        elif speaking and (not self.source or now_ns - self._heard_ns > PATIENCE_NS):
            self._lost.add(self.source)
            self._take(min(settled or speaking))
            self._heard_ns = now_ns
        return self.source

    def _take(self, source: ForwardSource) -> None:
        self.source = source
        # Whether worse ones were lost meant something only while one of them was read.
        self._lost = {lost for lost in self._lost if lost < source}
