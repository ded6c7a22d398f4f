"""Suite ``recording``: what it costs to keep a second of the market, and how fast it comes back.

The peer of the tape is what a user writes in an afternoon: every frame with its time and length
into a gzip file. Nothing that users run today plays a day through the path that priced it, so the
replay stands alone.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import random
import struct
from typing import TYPE_CHECKING, Final

from scripts.benchmarks import frames
from scripts.benchmarks.measure import (
    Disagreement,
    Options,
    Result,
    compared,
    interleaved,
    repeated,
)
from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.adapters.silent_publisher import SilentPublisher
from ticker_service.config import EngineConfig, KiteConfig, PublishConfig, SubscriptionConfig
from ticker_service.domain import universe as universes
from ticker_service.domain.session import ist_date
from ticker_service.market import tape, tape_header
from ticker_service.market.replay import Recording, Replay, ReplayOptions
from ticker_service.market.tape import Step, Tape, TapeWriter
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.universe import Universe
    from ticker_service.ports import Frame
    from ticker_service.simulator.market import Market

FRAME_PACKETS: Final = 100
FLUSH_PACKETS: Final = 1_200
FLUSHES: Final = 50
"""A second at 60,000 ticks, in flushes of 20 ms."""
FLUSHES_QUICK: Final = 5
PEER_HEAD: Final = struct.Struct("<qI")
UNDERLYINGS: Final = ("NIFTY", "BANKNIFTY", "SENSEX")


def run(options: Options) -> list[Result]:
    """Check, measure and return the comparisons."""
    count = FLUSHES_QUICK if options.is_quick else FLUSHES
    flushes = frames.batches(
        frames.FULL, frame_packets=FRAME_PACKETS, batch_packets=FLUSH_PACKETS, count=count
    )
    day = _Day(flushes)
    return [_frames(day, options), _replay(day, options)]


class _Day:
    """What was received, as a recorder notes it and as a file."""

    def __init__(self, flushes: Sequence[Sequence[Frame]]) -> None:
        self.universe = _universe(frames.market())
        self.ticks = FLUSH_PACKETS * len(flushes)
        self.steps = [
            Step(
                name=tape.FLUSH,
                at_ns=batch[-1].received_at_ns,
                readings_ns=[batch[-1].received_at_ns] * 2,
                frames=batch,
            )
            for batch in flushes
        ]

    def file(self) -> bytes:
        """Return the recording of this day."""
        at_ns = self.steps[0].at_ns
        header = tape_header.Header(
            software=tape_header.software(),
            epoch=at_ns // 1_000,
            part=0,
            trading_day=str(ist_date(at_ns)),
            config=EngineConfig(
                kite=KiteConfig(rest_root="", ws_root="", api_key="", access_token=""),
                redis_url="",
                subscription=SubscriptionConfig(underlyings=UNDERLYINGS),
                publish=PublishConfig(),
            ),
            universe=self.universe,
        )
        rows = list(range(len(self.universe)))
        want = Step(name=tape.WANT, at_ns=at_ns, arguments={"rows": rows})
        writer = TapeWriter()
        opening = writer.opening(tape_header.encode(header), at_ns=at_ns)
        return opening + b"".join(writer.blocks([want, *self.steps]))


def _frames(day: _Day, options: Options) -> Result:
    kept = [frame for step in day.steps for frame in step.frames]
    read = Tape(io.BytesIO(day.file()), "bench").steps()
    if [frame for step in read for frame in step.frames] != kept:
        raise Disagreement("the tape gives back other frames")
    sides = {"ours": lambda: _taped(day.steps), "peer": lambda: _gzipped(kept)}
    turns = interleaved({n: repeated(work) for n, work in sides.items()}, runs=options.runs)
    return compared(
        "record_frames",
        turns["ours"],
        turns["peer"],
        items=day.ticks,
        unit="ticks/s",
        against="gzip.open() and a struct per frame",
        more={f"{n}_bytes_per_tick": round(work() / day.ticks, 1) for n, work in sides.items()},
    )


def _taped(steps: Sequence[Step]) -> int:
    return sum(map(len, TapeWriter().blocks(steps)))


def _gzipped(kept: Sequence[Frame]) -> int:
    into = io.BytesIO()
    with gzip.open(into, "wb") as file:
        for frame in kept:
            file.write(PEER_HEAD.pack(frame.received_at_ns, len(frame.payload)))
            file.write(frame.payload)
    return into.tell()


def _replay(day: _Day, options: Options) -> Result:
    """Replay as fast as it goes: open, decode, validate, price, encode, publish nowhere."""
    content = day.file()

    def turn() -> int:
        return asyncio.run(_replayed(content))

    if turn() != turn() or not turn():
        raise Disagreement("two replays published other amounts")
    turns = interleaved({"ours": repeated(turn)}, runs=options.runs)
    return Result(
        name="replay",
        ours=day.ticks / turns["ours"].median_s,
        peer=None,
        unit="ticks/s",
        against="nobody replays through the path that priced",
    )


async def _replayed(content: bytes) -> int:
    surroundings = Surroundings(
        clock=SystemClock(),
        chance=random.Random(1),  # noqa: S311 - jitter, not a secret
        telemetry=Telemetry(),
    )
    recordings = [Recording.of(Tape(io.BytesIO(content), "bench"))]
    options = ReplayOptions(channel_prefix="bench:")
    replay = Replay(recordings, SilentPublisher(), options, surroundings=surroundings)
    summary = await replay.run()
    return summary.sent_bytes


def _universe(source: Market) -> Universe:
    dump = parse_dump(source.catalogue.dump(source.last_price_inr).decode())
    return universes.select(
        dump,
        underlyings=UNDERLYINGS,
        instruments=(dump.exchange + ":" + dump.tradingsymbol).tolist(),
        expiries_max=3,
        today=ist_date(frames.OPENS_AT_NS),
    )
