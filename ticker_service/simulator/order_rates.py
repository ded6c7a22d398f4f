"""Kite's limits on order requests per account. Pure apart from its counters.

Source: kite.md §3.2 and §4.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.simulator.envelope import KiteError

if TYPE_CHECKING:
    import datetime as dt

    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.options import SimulatorOptions

MINUTE_NS: Final = 60 * NS_PER_S
DAY_IS_FULL: Final = "Maximum allowed order requests exceeded."


@dataclass(slots=True)
class _Count:
    day: dt.date
    placed: int = 0
    closed_until_ns: int = 0
    accepted: deque[int] = field(default_factory=deque)


class OrderRates:
    """Counts each account's placements, changes and cancellations together.

    A second is one of the server's clock, as at Kite: ten requests at its end and ten at the
    beginning of the next are allowed.
    """

    def __init__(self, clock: Clock, options: SimulatorOptions) -> None:
        self._clock = clock
        self._enforced = options.enforce_rate_limits
        self._per_day_max = options.orders_per_day_max
        self._per_minute_max = options.orders_per_minute_max
        self._per_second_max = options.orders_per_second_max
        self._cooldown_ns = int(options.order_cooldown_s * NS_PER_S)
        self._counts: dict[str, _Count] = {}

    def admit(self, user_id: str, *, places: bool) -> None:
        """Count one request; ``places`` says whether it counts for the day too.

        Raises:
            KiteError: A limit is used up; the request is not counted.
        """
        if not self._enforced:
            return
        now_ns = self._clock.now_ns()
        today = session.ist_date(now_ns)
        count = self._counts.setdefault(user_id, _Count(today))
        if count.day != today:
            count.day, count.placed = today, 0
        if places and count.placed >= self._per_day_max:
            raise KiteError.cap(DAY_IS_FULL)
        accepted = count.accepted
        while accepted and accepted[0] <= now_ns - MINUTE_NS:
            accepted.popleft()
        second = now_ns // NS_PER_S
        this_second = sum(at_ns // NS_PER_S == second for at_ns in accepted)
        is_full = (
            this_second >= self._per_second_max
            or len(accepted) >= self._per_minute_max
            or now_ns < count.closed_until_ns
        )
        if is_full:
            count.closed_until_ns = now_ns + self._cooldown_ns
            raise KiteError.throttled()
        accepted.append(now_ns)
        count.placed += places

    def count_leg(self, user_id: str) -> None:
        """Count a leg of an iceberg for the day; it is placed whether there is room or not."""
        today = session.ist_date(self._clock.now_ns())
        count = self._counts.setdefault(user_id, _Count(today))
        if count.day != today:
            count.day, count.placed = today, 0
        count.placed += 1
