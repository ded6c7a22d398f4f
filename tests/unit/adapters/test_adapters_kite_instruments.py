"""Kite's instruments dump becomes columns, or is refused with the line that is wrong."""

from __future__ import annotations

import csv
import datetime as dt
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.adapters.kite_instruments import COLUMNS, parse_dump
from ticker_service.errors import CatalogError

ROW = {
    "instrument_token": "10752258",
    "exchange_token": "42001",
    "tradingsymbol": "NIFTY26NOV24000CE",
    "name": "NIFTY",
    "last_price": "0",
    "expiry": "2026-11-23",
    "strike": "24000",
    "tick_size": "0.05",
    "lot_size": "65",
    "instrument_type": "CE",
    "segment": "NFO-OPT",
    "exchange": "NFO",
}
INDEX = ROW | {
    "instrument_token": "256265",
    "tradingsymbol": "NIFTY 50",
    "name": "NIFTY 50",
    "expiry": "",
    "strike": "0",
    "tick_size": "0",
    "lot_size": "0",
    "instrument_type": "EQ",
    "segment": "INDICES",
    "exchange": "NSE",
}


def dump(*rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    lines = [",".join(columns), *(",".join(row[name] for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"


def only(row: dict[str, str], name: str) -> Any:
    return getattr(parse_dump(dump(row)), name)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instrument_token", 10_752_258),
        ("tradingsymbol", "NIFTY26NOV24000CE"),
        ("name", "NIFTY"),
        ("expiry", np.datetime64("2026-11-23")),
        ("strike", 24_000.0),
        ("price_step", 0.05),
        ("lot_size", 65),
        ("instrument_type", "CE"),
        ("segment", "NFO-OPT"),
        ("exchange", "NFO"),
    ],
)
def test_every_column_is_read(name: str, value: object) -> None:
    assert only(ROW, name) == value


def names_by_csv(text: str) -> list[str] | None:
    """Return the names that a reader of CSV finds; None where it finds no table."""
    try:
        header, *rows = csv.reader(io.StringIO(text))
    except csv.Error:
        return None
    if any(len(row) != len(header) for row in rows):
        return None
    return [row[header.index("name")] for row in rows]


@given(st.lists(st.text(alphabet='ab",\n\r ', max_size=6), min_size=1, max_size=6))
def test_names_are_read_as_csv_reads_them_whatever_they_hold(names: list[str]) -> None:
    rows = [
        ROW | {"instrument_token": str(number), "name": name}
        for number, name in enumerate(names, start=1)
    ]
    text = dump(*rows)
    try:
        read = parse_dump(text).name.tolist()
    except CatalogError:
        # Quotes and ends of lines may move the other columns, where a number is then none.
        assert set("".join(names)) & set('",\n\r')
    else:
        assert read == names_by_csv(text)


def test_a_quoted_name_among_plain_ones_keeps_its_commas_and_quotes() -> None:
    quoted = ROW | {"instrument_token": "7", "name": '"QUOTEWELL ""Q"", SONS"'}
    table = parse_dump(dump(ROW, quoted, INDEX))
    assert table.name.tolist() == ["NIFTY", 'QUOTEWELL "Q", SONS', "NIFTY 50"]


def test_rows_stay_in_the_order_of_the_dump() -> None:
    assert parse_dump(dump(ROW, INDEX)).instrument_token.tolist() == [10_752_258, 256_265]


def test_columns_are_found_by_name_in_any_order_and_new_ones_do_no_harm() -> None:
    columns = ("is_new", *reversed(COLUMNS))
    table = parse_dump(dump(ROW | {"is_new": "yes"}, columns=columns))
    assert (table.strike[0], table.exchange[0]) == (24_000.0, "NFO")


def test_an_instrument_without_expiry_has_none() -> None:
    assert np.isnat(only(INDEX, "expiry"))


def test_an_empty_number_is_zero_as_for_an_index() -> None:
    assert only(INDEX | {"lot_size": "", "strike": ""}, "lot_size") == 0


def test_a_quoted_name_keeps_its_commas_and_quotes() -> None:
    assert only(ROW | {"name": '"A, ""B"" & SONS"'}, "name") == 'A, "B" & SONS'


def test_line_ends_of_windows_are_no_obstacle() -> None:
    table = parse_dump(dump(ROW, INDEX).replace("\n", "\r\n"))
    assert table.exchange.tolist() == ["NFO", "NSE"]


def test_a_decimal_strike_is_read_to_the_nearest_double() -> None:
    assert only(ROW | {"strike": "1452.55"}, "strike") == 1_452.55


def test_the_largest_token_of_the_wire_fits() -> None:
    assert only(ROW | {"instrument_token": "4294967295"}, "instrument_token") == 2**32 - 1


@pytest.mark.parametrize("missing", sorted({"instrument_token", "expiry", "lot_size", "exchange"}))
def test_a_missing_column_is_named(missing: str) -> None:
    columns = tuple(name for name in COLUMNS if name != missing)
    with pytest.raises(CatalogError, match=missing):
        parse_dump(dump(ROW, columns=columns))


@pytest.mark.parametrize("text", ["", "\n", "<html><body>Bad gateway</body></html>"])
def test_what_is_no_dump_at_all_is_refused(text: str) -> None:
    with pytest.raises(CatalogError, match="lacks columns"):
        parse_dump(text)


def test_a_dump_without_rows_is_refused() -> None:
    with pytest.raises(CatalogError, match="no rows"):
        parse_dump(dump())


def test_a_line_with_another_number_of_fields_is_named() -> None:
    with pytest.raises(CatalogError, match=r"line 3 has 3 fields, the header has 12"):
        parse_dump(dump(ROW) + "1,2,3\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strike", "dear"),
        ("strike", "nan"),
        ("lot_size", "-65"),
        ("strike", "inf"),
        ("tick_size", "-"),
        ("lot_size", "many"),
        ("lot_size", "0.5"),
        ("lot_size", "1e300"),
        ("instrument_token", "NIFTY"),
        ("instrument_token", "256265.5"),
        ("instrument_token", ""),
        ("instrument_token", "0"),
        ("instrument_token", "-1"),
        ("instrument_token", "4294967296"),
        ("instrument_token", "1e30"),
        ("expiry", "23-11-2026"),
        ("expiry", "2026-13-01"),
        ("expiry", "2026"),
        ("expiry", "2026-11"),
        ("expiry", "today"),
        ("expiry", "2026-11-23T15:30"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_its_line(name: str, value: str) -> None:
    with pytest.raises(CatalogError, match=f"line 3: {name}=.*{value}"):
        parse_dump(dump(INDEX, ROW | {name: value}))


def test_a_token_that_occurs_twice_is_refused_and_named() -> None:
    with pytest.raises(CatalogError, match="10752258"):
        parse_dump(dump(ROW, INDEX, ROW))


def test_a_quote_that_never_closes_is_a_fault_of_the_dump() -> None:
    rest = dump(*[INDEX] * 3_000).split("\n", 1)[1]
    with pytest.raises(CatalogError):
        parse_dump(dump(ROW | {"name": '"never closed'}) + rest)


@given(st.text())
def test_any_text_is_a_table_or_a_catalog_error(text: str) -> None:
    with pytest.raises(CatalogError):
        parse_dump(text)


@given(st.sampled_from(COLUMNS), st.text(max_size=20))
def test_any_value_in_any_column_is_read_or_a_catalog_error(name: str, value: str) -> None:
    quoted = '"' + value.replace('"', '""') + '"'
    try:
        table = parse_dump(dump(ROW | {name: quoted}))
    except CatalogError:
        return
    assert len(table) == 1


@given(st.dates(dt.date(2000, 1, 1), dt.date(2100, 1, 1)))
def test_every_date_is_read_as_itself(expiry: dt.date) -> None:
    assert only(ROW | {"expiry": expiry.isoformat()}, "expiry").item() == expiry


def test_equal_words_are_stored_once() -> None:
    names = parse_dump(dump(INDEX, ROW | {"name": "NIFTY 50"})).name
    assert names[0] is names[1]
