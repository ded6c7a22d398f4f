"""An engine that records into memory at virtual time, and replays of what it recorded."""

from __future__ import annotations

import asyncio
import io
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import virtual_time
from small_exchange import NIFTY_TOKEN, NOW_NS, nifty_universe, option_row
from virtual_time import LoopClock
from wire_packets import frame_of, full_packet, index_full_packet

from ticker_service.config import (
    BarsConfig,
    EngineConfig,
    KiteConfig,
    PublishConfig,
    RecordConfig,
    SubscriptionConfig,
)
from ticker_service.engine import Engine
from ticker_service.market.record import Recorder
from ticker_service.market.replay import Recording, Replay, ReplayOptions, ReplaySummary
from ticker_service.market.tape import Tape
from ticker_service.ports import FeedDown, FeedUp
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryFolder, MemoryParts, MemoryPublisher, ScriptedFeed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ticker_service.ports import FeedEvent, Frame, Outgoing

CHOSEN: Final = nifty_universe()
SPOT_RAW: Final = 2_401_000
PREFIX: Final = "ticker:v1:"
CONFIG: Final = EngineConfig(
    kite=KiteConfig(
        rest_root="https://api.example",
        ws_root="wss://ws.example",
        api_key="the-api-key",
        access_token="the-access-token",  # allow-secret
    ),
    redis_url="redis://:the-password@redis.example",  # allow-secret
    subscription=SubscriptionConfig(underlyings=("NIFTY",), strikes_each_side=2),
    publish=PublishConfig(smile_ms=1_000),
    bars=BarsConfig(intervals=("1s",)),
)


class JournallingPublisher(MemoryPublisher):
    """Keeps every value that was set, not the last one of a key alone."""

    def __init__(self) -> None:
        super().__init__()
        self.all_values: list[tuple[str, bytes]] = []

    async def send(self, outgoing: Outgoing) -> None:
        await super().send(outgoing)
        self.all_values += [(key, value) for key, value, _ in outgoing.values]

    def everything(self) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
        """Messages and values of the tick path; notices are not its own."""
        ticks = [(name, raw) for name, raw in self.messages if not name.endswith(":events")]
        return ticks, self.all_values

    def notices(self) -> list[bytes]:
        return [raw for name, raw in self.messages if name.endswith(":events")]


class RecordedStage:
    """The engine with everything round it; must be made inside the running loop."""

    def __init__(
        self, record: RecordConfig, folder: MemoryFolder, start_ns: int, parts: MemoryParts
    ) -> None:
        self.clock = LoopClock(start_ns)
        self.feed = ScriptedFeed()
        self.publisher = JournallingPublisher()
        self.telemetry = Telemetry()
        self.folder = folder
        self.stop = asyncio.Event()
        self.surroundings = Surroundings(
            clock=self.clock,
            chance=random.Random(7),  # noqa: S311 - jitter, not a secret
            telemetry=self.telemetry,
        )
        self.parts = parts
        self.recorder = Recorder(record, folder, self.surroundings, parts=parts)
        self.engine = Engine(
            CHOSEN,
            CONFIG,
            feed=self.feed,
            publisher=self.publisher,
            surroundings=self.surroundings,
            recorder=self.recorder,
        )

    async def pass_s(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def receive(self, *items: bytes | Frame | FeedEvent, then_s: float = 0.05) -> None:
        """Receive packets, one a frame, and events, and let time pass."""
        stamped = [
            frame_of(item, at_ns=self.clock.now_ns()) if isinstance(item, bytes) else item
            for item in items
        ]
        await self.feed.receive(*stamped)
        await self.pass_s(then_s)

    async def come_up(self) -> None:
        await self.receive(FeedUp(connection=0, at_ns=self.clock.now_ns()))

    async def go_down(self) -> None:
        now_ns = self.clock.now_ns()
        down = FeedDown(connection=0, at_ns=now_ns, last_frame_ns=now_ns, reason="silent")
        await self.receive(down)

    async def spot(self, raw: int = SPOT_RAW) -> None:
        await self.receive(index_full_packet(NIFTY_TOKEN, raw, (0, 0, 0, 0), 0))

    async def chain(
        self, spot_raw: int = SPOT_RAW, *, strikes: Sequence[float] | None = None
    ) -> None:
        """Let options of the first expiry quote round a forward equal to the spot, all or some."""
        packets = []
        for strike in strikes or CHOSEN.expiries[0].strike.tolist():
            gap = spot_raw - int(strike * 100)
            for kind, value in (("CE", max(gap, 0)), ("PE", max(-gap, 0))):
                price = value + 10_000
                token = int(CHOSEN.instrument_token[option_row(CHOSEN, 0, strike, kind)])
                level = [(65, price - 5, 1)], [(65, price + 5, 1)]
                packets.append(full_packet(token, price, bids=level[0], asks=level[1]))
        await self.receive(*packets)

    def metric(self, name: str, **labels: str) -> float:
        value = self.telemetry._registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


def record(
    script: Callable[[RecordedStage], Awaitable[None]],
    *,
    config: RecordConfig | None = None,
    folder: MemoryFolder | None = None,
    start_ns: int = NOW_NS,
    parts: MemoryParts | None = None,
) -> RecordedStage:
    """Run the engine through a script, then stop it."""

    async def scene() -> RecordedStage:
        stage = RecordedStage(
            config or RecordConfig(folder=Path("unused"), free_bytes_min=0),
            MemoryFolder() if folder is None else folder,
            start_ns,
            parts or MemoryParts(),
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stage.engine.run(stage.stop))
            await script(stage)
            stage.stop.set()
        return stage

    return virtual_time.run(scene())


def tapes(contents: Mapping[str, bytes | bytearray]) -> list[Recording]:
    """Open everything that was recorded, in order."""
    return [
        Recording.of(Tape(io.BytesIO(bytes(contents[name])), name))
        for name in sorted(contents)
        if name.endswith(".tape")
    ]


def replay(
    contents: Mapping[str, bytes | bytearray], *, parts: MemoryParts | None = None, **options: Any
) -> tuple[JournallingPublisher, ReplaySummary]:
    """Replay into memory at virtual time."""

    async def play() -> tuple[JournallingPublisher, ReplaySummary]:
        publisher = JournallingPublisher()
        surroundings = Surroundings(
            clock=LoopClock(0),
            chance=random.Random(3),  # noqa: S311 - jitter, not a secret
            telemetry=Telemetry(),
        )
        wanted = ReplayOptions(**{"channel_prefix": PREFIX, **options})
        played = Replay(tapes(contents), publisher, wanted, surroundings=surroundings, parts=parts)
        return publisher, await played.run()

    return virtual_time.run(play())


def gaps_told(published: JournallingPublisher) -> list[dict[str, Any]]:
    """Return the gaps on the books' channels; those of bars have the same ones of their own."""
    messages = (json.loads(raw) for name, raw in published.messages if ":ticks:" in name)
    return [message for message in messages if message["kind"] == "gap"]
