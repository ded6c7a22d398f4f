"""A few instruments, as Kite's dump would list them, and ticks for them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.domain import session, universe
from ticker_service.domain.instrument import InstrumentTable
from ticker_service.domain.segment import Segment
from ticker_service.domain.tick import Mode, Ticks
from ticker_service.domain.universe import ABSENT, Universe
from ticker_service.market.streams import Marks, Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Row = dict[str, Any]

FRIDAY_11: Final = dt.datetime(2026, 11, 20, 11, 0, tzinfo=session.IST)
NOW_NS: Final = session.instant_ns(FRIDAY_11)
TODAY: Final = FRIDAY_11.date()
EXPIRIES: Final = (dt.date(2026, 11, 23), dt.date(2026, 12, 1), dt.date(2026, 12, 8))
STRIKES: Final = tuple(range(23_000, 25_001, 100))
NIFTY_TOKEN: Final = 1_001 << 8 | Segment.INDICES
DEPTH_PRICE: Final = ("bid_price", "ask_price")
DEPTH: Final = (*DEPTH_PRICE, "bid_quantity", "ask_quantity", "bid_orders", "ask_orders")


def token_of(number: int, segment: Segment) -> int:
    return number << 8 | segment


def index(number: int, symbol: str, exchange: str = "NSE") -> Row:
    return _row(number, Segment.INDICES, symbol, symbol, "EQ", "INDICES", exchange, step=0.0)


def share(number: int, symbol: str, exchange: str = "NSE") -> Row:
    return _row(number, Segment[exchange], symbol, f"{symbol} LTD", "EQ", exchange, exchange)


def future(number: int, name: str, expiry: dt.date, exchange: str = "NFO") -> Row:
    symbol = f"{name}{expiry:%y%b}FUT".upper()
    segment = f"{exchange}-FUT"
    return _row(
        number, Segment[exchange], symbol, name, "FUT", segment, exchange, expiry=expiry, lot=65
    )


def option(
    number: int, name: str, expiry: dt.date, strike: float, kind: str, exchange: str = "NFO"
) -> Row:
    symbol = f"{name}{expiry:%y%m%d}{strike:g}{kind}"
    return _row(
        number,
        Segment[exchange],
        symbol,
        name,
        kind,
        f"{exchange}-OPT",
        exchange,
        expiry=expiry,
        strike=strike,
        lot=65,
    )


def chain(
    first: int, name: str, expiry: dt.date, strikes: Iterable[float], exchange: str = "NFO"
) -> list[Row]:
    """Both legs of every strike, numbered from ``first``."""
    kinds = [(strike, kind) for strike in strikes for kind in ("CE", "PE")]
    return [
        option(first + place, name, expiry, strike, kind, exchange)
        for place, (strike, kind) in enumerate(kinds)
    ]


def nifty(strikes: Sequence[float] = STRIKES, expiries: Sequence[dt.date] = EXPIRIES) -> list[Row]:
    """The index, a future of the second expiry, and chains of all expiries."""
    rows = [index(1_001, "NIFTY 50"), future(2_000, "NIFTY", EXPIRIES[1])]
    for place, expiry in enumerate(expiries):
        rows += chain(10_000 + 1_000 * place, "NIFTY", expiry, strikes)
    return rows


def table_of(rows: Sequence[Row]) -> InstrumentTable:
    def column(name: str, dtype: object) -> Any:
        values = np.empty(len(rows), dtype)
        values[:] = [row[name] for row in rows]
        return values

    return InstrumentTable(
        instrument_token=column("instrument_token", np.uint32),
        tradingsymbol=column("tradingsymbol", object),
        name=column("name", object),
        expiry=column("expiry", "datetime64[D]"),
        strike=column("strike", np.float64),
        price_step=column("price_step", np.float64),
        lot_size=column("lot_size", np.int64),
        instrument_type=column("instrument_type", object),
        segment=column("segment", object),
        exchange=column("exchange", object),
    )


def choose(
    rows: Sequence[Row],
    *underlyings: str,
    instruments: Sequence[str] = (),
    expiries_max: int = 3,
    today: dt.date = TODAY,
) -> Universe:
    return universe.select(
        table_of(rows),
        underlyings=underlyings,
        instruments=instruments,
        expiries_max=expiries_max,
        today=today,
    )


def nifty_universe(
    strikes: Sequence[float] = STRIKES, expiries: Sequence[dt.date] = EXPIRIES
) -> Universe:
    return choose(nifty(strikes, expiries), "NIFTY", expiries_max=len(expiries))


def symbols(chosen: Universe) -> set[str]:
    return set(chosen.instruments.tradingsymbol.tolist())


def row_of(chosen: Universe, symbol: str) -> int:
    return int(np.flatnonzero(chosen.instruments.tradingsymbol == symbol)[0])


def option_row(chosen: Universe, expiry: int, strike: float, kind: str) -> int:
    of_expiry = chosen.expiries[expiry]
    place = int(np.flatnonzero(of_expiry.strike == strike)[0])
    row = int((of_expiry.call_row if kind == "CE" else of_expiry.put_row)[place])
    assert row != ABSENT
    return row


def ticks_of(
    chosen: Universe, rows: Sequence[int], *, at_ns: int = NOW_NS, **columns: object
) -> Ticks:
    """Full-mode ticks of universe rows; a depth column is given as its best level."""
    places = np.array(rows, np.intp)
    ticks = Ticks.empty(len(places))
    ticks.instrument_token[:] = chosen.instrument_token[places]
    ticks.mode[:] = Mode.FULL
    ticks.received_at_ns[:] = at_ns
    for name, values in columns.items():
        column = getattr(ticks, name)
        (column[0] if name in DEPTH else column)[:] = values
    return ticks


def fresh(rows: int) -> Standing:
    """Rows that nothing is to be said of."""
    return Standing(marks=Marks.none(rows), staleness_ratio=np.full(rows, np.nan))


def _row(  # noqa: PLR0917 - the dump's columns in the dump's order
    number: int,
    code: Segment,
    symbol: str,
    name: str,
    kind: str,
    segment: str,
    exchange: str,
    *,
    expiry: dt.date | None = None,
    strike: float = 0.0,
    step: float = 0.05,
    lot: int = 1,
) -> Row:
    return {
        "instrument_token": token_of(number, code),
        "tradingsymbol": symbol,
        "name": name,
        "expiry": np.datetime64(expiry, "D") if expiry else np.datetime64("NaT", "D"),
        "strike": strike,
        "price_step": step,
        "lot_size": lot,
        "instrument_type": kind,
        "segment": segment,
        "exchange": exchange,
    }
