"""The forward of every expiry, kept up to date from the latest quotes.

Part of the price step. Put-call parity near the money, else the listed future of that expiry, else
spot with carry (DESIGN D8); which one it was and how old it is travels with every row.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.universe import ABSENT
from ticker_service.pricing import carry_forward, parity_forward

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ticker_service.config import PricingConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Expiry, Universe


class ForwardSource(IntEnum):
    """Where an expiry's forward comes from, best first."""

    NONE = 0
    PARITY = 1
    FUTURE = 2
    SPOT_CARRY = 3


DRIFT_PER_SQRT_S: Final = 5e-5
"""How far a forward wanders in a second, as a share of itself: 13 % a year over trading seconds."""
DOUBT_SIGMAS: Final = 3.0
"""How many of its wanderings a forward is trusted to stay within, where thousands of rows ask."""
PACKET_LAG_NS_MIN: Final = 50 * NS_PER_MS
"""Quotes are received one after another and made one after another, in unlike order."""
FUTURE_SPREAD_RATIO_MAX: Final = 0.005
"""Widest spread of a future, as a share of its bid, whose mid is a price and not a guess."""
PARITY_STRIKES_MIN: Final = 3
"""Fewer strikes than this are an anecdote: one bad quote would be the forward."""


class Forwards:
    """One forward per expiry of the universe; columns of shape ``(expiries,)``.

    ``value`` and ``dispersion`` are rupees, ``as_of_ns`` is when the quotes behind the value were
    received. Owned by the price step.
    """

    def __init__(self, universe: Universe, config: PricingConfig) -> None:
        count = len(universe.expiries)
        self.value = np.full(count, np.nan)
        self.dispersion = np.full(count, np.nan)
        self.source = np.zeros(count, np.uint8)
        self.as_of_ns = np.zeros(count, np.int64)
        self._universe = universe
        self._rate = config.rate
        self._quote_age_ns_max = config.quote_age_ms_max * NS_PER_MS
        self._forward_age_ns_max = config.forward_age_ms_max * NS_PER_MS

    def update(
        self,
        expiries: Iterable[int],
        *,
        latest: Ticks,
        mid: NDArray[np.float64],
        half_spread: NDArray[np.float64],
        now_ns: int,
    ) -> None:
        """Work out the forwards of some expiries again.

        Args:
            expiries: Numbers of the expiries whose quotes changed.
            latest: Latest tick of every universe row.
            mid: Mid of every universe row, NaN where the quote is not sane; rupees.
            half_spread: Half the spread behind each mid; rupees.
            now_ns: The instant of this flush, ns since the Unix epoch.
        """
        for number in expiries:
            expiry = self._universe.expiries[number]
            if not self._by_parity(
                number, expiry, latest=latest, mid=mid, half_spread=half_spread, now_ns=now_ns
            ):
                self._by_listed_price(number, expiry, latest=latest, now_ns=now_ns)

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
            Rupees, shape ``(n,)``: the scatter of the strikes behind the forward, and what it
            wanders in the time between their quotes and this one. NaN without a forward.
        """
        apart_ns = np.maximum(np.abs(quoted_ns - self.as_of_ns[expiries]), PACKET_LAG_NS_MIN)
        wandering = DRIFT_PER_SQRT_S * self.value[expiries] * np.sqrt(apart_ns / NS_PER_S)
        scatter = np.nan_to_num(self.dispersion[expiries])
        doubt: NDArray[np.float64] = scatter + DOUBT_SIGMAS * wandering
        return doubt

    def _by_parity(
        self,
        number: int,
        expiry: Expiry,
        *,
        latest: Ticks,
        mid: NDArray[np.float64],
        half_spread: NDArray[np.float64],
        now_ns: int,
    ) -> bool:
        received = latest.received_at_ns
        calls, puts = expiry.call_row, expiry.put_row
        # The older leg decides: a fresh call against a put of a minute ago is no parity.
        quoted_ns = np.minimum(received[calls], received[puts])
        is_usable = (calls != ABSENT) & (puts != ABSENT)
        is_usable &= quoted_ns >= now_ns - self._quote_age_ns_max
        years = years_to_expiry(now_ns, expiry.instant_ns)
        guess = self._guess(number, expiry, latest)
        # An old pair states the forward of then: what the forward may have moved since is as good
        # as a wider spread, so that fresh pairs outvote old ones without a hard limit.
        age_s = np.maximum(now_ns - quoted_ns, 0) / NS_PER_S
        drift = DRIFT_PER_SQRT_S * expiry.strike * np.sqrt(age_s)
        found = parity_forward(
            expiry.strike,
            np.where(is_usable, mid[calls], np.nan),
            mid[puts],
            half_spread[calls] + half_spread[puts] + drift,
            guess=guess,
            discount=math.exp(-self._rate * years),
        )
        if found.strikes_used < PARITY_STRIKES_MIN:
            return False
        self._set(
            number, found.forward, ForwardSource.PARITY, as_of_ns=int(quoted_ns[found.pair_index])
        )
        self.dispersion[number] = found.dispersion
        return True

    def _guess(self, number: int, expiry: Expiry, latest: Ticks) -> float:
        """Return where the money is: the last forward, else the future, else spot."""
        if not math.isnan(self.value[number]):
            return float(self.value[number])
        for row in (expiry.future_row, self._universe.spot_row[expiry.book]):
            if row != ABSENT and latest.ltp[row] > 0.0:
                return float(latest.ltp[row])
        return math.nan

    def _by_listed_price(self, number: int, expiry: Expiry, *, latest: Ticks, now_ns: int) -> None:
        """Fall back to the future's price, then to spot with carry, then to nothing."""
        self.dispersion[number] = np.nan
        oldest_ns = now_ns - self._quote_age_ns_max
        future = expiry.future_row
        if future != ABSENT and _heard_ns(latest, future) >= oldest_ns:
            price, as_of_ns = _future_price(latest, future)
            if price > 0.0 and as_of_ns >= oldest_ns:
                self._set(number, price, ForwardSource.FUTURE, as_of_ns=as_of_ns)
                return
        spot = self._universe.spot_row[expiry.book]
        if spot != ABSENT and _heard_ns(latest, spot) >= oldest_ns and latest.ltp[spot] > 0.0:
            years = years_to_expiry(now_ns, expiry.instant_ns)
            self._set(
                number,
                carry_forward(float(latest.ltp[spot]), self._rate, years),
                ForwardSource.SPOT_CARRY,
                as_of_ns=int(latest.received_at_ns[spot]),
            )
            return
        # The last value stays for a while, ever older, and its age says so.
        if self.as_of_ns[number] < now_ns - self._forward_age_ns_max:
            self._set(number, math.nan, ForwardSource.NONE, as_of_ns=0)

    def _set(self, number: int, value: float, source: ForwardSource, *, as_of_ns: int) -> None:
        self.value[number] = value
        self.source[number] = source
        self.as_of_ns[number] = as_of_ns


def _heard_ns(latest: Ticks, row: int) -> int:
    """Return when a row's market last spoke, ns since the Unix epoch.

    The exchange's stamp, where it is there: on every subscribe Kite sends the last packet it kept,
    which is received now and may be yesterday's.
    """
    received_ns, stamped_ns = int(latest.received_at_ns[row]), int(latest.exchange_ts_ns[row])
    return min(received_ns, stamped_ns) if stamped_ns > 0 else received_ns


def _future_price(latest: Ticks, row: int) -> tuple[float, int]:
    """Return a future's price in rupees, or NaN, and when it was made, ns since the Unix epoch.

    The mid of a tight quote; else the last trade, moved into the quote if that leaves it out.
    """
    bid, ask = float(latest.bid_price[0, row]), float(latest.ask_price[0, row])
    received_ns, traded_ns = int(latest.received_at_ns[row]), int(latest.last_trade_ts_ns[row])
    is_two_sided = 0.0 < bid <= ask
    if is_two_sided and ask - bid <= FUTURE_SPREAD_RATIO_MAX * bid:
        return 0.5 * (bid + ask), received_ns
    trade = float(latest.ltp[row])
    price = min(max(trade, bid), ask) if is_two_sided and trade > 0.0 else trade
    return price, min(received_ns, traded_ns) if traded_ns > 0 else received_ns
