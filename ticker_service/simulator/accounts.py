"""One user's day at the broker: orders, trades, positions, holdings, cash."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.simulator.order import Product, Side
from ticker_service.simulator.positions import Holding, Position

if TYPE_CHECKING:
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.order import Order, Trade

# Shares every user owns when the day begins: symbol and quantity.
OPENING_HOLDINGS: Final = (("INFY", 50), ("SBIN", 200), ("M&M", 25))
COST_RATIO: Final = Decimal("0.9")
"""They were bought at this share of yesterday's close."""


class Account:
    """Written to by the exchange alone.

    Attributes:
        orders: By order_id, in the order of their arrival.
        working: Those of them that are not terminal.
        blocked_inr: What those block together; kept as a sum, since every order asks for it.
        trades: Oldest first.
        positions: By row and product.
        holdings: What the user owned before the day began.
    """

    def __init__(self, user_id: str, market: Market, *, cash_inr: int) -> None:
        self.user_id = user_id
        self.opening_cash_inr = Decimal(cash_inr)
        self.orders: dict[str, Order] = {}
        self.working: dict[str, Order] = {}
        self.blocked_inr = Decimal(0)
        self._blocked_inr: dict[str, Decimal] = {}
        self.trades: list[Trade] = []
        self.positions: dict[tuple[int, Product], Position] = {}
        self.holdings = tuple(_opening_holdings(market))

    def book(self, trade: Trade) -> None:
        """Take a fill into the trade book and the position."""
        self.trades.append(trade)
        key = (trade.row, trade.product)
        if key not in self.positions:
            self.positions[key] = Position(row=trade.row, product=trade.product)
        self.positions[key].add(trade)

    def blocked_by(self, order_id: str) -> Decimal:
        """Return what one order blocks, rupees."""
        return self._blocked_inr.get(order_id, Decimal(0))

    def block(self, order_id: str, amount_inr: Decimal) -> None:
        """Let an order block so much from now on, instead of what it did."""
        self.blocked_inr += amount_inr - self._blocked_inr.pop(order_id, Decimal(0))
        if amount_inr:
            self._blocked_inr[order_id] = amount_inr

    def held(self, row: int, product: Product) -> int:
        """Return the net quantity traded today in an instrument and product."""
        position = self.positions.get((row, product))
        return position.quantity if position else 0

    def holding_quantity(self, row: int) -> int:
        """Return what the user owned of an instrument before the day began."""
        return sum(each.quantity for each in self.holdings if each.row == row)

    def used_quantity(self, row: int) -> int:
        """Return how much of a holding has been sold today."""
        sold = sum(
            trade.quantity if trade.side is Side.SELL else -trade.quantity
            for trade in self.trades
            if trade.row == row and trade.product is Product.CNC
        )
        return min(max(sold, 0), self.holding_quantity(row))


def _opening_holdings(market: Market) -> list[Holding]:
    holdings = []
    for symbol, quantity in OPENING_HOLDINGS:
        row = market.catalogue.row_by_key[f"NSE:{symbol}"]
        step_raw = int(market.catalogue.price_step_raw[row])
        cost_steps = int(int(market.board.close_raw[row]) * COST_RATIO / step_raw)
        holdings.append(Holding(row=row, quantity=quantity, average_raw=cost_steps * step_raw))
    return holdings
