"""Orders as values: what goes into the journal comes back, and a price is the digits written."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain.order import (
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    Side,
    TaskKind,
    Validity,
    Variety,
    body_sha256,
    change_from_fields,
    request_from_fields,
    routed_variety,
    says_the_same,
    to_fields,
)

PRICES = st.decimals(min_value="0.0001", max_value="10000000", places=4)
QUANTITIES = st.integers(min_value=1, max_value=10_000_000)
REQUESTS = st.builds(
    OrderRequest,
    exchange=st.sampled_from(["NSE", "NFO", "MCX"]),
    tradingsymbol=st.text(min_size=1, max_size=30),
    transaction_type=st.sampled_from(Side),
    order_type=st.sampled_from(OrderType),
    product=st.sampled_from(Product),
    quantity=QUANTITIES,
    variety=st.sampled_from(Variety),
    validity=st.sampled_from(Validity),
    price=st.none() | PRICES,
    trigger_price=st.none() | PRICES,
    disclosed_quantity=st.none() | QUANTITIES,
    validity_ttl=st.none() | st.integers(1, 1_440),
    market_protection=st.none() | PRICES,
    iceberg_legs=st.none() | st.integers(2, 50),
    iceberg_quantity=st.none() | QUANTITIES,
    auction_number=st.none() | st.from_regex(r"[0-9]{1,20}", fullmatch=True),
)
CHANGES = st.builds(
    OrderChange,
    order_type=st.none() | st.sampled_from(OrderType),
    quantity=st.none() | QUANTITIES,
    price=st.none() | PRICES,
    trigger_price=st.none() | PRICES,
    validity=st.none() | st.sampled_from(Validity),
    disclosed_quantity=st.none() | QUANTITIES,
    market_protection=st.none() | PRICES,
)


@given(REQUESTS)
def test_an_order_comes_back_from_its_form_as_it_was(request: OrderRequest) -> None:
    assert request_from_fields(to_fields(request)) == request


@given(CHANGES)
def test_a_change_comes_back_from_its_form_as_it_was(change: OrderChange) -> None:
    assert change_from_fields(to_fields(change)) == change


def test_an_order_that_an_earlier_release_journalled_is_still_read() -> None:
    form = {
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "order_type": "LIMIT",
        "product": "CNC",
        "quantity": "1",
        "variety": "regular",
        "validity": "DAY",
        "price": "100.50",
    }
    assert to_fields(request_from_fields(form)) == form


@pytest.mark.parametrize(
    ("variety", "status", "filled", "routed"),
    [
        ("regular", "OPEN", 0, Variety.REGULAR),
        ("auction", "OPEN", 0, Variety.AUCTION),
        ("amo", None, 0, Variety.AMO),
        ("amo", "VALIDATION PENDING", 0, Variety.AMO),
        ("amo", "AMO REQ RECEIVED", 0, Variety.AMO),
        ("amo", "MODIFIED", 0, Variety.AMO),
        ("amo", "OPEN PENDING", 0, Variety.REGULAR),
        ("amo", "OPEN", 0, Variety.REGULAR),
        ("amo", "TRIGGER PENDING", 0, Variety.REGULAR),
        ("amo", "UPDATE", 1, Variety.REGULAR),
    ],
)
def test_an_after_market_order_at_the_exchange_is_changed_as_a_regular_one(
    variety: str, status: str | None, filled: int, routed: Variety
) -> None:
    task: Any = SimpleNamespace(
        body={"variety": variety}, broker_status=status, filled_quantity=filled
    )
    assert routed_variety(task) is routed


@pytest.mark.parametrize(
    ("price", "written"),
    [
        ("100.05", "100.05"),
        ("100.50", "100.50"),
        ("1E+3", "1000"),
        ("1E-4", "0.0001"),
        ("0.00010", "0.00010"),
        ("12345678.9", "12345678.9"),
    ],
)
def test_a_price_is_written_in_digits_without_an_exponent(price: str, written: str) -> None:
    assert to_fields(OrderChange(price=Decimal(price))) == {"price": written}


def test_what_is_not_given_is_not_in_the_form() -> None:
    assert to_fields(OrderChange()) == {}


@given(CHANGES, CHANGES)
def test_two_bodies_have_one_digest_only_if_they_say_the_same(
    one: OrderChange, other: OrderChange
) -> None:
    forms = to_fields(one), to_fields(other)
    digests = [body_sha256(form) for form in forms]
    assert (digests[0] == digests[1]) is (forms[0] == forms[1])


def test_the_order_of_fields_does_not_change_the_digest() -> None:
    assert body_sha256({"a": "1", "b": "2"}) == body_sha256({"b": "2", "a": "1"})


def test_a_price_written_in_another_way_is_the_same_request_and_another_price_is_not() -> None:
    def ask(price: str, **changed: Any) -> Any:
        values = {
            "kind": TaskKind.PLACE,
            "account": "MAIN",
            "account_group": None,
            "client_order_id": "k",
            "target_task_id": None,
            "body": {"price": price, "quantity": "10"},
        }
        return SimpleNamespace(**values | changed, body_sha256=body_sha256({"price": price}))

    known = ask("100.40")
    assert says_the_same(known, ask("100.4"))
    assert not says_the_same(known, ask("100.41"))
    assert not says_the_same(known, ask("100.40", account="SPARE"))
    assert not says_the_same(known, ask("100.4", body={"price": "100.4"}))
    assert not says_the_same(known, ask("100.4", body={"price": "100.4", "quantity": "1"}))
    # Where the caller left the account open it is no part of what was asked.
    known = ask("100.40", account_group="PAIR")
    assert says_the_same(known, ask("100.4", account_group="PAIR", account="SPARE"))
    assert not says_the_same(known, ask("100.4", account_group="TRIO"))
    assert not says_the_same(known, ask("100.4"))
    # A change goes where its order is.
    change = ask("100.40", kind=TaskKind.MODIFY)
    assert says_the_same(change, ask("100.40", kind=TaskKind.MODIFY, account="SPARE"))
    assert not says_the_same(change, ask("100.40", kind=TaskKind.MODIFY, client_order_id="j"))
