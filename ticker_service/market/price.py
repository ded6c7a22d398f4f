"""Give every option an implied volatility and Greeks, with where they come from.

Path: feed -> decode -> validate -> batch -> [price] -> publish.

Each option's own quote is solved when it arrives, against the forward of that moment, so that its
volatility stays true while the forward moves on. A row that goes out takes the volatility of its
strike's out-of-the-money leg, whose price is nearly all time value, and Greeks at the forward of
now (DESIGN D8). What cannot be solved is NaN with a status, never a zero.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.tick import Mode
from ticker_service.domain.universe import ABSENT
from ticker_service.market import quotes
from ticker_service.market.forward_source import ForwardSource
from ticker_service.market.forwards import Forwards
from ticker_service.market.last_trades import LastTrades
from ticker_service.market.quotes import PriceSource
from ticker_service.pricing import PriceStatus, PricingKernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.config import PricingConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Terms, Universe
    from ticker_service.market.batch import Arrived
    from ticker_service.market.latest import LatestTable


class Leg(IntEnum):
    """Whose quote the volatility of a row was solved from."""

    OWN = 0
    OTHER = 1


_DELTA, _GAMMA, _THETA, _VEGA, _RHO = range(1, 6)
"""Rows of the kernel's output."""


# An enumeration beside a column costs numpy five times what the column does.
_OK, _STALE, _NO_FORWARD, _NO_PRICE, _EXPIRED, _UNRELIABLE, _CROSSED, _BAD_INPUT = (
    np.uint8(status)
    for status in (
        PriceStatus.OK,
        PriceStatus.STALE,
        PriceStatus.NO_FORWARD,
        PriceStatus.NO_PRICE,
        PriceStatus.EXPIRED,
        PriceStatus.UNRELIABLE,
        PriceStatus.CROSSED,
        PriceStatus.BAD_INPUT,
    )
)
_LTP, _NO_SOURCE = np.uint8(PriceSource.LTP), np.uint8(PriceSource.NONE)
_SPOT_CARRY, _NO_FORWARD_SOURCE = np.uint8(ForwardSource.SPOT_CARRY), np.uint8(ForwardSource.NONE)
_FULL: Final = np.uint8(Mode.FULL)
CLOCK_BACK_NS_MAX: Final = NS_PER_S
"""A wall clock that is set back by less has been adjusted, and ages are right within a second."""
_OWN, _OTHER = np.uint8(Leg.OWN), np.uint8(Leg.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What the price step adds to each row, shape ``(n,)``; meaningless where not ``is_option``.

    Units: volatility as a fraction, delta and gamma per point of forward, theta rupees per calendar
    day, vega rupees per volatility point, rho rupees per 1 %. NaN where there is no value.
    """

    is_option: NDArray[np.bool_]
    implied_volatility: NDArray[np.float64]
    delta: NDArray[np.float64]
    gamma: NDArray[np.float64]
    theta: NDArray[np.float64]
    vega: NDArray[np.float64]
    rho: NDArray[np.float64]
    price_used: NDArray[np.float64]
    price_source: NDArray[np.uint8]
    forward: NDArray[np.float64]
    forward_source: NDArray[np.uint8]
    forward_age_ms: NDArray[np.float64]
    forward_dispersion: NDArray[np.float64]
    iv_status: NDArray[np.uint8]
    iv_leg: NDArray[np.uint8]
    own_implied_volatility: NDArray[np.float64]
    own_iv_status: NDArray[np.uint8]

    def part(self, rows: slice) -> Priced:
        """Return consecutive rows as views."""
        return Priced(**{name: getattr(self, name)[rows] for name in _PRICED_COLUMNS})

    def take(self, rows: NDArray[np.intp]) -> Priced:
        """Return the chosen rows as new columns, in the order of ``rows``."""
        return Priced(**{name: getattr(self, name)[rows] for name in _PRICED_COLUMNS})


_PRICED_COLUMNS: Final = tuple(field.name for field in fields(Priced))


class Pricer:
    """Each option's last solution, and the forwards; owned by the pipeline's task."""

    def __init__(
        self,
        universe: Universe,
        latest: LatestTable,
        config: PricingConfig,
        *,
        mode: Mode = Mode.LTP,
    ) -> None:
        """Take the parts; packets of a lesser mode than ``mode`` are not priced."""
        rows = len(universe)
        self._mode = np.uint8(mode)
        self._awaits_news = np.ones(rows, np.bool_)
        self._is_kept = np.zeros(rows, np.bool_)
        self._is_cached = np.zeros(rows, np.bool_)
        self._last_trades = LastTrades(rows)
        self.forwards = Forwards(universe, config, self._last_trades)
        self._universe = universe
        self._latest = latest
        self._config = config
        self._kernel = PricingKernel(max(rows, 1))
        self._mid = np.full(rows, np.nan)
        self.half_spread = np.full(rows, np.nan)
        """Half the spread of each row's quote, rupees; NaN where it is not sane."""
        self._price = np.full(rows, np.nan)
        self._price_source = np.full(rows, PriceSource.NONE, np.uint8)
        self._volatility = np.full(rows, np.nan)
        self._status = np.full(rows, PriceStatus.NO_PRICE, np.uint8)
        self._book_of_expiry = np.array([one.book for one in universe.expiries], np.intp)

    def hear(self, rows: NDArray[np.intp], ticks: Ticks) -> None:
        """Note accepted ticks before any is merged: when each instrument traded, and spoke again.

        Args:
            rows: Their universe rows, those of an instrument in order of arrival, shape ``(n,)``.
            ticks: The ticks.
        """
        if self._mode < _FULL:
            self._last_trades.take(rows, ticks, awaits_news=self._awaits_news)
        # Full packets bear a stamp, by which their age is known; the lesser ones do not.
        self._is_kept[rows] = self._awaits_news[rows] & (ticks.mode < _FULL)
        self._awaits_news[rows] = False

    def update(self, arrived: Arrived, *, now_ns: int) -> None:
        """Take the ticks of a flush: quotes, then forwards, then each quote's own volatility.

        All books are solved in one call, because the kernel's cost hardly depends on the rows.

        Args:
            arrived: The ticks of all books, heard before; the latest table holds them already.
            now_ns: The instant of this flush, ns since the Unix epoch.
        """
        terms = arrived.terms
        self.forwards.is_doubtful[terms.rows] = arrived.marks.doubt.astype(np.bool_)
        self._is_cached[terms.rows] = arrived.marks.is_cached
        self._take_quotes(terms.rows, arrived.ticks)
        had_none = np.isnan(self.forwards.value)
        self.forwards.update(
            self._touched(terms),
            latest=self._latest.ticks,
            mid=self._mid,
            half_spread=self.half_spread,
            now_ns=now_ns,
        )
        is_solved = terms.is_option & arrived.is_newest
        late = self._latecomers(had_none & ~np.isnan(self.forwards.value), now_ns)
        if is_solved.all() and not len(late):
            self._solve(terms)
        elif is_solved.any() or len(late):
            self._solve(self._universe.terms(np.concatenate([terms.rows[is_solved], late])))

    def _touched(self, terms: Terms) -> NDArray[np.intp]:
        """Return the expiries whose options, or whose future or spot, have ticked."""
        is_touched = np.zeros(len(self._universe.expiries), np.bool_)
        is_touched[terms.expiry[terms.is_option]] = True
        if not terms.is_option.all():
            ticked = np.zeros(len(self._universe.books), np.bool_)
            ticked[terms.book[~terms.is_option]] = True
            is_touched |= ticked[self._book_of_expiry]
        return np.flatnonzero(is_touched)

    def _take_quotes(self, rows: NDArray[np.intp], ticks: Ticks) -> None:
        """Choose a price for each row; what is not an option gets one that nobody looks at."""
        chosen = quotes.choose(
            ticks,
            self._universe.price_step[rows],
            traded_ns=self._last_trades.traded_ns(rows, self._latest.ticks),
            price_age_ns_max=self._config.price_age_ms_max * NS_PER_MS,
        )
        # Between `subscribe` and `mode` Kite sends packets of its own default mode; without depth
        # they say less than what is about to come, and would be priced on an old trade.
        is_lesser = ticks.mode < self._mode
        # What Kite kept from earlier is not of now, however recent: the market has moved since, and
        # solved against the forward of now it would be a volatility that never was.
        is_kept = (self._is_kept | self._is_cached)[rows] & ~np.isnan(chosen.price)
        mid, price, source, status = chosen.mid, chosen.price, chosen.source, chosen.status
        if is_kept.any():
            mid, status = np.where(is_kept, np.nan, mid), np.where(is_kept, _STALE, status)
        # What may not be true is told, and nothing is ever worked out from it.
        is_doubtful = self.forwards.is_doubtful[rows]
        if is_doubtful.any():
            status = np.where(is_doubtful & (status != _CROSSED), _BAD_INPUT, status)
        is_unpriced = is_lesser | is_doubtful
        if is_unpriced.any():
            mid, price = np.where(is_unpriced, np.nan, mid), np.where(is_unpriced, np.nan, price)
            source = np.where(is_unpriced, _NO_SOURCE, source)
            status = np.where(is_lesser, _NO_PRICE, status)
        self._mid[rows] = mid
        self.half_spread[rows] = chosen.half_spread
        self._price[rows] = price
        self._price_source[rows] = source
        self._status[rows] = status

    def _latecomers(self, appeared: NDArray[np.bool_], now_ns: int) -> NDArray[np.intp]:
        """Return what ticked before its expiry had a forward; it may not tick again for long."""
        if not appeared.any():
            return np.empty(0, np.intp)
        universe, latest = self._universe, self._latest.ticks
        waits = (self._status == _NO_FORWARD) & universe.is_option
        waits &= appeared[universe.expiry]
        options = np.flatnonzero(waits)
        self._take_quotes(options, latest.take(options))
        # The forward is of now; a quote of long ago cannot be solved against it and called OK.
        oldest_ns = now_ns - self._config.quote_age_ms_max * NS_PER_MS
        is_old = latest.received_at_ns[options] < oldest_ns
        is_old &= ~np.isnan(self._price[options])
        self._status[options[is_old]] = _STALE
        return options

    def _solve(self, options: Terms) -> None:
        """Solve each option's own price at its own instant against the forward just found."""
        rows, expiry = options.rows, options.expiry
        price, forward = self._price[rows], self.forwards.value[expiry]
        received = self._latest.ticks.received_at_ns[rows]
        solution, solved = self._kernel.solve(
            price,
            forward,
            options.strike,
            years_to_expiry(received, options.expiry_ns),
            self._config.rate,
            options.is_call,
        )
        has_price = ~np.isnan(price)
        status = np.where(has_price & (solved != _OK), solved, self._status[rows])
        status[has_price & np.isnan(forward)] = _NO_FORWARD
        is_vague = self._is_vague(options, solution, self.forwards.doubt(expiry, received))
        is_vague |= (self.forwards.source == _SPOT_CARRY)[expiry]
        status[(status == _OK) & is_vague] = _UNRELIABLE
        self._volatility[rows] = solution[0]
        self._status[rows] = status

    @staticmethod
    def _is_vague(
        options: Terms, solution: NDArray[np.float64], forward_doubt: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return where a price step, or the doubt in the forward, is worth a volatility point."""
        vega = solution[_VEGA]
        by_step = vega < options.price_step
        by_forward = np.abs(solution[_DELTA]) * forward_doubt > vega
        is_vague: NDArray[np.bool_] = by_step | by_forward
        return is_vague

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop the quotes and solutions of instruments that are no longer subscribed."""
        for column in (self._mid, self.half_spread, self._price, self._volatility):
            column[rows] = np.nan
        self._price_source[rows] = PriceSource.NONE
        self._status[rows] = PriceStatus.NO_PRICE
        self.forwards.is_doubtful[rows] = False
        self._last_trades.forget(rows)
        self._awaits_news[rows] = True

    def miss(self, rows: NDArray[np.intp]) -> None:
        """Note that ticks of some rows may be missing: their trades have no known time."""
        self._awaits_news[rows] = True

    def doubt(self, rows: NDArray[np.intp]) -> None:
        """Call what was solved stale: its feed is lost, and a tick alone makes it good again."""
        self._status[rows[~np.isnan(self._volatility[rows])]] = _STALE
        self.miss(rows)

    def columns(self, terms: Terms, *, now_ns: int) -> Priced:
        """Return what goes out for the given rows at the forwards of now.

        Args:
            terms: Universe rows, options or not, with their static columns; any number of books.
            now_ns: The instant the Greeks are for, ns since the Unix epoch.
        """
        if not len(self._universe.expiries):
            return _not_options(len(terms))
        rows, expiry, forwards = terms.rows, terms.expiry, self.forwards
        now = forwards.current(now_ns)
        has_none = np.isnan(now)
        source = np.where(has_none, _NO_FORWARD_SOURCE, forwards.source)
        age_ms = np.where(has_none, np.nan, (now_ns - forwards.as_of_ns) / NS_PER_MS)
        dispersion = np.where(has_none, np.nan, forwards.dispersion)
        forward = now[expiry]
        leg = self._leg(terms, forward, now_ns)
        years = years_to_expiry(now_ns, terms.expiry_ns)
        volatilities, statuses = self._held(_both(leg, rows), forward, years, now_ns)
        greeks = self._kernel.evaluate(
            volatilities[0], forward, terms.strike, years, self._config.rate, terms.is_call
        )
        # No fixed rate is the market's carry: greeks.md §4.2 found it off by volatility points.
        is_doubtful = greeks[_VEGA] < terms.price_step  # the same for both legs of a strike
        is_doubtful |= (source == _SPOT_CARRY)[expiry]
        statuses[(statuses == _OK) & is_doubtful] = _UNRELIABLE
        return Priced(
            is_option=terms.is_option,
            implied_volatility=volatilities[0],
            delta=greeks[_DELTA],
            gamma=greeks[_GAMMA],
            theta=greeks[_THETA],
            vega=greeks[_VEGA],
            rho=greeks[_RHO],
            price_used=self._price[rows],
            price_source=self._price_source[rows],
            forward=forward,
            forward_source=source[expiry],
            forward_age_ms=age_ms[expiry],
            forward_dispersion=dispersion[expiry],
            iv_status=statuses[0],
            iv_leg=np.where(leg == rows, _OWN, _OTHER),
            own_implied_volatility=volatilities[1],
            own_iv_status=statuses[1],
        )

    def _held(
        self,
        rows: NDArray[np.intp],
        forward: NDArray[np.float64],
        years: NDArray[np.float64],
        now_ns: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Return what was last solved, as far as it holds now: volatility and status.

        Args:
            rows: Universe rows, shape ``(2, n)``; the results have the same.
            forward: The forward of now of each pair, shape ``(n,)``.
            years: Time to expiry of each pair, likewise.
            now_ns: Now.
        """
        volatility, status = self._volatility[rows], self._status[rows]
        is_solved = ~np.isnan(volatility)
        is_old = self._is_old(rows, now_ns)
        if is_old is not None:
            status[is_solved & is_old] = _STALE
        # What was solved against a forward that has been lost since has no Greeks of now.
        is_gone = np.isnan(forward)
        if is_gone.any():
            status[is_solved & is_gone] = _NO_FORWARD
        is_expired = years <= 0.0
        if is_expired.any():
            status[:, is_expired] = _EXPIRED
            is_gone |= is_expired
        volatility[:, is_gone] = np.nan
        return volatility, status

    def _is_old(self, rows: NDArray[np.intp], now_ns: int) -> NDArray[np.bool_] | None:
        """Return where the price was made too long ago to speak for now; None for nowhere.

        What was received later than now, because the wall clock was set back, is of no known age.
        """
        oldest_ns = now_ns - self._config.price_age_ms_max * NS_PER_MS
        made_ns = self._latest.ticks.received_at_ns[rows]
        is_ahead = made_ns > now_ns + CLOCK_BACK_NS_MAX
        is_trade = self._price_source[rows] == _LTP
        if is_trade.any():
            traded = rows[is_trade]
            traded_ns = self._last_trades.traded_ns(traded, self._latest.ticks)
            made_ns[is_trade] = np.minimum(traded_ns, made_ns[is_trade])
        is_old: NDArray[np.bool_] = (made_ns < oldest_ns) | is_ahead
        return is_old if is_old.any() else None

    def _leg(self, terms: Terms, forward: NDArray[np.float64], now_ns: int) -> NDArray[np.intp]:
        """Return the row whose volatility each row takes: the out-of-the-money leg if it can say.

        When that leg has no volatility, or none recent, or a doubtful one where the row's own is
        good, the row speaks for itself.
        """
        is_in_the_money = np.where(terms.is_call, terms.strike < forward, terms.strike > forward)
        other = terms.other_leg
        oldest_ns = now_ns - self._config.leg_age_ms_max * NS_PER_MS
        is_better = (self._status[other] == _OK) | (
            ~np.isnan(self._volatility[other]) & (self._status[terms.rows] != _OK)
        )
        other_serves = (
            (other != ABSENT) & is_better & (self._latest.ticks.received_at_ns[other] >= oldest_ns)
        )
        return np.where(is_in_the_money & other_serves, other, terms.rows)


def _both(leg: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return two columns as the rows of one, shape ``(2, n)``: to ask for both costs once."""
    both = np.empty((2, len(rows)), np.intp)
    both[0], both[1] = leg, rows
    return both


def _not_options(rows: int) -> Priced:
    """Return the columns of rows in a universe without options."""
    nothing = np.full(rows, np.nan)
    zeros = np.zeros(rows, np.uint8)
    return Priced(
        is_option=np.zeros(rows, np.bool_),
        implied_volatility=nothing,
        delta=nothing,
        gamma=nothing,
        theta=nothing,
        vega=nothing,
        rho=nothing,
        price_used=nothing,
        price_source=zeros,
        forward=nothing,
        forward_source=np.full(rows, ForwardSource.NONE, np.uint8),
        forward_age_ms=nothing,
        forward_dispersion=nothing,
        iv_status=zeros,
        iv_leg=zeros,
        own_implied_volatility=nothing,
        own_iv_status=zeros,
    )
