"""A reader's table holds each instrument's latest row, as a dict of dicts would."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.client import BookTable, Message

Rows = list[dict[str, Any]]


def message(kind: str, rows: Rows, *, seq: int = 1, **facts: object) -> Message:
    names = list(rows[0]) if rows else ["instrument_token", "ltp", "iv_status"]
    columns = {name: [row[name] for row in rows] for name in names}
    return Message(kind, "NIFTY", {"epoch": 1, "seq": seq, "columns": columns, **facts})


def row(token: int, ltp: float | None = None, iv_status: str | None = None) -> dict[str, Any]:
    return {"instrument_token": token, "ltp": ltp, "iv_status": iv_status}


def test_before_its_first_snapshot_it_is_empty_and_not_current() -> None:
    table = BookTable("NIFTY")
    assert (len(table), table.is_current, table.row(1)) == (0, False, None)
    assert table.rows() == []


def test_a_snapshot_replaces_everything() -> None:
    table = BookTable("NIFTY")
    table.take(message("snapshot", [row(1, 1.0), row(2, 2.0)]))
    table.take(message("snapshot", [row(3, 3.0, "OK")], seq=5))
    assert table.rows() == [row(3, 3.0, "OK")]
    assert (table.seq, table.is_current) == (5, True)


def test_the_later_of_two_rows_in_a_batch_stays() -> None:
    table = BookTable("NIFTY")
    table.take(message("snapshot", [row(1, 1.0)]))
    table.take(message("batch", [row(1, 2.0), row(7, 5.0), row(1, 3.0, "OK")]))
    assert table.rows() == [row(1, 3.0, "OK"), row(7, 5.0)]


def test_a_loss_makes_it_doubtful_until_the_next_snapshot() -> None:
    table = BookTable("NIFTY")
    table.take(message("snapshot", [row(1)]))
    table.take(Message("missed", "NIFTY", {"epoch": 1, "seq": 9, "expected_seq": 3}))
    assert not table.is_current
    table.take(message("snapshot", [row(1)], seq=9))
    assert table.is_current


def test_what_a_later_snapshot_no_longer_holds_is_dropped_unless_it_is_newer() -> None:
    table = BookTable("NIFTY")
    rows = [row(token) | {"received_at_us": token * 100} for token in (1, 2, 9)]
    table.take(message("snapshot", rows))
    table.prune(message("snapshot", rows[:1], published_at_us=500))
    assert table.to_numpy()["instrument_token"].tolist() == [1, 9]


def test_a_heartbeat_tells_the_state_of_the_feed() -> None:
    table = BookTable("NIFTY")
    table.take(Message("heartbeat", "NIFTY", {"epoch": 1, "seq": 0, "feed": "down"}))
    assert table.feed == "down"


def test_what_it_hands_out_stays_as_it_is() -> None:
    table = BookTable("NIFTY")
    table.take(message("snapshot", [row(1, 1.0)]))
    before = table.to_numpy()
    table.take(message("batch", [row(1, 2.0)]))
    assert before["ltp"].tolist() == [1.0]


def test_a_column_that_comes_later_is_missing_in_the_older_rows() -> None:
    table = BookTable("NIFTY")
    table.take(message("snapshot", [row(1, 1.0), row(2, 2.0)]))
    table.take(message("batch", [row(2, 3.0) | {"volume": 65}]))
    assert [each["volume"] for each in table.rows()] == [None, 65]


def test_it_is_to_be_had_in_every_form() -> None:
    table = BookTable("NIFTY")
    table.take(message("snapshot", [row(2, None, "OK"), row(1, 1.5)]))
    assert table.to_polars()["instrument_token"].to_list() == [1, 2]
    assert table.to_pandas()["ltp"].isna().tolist() == [False, True]
    assert table.to_arrow()["iv_status"].to_pylist() == [None, "OK"]
    assert np.isnan(table.to_numpy()["ltp"][1])


ROWS = st.lists(
    st.builds(
        row,
        st.integers(0, 2**32 - 1) | st.integers(1, 5),
        st.none() | st.integers(1, 9).map(float),
        st.sampled_from([None, "OK", "STALE"]),
    ),
    max_size=6,
)


@given(st.lists(st.tuples(st.sampled_from(["snapshot", "batch", "batch"]), ROWS), max_size=8))
def test_whatever_comes_it_holds_the_latest_row_of_each_instrument(
    messages: list[tuple[str, Rows]],
) -> None:
    table = BookTable("NIFTY")
    expected: dict[int, dict[str, Any]] = {}
    for kind, rows in messages:
        newest = {each["instrument_token"]: each for each in rows}
        if kind == "snapshot":
            table.take(message(kind, list(newest.values())))
            expected = newest
        else:
            table.take(message(kind, rows))
            expected |= newest
    assert table.rows() == [expected[token] for token in sorted(expected)]
