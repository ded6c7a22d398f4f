"""How long to wait before trying again; the only place that decides it.

Capped exponential with full jitter, so that many clients of one server that came back do not return
together. Only for what provably changed nothing at the other side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Limits of one kind of retry, in seconds."""

    delay_s_min: float
    delay_s_max: float

    def delay_s(self, attempt: int, chance: random.Random) -> float:
        """Return the wait before attempt ``attempt + 1``; ``attempt`` counts from 0.

        Args:
            attempt: How many attempts have failed since the last success.
            chance: Source of the jitter.
        """
        # The exponent is capped before it is used: a month of failures must not overflow a float.
        ceiling = min(self.delay_s_max, self.delay_s_min * 2.0 ** min(attempt + 1, 32))
        return self.delay_s_min + chance.random() * max(ceiling - self.delay_s_min, 0.0)
