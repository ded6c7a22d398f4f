"""Keep the window of strikes round the money as the market moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain.universe import ABSENT
from ticker_service.market import subscribe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.config import SubscriptionConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe

RECENTRE_STEPS: Final = 0.75
"""How far the price leaves the centre strike before the window follows, in strike steps.

The nearest strike changes at half a step; waiting for three quarters keeps a price that hovers
between two strikes from subscribing and unsubscribing with every tick.
"""


class Window:
    """The wanted rows, and the price each book's window is centred on."""

    def __init__(self, universe: Universe, config: SubscriptionConfig) -> None:
        self._universe = universe
        self._config = config
        self._centres: dict[int, float] = {}
        self._steps = _strike_steps(universe)
        self._futures = {book: _futures_of(universe, book) for book in self._steps}
        self.wanted: NDArray[np.bool_] = subscribe.plan(universe, {}, config)

    @property
    def is_open(self) -> bool:
        """Return whether every book with options has its window."""
        return len(self._centres) == len(self._steps)

    def follow(self, latest: Ticks) -> bool:
        """Move the windows whose price has left their centre; return whether any did."""
        moved = False
        for book, step in self._steps.items():
            price = self._money(book, latest)
            if price is None:
                continue
            centre = self._centres.get(book)
            if centre is None or abs(price - centre) > RECENTRE_STEPS * step:
                self._centres[book] = self._nearest_strike(book, price)
                moved = True
        if moved:
            self.wanted = subscribe.plan(self._universe, self._centres, self._config)
        return moved

    def _money(self, book: int, latest: Ticks) -> float | None:
        """Return the price the book's options are written on: spot, else its nearest future."""
        for row in (self._universe.spot_row[book], *self._futures[book]):
            if row != ABSENT and latest.ltp[row] > 0.0:
                return float(latest.ltp[row])
        return None

    def _nearest_strike(self, book: int, price: float) -> float:
        strikes = next(e.strike for e in self._universe.expiries if e.book == book)
        return float(strikes[np.argmin(np.abs(strikes - price))])


def _strike_steps(universe: Universe) -> dict[int, float]:
    """Return the usual distance between strikes of each book that has options, rupees."""
    steps: dict[int, float] = {}
    for expiry in universe.expiries:
        if expiry.book not in steps:
            gaps = np.diff(expiry.strike)
            steps[expiry.book] = float(np.median(gaps)) if len(gaps) else float("inf")
    return steps


def _futures_of(universe: Universe, book: int) -> list[int]:
    """Return the rows of a book's futures, nearest first.

    Of any date: an option on a commodity expires days before the future it is written on.
    """
    table = universe.instruments
    is_future = table.is_derivative() & ~universe.is_option & (universe.book == book)
    rows = np.flatnonzero(is_future)
    nearest_first: list[int] = rows[np.argsort(table.expiry[rows], kind="stable")].tolist()
    return nearest_first
