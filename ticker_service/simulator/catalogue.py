"""The instruments of the simulated exchange: columns by row, look-ups, and Kite's CSV dump.

Pure. Rows keep their number for the whole run; indices come first, because their packets have a
layout of their own. Source of the dump's columns: kite.md §2.8.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain.expiry_clock import expiry_instants
from ticker_service.domain.instrument import INDEX_SEGMENT, InstrumentType
from ticker_service.domain.segment import PRICE_SCALES, Segment
from ticker_service.simulator import expiries, unquoted
from ticker_service.simulator.instrument import NO_DRIVER, PRICE_STEP_INR, Instrument
from ticker_service.simulator.listing import (
    EQUITIES,
    EQUITY_EXCHANGE_TOKENS,
    INVENTED_EXCHANGE_TOKEN_FIRST,
    LONE_CONTRACTS,
    UNDERLYINGS,
)

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ticker_service.simulator.listing import LoneContract, Underlying

DUMP_COLUMNS: Final = (
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "last_price",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
    "exchange",
)
VIX_EXCHANGE_TOKEN: Final = 1035
FUTURE_EXCHANGE_TOKEN_FIRST: Final = 35_001
OPTION_EXCHANGE_TOKEN_FIRST: Final = 40_001


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One expiry of one underlying: what has a forward and a smile of its own."""

    underlying: int
    exchange: str
    expiry: dt.date

    @property
    def name(self) -> str:
        """The underlying's name, as the dump writes it."""
        return UNDERLYINGS[self.underlying].name

    @property
    def expiry_ns(self) -> int:
        """The instant at which the contract's variance ends, ns since the Unix epoch."""
        return expiry_instants(f"{self.exchange}-OPT", self.name, self.expiry).variance_ends_ns


class Catalogue:
    """Every listed instrument by row.

    Attributes:
        instruments: One object per row, for REST.
        curves: The expiries, numbered as ``curve`` does.
        unquoted: Further lines of the dump, which have no row: see ``simulator.unquoted``.
        index_count: Rows below this number are indices.
        instrument_token: Tokens, shape ``(n,)``; likewise the columns that follow.
    """

    def __init__(
        self,
        instruments: Sequence[Instrument],
        curves: Sequence[Curve],
        unquoted: Sequence[Instrument] = (),
    ) -> None:
        self.instruments = tuple(instruments)
        self.unquoted = tuple(unquoted)
        self.curves = tuple(curves)
        self.index_count = sum(each.segment == INDEX_SEGMENT for each in instruments)
        self.instrument_token = np.array([i.instrument_token for i in instruments], np.uint32)
        self.strike_inr = np.array([i.strike_inr for i in instruments], np.float64)
        self.lot_size = np.array([max(i.lot_size, 1) for i in instruments], np.int64)
        self.driver = np.array([i.driver for i in instruments], np.intp)
        self.curve = np.array([i.curve for i in instruments], np.intp)
        kind = np.array([i.instrument_type.value for i in instruments])
        self.is_call = kind == InstrumentType.CALL.value
        self.is_option = self.is_call | (kind == InstrumentType.PUT.value)
        self.is_derivative = np.array([i.expiry is not None for i in instruments])
        self.last_trade_ns = np.array([i.last_trade_ns for i in instruments], np.int64)
        self.price_scale = PRICE_SCALES[self.instrument_token & 0xFF]
        step_inr = np.array([i.price_step_inr or PRICE_STEP_INR for i in instruments])
        self.price_step_raw = np.rint(step_inr * self.price_scale).astype(np.int64)
        self.row_by_token = {i.instrument_token: row for row, i in enumerate(instruments)}
        self.row_by_key = {
            f"{i.exchange}:{i.tradingsymbol}": row for row, i in enumerate(instruments)
        }
        self.exchanges = frozenset(i.exchange for i in instruments)

    def __len__(self) -> int:
        """Return the number of instruments."""
        return len(self.instruments)

    def row_of(self, key: str) -> int | None:
        """Return the row named by ``EXCHANGE:SYMBOL`` or by a token in digits, or None."""
        row = self.row_by_key.get(key)
        if row is None and key.isascii() and key.isdecimal():
            row = self.row_by_token.get(int(key))
        return row

    def dump(self, last_price_inr: NDArray[np.float64], exchange: str | None = None) -> bytes:
        """Return Kite's CSV of all instruments or of one exchange's.

        Args:
            last_price_inr: The price to state per row, rupees, shape ``(n,)``.
            exchange: Keep the rows of this exchange only.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(DUMP_COLUMNS)
        for instrument, price in zip(self.instruments, last_price_inr, strict=True):
            if exchange in {None, instrument.exchange}:
                writer.writerow(_dump_row(instrument, float(price)))
        for instrument in self.unquoted:
            if exchange in {None, instrument.exchange}:
                writer.writerow(_dump_row(instrument, 0.0))
        return text.getvalue().encode()


def build(
    spot_inr: Sequence[float],
    *,
    now_ns: int,
    strikes_each_side: int,
    days_min: int,
    lines_min: int = 0,
) -> Catalogue:
    """List the instruments around the opening spots.

    Args:
        spot_inr: Opening spot per underlying, in the order of ``UNDERLYINGS``.
        now_ns: The instant of listing, which decides the expiries.
        strikes_each_side: Strikes on each side of the one nearest to spot.
        days_min: Least distance of the nearest expiry, days.
        lines_min: The dump gets at least so many lines; the last ones never trade.
    """
    instruments = [*_indices(), *_equities()]
    curves: list[Curve] = []
    future_tokens = iter(range(FUTURE_EXCHANGE_TOKEN_FIRST, OPTION_EXCHANGE_TOKEN_FIRST))
    option_tokens = iter(range(OPTION_EXCHANGE_TOKEN_FIRST, 1 << 24))
    for number, underlying in enumerate(UNDERLYINGS):
        futures = expiries.future_expiries(
            underlying, underlying.expiry_weekday, now_ns=now_ns, days_min=days_min
        )
        options = expiries.option_expiries(underlying, now_ns=now_ns, days_min=days_min)
        strikes = _strikes(underlying, spot_inr[number], strikes_each_side)
        for expiry in sorted({*futures, *options}):
            at = len(curves)
            curves.append(Curve(underlying=number, exchange=underlying.exchange, expiry=expiry))
            if expiry in futures:
                instruments.append(_future(underlying, expiry, at, next(future_tokens), number))
            if expiry in options:
                instruments.extend(_options(underlying, expiry, at, strikes, option_tokens))
    drivers = range(len(UNDERLYINGS) + len(EQUITIES), 1 << 24)
    for lone, driver in zip(LONE_CONTRACTS, drivers, strict=False):
        instruments.append(_lone_future(lone, driver, now_ns=now_ns, days_min=days_min))
    others = unquoted.contracts(lines_min - len(instruments), now_ns=now_ns, days_min=days_min)
    return Catalogue(instruments, curves, others)


def _indices() -> Iterator[Instrument]:
    for number, underlying in enumerate(UNDERLYINGS):
        yield _index(
            underlying.index_symbol,
            underlying.index_exchange,
            underlying.index_exchange_token,
            number,
        )
    yield _index("INDIA VIX", "NSE", VIX_EXCHANGE_TOKEN, NO_DRIVER)


def _index(symbol: str, exchange: str, exchange_token: int, driver: int) -> Instrument:
    return Instrument(
        exchange_token=exchange_token,
        segment_code=Segment.INDICES,
        tradingsymbol=symbol,
        name=symbol,
        exchange=exchange,
        segment=INDEX_SEGMENT,
        instrument_type=InstrumentType.EQUITY,
        price_step_inr=0.0,
        lot_size=0,
        driver=driver,
    )


def _equities() -> Iterator[Instrument]:
    for number, (symbol, name, _) in enumerate(EQUITIES):
        yield Instrument(
            exchange_token=EQUITY_EXCHANGE_TOKENS.get(
                symbol, INVENTED_EXCHANGE_TOKEN_FIRST + number
            ),
            segment_code=Segment.NSE,
            tradingsymbol=symbol,
            name=name,
            exchange="NSE",
            segment="NSE",
            instrument_type=InstrumentType.EQUITY,
            driver=len(UNDERLYINGS) + number,
        )


def _strikes(underlying: Underlying, spot_inr: float, each_side: int) -> list[int]:
    step = underlying.strike_step_inr
    nearest = round(spot_inr / step)
    return [at * step for at in range(nearest - each_side, nearest + each_side + 1) if at > 0]


def _future(
    underlying: Underlying, expiry: dt.date, curve: int, exchange_token: int, driver: int
) -> Instrument:
    return Instrument(
        exchange_token=exchange_token,
        segment_code=Segment[underlying.exchange],
        tradingsymbol=expiries.future_symbol(underlying.name, expiry),
        name=underlying.name,
        exchange=underlying.exchange,
        segment=f"{underlying.exchange}-FUT",
        instrument_type=InstrumentType.FUTURE,
        expiry=expiry,
        lot_size=underlying.lot_size,
        driver=driver,
        curve=curve,
    )


def _options(
    underlying: Underlying,
    expiry: dt.date,
    curve: int,
    strikes: Sequence[int],
    exchange_tokens: Iterator[int],
) -> Iterator[Instrument]:
    for strike in strikes:
        for kind in (InstrumentType.CALL, InstrumentType.PUT):
            yield Instrument(
                exchange_token=next(exchange_tokens),
                segment_code=Segment[underlying.exchange],
                tradingsymbol=expiries.option_symbol(underlying.name, expiry, strike, kind),
                name=underlying.name,
                exchange=underlying.exchange,
                segment=f"{underlying.exchange}-OPT",
                instrument_type=kind,
                expiry=expiry,
                strike_inr=strike,
                lot_size=underlying.lot_size,
                curve=curve,
            )


def _lone_future(lone: LoneContract, driver: int, *, now_ns: int, days_min: int) -> Instrument:
    expiry = expiries.future_expiries(
        lone, expiries.LONE_CONTRACT_WEEKDAY, now_ns=now_ns, days_min=days_min
    )[0]
    return Instrument(
        exchange_token=lone.exchange_token,
        segment_code=Segment[lone.exchange],
        tradingsymbol=expiries.future_symbol(lone.name, expiry),
        name=lone.name,
        exchange=lone.exchange,
        segment=lone.segment,
        instrument_type=InstrumentType.FUTURE,
        expiry=expiry,
        price_step_inr=lone.price_step_inr,
        lot_size=lone.lot_size,
        driver=driver,
    )


def _dump_row(instrument: Instrument, last_price_inr: float) -> tuple[object, ...]:
    return (
        instrument.instrument_token,
        instrument.exchange_token,
        instrument.tradingsymbol,
        instrument.name,
        f"{last_price_inr:.10g}",
        instrument.expiry.isoformat() if instrument.expiry else "",
        instrument.strike_inr,
        f"{instrument.price_step_inr:g}",
        instrument.lot_size,
        instrument.instrument_type.value,
        instrument.segment,
        instrument.exchange,
    )
