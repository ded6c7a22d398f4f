"""Give every option an implied volatility and Greeks, with where they come from.

Path: feed -> decode -> validate -> batch -> [price] -> publish.

Each option's own quote is solved when it arrives, against the forward of that moment, so that its
volatility stays true while the forward moves on. A row that goes out takes the volatility of its
strike's out-of-the-money leg, whose price is nearly all time value, and Greeks at the forward of
now (DESIGN D8). What cannot be solved is NaN with a status, never a zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_MS
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.tick import Mode
from ticker_service.domain.universe import ABSENT
from ticker_service.market import quotes
from ticker_service.market.forwards import Forwards, ForwardSource
from ticker_service.market.quotes import PriceSource
from ticker_service.pricing import PriceStatus, PricingKernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.config import PricingConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe
    from ticker_service.market.latest import LatestTable


class Leg(IntEnum):
    """Whose quote the volatility of a row was solved from."""

    OWN = 0
    OTHER = 1


_VALUED: Final = (PriceStatus.OK, PriceStatus.STALE, PriceStatus.UNRELIABLE)
"""Statuses that keep their values."""
_DELTA, _GAMMA, _THETA, _VEGA, _RHO = range(1, 6)
"""Rows of the kernel's output."""


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
    iv_status: NDArray[np.uint8]
    iv_leg: NDArray[np.uint8]


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
        self._mode = mode
        self._awaits_news = np.ones(rows, np.bool_)
        self._is_kept = np.zeros(rows, np.bool_)
        self.forwards = Forwards(universe, config)
        self._universe = universe
        self._latest = latest
        self._config = config
        self._kernel = PricingKernel(max(rows, 1))
        self._mid = np.full(rows, np.nan)
        self._half_spread = np.full(rows, np.nan)
        self._price = np.full(rows, np.nan)
        self._price_source = np.full(rows, PriceSource.NONE, np.uint8)
        self._volatility = np.full(rows, np.nan)
        self._status = np.full(rows, PriceStatus.NO_PRICE, np.uint8)
        self._expiries_of_book = [
            [number for number, expiry in enumerate(universe.expiries) if expiry.book == book]
            for book in range(len(universe.books))
        ]

    def update(self, rows: NDArray[np.intp], ticks: Ticks, *, now_ns: int) -> None:
        """Take new ticks of one book: quotes, then forwards, then each quote's own volatility.

        Args:
            rows: Universe rows of the ticks; the latest table holds them already.
            ticks: The ticks; where a row occurs twice the later one stays.
            now_ns: The instant of this flush, ns since the Unix epoch.
        """
        universe = self._universe
        is_option = universe.is_option[rows]
        options = rows[is_option]
        if len(options):
            of_options = ticks.take(is_option)
            # Full packets bear a stamp, by which their age is known; the lesser ones do not.
            self._is_kept[options] = self._awaits_news[options] & (of_options.mode < Mode.FULL)
            self._awaits_news[options] = False
            self._take_quotes(options, of_options)
        expiries = (
            np.unique(universe.expiry[options]).tolist()
            if is_option.all()
            else self._expiries_of_book[universe.book[rows[0]]]
        )
        had_none = np.isnan(self.forwards.value)
        self.forwards.update(
            expiries,
            latest=self._latest.ticks,
            mid=self._mid,
            half_spread=self._half_spread,
            now_ns=now_ns,
        )
        if len(options):
            self._solve(np.unique(options))
        appeared = had_none & ~np.isnan(self.forwards.value)
        if appeared.any():
            self._solve_latecomers(np.flatnonzero(appeared), now_ns)

    def _take_quotes(self, options: NDArray[np.intp], ticks: Ticks) -> None:
        chosen = quotes.choose(
            ticks,
            self._universe.price_step[options],
            trade_age_ns_max=self._config.trade_age_ms_max * NS_PER_MS,
        )
        # Between `subscribe` and `mode` Kite sends packets of its own default mode; without depth
        # they say less than what is about to come, and would be priced on an old trade.
        is_lesser = ticks.mode < self._mode
        # What Kite kept from earlier has no stamp in the lesser modes: doubt it until news comes.
        is_kept = self._is_kept[options] & (chosen.status == PriceStatus.OK)
        self._mid[options] = np.where(is_lesser | is_kept, np.nan, chosen.mid)
        self._half_spread[options] = chosen.half_spread
        self._price[options] = np.where(is_lesser, np.nan, chosen.price)
        self._price_source[options] = np.where(is_lesser, PriceSource.NONE, chosen.source)
        status = np.where(is_kept, PriceStatus.STALE, chosen.status)
        self._status[options] = np.where(is_lesser, PriceStatus.NO_PRICE, status)

    def _solve_latecomers(self, expiries: NDArray[np.intp], now_ns: int) -> None:
        """Solve what ticked while its expiry had no forward; it may not tick again for long."""
        universe, latest = self._universe, self._latest.ticks
        waits = (self._status == PriceStatus.NO_FORWARD) & np.isin(universe.expiry, expiries)
        options = np.flatnonzero(waits)
        if not len(options):
            return
        self._take_quotes(options, latest.take(options))
        # The forward is of now; a quote of long ago cannot be solved against it and called OK.
        oldest_ns = now_ns - self._config.quote_age_ms_max * NS_PER_MS
        is_old = latest.received_at_ns[options] < oldest_ns
        is_old &= self._status[options] == PriceStatus.OK
        self._status[options[is_old]] = PriceStatus.STALE
        self._solve(options)

    def _solve(self, options: NDArray[np.intp]) -> None:
        """Solve each option's own price at its own instant against the forward just found."""
        universe = self._universe
        expiry = universe.expiry[options]
        forward = self.forwards.value[expiry]
        received = self._latest.ticks.received_at_ns[options]
        years = years_to_expiry(received, universe.expiry_ns[options])
        solution, solved = self._kernel.solve(
            self._price[options],
            forward,
            universe.strike[options],
            years,
            self._config.rate,
            universe.is_call[options],
        )
        quoted = self._status[options]
        has_price = (quoted == PriceStatus.OK) | (quoted == PriceStatus.STALE)
        status = np.where(has_price & (solved != PriceStatus.OK), solved, quoted)
        status[has_price & np.isnan(forward)] = PriceStatus.NO_FORWARD
        is_vague = self._is_vague(options, solution, self.forwards.doubt(expiry, received))
        is_vague |= self.forwards.source[expiry] == ForwardSource.SPOT_CARRY
        status[(status == PriceStatus.OK) & is_vague] = PriceStatus.UNRELIABLE
        self._volatility[options] = solution[0]
        self._status[options] = status

    def _is_vague(
        self,
        options: NDArray[np.intp],
        solution: NDArray[np.float64],
        forward_doubt: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Return where a price step, or the doubt in the forward, is worth a volatility point."""
        vega = solution[_VEGA]
        by_step = vega < self._universe.price_step[options]
        by_forward = np.abs(solution[_DELTA]) * forward_doubt > vega
        is_vague: NDArray[np.bool_] = by_step | by_forward
        return is_vague

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop the quotes and solutions of instruments that are no longer subscribed."""
        for column in (self._mid, self._half_spread, self._price, self._volatility):
            column[rows] = np.nan
        self._price_source[rows] = PriceSource.NONE
        self._status[rows] = PriceStatus.NO_PRICE
        self._awaits_news[rows] = True

    def doubt(self, rows: NDArray[np.intp]) -> None:
        """Call what was solved stale: its feed is lost, and a tick alone makes it good again."""
        rows = rows[self._universe.is_option[rows]]
        self._status[rows[self._status[rows] == PriceStatus.OK]] = PriceStatus.STALE
        self._awaits_news[rows] = True

    def columns(self, rows: NDArray[np.intp], *, now_ns: int) -> Priced:
        """Return what goes out for the given rows at the forwards of now.

        Args:
            rows: Universe rows, options or not, shape ``(n,)``.
            now_ns: The instant the Greeks are for, ns since the Unix epoch.
        """
        universe, forwards = self._universe, self.forwards
        is_option = universe.is_option[rows]
        # A row without an expiry borrows the first one's forward; ``is_option`` masks the result.
        expiry = np.where(is_option, universe.expiry[rows], 0)
        if not len(universe.expiries):
            return _not_options(len(rows))
        forward = forwards.current(now_ns)[expiry]
        has_forward = ~np.isnan(forward)
        strike, is_call = universe.strike[rows], universe.is_call[rows]
        leg = self._leg(rows, forward, now_ns)
        status = self._status[leg]
        is_valued = np.isin(status, _VALUED)
        # What was solved against a forward that has been lost since has no Greeks of now.
        status[is_valued & ~has_forward] = PriceStatus.NO_FORWARD
        is_valued &= has_forward
        years = years_to_expiry(now_ns, universe.expiry_ns[rows])
        greeks = self._kernel.evaluate(
            self._volatility[leg], forward, strike, years, self._config.rate, is_call
        )
        is_expired = is_option & (years <= 0.0)
        status[is_expired] = PriceStatus.EXPIRED
        greeks[:, ~is_valued | is_expired] = np.nan
        status[(status == PriceStatus.OK) & self._is_old_trade(leg, now_ns)] = PriceStatus.STALE
        # No fixed rate is the market's carry: greeks.md §4.2 found it off by volatility points.
        is_doubtful = greeks[_VEGA] < universe.price_step[rows]
        is_doubtful |= forwards.source[expiry] == ForwardSource.SPOT_CARRY
        status[(status == PriceStatus.OK) & is_doubtful] = PriceStatus.UNRELIABLE
        volatility = np.where(is_valued & ~is_expired, self._volatility[leg], np.nan)
        return Priced(
            is_option=is_option,
            implied_volatility=volatility,
            delta=greeks[_DELTA],
            gamma=greeks[_GAMMA],
            theta=greeks[_THETA],
            vega=greeks[_VEGA],
            rho=greeks[_RHO],
            price_used=self._price[rows],
            price_source=self._price_source[rows],
            forward=forward,
            forward_source=np.where(
                has_forward, forwards.source[expiry], ForwardSource.NONE
            ).astype(np.uint8),
            forward_age_ms=np.where(
                has_forward, (now_ns - forwards.as_of_ns[expiry]) / NS_PER_MS, np.nan
            ),
            iv_status=status,
            iv_leg=np.where(leg == rows, Leg.OWN, Leg.OTHER).astype(np.uint8),
        )

    def _is_old_trade(self, rows: NDArray[np.intp], now_ns: int) -> NDArray[np.bool_]:
        """Return where a last trade stands for the price and has grown old since it came."""
        traded_ns = self._latest.ticks.last_trade_ts_ns[rows]
        limit_ns = self._config.trade_age_ms_max * NS_PER_MS
        is_old: NDArray[np.bool_] = (traded_ns > 0) & (now_ns - traded_ns > limit_ns)
        is_old &= self._price_source[rows] == PriceSource.LTP
        return is_old

    def _leg(
        self, rows: NDArray[np.intp], forward: NDArray[np.float64], now_ns: int
    ) -> NDArray[np.intp]:
        """Return the row whose volatility each row takes: the out-of-the-money leg if it can say.

        When that leg has no volatility, or none recent, the row speaks for itself.
        """
        universe = self._universe
        strike, is_call = universe.strike[rows], universe.is_call[rows]
        is_in_the_money = np.where(is_call, strike < forward, strike > forward)
        other = universe.other_leg[rows]
        received = self._latest.ticks.received_at_ns
        oldest_ns = now_ns - self._config.leg_age_ms_max * NS_PER_MS
        other_serves = (
            (other != ABSENT)
            & np.isin(self._status[other], _VALUED)
            & (received[other] >= oldest_ns)
        )
        return np.where(is_in_the_money & other_serves, other, rows)


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
        iv_status=zeros,
        iv_leg=zeros,
    )
