"""Which rows could trade now, and what to say when a book's market opens or closes.

Part of the engine's pulse, beside the path. The hours themselves are ``domain.trading_hours``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain import trading_hours
from ticker_service.domain.book import SHARE_DERIVATIVE_EXCHANGES
from ticker_service.domain.session import from_instant_ns
from ticker_service.domain.trading_hours import (
    COMMODITY_EXCHANGES,
    CURRENCY_EXCHANGES,
    Venue,
    VenueKind,
)

if TYPE_CHECKING:
    from ticker_service.config import HoursConfig
    from ticker_service.domain.trading_hours import Phase
    from ticker_service.domain.universe import Universe

MARKET_OPEN: Final = "market_open"
MARKET_CLOSED: Final = "market_closed"
SESSION_END: Final = "session_end"

_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A book's market that has opened or closed, with the words to say so."""

    book: int
    state: str
    reason: str


class Opening:
    """The phases of every venue the universe has, kept up to date by ``advance``.

    Attributes:
        is_open: Whether a row could trade now, shape ``(n,)``.
        changed_ns: When ``is_open`` last changed, ns since the Unix epoch; 0 at first.
        open_books: The books of which any row could.
    """

    def __init__(self, universe: Universe, config: HoursConfig) -> None:
        self._calendar = trading_hours.calendar(
            holidays=config.holidays,
            sessions=config.sessions,
            is_always_open=config.is_always_open,
        )
        self._universe = universe
        venues = _venues(universe)
        self._venues = sorted(set(venues))
        number = {venue: place for place, venue in enumerate(self._venues)}
        self._venue_of_row = np.array([number[venue] for venue in venues], np.intp)
        self._venues_of_book = [
            np.unique(self._venue_of_row[universe.book == book]).tolist()
            for book in range(len(universe.books))
        ]
        self.is_open = np.zeros(len(universe), np.bool_)
        self.changed_ns = 0
        self.open_books: list[int] = []
        self._looked_ns = self._due_ns = 0
        self._is_first = True

    def advance(self, now_ns: int) -> list[Turn]:
        """Look what has opened or closed since the last call, at the first what is closed.

        Args:
            now_ns: The present, ns since the Unix epoch.
        """
        if self._looked_ns <= now_ns < self._due_ns:
            return []
        self._looked_ns = now_ns
        self.changed_ns = min(self.changed_ns, now_ns)  # the wall clock may have been set back
        phases = [self._calendar.phase(venue, now_ns) for venue in self._venues]
        last_trade_ns = self._universe.last_trade_ns
        is_alive = (last_trade_ns == 0) | (last_trade_ns > now_ns)
        if self._calendar.is_always_open:
            is_alive[:] = True
        is_open = np.array([phase.is_open for phase in phases], np.bool_)[self._venue_of_row]
        is_open &= is_alive
        ends = [phase.until_ns for phase in phases if phase.until_ns]
        coming = last_trade_ns[last_trade_ns > now_ns]
        self._due_ns = min([*ends, *([int(coming.min())] if len(coming) else [])], default=_NEVER)
        if self._is_first or (is_open != self.is_open).any():
            self.is_open, self.changed_ns = is_open, now_ns
        return self._turns(phases)

    def _turns(self, phases: list[Phase]) -> list[Turn]:
        before, was_first = set(self.open_books), self._is_first
        self._is_first = False
        self.open_books = np.unique(self._universe.book[self.is_open]).tolist()
        now = set(self.open_books)
        turns = []
        for book in range(len(self._universe.books)):
            its = {self._venues[number]: phases[number] for number in self._venues_of_book[book]}
            if book in now:
                if book not in before and not was_first:
                    turns.append(Turn(book=book, state=MARKET_OPEN, reason=_until(its)))
            elif was_first or book in before:
                is_over = book in before and all(phase.has_ended for phase in its.values())
                state = SESSION_END if is_over else MARKET_CLOSED
                turns.append(Turn(book=book, state=state, reason=_opens(its)))
        return turns


def _venues(universe: Universe) -> list[Venue]:
    """Return the venue of every row."""
    table = universe.instruments
    with_options = {book for book, spot in enumerate(universe.spot_row) if spot >= 0}
    is_derivative, is_index = table.is_derivative(), table.is_index()
    venues = []
    for row, exchange in enumerate(table.exchange.tolist()):
        if exchange in COMMODITY_EXCHANGES:
            kind = VenueKind.COMMODITY
        elif exchange in CURRENCY_EXCHANGES:
            kind = VenueKind.CURRENCY
        elif is_derivative[row] or exchange in SHARE_DERIVATIVE_EXCHANGES:
            kind = VenueKind.SHARE_DERIVATIVE
        elif is_index[row]:
            kind = VenueKind.INDEX
        elif int(universe.book[row]) in with_options:
            kind = VenueKind.SHARE_WITH_DERIVATIVES
        else:
            kind = VenueKind.SHARE
        venues.append(Venue(exchange, kind))
    return venues


def _until(phases: dict[Venue, Phase]) -> str:
    """Say until when each exchange of a book trades."""
    ends: dict[str, int] = {}
    for venue, phase in phases.items():
        if phase.is_open:
            ends[venue.exchange] = max(ends.get(venue.exchange, 0), phase.until_ns)
    return ", ".join(f"{name} until {_clock(at)}" for name, at in sorted(ends.items()) if at)


def _opens(phases: dict[Venue, Phase]) -> str:
    """Say when the first exchange of a book opens next."""
    openings = [phase.until_ns for phase in phases.values() if phase.until_ns]
    return f"opens {_clock(min(openings))}" if openings else "no session is known"


def _clock(at_ns: int) -> str:
    return f"{from_instant_ns(at_ns):%Y-%m-%d %H:%M} IST"
