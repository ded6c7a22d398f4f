"""Draw the smiles of a book's expiries from what its options' own quotes say now.

Beside the path, and only when asked: feed -> ... -> price -> [smiles] -> publish. A curve is news
about an expiry; no row takes its volatility from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.universe import ABSENT
from ticker_service.market.forward_source import ForwardSource
from ticker_service.pricing import PriceStatus, Smiles, fit_smiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.universe import Expiry, Universe
    from ticker_service.market.price import Pricer

POINTS_PER_FRACTION: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BookSmiles:
    """The smiles of one book, a row per expiry in the order of ``expiries``."""

    expiries: tuple[Expiry, ...]
    exchange: tuple[str, ...]
    forward_source: NDArray[np.uint8]
    smiles: Smiles


class _Chains(NamedTuple):
    """The expiries of one book as tables, shape ``(expiries, strikes)``, the short ones padded."""

    number: NDArray[np.intp]
    expiries: tuple[Expiry, ...]
    exchange: tuple[str, ...]
    instant_ns: NDArray[np.int64]
    strike: NDArray[np.float64]
    call: NDArray[np.intp]
    put: NDArray[np.intp]


class SmileDrawer:
    """Knows which options make an expiry's smile; owned by the pipeline's task."""

    def __init__(self, universe: Universe, pricer: Pricer) -> None:
        self._universe = universe
        self._pricer = pricer
        self._chains = {
            book: _chains(universe, book) for book in {expiry.book for expiry in universe.expiries}
        }

    @property
    def books(self) -> list[int]:
        """The books that have options, ascending."""
        return sorted(self._chains)

    def draw(self, book: int, *, now_ns: int) -> BookSmiles:
        """Fit the smiles of a book as they are now.

        Args:
            book: Number of a book that has options.
            now_ns: The instant they are for, ns since the Unix epoch.
        """
        chains, forwards = self._chains[book], self._pricer.forwards
        forward = forwards.current(now_ns)[chains.number]
        rows = np.where(chains.strike >= forward[:, None], chains.call, chains.put)
        volatility, error = self._quoted(rows, now_ns)
        _, venue = np.unique(chains.exchange, return_inverse=True)
        smiles = fit_smiles(
            chains.strike,
            volatility,
            forward=forward,
            years=years_to_expiry(now_ns, chains.instant_ns),
            volatility_error=error,
            # One name at two exchanges is two contracts, whose variances owe each other nothing.
            underlying=venue,
        )
        return BookSmiles(
            expiries=chains.expiries,
            exchange=chains.exchange,
            forward_source=np.where(
                np.isnan(forward), ForwardSource.NONE, forwards.source[chains.number]
            ),
            smiles=smiles,
        )

    def _quoted(
        self, rows: NDArray[np.intp], now_ns: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what each option's own quote says and how far it may be off; NaN where nothing.

        Only rows that are OK speak: a doubtful one would be a point of the curve like any other.
        """
        is_listed = rows != ABSENT
        listed = rows[is_listed]
        terms = self._universe.terms(listed)
        priced = self._pricer.columns(terms, now_ns=now_ns)
        is_good = priced.own_iv_status == PriceStatus.OK
        # In modes without depth a last trade is the price, and nothing is known of its spread.
        half_spread = self._pricer.half_spread[listed]
        half_spread = np.where(np.isnan(half_spread), terms.price_step, half_spread)
        half_spread = np.maximum(half_spread, 0.5 * terms.price_step)
        volatility, error = np.full(rows.shape, np.nan), np.full(rows.shape, np.nan)
        volatility[is_listed] = np.where(is_good, priced.own_implied_volatility, np.nan)
        error[is_listed] = half_spread / (priced.vega * POINTS_PER_FRACTION)
        return volatility, error


def _chains(universe: Universe, book: int) -> _Chains:
    number = [place for place, each in enumerate(universe.expiries) if each.book == book]
    expiries = tuple(universe.expiries[place] for place in number)
    shape = len(expiries), max(len(each.strike) for each in expiries)
    strike = np.full(shape, np.nan)
    call, put = np.full(shape, ABSENT), np.full(shape, ABSENT)
    for row, each in enumerate(expiries):
        strike[row, : len(each.strike)] = each.strike
        call[row, : len(each.strike)] = each.call_row
        put[row, : len(each.strike)] = each.put_row
    exchange = universe.instruments.exchange
    return _Chains(
        number=np.array(number, np.intp),
        expiries=expiries,
        exchange=tuple(str(exchange[_any_row(each)]) for each in expiries),
        instant_ns=np.array([each.instant_ns for each in expiries], np.int64),
        strike=strike,
        call=call,
        put=put,
    )


def _any_row(expiry: Expiry) -> int:
    return int(max(expiry.call_row.max(), expiry.put_row.max()))
