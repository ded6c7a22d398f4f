"""What may be subscribed today, chosen from the dump."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exchange import (
    EXPIRIES,
    NIFTY_TOKEN,
    chain,
    choose,
    future,
    index,
    nifty,
    nifty_universe,
    option,
    option_row,
    row_of,
    share,
    symbols,
)

from ticker_service.domain.universe import ABSENT
from ticker_service.errors import CatalogError

SHARES = ("NSE:ACME", "BSE:BOLT")
STRANGER = 7
OTHER_DAY = dt.date(2026, 12, 29)


def test_an_index_brings_its_spot_its_futures_and_its_options() -> None:
    rows = nifty([24_000.0], EXPIRIES[:1])
    assert symbols(choose(rows, "NIFTY")) == {row["tradingsymbol"] for row in rows}


def test_instruments_of_other_underlyings_stay_out() -> None:
    rows = [*nifty([24_000.0]), index(1_002, "NIFTY BANK"), share(3, "RELIANCE")]
    rows += chain(500, "BANKNIFTY", EXPIRIES[0], [52_000.0])
    assert choose(rows, "NIFTY").books == ("NIFTY",)


def test_the_index_is_the_spot_of_its_options() -> None:
    chosen = nifty_universe()
    assert chosen.spot_row == (row_of(chosen, "NIFTY 50"),)


def test_the_nse_share_is_the_spot_of_a_stock_s_options() -> None:
    rows = [share(1, "M&M"), *chain(10, "M&M", EXPIRIES[0], [3_000.0])]
    chosen = choose(rows, "M&M")
    assert (chosen.books, chosen.spot_row) == (("MANDM",), (row_of(chosen, "M&M"),))


def test_a_bse_index_is_the_spot_of_its_bfo_options() -> None:
    rows = [index(1, "SENSEX", "BSE"), *chain(10, "SENSEX", EXPIRIES[0], [80_000.0], "BFO")]
    chosen = choose(rows, "SENSEX")
    assert chosen.spot_row == (row_of(chosen, "SENSEX"),)


def test_a_fund_that_shares_its_symbol_with_a_commodity_is_not_its_spot() -> None:
    rows = [share(1, "SILVER"), *chain(10, "SILVER", EXPIRIES[0], [90_000.0], "MCX")]
    chosen = choose(rows, "SILVER")
    assert (len(chosen), chosen.spot_row) == (2, (ABSENT,))


def test_the_fund_of_a_commodity_s_name_can_be_wanted_beside_it() -> None:
    rows = [share(1, "SILVER"), *chain(10, "SILVER", EXPIRIES[0], [90_000.0], "MCX")]
    chosen = choose(rows, "SILVER", instruments=["NSE:SILVER"])
    assert chosen.books == ("NSE-EQ", "SILVER")


def test_contracts_that_expired_yesterday_are_left_out() -> None:
    chosen = choose(nifty([24_000.0]), "NIFTY", today=EXPIRIES[0] + dt.timedelta(days=1))
    assert [expiry.date for expiry in chosen.expiries] == list(EXPIRIES[1:])


def test_contracts_that_expire_today_are_still_in() -> None:
    chosen = choose(nifty([24_000.0]), "NIFTY", today=EXPIRIES[0])
    assert chosen.expiries[0].date == EXPIRIES[0]


def test_expired_futures_are_left_out_too() -> None:
    rows = [*nifty([24_000.0]), future(77, "NIFTY", dt.date(2026, 10, 27))]
    assert "NIFTY26OCTFUT" not in symbols(choose(rows, "NIFTY"))


def test_only_the_nearest_expiries_are_taken_and_all_futures() -> None:
    rows = [*nifty([24_000.0]), future(78, "NIFTY", OTHER_DAY)]
    chosen = choose(rows, "NIFTY", expiries_max=2)
    assert [expiry.date for expiry in chosen.expiries] == list(EXPIRIES[:2])
    assert "NIFTY26DECFUT" in symbols(chosen)


def test_every_missing_name_is_listed_at_once() -> None:
    with pytest.raises(CatalogError, match=r"\['NIFTI', 'NSE:NOPE', 'BFO:GONE'\]"):
        choose(nifty(), "NIFTY", "NIFTI", instruments=["NSE:NOPE", "NSE:NIFTY 50", "BFO:GONE"])


def test_an_underlying_whose_contracts_have_all_expired_is_missing() -> None:
    with pytest.raises(CatalogError, match="NIFTY"):
        choose(nifty(), "NIFTY", today=OTHER_DAY)


def test_a_single_instrument_is_found_by_exchange_and_symbol() -> None:
    rows = [share(1, "SBIN"), share(2, "SBIN", "BSE")]
    chosen = choose(rows, instruments=["BSE:SBIN"])
    assert chosen.books == ("BSE-EQ",)


def test_shares_without_derivatives_have_a_book_without_a_spot() -> None:
    chosen = choose([share(1, "TINY"), share(2, "SMALL")], instruments=["NSE:TINY", "NSE:SMALL"])
    assert (chosen.books, chosen.spot_row, chosen.expiries) == (("NSE-EQ",), (ABSENT,), ())


def test_rows_are_sorted_by_token() -> None:
    tokens = choose(list(reversed(nifty())), "NIFTY").instrument_token
    assert (np.diff(tokens.astype(np.int64)) > 0).all()


def test_every_token_is_found_in_its_row() -> None:
    chosen = nifty_universe()
    assert chosen.rows_of(chosen.instrument_token).tolist() == list(range(len(chosen)))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_a_token_is_found_exactly_when_it_is_there(tokens: list[int]) -> None:
    chosen = nifty_universe([24_000.0])
    wire = np.array([*tokens, NIFTY_TOKEN], np.uint32)
    known = chosen.instrument_token.tolist()
    expected = [known.index(t) if t in known else ABSENT for t in wire.tolist()]
    assert chosen.rows_of(wire).tolist() == expected


@given(st.lists(st.integers(0, 3), max_size=30))
def test_ticks_are_ordered_by_book_and_within_it_by_arrival(places: list[int]) -> None:
    chosen = choose(
        [*nifty(), share(7_001, "ACME"), share(7_002, "BOLT", "BSE")], "NIFTY", instruments=SHARES
    )
    known = [NIFTY_TOKEN, *(chosen.instrument_token[chosen.book != 0].tolist())]
    known = [*known, STRANGER]
    wire = np.array([known[place % len(known)] for place in places], np.uint32)
    rows, order = chosen.rows_by_book(wire)
    assert rows.tolist() == chosen.rows_of(wire).tolist()
    order = np.arange(len(wire)) if order is None else order
    assert sorted(order.tolist()) == list(range(len(wire)))
    book = chosen.book[chosen.rows_of(wire[order])]
    assert (np.diff(book) >= 0).all()
    assert all((np.diff(order[book == number]) > 0).all() for number in np.unique(book))


def test_each_option_names_the_other_leg_of_its_strike_and_expiry() -> None:
    chosen = nifty_universe()
    call = option_row(chosen, 1, 24_000.0, "CE")
    put = option_row(chosen, 1, 24_000.0, "PE")
    assert (chosen.other_leg[call], chosen.other_leg[put]) == (put, call)


def test_the_other_leg_of_the_other_leg_is_the_option_itself() -> None:
    chosen = nifty_universe()
    options = np.flatnonzero(chosen.is_option)
    assert (chosen.other_leg[chosen.other_leg[options]] == options).all()


def test_a_strike_with_one_leg_has_no_other() -> None:
    rows = [*nifty([24_000.0]), option(9_999, "NIFTY", EXPIRIES[0], 24_100.0, "CE")]
    chosen = choose(rows, "NIFTY")
    lonely = row_of(chosen, "NIFTY26112324100CE")
    assert chosen.other_leg[lonely] == ABSENT
    assert chosen.expiries[0].put_row[1] == ABSENT


def test_decimal_strikes_pair_exactly() -> None:
    rows = [share(1, "INFY"), *chain(10, "INFY", EXPIRIES[0], [1_452.55, 1_462.3, 1_472.05])]
    chosen = choose(rows, "INFY")
    assert chosen.expiries[0].strike.tolist() == [1_452.55, 1_462.3, 1_472.05]
    assert ABSENT not in chosen.other_leg[chosen.is_option]


def test_strikes_ascend_whatever_the_order_of_the_dump() -> None:
    rows = [*nifty([]), *chain(10, "NIFTY", EXPIRIES[0], [24_100.0, 23_900.0, 24_000.0])]
    assert choose(rows, "NIFTY").expiries[0].strike.tolist() == [23_900.0, 24_000.0, 24_100.0]


def test_an_expiry_knows_the_future_of_its_own_date_only() -> None:
    chosen = nifty_universe()
    rows = [expiry.future_row for expiry in chosen.expiries]
    assert rows == [ABSENT, row_of(chosen, "NIFTY26DECFUT"), ABSENT]


def test_what_is_not_an_option_has_no_expiry_number_and_no_strike() -> None:
    chosen = nifty_universe()
    others = ~chosen.is_option
    assert set(chosen.expiry[others].tolist()) == {ABSENT}
    assert np.isnan(chosen.strike[others]).all()


def test_two_exchanges_with_one_underlying_are_never_paired_with_each_other() -> None:
    rows = [
        *chain(10, "CRUDEOIL", EXPIRIES[0], [5_000.0, 5_100.0], "MCX"),
        *chain(50, "CRUDEOIL", EXPIRIES[0], [5_000.0, 5_100.0], "NCO"),
    ]
    chosen = choose(rows, "CRUDEOIL")
    exchange = chosen.instruments.exchange
    options = np.flatnonzero(chosen.is_option)
    assert len(options) == 8
    assert (exchange[chosen.other_leg[options]] == exchange[options]).all()


def test_an_option_expires_at_the_hour_of_its_own_exchange() -> None:
    rows = [
        *chain(10, "CRUDEOIL", EXPIRIES[0], [5_000.0], "MCX"),
        *chain(50, "CRUDEOIL", EXPIRIES[0], [5_000.0], "CDS"),
    ]
    chosen = choose(rows, "CRUDEOIL")
    by_exchange = dict(zip(chosen.instruments.exchange, chosen.expiry_ns, strict=True))
    assert by_exchange["MCX"] - by_exchange["CDS"] == (11 * 60 + 25) * 60 * 10**9


def test_a_future_belongs_to_the_expiry_of_its_own_exchange() -> None:
    rows = [
        *chain(10, "USDINR", EXPIRIES[0], [84.0], "CDS"),
        *chain(50, "USDINR", EXPIRIES[0], [84.0], "BCD"),
        future(90, "USDINR", EXPIRIES[0], "BCD"),
    ]
    chosen = choose(rows, "USDINR")
    exchanges = {chosen.instruments.exchange[e.call_row[0]]: e.future_row for e in chosen.expiries}
    assert exchanges == {"CDS": ABSENT, "BCD": row_of(chosen, "USDINR26NOVFUT")}
