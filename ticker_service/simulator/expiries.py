"""Expiry dates and contract names as the exchanges write them. Pure.

Source: kite.md §8.3 and §8.5. Holidays are left out on purpose: the simulated exchange never
closes, and a client has to read expiries from the dump in any case.
"""

from __future__ import annotations

import calendar
import datetime as dt
from typing import TYPE_CHECKING, Final

from ticker_service.domain import session
from ticker_service.domain.expiry_clock import expiry_instants
from ticker_service.simulator.listing import ExpiryRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ticker_service.simulator.listing import LoneContract, Underlying

EXPIRIES_LISTED: Final = 3
ONE_WEEK: Final = dt.timedelta(days=7)
MONTHS_PER_YEAR: Final = 12
LONE_CONTRACT_WEEKDAY: Final = 2
"""The currency and the commodity future end on a month's last Wednesday."""

# A weekly contract writes its month as one character: 1 to 9, then O, N, D.
_WEEKLY_MONTHS: Final = "123456789OND"
# Not strftime's %b, which follows the locale of the machine.
_MONTHS: Final = (
    *("JAN", "FEB", "MAR", "APR", "MAY", "JUN"),
    *("JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)


def option_expiries(underlying: Underlying, *, now_ns: int, days_min: int) -> list[dt.date]:
    """Return the listed option expiries of an underlying, nearest first."""
    weekday = underlying.expiry_weekday
    if underlying.options_expire is ExpiryRule.MONTHLY:
        dates = _monthly(session.ist_date(now_ns), weekday)
    else:
        dates = _weekly(session.ist_date(now_ns), weekday)
    segment = f"{underlying.exchange}-OPT"
    return _alive(dates, segment, underlying.name, now_ns=now_ns, days_min=days_min)


def future_expiries(
    contract: Underlying | LoneContract, weekday: int, *, now_ns: int, days_min: int
) -> list[dt.date]:
    """Return the listed expiries of a future that ends on its month's last ``weekday``."""
    dates = _monthly(session.ist_date(now_ns), weekday)
    segment = f"{contract.exchange}-FUT"
    return _alive(dates, segment, contract.name, now_ns=now_ns, days_min=days_min)


def is_last_weekday_of_month(date: dt.date) -> bool:
    """Return whether the same weekday does not come again in the date's month."""
    return (date + ONE_WEEK).month != date.month


def future_symbol(name: str, expiry: dt.date) -> str:
    """Return a future's tradingsymbol, such as ``NIFTY26NOVFUT``."""
    return f"{name}{_month(expiry)}FUT"


def option_symbol(name: str, expiry: dt.date, strike_inr: int, kind: str) -> str:
    """Return an option's tradingsymbol: ``NIFTY26NOV26000CE``, or ``NIFTY26N1726000CE`` weekly."""
    if is_last_weekday_of_month(expiry):
        when = _month(expiry)
    else:
        month = _WEEKLY_MONTHS[expiry.month - 1]
        when = f"{expiry:%y}{month}{expiry:%d}"
    return f"{name}{when}{strike_inr}{kind}"


def _month(expiry: dt.date) -> str:
    return f"{expiry:%y}{_MONTHS[expiry.month - 1]}"


def _alive(
    dates: Iterator[dt.date], segment: str, name: str, *, now_ns: int, days_min: int
) -> list[dt.date]:
    first = session.ist_date(now_ns) + dt.timedelta(days=days_min)
    alive: list[dt.date] = []
    while len(alive) < EXPIRIES_LISTED:
        date = next(dates)
        if date >= first and expiry_instants(segment, name, date).last_trade_ns > now_ns:
            alive.append(date)
    return alive


def _weekly(today: dt.date, weekday: int) -> Iterator[dt.date]:
    date = today + dt.timedelta(days=(weekday - today.weekday()) % 7)
    while True:
        yield date
        date += ONE_WEEK


def _monthly(today: dt.date, weekday: int) -> Iterator[dt.date]:
    year, month = today.year, today.month
    while True:
        last = dt.date(year, month, calendar.monthrange(year, month)[1])
        yield last - dt.timedelta(days=(last.weekday() - weekday) % 7)
        year, month = (year + 1, 1) if month == MONTHS_PER_YEAR else (year, month + 1)
