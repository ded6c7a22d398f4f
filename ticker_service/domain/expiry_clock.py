"""When a derivative's variance ends and when it last trades, from one dated table.

The two instants differ. What an option settles on may be fixed while the option still trades: an
index option settles on a closing value that is known by 15:30, and has been traded until 15:40
since 2026-08-03. An option model counts to the first instant, a subscription and the exchange to
the second. The engine and the simulator read the same table.

Pure. Source: kite.md §8.1 for hours, greeks.md §4.3.3 and §4.3.4 for the clock.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, overload

from ticker_service.constants import NS_PER_YEAR
from ticker_service.domain.book import UNDERLYING_OF_INDEX
from ticker_service.domain.session import IST, instant_ns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class UnderlyingKind(StrEnum):
    """What a contract is written on, as far as its hours depend on it."""

    INDEX = "index"
    STOCK = "stock"
    CURRENCY = "currency"
    COMMODITY = "commodity"


class ExpiryHours(NamedTuple):
    """A row of the table: how the last day ends, in IST, of contracts expiring from ``since`` on.

    ``segments`` are Kite's, such as ``NFO-OPT``; they name the exchange and the kind of contract.
    """

    segments: tuple[str, ...]
    underlying: UnderlyingKind
    since: dt.date
    variance_ends: dt.time
    last_trade: dt.time


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryInstants:
    """The end of one contract, ns since the Unix epoch (UTC)."""

    variance_ends_ns: int
    last_trade_ns: int


_ALWAYS: Final = dt.date.min
_SHARES: Final = ("NFO-OPT", "NFO-FUT", "BFO-OPT", "BFO-FUT")
_CURRENCIES: Final = ("CDS-OPT", "CDS-FUT", "BCD-OPT", "BCD-FUT")
_COMMODITIES: Final = ("MCX-OPT", "MCX-FUT", "NCO-OPT", "NCO-FUT")
_INDEX, _STOCK = UnderlyingKind.INDEX, UnderlyingKind.STOCK
_NOON, _CLOSE = dt.time(12, 30), dt.time(15, 30)
_CLOSE_AUGUST, _CLOSE_DECEMBER = dt.time(15, 40), dt.time(15, 45)
_NIGHT, _WINTER_NIGHT = dt.time(23, 30), dt.time(23, 55)
# The closing auction of shares began on the first date and is rearranged on the second.
_AUGUST, _DECEMBER = dt.date(2026, 8, 3), dt.date(2026, 12, 7)
_WINTER, _SPRING = dt.date(2026, 11, 2), dt.date(2027, 3, 13)

EXPIRY_HOURS: Final = (
    # Index closes are the average of 15:00 to 15:30, later an auction whose match is made by 15:35.
    # What moves after 15:30 is not worth a row of its own; the last half hour is doubtful anyway.
    ExpiryHours(_SHARES, _INDEX, _ALWAYS, _CLOSE, _CLOSE),
    ExpiryHours(_SHARES, _INDEX, _AUGUST, _CLOSE, _CLOSE_AUGUST),
    # From then on other contracts trade until 15:45, and index contracts on their last day do not.
    ExpiryHours(_SHARES, _INDEX, _DECEMBER, _CLOSE, _CLOSE),
    ExpiryHours(_SHARES, _STOCK, _ALWAYS, _CLOSE, _CLOSE),
    ExpiryHours(_SHARES, _STOCK, _AUGUST, _CLOSE, _CLOSE_AUGUST),
    ExpiryHours(_SHARES, _STOCK, _DECEMBER, _CLOSE, _CLOSE_DECEMBER),
    # The reference rate of the day is fixed at half past twelve.
    ExpiryHours(_CURRENCIES, UnderlyingKind.CURRENCY, _ALWAYS, _NOON, _NOON),
    # Metals and energy, which is what has options. The evening follows America's daylight saving;
    # winters before this one are not listed, and later ones come with their circular.
    ExpiryHours(_COMMODITIES, UnderlyingKind.COMMODITY, _ALWAYS, _NIGHT, _NIGHT),
    ExpiryHours(_COMMODITIES, UnderlyingKind.COMMODITY, _WINTER, _WINTER_NIGHT, _WINTER_NIGHT),
    ExpiryHours(_COMMODITIES, UnderlyingKind.COMMODITY, _SPRING, _NIGHT, _NIGHT),
)
"""Oldest first within each segment and kind of underlying; the youngest that has begun applies."""

ELSEWHERE: Final = ExpiryHours((), UnderlyingKind.STOCK, _ALWAYS, _CLOSE, _CLOSE)
"""For segments that the table does not know."""

if any(hours.last_trade < hours.variance_ends for hours in EXPIRY_HOURS) or any(
    (a.segments, a.underlying) == (b.segments, b.underlying) and a.since >= b.since
    for a, b in pairwise(EXPIRY_HOURS)
):  # pragma: no cover - the table was edited
    raise AssertionError("Invariant: expiry hours are out of order")


def underlying_kind(segment: str, name: str) -> UnderlyingKind:
    """Return what a contract is written on.

    Args:
        segment: Kite's segment of the contract, such as ``NFO-OPT``.
        name: The dump's ``name`` of the contract, such as ``NIFTY`` or ``SBIN``.
    """
    if segment in _CURRENCIES:
        return UnderlyingKind.CURRENCY
    if segment in _COMMODITIES:
        return UnderlyingKind.COMMODITY
    return _INDEX if name in _INDEX_NAMES else _STOCK


def expiry_instants(segment: str, name: str, expiry: dt.date) -> ExpiryInstants:
    """Return when a contract's variance ends and when it last trades.

    Args:
        segment: Kite's segment of the contract, such as ``NFO-OPT``.
        name: The dump's ``name`` of the contract, such as ``NIFTY`` or ``SBIN``.
        expiry: The contract's expiry date as the instruments dump states it, IST.
    """
    kind = underlying_kind(segment, name)
    hours = ELSEWHERE
    for each in EXPIRY_HOURS:
        if segment in each.segments and kind is each.underlying and expiry >= each.since:
            hours = each
    return ExpiryInstants(
        variance_ends_ns=_instant_ns(expiry, hours.variance_ends),
        last_trade_ns=_instant_ns(expiry, hours.last_trade),
    )


@overload
def years_to_expiry(now_ns: int, expiry_ns: int) -> float: ...


@overload
def years_to_expiry(
    now_ns: int | NDArray[np.int64], expiry_ns: NDArray[np.int64]
) -> NDArray[np.float64]: ...


def years_to_expiry(
    now_ns: int | NDArray[np.int64], expiry_ns: int | NDArray[np.int64]
) -> float | NDArray[np.float64]:
    """Return the time until variance ends in years of 365 days, exact to the nanosecond.

    Negative once it has ended, never floored: the last second before it is priced as such.

    Args:
        now_ns: The instant to price at, or one per row, ns since the Unix epoch.
        expiry_ns: ``variance_ends_ns`` or a column of them, shape ``(n,)``, same unit and epoch.

    Returns:
        Years, a number or a float64 column of the same shape.
    """
    return (expiry_ns - now_ns) / NS_PER_YEAR


_INDEX_NAMES: Final = frozenset(UNDERLYING_OF_INDEX.values())


def _instant_ns(date: dt.date, time: dt.time) -> int:
    return instant_ns(dt.datetime.combine(date, time, tzinfo=IST))
