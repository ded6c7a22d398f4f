"""Numbers that several rooms must agree on, with the relations between them asserted here."""

from __future__ import annotations

from typing import Final

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
SECONDS_PER_DAY: Final = 86_400
DAYS_PER_YEAR: Final = 365
"""Calendar convention of every annualised number here (greeks.md §4.3.3)."""
NS_PER_YEAR: Final = DAYS_PER_YEAR * SECONDS_PER_DAY * NS_PER_S
