"""The orders that an account has just taken: who asks how often, and who asks twice.

Kept in memory for as long as a limit can ask for; what was taken before, by whichever process, is
read from the journal as far back as a limit looks. Bounded; beside the risk gate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.risk_input import Earlier

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Mapping

    from ticker_service.domain.order import Account, NewTask
    from ticker_service.domain.risk import RiskLimits
    from ticker_service.ports import OrderJournal, PastOrder
    from ticker_service.runtime.clock import Clock

KEPT_S: Final = 3_600
KEPT_MAX: Final = 20_000
"""More orders than a broker takes in a day; beyond it the oldest goes."""
RATE_S: Final = 60
_SAME: Final = ("exchange", "tradingsymbol", "transaction_type", "order_type", "product")
_FINGERPRINT: Final = (*_SAME, "quantity", "price", "trigger_price")


@dataclass(frozen=True, slots=True)
class _Taken:
    at_ns: int
    task_id: uuid.UUID
    principal: str
    key: str
    job_id: uuid.UUID | None
    fingerprint: tuple[str, ...]


def looks_back_s(limits: RiskLimits) -> float:
    """Return how far back the limits of an account look, seconds."""
    rate_s = 0 if limits.orders_per_minute_max is None else RATE_S
    return max(rate_s, float(limits.duplicate_window_s or 0))


class RecentOrders:
    """One account's, oldest first; belongs to one event loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self.read_back_s = 0.0
        """So far back the journal was read when it was; since then all is known."""
        self._taken: deque[_Taken] = deque(maxlen=KEPT_MAX)

    def doubt(self) -> None:
        """Let the journal be read again: the account may have been another daemon's meanwhile."""
        self.read_back_s = 0.0

    async def read(
        self, back_s: float, journal: OrderJournal, account: Account, clock: Clock
    ) -> None:
        """Take what the journal has of the last seconds beside what this process took itself.

        Raises:
            JournalUnavailable: What was taken is not known.
        """
        since_ns = clock.now_ns() - int(back_s * NS_PER_S)
        orders = await journal.orders_since(account, since_ns, limit=KEPT_MAX)
        self._add(orders, now_ns=clock.now_ns(), monotonic_ns=clock.monotonic_ns())
        self.read_back_s = back_s

    def take(self, new: NewTask, *, monotonic_ns: int) -> None:
        """Remember a new order from before it is journalled."""
        while self._taken and monotonic_ns - self._taken[0].at_ns > KEPT_S * NS_PER_S:
            self._taken.popleft()
        fingerprint, key = _fingerprint(new.body), new.client_order_id
        self._taken.append(
            _Taken(monotonic_ns, new.task_id, new.principal, key, new.job_id, fingerprint)
        )

    def _add(self, orders: Iterable[PastOrder], *, now_ns: int, monotonic_ns: int) -> None:
        known = {each.task_id: each for each in self._taken}
        for order in orders:
            # What another machine's clock has in the future is as young as can be.
            at_ns = monotonic_ns - max(now_ns - order.at_ns, 0)
            taken = _Taken(
                at_ns,
                order.task_id,
                order.principal,
                order.client_order_id,
                order.job_id,
                _fingerprint(order.body),
            )
            known.setdefault(order.task_id, taken)
        self._taken = deque(sorted(known.values(), key=lambda each: each.at_ns), maxlen=KEPT_MAX)

    def forget(self, new: NewTask) -> None:
        """Forget an order that was not taken after all."""
        kept = [each for each in self._taken if each.task_id != new.task_id]
        if len(kept) < len(self._taken):
            self._taken = deque(kept, maxlen=KEPT_MAX)

    def like(self, new: NewTask, *, within_s: float, monotonic_ns: int) -> Earlier | None:
        """Return the newest order that says the same under another key.

        Parts of one job are alike on purpose, and so is the same key again.
        """
        fingerprint = _fingerprint(new.body)
        for each in reversed(self._taken):
            age_s = (monotonic_ns - each.at_ns) / NS_PER_S
            if age_s > within_s:
                return None
            is_same_key = (each.principal, each.key) == (new.principal, new.client_order_id)
            is_same_job = new.job_id is not None and each.job_id == new.job_id
            if each.fingerprint == fingerprint and not is_same_key and not is_same_job:
                return Earlier(each.key, age_s)
        return None

    def of_minute(self, principal: str, *, monotonic_ns: int) -> int:
        """Return how many orders of a caller were taken in the last 60 s."""
        count = 0
        for each in reversed(self._taken):
            if monotonic_ns - each.at_ns > RATE_S * NS_PER_S:
                break
            count += each.principal == principal
        return count


def _fingerprint(body: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(body.get(name, "").strip().upper() for name in _FINGERPRINT)
