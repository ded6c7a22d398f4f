"""When each market trades continuously, from one dated table, holidays and special sessions.

What decides whether silence means anything: outside these hours nothing is expected, which is not
to say that nothing comes (auctions before and after, static packets in the night).

Pure. Source: kite.md §8.1 for hours, §8.2 for the holidays of 2026. Both change by circular; what a
circular changes before the next version is set by the operator (``market_holidays``,
``market_sessions``). Commodities trade in the evening of many a holiday, so the list below is not
theirs.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from ticker_service.domain.session import IST, from_instant_ns, instant_ns
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable


SHARE_EXCHANGES: Final = frozenset({"NSE", "BSE"})
CURRENCY_EXCHANGES: Final = frozenset({"CDS", "BCD"})
COMMODITY_EXCHANGES: Final = frozenset({"MCX", "NCO"})


class VenueKind(StrEnum):
    """What is traded, as far as hours depend on it."""

    INDEX = "index"
    SHARE = "share"
    SHARE_WITH_DERIVATIVES = "share_with_derivatives"
    SHARE_DERIVATIVE = "share_derivative"
    CURRENCY = "currency"
    COMMODITY = "commodity"


class Venue(NamedTuple):
    """A kind of instrument at an exchange, such as shares at NSE."""

    exchange: str
    kind: VenueKind


class TradingHours(NamedTuple):
    """A row of the table: continuous trading of a kind on days from ``since`` on, IST."""

    kind: VenueKind
    since: dt.date
    opens: dt.time
    closes: dt.time


_ALWAYS: Final = dt.date.min
_MORNING, _COMMODITY_MORNING = dt.time(9, 15), dt.time(9, 0)
_CLOSE: Final = dt.time(15, 30)
# The closing auction of shares began on the first date and is rearranged on the second.
_AUGUST, _DECEMBER = dt.date(2026, 8, 3), dt.date(2026, 12, 7)
_WINTER, _SPRING = dt.date(2026, 11, 2), dt.date(2027, 3, 13)

TRADING_HOURS: Final = (
    TradingHours(VenueKind.INDEX, _ALWAYS, _MORNING, _CLOSE),
    TradingHours(VenueKind.SHARE, _ALWAYS, _MORNING, _CLOSE),
    # In the auction these print nothing on a healthy feed (kite.md §1.10).
    TradingHours(VenueKind.SHARE_WITH_DERIVATIVES, _ALWAYS, _MORNING, _CLOSE),
    TradingHours(VenueKind.SHARE_WITH_DERIVATIVES, _AUGUST, _MORNING, dt.time(15, 15)),
    TradingHours(VenueKind.SHARE_WITH_DERIVATIVES, _DECEMBER, _MORNING, _CLOSE),
    TradingHours(VenueKind.SHARE_DERIVATIVE, _ALWAYS, _MORNING, _CLOSE),
    TradingHours(VenueKind.SHARE_DERIVATIVE, _AUGUST, _MORNING, dt.time(15, 40)),
    TradingHours(VenueKind.SHARE_DERIVATIVE, _DECEMBER, _MORNING, dt.time(15, 45)),
    TradingHours(VenueKind.CURRENCY, _ALWAYS, _COMMODITY_MORNING, dt.time(17, 0)),
    # Metals and energy; the evening follows America's daylight saving.
    TradingHours(VenueKind.COMMODITY, _ALWAYS, _COMMODITY_MORNING, dt.time(23, 30)),
    TradingHours(VenueKind.COMMODITY, _WINTER, _COMMODITY_MORNING, dt.time(23, 55)),
    TradingHours(VenueKind.COMMODITY, _SPRING, _COMMODITY_MORNING, dt.time(23, 30)),
)
"""Oldest first within each kind; the youngest that has begun applies."""

if any(hours.closes <= hours.opens for hours in TRADING_HOURS) or any(
    a.kind is b.kind and a.since >= b.since for a, b in pairwise(TRADING_HOURS)
):  # pragma: no cover - the table was edited
    raise AssertionError("Invariant: trading hours are out of order")

HOLIDAYS: Final = frozenset(
    dt.date(2026, month, day)
    for month, day in (
        *((1, 15), (1, 26), (3, 3), (3, 26), (3, 31), (4, 3), (4, 14), (5, 1), (5, 28)),
        *((6, 26), (9, 14), (10, 2), (10, 20), (11, 10), (11, 24), (12, 25)),
    )
)
"""Days on which shares, their derivatives and currencies rest although it is no weekend."""
HOLIDAYS_KNOWN_UNTIL: Final = dt.date(2026, 12, 31)
SEARCH_DAYS_MAX: Final = 31
"""No market rests longer; who finds nothing in that time has a calendar of holidays alone."""

_EVERYWHERE: Final = ""
_ENTRY: Final = re.compile(r"(?:([A-Z]+):)?(\d{4}-\d{2}-\d{2})(?: (\d{2}:\d{2})-(\d{2}:\d{2}))?")
_SATURDAY: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What a venue does at an instant; instants are ns since the Unix epoch.

    ``until_ns`` is when that changes, 0 for not in the foreseeable future; ``has_ended`` says that
    a session was held today and none is left.
    """

    is_open: bool
    until_ns: int
    has_ended: bool


@dataclass(frozen=True, slots=True)
class Calendar:
    """The table with what the operator knows beyond it.

    ``holidays`` and ``sessions`` are by exchange, an empty name standing for all of them. A day
    with a special session has no other.
    """

    holidays: frozenset[tuple[str, dt.date]]
    sessions: tuple[tuple[str, dt.date, dt.time, dt.time], ...]
    is_always_open: bool = False

    def phase(self, venue: Venue, now_ns: int) -> Phase:
        """Return what a venue does at an instant, ns since the Unix epoch."""
        if self.is_always_open:
            return Phase(is_open=True, until_ns=0, has_ended=False)
        today = from_instant_ns(now_ns).date()
        held = self._sessions_of(venue, today)
        for opens_ns, closes_ns in held:
            if opens_ns <= now_ns < closes_ns:
                return Phase(is_open=True, until_ns=closes_ns, has_ended=False)
        has_ended = bool(held) and held[-1][1] <= now_ns
        for days in range(SEARCH_DAYS_MAX):
            for opens_ns, _ in self._sessions_of(venue, today + dt.timedelta(days=days)):
                if opens_ns > now_ns:
                    return Phase(is_open=False, until_ns=opens_ns, has_ended=has_ended)
        return Phase(is_open=False, until_ns=0, has_ended=has_ended)

    def _sessions_of(self, venue: Venue, day: dt.date) -> list[tuple[int, int]]:
        """Return the sessions of a day in order, each as its two instants."""
        names = (_EVERYWHERE, venue.exchange)
        special = [
            (opens, closes)
            for exchange, date, opens, closes in self.sessions
            if exchange in names and date == day
        ]
        if not special:
            is_listed = venue.kind is not VenueKind.COMMODITY and day in HOLIDAYS
            is_set = any((name, day) in self.holidays for name in names)
            if day.weekday() >= _SATURDAY or is_listed or is_set:
                return []
            special = [_regular(venue.kind, day)]
        return [(_instant(day, opens), _instant(day, closes)) for opens, closes in sorted(special)]


def calendar(
    *, holidays: Iterable[str] = (), sessions: Iterable[str] = (), is_always_open: bool = False
) -> Calendar:
    """Return a calendar.

    Args:
        holidays: Further holidays as ``2027-01-26``, or ``MCX:2027-01-26`` for one exchange.
        sessions: Special sessions as ``2026-11-08 13:45-14:45`` or with an exchange before it, IST.
        is_always_open: For a market that never closes, as a simulated one.

    Raises:
        ConfigurationError: An entry cannot be read; it is named with the rule.
    """
    days = [_read(entry, has_times=False) for entry in holidays]
    special = [_read(entry, has_times=True) for entry in sessions]
    return Calendar(
        frozenset((exchange, date) for exchange, date, _, _ in days),
        tuple(special),
        is_always_open,
    )


def regular_close_ns(kind: VenueKind, day: dt.date) -> int:
    """Return when continuous trading of a kind ends on an ordinary day, ns since the Unix epoch.

    Holidays and special sessions are the calendar's business, a contract's last day that of
    ``expiry_clock``.
    """
    _, closes = _regular(kind, day)
    return _instant(day, closes)


def _regular(kind: VenueKind, day: dt.date) -> tuple[dt.time, dt.time]:
    hours = [each for each in TRADING_HOURS if each.kind is kind and each.since <= day]
    return hours[-1].opens, hours[-1].closes


def _instant(day: dt.date, at: dt.time) -> int:
    return instant_ns(dt.datetime.combine(day, at, tzinfo=IST))


def _read(entry: str, *, has_times: bool) -> tuple[str, dt.date, dt.time, dt.time]:
    example = "2026-11-08 13:45-14:45" if has_times else "2027-01-26"
    rule = f"{entry!r} must be like {example}, or MCX:{example}"
    found = _ENTRY.fullmatch(entry.strip())
    if found is None or (found[3] is not None) != has_times:
        raise ConfigurationError(rule)
    try:
        date = dt.date.fromisoformat(found[2])
        opens, closes = (dt.time.fromisoformat(found[n] or "00:00") for n in (3, 4))
    except ValueError as error:
        raise ConfigurationError(f"{rule}; {error}") from error
    if has_times and closes <= opens:
        raise ConfigurationError(f"{rule}; it ends before it begins")
    return found[1] or _EVERYWHERE, date, opens, closes
