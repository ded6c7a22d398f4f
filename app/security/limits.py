"""How much of us one caller may use: requests per second, and connections.

Both have bounded memory whatever the callers do, neither waits, and both belong to one event loop.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from ticker_service.runtime.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRate:
    """A token bucket's numbers: ``burst`` at once, then ``per_s`` a second.

    Raises:
        ConfigurationError: A number is not positive.
    """

    per_s: float = 20.0
    burst: int = 40
    principals_max: int = 10_000

    def __post_init__(self) -> None:
        """Check that a bucket can fill and hold something."""
        if self.per_s <= 0 or self.burst < 1 or self.principals_max < 1:
            raise ConfigurationError(f"Condition failed: every number must be positive: {self}")


@dataclass(slots=True)
class _Bucket:
    level: float
    at_ns: int


class RequestLimiter:
    """A bucket per principal; the idle ones are full and therefore need no memory."""

    def __init__(self, rate: RequestRate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the longest idle first
        self.refused_count = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, principal: str, cost: int = 1) -> float:
        """Take ``cost`` from a principal's bucket if it holds that much.

        Returns:
            0.0 when taken; else the seconds after which it is worth asking again, and nothing is
            taken.
        """
        now_ns = self._clock.monotonic_ns()
        bucket = self._buckets.pop(principal, None)
        if bucket is None:
            self._forget_full(now_ns)
            if len(self._buckets) >= self._rate.principals_max:
                # Evicting a bucket in use would hand its owner a full one: newcomers wait instead.
                self.refused_count += 1
                return self._seconds_to(self._rate.burst)
            bucket = _Bucket(float(self._rate.burst), now_ns)
        self._buckets[principal] = bucket
        bucket.level = self._level(bucket, now_ns)
        bucket.at_ns = now_ns
        if bucket.level < cost:
            self.refused_count += 1
            return self._seconds_to(cost - bucket.level)
        bucket.level -= cost
        return 0.0

    def _level(self, bucket: _Bucket, now_ns: int) -> float:
        gained = (now_ns - bucket.at_ns) / NS_PER_S * self._rate.per_s
        return min(float(self._rate.burst), bucket.level + gained)

    def _seconds_to(self, missing: float) -> float:
        return missing / self._rate.per_s

    def _forget_full(self, now_ns: int) -> None:
        while self._buckets:
            principal, bucket = next(iter(self._buckets.items()))
            if self._level(bucket, now_ns) < self._rate.burst:
                return
            del self._buckets[principal]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCaps:
    """How many connections may be open at once: together, per principal, and without a name yet."""

    total_max: int = 1_000
    per_principal_max: int = 10
    unnamed_max: int = 100


_UNNAMED: Final = None


class ConnectionSlot:
    """One open connection's place; give it back exactly when the connection ends."""

    def __init__(self, register: ConnectionRegister) -> None:
        self._register = register
        self._principal: str | None = _UNNAMED
        self._is_open = True

    def name(self, principal: str) -> bool:
        """Say whose connection it is; False when that principal has its fill, then close it.

        Naming it again for the same principal changes nothing; for another it is refused.
        """
        if not self._is_open or self._principal is not _UNNAMED:
            return self._is_open and principal == self._principal
        if not self._register._move(principal):  # noqa: SLF001 - the two are one
            return False
        self._principal = principal
        return True

    def release(self) -> None:
        """Give the place back; a second time does nothing."""
        if self._is_open:
            self._is_open = False
            self._register._leave(self._principal)  # noqa: SLF001 - the two are one


class ConnectionRegister:
    """Counts open connections and refuses what is over a cap."""

    def __init__(self, caps: ConnectionCaps) -> None:
        self._caps = caps
        self._open: Counter[str | None] = Counter()
        self.open_count = 0
        self.refused_count = 0

    def enter(self, *, is_known: bool = False) -> ConnectionSlot | None:
        """Return a place for a new connection that is still to be named, or None when full.

        Args:
            is_known: Whether it has shown who it is already: a crowd of those that have not does
                not keep it out.
        """
        is_crowded = not is_known and self._open[_UNNAMED] >= self._caps.unnamed_max
        if self.open_count >= self._caps.total_max or is_crowded:
            self.refused_count += 1
            return None
        self._open[_UNNAMED] += 1
        self.open_count += 1
        return ConnectionSlot(self)

    def count_of(self, principal: str) -> int:
        """Return how many connections a principal has open."""
        return self._open.get(principal, 0)

    def _move(self, principal: str) -> bool:
        if self.count_of(principal) >= self._caps.per_principal_max:
            self.refused_count += 1
            return False
        self._leave(_UNNAMED)
        self._open[principal] += 1
        self.open_count += 1
        return True

    def _leave(self, principal: str | None) -> None:
        self.open_count -= 1
        self._open[principal] -= 1
        if self._open[principal] <= 0:
            del self._open[principal]
