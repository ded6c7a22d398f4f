"""Suite ``live``: the service under a real load, in real time, each part a process.

A simulator sends 60,000 ticks a second in full mode over three sockets, for 8,982 options of three
indices (one api_key carries 9,000 instruments), and a subscriber of its own process says how old
each row is when it has come: from the frame's receipt by the daemon to the receipt of the message.
The daemon has a core to itself; simulator, Redis and subscriber share the others. The peer, in the
daemon's place on the same simulator, is ``live_peer``: the usual libraries, conflating.

Latencies are of the clock, so the result says how busy the machine was, too: for how long the
daemon was ready to run and had no core, how often it was interrupted, what the host took.

Rates are latencies upside down, so that more is better: 100/s is a p99 of 10 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.console.demo_parts import Relay
from scripts.benchmarks import machine, service
from scripts.benchmarks.measure import Options, Result

if TYPE_CHECKING:
    from scripts.benchmarks.service import Exchange

TICKS_PER_S: Final = 60_000
STEPS_PER_S: Final = 100
EXPIRY_DAYS_MIN: Final = 7
INTERVALS_MS: Final = (5, 20, 100)
GOAL_INTERVAL_MS: Final = 5
GOAL_P99_MS: Final = 15.0
GOAL_CPU_SHARE: Final = 0.35
MS_PER_S: Final = 1e3
PREFIX: Final = "live:"
FLUSHES: Final = "publish_latency_ms_count"


def run(options: Options) -> list[Result]:
    """Measure the peer, then the daemon at each interval."""
    return asyncio.run(_measured(QUICK if options.is_quick else WHOLE))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extent:
    """How much is looked at, for how long.

    ``settle_s`` lets pass what comes once: first prices, first rates, code that has never run.
    """

    strikes_each_side: int = 249
    settle_s: float = 4.0
    window_s: float = 15.0

    @property
    def options(self) -> int:
        """Calls and puts of three expiries of each index."""
        return len(service.UNDERLYINGS) * 3 * 2 * (2 * self.strikes_each_side + 1)


WHOLE: Final = _Extent()
QUICK: Final = _Extent(strikes_each_side=20, settle_s=1.0, window_s=1.0)


async def _measured(extent: _Extent) -> list[Result]:
    arguments = {
        "rate": TICKS_PER_S,
        "steps-per-s": STEPS_PER_S,
        "strikes-each-side": extent.strikes_each_side,
        "nearest-expiry-days": EXPIRY_DAYS_MIN,
        "truth-history-s": 2,
    }
    async with contextlib.AsyncExitStack() as stack:
        relay = Relay(is_open=False)
        exchange = await service.exchange(
            stack, relay, *(f"--{name}={value}" for name, value in arguments.items())
        )
        peer = await _peer(exchange, extent)
        return [
            _result(interval_ms, await _ours(exchange, relay, interval_ms, extent), peer)
            for interval_ms in INTERVALS_MS
        ]


async def _peer(exchange: Exchange, extent: _Extent) -> dict[str, float]:
    with service.module("live_peer") as peer:
        service.say(exchange.as_json(), peer.stdin)
        await service.line_of(peer)  # it publishes
        await asyncio.sleep(extent.settle_s)
        return await _heard(exchange, "peer:ticks:*", extent)


async def _ours(
    exchange: Exchange, relay: Relay, interval_ms: int, extent: _Extent
) -> dict[str, float]:
    settings = exchange.settings(
        CHANNEL_PREFIX=PREFIX, FLUSH_INTERVAL_MS=interval_ms, STRIKES_EACH_SIDE=500
    )
    async with service.daemon(relay, settings) as daemon:
        await daemon.becomes_ready(subscribed_min=extent.options)
        await asyncio.sleep(extent.settle_s)
        before = await daemon.metrics()
        waited = machine.waits(daemon.pid)
        began = asyncio.get_running_loop().time()
        heard = await _heard(exchange, f"{PREFIX}ticks:*", extent)
        after = await daemon.metrics()
        waited_since = machine.waits(daemon.pid)
        lasted_s = asyncio.get_running_loop().time() - began
    rate = {
        name: (after[name] - before[name]) / lasted_s
        for name in (service.CPU_SECONDS, "feed_packets_total", "feed_frames_total", FLUSHES)
    }
    return {
        **heard,
        "cpu_share": rate[service.CPU_SECONDS],
        "ticks_per_s": rate["feed_packets_total"],
        "frames_per_s": rate["feed_frames_total"],
        "flushes_per_s": rate[FLUSHES],
        "conflated": after["ticks_conflated_total"] - before["ticks_conflated_total"],
        **(waited.until(waited_since) if waited and waited_since else {}),
    }


async def _heard(exchange: Exchange, pattern: str, extent: _Extent) -> dict[str, Any]:
    """Return what a subscriber saw, who listened for so long."""
    arguments = (exchange.redis_url, pattern, str(extent.window_s))
    with machine.on_other_cores(), service.module("live_listener", *arguments) as listener:
        await service.line_of(listener)  # it is listening
        found: dict[str, Any] = await service.line_of(listener)
    return found


def _result(interval_ms: int, ours: dict[str, float], peer: dict[str, float]) -> Result:
    is_promised = interval_ms == GOAL_INTERVAL_MS
    return Result(
        name=f"live_{interval_ms}ms",
        ours=MS_PER_S / ours["p99_ms"],
        peer=MS_PER_S / peer["p99_ms"],
        unit="1/s, of p99",
        against="_parse_binary, vollib, orjson and redis-py, the newest of each instrument",
        ours_goal=MS_PER_S / GOAL_P99_MS if is_promised else None,
        more={
            **ours,
            **{f"peer_{name}": value for name, value in peer.items()},
        },
        at_most={"cpu_share": GOAL_CPU_SHARE} if is_promised else {},
    )
