"""The orders that an account has just taken: who asks how often, and who asks twice.

Kept in memory for as long as a limit can ask for: a process that has just started has taken none.
Bounded; beside the risk gate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.risk_input import Earlier

if TYPE_CHECKING:
    import uuid

    from ticker_service.domain.order import NewTask

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


class RecentOrders:
    """One account's, oldest first; belongs to one event loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self._taken: deque[_Taken] = deque(maxlen=KEPT_MAX)

    def take(self, new: NewTask, *, monotonic_ns: int) -> None:
        """Remember a new order from before it is journalled."""
        while self._taken and monotonic_ns - self._taken[0].at_ns > KEPT_S * NS_PER_S:
            self._taken.popleft()
        fingerprint, key = _fingerprint(new), new.client_order_id
        self._taken.append(
            _Taken(monotonic_ns, new.task_id, new.principal, key, new.job_id, fingerprint)
        )

    def forget(self, new: NewTask) -> None:
        """Forget an order that was not taken after all."""
        kept = [each for each in self._taken if each.task_id != new.task_id]
        if len(kept) < len(self._taken):
            self._taken = deque(kept, maxlen=KEPT_MAX)

    def like(self, new: NewTask, *, within_s: float, monotonic_ns: int) -> Earlier | None:
        """Return the newest order that says the same under another key.

        Parts of one job are alike on purpose, and so is the same key again.
        """
        fingerprint = _fingerprint(new)
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


def _fingerprint(new: NewTask) -> tuple[str, ...]:
    return tuple(new.body.get(name, "").strip().upper() for name in _FINGERPRINT)
