"""Which fills an order gets from the quoted depth, and when a stop is triggered. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.domain.tick import DEPTH_LEVELS
from ticker_service.simulator.order import OrderType, Side

if TYPE_CHECKING:
    from ticker_service.simulator.board import Board
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.order import OrderTerms

AUTOMATIC: Final = Decimal(-1)
"""The value of market_protection that leaves the band to the broker."""
AUTOMATIC_STOP: Final = Decimal(2)
"""The band of a cover order's second leg, percent; which Kite takes is not known."""
PERCENT: Final = 100
# The exchange refuses option prices this far from the last one (limit price protection).
EXECUTION_RANGE_RATIO: Final = 0.4
EXECUTION_RANGE_INR: Final = 20

# The automatic band: up to each price, rupees, so many percent (kite.md §2.3: "auto").
_BANDS: Final = ((100, "2"), (500, "1"), (None, "0.5"))
_OPTION_BANDS: Final = ((10, "5"), (100, "3"), (500, "2"), (None, "1"))


@dataclass(frozen=True, slots=True)
class Fill:
    """A quantity at a price."""

    price_raw: int
    quantity: int


class DepthTaken:
    """What orders have taken of the quotes that still stand, per row and level."""

    def __init__(self) -> None:
        self._taken: dict[tuple[int, Side], list[int]] = {}

    def of(self, row: int, side: Side) -> list[int]:
        """Return the quantity taken per level from those that ``side`` trades against."""
        return self._taken.setdefault((row, side), [0] * DEPTH_LEVELS)

    def forget(self, row: int) -> None:
        """The row has been quoted anew."""
        for side in Side:
            self._taken.pop((row, side), None)


def sweep(
    board: Board, taken: DepthTaken, *, row: int, side: Side, limit_raw: int, quantity: int
) -> list[Fill]:
    """Take what the quotes offer at the limit or better, best level first, and note it as taken."""
    if side is Side.BUY:
        prices, offered = board.ask_raw[row], board.ask_quantity[row]
    else:
        prices, offered = board.bid_raw[row], board.bid_quantity[row]
    used = taken.of(row, side)
    fills: list[Fill] = []
    for level in range(DEPTH_LEVELS):
        price_raw, left = int(prices[level]), int(offered[level]) - used[level]
        if quantity == 0 or price_raw <= 0 or not _reaches(side, price_raw, limit_raw):
            break
        size = min(quantity, left)
        if size > 0:
            used[level] += size
            quantity -= size
            fills.append(Fill(price_raw, size))
    return fills


def is_triggered(side: Side, *, ltp_raw: int, trigger_raw: int) -> bool:
    """Return whether the last price has reached a stop's trigger."""
    return ltp_raw >= trigger_raw if side is Side.BUY else ltp_raw <= trigger_raw


def automatic_protection(price_inr: Decimal, *, is_option: bool) -> Decimal:
    """Return the broker's own band for a price, percent."""
    for below_inr, percent in _OPTION_BANDS if is_option else _BANDS:
        if below_inr is None or price_inr < below_inr:
            return Decimal(percent)
    raise AssertionError("Invariant: the last band has no upper end")


def band_raw(market: Market, terms: OrderTerms, percent: Decimal) -> int:
    """Return the limit price at the end of the band round the last price, on the price step."""
    step_raw = int(market.catalogue.price_step_raw[terms.row])
    steps = Decimal(int(market.board.ltp_raw[terms.row])) / step_raw
    share = percent / PERCENT
    # Rounded inwards, so that the limit never lies outside the band.
    if terms.side is Side.BUY:
        end = (steps * (1 + share)).to_integral_value(ROUND_FLOOR)
    else:
        end = (steps * (1 - share)).to_integral_value(ROUND_CEILING)
    return max(int(end), 1) * step_raw


def is_in_execution_range(market: Market, terms: OrderTerms) -> bool:
    """Return whether the exchange takes an order's limit price, however good or bad it is."""
    catalogue, row = market.catalogue, terms.row
    if not catalogue.is_option[row] or terms.order_type is OrderType.SL_M:
        return True
    ltp_raw = int(market.board.ltp_raw[row])
    least_raw = EXECUTION_RANGE_INR * int(catalogue.price_scale[row])
    return abs(terms.price_raw - ltp_raw) <= max(ltp_raw * EXECUTION_RANGE_RATIO, least_raw)


def _reaches(side: Side, price_raw: int, limit_raw: int) -> bool:
    return price_raw <= limit_raw if side is Side.BUY else price_raw >= limit_raw
