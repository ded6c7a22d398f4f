"""When a candle's price was the price, and what else is assumed of all candles alike.

Path: alignment -> [instants] -> forwards -> greeks. Pure.

Kite stamps a candle with the instant at which it begins: the minute of 09:15 is ``09:15:00`` and
its close is a price of shortly before 09:16:00. Taking the stamp for the instant of the close
gives the last minutes before an expiry too much time and so too low a volatility.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class CandleInterval(StrEnum):
    """How long a candle is, in the words of Kite's historical API."""

    MINUTE = "minute"
    THREE_MINUTES = "3minute"
    FIVE_MINUTES = "5minute"
    TEN_MINUTES = "10minute"
    FIFTEEN_MINUTES = "15minute"
    THIRTY_MINUTES = "30minute"
    SIXTY_MINUTES = "60minute"


class CandlePrice(StrEnum):
    """Which of a candle's prices is priced."""

    OPEN = "open"
    CLOSE = "close"


MINUTES: Final = {
    CandleInterval.MINUTE: 1,
    CandleInterval.THREE_MINUTES: 3,
    CandleInterval.FIVE_MINUTES: 5,
    CandleInterval.TEN_MINUTES: 10,
    CandleInterval.FIFTEEN_MINUTES: 15,
    CandleInterval.THIRTY_MINUTES: 30,
    CandleInterval.SIXTY_MINUTES: 60,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CandlePricing:
    """What is assumed of all candles alike.

    Attributes:
        interval: How long each candle is.
        price: Whether the prices given are closes or opens.
        rate: Continuous rate per year as a fraction: discounts, and carries a spot to its forward.
        price_step_inr: Smallest move of an option's price, rupees: where the vega is less, one step
            moves the volatility by more than a point.
        other_leg: Give an in-the-money option the volatility of its strike's other option, whose
            price is nearly all time value.
    """

    interval: CandleInterval = CandleInterval.MINUTE
    price: CandlePrice = CandlePrice.CLOSE
    rate: float = 0.0
    price_step_inr: float = 0.05
    other_leg: bool = True


def priced_at_ns(start_ns: NDArray[np.int64], assumed: CandlePricing) -> NDArray[np.int64]:
    """Return the instant each price is taken to be of, ns since the Unix epoch.

    An open is a price of the stamp. A close is the last trade before the candle's end and is taken
    to be of that end; how long before it the trade was, a candle does not say.
    """
    if assumed.price is CandlePrice.OPEN:
        return start_ns
    return start_ns + MINUTES[assumed.interval] * 60 * NS_PER_S
