"""Rows as Kite's order and trade books show them, and its order updates. Pure.

Source: kite.md §2.4 and §2.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.simulator import legs, quotes
from ticker_service.simulator.order import Order, OrderType, Status, Trade

if TYPE_CHECKING:
    from ticker_service.simulator.market import Market

APP_ID: Final = 1_001


def order_row(market: Market, order: Order, now_ns: int) -> dict[str, object]:
    """Return the order in its present state as a row of the book."""
    terms, instrument = order.terms, market.catalogue.instruments[order.terms.row]
    return {
        "account_id": order.user_id,
        "placed_by": order.user_id,
        "order_id": order.order_id,
        "exchange_order_id": order.exchange_order_id,
        "parent_order_id": order.parent_order_id,
        "status": order.status,
        "status_message": order.status_message,
        "status_message_raw": order.status_message,
        "order_timestamp": _ist(now_ns),
        "exchange_update_timestamp": _ist(order.exchange_update_ns),
        "exchange_timestamp": _ist(order.exchange_ns),
        "variety": terms.variety,
        "modified": order.is_modified,
        "exchange": instrument.exchange,
        "tradingsymbol": instrument.tradingsymbol,
        "instrument_token": instrument.instrument_token,
        "order_type": _order_type(order),
        "transaction_type": terms.side,
        "validity": terms.validity,
        "validity_ttl": terms.validity_ttl,
        "product": terms.product,
        "quantity": terms.quantity,
        "disclosed_quantity": terms.disclosed_quantity,
        "price": quotes.scaled(market, terms.row, terms.price_raw),
        "trigger_price": quotes.scaled(market, terms.row, terms.trigger_raw or terms.stop_raw),
        "average_price": average_inr(market, order),
        "filled_quantity": order.filled_quantity,
        "pending_quantity": order.open_quantity,
        "cancelled_quantity": order.cancelled_quantity,
        # As at Kite, whose book shows 0 once the order has become a limit at the band.
        "market_protection": 0,
        "meta": legs.meta(terms),
        "auction_number": terms.auction_number,
        "tag": terms.tag,
        "tags": list(terms.tags),
        "guid": order.guid,
    }


def trade_row(market: Market, trade: Trade) -> dict[str, object]:
    """Return a fill as a row of the trade book."""
    instrument = market.catalogue.instruments[trade.row]
    filled, ordered = _ist(trade.at_ns), _ist(trade.ordered_ns) or ""
    return {
        "trade_id": trade.trade_id,
        "order_id": trade.order_id,
        "exchange_order_id": trade.exchange_order_id,
        "exchange": instrument.exchange,
        "tradingsymbol": instrument.tradingsymbol,
        "instrument_token": instrument.instrument_token,
        "product": trade.product,
        "average_price": quotes.scaled(market, trade.row, trade.price_raw),
        "quantity": trade.quantity,
        "transaction_type": trade.side,
        "fill_timestamp": filled,
        # Kite gives the time of day alone here.
        "order_timestamp": ordered[-len("HH:MM:SS") :],
        "exchange_timestamp": filled,
    }


def update(row: dict[str, object], status: Status) -> dict[str, object]:
    """Return an order update about a row of the book; its checksum is blank on sockets."""
    return {
        "user_id": row["account_id"],
        "unfilled_quantity": row["pending_quantity"],
        "app_id": APP_ID,
        "checksum": "",
        **row,
        "status": status,
    }


def average_inr(market: Market, order: Order) -> float:
    """Return the mean price of an order's fills, rupees; 0 without any."""
    if order.filled_quantity == 0:
        return 0.0
    scale = int(market.catalogue.price_scale[order.terms.row])
    return round(order.filled_value_raw / (order.filled_quantity * scale), quotes.DECIMALS_MAX)


def _order_type(order: Order) -> OrderType:
    # A stop without a limit of its own has become a limit at the band once triggered.
    if order.terms.order_type is OrderType.SL_M and order.is_triggered:
        return OrderType.LIMIT
    return order.terms.order_type


def _ist(at_ns: int) -> str | None:
    if at_ns == 0:
        return None
    return f"{session.from_instant_ns(at_ns // NS_PER_S * NS_PER_S):%Y-%m-%d %H:%M:%S}"
