"""What a component is handed instead of reaching for it: time, chance and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.telemetry import Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The run's clock, its source of jitter, and the registry its metrics live in."""

    clock: Clock
    chance: random.Random
    telemetry: Telemetry
