"""The runner behind ``./scripts/soak``: does the daemon stay as small as it was?

A simulator sends ticks, the daemon records them, makes bars and publishes; one subscriber reads,
another one joins and never does, and once in a while the exchange cuts every socket, so that what a
reconnection leaves behind is seen, too. Memory, descriptors and tasks are the daemon's own account
of itself in ``/metrics``. Exit status 1 means that something grew, by the rule below.

The rule: a fifth of the run is warm-up. Of what follows, the median of the last third may exceed
the median of the first third by 2 % or 8 MB of memory, whichever is more, and by one descriptor and
one task: medians, because a scrape or a reconnection under way has some of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import redis.asyncio

from app.console.demo_parts import Relay
from scripts.benchmarks import machine, service
from scripts.typed_numbers import positive, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from scripts.benchmarks.service import Daemon, Exchange

SECONDS_PER_MINUTE: Final = 60.0
SAMPLES_MIN: Final = 15
WARM_UP_RATIO: Final = 0.2
PARTS: Final = 3
MEMORY_GROWTH_RATIO_MAX: Final = 0.02
MEMORY_GROWTH_MB_MAX: Final = 8.0
COUNT_GROWTH_MAX: Final = 1.0
STRIKES_EACH_SIDE: Final = 100
SUBSCRIBED_MIN: Final = 1_000
BYTES_PER_MB: Final = 1e6
HTTP_S_MAX: Final = 10.0
BARS: Final = "1s,1m"
PART_S: Final = 60
"""Parts of a recording are begun and ended many times in a run."""
PREFIX: Final = "soak:"
HEADING: Final = f"{'minutes':>8} {'memory MB':>10} {'tasks':>6} {'fds':>5} {'ticks':>12}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the daemon took at one moment."""

    at_s: float
    memory_mb: float
    tasks: float
    fds: float
    ticks: float

    def line(self) -> str:
        """Return it as a line of the table."""
        return (
            f"{self.at_s / SECONDS_PER_MINUTE:8.2f} {self.memory_mb:10.1f} {self.tasks:6.0f} "
            f"{self.fds:5.0f} {self.ticks:12.0f}"
        )


def main() -> int:
    """Run, print a line per sample, and judge."""
    arguments = _arguments()
    samples = asyncio.run(_watched(arguments))
    found = growth(samples)
    for text in found:
        print(f"soak: not flat: {text}", file=sys.stderr)
    if not found:
        print("flat")
    return 1 if found else 0


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return what grew, by the rule of this module; empty when all is flat."""
    settled = samples[int(WARM_UP_RATIO * len(samples)) :]
    third = max(len(settled) // PARTS, 1)

    def medians(name: str) -> tuple[float, float]:
        values = [getattr(each, name) for each in settled]
        return statistics.median(values[:third]), statistics.median(values[-third:])

    found = []
    for name in ("memory_mb", "tasks", "fds"):
        first, last = medians(name)
        limit = COUNT_GROWTH_MAX
        if name == "memory_mb":
            limit = max(MEMORY_GROWTH_RATIO_MAX * first, MEMORY_GROWTH_MB_MAX)
        if last - first > limit:
            found.append(f"{name} {first:.1f} -> {last:.1f}, by more than {limit:.1f}")
    first, last = medians("ticks")
    if last <= first:
        found.append(f"ticks {first:.0f} -> {last:.0f}: the daemon stands still")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=positive, default=60.0, metavar="N")
    parser.add_argument("--rate", type=positive, default=20_000.0, help="ticks a second")
    parser.add_argument("--cut-every-s", type=positive, default=60.0, help="between two cuts")
    parser.add_argument(
        "--samples", type=whole(at_least=SAMPLES_MIN), default=120, help="lines of the table"
    )
    return parser.parse_args()


async def _watched(arguments: argparse.Namespace) -> list[Sample]:
    duration_s = arguments.minutes * SECONDS_PER_MINUTE
    async with contextlib.AsyncExitStack() as stack:
        relay = Relay(is_open=False)
        exchange = await service.exchange(
            stack,
            relay,
            f"--rate={arguments.rate}",
            f"--strikes-each-side={STRIKES_EACH_SIDE}",
            "--nearest-expiry-days=7",
        )
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))
        settings = exchange.settings(
            CHANNEL_PREFIX=PREFIX,
            STRIKES_EACH_SIDE=STRIKES_EACH_SIDE,
            BARS=BARS,
            RECORD="true",
            RECORD_FOLDER=folder,
            RECORD_PART_S=PART_S,
        )
        daemon = await stack.enter_async_context(service.daemon(relay, settings))
        await daemon.becomes_ready(subscribed_min=SUBSCRIBED_MIN)
        heard = (exchange.redis_url, f"{PREFIX}ticks:*", str(duration_s + HTTP_S_MAX))
        with machine.on_other_cores():
            stack.enter_context(service.module("live_listener", *heard))
        await stack.enter_async_context(_deaf(exchange.redis_url))
        await stack.enter_async_context(_cutting(exchange, arguments.cut_every_s))
        return await _samples(daemon, duration_s, arguments.samples)


async def _samples(daemon: Daemon, duration_s: float, count: int) -> list[Sample]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    samples = []
    print(HEADING)
    for number in range(count):
        due = began + duration_s * (number + 1) / count
        await asyncio.sleep(due - loop.time())
        metrics = await daemon.metrics()
        sample = Sample(
            at_s=loop.time() - began,
            memory_mb=metrics[service.RESIDENT_BYTES] / BYTES_PER_MB,
            tasks=metrics[service.TASKS],
            fds=metrics[service.OPEN_FDS],
            ticks=metrics["feed_packets_total"],
        )
        print(sample.line(), flush=True)
        samples.append(sample)
    return samples


@contextlib.asynccontextmanager
async def _deaf(redis_url: str) -> AsyncIterator[None]:
    """Hold a subscriber that reads nothing of what it asked for, for the length of the block.

    Redis drops it at its limit; it must cost the daemon nothing, before and after.
    """
    async with redis.asyncio.Redis.from_url(redis_url) as client, client.pubsub() as pubsub:
        await pubsub.psubscribe(f"{PREFIX}ticks:*")
        yield


@contextlib.asynccontextmanager
async def _cutting(exchange: Exchange, every_s: float) -> AsyncIterator[None]:
    """Cut every socket of the exchange now and then, for the length of the block."""

    async def cut() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as http:
            while True:
                await asyncio.sleep(every_s)
                answer = await http.post(
                    f"{exchange.rest_root}/sim/faults", json={"fault": "kill_sockets"}
                )
                answer.raise_for_status()

    async with asyncio.TaskGroup() as tasks:
        cutting = tasks.create_task(cut(), name="cutting")
        try:
            yield
        finally:
            cutting.cancel()


if __name__ == "__main__":
    sys.exit(main())
