"""The day's instruments as columns."""

from __future__ import annotations

import numpy as np
from small_exchange import EXPIRIES, future, index, option, share, table_of

ROWS = [
    index(1, "NIFTY 50"),
    share(2, "SBIN"),
    future(3, "NIFTY", EXPIRIES[0]),
    option(4, "NIFTY", EXPIRIES[0], 24_000.0, "CE"),
    option(5, "NIFTY", EXPIRIES[0], 24_000.0, "PE"),
]


def test_an_index_is_told_from_a_share_by_its_segment() -> None:
    assert table_of(ROWS).is_index().tolist() == [True, False, False, False, False]


def test_calls_and_puts_are_options() -> None:
    assert table_of(ROWS).is_option().tolist() == [False, False, False, True, True]


def test_futures_and_options_are_derivatives() -> None:
    assert table_of(ROWS).is_derivative().tolist() == [False, False, True, True, True]


def test_rows_are_taken_whole_and_in_order() -> None:
    taken = table_of(ROWS).take(np.array([3, 1]))
    assert taken.tradingsymbol.tolist() == [ROWS[3]["tradingsymbol"], "SBIN"]
    assert taken.strike.tolist() == [24_000.0, 0.0]


def test_the_length_is_the_number_of_instruments() -> None:
    assert len(table_of(ROWS)) == 5
