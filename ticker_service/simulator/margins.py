"""What an order needs, what an account has left, and Kite's margin rows. Pure.

A simple model, stated in docs/simulator.md: delivery and option premium are paid in full, futures
and sold options block a share of their notional value, intraday shares a fifth. Source of the
fields: kite.md §2.2.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.simulator import positions
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.order import Product, Side

if TYPE_CHECKING:
    from ticker_service.simulator.accounts import Account
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.order import Order, OrderTerms
    from ticker_service.simulator.positions import Position

FUTURE_RATIO: Final = Decimal("0.12")
SOLD_OPTION_RATIO: Final = Decimal("0.12")
INTRADAY_RATIO: Final = Decimal("0.2")
SEGMENTS: Final = ("equity", "commodity")
DELIVERY: Final = frozenset({Product.CNC, Product.MTF})
INTRADAY: Final = frozenset({Product.MIS, Product.CO})
PAISE_PLACES: Final = 2


def required_inr(
    market: Market, terms: OrderTerms, *, quantity: int, held_quantity: int
) -> Decimal:
    """Return what an order blocks while it waits, rupees.

    Args:
        market: Prices and instruments.
        terms: The order.
        quantity: How much of it is still open.
        held_quantity: The net position in its instrument and product; closing it needs nothing,
            except that bought options are always paid for.
    """
    row, catalogue = terms.row, market.catalogue
    price_raw = terms.price_raw or terms.trigger_raw
    price = positions.inr(market, row, price_raw) * positions.multiplier(market, row)
    if catalogue.is_option[row] and terms.side is Side.BUY:
        return price * quantity
    against = -held_quantity if terms.side is Side.BUY else held_quantity
    opening = quantity - min(quantity, max(0, against))
    if catalogue.is_option[row]:
        return Decimal(int(catalogue.strike_inr[row])) * opening * SOLD_OPTION_RATIO
    if catalogue.is_derivative[row]:
        return price * opening * FUTURE_RATIO
    if terms.product in INTRADAY:
        return price * opening * INTRADAY_RATIO
    return price * quantity if terms.side is Side.BUY else Decimal(0)


def check(market: Market, account: Account, terms: OrderTerms, *, without: str = "") -> None:
    """Raise Kite's error unless the account can bear the order.

    Args:
        market: Prices and instruments.
        account: Whose order it is.
        terms: The order, or its new terms.
        without: The order that these terms would replace.

    Raises:
        KiteError: Funds or holdings do not suffice.
    """
    _check_holdings(market, account, terms, without=without)
    filled = account.orders[without].filled_quantity if without else 0
    needed = required_inr(
        market,
        terms,
        quantity=max(terms.quantity - filled, 0),
        held_quantity=account.held(terms.row, terms.product),
    )
    available = available_inr(market, account, without=without)
    if needed > available:
        raise KiteError.margin(
            f"Insufficient funds. Required margin is {needed:.2f} but available margin is "
            f"{available:.2f}. Check the orderbook for open orders."
        )


def order_row(market: Market, account: Account, terms: OrderTerms) -> dict[str, object]:
    """Return one row of ``/margins/orders``: what an order would block if it came now.

    All of it is told as ``total``, and once more under the name that Kite has for its kind. There
    is neither leverage nor a charge in this model.
    """
    catalogue, instrument = market.catalogue, market.catalogue.instruments[terms.row]
    held = account.held(terms.row, terms.product)
    needed = required_inr(market, terms, quantity=terms.quantity, held_quantity=held)
    kind = "var"
    if catalogue.is_option[terms.row] and terms.side is Side.BUY:
        kind = "option_premium"
    elif catalogue.is_derivative[terms.row]:
        kind = "span"
    parts = ("span", "exposure", "option_premium", "additional", "bo", "cash", "var")
    return {
        "type": "equity",
        "tradingsymbol": instrument.tradingsymbol,
        "exchange": instrument.exchange,
        **{name: _paise(needed) if name == kind else 0 for name in parts},
        "pnl": {"realised": 0, "unrealised": 0},
        "total": _paise(needed),
    }


def block(market: Market, account: Account, order: Order) -> None:
    """Let an order block what it needs now; nothing once it has ended."""
    needed = Decimal(0)
    if not order.is_terminal:
        needed = required_inr(
            market,
            order.asked,
            quantity=max(order.asked.quantity - order.filled_quantity, 0),
            held_quantity=account.held(order.terms.row, order.terms.product),
        )
    account.block(order.order_id, needed)


def block_beside(market: Market, account: Account, order: Order) -> None:
    """After a fill, let every order in the same position block what it needs now."""
    for each in account.working.values():
        if each.terms.row == order.terms.row and each.terms.product is order.terms.product:
            block(market, account, each)


def available_inr(market: Market, account: Account, *, without: str = "") -> Decimal:
    """Return the cash that is neither spent nor blocked, rupees."""
    used = _used(market, account, without=without)
    return account.opening_cash_inr - used["debits"] + used["m2m_realised"]


def segment_row(market: Market, account: Account, segment: str) -> dict[str, object]:
    """Return one segment of ``/user/margins``; all trading here is in the equity segment."""
    opening, used = account.opening_cash_inr, _used(market, account)
    if segment != "equity":
        opening, used = Decimal(0), dict.fromkeys(used, Decimal(0))
    live = opening - used["debits"] + used["m2m_realised"]
    return {
        "enabled": True,
        "net": _paise(live),
        "available": {
            "adhoc_margin": 0,
            "cash": _paise(opening),
            "opening_balance": _paise(opening),
            "live_balance": _paise(live),
            "collateral": 0,
            "intraday_payin": 0,
        },
        "utilised": {
            **{name: _paise(each) for name, each in used.items()},
            "payout": 0,
            "holding_sales": 0,
            "turnover": 0,
            "liquid_collateral": 0,
            "stock_collateral": 0,
            "equity": 0,
        },
    }


def _used(market: Market, account: Account, *, without: str = "") -> dict[str, Decimal]:
    """Return the parts of what is in use; ``debits`` is their sum without profit and loss."""
    used = dict.fromkeys(
        ("debits", "exposure", "m2m_realised", "m2m_unrealised", "option_premium", "span"),
        Decimal(0),
    )
    used["delivery"] = Decimal(0)
    for position in account.positions.values():
        _add_position(market, position, used)
    used["exposure"] = account.blocked_inr - account.blocked_by(without)
    used["debits"] = used["exposure"] + used["option_premium"] + used["span"] + used["delivery"]
    return used


def _add_position(market: Market, position: Position, used: dict[str, Decimal]) -> None:
    row, catalogue = position.row, market.catalogue
    units = positions.multiplier(market, row)
    spent = positions.inr(market, row, position.buy_value_raw - position.sell_value_raw) * units
    if catalogue.is_option[row]:
        used["option_premium"] += spent
        short = max(-position.quantity, 0)
        used["span"] += Decimal(int(catalogue.strike_inr[row])) * short * SOLD_OPTION_RATIO
        return
    if position.product in DELIVERY:
        used["delivery"] += spent
        return
    ratio = FUTURE_RATIO if catalogue.is_derivative[row] else INTRADAY_RATIO
    cost = positions.inr(market, row, abs(position.open_value_raw)) * units
    last = positions.inr(market, row, int(market.board.ltp_raw[row])) * units
    signed_cost = positions.inr(market, row, position.open_value_raw) * units
    used["span"] += cost * ratio
    used["m2m_realised"] += positions.inr(market, row, position.realised_raw) * units
    used["m2m_unrealised"] += position.quantity * last - signed_cost


def _check_holdings(market: Market, account: Account, terms: OrderTerms, *, without: str) -> None:
    if terms.side is not Side.SELL or terms.product not in DELIVERY:
        return
    filled = account.orders[without].filled_quantity if without else 0
    waiting = sum(
        order.open_quantity
        for order in account.working.values()
        if order.order_id != without
        and order.terms.row == terms.row
        and order.terms.side is Side.SELL
        and order.terms.product is terms.product
    )
    held = account.held(terms.row, terms.product)
    owned = account.holding_quantity(terms.row) if terms.product is Product.CNC else 0
    symbol = market.catalogue.instruments[terms.row].tradingsymbol
    if terms.quantity - filled > held + owned - waiting:
        raise KiteError.holding(
            f"Insufficient stock holding in {symbol}. Check the orderbook for open orders."
        )


def _paise(value: Decimal) -> float:
    return float(round(value, PAISE_PLACES))
