"""Candles of options with implied volatility and Greeks, by the kernel of the live path.

Pure. ``_priced`` is the map: it calls the steps in order. A row keeps its place; what cannot
be solved is NaN with a status, never a zero, and a gap stays a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.history import alignment, forwards, instants
from ticker_service.history.forwards import ForwardSource
from ticker_service.history.instants import CandlePricing
from ticker_service.pricing import STATUS_WIRE_NAMES, PriceStatus, PricingKernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.history.alignment import Alignment, OptionCandles, UnderlyingCandles
    from ticker_service.history.forwards import MomentForwards

CHUNK_ROWS: Final = 9_000
"""Rows the kernel takes at once; more do not fit into the processor's cache."""
MINUTE_CLOSES: Final = CandlePricing()
_VALUED: Final = (PriceStatus.OK, PriceStatus.STALE, PriceStatus.UNRELIABLE)
"""Statuses that keep their values."""
_VOLATILITY, _DELTA, _GAMMA, _THETA, _VEGA, _RHO = range(6)
"""Rows of the kernel's output."""


class Leg(IntEnum):
    """Whose price the volatility of a row was solved from."""

    OWN = 0
    OTHER = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CandleGreeks:
    """What pricing adds to each option candle, shape ``(n,)``; NaN where there is no value.

    Units: volatilities as fractions per year, delta and gamma per point of forward, theta rupees
    per calendar day, vega rupees per volatility point, rho rupees per 1 %, prices rupees.

    Attributes:
        priced_at_ns: The instant the row was priced at, ns since the Unix epoch.
        years: Time to expiry at it, years of 365 days.
        implied_volatility: Of the strike, by the leg that ``iv_leg`` names.
        own_implied_volatility: Of the row's own price.
        delta: Of this option at ``forward``, like the four below.
        gamma: See above.
        theta: See above.
        vega: See above.
        rho: See above.
        price_used: The candle's price.
        price_source: Its name; ``none`` where the candle has no price.
        forward: What the row was priced on.
        forward_source: ``ForwardSource`` codes.
        forward_dispersion: How far the strikes disagreed about it; NaN unless it is by parity.
        forward_strikes: How many strikes it came from; 0 unless it is by parity.
        iv_leg: ``Leg`` codes.
        iv_status: ``PriceStatus`` codes.
    """

    priced_at_ns: NDArray[np.int64]
    years: NDArray[np.float64]
    implied_volatility: NDArray[np.float64]
    own_implied_volatility: NDArray[np.float64]
    delta: NDArray[np.float64]
    gamma: NDArray[np.float64]
    theta: NDArray[np.float64]
    vega: NDArray[np.float64]
    rho: NDArray[np.float64]
    price_used: NDArray[np.float64]
    price_source: str
    forward: NDArray[np.float64]
    forward_source: NDArray[np.uint8]
    forward_dispersion: NDArray[np.float64]
    forward_strikes: NDArray[np.int64]
    iv_leg: NDArray[np.uint8]
    iv_status: NDArray[np.uint8]

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns as they are written to files, codes as the words of the wire."""
        has_price = ~np.isnan(self.price_used)
        return {
            "implied_volatility": self.implied_volatility,
            "own_implied_volatility": self.own_implied_volatility,
            "delta": self.delta,
            "gamma": self.gamma,
            "theta": self.theta,
            "vega": self.vega,
            "rho": self.rho,
            "price_used": self.price_used,
            "price_source": np.where(has_price, self.price_source, "none"),
            "forward": self.forward,
            "forward_source": _SOURCE_NAMES[self.forward_source],
            "forward_dispersion": self.forward_dispersion,
            "forward_strikes": self.forward_strikes,
            "years": self.years,
            "iv_leg": _LEG_NAMES[self.iv_leg],
            "iv_status": _STATUS_NAMES[self.iv_status],
        }


_SOURCE_NAMES: Final = np.array([source.name.lower() for source in ForwardSource])
_LEG_NAMES: Final = np.array([leg.name.lower() for leg in Leg])
_STATUS_NAMES: Final = np.array(STATUS_WIRE_NAMES)


def candle_greeks(
    options: OptionCandles,
    underlying: UnderlyingCandles | None = None,
    *,
    assumed: CandlePricing = MINUTE_CLOSES,
) -> CandleGreeks:
    """Price option candles.

    Args:
        options: Candles of options, of any number of contracts and underlyings.
        underlying: Candles of the spot, of futures, or of both; needed only where an expiry has
            fewer than three strikes with both legs at a stamp.
        assumed: Interval, price and rate.

    Returns:
        One row per option candle, in the order given.

    Raises:
        CandleError: Columns differ in length, or stamps repeat or go back. No value raises: a row
            with a bad number has a status.
    """
    # Overflow and NaN are what bad rows give; their status says so, and nobody has to be warned.
    with np.errstate(all="ignore"):
        return _priced(options, underlying, assumed)


def _priced(
    options: OptionCandles, underlying: UnderlyingCandles | None, assumed: CandlePricing
) -> CandleGreeks:
    aligned = alignment.align(options)
    at_ns = instants.priced_at_ns(options.start_ns, expiry_ns=options.expiry_ns, assumed=assumed)
    years = years_to_expiry(at_ns, options.expiry_ns)
    found = forwards.find(options, underlying, aligned, years=years, rate=assumed.rate)
    rows = _Rows(options, aligned, found, years, assumed)
    own, status = _solve_own(rows)
    leg = _leg(rows, status) if assumed.other_leg else np.arange(len(options))
    greeks, status = _greeks(rows, own, status, leg)
    return CandleGreeks(
        priced_at_ns=at_ns,
        years=years,
        implied_volatility=greeks[_VOLATILITY],
        own_implied_volatility=own[_VOLATILITY],
        delta=greeks[_DELTA],
        gamma=greeks[_GAMMA],
        theta=greeks[_THETA],
        vega=greeks[_VEGA],
        rho=greeks[_RHO],
        price_used=rows.price,
        price_source=str(assumed.price),
        forward=rows.forward,
        forward_source=rows.forward_source,
        forward_dispersion=rows.dispersion,
        forward_strikes=rows.strikes,
        iv_leg=(leg != np.arange(len(options))).astype(np.uint8),
        iv_status=status,
    )


class _Rows:
    """The terms of every row, shape ``(n,)``: what its moment knows, spread over its options."""

    def __init__(
        self,
        options: OptionCandles,
        aligned: Alignment,
        found: MomentForwards,
        years: NDArray[np.float64],
        assumed: CandlePricing,
    ) -> None:
        moment = aligned.moment
        self.options = options
        self.years = years
        self.other_leg = aligned.other_leg
        self.rate = assumed.rate
        self.price_step = assumed.price_step_inr
        self.price = np.where(options.price > 0.0, options.price, np.nan)
        self.forward = found.forward[moment]
        self.forward_source = found.source[moment]
        self.dispersion = found.dispersion[moment]
        self.strikes = found.strikes[moment]
        self.is_doubtful = found.is_doubtful[moment]
        self.kernel = PricingKernel(min(max(len(options), 1), CHUNK_ROWS))
        if options.forward is not None:
            self._take_given(options.forward)

    def _take_given(self, forward: NDArray[np.float64]) -> None:
        # One that is none stays, for the kernel to refuse: no other was asked for.
        is_given = ~np.isnan(forward)
        self.forward = np.where(is_given, forward, self.forward)
        self.forward_source[is_given] = ForwardSource.GIVEN
        self.dispersion[is_given] = np.nan
        self.strikes[is_given] = 0
        self.is_doubtful[is_given] = False


def _solve_own(rows: _Rows) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Solve every row's own price; return the kernel's six rows and each row's status."""
    options = rows.options
    own, status = rows.kernel.solve(
        rows.price, rows.forward, options.strike, rows.years, rows.rate, options.is_call
    )
    is_expired = status == PriceStatus.EXPIRED
    status[~is_expired & np.isnan(rows.forward)] = PriceStatus.NO_FORWARD
    status[~is_expired & np.isnan(rows.price)] = PriceStatus.NO_PRICE
    is_solved = status == PriceStatus.OK
    own[:, ~is_solved] = np.nan
    doubt = np.abs(own[_DELTA]) * np.nan_to_num(rows.dispersion)
    is_vague = rows.is_doubtful | (own[_VEGA] < rows.price_step) | (doubt > own[_VEGA])
    status[is_solved & is_vague] = PriceStatus.UNRELIABLE
    if options.volume is not None:
        # Nothing was traded: the candle repeats a price of before, against a forward of now.
        status[is_solved & (options.volume <= 0.0)] = PriceStatus.STALE
    return own, status


def _leg(rows: _Rows, status: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the row whose volatility each row takes: the out-of-the-money leg if it can say."""
    options, other = rows.options, rows.other_leg
    is_in_the_money = np.where(
        options.is_call, options.strike < rows.forward, options.strike > rows.forward
    )
    # A doubtful leg speaks only where the row's own price is no better.
    other_serves = status[other] == PriceStatus.OK
    other_serves |= np.isin(status[other], _VALUED) & (status != PriceStatus.OK)
    other_serves &= other != alignment.ABSENT
    # A volatility is one of the forward it was solved on; the caller may give each leg its own.
    other_serves &= rows.forward[other] == rows.forward
    return np.where(is_in_the_money & other_serves, other, np.arange(len(options)))


def _greeks(
    rows: _Rows, own: NDArray[np.float64], status: NDArray[np.uint8], leg: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return volatility, Greeks and status of every row by its leg."""
    options = rows.options
    greeks, status = own.copy(), status[leg]
    borrows = np.flatnonzero(leg != np.arange(len(options)))
    volatility = own[_VOLATILITY, leg[borrows]]
    greeks[:, borrows] = rows.kernel.evaluate(
        volatility,
        rows.forward[borrows],
        options.strike[borrows],
        rows.years[borrows],
        rows.rate,
        options.is_call[borrows],
    )
    greeks[_VOLATILITY, borrows] = volatility
    return greeks, status
