"""What cannot be right is refused before it is journalled, with field, value and rule."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_scene import BUY

from ticker_service.domain.order import (
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    Validity,
    Variety,
)
from ticker_service.errors import OrderRefused
from ticker_service.orders import admit

MARKET = dataclasses.replace(
    BUY, order_type=OrderType.MARKET, price=None, market_protection=Decimal(-1)
)
SHARES = dataclasses.replace(
    BUY, exchange="NSE", tradingsymbol="INFY", product=Product.CNC, quantity=75
)
AUCTION = dataclasses.replace(SHARES, variety=Variety.AUCTION, auction_number="22")
STOP = dataclasses.replace(BUY, order_type=OrderType.SL, trigger_price=Decimal("99.95"))


@pytest.mark.parametrize(
    "order",
    [
        BUY,
        MARKET,
        STOP,
        dataclasses.replace(MARKET, market_protection=Decimal("0.5")),
        dataclasses.replace(BUY, disclosed_quantity=0),
        dataclasses.replace(SHARES, disclosed_quantity=75),
        dataclasses.replace(SHARES, product=Product.MTF),
        dataclasses.replace(BUY, variety=Variety.AMO),
        dataclasses.replace(MARKET, variety=Variety.AMO),
        AUCTION,
        dataclasses.replace(BUY, validity=Validity.TTL, validity_ttl=1),
        dataclasses.replace(BUY, price=Decimal("0.0001")),
        dataclasses.replace(BUY, price=Decimal("100.050000")),
    ],
)
def test_a_right_order_is_let_through(order: OrderRequest) -> None:
    admit.check_order(order)


@pytest.mark.parametrize(
    ("start", "field", "value"),
    [
        (BUY, "exchange", "NASDAQ"),
        (BUY, "tradingsymbol", ""),
        (BUY, "tradingsymbol", "A" * 65),
        (BUY, "tradingsymbol", "INFY\n"),
        (BUY, "product", Product.CNC),
        (BUY, "product", Product.MTF),
        (BUY, "auction_number", "22"),
        (BUY, "iceberg_legs", 2),
        (BUY, "iceberg_quantity", 25),
        (AUCTION, "auction_number", None),
        (AUCTION, "auction_number", ""),
        (AUCTION, "auction_number", "٢٢"),
        (AUCTION, "auction_number", "2" * 21),
        (BUY, "disclosed_quantity", 1),
        (BUY, "quantity", 0),
        (BUY, "quantity", -75),
        (BUY, "quantity", 10_000_001),
        (BUY, "price", None),
        (BUY, "price", Decimal(0)),
        (BUY, "price", Decimal(-1)),
        (BUY, "price", Decimal("NaN")),
        (BUY, "price", Decimal("Infinity")),
        (BUY, "price", Decimal(10_000_001)),
        (BUY, "price", Decimal("100.00001")),
        (BUY, "trigger_price", Decimal(99)),
        (BUY, "market_protection", Decimal(-1)),
        (SHARES, "disclosed_quantity", 76),
        (SHARES, "disclosed_quantity", -1),
        (BUY, "validity_ttl", 5),
        (STOP, "trigger_price", None),
        (STOP, "trigger_price", Decimal(0)),
        (MARKET, "price", Decimal(100)),
        (MARKET, "market_protection", None),
        (MARKET, "market_protection", Decimal(0)),
        (MARKET, "market_protection", Decimal(-2)),
        (MARKET, "market_protection", Decimal(101)),
        (MARKET, "market_protection", Decimal("NaN")),
        (MARKET, "market_protection", Decimal("sNaN")),
        (dataclasses.replace(BUY, validity=Validity.TTL, validity_ttl=1), "validity_ttl", None),
        (dataclasses.replace(BUY, validity=Validity.TTL, validity_ttl=1), "validity_ttl", -1),
        (dataclasses.replace(BUY, exchange="MCX"), "validity", Validity.IOC),
    ],
)
def test_a_wrong_order_is_refused_with_field_value_and_rule(
    start: OrderRequest, field: str, value: Any
) -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.check_order(dataclasses.replace(start, **{field: value}))
    error = refused.value
    assert (error.code, error.field) == ("INVALID_FIELD", f"order.{field}")
    assert error.value is value
    assert error.rule.startswith("must be ")
    shown = repr(value) if isinstance(value, int | None) else repr(str(value))
    assert f"order.{field}={shown}: must be " in str(error)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("quantity", {"quantity": 0}),
        ("price", {"price": Decimal(-1)}),
        ("price", {"price": Decimal("NaN")}),
        ("trigger_price", {"trigger_price": Decimal("0.00001")}),
        ("disclosed_quantity", {"disclosed_quantity": -1}),
        ("disclosed_quantity", {"disclosed_quantity": 2, "quantity": 1}),
        ("market_protection", {"order_type": OrderType.MARKET}),
        ("market_protection", {"market_protection": Decimal(1_000)}),
        ("market_protection", {"market_protection": Decimal("NaN")}),
        ("market_protection", {"market_protection": Decimal("sNaN")}),
        ("market_protection", {"order_type": OrderType.LIMIT, "market_protection": Decimal(1)}),
    ],
)
def test_a_wrong_change_is_refused_with_its_field(field: str, changed: dict[str, Any]) -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.check_change(OrderChange(**changed), SHARES)
    assert (refused.value.code, refused.value.field) == ("INVALID_FIELD", f"order.{field}")


def test_a_change_of_nothing_is_refused() -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.check_change(OrderChange(), BUY)
    assert (refused.value.code, refused.value.field) == ("INVALID_FIELD", "order")


@pytest.mark.parametrize(
    ("placed", "field", "changed"),
    [
        (BUY, "disclosed_quantity", {"disclosed_quantity": 25}),
        (BUY, "validity", {"validity": Validity.TTL}),
        (dataclasses.replace(BUY, exchange="MCX"), "validity", {"validity": Validity.IOC}),
    ],
)
def test_a_change_keeps_to_the_rules_of_the_order_it_changes(
    placed: OrderRequest, field: str, changed: dict[str, Any]
) -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.check_change(OrderChange(**changed), placed)
    assert refused.value.field == f"order.{field}"
    admit.check_change(OrderChange(disclosed_quantity=25, validity=Validity.IOC), SHARES)


NUMBERS = st.none() | st.decimals(allow_nan=True, allow_infinity=True)


@given(
    st.sampled_from(OrderType),
    st.sampled_from(Validity),
    st.integers() | st.just(75),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
def test_whatever_is_asked_the_answer_is_yes_or_a_refusal(
    order_type: OrderType,
    validity: Validity,
    quantity: int,
    price: Decimal | None,
    trigger: Decimal | None,
    protection: Decimal | None,
) -> None:
    order = dataclasses.replace(
        BUY,
        order_type=order_type,
        validity=validity,
        quantity=quantity,
        price=price,
        trigger_price=trigger,
        market_protection=protection,
    )
    try:
        admit.check_order(order)
    except OrderRefused:
        return
    assert 0 < quantity <= admit.QUANTITY_MAX
    assert all(value is None or 0 < value <= admit.PRICE_MAX for value in (price, trigger))
