"""When the broker is asked for something that changes nothing there: at its rate, while it answers.

Goal: accounts that trade through one app share that app's rates (kite.md §4), and one that is down
is left alone. A turn is given when it is asked for and stays given, as in `accounts.limits`; who
would wait too long is told so at once. Port ``ReadGate``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from ticker_service.accounts.limits import JITTER_MS
from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.limit import LimitScope
from ticker_service.errors import BrokerThrottled, BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.accounts.breaker import Breaker
    from ticker_service.domain.limit import Limit, LimitName, Limits
    from ticker_service.runtime.clock import Clock

T = TypeVar("T")

WAIT_S_MAX: Final = 10.0
"""Who would wait longer for a turn is told no: with ten turns a second, 100 wait at most."""
THROTTLED_S: Final = 1.0
"""How long nothing is read after a 429."""


class ReadPace:
    """The reading rates of one app; its accounts share it. Belongs to one event loop."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        self._turns = {
            row.name: _Turns(row)
            for row in limits.values()
            if row.scope is LimitScope.API_KEY and row.window_s is not None
        }

    async def turn(self, name: LimitName) -> None:
        """Wait for a turn under a limit.

        Raises:
            BrokerUnavailable: It would come too late; the message names the limit and the time.
        """
        turns, now_ns = self._turns[name], self._clock.monotonic_ns()
        at_ns = max(turns.free_at_ns(), now_ns)
        wait_s = (at_ns - now_ns) / NS_PER_S
        if wait_s > WAIT_S_MAX:
            raise BrokerUnavailable(
                f"the limit {name}={turns.row.at_most} of the app (api_key) is reached, "
                f"with room in {wait_s:.1f} s"
            )
        # Taken now, for then: who comes later waits behind it, and a turn that is not used is lost.
        turns.take(at_ns)
        if wait_s:
            await asyncio.sleep(wait_s)

    def cool_down(self, name: LimitName) -> None:
        """Give no turn under a limit for a while: the broker said 429."""
        self._turns[name].hold(self._clock.monotonic_ns() + int(THROTTLED_S * NS_PER_S))


class _Turns:
    """The instants of the newest turns under one limit; no stretch of its length has more."""

    def __init__(self, row: Limit) -> None:
        self.row = row
        self._length_ns = int((row.window_s or 0.0) * NS_PER_S) + JITTER_MS * NS_PER_MS
        self._taken_ns: deque[int] = deque(maxlen=row.at_most)
        self._held_until_ns = 0

    def free_at_ns(self) -> int:
        if len(self._taken_ns) < self.row.at_most:
            return self._held_until_ns
        return max(self._taken_ns[0] + self._length_ns + 1, self._held_until_ns)

    def take(self, at_ns: int) -> None:
        self._taken_ns.append(at_ns)

    def hold(self, until_ns: int) -> None:
        self._held_until_ns = max(self._held_until_ns, until_ns)


class PacedReads:
    """One account's way to read: in its app's turn, and while its breaker lets it."""

    def __init__(self, pace: ReadPace, breaker: Breaker) -> None:
        self._pace = pace
        self._breaker = breaker

    async def read(self, limit: LimitName, work: Callable[[], Awaitable[T]]) -> T:
        """Ask in turn, and return the answer; see ``ReadGate``."""

        async def asked() -> T:
            try:
                return await work()
            except BrokerThrottled:
                self._pace.cool_down(limit)
                raise

        # A breaker that is open costs no turn; one that opens while we wait is asked anew.
        self._breaker.refuse_if_open()
        await self._pace.turn(limit)
        return await self._breaker.call(asked)
