"""The state of every connection of the feed, and whether its silence means anything.

Beside the path, kept by the engine. A connection that is open and sends its heartbeats may still
bring no data: Kite's socket lives, and what feeds it does not. So a connection is called silent
when its instruments, by their own usual rates, should have spoken many times over, while their
market is open. Heartbeats alone never make it good again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain.universe import ABSENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe
    from ticker_service.market.streams import Streams

NO_CONNECTION: Final = -1
"""Stands for the connection of a row that is not subscribed."""
TICKS_MISSED_MIN: Final = 20.0
"""So many ticks must be overdue. Were they independent, that would happen once in e^20 times; they
are not quite, which is why it is not 5."""
SILENT_S_MIN: Final = 5.0
SILENT_S_MAX: Final = 120.0
TICKS_PER_S_OF_UNDERLYING: Final = 0.5
"""What an index or share with options is taken to do at least, until its own rate is known."""


class FeedState(StrEnum):
    """What a connection of the feed is doing, worst last."""

    UP = "up"
    SILENT = "silent"
    CONNECTING = "connecting"
    DOWN = "down"
    LOGIN_REQUIRED = "login_required"


_SEVERITY: Final = {state: place for place, state in enumerate(FeedState)}


@dataclass(slots=True)
class Connection:
    """One connection; instants are ns since the Unix epoch, 0 for none.

    ``up_ns`` is when it was opened; ``noticed_ns`` when it was called silent or tried anew for
    that; ``lost_since_ns`` from when on ticks may be missing, and ``reason`` why.
    """

    state: FeedState = FeedState.CONNECTING
    up_ns: int = 0
    noticed_ns: int = 0
    lost_since_ns: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A connection that should have spoken: how long it has not, and how long is usual."""

    connection: int
    since_ns: int
    waited_s: float
    expected_per_s: float


class Connections:
    """Which connection carries which row, and how each one is."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._carrier = np.full(len(universe), NO_CONNECTION, np.intp)
        self._known: dict[int, Connection] = {}
        is_underlying = np.zeros(len(universe), np.bool_)
        is_underlying[[row for row in universe.spot_row if row != ABSENT]] = True
        self._assumed_per_s = np.where(is_underlying, TICKS_PER_S_OF_UNDERLYING, 0.0)

    def carry(self, rows: NDArray[np.intp], numbers: Sequence[int | None]) -> None:
        """Make ``numbers`` the connections of ``rows``, and of no other row."""
        self._carrier[:] = NO_CONNECTION
        self._carrier[rows] = [NO_CONNECTION if n is None else n for n in numbers]

    def of(self, number: int) -> Connection:
        """Return a connection by its number."""
        return self._known.setdefault(number, Connection())

    def replace(self, number: int, connection: Connection) -> None:
        """Begin anew with a connection."""
        self._known[number] = connection

    def rows_of(self, number: int) -> NDArray[np.intp]:
        """Return the rows that a connection carries."""
        return np.flatnonzero(self._carrier == number)

    def books_of(self, number: int) -> list[int]:
        """Return the books that have rows on a connection."""
        books: list[int] = np.unique(self._universe.book[self.rows_of(number)]).tolist()
        return books

    def states(self) -> dict[int, str]:
        """Return every connection's state by its number."""
        return {number: str(each.state) for number, each in sorted(self._known.items())}

    def count(self, state: FeedState) -> int:
        """Return how many connections are in a state."""
        return sum(each.state is state for each in self._known.values())

    def in_state(self, state: FeedState) -> list[int]:
        """Return the numbers of the connections in a state."""
        return [number for number, each in self._known.items() if each.state is state]

    def worst(self, book: int | None = None) -> FeedState:
        """Return the worst state of what carries a book, or of all that carries anything."""
        carriers = self._carrier if book is None else self._carrier[self._universe.book == book]
        in_use = [each for number, each in self._known.items() if (carriers == number).any()]
        if not in_use:
            return FeedState.CONNECTING
        return max((each.state for each in in_use), key=_SEVERITY.__getitem__)

    def is_heard(self) -> NDArray[np.bool_]:
        """Return which rows have a connection that is up, shape ``(n,)``."""
        return np.isin(self._carrier, self.in_state(FeedState.UP))

    def silences(
        self, streams: Streams, is_open: NDArray[np.bool_], *, opened_ns: int, now_ns: int
    ) -> list[Silence]:
        """Return the connections that are up and should have brought something by now.

        Args:
            streams: How often each row usually speaks, and when it last did.
            is_open: Mask of the rows whose market is open.
            opened_ns: Since when; no later than now.
            now_ns: The present.
        """
        found = []
        # Where the wall clock was set back, what lies ahead of it happened before now.
        np.minimum(streams.heard_ns, now_ns, out=streams.heard_ns)
        for number in self.in_state(FeedState.UP):
            self._known[number].up_ns = min(self._known[number].up_ns, now_ns)
            rows = np.flatnonzero((self._carrier == number) & is_open)
            if not len(rows):
                continue
            usual = streams.ticks_per_s(rows)
            usual = np.where(np.isnan(usual), self._assumed_per_s[rows], usual)
            expected_per_s = float(usual.sum())
            heard_ns = int(streams.heard_ns[rows].max())
            since_ns = max(self._known[number].up_ns, opened_ns, heard_ns)
            waited_s = (now_ns - since_ns) / NS_PER_S
            if expected_per_s > 0.0 and waited_s > _patience_s(expected_per_s):
                found.append(
                    Silence(
                        connection=number,
                        since_ns=since_ns,
                        waited_s=waited_s,
                        expected_per_s=expected_per_s,
                    )
                )
        return found

    def expects_nothing(self, number: int, is_open: NDArray[np.bool_]) -> bool:
        """Return whether no row of a connection has an open market."""
        return not bool(is_open[self.rows_of(number)].any())


def _patience_s(expected_per_s: float) -> float:
    return min(max(TICKS_MISSED_MIN / expected_per_s, SILENT_S_MIN), SILENT_S_MAX)
