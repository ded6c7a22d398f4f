"""The instruments and Kite's dump of them."""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools

import pytest

from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.domain import session, universe
from ticker_service.simulator import SimulatorOptions, catalogue, expiries
from ticker_service.simulator.listing import UNDERLYINGS
from ticker_service.simulator.market import Market

COLUMNS = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,"
    "lot_size,instrument_type,segment,exchange"
)


def _dump(market: Market, exchange: str | None = None) -> list[dict[str, str]]:
    text = market.catalogue.dump(market.last_price_inr, exchange).decode()
    assert text.splitlines()[0] == COLUMNS
    return list(csv.DictReader(io.StringIO(text)))


def test_the_dump_states_every_instrument_once_under_kites_columns(market: Market) -> None:
    rows = _dump(market)

    assert len(rows) == len(market.catalogue)
    assert len({row["instrument_token"] for row in rows}) == len(rows)
    assert len({(row["exchange"], row["tradingsymbol"]) for row in rows}) == len(rows)


def test_a_token_is_the_exchange_token_above_the_segment_code(market: Market) -> None:
    codes = {"NSE": 1, "NFO": 2, "CDS": 3, "BFO": 5, "NCO": 12}

    for row in _dump(market):
        code = 9 if row["segment"] == "INDICES" else codes[row["exchange"]]
        assert int(row["instrument_token"]) == int(row["exchange_token"]) << 8 | code


def test_the_dump_of_one_exchange_has_its_rows_only(market: Market) -> None:
    rows = _dump(market, "BFO")

    assert rows
    assert {row["exchange"] for row in rows} == {"BFO"}


def test_awkward_names_survive_the_csv(market: Market) -> None:
    names = {row["tradingsymbol"]: row["name"] for row in _dump(market, "NSE")}

    assert names["M&M"] == "MAHINDRA & MAHINDRA"
    assert names["QUOTEWELL"] == 'QUOTEWELL "Q", SONS & CO'


def test_there_are_a_hundred_shares_and_the_four_indices(market: Market) -> None:
    rows = _dump(market)
    indices = [row for row in rows if row["segment"] == "INDICES"]

    assert sum(row["segment"] == "NSE" for row in rows) == 100
    assert [(row["exchange"], row["tradingsymbol"]) for row in indices] == [
        ("NSE", "NIFTY 50"),
        ("NSE", "NIFTY BANK"),
        ("BSE", "SENSEX"),
        ("NSE", "INDIA VIX"),
    ]
    assert {(row["tick_size"], row["lot_size"], row["expiry"]) for row in indices} == {
        ("0", "0", "")
    }


@pytest.mark.parametrize(
    ("name", "lot_size", "strike_step", "exchange"),
    [("NIFTY", 65, 50, "NFO"), ("BANKNIFTY", 30, 100, "NFO"), ("SENSEX", 20, 100, "BFO")],
)
def test_each_underlying_lists_three_expiries_of_calls_and_puts_round_spot(
    market: Market, name: str, lot_size: int, strike_step: int, exchange: str
) -> None:
    rows = [row for row in _dump(market, exchange) if row["name"] == name]
    options = [row for row in rows if row["segment"] == f"{exchange}-OPT"]
    spot = market.last_price_inr[[each.name for each in UNDERLYINGS].index(name)]

    assert len({row["expiry"] for row in options}) == 3
    assert len(options) == 3 * 81 * 2
    assert {row["lot_size"] for row in rows} == {str(lot_size)}
    assert {row["tick_size"] for row in rows} == {"0.05"}
    strikes = sorted({int(row["strike"]) for row in options})
    assert {b - a for a, b in itertools.pairwise(strikes)} == {strike_step}
    assert abs(strikes[40] - spot) <= strike_step
    assert sum(row["instrument_type"] == "FUT" for row in rows) == 3


def test_a_row_is_found_by_symbol_and_by_token(market: Market) -> None:
    row = market.catalogue.row_of("NSE:M&M")

    assert row is not None
    assert market.catalogue.row_of("519937") == row
    assert market.catalogue.row_of("NSE:NOSUCH") is None
    assert market.catalogue.row_of("-1") is None
    assert market.catalogue.row_of("²") is None


@pytest.mark.parametrize("day", range(0, 400, 3))
def test_on_any_day_the_nearest_expiry_lies_ahead_and_falls_on_its_weekday(day: int) -> None:
    now = dt.datetime(2026, 1, 1, 23, 0, tzinfo=session.IST) + dt.timedelta(days=day)
    now_ns = session.instant_ns(now)

    for underlying in UNDERLYINGS:
        dates = expiries.option_expiries(underlying, now_ns=now_ns, days_min=1)
        assert len(set(dates)) == 3
        assert dates == sorted(dates)
        assert dates[0] > now.date()
        assert {date.weekday() for date in dates} == {underlying.expiry_weekday}


def test_an_expiry_day_is_listed_only_on_request_and_until_it_ends() -> None:
    tuesday = dt.datetime(2026, 11, 17, 10, 0, tzinfo=session.IST)
    nifty = UNDERLYINGS[0]

    def nearest(at: dt.datetime, days_min: int) -> dt.date:
        now_ns = session.instant_ns(at)
        return expiries.option_expiries(nifty, now_ns=now_ns, days_min=days_min)[0]

    assert nearest(tuesday, 1) == dt.date(2026, 11, 24)
    assert nearest(tuesday, 0) == dt.date(2026, 11, 17)
    assert nearest(tuesday.replace(hour=16), 0) == dt.date(2026, 11, 24)


@pytest.mark.parametrize(
    ("expiry", "symbol"),
    [
        (dt.date(2025, 11, 4), "NIFTY25N0424500CE"),
        (dt.date(2026, 1, 6), "NIFTY2610624500CE"),
        (dt.date(2026, 11, 24), "NIFTY26NOV24500CE"),
    ],
)
def test_weekly_and_monthly_options_are_named_as_kite_names_them(
    expiry: dt.date, symbol: str
) -> None:
    assert expiries.option_symbol("NIFTY", expiry, 24500, "CE") == symbol


def test_futures_are_named_as_kite_names_them() -> None:
    assert expiries.future_symbol("NIFTY", dt.date(2025, 4, 24)) == "NIFTY25APRFUT"


def test_strikes_never_reach_zero(now_ns: int) -> None:
    listed = catalogue.build(
        [1_000.0, 1_000.0, 1_000.0], now_ns=now_ns, strikes_each_side=40, days_min=1
    )

    assert listed.strike_inr[listed.is_option].min() > 0


def test_the_dump_is_filled_up_with_contracts_that_nobody_trades(now_ns: int) -> None:
    options = SimulatorOptions(strikes_each_side=3, instruments_min=2_000)
    filled = Market(options, now_ns=now_ns)
    rows = _dump(filled)
    others = rows[len(filled.catalogue) :]

    assert len(rows) == 2_000
    assert len({row["instrument_token"] for row in rows}) == len(rows)
    assert len({(row["exchange"], row["tradingsymbol"]) for row in rows}) == len(rows)
    assert {(row["segment"], row["last_price"]) for row in others} == {("NFO-OPT", "0")}
    assert {row["name"] for row in others} <= {row["tradingsymbol"] for row in _dump(filled, "NSE")}


def test_a_dump_that_is_long_enough_is_not_filled_up(now_ns: int) -> None:
    options = SimulatorOptions(strikes_each_side=3, instruments_min=10)
    assert not Market(options, now_ns=now_ns).catalogue.unquoted


def test_a_daemon_finds_its_way_in_a_dump_that_is_filled_up(now_ns: int) -> None:
    options = SimulatorOptions(strikes_each_side=3, instruments_min=5_000)
    filled = Market(options, now_ns=now_ns)
    table = parse_dump(filled.catalogue.dump(filled.last_price_inr).decode())
    chosen = universe.select(
        table,
        underlyings=("NIFTY", "RELIANCE"),
        instruments=(),
        expiries_max=3,
        today=session.ist_date(now_ns),
    )
    assert chosen.books == ("NIFTY", "RELIANCE")
    assert len(chosen.expiries) == 6
