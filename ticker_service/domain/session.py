"""Trading time: India's clock and calendar date, and the end of an access token.

Pure. IST appears here, in ``expiry_clock`` and at the edge only; everywhere else time is UTC
nanoseconds (DESIGN D15).
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from ticker_service.constants import NS_PER_S

IST: Final = dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")

TOKEN_EXPIRY_TIME: Final = dt.time(6, 0)
"""Kite ends every access token at 06:00 IST (kite.md §3.1)."""


def ist_date(now_ns: int) -> dt.date:
    """Return the calendar date in India at an instant given in ns since the Unix epoch."""
    return from_instant_ns(now_ns).date()


def day_end_ns(now_ns: int) -> int:
    """Return when the calendar day in India that holds an instant ends, ns since the Unix epoch."""
    tomorrow = ist_date(now_ns) + dt.timedelta(days=1)
    return instant_ns(dt.datetime.combine(tomorrow, dt.time(), tzinfo=IST))


def day_start_ns(day: dt.date) -> int:
    """Return the midnight at which a day began in India, ns since the Unix epoch."""
    return instant_ns(dt.datetime.combine(day, dt.time(), tzinfo=IST))


def from_instant_ns(now_ns: int) -> dt.datetime:
    """Return an instant as an aware datetime in IST, truncated to whole seconds."""
    return dt.datetime.fromtimestamp(now_ns // NS_PER_S, tz=IST)


def instant_ns(moment: dt.datetime) -> int:
    """Return an aware datetime as ns since the Unix epoch, exact to the microsecond."""
    if moment.tzinfo is None:
        raise ValueError(f"Condition failed: a naive datetime names no instant: {moment!r}")
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (since // dt.timedelta(microseconds=1)) * 1_000


def token_expires_ns(issued_ns: int) -> int:
    """Return when an access token issued at ``issued_ns`` ends: the next 06:00 IST."""
    issued = from_instant_ns(issued_ns)
    end = dt.datetime.combine(issued.date(), TOKEN_EXPIRY_TIME, tzinfo=IST)
    if issued >= end:
        end += dt.timedelta(days=1)
    return instant_ns(end)


def read_kite_time(text: str) -> int | None:
    """Return one of Kite's times, IST without a zone, as ns since the epoch; None if it is none.

    Source: kite.md §1.7.
    """
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant_ns(moment if moment.tzinfo else moment.replace(tzinfo=IST))
