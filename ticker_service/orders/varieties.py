"""What each variety of Kite asks of an order beside what is asked of all. Pure.

Path: order -> [admit] -> journal -> execute -> settle -> report. Source: kite.md §2.3. Where Kite
does not say what it does with a form, it is refused here rather than tried with money.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ticker_service.domain.order import OrderType, Product, Side, Validity, Variety
from ticker_service.errors import OrderRefused

if TYPE_CHECKING:
    from ticker_service.domain.order import OrderChange, OrderRequest

SHARES: Final = frozenset({"NSE", "BSE"})
AUCTION_CHARACTERS_MAX: Final = 20
ICEBERG_LEGS_MIN: Final = 2
ICEBERG_LEGS_MAX: Final = 50
_ICEBERG_FIELDS: Final = ("iceberg_legs", "iceberg_quantity")
_LEGGED: Final = frozenset({Variety.CO, Variety.ICEBERG})
_CHANGED_IN_LEGS: Final = frozenset({"price", "trigger_price"})


def check_variety(order: OrderRequest) -> None:
    """Check the fields that a variety brings; no other may bring them.

    Raises:
        OrderRefused: With the first rule it breaks.
    """
    if order.variety is Variety.CO:
        _check_cover(order)
    if order.variety is Variety.ICEBERG:
        _check_iceberg(order)
    else:
        for field in _ICEBERG_FIELDS:
            value = getattr(order, field)
            if value is not None:
                raise invalid_field(field, value, "left out: it belongs to variety iceberg")
    _check_auction(order)


def check_change_of_variety(change: OrderChange, placed: OrderRequest) -> None:
    """Check what of an order with legs may be changed.

    Raises:
        OrderRefused: It sets what its variety does not let be changed.
    """
    if placed.variety not in _LEGGED:
        return
    given = [name for name in change.__slots__ if getattr(change, name) is not None]
    for field in given:
        if field not in _CHANGED_IN_LEGS:
            rule = f"left out: of variety {placed.variety} price and trigger_price are changed only"
            raise invalid_field(field, getattr(change, field), rule)
    if placed.variety is Variety.CO and len(given) > 1:
        # The price is the first leg's and the trigger the second's: two orders, two requests.
        rule = "given without price: they are of two legs, and one request changes one"
        raise invalid_field("trigger_price", change.trigger_price, rule)


def leg_quantity(order: OrderRequest) -> int:
    """Return how much of an order comes to the exchange at once."""
    return order.iceberg_quantity or order.quantity


def invalid_field(field: str, value: object, rule: str) -> OrderRefused:
    """Return the refusal of one field of an order."""
    return OrderRefused("INVALID_FIELD", f"must be {rule}", field=f"order.{field}", value=value)


def _check_cover(order: OrderRequest) -> None:
    if order.product is not Product.MIS:
        raise invalid_field("product", order.product, "MIS for variety co")
    if order.order_type not in {OrderType.LIMIT, OrderType.MARKET}:
        raise invalid_field("order_type", order.order_type, "LIMIT or MARKET for variety co")
    if order.validity is not Validity.DAY:
        raise invalid_field("validity", order.validity, "DAY for variety co")
    if order.disclosed_quantity:
        raise invalid_field("disclosed_quantity", order.disclosed_quantity, "0 for variety co")
    trigger, price = order.trigger_price, order.price
    if trigger is None:
        rule = "given for variety co: it is where its second leg stops the loss"
        raise invalid_field("trigger_price", trigger, rule)
    if price is None or not (trigger.is_finite() and price.is_finite()):
        return  # of a market order the broker knows the price; the rest is said of all orders
    is_beyond = trigger < price if order.transaction_type is Side.BUY else trigger > price
    if not is_beyond:
        where = "below" if order.transaction_type is Side.BUY else "above"
        rule = f"{where} price={price:f} for a {order.transaction_type} of variety co"
        raise invalid_field("trigger_price", trigger, rule)


def _check_iceberg(order: OrderRequest) -> None:
    legs, each = order.iceberg_legs, order.iceberg_quantity
    if legs is None or not ICEBERG_LEGS_MIN <= legs <= ICEBERG_LEGS_MAX:
        rule = f"{ICEBERG_LEGS_MIN} to {ICEBERG_LEGS_MAX} for variety iceberg"
        raise invalid_field("iceberg_legs", legs, rule)
    if each is None or each * legs != order.quantity:
        # How Kite cuts what does not come out even is not known.
        rule = f"quantity / iceberg_legs, so that quantity={order.quantity} is {legs} such legs"
        raise invalid_field("iceberg_quantity", each, rule)
    if order.validity is Validity.IOC:
        raise invalid_field("validity", order.validity, "DAY or TTL for variety iceberg")
    if order.disclosed_quantity:
        raise invalid_field("disclosed_quantity", order.disclosed_quantity, "0: its legs hide it")


def _check_auction(order: OrderRequest) -> None:
    auction = order.auction_number
    if (order.variety is Variety.AUCTION) != (auction is not None):
        raise invalid_field("auction_number", auction, "given for variety auction, and only for it")
    if auction is None:
        return
    if not (auction.isascii() and auction.isdecimal() and len(auction) <= AUCTION_CHARACTERS_MAX):
        raise invalid_field("auction_number", auction, "digits, from /portfolio/holdings/auctions")
    if order.exchange not in SHARES:
        raise invalid_field("exchange", order.exchange, "NSE or BSE for variety auction")
