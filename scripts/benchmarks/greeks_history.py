"""Suite ``greeks_history``: a day of option candles with Greeks, against pandas and a pricer.

200 contracts, 375 minutes: 75,000 rows. Each side finds every minute's forward by put-call parity
over seven strikes, joins it to the options and prices them; the peers do so in pandas. Both have to
find the same volatilities to 1e-9.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from scripts.benchmarks import pricing_peers as peers
from scripts.benchmarks.chain import Chain
from scripts.benchmarks.measure import (
    Disagreement,
    Options,
    Result,
    compared,
    interleaved,
    repeated,
)
from ticker_service.constants import NS_PER_S, NS_PER_YEAR
from ticker_service.domain.expiry_clock import expiry_instants, years_to_expiry
from ticker_service.domain.session import IST, instant_ns
from ticker_service.history import OptionCandles, candle_greeks
from ticker_service.pricing import PricingKernel

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CONTRACTS: Final = 200
MINUTES: Final = 375
CONTRACTS_QUICK: Final = 20
MINUTES_QUICK: Final = 10
SEED: Final = 20_260_901
MINUTE_NS: Final = 60 * NS_PER_S
DAY_STARTS_NS: Final = instant_ns(dt.datetime(2026, 11, 20, 9, 15, tzinfo=IST))
EXPIRY_NS: Final = expiry_instants("NFO-OPT", "NIFTY", dt.date(2026, 12, 29)).variance_ends_ns
SPOT: Final = 25_000.0
STRIKE_GAP: Final = 50.0
PRICE_STEP: Final = 0.05
STRIKES: Final = 7
TOLERANCE: Final = 1e-9
OURS_GOAL: Final = CONTRACTS * MINUTES / 0.05
"""The whole day in 50 ms."""
UNIT: Final = "candles/s"


def run(options: Options) -> list[Result]:
    """Check, measure and return the comparisons."""
    contracts = CONTRACTS_QUICK if options.is_quick else CONTRACTS
    minutes = MINUTES_QUICK if options.is_quick else MINUTES
    candles = _day(contracts=contracts, minutes=minutes)
    priced = candle_greeks(candles)
    table = _Table(candles)
    sides = {
        "newton": lambda: peers.newton(table.joined()),
        "vollib": lambda: peers.OneByOne(table.joined()).solve(),
    }
    for name, solve in sides.items():
        _check(name, priced.own_implied_volatility, solve()[0])
    turns = interleaved(
        {
            "ours": repeated(lambda: candle_greeks(candles)),
            **{name: repeated(solve) for name, solve in sides.items()},
        },
        runs=options.runs,
    )
    ours, rows = turns["ours"], len(candles)
    return [
        compared(
            "greeks_history_newton",
            ours,
            turns["newton"],
            items=rows,
            unit=UNIT,
            against="pandas and Newton on scipy's ndtr, columns",
            ours_goal=None if options.is_quick else OURS_GOAL,
            more={"rows": rows, "ms_per_day": ours.median_s * 1e3},
        ),
        compared(
            "greeks_history_vollib",
            ours,
            turns["vollib"],
            items=rows,
            unit=UNIT,
            against="pandas and vollib (py_vollib), per row",
        ),
    ]


class _Table:
    """The candles as a pandas user has them, and what he does before he can call a pricer."""

    def __init__(self, candles: OptionCandles) -> None:
        self._options = pd.DataFrame(
            {
                "timestamp": pd.to_datetime(candles.start_ns, utc=True),
                "close": candles.price,
                "strike": candles.strike,
                "is_call": candles.is_call,
            }
        )
        self._expiry = pd.Timestamp(EXPIRY_NS, tz="UTC")

    def joined(self) -> Chain:
        """Find every minute's forward, join it, and work out the time to expiry."""
        table = self._options.merge(self._forwards(), on="timestamp", how="left")
        left = self._expiry - (table["timestamp"] + pd.Timedelta(minutes=1))
        years = left.dt.total_seconds() * NS_PER_S / NS_PER_YEAR
        return Chain(
            price=table["close"].to_numpy(),
            forward=table["forward"].to_numpy(),
            strike=table["strike"].to_numpy(),
            years=years.to_numpy(),
            rate=0.0,
            is_call=table["is_call"].to_numpy(),
        )

    def _forwards(self) -> pd.DataFrame:
        """Put-call parity over the seven strikes whose legs are closest in price."""
        calls = self._options[self._options["is_call"]]
        puts = self._options[~self._options["is_call"]]
        pairs = calls.merge(puts, on=["timestamp", "strike"], suffixes=("_call", "_put"))
        pairs["gap"] = pairs["close_call"] - pairs["close_put"]
        pairs["forward"] = pairs["strike"] + pairs["gap"]
        pairs["distance"] = pairs["gap"].abs()
        nearest = pairs.sort_values("distance", kind="stable").groupby("timestamp").head(STRIKES)
        return nearest.groupby("timestamp", as_index=False)["forward"].median()


def _day(*, contracts: int, minutes: int) -> OptionCandles:
    """Return a day contract by contract, as Kite's historical API delivers it."""
    rng = np.random.default_rng(SEED)
    level = SPOT * np.exp(np.cumsum(rng.normal(0.0, 3e-4, minutes)))
    contract, minute = (each.ravel() for each in np.indices((contracts, minutes)))
    strike = SPOT + STRIKE_GAP * (contract // 2 - contracts // 4)
    is_call, forward = contract % 2 == 0, level[minute]
    start_ns = DAY_STARTS_NS + minute * MINUTE_NS
    expiry_ns = np.full(len(start_ns), EXPIRY_NS)
    moneyness = np.log(strike / forward)
    volatility = 0.13 - 0.3 * moneyness + 2.0 * moneyness**2
    years = years_to_expiry(start_ns + MINUTE_NS, expiry_ns)
    fair = PricingKernel(len(start_ns)).evaluate(volatility, forward, strike, years, 0.0, is_call)[
        0
    ]
    return OptionCandles(
        start_ns=start_ns,
        price=np.rint(fair / PRICE_STEP) * PRICE_STEP,
        strike=strike,
        is_call=is_call,
        expiry_ns=expiry_ns,
    )


def _check(who: str, ours: NDArray[np.float64], theirs: ArrayLike) -> None:
    error = np.abs(ours - np.asarray(theirs, np.float64))
    if not error.max() <= TOLERANCE:
        row = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        raise Disagreement(f"{who} row={row}: ours {ours[row]!r}, off by {error[row]:.2g}")
