"""The forward of every expiry, kept up to date from the latest quotes.

Part of the price step. Put-call parity near the money, else the listed future of that expiry, else
spot with carry (DESIGN D8); which one it was, how old it is and how far it is open travels with
every row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    from ticker_service.pricing.forward import ParityForwards


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


_PARITY: Final = ForwardSource.PARITY
"""By a name of its own: to ask an enumeration for a member takes longer than to use it."""


class _Reading(NamedTuple):
    """What one source says of one expiry's forward, rupees."""

    value: float
    as_of_ns: int
    dispersion: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strikes:
    """Strikes of some expiries, shape ``(n, k)``, and the rows of both legs, ``(2, n, k)``.

    They are the right ones while every expiry's guess is ``between``, shape ``(2, n)``: above the
    one strike and not above the other.
    """

    expiries: NDArray[np.intp]
    strike: NDArray[np.float64]
    legs: NDArray[np.intp]
    between: NDArray[np.float64]

    def serve(self, expiries: NDArray[np.intp], guess: NDArray[np.float64]) -> bool:
        """Return whether these are the strikes to look at; never for a guess that is NaN."""
        lowest, highest = self.between
        return np.array_equal(expiries, self.expiries) and bool(
            ((lowest < guess) & (guess <= highest)).all()
        )


class Forwards:
    """One forward per expiry of the universe; columns of shape ``(expiries,)``.

    ``value`` is rupees. ``dispersion`` is how far the quotes behind it leave it open, rupees: the
    median distance of the strikes' own forwards, or half the future's spread, NaN where there is
    neither. ``as_of_ns`` is when those quotes were received. ``is_doubtful`` says of every universe
    row whether its latest tick may not be true; no forward is read from such. Owned by the price
    step.
    """

    def __init__(self, universe: Universe, config: PricingConfig, last_trades: LastTrades) -> None:
        count = len(universe.expiries)
        self.value = np.full(count, np.nan)
        self.dispersion = np.full(count, np.nan)
        self.source = np.zeros(count, np.uint8)
        self.as_of_ns = np.zeros(count, np.int64)
        self.is_doubtful = np.zeros(len(universe), np.bool_)
        self._choices = [SourceChoice() for _ in range(count)]
        self._universe = universe
        self._last_trades = last_trades
        self._rate = config.rate
        self._quote_age_ns_max = config.quote_age_ms_max * NS_PER_MS
        self._forward_age_ns_max = config.forward_age_ms_max * NS_PER_MS
        self._instant_ns = np.array([one.instant_ns for one in universe.expiries], np.int64)
        self._strike, self._call, self._put = _chains(universe)
        self._last_near: _Strikes | None = None

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
        found, as_of_ns = self._by_parity(
            expiries, latest=latest, mid=mid, half_spread=half_spread, now_ns=now_ns
        )
        for number, read_from, used, *values in zip(
            expiries.tolist(),
            self.source[expiries].tolist(),
            found.strikes_used.tolist(),
            found.forward.tolist(),
            as_of_ns.tolist(),
            found.dispersion.tolist(),
            strict=True,
        ):
            reading = _Reading(*values) if used >= PARITY_STRIKES_MIN else None
            readings: dict[ForwardSource, _Reading | None] = {_PARITY: reading}
            if reading is None or read_from != _PARITY:
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
        drift, scatter = DRIFT_PER_SQRT_S * self.value, np.nan_to_num(self.dispersion)
        wandering = drift[expiries] * np.sqrt(apart_ns / NS_PER_S)
        doubt: NDArray[np.float64] = scatter[expiries] + DOUBT_SIGMAS * wandering
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
    ) -> tuple[ParityForwards, NDArray[np.int64]]:
        """Return what parity says of each expiry, and when the pair behind it was received."""
        guess = self._guesses(expiries, latest)
        near = self._near(expiries, guess)
        # The older leg decides: a fresh call against a put of a minute ago is no parity.
        quoted_ns = np.minimum(*latest.received_at_ns[near.legs])
        is_usable = (near.legs != ABSENT).all(axis=0) & (
            quoted_ns >= now_ns - self._quote_age_ns_max
        )
        # An old pair states the forward of then: what the forward may have moved since is as good
        # as a wider spread, so that fresh pairs outvote old ones without a hard limit.
        age_s = np.maximum(now_ns - quoted_ns, 0) / NS_PER_S
        drift = DRIFT_PER_SQRT_S * near.strike * np.sqrt(age_s)
        call_mid, put_mid = mid[near.legs]
        call_spread, put_spread = half_spread[near.legs]
        found = parity_forwards(
            near.strike,
            np.where(is_usable, call_mid, np.nan),
            put_mid,
            call_spread + put_spread + drift,
            guess=guess,
            discount=np.exp(-self._rate * years_to_expiry(now_ns, self._instant_ns[expiries])),
        )
        return found, quoted_ns[np.arange(len(expiries)), found.pair_index]

    def _near(self, expiries: NDArray[np.intp], guess: NDArray[np.float64]) -> _Strikes:
        """Return the strikes of the chains, of long ones the part round the money.

        That part is looked for again only when a guess has passed a strike, or for other expiries:
        most flushes touch all of them, and the money stays where it is for seconds.
        """
        last = self._last_near
        if last is not None and last.serve(expiries, guess):
            return last
        strikes = self._strike.shape[1]
        is_anywhere = strikes <= STRIKES_LOOKED_AT or bool(np.isnan(guess).any())
        place = np.arange(strikes)[None] if is_anywhere else self._places(expiries, guess)
        row = expiries[:, None]
        self._last_near = _Strikes(
            expiries=expiries,
            strike=self._strike[row, place],
            legs=np.stack([self._call[row, place], self._put[row, place]]),
            between=self._neighbours(expiries, guess),
        )
        return self._last_near

    def _places(self, expiries: NDArray[np.intp], guess: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return which strikes of each chain are the ones round its guess."""
        chains = self._strike[expiries]
        below = np.count_nonzero(chains < guess[:, None], axis=1)
        listed = np.count_nonzero(chains < np.inf, axis=1)
        first = np.minimum(below - STRIKES_LOOKED_AT // 2, listed - STRIKES_LOOKED_AT)
        places: NDArray[np.intp] = np.maximum(first, 0)[:, None] + np.arange(STRIKES_LOOKED_AT)
        return places

    def _neighbours(
        self, expiries: NDArray[np.intp], guess: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the strike below each guess and the one at or above it, shape ``(2, n)``.

        Between them the same strikes are the ones to look at. NaN where the guess is.
        """
        chains, at = self._strike[expiries], guess[:, None]
        lowest = np.where(chains < at, chains, -np.inf).max(axis=1, initial=-np.inf)
        highest = np.where(chains >= at, chains, np.inf).min(axis=1, initial=np.inf)
        between: NDArray[np.float64] = np.where(np.isnan(guess), np.nan, [lowest, highest])
        return between

    def _guesses(self, expiries: NDArray[np.intp], latest: Ticks) -> NDArray[np.float64]:
        """Return where the money of each expiry is."""
        guess = self.value[expiries]
        for place in np.flatnonzero(np.isnan(guess)).tolist():
            guess[place] = self._guess(int(expiries[place]), latest)
        return guess

    def _guess(self, number: int, latest: Ticks) -> float:
        """Return where the money is without a last forward: at the future, else at the spot."""
        expiry = self._universe.expiries[number]
        for row in (expiry.future_row, self._universe.spot_row[expiry.book]):
            if row != ABSENT and latest.ltp[row] > 0.0 and not self.is_doubtful[row]:
                return float(latest.ltp[row])
        return math.nan

    def _by_future(self, number: int, latest: Ticks, now_ns: int) -> _Reading | None:
        future = self._universe.expiries[number].future_row
        oldest_ns = now_ns - self._quote_age_ns_max
        if future == ABSENT or self.is_doubtful[future]:
            return None
        if _heard_ns(latest, future) < oldest_ns:
            return None
        reading = _future_price(latest, future, self._last_trades)
        return reading if reading.value > 0.0 and reading.as_of_ns >= oldest_ns else None

    def _by_spot(self, number: int, latest: Ticks, now_ns: int) -> _Reading | None:
        expiry = self._universe.expiries[number]
        spot = self._universe.spot_row[expiry.book]
        if spot == ABSENT or self.is_doubtful[spot]:
            return None
        if _heard_ns(latest, spot) < now_ns - self._quote_age_ns_max:
            return None
        years = years_to_expiry(now_ns, expiry.instant_ns)
        value = carry_forward(float(latest.ltp[spot]), self._rate, years)
        if math.isnan(value):
            return None
        return _Reading(value, _heard_ns(latest, spot))


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

    By the exchange's stamp, where it is there: on every subscribe Kite sends the last packet it
    kept, which is received now and may be yesterday's. A stamp names a second, not an instant.
    """
    received_ns, stamped_ns = int(latest.received_at_ns[row]), int(latest.exchange_ts_ns[row])
    return min(received_ns, stamped_ns + NS_PER_S) if stamped_ns > 0 else received_ns


def _future_price(latest: Ticks, row: int, last_trades: LastTrades) -> _Reading:
    """Return a future's price, NaN if it has none, and when it was made.

    The mid of a tight quote; else the last trade, moved into the quote if that leaves it out.
    """
    bid, ask = float(latest.bid_price[0, row]), float(latest.ask_price[0, row])
    heard_ns = _heard_ns(latest, row)
    is_two_sided = 0.0 < bid <= ask
    if is_two_sided and ask - bid <= FUTURE_SPREAD_RATIO_MAX * bid:
        return _Reading(0.5 * (bid + ask), heard_ns, 0.5 * (ask - bid))
    trade = float(latest.ltp[row])
    price = min(max(trade, bid), ask) if is_two_sided and trade > 0.0 else trade
    traded_ns = last_trades.traded_ns(np.array([row]), latest)
    return _Reading(price, min(heard_ns, int(traded_ns[0])))
