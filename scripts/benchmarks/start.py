"""Suite ``start``: a daemon from nothing to its first tick, and the memory it then takes.

The dump has 100,000 lines, as Kite's has. The universe, what the settings may subscribe today, has
27,000 instruments: the chains of three indices and of twenty shares; of these the daemon subscribes
the windows round the money, as many as one api_key carries. The peer does what a user does:
``kiteconnect.KiteConnect.instruments()``, a dict per line, and then the usual path (``path_peer``)
on the same tokens, until its first tick is out.

Rates are seconds and gigabytes upside down, so that more is better.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from typing import TYPE_CHECKING, Final

import redis.asyncio

from app.console.demo_parts import Relay
from scripts.benchmarks import service
from scripts.benchmarks.measure import Options, Result
from ticker_service.simulator.listing import EQUITIES

if TYPE_CHECKING:
    from scripts.benchmarks.service import Exchange

DUMP_LINES: Final = 100_000
STRIKES_EACH_SIDE: Final = 249
SHARES: Final = 20
WINDOW_STRIKES_EACH_SIDE: Final = 31
RUNS_MAX: Final = 3
SETTLE_S: Final = 10.0
SETTLE_S_QUICK: Final = 1.0
FIRST_TICK_S_MAX: Final = 60.0
START_S_GOAL: Final = 3.0
MEMORY_MB_GOAL: Final = 400.0
MB: Final = 1e6
MB_PER_GB: Final = 1e3
PREFIX: Final = "start:"


def run(options: Options) -> list[Result]:
    """Start both sides in turn; the daemon's last start stays up to be weighed."""
    return asyncio.run(_measured(options))


async def _measured(options: Options) -> list[Result]:
    async with contextlib.AsyncExitStack() as stack:
        relay = Relay(is_open=False)
        exchange = await service.exchange(
            stack,
            relay,
            f"--instruments={DUMP_LINES}",
            f"--strikes-each-side={STRIKES_EACH_SIDE}",
            "--nearest-expiry-days=7",
        )
        settle_s = SETTLE_S_QUICK if options.is_quick else SETTLE_S
        theirs, ours = [], []
        for _ in range(1 if options.is_quick else min(options.runs, RUNS_MAX)):
            theirs.append(await _peer(exchange))
            ours.append(await _ours(exchange, relay, settle_s))
    return [_started(ours, theirs), _weighed(ours, theirs)]


async def _peer(exchange: Exchange) -> dict[str, float]:
    began = asyncio.get_running_loop().time()
    with service.module("start_peer") as peer:
        service.say(exchange.as_json(), peer.stdin)
        async with asyncio.timeout(FIRST_TICK_S_MAX):
            found: dict[str, float] = await service.line_of(peer)
        return {**found, "start_s": asyncio.get_running_loop().time() - began}


async def _ours(exchange: Exchange, relay: Relay, settle_s: float) -> dict[str, float]:
    shares = [symbol for symbol, *_ in EQUITIES[:SHARES]]
    settings = exchange.settings(
        CHANNEL_PREFIX=PREFIX,
        UNDERLYINGS=",".join([*service.UNDERLYINGS, *shares]),
        STRIKES_EACH_SIDE=WINDOW_STRIKES_EACH_SIDE,
    )
    loop = asyncio.get_running_loop()
    async with redis.asyncio.Redis.from_url(exchange.redis_url) as client, client.pubsub() as heard:
        await heard.psubscribe(f"{PREFIX}ticks:*")
        began = loop.time()
        async with service.daemon(relay, settings) as daemon, asyncio.timeout(FIRST_TICK_S_MAX):
            async for message in heard.listen():
                if message["type"] == "pmessage" and b'"kind":"batch"' in message["data"]:
                    break
            start_s = loop.time() - began
            await daemon.becomes_ready(subscribed_min=len(shares) * WINDOW_STRIKES_EACH_SIDE)
            await asyncio.sleep(settle_s)
            metrics = await daemon.metrics()
            health = await daemon.health()
    return {
        "start_s": start_s,
        "resident_mb": metrics[service.RESIDENT_BYTES] / MB,
        "subscribed": health["subscribed"],
    }


def _started(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> Result:
    own_s, their_s = (
        statistics.median(each["start_s"] for each in side) for side in (ours, theirs)
    )
    return Result(
        name="start_100k",
        ours=1.0 / own_s,
        peer=1.0 / their_s,
        unit="1/s",
        against="KiteConnect.instruments(), and the usual path to its first tick",
        more={"start_s": own_s, "peer_start_s": their_s, "dump_lines": DUMP_LINES},
        at_most={"start_s": START_S_GOAL},
    )


def _weighed(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> Result:
    own_mb = statistics.median(each["resident_mb"] for each in ours)
    their_mb = statistics.median(each["resident_mb"] for each in theirs)
    return Result(
        name="memory_27k",
        ours=MB_PER_GB / own_mb,
        peer=MB_PER_GB / their_mb,
        unit="1/GB",
        against="the same, with its list of dicts",
        more={
            "resident_mb": own_mb,
            "peer_resident_mb": their_mb,
            "universe": theirs[0]["universe"],
            "subscribed": ours[0]["subscribed"],
        },
        at_most={"resident_mb": MEMORY_MB_GOAL},
    )
