"""What the suites of the whole path share: a day of the simulated market as frames, and the path.

Times are the market's own: a clock that is set by hand says when each flush happens, so that every
run prices the same instants and nothing depends on how long the run takes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from scripts.benchmarks.frames import OPENS_AT_NS, SEED, STRIKES_EACH_SIDE
from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.config import EngineConfig, KiteConfig, PublishConfig, SubscriptionConfig
from ticker_service.constants import NS_PER_MS
from ticker_service.domain import universe as universes
from ticker_service.domain.session import ist_date
from ticker_service.domain.tick import Mode
from ticker_service.market.pipeline import TickPath
from ticker_service.ports import Frame
from ticker_service.runtime.clock import ManualClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ticker_service.config import Encoding
    from ticker_service.domain.universe import Universe
    from ticker_service.ports import TickPublisher

UNDERLYINGS: Final = ("NIFTY", "BANKNIFTY", "SENSEX")
EXPIRIES: Final = 3
EXPIRY_DAYS_MIN: Final = 21
"""So far ahead that the wings of a chain of 321 strikes are quoted."""
CONNECTIONS: Final = 3
FLUSH_TICKS: Final = 5_000
FLUSH_INTERVAL_NS: Final = 20 * NS_PER_MS
STEPS_PER_S: Final = 50
"""A step of the market per flush."""
RATE_PER_S: Final = 20.0 * FLUSH_TICKS * STEPS_PER_S
"""So much more than is taken that every instrument has news in every step."""


@dataclass(frozen=True, slots=True)
class Flush:
    """What waits at one flush, and when it happens (ns since the Unix epoch)."""

    now_ns: int
    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class Scene:
    """A universe, the first tick of every instrument, and the flushes after it."""

    universe: Universe
    opening: Flush
    flushes: list[Flush]
    flush_ticks: int

    @property
    def ticks(self) -> int:
        """All that come after the first of each instrument."""
        return len(self.flushes) * self.flush_ticks


def play(flushes: int, *, flush_ticks: int = FLUSH_TICKS) -> Scene:
    """Return a stretch of the simulated market in full mode, over three connections.

    Args:
        flushes: How many.
        flush_ticks: What waits at each, from as many instruments.
    """
    options = SimulatorOptions(
        seed=SEED,
        strikes_each_side=STRIKES_EACH_SIDE,
        rate_per_s=RATE_PER_S,
        steps_per_s=STEPS_PER_S,
        nearest_expiry_days_min=EXPIRY_DAYS_MIN,
    )
    market = Market(options, now_ns=OPENS_AT_NS)
    chosen = universes.select(
        parse_dump(market.catalogue.dump(market.last_price_inr).decode()),
        underlyings=UNDERLYINGS,
        instruments=(),
        expiries_max=EXPIRIES,
        today=ist_date(OPENS_AT_NS),
    )
    is_ours = np.isin(market.catalogue.instrument_token, chosen.instrument_token)
    opening = Flush(OPENS_AT_NS, _frames(market, np.flatnonzero(is_ours), OPENS_AT_NS))
    rng = np.random.default_rng(SEED)
    played = [
        _flush(market, is_ours, rng, number=number, ticks=flush_ticks) for number in range(flushes)
    ]
    return Scene(chosen, opening, played, flush_ticks=flush_ticks)


def path(
    scene: Scene, publisher: TickPublisher, encodings: Sequence[Encoding], *, prefix: str
) -> tuple[TickPath, ManualClock]:
    """Return the path as the engine makes it, and its clock."""
    clock = ManualClock(OPENS_AT_NS)
    config = EngineConfig(
        kite=KiteConfig(rest_root="", ws_root="", api_key="", access_token=""),
        redis_url="",
        subscription=SubscriptionConfig(underlyings=UNDERLYINGS, expiries_max=EXPIRIES),
        publish=PublishConfig(depth=True, encodings=tuple(encodings), channel_prefix=prefix),
    )
    surroundings = Surroundings(
        clock=clock,
        chance=random.Random(SEED),  # noqa: S311 - jitter of retries
        telemetry=Telemetry(),
    )
    return (
        TickPath(scene.universe, config, publisher, surroundings=surroundings, pause=_never),
        clock,
    )


def set_clock(clock: ManualClock, now_ns: int) -> None:
    """Set a path's clock to the instant of a flush."""
    clock.advance(now_ns - clock.now_ns())


def _flush(
    market: Market, is_ours: NDArray[np.bool_], rng: np.random.Generator, *, number: int, ticks: int
) -> Flush:
    made_ns = OPENS_AT_NS + number * FLUSH_INTERVAL_NS
    changed = market.step(made_ns).rows
    changed = changed[is_ours[changed]]
    rows = np.sort(rng.choice(changed, ticks, replace=False))
    received_at_ns = made_ns + FLUSH_INTERVAL_NS // 2
    return Flush(made_ns + FLUSH_INTERVAL_NS, _frames(market, rows, received_at_ns))


def _frames(market: Market, rows: NDArray[np.intp], received_at_ns: int) -> list[Frame]:
    """Pack rows as three connections send them, an instrument always on the same one."""
    return [
        Frame(received_at_ns, payload)
        for connection in range(CONNECTIONS)
        for mine in [rows[rows % CONNECTIONS == connection]]
        for payload in market.packets.frames(mine, np.full(len(mine), Mode.FULL, np.uint8))
    ]


async def _never(attempt: int) -> None:
    raise AssertionError(f"a send failed: attempt {attempt}")
