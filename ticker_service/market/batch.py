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
    from ticker_service.domain.universe import Terms, Universe
    from ticker_service.market.streams import Marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Ticks of one book in order of arrival.

    ``part`` is where its rows lie among those of all books, which are priced together.
    """

    book: int
    part: slice
    ticks: Ticks
    conflated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """The ticks of one flush, those of a book together and in order of arrival.

    Attributes:
        terms: Universe row of each tick with its static columns, shape ``(n,)``.
        ticks: The ticks, in the same order.
        marks: What validation found worth saying of each.
        is_newest: Whether a row is its instrument's last in this flush, shape ``(n,)``.
        batches: One per book that has ticks.
    """

    terms: Terms
    ticks: Ticks
    marks: Marks
    is_newest: NDArray[np.bool_]
    batches: list[Batch]


def by_book(
    rows: NDArray[np.intp], ticks: Ticks, marks: Marks, universe: Universe, *, conflate: bool
) -> Arrived:
    """Put the rows of each book together, each book keeping its order of arrival.

    Args:
        rows: Universe row of each tick, shape ``(n,)``.
        ticks: The ticks, in order of arrival.
        marks: What was found of each.
        universe: Says which book a row belongs to.
        conflate: Keep only each instrument's newest tick, because these have waited too long.
    """
    is_newest = _newest_per_row(rows, universe)
    book = universe.book[rows]
    places = _in_order_of_books(book, np.flatnonzero(is_newest) if conflate else None)
    arrived = np.bincount(book, minlength=len(universe.books))
    if places is not None:
        rows, book, is_newest = rows[places], book[places], is_newest[places]
        ticks, marks = ticks.take(places), marks.take(places)
    kept = np.bincount(book, minlength=len(universe.books))
    batches = []
    first = 0
    for number in np.flatnonzero(kept).tolist():
        part = slice(first, first := first + int(kept[number]))
        batches.append(
            Batch(
                book=number,
                part=part,
                ticks=ticks.part(part),
                conflated=int(arrived[number] - kept[number]),
            )
        )
    return Arrived(
        terms=universe.terms(rows), ticks=ticks, marks=marks, is_newest=is_newest, batches=batches
    )


def _newest_per_row(rows: NDArray[np.intp], universe: Universe) -> NDArray[np.bool_]:
    """Return where each distinct row occurs last."""
    places = np.arange(len(rows))
    last = np.empty(len(universe), np.intp)
    last[rows] = places  # of several for one row the last stays
    is_newest: NDArray[np.bool_] = last[rows] == places
    return is_newest


def _in_order_of_books(
    book: NDArray[np.intp], kept: NDArray[np.intp] | None
) -> NDArray[np.intp] | None:
    """Return which places to take in which order, None for all as they are."""
    if kept is not None and len(kept) < len(book):
        book = book[kept]
    else:
        kept = None
    if (book[1:] >= book[:-1]).all():
        return kept
    # Sixteen bits are sorted by counting.
    order = np.argsort(book.astype(np.uint16), kind="stable")
    return order if kept is None else kept[order]
