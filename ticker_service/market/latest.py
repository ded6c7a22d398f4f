"""The latest tick of every instrument: the only state the tick path keeps of the market.

Owned by the pipeline's task; nobody else writes. Snapshots and repricing read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ticker_service.domain.tick import Ticks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.universe import Terms, Universe


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The universe rows that have had a tick, those of a book together.

    ``parts`` says where each book's rows lie, by book number.
    """

    terms: Terms
    parts: tuple[slice, ...]


class LatestTable:
    """One row per universe row; a row is whole, as the last packet left it."""

    def __init__(self, universe: Universe) -> None:
        # A tick is written to one row of all columns, so those of a row lie side by side.
        self.ticks = Ticks.empty(len(universe)).by_rows()
        self.ticks.instrument_token[:] = universe.instrument_token
        self._universe = universe
        self._by_book = np.argsort(universe.book, kind="stable")
        self._is_seen = np.zeros(len(universe), np.bool_)
        self._seen: Seen | None = None

    def merge(self, rows: NDArray[np.intp], ticks: Ticks) -> None:
        """Put ticks over their rows; of several for one row the last stays."""
        self.ticks.put(rows, ticks)
        if not self._is_seen[rows].all():
            self._is_seen[rows] = True
            self._seen = None

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Blank the rows of instruments that are no longer subscribed."""
        blank = Ticks.empty(len(rows))
        blank.instrument_token[:] = self.ticks.instrument_token[rows]
        self.ticks.put(rows, blank)
        self._is_seen[rows] = False
        self._seen = None

    def seen(self) -> Seen:
        """Return the rows that have had a tick; the same object until they become others."""
        if self._seen is None:
            rows = self._by_book[self._is_seen[self._by_book]]
            book = self._universe.book[rows]
            ends = np.searchsorted(
                book, np.arange(len(self._universe.books)), side="right"
            ).tolist()
            self._seen = Seen(
                terms=self._universe.terms(rows),
                parts=tuple(map(slice, [0, *ends[:-1]], ends)),
            )
        return self._seen
