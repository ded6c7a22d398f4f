"""The day's contracts: found by their whole name, in little memory, true for their day alone."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from decimal import Decimal
from typing import Final

import numpy as np
import pytest
from small_exchange import EXPIRIES, NOW_NS, future, index, nifty, share, table_of

from ticker_service.domain import rulebook, session
from ticker_service.domain.contracts import Contract, Contracts, dump_day

USDINR: Final = future(9, "USDINR", EXPIRIES[0], "CDS") | {"price_step": 0.0025, "lot_size": 1}
ROWS: Final = [*nifty(), share(2, "M&M"), share(3, "SBIN"), share(4, "SBIN", "BSE"), USDINR]
BYTES_A_ROW_MAX: Final = 80
"""A dictionary of the names alone takes 140 bytes each."""


def contracts_of(rows: list[dict[str, object]]) -> Contracts:
    return Contracts.of(table_of(rows), fetched_at_ns=NOW_NS)


def test_a_contract_is_found_by_exchange_and_symbol_with_exact_steps() -> None:
    known = contracts_of(ROWS)
    assert known.find("CDS", "USDINR26NOVFUT") == Contract(
        exchange="CDS",
        tradingsymbol="USDINR26NOVFUT",
        name="USDINR",
        price_step=Decimal("0.0025"),
        lot_size=1,
        is_derivative=True,
        is_index=False,
    )
    for row in ROWS:
        found = known.find(row["exchange"], row["tradingsymbol"])
        assert found is not None
        assert (found.name, found.lot_size) == (row["name"], row["lot_size"])
        assert found.price_step == Decimal(str(row["price_step"]))
        assert found.is_derivative is (row["instrument_type"] != "EQ")
        assert found.is_index is (row["segment"] == "INDICES")


@pytest.mark.parametrize(
    ("exchange", "symbol"),
    [("NSE", "SBI"), ("NSE", "SBINX"), ("NFO", "SBIN"), ("", ""), ("~", "~"), ("NSE", "SBIN\0")],
)
def test_what_is_not_listed_is_not_found(exchange: str, symbol: str) -> None:
    assert contracts_of(ROWS).find(exchange, symbol) is None


def test_a_hundred_thousand_contracts_take_little_memory() -> None:
    table = table_of([index(1, "NIFTY 50")]).take(np.zeros(100_000, np.intp))
    table.tradingsymbol[:] = [f"BANKNIFTY26NOV{number}CE" for number in range(100_000)]
    tracemalloc.start()
    try:
        known = Contracts.of(table, fetched_at_ns=NOW_NS)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(known) == 100_000
    assert used < BYTES_A_ROW_MAX * 100_000
    assert known.find("NSE", "BANKNIFTY26NOV54000CE") is not None


@pytest.mark.parametrize(("at", "day"), [((8, 34), 20), ((8, 35), 21), ((23, 59), 21)])
def test_a_dump_is_of_the_day_from_its_hour_on(at: tuple[int, int], day: int) -> None:
    moment = dt.datetime(2026, 11, 21, *at, tzinfo=session.IST)
    assert dump_day(session.instant_ns(moment)) == dt.date(2026, 11, day)


def test_freeze_quantities_are_of_their_day_and_the_settings_win() -> None:
    before, since = dt.date(2026, 1, 31), dt.date(2026, 2, 1)
    assert rulebook.freeze_quantities({}, today=before) == {}
    assert rulebook.freeze_quantities({}, today=since)["NIFTY"] == 1_800
    changed = rulebook.freeze_quantities({"NIFTY": 1_500, "BANKEX": 0, "SBIN": 9}, today=since)
    assert (changed["NIFTY"], changed["SBIN"]) == (1_500, 9)
    assert "BANKEX" not in changed


def test_a_name_longer_than_any_is_none_and_does_not_copy_all_names() -> None:
    known = contracts_of([share(number, f"S{number}") for number in range(1, 5_001)])
    tracemalloc.start()
    found = known.find("NSE", "X" * 60_000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is None
    assert peak_bytes < 1_000_000
