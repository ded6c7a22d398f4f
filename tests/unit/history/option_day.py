"""A market whose volatilities are known, as minute candles."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain.expiry_clock import expiry_instants, years_to_expiry
from ticker_service.domain.session import IST, instant_ns
from ticker_service.history import OptionCandles
from ticker_service.pricing import PricingKernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTE_NS = 60 * NS_PER_S
OPENS_NS = instant_ns(dt.datetime(2026, 11, 20, 9, 15, tzinfo=IST))
EXPIRY_NS = expiry_instants("NFO-OPT", "NIFTY", dt.date(2026, 11, 24)).variance_ends_ns


@dataclass(frozen=True, slots=True)
class OptionDay:
    """Candles with what they were priced with, row by row."""

    options: OptionCandles
    forward: NDArray[np.float64]
    volatility: NDArray[np.float64]


def option_day(
    *,
    minutes: int = 5,
    strikes: int = 11,
    expiry_ns: int = EXPIRY_NS,
    opens_ns: int = OPENS_NS,
    level: float = 25_000.0,
    price_step: float = 0.05,
    seed: int = 1,
) -> OptionDay:
    """Return both legs of every strike in every minute, minute by minute, on the price step."""
    rng = np.random.default_rng(seed)
    forward = level * np.exp(np.cumsum(rng.normal(0.0, 3e-4, minutes)))
    strike = level + 50.0 * (np.arange(strikes) - strikes // 2)
    minute, place = (
        grid.ravel() for grid in np.indices((minutes, 2 * strikes))
    )  # a strike's call, then its put
    start_ns = opens_ns + minute * MINUTE_NS
    strike, is_call, forward = strike[place // 2], place % 2 == 0, forward[minute]
    moneyness = np.log(strike / forward)
    volatility = 0.13 - 0.3 * moneyness + 2.0 * moneyness**2
    years = years_to_expiry(start_ns + MINUTE_NS, np.full(len(start_ns), expiry_ns))
    price = PricingKernel(9_000).evaluate(volatility, forward, strike, years, 0.0, is_call)[0]
    options = OptionCandles(
        start_ns=start_ns,
        price=np.maximum(np.rint(price / price_step), 1.0) * price_step,
        strike=strike,
        is_call=is_call,
        expiry_ns=np.full(len(start_ns), expiry_ns),
    )
    return OptionDay(options, forward, volatility)


def take(options: OptionCandles, rows: NDArray[np.intp] | NDArray[np.bool_]) -> OptionCandles:
    """Return some of the rows."""
    columns = {field.name: getattr(options, field.name) for field in fields(options)}
    return replace(
        options, **{name: values[rows] for name, values in columns.items() if values is not None}
    )
