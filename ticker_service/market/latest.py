"""The latest tick of every instrument: the only state the tick path keeps of the market.

Owned by the pipeline's task; nobody else writes. Snapshots and repricing read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ticker_service.domain.tick import Ticks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe


class LatestTable:
    """One row per universe row; a row is whole, as the last packet left it."""

    def __init__(self, universe: Universe) -> None:
        self.ticks = Ticks.empty(len(universe))
        self.ticks.instrument_token[:] = universe.instrument_token
        self._rows_of_book = [
            np.flatnonzero(universe.book == number) for number in range(len(universe.books))
        ]

    def merge(self, rows: NDArray[np.intp], ticks: Ticks) -> None:
        """Put ticks over their rows; of several for one row the last stays."""
        self.ticks.put(rows, ticks)

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Blank the rows of instruments that are no longer subscribed."""
        blank = Ticks.empty(len(rows))
        blank.instrument_token[:] = self.ticks.instrument_token[rows]
        self.ticks.put(rows, blank)

    def rows_seen(self, book: int) -> NDArray[np.intp]:
        """Return the rows of one book that have had a tick."""
        rows = self._rows_of_book[book]
        return rows[self.ticks.received_at_ns[rows] > 0]
