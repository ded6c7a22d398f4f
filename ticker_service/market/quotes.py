"""Choose the price that speaks for an option: the mid of a sane quote, else the last trade.

Part of the price step. Pure. A quote is sane when both sides are there, it is not crossed, and its
spread says something about the price; a mid of 0.05 and 40 is nobody's opinion. A last trade was
made at one of the sides, so beside a quote that is not sane it is used but never called good.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain.tick import Mode
from ticker_service.pricing import PriceStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.tick import Ticks


class PriceSource(IntEnum):
    """Where a row's ``price_used`` comes from."""

    NONE = 0
    MID = 1
    LTP = 2


SPREAD_RATIO_MAX: Final = 0.5
"""Widest sane spread as a share of the mid."""
SPREAD_STEPS_ALWAYS_SANE: Final = 10
"""A spread of so few price steps is sane whatever its share: cheap options quote like that."""
_HALF_STEP: Final = 0.5
"""Slack when steps are counted: 1.10 - 0.60 is a little more than 0.50 in binary."""

# An enumeration beside a column costs numpy five times what the column does.
_NO_PRICE, _OK, _UNRELIABLE, _ONE_SIDED, _CROSSED, _STALE = (
    np.uint8(status)
    for status in (
        PriceStatus.NO_PRICE,
        PriceStatus.OK,
        PriceStatus.UNRELIABLE,
        PriceStatus.ONE_SIDED,
        PriceStatus.CROSSED,
        PriceStatus.STALE,
    )
)
_MID, _LTP, _NONE = (np.uint8(one) for one in (PriceSource.MID, PriceSource.LTP, PriceSource.NONE))
_FULL: Final = np.uint8(Mode.FULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotes:
    """The chosen price of each row, shape ``(n,)``; rupees.

    ``mid`` is NaN unless the quote is sane and of now. ``status`` is OK for the mid of a sane
    quote, and for a recent trade where the packet's mode carries no quote to ask for; otherwise it
    says what is wrong, and ``price`` is NaN where there is nothing to use all the same.
    """

    mid: NDArray[np.float64]
    half_spread: NDArray[np.float64]
    price: NDArray[np.float64]
    source: NDArray[np.uint8]
    status: NDArray[np.uint8]


def choose(
    ticks: Ticks,
    price_step: NDArray[np.float64],
    *,
    traded_ns: NDArray[np.int64],
    price_age_ns_max: int,
) -> Quotes:
    """Choose a price for every row.

    Args:
        ticks: Rows of options, any mode.
        price_step: Smallest price move of each, rupees, shape ``(n,)``.
        traded_ns: When each last trade was made, as far as anybody knows, ns since the Unix epoch,
            shape ``(n,)``; 0 for a trade whose time is not known, which counts as old.
        price_age_ns_max: A last trade older than this no longer speaks for the price; it is used
            with status STALE. The same holds for a whole packet that the exchange stamped longer
            ago than this: on every subscribe Kite sends the last one it kept, which may be
            yesterday's.

    Returns:
        One price, source and status per row.
    """
    bid, ask = ticks.bid_price[0], ticks.ask_price[0]
    # A price for no quantity is nobody's offer.
    has_bid = (bid > 0.0) & (ticks.bid_quantity[0] != 0)
    has_ask = (ask > 0.0) & (ticks.ask_quantity[0] != 0)
    spread = ask - bid
    mid = 0.5 * (bid + ask)
    is_tight = (spread <= SPREAD_RATIO_MAX * mid) | (
        spread <= (SPREAD_STEPS_ALWAYS_SANE + _HALF_STEP) * price_step
    )
    is_sane = has_bid & has_ask & (spread >= 0.0) & is_tight
    has_trade = (ticks.ltp > 0.0) & ~_is_contradicted(ticks.ltp, bid, ask, has_bid, has_ask)
    stamped_ago = ticks.received_at_ns - ticks.exchange_ts_ns
    is_kept = (ticks.exchange_ts_ns > 0) & (stamped_ago > price_age_ns_max)
    is_old_trade = ticks.received_at_ns - traded_ns > price_age_ns_max

    status = np.full(len(ticks), _NO_PRICE)
    # Without depth a trade is all there is; with it, nothing in it holds the trade to a price.
    status[has_trade] = _UNRELIABLE
    status[has_trade & (ticks.mode < _FULL)] = _OK
    status[has_bid != has_ask] = _ONE_SIDED
    status[has_bid & has_ask & (spread < 0.0)] = _CROSSED
    status[has_trade & is_old_trade] = _STALE
    status[is_sane] = _OK
    source = np.where(has_trade, _LTP, _NONE)
    source[is_sane] = _MID
    is_now = is_sane
    if is_kept.any():
        status[is_kept & (is_sane | has_trade)] = _STALE
        is_now = is_sane & ~is_kept
    return Quotes(
        mid=np.where(is_now, mid, np.nan),
        half_spread=np.where(is_now, 0.5 * spread, np.nan),
        price=np.where(is_sane, mid, np.where(has_trade, ticks.ltp, np.nan)),
        source=source,
        status=status,
    )


def _is_contradicted(
    ltp: NDArray[np.float64],
    bid: NDArray[np.float64],
    ask: NDArray[np.float64],
    has_bid: NDArray[np.bool_],
    has_ask: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return where somebody would trade better than the last trade now: it no longer speaks.

    A crossed quote leaves the range between its sides.
    """
    lowest = np.where(has_bid, np.where(has_ask, np.minimum(bid, ask), bid), 0.0)
    highest = np.where(has_ask, np.where(has_bid, np.maximum(bid, ask), ask), np.inf)
    is_contradicted: NDArray[np.bool_] = (ltp < lowest) | (ltp > highest)
    return is_contradicted
