"""Trading time: IST, expiry instants, and the one function that turns them into years.

Pure. IST appears here and at the edge only; everywhere else time is UTC nanoseconds (DESIGN D15).
Source: kite.md §8.1 for hours, greeks.md §4.3.3 and §4.3.4 for the expiry clock.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final, overload

from ticker_service.constants import NS_PER_S, NS_PER_YEAR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IST: Final = dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")

# When a contract's variance ends, not when its quotes do: NSE and BSE settle on a closing index
# value that is fixed by 15:30, although derivatives trade until 15:40 since 2026-08-03
# (greeks.md §4.3.4).
MODEL_EXPIRY_TIME: Final[dict[str, dt.time]] = {
    "NFO": dt.time(15, 30),
    "BFO": dt.time(15, 30),
    "CDS": dt.time(12, 30),
    "BCD": dt.time(12, 30),
    "MCX": dt.time(23, 30),
    "NCO": dt.time(23, 30),
}
MODEL_EXPIRY_TIME_ELSEWHERE: Final = dt.time(15, 30)

TOKEN_EXPIRY_TIME: Final = dt.time(6, 0)
"""Kite ends every access token at 06:00 IST (kite.md §3.1)."""


def expiry_instant_ns(exchange: str, expiry: dt.date) -> int:
    """Return the instant at which the option model's time runs out.

    Args:
        exchange: Kite's exchange name of the contract, such as ``NFO``.
        expiry: The contract's expiry date as the instruments dump states it, IST.

    Returns:
        Nanoseconds since the Unix epoch, UTC.
    """
    at = MODEL_EXPIRY_TIME.get(exchange, MODEL_EXPIRY_TIME_ELSEWHERE)
    return instant_ns(dt.datetime.combine(expiry, at, tzinfo=IST))


@overload
def years_to_expiry(now_ns: int, expiry_ns: int) -> float: ...


@overload
def years_to_expiry(
    now_ns: int | NDArray[np.int64], expiry_ns: NDArray[np.int64]
) -> NDArray[np.float64]: ...


def years_to_expiry(
    now_ns: int | NDArray[np.int64], expiry_ns: int | NDArray[np.int64]
) -> float | NDArray[np.float64]:
    """Return the time to expiry in years of 365 days; negative once expired, never floored.

    Args:
        now_ns: The instant to price at, or one per row, ns since the Unix epoch.
        expiry_ns: Expiry instant or a column of them, shape ``(n,)``, same unit and epoch.

    Returns:
        Years, a number or a float64 column of the same shape.
    """
    return (expiry_ns - now_ns) / NS_PER_YEAR


def ist_date(now_ns: int) -> dt.date:
    """Return the calendar date in India at an instant given in ns since the Unix epoch."""
    return from_instant_ns(now_ns).date()


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
