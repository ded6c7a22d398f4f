"""The columns of ticks: what "not carried" is, and how rows are taken and put."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ticker_service.domain.tick import (
    MODE_BY_LENGTH,
    NOT_CARRIED,
    PACKET_LAYOUTS,
    TICK_COLUMNS,
    Mode,
    Ticks,
)


def numbered(rows: int) -> Ticks:
    ticks = Ticks.empty(rows)
    for name in TICK_COLUMNS:
        getattr(ticks, name)[:] = np.arange(rows)
    return ticks


def test_the_five_layouts_are_as_long_as_on_the_wire() -> None:
    assert sorted(PACKET_LAYOUTS) == [8, 28, 32, 44, 184]


def test_every_layout_has_a_mode() -> None:
    modes = {8: Mode.LTP, 28: Mode.QUOTE, 32: Mode.FULL, 44: Mode.QUOTE, 184: Mode.FULL}
    assert modes == MODE_BY_LENGTH


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_is_named_as_kite_names_it(mode: Mode) -> None:
    assert mode.wire_name in {"ltp", "quote", "full"}


@pytest.mark.parametrize("name", ["ltp", "close", "average_price", "bid_price", "ask_price"])
def test_a_price_that_is_not_carried_is_nan_and_never_zero(name: str) -> None:
    assert np.isnan(getattr(Ticks.empty(2), name)).all()


@pytest.mark.parametrize("name", ["volume", "oi", "last_quantity", "bid_quantity", "ask_orders"])
def test_a_quantity_that_is_not_carried_is_marked_and_never_zero(name: str) -> None:
    assert (getattr(Ticks.empty(2), name) == NOT_CARRIED).all()


def test_taken_rows_keep_the_order_they_were_asked_in() -> None:
    assert numbered(5).take(np.array([3, 0, 3])).ltp.tolist() == [3.0, 0.0, 3.0]


def test_rows_are_taken_by_mask_too() -> None:
    assert numbered(3).take(np.array([True, False, True])).volume.tolist() == [0, 2]


def test_taken_columns_are_contiguous_because_the_encoder_wants_them_so() -> None:
    taken = numbered(6).take(np.array([5, 1, 2]))
    assert all(level.flags.c_contiguous for level in taken.bid_price)


def test_taken_rows_are_a_copy_of_their_own() -> None:
    ticks = numbered(2)
    taken = ticks.take(np.array([0]))
    ticks.ltp[0] = 9.0
    assert taken.ltp[0] == 0.0


def test_of_two_ticks_for_one_row_the_later_stays_in_every_column() -> None:
    ticks = Ticks.empty(2)
    ticks.put(np.array([1, 1, 1]), numbered(3))
    assert all((getattr(ticks, name)[..., 1] == 2).all() for name in TICK_COLUMNS)


def test_a_table_by_rows_reads_takes_and_puts_like_any_other() -> None:
    table, plain = Ticks.empty(6).by_rows(), Ticks.empty(6)
    places = np.array([4, 0, 4])
    for one in (table, plain):
        one.put(places, numbered(3))
    for name in TICK_COLUMNS:
        np.testing.assert_array_equal(getattr(table, name), getattr(plain, name))
        taken = getattr(table.take(np.array([4, 1])), name)
        np.testing.assert_array_equal(taken, getattr(plain.take(np.array([4, 1])), name))
        assert all(level.flags.c_contiguous for level in np.atleast_2d(taken))
    assert table.counts[:, 0].flags.c_contiguous


def test_taking_from_a_table_by_rows_does_not_copy_the_table() -> None:
    table = Ticks.empty(100_000).by_rows()
    tracemalloc.start()
    table.take(np.array([5, 7]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
