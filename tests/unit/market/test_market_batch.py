"""One batch per book, in order; what waited too long is merged to each instrument's newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exchange import EXPIRIES, chain, choose, index, nifty, ticks_of

from ticker_service.market import batch
from ticker_service.market.latest import LatestTable
from ticker_service.market.streams import Marks

if TYPE_CHECKING:
    from ticker_service.domain.universe import Universe
    from ticker_service.market.batch import Arrived, Batch

ROWS = [*nifty([24_000.0], EXPIRIES[:1]), index(5, "NIFTY BANK")]
ROWS += chain(500, "BANKNIFTY", EXPIRIES[0], [52_000.0])
CHOSEN = choose(ROWS, "NIFTY", "BANKNIFTY")


@pytest.fixture
def chosen() -> Universe:
    return CHOSEN


def arrive(rows: list[int], *, conflate: bool) -> Arrived:
    """Group ticks whose price is their place in the order of arrival."""
    ticks = ticks_of(CHOSEN, rows, ltp=np.arange(len(rows), dtype=float))
    marks = Marks(is_cached=np.zeros(len(rows), np.bool_), doubt=np.arange(len(rows)) % 3)
    return batch.by_book(np.array(rows, np.intp), ticks, marks, CHOSEN, conflate=conflate)


def split(rows: list[int], *, conflate: bool) -> list[Batch]:
    return arrive(rows, conflate=conflate).batches


def test_every_book_gets_its_own_rows_in_order_of_arrival() -> None:
    everything = list(range(len(CHOSEN)))
    batches = split(everything[::-1], conflate=False)
    assert [CHOSEN.books[one.book] for one in batches] == ["BANKNIFTY", "NIFTY"]
    assert all((np.diff(one.ticks.ltp) > 0).all() for one in batches)


def test_a_book_without_ticks_has_no_batch() -> None:
    nifty_rows = np.flatnonzero(CHOSEN.book == 1).tolist()
    assert [one.book for one in split(nifty_rows, conflate=False)] == [1]


def test_repeated_ticks_of_an_instrument_all_stay_when_there_is_time() -> None:
    (one,) = split([0, 0, 0], conflate=False)
    assert (one.ticks.ltp.tolist(), one.conflated) == ([0.0, 1.0, 2.0], 0)


def test_conflation_keeps_the_newest_tick_of_each_instrument() -> None:
    first, second = np.flatnonzero(CHOSEN.book == 1)[:2].tolist()
    arrived = arrive([first, second, first, second, first], conflate=True)
    (one,) = arrived.batches
    assert arrived.terms.rows.tolist() == [second, first]
    assert (one.ticks.ltp.tolist(), one.conflated) == ([3.0, 4.0], 3)


some_rows = st.lists(st.integers(0, len(CHOSEN) - 1), min_size=1, max_size=40)


@given(some_rows)
def test_no_tick_is_lost_or_made_up_by_splitting(rows: list[int]) -> None:
    batches = split(rows, conflate=False)
    places = sorted(p for one in batches for p in one.ticks.ltp.tolist())
    assert places == list(range(len(rows)))


@given(some_rows)
def test_conflation_leaves_one_row_per_instrument_and_counts_the_rest(rows: list[int]) -> None:
    arrived = arrive(rows, conflate=True)
    newest = {row: place for place, row in enumerate(rows)}
    assert dict(zip(arrived.terms.rows, arrived.ticks.ltp, strict=True)) == newest
    assert sum(one.conflated for one in arrived.batches) == len(rows) - len(newest)


@given(rows=some_rows, conflate=st.booleans())
def test_the_marks_of_a_tick_stay_with_it(rows: list[int], *, conflate: bool) -> None:
    arrived = arrive(rows, conflate=conflate)
    assert arrived.marks.doubt.tolist() == (arrived.ticks.ltp % 3).tolist()
    assert len(arrived.marks.is_cached) == len(arrived.ticks)


def test_rows_of_a_batch_belong_to_the_ticks_beside_them() -> None:
    arrived = arrive(list(range(len(CHOSEN)))[::-1], conflate=True)
    for one in arrived.batches:
        rows = arrived.terms.rows[one.part]
        assert one.ticks.instrument_token.tolist() == CHOSEN.instrument_token[rows].tolist()
        assert set(CHOSEN.book[rows].tolist()) == {one.book}


@given(some_rows)
def test_the_newest_row_of_each_instrument_is_marked(rows: list[int]) -> None:
    arrived = arrive(rows, conflate=False)
    newest = {row: place for place, row in enumerate(rows)}
    marked = zip(
        arrived.terms.rows[arrived.is_newest], arrived.ticks.ltp[arrived.is_newest], strict=True
    )
    assert dict(marked) == newest


@given(some_rows)
def test_the_latest_table_holds_each_instrument_s_last_tick(rows: list[int]) -> None:
    latest = LatestTable(CHOSEN)
    ticks = ticks_of(CHOSEN, rows, ltp=np.arange(len(rows), dtype=float))
    ticks.bid_price[:] = np.arange(len(rows), dtype=float)
    latest.merge(np.array(rows, np.intp), ticks)
    for row, place in {row: place for place, row in enumerate(rows)}.items():
        assert latest.ticks.ltp[row] == place
        assert latest.ticks.bid_price[:, row].tolist() == [place] * 5


def test_only_rows_that_had_a_tick_have_been_seen(chosen: Universe) -> None:
    latest = LatestTable(chosen)
    rows = np.flatnonzero(chosen.book == 1)[1:]
    latest.merge(rows, ticks_of(chosen, rows.tolist(), ltp=5.0))
    assert latest.seen().terms.rows.tolist() == rows.tolist()
    assert [len(rows[part]) for part in latest.seen().parts] == [0, len(rows)]


def test_what_has_been_seen_is_kept_until_something_new_is(chosen: Universe) -> None:
    latest = LatestTable(chosen)
    latest.merge(np.array([0]), ticks_of(chosen, [0], ltp=5.0))
    first = latest.seen()
    latest.merge(np.array([0]), ticks_of(chosen, [0], ltp=6.0))
    second = latest.seen()
    latest.merge(np.array([1]), ticks_of(chosen, [1], ltp=6.0))
    assert first is second
    assert latest.seen().terms.rows.tolist() == [0, 1]


def test_a_packet_replaces_the_whole_row_and_not_just_what_it_carries(chosen: Universe) -> None:
    latest = LatestTable(chosen)
    row = np.array([0])
    latest.merge(row, ticks_of(chosen, [0], ltp=5.0, bid_price=4.0))
    latest.merge(row, ticks_of(chosen, [0], ltp=6.0))
    assert np.isnan(latest.ticks.bid_price[0, 0])


def test_a_forgotten_row_keeps_its_token_and_nothing_else(chosen: Universe) -> None:
    latest = LatestTable(chosen)
    rows = np.arange(len(chosen))
    latest.merge(rows, ticks_of(chosen, rows.tolist(), ltp=5.0, oi=7))
    latest.forget(rows[:1])
    assert latest.ticks.instrument_token[0] == chosen.instrument_token[0]
    assert np.isnan(latest.ticks.ltp[0])
    assert 0 not in latest.seen().terms.rows
    assert (latest.ticks.ltp[1:] == 5.0).all()
