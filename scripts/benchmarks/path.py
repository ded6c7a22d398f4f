"""Suite ``path``: frames to published batches, every step of the real path, against the usual one.

5,000 ticks in full mode wait at each flush: at the rates that are reached here the flush limit of
1 MiB ends a flush long before its 20 ms are over. They come over three connections, from a market
of 5,790 instruments, nearly all of them options; every option is priced, depth is published, and a
real Valkey on another core confirms each flush. The peer does the same with the same frames. Both
have to publish the same numbers, volatilities to 1e-9.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import io
import math
import os
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import redis
import uvloop

from app.embedded import embedded_redis_process
from scripts.benchmarks import machine, scene
from scripts.benchmarks.measure import Disagreement, Options, Result, compared, interleaved
from scripts.benchmarks.path_peer import UsualPath
from scripts.benchmarks.steps import Steps
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.config import Encoding

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scripts.benchmarks.scene import Flush, Scene
    from ticker_service.domain.universe import Universe
    from ticker_service.market.pipeline import TickPath
    from ticker_service.ports import Outgoing, TickPublisher
    from ticker_service.runtime.clock import ManualClock

FLUSHES: Final = 20
FLUSHES_QUICK: Final = 2
PREFIX: Final = "bench:"
TOLERANCE: Final = 1e-9
GOALS: Final = {Encoding.JSON: (500e3, 30.0), Encoding.ARROW: (1e6, 60.0)}
NS_PER_S: Final = 1e9
US_PER_S: Final = 1e6
_SAME: Final = {
    "last_price": "ltp",
    "volume_traded": "volume",
    "total_buy_quantity": "buy_quantity",
    "oi": "oi",
}
"""Numbers of the peer's messages under our names; depth is looked at besides."""


def run(options: Options) -> list[Result]:
    """Check, measure and return the comparisons."""
    played = scene.play(FLUSHES_QUICK if options.is_quick else FLUSHES)
    with redis_elsewhere() as url, runner() as runs:
        return [
            compared_path(
                Ours(played, url, encoding, runs),
                options,
                name=f"path_{encoding}",
                goals=GOALS[encoding],
            )
            for encoding in GOALS
        ]


def compared_path(
    ours: Ours,
    options: Options,
    *,
    name: str,
    goals: tuple[float | None, float | None] = (None, None),
) -> Result:
    """Hold our path to the usual one, measure both, and say where our time goes.

    Args:
        ours: Our path.
        options: How many turns.
        name: What the result is called.
        goals: The rate and the ratio that were promised.
    """
    played = ours.played
    peer = UsualPath(played.universe, ours.url, prefix=PREFIX)
    forwards = ours.check(peer)

    def theirs() -> float:
        began = time.thread_time()
        peer.publish(played.flushes[0].frames, forwards)
        # As many ticks as ours has: it would take a minute to let it do them all.
        return (time.thread_time() - began) * len(played.flushes)

    turns = interleaved({"ours": ours.turn, "peer": theirs}, runs=options.runs)
    steps = ours.steps()
    peer.close()
    return compared(
        name,
        turns["ours"],
        turns["peer"],
        items=played.ticks,
        unit="ticks/s",
        against="_parse_binary, vollib, orjson and redis-py per tick",
        ours_goal=goals[0],
        ratio_goal=goals[1],
        more={
            "ticks_per_flush": played.flush_ticks,
            "us_per_flush": turns["ours"].median_s / len(played.flushes) * US_PER_S,
            "bytes_per_tick": ours.bytes_per_tick,
            **{f"ns_{step}": spent * NS_PER_S / played.ticks for step, spent in steps.items()},
        },
    )


class RealPath(abc.ABC):
    """The real path; a turn carries all flushes down a new one, after an opening that is not timed.

    A new one, because the path rightly refuses ticks that it has seen before.
    """

    def __init__(
        self,
        universe: Universe,
        flushes: Sequence[Flush],
        *,
        url: str,
        encoding: Encoding,
        runner: Runner,
    ) -> None:
        self.url = url
        self._flushes = flushes
        self._encoding = encoding
        self._runner = runner
        self._wanted = np.ones(len(universe), np.bool_)

    def turn(self) -> float:
        """Publish everything once; return the CPU seconds it took."""
        seconds: float = self._runner.run(self._carry(self._publisher()))
        return seconds

    def steps(self) -> dict[str, float]:
        """Publish everything once more and return the CPU seconds of each step."""
        steps = Steps()
        with steps.watched():
            self._runner.run(self._carry(self._publisher(), steps))
        return steps.seconds

    def first(self) -> tuple[list[dict[str, Any]], NDArray[np.float64], list[bytes]]:
        """Publish the first flush; return its rows, its forwards, and its messages."""
        kept = Kept(self._publisher())
        forwards: NDArray[np.float64] = self._runner.run(self._first(kept))
        messages = [message for _, message in kept.messages]
        rows = [row for message in messages for row in rows_of(self._encoding, message)]
        return rows, forwards, messages

    async def _carry(self, publisher: RedisPublisher, steps: Steps | None = None) -> float:
        path, clock = await self._opened(publisher)
        if steps is not None:
            steps.watch(path)
        began = time.thread_time()
        for flush in self._flushes:
            scene.set_clock(clock, flush.now_ns)
            await path.flush(flush.frames, self._wanted)
        seconds = time.thread_time() - began
        await publisher.close()
        return seconds

    async def _first(self, publisher: Kept) -> NDArray[np.float64]:
        path, clock = await self._opened(publisher)
        publisher.messages.clear()
        flush = self._flushes[0]
        scene.set_clock(clock, flush.now_ns)
        await path.flush(flush.frames, self._wanted)
        await publisher.close()
        return path.pricer.forwards.value.copy()

    @abc.abstractmethod
    async def _opened(self, publisher: TickPublisher) -> tuple[TickPath, ManualClock]:
        """Return a new path and its clock, after the opening."""

    def _publisher(self) -> RedisPublisher:
        return RedisPublisher(self.url, channel_prefix=PREFIX)


class Ours(RealPath):
    """The real path on a played scene."""

    def __init__(self, played: Scene, url: str, encoding: Encoding, runner: Runner) -> None:
        super().__init__(played.universe, played.flushes, url=url, encoding=encoding, runner=runner)
        self.played = played
        self.bytes_per_tick = 0.0

    def check(self, peer: UsualPath) -> NDArray[np.float64]:
        """Hold the first flush to the peer's; return the forwards that it was priced with."""
        rows, forwards, messages = self.first()
        theirs = peer.publish(self.played.flushes[0].frames, forwards)
        same_rows(rows, theirs)
        self.bytes_per_tick = sum(map(len, messages)) / len(theirs)
        return forwards

    async def _opened(self, publisher: TickPublisher) -> tuple[TickPath, ManualClock]:
        path, clock = scene.path(self.played, publisher, [self._encoding], prefix=PREFIX)
        await path.flush(self.played.opening.frames, self._wanted)
        return path, clock


class Kept:
    """A publisher that also keeps what it sends."""

    def __init__(self, publisher: RedisPublisher) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._publisher = publisher

    async def send(self, outgoing: Outgoing) -> None:
        """Send and keep."""
        await self._publisher.send(outgoing)
        self.messages += [(channel, bytes(message)) for channel, message in outgoing.messages]

    async def close(self) -> None:
        """Give the connections back."""
        await self._publisher.close()


def rows_of(encoding: Encoding, message: bytes) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, each a value by column."""
    if encoding is Encoding.JSON:
        columns = orjson.loads(message)["columns"]
    else:
        columns = pa.ipc.open_stream(io.BytesIO(message)).read_all().to_pydict()
    names = list(columns)
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(names, cells, strict=True))


def same_rows(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> None:
    """Hold our rows of one flush to the peer's messages."""
    by_token = {row["instrument_token"]: row for row in ours}
    if len(by_token) != len(theirs):
        raise Disagreement(f"{len(theirs)} instruments, ours {len(by_token)}")
    own_solved = 0
    for tick in theirs:
        row = by_token[tick["instrument_token"]]
        pairs = [(name, tick[name], row[own]) for name, own in _SAME.items() if name in tick]
        for side, own in (("buy", "bid"), ("sell", "ask")):
            for level, entry in enumerate(tick.get("depth", {}).get(side, ()), start=1):
                pairs += [
                    (f"{side} {name} {level}", value, row[f"{own}_{name}_{level}"])
                    for name, value in entry.items()
                ]
        if row["iv_leg"] == "own" and row["price_source"] == "mid" and row["iv_status"] == "OK":
            own_solved += 1
            pairs.append(("volatility", tick["implied_volatility"], row["implied_volatility"]))
        for name, their, our in pairs:
            # What is zero for the parser is missing for us.
            if not math.isclose(their or 0.0, our or 0.0, rel_tol=TOLERANCE):
                token = tick["instrument_token"]
                raise Disagreement(f"token={token} {name}: {their!r}, ours {our!r}")
    if own_solved < len(theirs) / 4:
        raise Disagreement(f"only {own_solved} of {len(theirs)} volatilities could be compared")


def runner() -> Runner:
    """Return what runs our path, on the event loop that the daemon has."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@contextlib.contextmanager
def redis_elsewhere() -> Iterator[str]:
    """Run a server for the length of the block where we do not run; yield its URL."""
    with embedded_redis_process() as server:
        client = redis.Redis.from_url(server.url)
        cores = machine.other_cores()
        if cores:
            os.sched_setaffinity(client.info("server")["process_id"], cores)
        client.close()
        yield server.url
