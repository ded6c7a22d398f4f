"""Kite's request rates per application, over a sliding second (kite.md §4). Pure."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.simulator.envelope import KiteError

if TYPE_CHECKING:
    from ticker_service.runtime.clock import Clock

KEYS_MAX: Final = 1_000


class Bucket(StrEnum):
    """Routes that are counted together."""

    QUOTE = "quote"
    HISTORICAL = "historical"
    OTHER = "other"


REQUESTS_PER_S_MAX: Final = {Bucket.QUOTE: 1, Bucket.HISTORICAL: 3, Bucket.OTHER: 10}


class RequestRates:
    """Counts the accepted requests of each application."""

    def __init__(self, clock: Clock, *, enforced: bool) -> None:
        self._clock = clock
        self._enforced = enforced
        self._accepted: dict[tuple[str, Bucket], deque[int]] = {}

    def admit(self, api_key: str, bucket: Bucket) -> None:
        """Count one request.

        Raises:
            KiteError: The bucket's rate is used up; the request is not counted.
        """
        if not self._enforced:
            return
        now_ns = self._clock.monotonic_ns()
        if len(self._accepted) > KEYS_MAX:
            self._accepted.clear()  # Only callers with invented keys get here.
        accepted = self._accepted.setdefault((api_key, bucket), deque())
        while accepted and accepted[0] <= now_ns - NS_PER_S:
            accepted.popleft()
        if len(accepted) >= REQUESTS_PER_S_MAX[bucket]:
            raise KiteError.throttled()
        accepted.append(now_ns)
