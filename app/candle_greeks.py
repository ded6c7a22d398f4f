"""``ticker-service greeks``: price a file of option candles, or one option from arguments."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from app import candle_files
from ticker_service.constants import NS_PER_S
from ticker_service.domain.expiry_clock import expiry_instants
from ticker_service.domain.session import from_instant_ns
from ticker_service.errors import CandleError
from ticker_service.history import (
    CandleGreeks,
    CandleInterval,
    CandlePrice,
    CandlePricing,
    ForwardSource,
    OptionCandles,
    UnderlyingCandles,
    candle_greeks,
)
from ticker_service.history.alignment import ABSENT, SPOT
from ticker_service.pricing import PriceStatus

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from numpy.typing import NDArray

    from app.candle_files import CandleFile

NAMES_SHOWN_MAX: Final = 5
STATUS_WORDS: Final = {
    PriceStatus.OK: "",
    PriceStatus.BELOW_INTRINSIC: "the price holds no time value, so no volatility explains it",
    PriceStatus.ABOVE_BOUND: "no volatility reaches this price",
    PriceStatus.EXPIRED: "no time is left",
    PriceStatus.BAD_INPUT: "a number is outside the kernel's limits",
    PriceStatus.UNRELIABLE: "one price step moves the volatility by more than a point",
}
SPOT_WORDS: Final = "the spot with carry is not the market's forward"
UNITS: Final = {
    "implied_volatility": "fraction per year",
    "delta": "per point of the forward",
    "gamma": "per point of the forward, squared",
    "theta": "rupees per calendar day",
    "vega": "rupees per volatility point",
    "rho": "rupees per 1 % of rate",
    "price_used": "rupees",
    "forward": "rupees",
    "years": "of 365 days",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOption:
    """An option as it is given on the command line; prices in rupees."""

    price: float
    strike: float
    is_call: bool
    expiry: dt.date
    forward: float | None
    spot: float | None


def price_files(
    candles: Path,
    underlying: Path | None,
    out: Path | None,
    *,
    assumed: CandlePricing,
) -> None:
    """Price a file of option candles into another file.

    Args:
        candles: The options; columns as in ``docs/history.md``.
        underlying: Candles of the spot, of futures or of both; or None.
        out: Where to write; None for CSV on standard output.
        assumed: Interval, price, segment and rate.

    Raises:
        CandleError: A file, column or row is not as it should be.
        ConfigurationError: A file's suffix is unknown, or Parquet's library is not installed.
    """
    given = candle_files.read(candles)
    listed = None if underlying is None else candle_files.read(underlying)
    numbers = _Underlyings(given, listed)
    expiries = _Expiries(given, numbers, assumed.segment)
    options = OptionCandles(
        start_ns=given.stamps("timestamp"),
        price=given.numbers(assumed.price, is_needed=False),
        strike=given.numbers("strike", is_needed=True),
        is_call=given.is_call("instrument_type"),
        expiry_ns=expiries.of_options,
        underlying=numbers.of(given),
        volume=given.numbers("volume", is_needed=False) if given.has("volume") else None,
        forward=_given_forwards(given),
    )
    spots = None
    if listed is not None:
        spots = UnderlyingCandles(
            start_ns=listed.stamps("timestamp"),
            price=listed.numbers(assumed.price, is_needed=False),
            expiry_ns=expiries.of(listed) if listed.has("expiry") else None,
            underlying=numbers.of(listed),
        )
    priced = candle_greeks(options, spots, assumed=assumed)
    added = priced.columns()
    for name in added:
        # The caller's own forward comes back as what was used.
        if given.has(name) and name != "forward":
            rule = "is there already; pricing would write over it"
            raise CandleError(rule, table=given.name, column=name)
    candle_files.write({**given.columns, **added}, out)
    _summarise(priced)


def price_option(option: OneOption, *, at_ns: int, assumed: CandlePricing, as_json: bool) -> None:
    """Price one option and print it.

    Args:
        option: The option, with exactly one of forward and spot.
        at_ns: The instant to price at, ns since the Unix epoch.
        assumed: Segment, rate and price step; the rest does not matter.
        as_json: A line of JSON instead of a table.
    """
    expiry_ns = expiry_instants(assumed.segment, "", option.expiry).variance_ends_ns
    stamp = np.array([at_ns])
    options = OptionCandles(
        start_ns=stamp,
        price=np.array([option.price]),
        strike=np.array([option.strike]),
        is_call=np.array([option.is_call]),
        expiry_ns=np.array([expiry_ns]),
        forward=None if option.forward is None else np.array([option.forward]),
    )
    spot = None
    if option.spot is not None:
        spot = UnderlyingCandles(start_ns=stamp, price=np.array([option.spot]))
    at_once = replace(assumed, interval=CandleInterval.MINUTE, price=CandlePrice.OPEN)
    priced = candle_greeks(options, spot, assumed=at_once)
    facts = _facts(priced)
    facts |= {"at": _ist(at_ns), "expires": _ist(expiry_ns)}
    if as_json:
        print(orjson.dumps(facts).decode())  # noqa: T201 - the answer
        return
    print(_table(facts, _why(priced)))  # noqa: T201 - likewise


def _given_forwards(given: CandleFile) -> NDArray[np.float64] | None:
    if not given.has("forward"):
        return None
    return given.numbers("forward", is_needed=False, is_positive=True)


class _Underlyings:
    """What the rows of both files are on, by name and by a number for each name."""

    def __init__(self, options: CandleFile, listed: CandleFile | None) -> None:
        files = [each for each in (options, listed) if each is not None]
        named = {each.name: each.words("underlying") for each in files if each.has("underlying")}
        every = sorted({name for names in named.values() for name in names})
        for each in files:
            if each.name not in named and len(every) > 1:
                there = ", ".join(every[:NAMES_SHOWN_MAX])
                rule = f"is missing; the other file holds {there}"
                raise CandleError(rule, table=each.name, column="underlying")
        only = every[0] if every else ""
        self._names = {each.name: named.get(each.name, [only] * each.rows) for each in files}
        self._number = {name: number for number, name in enumerate(every or [only])}

    def names(self, file: CandleFile) -> list[str]:
        """Return each row's; empty words where no file says."""
        return self._names[file.name]

    def of(self, file: CandleFile) -> NDArray[np.int64]:
        """Return each row's number."""
        return np.array([self._number[name] for name in self.names(file)], np.int64)


class _Expiries:
    """Expiry instants of both files: a future has that of the options of its date."""

    def __init__(self, options: CandleFile, underlyings: _Underlyings, segment: str) -> None:
        self._underlyings = underlyings
        names, dates = underlyings.names(options), options.dates("expiry")
        pairs = list(zip(names, dates, strict=True))
        self._instant_ns = {
            (name, date): expiry_instants(segment, name, date).variance_ends_ns
            for name, date in set(pairs)
        }
        self.of_options = np.array([self._instant_ns[pair] for pair in pairs], np.int64)

    def of(self, file: CandleFile) -> NDArray[np.int64]:
        """Return each row's, ``SPOT`` where it has no expiry, ``ABSENT`` where no option has it."""
        names = self._underlyings.names(file)
        instants = [
            SPOT if date is None else self._instant_ns.get((name, date), ABSENT)
            for name, date in zip(names, file.dates_or_none("expiry"), strict=True)
        ]
        return np.array(instants, np.int64)


def _summarise(priced: CandleGreeks) -> None:
    """Say on standard error what became of the rows; their columns may be a pipe's business."""
    words = priced.columns()
    statuses = Counter(words["iv_status"].tolist()).most_common()
    sources = Counter(words["forward_source"].tolist()).most_common()
    parts = [f"{len(priced.years):,} candles"]
    parts += [", ".join(f"{count:,} {name}" for name, count in statuses)]
    parts += ["forwards: " + ", ".join(f"{count:,} {name}" for name, count in sources)]
    print("; ".join(part for part in parts if part), file=sys.stderr)  # noqa: T201 - for people


def _facts(priced: CandleGreeks) -> dict[str, Any]:
    columns = {name: column.tolist()[0] for name, column in priced.columns().items()}
    names = ("iv_status", *UNITS, "forward_source")
    return {
        name: None
        if isinstance(columns[name], float) and math.isnan(columns[name])
        else columns[name]
        for name in names
    }


def _why(priced: CandleGreeks) -> str:
    status = PriceStatus(int(priced.iv_status[0]))
    is_by_spot = priced.forward_source[0] == ForwardSource.SPOT_CARRY
    if status is PriceStatus.UNRELIABLE and is_by_spot:
        return SPOT_WORDS
    return STATUS_WORDS.get(status, "")


def _table(facts: dict[str, Any], why: str) -> str:
    lines = []
    for name, value in facts.items():
        shown = "-" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)
        unit = why if name == "iv_status" else UNITS.get(name, "")
        lines.append(f"{name:<20}{shown:>26}  {unit}".rstrip())
    return "\n".join(lines)


def _ist(instant_ns: int) -> str:
    microseconds = instant_ns % NS_PER_S // 1_000
    return from_instant_ns(instant_ns).replace(microsecond=microseconds).isoformat()
