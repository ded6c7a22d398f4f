"""Intervals of bars, and how they lie on the clock.

All of them divide a quarter of an hour, so that bars counted from the full hour are also those
counted from 09:15, where Kite's candles begin (kite.md §2.8), and from 09:00 at other exchanges.
"""

from __future__ import annotations

from typing import Final

from ticker_service.errors import ConfigurationError

BAR_SECONDS: Final = {
    "1s": 1,
    "5s": 5,
    "10s": 10,
    "15s": 15,
    "30s": 30,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
}
"""Length of a bar in seconds by the name that channels use."""

if any(900 % seconds for seconds in BAR_SECONDS.values()):  # pragma: no cover - edited
    raise AssertionError("Invariant: an interval does not divide a quarter of an hour")


def bar_seconds(interval: str) -> int:
    """Return the length of an interval.

    Raises:
        ConfigurationError: There is no such interval.
    """
    try:
        return BAR_SECONDS[interval]
    except KeyError:
        raise ConfigurationError(
            f"bars: {interval!r} must be one of {', '.join(BAR_SECONDS)}"
        ) from None
