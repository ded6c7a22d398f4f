"""What is kept of an account's circuit breakers, so that a restart does not forget one. Pure.

Source: reliability.md §1.13.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ticker_service.domain.order import Account


class BreakerName(StrEnum):
    """What an account's breakers guard, each for itself."""

    ORDERS = "orders"
    READS = "reads"
    FEED = "feed"


class BreakerState(StrEnum):
    """Whether the broker is asked."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStep:
    """One transition, to be kept; ``failures`` is what the window held then."""

    account: Account
    breaker: BreakerName
    before: BreakerState
    after: BreakerState
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBreaker:
    """How a breaker stands as it was last kept, and since when, by the keeper's own clock."""

    breaker: BreakerName
    state: BreakerState
    age_s: float
