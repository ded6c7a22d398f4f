"""Which channel an instrument's ticks go to."""

from __future__ import annotations

import pytest
from small_exchange import EXPIRIES, chain, future, index, option, share, table_of

from ticker_service.domain.book import book_name, books_of, hash_tagged

OPTION = option(9_000, "NIFTY", EXPIRIES[0], 24_000, "CE")
M_AND_M = future(9_001, "M&M", EXPIRIES[0])


@pytest.mark.parametrize(
    ("underlying", "book"),
    [("NIFTY", "NIFTY"), ("NIFTY 50", "NIFTY_50"), ("M&M", "MANDM"), ("A B&C", "A_BANDC")],
)
def test_a_book_is_spelled_without_spaces_and_ampersands(underlying: str, book: str) -> None:
    assert book_name(underlying) == book


@pytest.mark.parametrize(
    ("name", "tagged"),
    [
        ("ticker:v1:ticks:NIFTY", "ticker:v1:ticks:{NIFTY}"),
        ("ticker:v1:arrow-snapshot:NSE-EQ", "ticker:v1:arrow-snapshot:{NSE-EQ}"),
        ("ticker:v1:tick:NSE:NIFTY_50", "ticker:v1:tick:{NSE:NIFTY_50}"),
        ("ticker:v1:orders:AB1234", "ticker:v1:orders:{AB1234}"),
        ("ticker:v1:events", "ticker:v1:events"),
    ],
)
def test_on_a_cluster_what_follows_the_kind_decides_the_server(name: str, tagged: str) -> None:
    assert hash_tagged(name, "ticker:v1:") == tagged


@pytest.mark.parametrize(
    ("row", "others", "book"),
    [
        pytest.param(OPTION, [], "NIFTY", id="option"),
        pytest.param(index(1, "NIFTY 50"), [OPTION], "NIFTY", id="index-with-derivatives"),
        pytest.param(index(1, "NIFTY BANK"), [OPTION], "NSE-INDEX", id="index-without"),
        pytest.param(index(1, "INDIA VIX"), [OPTION], "NSE-INDEX", id="vix"),
        pytest.param(index(1, "BSE TECK", "BSE"), [], "BSE-INDEX", id="bse-index"),
        pytest.param(share(1, "M&M"), [M_AND_M], "MANDM", id="share-with-derivatives"),
        pytest.param(share(1, "M&M"), [], "NSE-EQ", id="share-without"),
        pytest.param(share(1, "M&M", "BSE"), [M_AND_M], "MANDM", id="same-share-at-bse"),
        pytest.param(share(1, "TINY", "BSE"), [], "BSE-EQ", id="bse-share-without"),
        pytest.param(
            index(1, "SENSEX", "BSE"),
            [future(2, "SENSEX", EXPIRIES[0], "BFO")],
            "SENSEX",
            id="sensex-on-bfo",
        ),
        pytest.param(M_AND_M, [], "MANDM", id="future"),
    ],
)
def test_the_book_is_the_underlying_s_name_in_the_dump(row, others, book) -> None:  # noqa: ANN001 - rows of the dump
    assert books_of(table_of([row, *others]))[0] == book


def test_a_fund_that_shares_its_symbol_with_a_commodity_is_not_in_the_commodity_s_book() -> None:
    rows = [share(1, "SILVER"), *chain(10, "SILVER", EXPIRIES[0], [90_000.0], "MCX")]
    assert books_of(table_of(rows)).tolist() == ["NSE-EQ", "SILVER", "SILVER"]
