"""Positions and holdings from trades, in exact arithmetic. Pure.

Source: the fields of kite.md §2.2's portfolio routes as the official clients decode them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.simulator import quotes
from ticker_service.simulator.order import Product, Side

if TYPE_CHECKING:
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.order import Trade

# Contracts quoted per unit but traded in lots: the book counts lots, money counts units.
MULTIPLIERS: Final = {"USDINR": 1_000, "NATURALGAS": 1_250}
PLACES: Final = 6
MTF_FIELDS: Final = ("quantity", "used_quantity", "average_price", "value", "initial_margin")


@dataclass(slots=True, kw_only=True)
class Position:
    """What one user's trades in one instrument and product come to.

    Values are prices times quantities. ``open_value_raw`` is the cost of the open quantity, by
    average; ``realised_raw`` what closing trades made against it.
    """

    row: int
    product: Product
    buy_quantity: int = 0
    buy_value_raw: int = 0
    sell_quantity: int = 0
    sell_value_raw: int = 0
    open_value_raw: Decimal = Decimal(0)
    realised_raw: Decimal = Decimal(0)

    @property
    def quantity(self) -> int:
        """Net quantity; negative when short."""
        return self.buy_quantity - self.sell_quantity

    def add(self, trade: Trade) -> None:
        """Book one fill."""
        before = self.quantity
        signed = trade.quantity if trade.side is Side.BUY else -trade.quantity
        value_raw = trade.quantity * trade.price_raw
        if trade.side is Side.BUY:
            self.buy_quantity += trade.quantity
            self.buy_value_raw += value_raw
        else:
            self.sell_quantity += trade.quantity
            self.sell_value_raw += value_raw
        closing = min(abs(before), abs(signed)) if before * signed < 0 else 0
        if closing:
            cost_raw = self.open_value_raw * closing / abs(before)
            direction = 1 if before > 0 else -1
            self.realised_raw += direction * (closing * trade.price_raw - abs(cost_raw))
            self.open_value_raw -= cost_raw
        opening = trade.quantity - closing
        self.open_value_raw += (1 if signed > 0 else -1) * opening * trade.price_raw

    @property
    def average_raw(self) -> Decimal:
        """Mean cost of the open quantity; 0 when flat."""
        return self.open_value_raw / self.quantity if self.quantity else Decimal(0)


def multiplier(market: Market, row: int) -> int:
    """Return how many units one of the instrument's quantity stands for."""
    instrument = market.catalogue.instruments[row]
    return MULTIPLIERS.get(instrument.name, 1) if market.catalogue.is_derivative[row] else 1


def inr(market: Market, row: int, raw: Decimal | int) -> Decimal:
    """Return a price or value of the row's wire units in rupees."""
    return Decimal(raw) / int(market.catalogue.price_scale[row])


def position_row(market: Market, position: Position) -> dict[str, object]:
    """Return one line of ``/portfolio/positions``; everything here was traded today."""
    row, instrument = position.row, market.catalogue.instruments[position.row]
    units = multiplier(market, row)
    last = inr(market, row, int(market.board.ltp_raw[row]))
    bought = inr(market, row, position.buy_value_raw) * units
    sold = inr(market, row, position.sell_value_raw) * units
    realised = inr(market, row, position.realised_raw) * units
    value = sold - bought
    pnl = value + position.quantity * last * units
    buy_price = bought / (position.buy_quantity * units) if position.buy_quantity else Decimal(0)
    sell_price = sold / (position.sell_quantity * units) if position.sell_quantity else Decimal(0)
    day = {
        "buy_quantity": position.buy_quantity,
        "buy_price": number(buy_price),
        "buy_value": number(bought),
        "sell_quantity": position.sell_quantity,
        "sell_price": number(sell_price),
        "sell_value": number(sold),
    }
    return {
        "tradingsymbol": instrument.tradingsymbol,
        "exchange": instrument.exchange,
        "instrument_token": instrument.instrument_token,
        "product": position.product,
        "quantity": position.quantity,
        "overnight_quantity": 0,
        "multiplier": units,
        "average_price": number(inr(market, row, position.average_raw)),
        "close_price": 0,
        "last_price": number(last),
        "value": number(value),
        "pnl": number(pnl),
        "m2m": number(pnl),
        "unrealised": number(pnl - realised),
        "realised": number(realised),
        **day,
        "buy_m2m": day["buy_value"],
        "sell_m2m": day["sell_value"],
        **{f"day_{name}": each for name, each in day.items()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Shares a user owned before the day began."""

    row: int
    quantity: int
    average_raw: int


def holding_row(market: Market, holding: Holding, *, used_quantity: int) -> dict[str, object]:
    """Return one line of ``/portfolio/holdings``."""
    row, instrument = holding.row, market.catalogue.instruments[holding.row]
    average = inr(market, row, holding.average_raw)
    last = inr(market, row, int(market.board.ltp_raw[row]))
    close = inr(market, row, int(market.board.close_raw[row]))
    quoted_at = quotes.ist_text(int(market.board.exchange_s[row])) or ""
    return {
        "tradingsymbol": instrument.tradingsymbol,
        "exchange": instrument.exchange,
        "instrument_token": instrument.instrument_token,
        "isin": f"INE{instrument.exchange_token:06d}010",
        "product": Product.CNC,
        "price": 0,
        "quantity": holding.quantity - used_quantity,
        "used_quantity": used_quantity,
        "t1_quantity": 0,
        "realised_quantity": holding.quantity,
        "authorised_quantity": 0,
        "authorised_date": f"{quoted_at[: len('YYYY-MM-DD')]} 00:00:00",
        "opening_quantity": holding.quantity,
        "short_quantity": 0,
        "collateral_quantity": 0,
        "collateral_type": "",
        "discrepancy": False,
        "average_price": number(average),
        "last_price": number(last),
        "close_price": number(close),
        "pnl": number((last - average) * holding.quantity),
        "mtf": dict.fromkeys(MTF_FIELDS, 0),
        "day_change": number(last - close),
        "day_change_percentage": number((last - close) * 100 / close),
    }


def number(value: Decimal) -> float:
    """Return an amount as JSON carries it."""
    return float(round(value, PLACES))
