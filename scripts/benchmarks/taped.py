"""Suite ``path --tape FILE``: frames of a recorded day to published batches, against the usual way.

As suite ``path``, with the frames that a feed really brought in the place of a simulated market's:
both sides get the same bytes. They come as they did, in the recording's own universe and settings;
those that came within a quarter of a second wait together, 5,000 ticks at most. The first third of
what is taken opens both paths and is not timed. It is taken from the middle of the recording, where
markets are open.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from scripts.benchmarks import scene
from scripts.benchmarks.measure import Disagreement, Options, Result, compared, interleaved
from scripts.benchmarks.path import PREFIX, RealPath, redis_elsewhere, runner, same_rows
from scripts.benchmarks.path_peer import UsualPath
from ticker_service.config import BarsConfig, Encoding
from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.market import tape
from ticker_service.market.packets import HEARTBEAT_BYTES_MAX
from ticker_service.market.pipeline import TickPath
from ticker_service.market.replay import Recording
from ticker_service.market.tape import Tape
from ticker_service.runtime.clock import ManualClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from scripts.benchmarks.scene import Flush
    from ticker_service.market.tape_header import Header
    from ticker_service.ports import Frame, TickPublisher

TICKS_MAX: Final = 300_000
TICKS_MAX_QUICK: Final = 15_000
WAIT_NS: Final = 250 * NS_PER_MS
"""What waits longer is merged by a path that is behind, and ours is not."""
OPENING_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Day:
    """A stretch of a recording: what opens the paths, and what is timed."""

    header: Header
    opening: Sequence[Flush]
    flushes: Sequence[Flush]
    ticks: int


def run(options: Options) -> list[Result]:
    """Check, measure and return the comparisons, one per recording and encoding."""
    ticks_max = TICKS_MAX_QUICK if options.is_quick else TICKS_MAX
    results = []
    with redis_elsewhere() as url, runner() as runs:
        for file in options.tapes:
            day = read(file, ticks_max=ticks_max)
            results += [
                _compared(encoding, day, url, runs, options)
                for encoding in (Encoding.JSON, Encoding.ARROW)
            ]
    return results


def read(file: Path, *, ticks_max: int) -> Day:
    """Return a stretch from the middle of a recording, or all of a short one.

    Raises:
        RecordingError: It cannot be read.
        Disagreement: It holds too little to compare anything.
    """
    with file.open("rb") as opened:
        recording = Recording.of(Tape(opened, str(file)))
        content = recording.tape
        middle_ns = content.first_ns + (content.last_ns - content.first_ns) // 2
        flushes = list(_stretch(content, middle_ns, ticks_max))
        if sum(map(_ticks, flushes)) < ticks_max:
            flushes = list(_stretch(content, 0, ticks_max))
    cut = len(flushes) // OPENING_PARTS
    if not cut:
        raise Disagreement(f"{file}: {len(flushes)} flushes are too few to compare")
    timed = flushes[cut:]
    return Day(recording.header, flushes[:cut], timed, ticks=sum(map(_ticks, timed)))


def _stretch(content: Tape, from_ns: int, ticks_max: int) -> Iterator[Flush]:
    """Yield what waits together, until there are so many ticks."""
    waiting: list[Frame] = []
    taken = waiting_ticks = 0
    steps = (step for step in content.steps(from_ns=from_ns) if step.name == tape.FLUSH)
    frames = (frame for step in steps for frame in step.frames)
    for frame in frames:
        count = _packets(frame)
        if not count:
            continue
        is_full = waiting_ticks + count > scene.FLUSH_TICKS
        if waiting and (is_full or frame.received_at_ns - waiting[0].received_at_ns > WAIT_NS):
            yield scene.Flush(waiting[-1].received_at_ns, waiting)
            taken += waiting_ticks
            waiting, waiting_ticks = [], 0
            if taken >= ticks_max:
                return
        waiting.append(frame)
        waiting_ticks += count
    if waiting:
        yield scene.Flush(waiting[-1].received_at_ns, waiting)


def _packets(frame: Frame) -> int:
    if len(frame.payload) <= HEARTBEAT_BYTES_MAX:
        return 0
    return int.from_bytes(frame.payload[:2], "big")


def _ticks(flush: Flush) -> int:
    return sum(map(_packets, flush.frames))


def _compared(encoding: Encoding, day: Day, url: str, runs: Runner, options: Options) -> Result:
    ours = _Ours(day, url, encoding, runs)
    peer = UsualPath(day.header.universe, url, prefix=PREFIX)
    compared_rows, forwards = ours.check(peer)
    first = day.flushes[0]
    scale = day.ticks / _ticks(first)

    def theirs() -> float:
        began = time.thread_time()
        peer.publish(first.frames, forwards)
        # As many ticks as ours has: it would take a minute to let it do them all.
        return (time.thread_time() - began) * scale

    turns = interleaved({"ours": ours.turn, "peer": theirs}, runs=options.runs)
    peer.close()
    seconds = (day.flushes[-1].now_ns - day.flushes[0].now_ns) / NS_PER_S
    return compared(
        f"tape_{encoding}",
        turns["ours"],
        turns["peer"],
        items=day.ticks,
        unit="ticks/s",
        against="_parse_binary, vollib, orjson and redis-py per tick",
        more={
            "trading_day": day.header.trading_day,
            "ticks": day.ticks,
            "recorded_s": round(seconds, 1),
            "ticks_per_flush": round(day.ticks / len(day.flushes)),
            "rows_compared": compared_rows,
        },
    )


class _Ours(RealPath):
    """The real path on a stretch of a recording."""

    def __init__(self, day: Day, url: str, encoding: Encoding, runs: Runner) -> None:
        super().__init__(day.header.universe, day.flushes, url=url, encoding=encoding, runner=runs)
        self._day = day

    def check(self, peer: UsualPath) -> tuple[int, NDArray[np.float64]]:
        """Hold the first flush to the peer's; return how many rows, and its forwards."""
        rows, forwards, _ = self.first()
        theirs = _newest(peer.publish(self._day.flushes[0].frames, forwards))
        ours = _newest(rows)
        # What ours has refused, and what came before it, is no row of both.
        both = [
            token
            for token in ours.keys() & theirs.keys()
            if ours[token]["received_at_us"] == theirs[token]["received_at_us"]
        ]
        same_rows([ours[token] for token in both], [theirs[token] for token in both])
        return len(both), forwards

    async def _opened(self, publisher: TickPublisher) -> tuple[TickPath, ManualClock]:
        """Return a path as the recording's settings make it, and its clock, after the opening."""
        header = self._day.header
        clock = ManualClock(self._day.opening[0].now_ns)
        config = replace(
            header.config,
            bars=BarsConfig(),
            publish=replace(
                header.config.publish,
                depth=True,
                encodings=(self._encoding,),
                instrument_channels=False,
                channel_prefix=PREFIX,
            ),
        )
        surroundings = Surroundings(
            clock=clock,
            chance=random.Random(1),  # noqa: S311 - jitter of retries
            telemetry=Telemetry(),
        )
        path = TickPath(header.universe, config, publisher, surroundings=surroundings, pause=_never)
        for flush in self._day.opening:
            scene.set_clock(clock, flush.now_ns)
            await path.flush(flush.frames, self._wanted)
        return path, clock


def _newest(rows: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the last row of each instrument."""
    return {row["instrument_token"]: row for row in rows}


async def _never(attempt: int) -> None:
    raise AssertionError(f"a send failed: attempt {attempt}")
