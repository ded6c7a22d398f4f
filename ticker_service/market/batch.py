"""Group accepted ticks into one batch per book, and merge what waited too long.

Path: feed -> decode -> validate -> [batch] -> price -> publish.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Ticks of one book in order of arrival, with their universe rows.

    ``is_repriced`` marks a batch without packets: rows repeated because the forward moved.
    """

    book: int
    rows: NDArray[np.intp]
    ticks: Ticks
    conflated: int = 0
    is_repriced: bool = False


def by_book(
    rows: NDArray[np.intp], ticks: Ticks, universe: Universe, *, conflate: bool
) -> list[Batch]:
    """Split accepted rows by book, each book keeping its order of arrival.

    Args:
        rows: Universe row of each tick, shape ``(n,)``.
        ticks: The ticks, in order of arrival.
        universe: Says which book a row belongs to.
        conflate: Keep only each instrument's newest tick, because these have waited too long.

    Returns:
        One batch per book that has ticks.
    """
    batches = []
    book_of_tick = universe.book[rows]
    for book in np.unique(book_of_tick).tolist():
        chosen = np.flatnonzero(book_of_tick == book)
        arrived = len(chosen)
        if conflate:
            chosen = chosen[newest_per_row(rows[chosen])]
        batches.append(
            Batch(
                book=book,
                rows=rows[chosen],
                ticks=ticks.take(chosen),
                conflated=arrived - len(chosen),
            )
        )
    return batches


def newest_per_row(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return where each distinct row occurs last, in ascending order of place."""
    _, from_the_end = np.unique(rows[::-1], return_index=True)
    return np.sort(len(rows) - 1 - from_the_end)
