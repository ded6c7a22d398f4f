"""What is refused before there is an order, with Kite's types and words."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from order_stage import form

from ticker_service.simulator import quotes
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.matching import automatic_protection
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.order import OrderType
from ticker_service.simulator.order_rules import OrderRules

if TYPE_CHECKING:
    from order_stage import OrderStage

    from ticker_service.simulator.market import Market

NO_INSTRUMENT = "has either expired or does not exist"
NO_PROTECTION = (
    "Market orders without market protection are not allowed via API. "
    "Please set market protection or use a Limit order."
)


def _refusal(stage: OrderStage, fields: dict[str, str], variety: str = "regular") -> KiteError:
    with pytest.raises(KiteError) as caught:
        stage.rules.placed(variety, fields)
    assert (caught.value.status_code, caught.value.error_type) == (400, "InputException")
    return caught.value


@pytest.mark.parametrize(
    "name",
    ["exchange", "tradingsymbol", "transaction_type", "order_type", "quantity", "product", "price"],
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_field_is_named(stage: OrderStage, name: str, value: str | None) -> None:
    assert f"`{name}`" in _refusal(stage, form(**{name: value})).message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exchange": "NYSE"}, "Invalid `exchange`."),
        ({"tradingsymbol": "NOSUCH"}, NO_INSTRUMENT),
        ({"tradingsymbol": "NIFTY 50"}, NO_INSTRUMENT),
        ({"exchange": "BSE"}, NO_INSTRUMENT),
        ({"transaction_type": "HOLD"}, "Invalid `transaction_type`."),
        ({"order_type": "STOP"}, "Invalid `order_type`."),
        ({"product": "BO"}, "Invalid `product`."),
        ({"product": "NRML"}, "NRML is not allowed for equity"),
        ({"validity": "GTC"}, "Invalid `validity`."),
        ({"validity": "TTL"}, "`validity_ttl`"),
        ({"validity": "TTL", "validity_ttl": "0"}, "Invalid `validity_ttl`."),
        ({"validity": "TTL", "validity_ttl": "1441"}, "Invalid `validity_ttl`."),
        ({"exchange": "MCX", "validity": "IOC"}, "IOC orders are not allowed on MCX"),
        ({"quantity": "0"}, "Invalid `quantity`."),
        ({"quantity": "-1"}, "failed to decode quantity"),
        ({"quantity": "1.5"}, "failed to decode quantity"),
        ({"quantity": "٣"}, "failed to decode quantity"),
        ({"quantity": "9" * 30}, "failed to decode quantity"),
        ({"quantity": "100001"}, "exceeds the freeze quantity of 100000"),
        ({"price": "0"}, "Invalid `price`."),
        ({"price": "-99"}, "Invalid `price`."),
        ({"price": "cheap"}, "failed to decode price"),
        ({"price": "9_9"}, "failed to decode price"),
        ({"price": " 99"}, "failed to decode price"),
        ({"price": "٩٩"}, "failed to decode price"),
        ({"price": "NaN"}, "failed to decode price"),
        ({"price": "Infinity"}, "failed to decode price"),
        ({"price": "1e400"}, "failed to decode price"),
        ({"price": "99.02"}, "Tick size for this script is 0.05. Kindly enter price in"),
        ({"price": "79.95"}, "Price exceeds circuit limits for the instrument."),
        ({"price": "120.05"}, "Price exceeds circuit limits for the instrument."),
        ({"disclosed_quantity": "2"}, "Invalid `disclosed_quantity`."),
        ({"tag": "x" * 21}, "Invalid `tag`."),
        ({"autoslice": "true", "quantity": "0"}, "Invalid `quantity`."),
    ],
)
def test_a_wrong_value_is_refused_with_its_reason(
    stage: OrderStage, changes: dict[str, object], message: str
) -> None:
    assert message in _refusal(stage, form(**changes)).message


@pytest.mark.parametrize("order_type", ["MARKET", "SL-M"])
@pytest.mark.parametrize("protection", [None, "0"])
def test_an_order_at_the_market_needs_protection(
    stage: OrderStage, order_type: str, protection: str | None
) -> None:
    fields = form(order_type=order_type, market_protection=protection, trigger_price="101")

    assert _refusal(stage, fields).message == NO_PROTECTION


def test_where_market_is_not_taken_neither_an_order_nor_a_change_to_it_is_and_a_limit_is(
    stage: OrderStage,
) -> None:
    rules = OrderRules(stage.market, SimulatorOptions(no_market=("NSE:INFY",)))
    fields = {"order_type": "MARKET", "market_protection": "-1"}
    rests = rules.placed("regular", form())
    for asks in (
        lambda: rules.placed("regular", form(**fields)),
        lambda: rules.modified(rests, fields),
    ):
        with pytest.raises(KiteError, match="Try placing a LIMIT order"):
            asks()
    assert rests.order_type is OrderType.LIMIT
    assert stage.rules.modified(rests, fields).order_type is OrderType.LIMIT


@pytest.mark.parametrize("protection", ["-2", "101", "-0.5"])
def test_protection_is_automatic_or_up_to_a_hundred_percent(
    stage: OrderStage, protection: str
) -> None:
    fields = form(order_type="MARKET", market_protection=protection)

    assert _refusal(stage, fields).message == "Invalid `market_protection`."


def test_protection_must_be_a_number(stage: OrderStage) -> None:
    fields = form(order_type="MARKET", market_protection="True")

    assert "failed to decode market_protection" in _refusal(stage, fields).message


@pytest.mark.parametrize(
    ("side", "trigger", "price", "message"),
    [
        ("BUY", "99.00", "101.00", "higher than the last traded price"),
        ("SELL", "101.00", "99.00", "lower than the last traded price"),
        ("BUY", "101.00", "100.95", "cannot be above the limit price"),
        ("SELL", "99.00", "99.05", "cannot be below the limit price"),
    ],
)
def test_a_stop_lies_on_its_side_of_the_market(
    stage: OrderStage, side: str, trigger: str, price: str, message: str
) -> None:
    fields = form(
        order_type="SL", transaction_type=side, trigger_price=trigger, price=price, product="MIS"
    )

    assert message in _refusal(stage, fields).message


def test_a_variety_that_kite_has_no_more_is_refused(stage: OrderStage) -> None:
    assert "variety" in _refusal(stage, form(), "bo").message


@pytest.mark.parametrize("number", [None, "", "x", "٢"])
def test_an_auction_order_names_its_auction(stage: OrderStage, number: str | None) -> None:
    assert "`auction_number`" in _refusal(stage, form(auction_number=number), "auction").message
    assert stage.rules.placed("auction", form(auction_number="22")).auction_number == "22"


def test_a_derivatives_quantity_is_whole_lots_up_to_the_freeze(stage: OrderStage) -> None:
    catalogue = stage.market.catalogue
    symbol = next(each.tradingsymbol for each in catalogue.instruments if each.segment == "NFO-FUT")
    fields = form(exchange="NFO", tradingsymbol=symbol, product="NRML", quantity="64")
    row = catalogue.row_by_key[f"NFO:{symbol}"]
    fields["price"] = f"{stage.market.last_price_inr[row]:.2f}"

    assert "multiples of lot size 65" in _refusal(stage, fields).message
    too_much = {**fields, "quantity": str(65 * 28)}
    assert "freeze quantity of 1800" in _refusal(stage, too_much).message
    assert "CNC is not allowed" in _refusal(stage, {**fields, "product": "CNC"}).message
    assert stage.rules.placed("regular", {**fields, "quantity": "65"}).quantity == 65


def test_a_price_step_below_a_paisa_is_written_out(stage: OrderStage) -> None:
    catalogue = stage.market.catalogue
    future = next(each for each in catalogue.instruments if each.segment == "CDS-FUT")
    fields = form(
        exchange="CDS", tradingsymbol=future.tradingsymbol, product="NRML", price="89.001"
    )

    assert "Tick size for this script is 0.0025." in _refusal(stage, fields).message


def test_twenty_characters_are_a_tag(stage: OrderStage) -> None:
    terms = stage.rules.placed("regular", form(tag="A" * 20))

    assert (terms.tag, terms.tags) == ("A" * 20, ("A" * 20,))


def test_a_changed_limit_becomes_a_market_order_only_with_protection(stage: OrderStage) -> None:
    asked = stage.rules.placed("regular", form(tag="mine"))
    with pytest.raises(KiteError, match="without market protection"):
        stage.rules.modified(asked, {"order_type": "MARKET"})

    terms = stage.rules.modified(asked, {"order_type": "MARKET", "market_protection": "1"})

    assert (terms.order_type, terms.price_raw) == (OrderType.LIMIT, 101_00)
    assert terms.tags == ("mine", "mktp:1.00")


def test_what_a_change_does_not_name_stays(stage: OrderStage) -> None:
    asked = stage.rules.placed(
        "regular",
        form(order_type="SL", trigger_price="101", price="101.10", quantity=7, tag="mine"),
    )

    terms = stage.rules.modified(asked, {"price": "101.20"})

    assert (terms.price_raw, terms.trigger_raw, terms.quantity) == (101_20, 101_00, 7)
    assert (terms.order_type, terms.tags) == (asked.order_type, ("mine",))


@pytest.mark.parametrize(
    ("price", "is_option", "percent"),
    [
        ("99.95", False, "2"),
        ("100", False, "1"),
        ("500", False, "0.5"),
        ("9.95", True, "5"),
        ("10", True, "3"),
        ("100", True, "2"),
        ("500", True, "1"),
    ],
)
def test_the_automatic_band_depends_on_the_price(
    price: str, percent: str, *, is_option: bool
) -> None:
    assert automatic_protection(Decimal(price), is_option=is_option) == Decimal(percent)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ltp=st.integers(1, 20_000).map(lambda steps: steps * 5),
    percent=st.decimals("0.01", "100", places=2),
    side=st.sampled_from(["BUY", "SELL"]),
)
def test_a_band_ends_on_the_price_step_and_never_outside(
    market: Market, ltp: int, percent: Decimal, side: str
) -> None:
    row = market.catalogue.row_by_key["NSE:INFY"]
    market.board.ltp_raw[row] = ltp
    fields = form(order_type="MARKET", market_protection=percent, transaction_type=side)

    price = OrderRules(market, SimulatorOptions()).placed("regular", fields).price_raw

    share = percent / 100
    assert price % 5 == 0
    assert price == 5 or (1 - share) * ltp <= price <= (1 + share) * ltp


def test_the_circuit_is_what_the_quote_says(stage: OrderStage) -> None:
    quote = quotes.full(stage.market, stage.row)

    assert (quote["lower_circuit_limit"], quote["upper_circuit_limit"]) == (80.0, 120.0)
    for price in ("80.00", "120.00"):
        assert stage.rules.placed("regular", form(price=price)).price_raw
