"""Stop asking a broker that does not answer, and find out gently when it does again.

Goal: pybreaker's states around an ``await``. What does not work is pybreaker itself around an
``await`` (each trap has a test in ``tests/unit/accounts/test_accounts_breaker.py``):

1. As a decorator it counts nothing: making a coroutine always succeeds. 2. ``calling()`` counts
cancellation as a failure, and 3. when excluded as a success, which closes a half-open circuit.
4. Half-open admits every caller at once. 5. It reads the wall clock. 6. It raises its own error in
the place of ours. 7. Any success forgets all failures, so a broker that fails every other call
never trips it; and its Redis storage blocks the event loop.

So the call never runs inside pybreaker. A caller asks for a permit, makes its call, and reports to
the permit what it learnt; only that is fed to pybreaker, as a function that returns or raises at
once. Time to wait, the single probe, and the window of failures are kept here. A report about a
call admitted in an earlier state is dropped: it says nothing about the broker now.

Source: reliability.md §1.13.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self, TypeVar

import pybreaker

from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerState
from ticker_service.errors import (
    BrokerThrottled,
    BrokerUnavailable,
    ConfigurationError,
    LoginRequired,
    OrderOutcomeUnknown,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.runtime.clock import Clock

T = TypeVar("T")


class Health(StrEnum):
    """What a call said about the broker's health, which is not whether it said yes."""

    SUCCESS = "success"
    """It answered as it should: 200, but also 400, 403 and 429."""
    FAILURE = "failure"
    """It could not be reached, or a read failed."""
    AMBIGUOUS = "ambiguous"
    """An order may have gone through: counts double, each repetition makes another unknown."""
    NEITHER = "neither"
    """Nothing was learnt: the caller was cancelled, or never got to ask."""


_WEIGHT: Final = {Health.FAILURE: 1, Health.AMBIGUOUS: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When a breaker opens and for how long.

    ``failures_max`` failures within ``window_s``, whatever succeeded between them, open it for
    ``open_s``; then one probe is let through at a time. A probe whose caller never reports back is
    given up after ``probe_s_max``.

    Raises:
        ConfigurationError: A number is not positive.
    """

    failures_max: int = 5
    window_s: float = 30.0
    open_s: float = 10.0
    probe_s_max: float = 30.0

    def __post_init__(self) -> None:
        """Check that it can open, and close again."""
        if min(self.failures_max, self.window_s, self.open_s, self.probe_s_max) <= 0:
            raise ConfigurationError(f"Condition failed: every number must be positive: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChange:
    """One transition, for metrics and events; ``at_ns`` is monotonic.

    ``is_resumed`` says that an earlier process had opened it.
    """

    name: str
    before: BreakerState
    after: BreakerState
    failures: int
    at_ns: int
    is_resumed: bool = False


class BreakerOpen(BrokerUnavailable):
    """The broker was not asked; nothing was sent."""


class Permit:
    """Leave to make one call; report what was learnt, or release it. The first of them counts.

    Also a context manager that releases at the end, so that no path leaves it open.
    """

    def __init__(self, reported: Callable[[Health], None]) -> None:
        self._reported: Callable[[Health], None] | None = reported

    def report(self, health: Health) -> None:
        """Report what the call said about the broker."""
        reported, self._reported = self._reported, None
        if reported is not None:
            reported(health)

    def succeeded(self) -> None:
        """Report that the broker answered."""
        self.report(Health.SUCCESS)

    def failed(self) -> None:
        """Report that it could not be reached."""
        self.report(Health.FAILURE)

    def release(self) -> None:
        """Report that nothing was learnt, unless something was reported before."""
        self.report(Health.NEITHER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Breaker:
    """One of an account's breakers (orders, reads, feed); belongs to one event loop."""

    def __init__(
        self,
        name: str,
        *,
        rules: BreakerRules,
        clock: Clock,
        on_change: Callable[[BreakerChange], None] | None = None,
    ) -> None:
        self.name = name
        self._rules = rules
        self._clock = clock
        self._on_change = on_change
        self._storage = _Window(clock, window_ns=round(rules.window_s * NS_PER_S))
        self._machine = pybreaker.CircuitBreaker(
            fail_max=rules.failures_max,
            state_storage=self._storage,
            throw_new_error_on_trip=False,
            listeners=[_Changes(self._changed)],
            name=name,
        )
        self._opened_at_ns = 0
        self._is_resuming = False
        self._period = 0  # counts state changes, so that a late report is known to be late
        self._probe_until_ns: int | None = None
        self._probe = 0  # number of the newest probe
        self.refused_count = 0

    @property
    def state(self) -> BreakerState:
        """The state as of the last admission or report; OPEN turns HALF_OPEN when asked."""
        return BreakerState(self._machine.current_state)

    @property
    def failures(self) -> int:
        """Weighted failures in the window; what ``failures_max`` is compared with."""
        return self._storage.counter

    @property
    def retry_in_s(self) -> float:
        """Seconds until asking is worth while; 0.0 when it is now."""
        now_ns = self._clock.monotonic_ns()
        if self.state is BreakerState.OPEN:
            return max(self._half_opens_ns() - now_ns, 0) / NS_PER_S
        if self.state is BreakerState.HALF_OPEN and self._probe_until_ns is not None:
            return max(self._probe_until_ns - now_ns, 0) / NS_PER_S
        return 0.0

    def admit(self, *, bypass: bool = False) -> Permit | None:
        """Return leave to make one call now, None when the broker is not to be asked.

        Args:
            bypass: For cancels: always admitted, and what they report changes nothing, since a
                broker that still cancels may well not place.
        """
        if bypass:
            return Permit(_ignore)
        now_ns = self._clock.monotonic_ns()
        if self.state is BreakerState.OPEN and now_ns >= self._half_opens_ns():
            self._machine.half_open()
        if self.state is BreakerState.CLOSED:
            period = self._period
            return Permit(lambda health: self._settle(health, period))
        if self.state is BreakerState.OPEN or self._is_probing(now_ns):
            self.refused_count += 1
            return None
        self._probe += 1
        self._probe_until_ns = now_ns + round(self._rules.probe_s_max * NS_PER_S)
        period, probe = self._period, self._probe
        return Permit(lambda health: self._settle_probe(health, period, probe))

    def ask(self) -> Permit | None:
        """Return leave to connect once, None while the broker is not asked; as :meth:`admit`."""
        return self.admit()

    def resume(self, *, open_for_s: float) -> None:
        """Be open as an earlier process left it, for what is left of the time.

        Args:
            open_for_s: How long it has been open; when that is all its time, the next call is let
                through as a probe.
        """
        if self.state is not BreakerState.CLOSED:
            return
        self._is_resuming = True
        try:
            self._machine.open()
        finally:
            self._is_resuming = False
        self._opened_at_ns -= round(max(open_for_s, 0.0) * NS_PER_S)

    def refuse_if_open(self) -> None:
        """Raise :class:`BreakerOpen` if a call would not be admitted now; ask for nothing."""
        if self.retry_in_s:
            self.refused_count += 1
            raise self._open()

    def _open(self) -> BreakerOpen:
        return BreakerOpen(f"breaker={self.name} is {self.state}, retry_in_s={self.retry_in_s:.1f}")

    async def call(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        judge: Callable[[T], Health] | None = None,
        bypass: bool = False,
    ) -> T:
        """Make one call if it is admitted, and learn from how it ends.

        Args:
            work: Makes the call; runs outside any lock.
            judge: What its result says about the broker; success if not given.
            bypass: See :meth:`admit`.

        Raises:
            BreakerOpen: Not admitted; ``work`` was not begun.
        """
        permit = self.admit(bypass=bypass)
        if permit is None:
            raise self._open()
        with permit:
            try:
                result = await work()
            except BrokerThrottled:
                permit.report(Health.SUCCESS)
                raise
            except (BrokerUnavailable, TimeoutError):
                permit.report(Health.FAILURE)
                raise
            except OrderOutcomeUnknown:
                permit.report(Health.AMBIGUOUS)
                raise
            except LoginRequired:
                permit.report(Health.SUCCESS)
                raise
            permit.report(Health.SUCCESS if judge is None else judge(result))
            return result

    def _half_opens_ns(self) -> int:
        return self._opened_at_ns + round(self._rules.open_s * NS_PER_S)

    def _is_probing(self, now_ns: int) -> bool:
        return self._probe_until_ns is not None and now_ns < self._probe_until_ns

    def _settle_probe(self, health: Health, period: int, probe: int) -> None:
        if probe == self._probe:
            self._probe_until_ns = None
            self._settle(health, period)

    def _settle(self, health: Health, period: int) -> None:
        if health is Health.NEITHER or period != self._period:
            return
        if health is Health.SUCCESS:
            self._machine.call(_succeed)
            return
        for _ in range(_WEIGHT[health]):
            if period == self._period:
                self._count_failure()

    def _count_failure(self) -> None:
        try:
            self._machine.call(_fail)
        except _Failure:
            return

    def _changed(self, before: str, after: str) -> None:
        failures = self._storage.counter
        self._period += 1
        self._probe_until_ns = None
        now_ns = self._clock.monotonic_ns()
        if after == BreakerState.OPEN:
            self._opened_at_ns = now_ns
        if after == BreakerState.CLOSED:
            self._storage.clear()
        if self._on_change is not None:
            self._on_change(
                BreakerChange(
                    name=self.name,
                    before=BreakerState(before),
                    after=BreakerState(after),
                    failures=failures,
                    at_ns=now_ns,
                    is_resumed=self._is_resuming,
                )
            )


class _Failure(Exception):  # noqa: N818 - never leaves this module
    """What a failed call is to pybreaker."""


def _succeed() -> None:
    return


def _fail() -> None:
    raise _Failure


def _ignore(_: Health) -> None:
    return


class _Window(pybreaker.CircuitMemoryStorage):
    """Counts failures of the last seconds instead of consecutive ones (trap 7)."""

    def __init__(self, clock: Clock, *, window_ns: int) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._clock = clock
        self._window_ns = window_ns
        self._failed_at_ns: deque[int] = deque()

    def increment_counter(self) -> None:
        """Count one failure, now."""
        self._failed_at_ns.append(self._clock.monotonic_ns())

    def reset_counter(self) -> None:
        """Do nothing: pybreaker calls this on every success, which is the trap."""

    def clear(self) -> None:
        """Forget all failures; the circuit has closed."""
        self._failed_at_ns.clear()

    @property
    def counter(self) -> int:
        """How many failures the window holds."""
        oldest_ns = self._clock.monotonic_ns() - self._window_ns
        while self._failed_at_ns and self._failed_at_ns[0] <= oldest_ns:
            self._failed_at_ns.popleft()
        return len(self._failed_at_ns)


class _Changes(pybreaker.CircuitBreakerListener):
    """Hands pybreaker's transitions on by name."""

    def __init__(self, changed: Callable[[str, str], None]) -> None:
        self._changed = changed

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,  # noqa: ARG002 - pybreaker's signature
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        """Report one transition."""
        before = pybreaker.STATE_CLOSED if old_state is None else old_state.name
        self._changed(before, new_state.name)
