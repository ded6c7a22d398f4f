"""When a candle's price was the price, and what else is assumed of all candles alike.

Path: alignment -> [instants] -> forwards -> greeks. Pure.

Kite stamps a candle with the instant at which it begins: the minute of 09:15 is ``09:15:00`` and
its close is a price of shortly before 09:16:00. Taking the stamp for the instant of the close
gives the last minutes before an expiry too much time and so too low a volatility. The last candle
of a day may be cut short: the hour from 15:15 ends when trading does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain.expiry_clock import UnderlyingKind, expiry_instants, underlying_kind
from ticker_service.domain.session import ist_date
from ticker_service.domain.trading_hours import VenueKind, regular_close_ns
from ticker_service.errors import CandleError

if TYPE_CHECKING:
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
    DAY = "day"


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


NS_PER_MINUTE: Final = 60 * NS_PER_S
NS_PER_DAY: Final = 1_440 * NS_PER_MINUTE
IST_AHEAD_NS: Final = 330 * NS_PER_MINUTE
TRADED_AS: Final = {
    UnderlyingKind.INDEX: VenueKind.SHARE_DERIVATIVE,
    UnderlyingKind.STOCK: VenueKind.SHARE_DERIVATIVE,
    UnderlyingKind.CURRENCY: VenueKind.CURRENCY,
    UnderlyingKind.COMMODITY: VenueKind.COMMODITY,
}
"""Whose hours an option keeps on days that are not its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandlePricing:
    """What is assumed of all candles alike.

    Attributes:
        interval: How long each candle is.
        price: Whether the prices given are closes or opens.
        segment: Kite's segment of the options, such as ``NFO-OPT``; says when its day ends.
        rate: Continuous rate per year as a fraction: discounts, and carries a spot to its forward.
        price_step_inr: Smallest move of an option's price, rupees: where the vega is less, one step
            moves the volatility by more than a point.
        other_leg: Give an in-the-money option the volatility of its strike's other option, whose
            price is nearly all time value.
    """

    interval: CandleInterval = CandleInterval.MINUTE
    price: CandlePrice = CandlePrice.CLOSE
    segment: str = "NFO-OPT"
    rate: float = 0.0
    price_step_inr: float = 0.05
    other_leg: bool = True


def priced_at_ns(
    start_ns: NDArray[np.int64], *, expiry_ns: NDArray[np.int64], assumed: CandlePricing
) -> NDArray[np.int64]:
    """Return the instant each price is taken to be of, ns since the Unix epoch.

    An open is a price of the stamp. A close is the last trade before the candle's end, or before
    the day's if that is earlier, and is taken to be of that end; how long before it the trade was,
    a candle does not say.

    Raises:
        CandleError: Opens of days are asked for; a day's stamp is midnight, when nothing trades.
    """
    is_day = assumed.interval is CandleInterval.DAY
    if assumed.price is CandlePrice.OPEN:
        if is_day:
            raise CandleError("opens of day candles have no instant; price their closes")
        return start_ns
    if not len(start_ns):
        return start_ns
    day_ends_ns = _day_ends_ns(start_ns, expiry_ns=expiry_ns, segment=assumed.segment)
    if is_day:
        return day_ends_ns
    ends_ns = start_ns + MINUTES[assumed.interval] * NS_PER_MINUTE
    # What begins after the day's end (a special session) is not cut short by it.
    return np.where(start_ns < day_ends_ns, np.minimum(ends_ns, day_ends_ns), ends_ns)


def _day_ends_ns(
    start_ns: NDArray[np.int64], *, expiry_ns: NDArray[np.int64], segment: str
) -> NDArray[np.int64]:
    """Return when trading ends for each row on its stamp's day in India, ns since the Unix epoch.

    A contract's last day may end before the others do: a currency's at 12:30. A share's derivative
    is traded to the ordinary end on its last day, an index' may not be; without a name, the table
    takes a contract for a share's, and both have expired by then.
    """
    day = _day_number(start_ns)
    days, number = np.unique(day, return_inverse=True)
    dates = [ist_date(each * NS_PER_DAY - IST_AHEAD_NS) for each in days.tolist()]
    traded_as = TRADED_AS[underlying_kind(segment, "")]
    ordinary = np.array([regular_close_ns(traded_as, date) for date in dates], np.int64)
    last = np.array([expiry_instants(segment, "", date).last_trade_ns for date in dates], np.int64)
    return np.where(day == _day_number(expiry_ns), last[number], ordinary[number])


def _day_number(instant_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the day in India, counted from 1970-01-01."""
    return (instant_ns + IST_AHEAD_NS) // NS_PER_DAY
