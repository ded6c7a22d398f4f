"""Order rows: what a row may lack, and what spoils it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.adapters import kite_rows
from ticker_service.adapters.kite_rows import RowMalformed, RowOfAnother

USER = "AB1234"
LEAST: dict[str, Any] = {"order_id": "1", "status": "OPEN"}


def test_what_a_row_lacks_is_empty_or_zero() -> None:
    order = kite_rows.order(LEAST, user_id=USER)
    assert (order.tags, order.quantity, order.price) == ((), 0, Decimal(0))
    assert (order.user_id, order.tradingsymbol, order.parent_order_id) == ("", "", "")


@pytest.mark.parametrize(
    ("tag", "tags", "expected"),
    [
        (None, None, ()),
        ("A", None, ("A",)),
        (None, ["A", None], ("A",)),
        ("A", ["B", "A", "autoslice"], ("A", "B", "autoslice")),
        ("", [""], ()),
    ],
)
def test_the_tag_and_the_tags_are_one_list_without_nulls(
    tag: object, tags: object, expected: tuple[str, ...]
) -> None:
    assert kite_rows.order({**LEAST, "tag": tag, "tags": tags}, user_id=USER).tags == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3021.1, "3021.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (12, "12"),
        (Decimal("83.0025"), "83.0025"),
        (None, "0"),
    ],
)
def test_a_price_is_the_number_the_broker_wrote(value: object, expected: str) -> None:
    order = kite_rows.order({**LEAST, "price": value}, user_id=USER)
    assert order.price == Decimal(expected)


@pytest.mark.parametrize(
    "fault",
    [
        {"order_id": ""},
        {"order_id": 1},
        {"order_id": 250101000000001.0},
        {"status": None},
        {"quantity": 1.5},
        {"quantity": True},
        {"quantity": "1"},
        {"filled_quantity": -1},
        {"filled_quantity": 10**13},
        {"average_price": Decimal("1E+4000")},
        {"average_price": -(10**13)},
        {"average_price": Decimal("1e-200000")},
        {"trigger_price": 1e300},
        {"price": "12"},
        {"price": float("nan")},
        {"price": float("inf")},
        {"price": True},
        {"tag": 5},
        {"tags": "A"},
        {"tags": [5]},
        {"tradingsymbol": 5},
        {"account_id": "ZZ9999"},
        {"user_id": "ZZ9999"},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_trusted_is_refused(fault: dict[str, object]) -> None:
    with pytest.raises(RowMalformed):
        kite_rows.order({**LEAST, **fault}, user_id=USER)


def test_a_price_below_zero_is_one() -> None:
    row = {**LEAST, "average_price": Decimal("-37.63")}
    assert kite_rows.order(row, user_id=USER).average_price == Decimal("-37.63")


def test_a_row_of_another_user_is_told_from_one_that_cannot_be_read() -> None:
    with pytest.raises(RowOfAnother):
        kite_rows.order({**LEAST, "account_id": "ZZ9999"}, user_id=USER)


@pytest.mark.parametrize("name", ["quantity", "price", "order_id", "tags"])
def test_a_number_too_long_to_spell_is_refused_as_any_other(name: str) -> None:
    with pytest.raises(RowMalformed):
        kite_rows.order({**LEAST, name: 10**5_000}, user_id=USER)


def test_a_number_too_long_to_spell_in_another_s_row_is_no_fault_of_ours() -> None:
    row = {**LEAST, "account_id": "ZZ9999", "order_id": 10**5_000}
    with pytest.raises(RowOfAnother):
        kite_rows.order(row, user_id=USER)


def test_a_row_that_the_risk_desk_placed_is_still_ours() -> None:
    row = {**LEAST, "account_id": USER, "placed_by": "ADMINSQF"}
    assert kite_rows.order(row, user_id=USER).user_id == USER


def test_one_bad_row_spoils_the_book() -> None:
    with pytest.raises(RowMalformed):
        kite_rows.book([LEAST, {**LEAST, "status": 5}], user_id=USER)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_a_stranger_s_row_is_quoted_in_part_only() -> None:
    with pytest.raises(RowOfAnother, match=r"order_id=.xxx.*another user") as caught:
        kite_rows.order({"account_id": "ZZ9999", "order_id": "x" * 9_999}, user_id=USER)
    assert len(str(caught.value)) < 300


@given(
    st.dictionaries(
        st.sampled_from(["order_id", "status", "tag", "tags", "price", "quantity", "account_id"]),
        ANYTHING,
    )
    | ANYTHING
)
def test_any_json_is_an_order_or_malformed(row: object) -> None:
    try:
        order = kite_rows.order(row, user_id=USER)
    except RowMalformed as error:
        assert len(str(error)) < 300  # noqa: PT017 - the error is one of the two promised ends
        return
    assert order.order_id
    assert order.status


TRADE: dict[str, Any] = {
    "trade_id": "75894751",
    "order_id": "220524001859672",
    "exchange": "NSE",
    "tradingsymbol": "SBIN",
    "product": "MIS",
    "transaction_type": "SELL",
    "quantity": 3,
    "average_price": Decimal("470.05"),
}
POSITION: dict[str, Any] = {
    "exchange": "NFO",
    "tradingsymbol": "NIFTY26NOV25000CE",
    "product": "NRML",
    "quantity": -150,
    "overnight_quantity": -75,
}


def test_a_fill_is_read_exactly_and_counts_once() -> None:
    other = {**TRADE, "order_id": "2"}  # ids of fills are an exchange's own
    first, second = kite_rows.trades([TRADE, TRADE, other])
    assert (first.order_id, second.order_id) == ("220524001859672", "2")
    assert first.key == ("NSE", "SBIN", "MIS")
    assert (first.transaction_type, first.quantity) == ("SELL", 3)
    assert first.average_price == Decimal("470.05")


def test_a_position_has_what_the_day_made_of_it() -> None:
    (position,) = kite_rows.positions({"net": [POSITION], "day": []})
    assert position.key == ("NFO", "NIFTY26NOV25000CE", "NRML")
    assert (position.quantity, position.traded_quantity) == (-150, -75)


@pytest.mark.parametrize(
    "fault",
    [
        {"trade_id": None},
        {"order_id": ""},
        {"transaction_type": "HOLD"},
        {"quantity": -3},
        {"quantity": 1.5},
        {"average_price": "470.05"},
        {"product": None},
    ],
)
def test_one_bad_fill_spoils_the_trades(fault: dict[str, Any]) -> None:
    with pytest.raises(RowMalformed, match=next(iter(fault))):
        kite_rows.trades([TRADE, {**TRADE, **fault}])


@pytest.mark.parametrize(
    "fault",
    [
        {"tradingsymbol": None},
        {"quantity": None},
        {"quantity": True},
        {"quantity": 10**13},
        {"overnight_quantity": "0"},
        {"overnight_quantity": None},
    ],
)
def test_one_bad_position_spoils_the_positions(fault: dict[str, Any]) -> None:
    with pytest.raises(RowMalformed, match=next(iter(fault))):
        kite_rows.positions({"net": [POSITION, {**POSITION, **fault}]})


@pytest.mark.parametrize("data", [None, [], {"net": None}, {"day": []}, "net"])
def test_positions_without_their_net_are_none(data: object) -> None:
    with pytest.raises(RowMalformed):
        kite_rows.positions(data)


@given(st.lists(st.dictionaries(st.sampled_from(sorted({*TRADE, *POSITION})), ANYTHING)) | ANYTHING)
def test_any_json_is_fills_and_positions_or_malformed(data: object) -> None:
    for read in (kite_rows.trades, kite_rows.positions):
        try:
            read(data)
        except RowMalformed:
            continue


QUOTE: dict[str, Any] = {
    "last_price": 100.5,
    "last_trade_time": "2026-11-20 15:29:58",
    "timestamp": "2026-11-21 12:00:01",
    "depth": {
        "buy": [{"price": 100.45, "quantity": 75, "orders": 1}],
        "sell": [{"price": 100.55, "quantity": 150, "orders": 2}],
    },
}


def test_a_quote_says_when_it_traded_and_of_when_its_book_is_not_only_when_it_was_read() -> None:
    (quote,) = kite_rows.quotes({"NFO:X": QUOTE}, at_ns=7).values()
    assert (quote.at_ns, quote.price_inr) == (7, 100.5)
    assert quote.traded_at_ns == 1_795_168_798 * 10**9
    assert quote.book_at_ns == 1_795_242_601 * 10**9
    assert (quote.bid_inr, quote.ask_inr) == (100.45, 100.55)


@pytest.mark.parametrize(
    "lacks",
    [
        {"last_trade_time": None, "timestamp": None},
        {"last_trade_time": "", "timestamp": "soon"},
        {"depth": None},
        {"depth": {"buy": [], "sell": "none"}},
        {"depth": {"buy": [{"price": 100.0, "quantity": 0}], "sell": [None]}},
    ],
)
def test_a_quote_without_trade_time_or_book_says_so(lacks: dict[str, Any]) -> None:
    (quote,) = kite_rows.quotes({"NFO:X": {**QUOTE, **lacks}}, at_ns=7).values()
    if "depth" in lacks:
        assert (quote.bid_inr, quote.ask_inr) == (0.0, 0.0)
    else:
        assert (quote.traded_at_ns, quote.book_at_ns) == (0, 0)
