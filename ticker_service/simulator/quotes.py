"""Quotes as Kite's REST states them: full, OHLC and LTP. Pure.

Source: kite.md §2.8 and the response fields that the official clients decode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.domain.tick import DEPTH_LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.simulator.market import Market

CIRCUIT_RATIO: Final = 0.2
OPTION_CIRCUIT_RATIO: Final = 20.0
OPTION_CIRCUIT_STEPS: Final = 1_000
DECIMALS_MAX: Final = 7


def ltp(market: Market, row: int) -> dict[str, object]:
    """Return what ``/quote/ltp`` says of one instrument."""
    return {
        "instrument_token": int(market.catalogue.instrument_token[row]),
        "last_price": _inr(market, row, market.board.ltp_raw),
    }


def ohlc(market: Market, row: int) -> dict[str, object]:
    """Return what ``/quote/ohlc`` says of one instrument."""
    board = market.board
    return {
        **ltp(market, row),
        "ohlc": {
            "open": _inr(market, row, board.open_raw),
            "high": _inr(market, row, board.high_raw),
            "low": _inr(market, row, board.low_raw),
            "close": _inr(market, row, board.close_raw),
        },
    }


def full(market: Market, row: int) -> dict[str, object]:
    """Return what ``/quote`` says of one instrument; indices have zeros where nothing trades."""
    board = market.board
    lower, upper = _circuit_inr(market, row)
    return {
        "instrument_token": int(market.catalogue.instrument_token[row]),
        "timestamp": ist_text(int(board.exchange_s[row])),
        "last_trade_time": ist_text(int(board.last_trade_s[row])),
        "last_price": _inr(market, row, board.ltp_raw),
        "last_quantity": int(board.last_quantity[row]),
        "buy_quantity": int(board.buy_quantity[row]),
        "sell_quantity": int(board.sell_quantity[row]),
        "volume": int(board.volume[row]),
        "average_price": scaled(market, row, int(board.average_raw(np.array([row]))[0])),
        "oi": int(board.oi[row]),
        "oi_day_high": int(board.oi_day_high[row]),
        "oi_day_low": int(board.oi_day_low[row]),
        "net_change": scaled(market, row, int(board.ltp_raw[row] - board.close_raw[row])),
        "lower_circuit_limit": lower,
        "upper_circuit_limit": upper,
        "ohlc": ohlc(market, row)["ohlc"],
        "depth": {
            "buy": _depth(market, row, board.bid_raw, board.bid_quantity, board.bid_orders),
            "sell": _depth(market, row, board.ask_raw, board.ask_quantity, board.ask_orders),
        },
    }


def circuit_raw(market: Market, row: int) -> tuple[int, int]:
    """Return the day's lowest and highest order price in wire units; zeros for an index."""
    if row < market.catalogue.index_count:
        return 0, 0
    step, close = int(market.catalogue.price_step_raw[row]), int(market.board.close_raw[row])
    lower, upper = close * (1.0 - CIRCUIT_RATIO), close * (1.0 + CIRCUIT_RATIO)
    if market.catalogue.is_option[row]:
        lower, upper = float(step), close * OPTION_CIRCUIT_RATIO + OPTION_CIRCUIT_STEPS * step
    return max(round(lower / step), 1) * step, round(upper / step) * step


def scaled(market: Market, row: int, raw: int) -> float:
    """Return a price of the row's wire units in rupees."""
    return round(raw / float(market.catalogue.price_scale[row]), DECIMALS_MAX)


def ist_text(at_s: int) -> str | None:
    """Return a time as Kite's REST writes it, ``YYYY-MM-DD HH:MM:SS`` in IST; None for 0."""
    if at_s == 0:
        return None
    return f"{session.from_instant_ns(at_s * NS_PER_S):%Y-%m-%d %H:%M:%S}"


def _depth(
    market: Market,
    row: int,
    price_raw: NDArray[np.int64],
    quantity: NDArray[np.int64],
    orders: NDArray[np.int64],
) -> list[dict[str, object]]:
    return [
        {
            "price": scaled(market, row, int(price_raw[row, level])),
            "quantity": int(quantity[row, level]),
            "orders": int(orders[row, level]),
        }
        for level in range(DEPTH_LEVELS)
    ]


def _circuit_inr(market: Market, row: int) -> tuple[float, float]:
    lower, upper = circuit_raw(market, row)
    return scaled(market, row, lower), scaled(market, row, upper)


def _inr(market: Market, row: int, column: NDArray[np.int64]) -> float:
    return scaled(market, row, int(column[row]))
