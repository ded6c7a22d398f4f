"""The forward of every expiry, kept up to date from the latest quotes.

Part of the price step. Put-call parity near the money, else the listed future of that expiry, else
spot with carry (DESIGN D8); which one it was, how old it is and how far it is open travels with
every row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.universe import ABSENT
from ticker_service.market.forward_source import ForwardSource, SourceChoice
from ticker_service.pricing import carry_forward, parity_forwards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ticker_service.config import PricingConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe
    from ticker_service.market.last_trades import LastTrades


DRIFT_PER_SQRT_S: Final = 7e-5
"""How far a forward wanders in a second, as a share of itself: 17 % a year over trading seconds,
which is an index of 13 % and its basis."""
DOUBT_SIGMAS: Final = 3.0
"""How many of its wanderings a forward is trusted to stay within, where thousands of rows ask."""
PACKET_LAG_NS_MIN: Final = 50 * NS_PER_MS
"""Quotes are received one after another and made one after another, in unlike order."""
FUTURE_SPREAD_RATIO_MAX: Final = 0.005
"""Widest spread of a future, as a share of its bid, whose mid is a price and not a guess."""
PARITY_STRIKES_MIN: Final = 3
"""Fewer strikes than this are an anecdote: one bad quote would be the forward."""
STRIKES_LOOKED_AT: Final = 32
"""The nearest seven with both quotes are sought among so many round the money."""


class _Reading(NamedTuple):
    """What one source says of one expiry's forward, rupees."""

    value: float
    as_of_ns: int
    dispersion: float = math.nan


class Forwards:
    """One forward per expiry of the universe; columns of shape ``(expiries,)``.

    ``value`` is rupees. ``dispersion`` is how far the quotes behind it leave it open, rupees: the
    median distance of the strikes' own forwards, or half the future's spread, NaN where there is
    neither. ``as_of_ns`` is when those quotes were received. Owned by the price step.
    """

    def __init__(self, universe: Universe, config: PricingConfig, last_trades: LastTrades) -> None:
        count = len(universe.expiries)
        self.value = np.full(count, np.nan)
        self.dispersion = np.full(count, np.nan)
        self.source = np.zeros(count, np.uint8)
        self.as_of_ns = np.zeros(count, np.int64)
        self._choices = [SourceChoice() for _ in range(count)]
        self._universe = universe
        self._last_trades = last_trades
        self._rate = config.rate
        self._quote_age_ns_max = config.quote_age_ms_max * NS_PER_MS
        self._forward_age_ns_max = config.forward_age_ms_max * NS_PER_MS
        self._instant_ns = np.array([one.instant_ns for one in universe.expiries], np.int64)
        self._strike, self._call, self._put = _chains(universe)

    def update(
        self,
        expiries: NDArray[np.intp],
        *,
        latest: Ticks,
        mid: NDArray[np.float64],
        half_spread: NDArray[np.float64],
        now_ns: int,
    ) -> None:
        """Work out the forwards of some expiries again.

        Args:
            expiries: Numbers of the expiries whose quotes changed, each once.
            latest: Latest tick of every universe row.
            mid: Mid of every universe row, NaN where the quote is not sane; rupees.
            half_spread: Half the spread behind each mid; rupees.
            now_ns: The instant of this flush, ns since the Unix epoch.
        """
        if not len(expiries):
            return
        by_parity = self._by_parity(
            expiries, latest=latest, mid=mid, half_spread=half_spread, now_ns=now_ns
        )
        for number, reading in zip(expiries.tolist(), by_parity, strict=True):
            readings = {ForwardSource.PARITY: reading}
            if reading is None or self.source[number] != ForwardSource.PARITY:
                readings[ForwardSource.FUTURE] = self._by_future(number, latest, now_ns)
                readings[ForwardSource.SPOT_CARRY] = self._by_spot(number, latest, now_ns)
            self._take(number, readings, now_ns)

    def current(self, now_ns: int) -> NDArray[np.float64]:
        """Return the forwards that may still be used at an instant; NaN for none.

        A book that fell silent is not updated, but its forwards grow old all the same.
        """
        is_old = self.as_of_ns < now_ns - self._forward_age_ns_max
        return np.where(is_old, np.nan, self.value)

    def doubt(
        self, expiries: NDArray[np.intp], quoted_ns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return how far the forwards may be from those that given quotes were made against.

        Args:
            expiries: Number of each quote's expiry, shape ``(n,)``.
            quoted_ns: When each quote was received, ns since the Unix epoch, shape ``(n,)``.

        Returns:
            Rupees, shape ``(n,)``: the dispersion of the forward, and what it wanders in the time
            between the quotes behind it and this one. NaN without a forward.
        """
        apart_ns = np.maximum(np.abs(quoted_ns - self.as_of_ns[expiries]), PACKET_LAG_NS_MIN)
        wandering = DRIFT_PER_SQRT_S * self.value[expiries] * np.sqrt(apart_ns / NS_PER_S)
        scatter = np.nan_to_num(self.dispersion[expiries])
        doubt: NDArray[np.float64] = scatter + DOUBT_SIGMAS * wandering
        return doubt

    def _take(
        self, number: int, readings: Mapping[ForwardSource, _Reading | None], now_ns: int
    ) -> None:
        speaking = [source for source, reading in readings.items() if reading]
        source = self._choices[number].choose(speaking, now_ns)
        reading = readings.get(source)
        if reading is None:
            # The last value stays for a while, ever older, and its age says so.
            if self.as_of_ns[number] >= now_ns - self._forward_age_ns_max:
                return
            source, reading = ForwardSource.NONE, _Reading(math.nan, 0)
            self._choices[number] = SourceChoice()
        self.source[number] = source
        self.value[number], self.as_of_ns[number], self.dispersion[number] = reading

    def _by_parity(
        self,
        expiries: NDArray[np.intp],
        *,
        latest: Ticks,
        mid: NDArray[np.float64],
        half_spread: NDArray[np.float64],
        now_ns: int,
    ) -> list[_Reading | None]:
        guess = np.array([self._guess(number, latest) for number in expiries.tolist()])
        strike, calls, puts = self._near(expiries, guess)
        received = latest.received_at_ns
        # The older leg decides: a fresh call against a put of a minute ago is no parity.
        quoted_ns = np.minimum(received[calls], received[puts])
        is_usable = (calls != ABSENT) & (puts != ABSENT)
        is_usable &= quoted_ns >= now_ns - self._quote_age_ns_max
        # An old pair states the forward of then: what the forward may have moved since is as good
        # as a wider spread, so that fresh pairs outvote old ones without a hard limit.
        age_s = np.maximum(now_ns - quoted_ns, 0) / NS_PER_S
        drift = DRIFT_PER_SQRT_S * strike * np.sqrt(age_s)
        found = parity_forwards(
            strike,
            np.where(is_usable, mid[calls], np.nan),
            mid[puts],
            half_spread[calls] + half_spread[puts] + drift,
            guess=guess,
            discount=np.exp(-self._rate * years_to_expiry(now_ns, self._instant_ns[expiries])),
        )
        as_of_ns = quoted_ns[np.arange(len(expiries)), found.pair_index]
        return [
            _Reading(*values) if used >= PARITY_STRIKES_MIN else None
            for used, *values in zip(
                found.strikes_used.tolist(),
                found.forward.tolist(),
                as_of_ns.tolist(),
                found.dispersion.tolist(),
                strict=True,
            )
        ]

    def _near(
        self, expiries: NDArray[np.intp], guess: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
        """Return strikes and rows of the chains, the part round the money of long ones."""
        strikes = self._strike.shape[1]
        strike = self._strike[expiries]
        if strikes <= STRIKES_LOOKED_AT or np.isnan(guess).any():
            return strike, self._call[expiries], self._put[expiries]
        below = np.count_nonzero(strike < guess[:, None], axis=1)
        listed = np.count_nonzero(strike < np.inf, axis=1)
        first = np.minimum(below - STRIKES_LOOKED_AT // 2, listed - STRIKES_LOOKED_AT)
        place = np.maximum(first, 0)[:, None] + np.arange(STRIKES_LOOKED_AT)
        return (
            np.take_along_axis(strike, place, axis=1),
            self._call[expiries[:, None], place],
            self._put[expiries[:, None], place],
        )

    def _guess(self, number: int, latest: Ticks) -> float:
        """Return where the money is: the last forward, else the future, else spot."""
        if not math.isnan(self.value[number]):
            return float(self.value[number])
        expiry = self._universe.expiries[number]
        for row in (expiry.future_row, self._universe.spot_row[expiry.book]):
            if row != ABSENT and latest.ltp[row] > 0.0:
                return float(latest.ltp[row])
        return math.nan

    def _by_future(self, number: int, latest: Ticks, now_ns: int) -> _Reading | None:
        future = self._universe.expiries[number].future_row
        oldest_ns = now_ns - self._quote_age_ns_max
        if future == ABSENT or _heard_ns(latest, future) < oldest_ns:
            return None
        reading = _future_price(latest, future, self._last_trades)
        return reading if reading.value > 0.0 and reading.as_of_ns >= oldest_ns else None

    def _by_spot(self, number: int, latest: Ticks, now_ns: int) -> _Reading | None:
        expiry = self._universe.expiries[number]
        spot = self._universe.spot_row[expiry.book]
        if spot == ABSENT or _heard_ns(latest, spot) < now_ns - self._quote_age_ns_max:
            return None
        years = years_to_expiry(now_ns, expiry.instant_ns)
        value = carry_forward(float(latest.ltp[spot]), self._rate, years)
        if math.isnan(value):
            return None
        return _Reading(value, int(latest.received_at_ns[spot]))


def _chains(
    universe: Universe,
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Return strikes, call rows and put rows, shape ``(expiries, longest)``, strikes ascending.

    Shorter chains are filled up with infinite strikes that have neither leg.
    """
    longest = max((len(one.strike) for one in universe.expiries), default=0)
    shape = (len(universe.expiries), longest)
    strike, call, put = np.full(shape, np.inf), np.full(shape, ABSENT), np.full(shape, ABSENT)
    for number, one in enumerate(universe.expiries):
        part = number, slice(len(one.strike))
        strike[part], call[part], put[part] = one.strike, one.call_row, one.put_row
    return strike, call, put


def _heard_ns(latest: Ticks, row: int) -> int:
    """Return when a row's market last spoke, ns since the Unix epoch.

    The exchange's stamp, where it is there: on every subscribe Kite sends the last packet it kept,
    which is received now and may be yesterday's.
    """
    received_ns, stamped_ns = int(latest.received_at_ns[row]), int(latest.exchange_ts_ns[row])
    return min(received_ns, stamped_ns) if stamped_ns > 0 else received_ns


def _future_price(latest: Ticks, row: int, last_trades: LastTrades) -> _Reading:
    """Return a future's price, NaN if it has none, and when it was made.

    The mid of a tight quote; else the last trade, moved into the quote if that leaves it out.
    """
    bid, ask = float(latest.bid_price[0, row]), float(latest.ask_price[0, row])
    received_ns = int(latest.received_at_ns[row])
    is_two_sided = 0.0 < bid <= ask
    if is_two_sided and ask - bid <= FUTURE_SPREAD_RATIO_MAX * bid:
        return _Reading(0.5 * (bid + ask), received_ns, 0.5 * (ask - bid))
    trade = float(latest.ltp[row])
    price = min(max(trade, bid), ask) if is_two_sided and trade > 0.0 else trade
    traded_ns = last_trades.traded_ns(np.array([row]), latest)
    return _Reading(price, min(received_ns, int(traded_ns[0])))
