"""The expiry clock: when variance ends, when trading ends, and what that leaves in years."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exchange import EXPIRIES, choose, nifty, option_row, row_of

from ticker_service.constants import NS_PER_S, NS_PER_YEAR
from ticker_service.domain import session
from ticker_service.domain.expiry_clock import (
    EXPIRY_HOURS,
    UnderlyingKind,
    expiry_instants,
    underlying_kind,
    years_to_expiry,
)

NAME_OF = {
    UnderlyingKind.INDEX: "NIFTY",
    UnderlyingKind.STOCK: "SBIN",
    UnderlyingKind.CURRENCY: "USDINR",
    UnderlyingKind.COMMODITY: "GOLD",
}
SHARES = ("NFO-OPT", "NFO-FUT", "BFO-OPT", "BFO-FUT")
CURRENCIES = ("CDS-OPT", "CDS-FUT", "BCD-OPT", "BCD-FUT")
COMMODITIES = ("MCX-OPT", "MCX-FUT", "NCO-OPT", "NCO-FUT")


def ends(segment: str, name: str, date: str) -> tuple[str, str]:
    """Return the times in India at which a contract's variance and trading end."""
    expiry = dt.date.fromisoformat(date)
    instants = expiry_instants(segment, name, expiry)
    moments = [
        session.from_instant_ns(ns) for ns in (instants.variance_ends_ns, instants.last_trade_ns)
    ]
    assert [moment.date() for moment in moments] == [expiry, expiry]
    return f"{moments[0]:%H:%M:%S}", f"{moments[1]:%H:%M:%S}"


@pytest.mark.parametrize("segment", SHARES)
@pytest.mark.parametrize(
    ("name", "date", "last_trade"),
    [
        ("NIFTY", "2025-11-25", "15:30:00"),
        ("NIFTY", "2026-08-02", "15:30:00"),
        ("NIFTY", "2026-08-03", "15:40:00"),
        ("SENSEX", "2026-12-03", "15:40:00"),
        ("BANKNIFTY", "2026-12-06", "15:40:00"),
        ("BANKNIFTY", "2026-12-07", "15:30:00"),
        ("SENSEX", "2027-06-24", "15:30:00"),
        ("SBIN", "2025-11-25", "15:30:00"),
        ("SBIN", "2026-08-02", "15:30:00"),
        ("SBIN", "2026-08-03", "15:40:00"),
        ("M&M", "2026-12-06", "15:40:00"),
        ("M&M", "2026-12-07", "15:45:00"),
        ("SBIN", "2027-06-29", "15:45:00"),
    ],
)
def test_variance_of_index_and_stock_contracts_ends_at_half_past_three_whenever_trading_does(
    segment: str, name: str, date: str, last_trade: str
) -> None:
    assert ends(segment, name, date) == ("15:30:00", last_trade)


@pytest.mark.parametrize("segment", CURRENCIES)
@pytest.mark.parametrize("date", ["2025-11-26", "2026-08-27", "2027-01-27"])
def test_currencies_end_with_the_reference_rate(segment: str, date: str) -> None:
    assert ends(segment, "USDINR", date) == ("12:30:00", "12:30:00")


@pytest.mark.parametrize("segment", COMMODITIES)
@pytest.mark.parametrize(
    ("date", "at"),
    [
        ("2026-11-01", "23:30:00"),
        ("2026-11-02", "23:55:00"),
        ("2027-03-12", "23:55:00"),
        ("2027-03-13", "23:30:00"),
    ],
)
def test_commodities_end_with_the_evening_session_which_is_longer_in_winter(
    segment: str, date: str, at: str
) -> None:
    assert ends(segment, "CRUDEOIL", date) == (at, at)


def test_an_unknown_segment_ends_with_the_shares() -> None:
    assert ends("NSEIX-OPT", "GIFTNIFTY", "2026-11-24") == ("15:30:00", "15:30:00")


def test_every_row_of_the_table_is_the_one_that_applies_on_its_first_day() -> None:
    for hours in EXPIRY_HOURS:
        for segment in hours.segments:
            name = NAME_OF[hours.underlying]
            assert underlying_kind(segment, name) is hours.underlying
            day = max(hours.since, dt.date(2000, 1, 1))
            times = f"{hours.variance_ends:%H:%M:%S}", f"{hours.last_trade:%H:%M:%S}"
            assert ends(segment, name, day.isoformat()) == times


@pytest.mark.parametrize(
    ("segment", "name", "kind"),
    [
        ("NFO-OPT", "MIDCPNIFTY", UnderlyingKind.INDEX),
        ("BFO-FUT", "BANKEX", UnderlyingKind.INDEX),
        ("NFO-OPT", "M&M", UnderlyingKind.STOCK),
        ("CDS-OPT", "USDINR", UnderlyingKind.CURRENCY),
        ("NCO-OPT", "NATURALGAS", UnderlyingKind.COMMODITY),
    ],
)
def test_a_contract_is_known_by_its_segment_and_its_underlying_s_name(
    segment: str, name: str, kind: UnderlyingKind
) -> None:
    assert underlying_kind(segment, name) is kind


def test_a_universe_carries_both_ends_of_every_derivative_and_none_of_what_does_not_end() -> None:
    chosen = choose(nifty(), "NIFTY")
    rows = [option_row(chosen, 2, 24_000.0, "CE"), row_of(chosen, "NIFTY26DECFUT")]
    spot = row_of(chosen, "NIFTY 50")
    moments = [
        f"{session.from_instant_ns(int(column[row])):%m-%d %H:%M}"
        for row in rows
        for column in (chosen.expiry_ns, chosen.last_trade_ns)
    ]
    assert moments == ["12-08 15:30", "12-08 15:30", "12-01 15:30", "12-01 15:40"]
    assert (chosen.expiry_ns[spot], chosen.last_trade_ns[spot]) == (0, 0)
    assert [expiry.instant_ns for expiry in chosen.expiries] == [
        expiry_instants("NFO-OPT", "NIFTY", date).variance_ends_ns for date in EXPIRIES
    ]


def test_one_year_before_expiry_there_is_one_year_left() -> None:
    assert years_to_expiry(5, 5 + NS_PER_YEAR) == 1.0


def test_the_time_left_turns_negative_after_expiry_and_is_not_floored() -> None:
    assert years_to_expiry(NS_PER_YEAR, 0) == -1.0


def test_the_last_second_is_a_second_and_the_last_nanosecond_a_nanosecond() -> None:
    end_ns = expiry_instants("NFO-OPT", "NIFTY", EXPIRIES[0]).variance_ends_ns
    now_ns = end_ns - np.array([NS_PER_S, 1, 0, -1])
    years = years_to_expiry(now_ns, np.full(4, end_ns))
    assert (years * NS_PER_YEAR).round(3).tolist() == [NS_PER_S, 1.0, 0.0, -1.0]


def test_years_of_a_column_are_those_of_its_numbers() -> None:
    expiry_ns = np.array([0, NS_PER_YEAR // 4, NS_PER_YEAR], np.int64)
    years = years_to_expiry(0, expiry_ns)
    assert years.tolist() == [years_to_expiry(0, int(one)) for one in expiry_ns]


def test_years_may_be_counted_from_another_instant_in_each_row() -> None:
    now_ns = np.array([0, NS_PER_YEAR], np.int64)
    years = years_to_expiry(now_ns, np.full(2, NS_PER_YEAR, np.int64))
    assert years.tolist() == [1.0, 0.0]


@given(
    st.sampled_from([*SHARES, *CURRENCIES, *COMMODITIES, "NSEIX-OPT"]),
    st.sampled_from(sorted(NAME_OF.values())),
    st.dates(dt.date(1970, 1, 2), dt.date(2200, 1, 1)),
)
def test_no_contract_s_variance_outlives_its_trading(
    segment: str, name: str, expiry: dt.date
) -> None:
    instants = expiry_instants(segment, name, expiry)
    assert instants.variance_ends_ns <= instants.last_trade_ns
