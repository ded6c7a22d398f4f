"""What strictly reduces a position: nothing that could flip it, whatever fills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain.closing import Closing, UnderWay, closing, key_of, nearest_to_zero
from ticker_service.domain.order import Side
from ticker_service.domain.portfolio import PositionKey

KEY = PositionKey("NFO", "NIFTY26NOVFUT", "NRML")
SIDES = st.sampled_from(list(Side))
UNITS = st.integers(0, 300)


@st.composite
def under_way(draw: st.DrawFn) -> UnderWay:
    most = draw(UNITS)
    return UnderWay(key=KEY, side=draw(SIDES), most=most, counted=draw(st.integers(0, most)))


def signed(side: Side, quantity: int) -> int:
    return quantity if side is Side.BUY else -quantity


@given(
    quantity=st.integers(-300, 300),
    orders=st.lists(under_way(), max_size=6),
    side=SIDES,
    asked=st.integers(1, 300),
    data=st.data(),
)
def test_what_reduces_never_flips_the_position_whatever_of_it_and_of_the_others_fills(
    quantity: int, orders: list[UnderWay], side: Side, asked: int, data: st.DataObject
) -> None:
    held = closing(KEY, quantity, orders)
    if held.refusal(side, asked):
        return
    after = quantity + signed(side, data.draw(st.integers(1, asked)))
    assert abs(after) < abs(quantity)
    for order in orders:
        if order.side is side:
            after += signed(side, data.draw(st.integers(0, order.left)))
    assert after * quantity >= 0


@given(quantity=st.integers(1, 300), orders=st.lists(under_way(), max_size=6))
def test_exactly_what_is_left_over_may_be_sent(quantity: int, orders: list[UnderWay]) -> None:
    held = closing(KEY, quantity, orders)
    if held.room:
        assert not held.refusal(Side.SELL, held.room)
    assert held.refusal(Side.SELL, held.room + 1)


def test_the_wrong_side_is_refused_with_the_numbers() -> None:
    assert closing(KEY, 75, []).refusal(Side.BUY, 75) == (
        "NFO:NIFTY26NOVFUT:NRML has a net position of 75, which BUY does not reduce"
    )


def test_too_much_is_refused_with_the_numbers() -> None:
    orders = [UnderWay(key=KEY, side=Side.BUY, most=50, counted=20)]
    assert closing(KEY, -75, orders).refusal(Side.BUY, 50) == (
        "NFO:NIFTY26NOVFUT:NRML has a net position of -75, of which 30 are being closed already: "
        "BUY 50 could come to more than the 45 that are left"
    )


def test_what_is_under_way_of_another_product_or_on_the_other_side_takes_no_room() -> None:
    others = [
        UnderWay(key=KEY._replace(product="MIS"), side=Side.SELL, most=75),
        UnderWay(key=KEY, side=Side.BUY, most=75),
    ]
    assert closing(KEY, 75, others).room == 75


@pytest.mark.parametrize("product", ["CNC", "MTF"])
def test_what_was_sold_out_of_the_holdings_is_no_short_position(product: str) -> None:
    sold = Closing(key=PositionKey("NSE", "INFY", product), quantity=-10)
    assert sold.side is None
    assert sold.refusal(Side.BUY, 10)
    assert Closing(key=sold.key, quantity=10).side is Side.SELL


@pytest.mark.parametrize(
    ("quantity", "other", "agreed"),
    [(75, 75, 75), (75, 50, 50), (-75, -100, -75), (75, -75, 0), (75, 0, 0), (0, 0, 0)],
)
def test_of_two_readings_what_both_say_is_held(quantity: int, other: int, agreed: int) -> None:
    assert nearest_to_zero(quantity, other) == agreed


def test_the_position_of_a_cover_order_is_apart() -> None:
    body = {"exchange": "NFO", "tradingsymbol": " nifty26novfut", "product": "MIS"}
    assert key_of(body) == PositionKey("NFO", "NIFTY26NOVFUT", "MIS")
    assert key_of(body | {"variety": "co"}).product == "CO"
