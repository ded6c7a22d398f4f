"""One TaskGroup that runs the feed and the tick path: start, drain, stop, health.

The feed's tasks only put frames and events into the inbox; one task takes them out, so that every
book has one writer. Stopping is written down: the feed is cancelled, what waits is flushed, the
subscribers are told, the connection is closed, each within its time (STYLE 33).
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from ticker_service.constants import NS_PER_MS
from ticker_service.domain.risk_input import ReferencePrice
from ticker_service.domain.segment import unnamed_segments
from ticker_service.market.connections import FeedState
from ticker_service.market.feed_watch import FeedWatch
from ticker_service.market.inbox import Inbox
from ticker_service.market.pipeline import TickPath
from ticker_service.market.rebalance import Window
from ticker_service.market.record import ON
from ticker_service.ports import FeedDown, FeedText, FeedUp, Frame
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from prometheus_client import Counter

    from ticker_service.config import EngineConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.market.record import Recorder
    from ticker_service.ports import (
        FeedEvent,
        FeedSink,
        FeedSource,
        OrderUpdates,
        TickPublisher,
    )
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

DRAIN_S_MAX: Final = 3.0
SCALE_ADVICE: Final = (
    "the scale of its prices is not known, so its ticks are refused, not published"
)
REBALANCE_MS: Final = 1_000
BARS_MS: Final = 100
INSTRUMENTS_MS: Final = 30_000
"""A Redis that lost its data gets the instruments back within this."""
FRAME_AGE_MS_READY_MAX: Final = 5_000
PORTION_FLUSHES: Final = 8
"""So many full flushes of a backlog go down the path at once. Its columns take several times the
room of its frames, and the loop, which orders share, stands still while they are worked on."""
PUBLISH_RETRY: Final = Backoff(delay_s_min=0.05, delay_s_max=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the engine knows of itself at one moment; ages in milliseconds."""

    is_ready: bool
    reason: str
    feed: FeedState
    connections: dict[int, str]
    market: str
    frame_age_ms: float | None
    tick_age_ms: float | None
    publish_failing_ms: float | None
    subscribed: int
    books: tuple[str, ...]
    epoch: int
    inbox_bytes: int
    recording: str


class Engine:
    """The daemon without its shell; ``run`` once."""

    def __init__(  # noqa: PLR0913 - its parts by name; the last two may be missing
        self,
        universe: Universe,
        config: EngineConfig,
        *,
        feed: FeedSource,
        publisher: TickPublisher,
        surroundings: Surroundings,
        orders: OrderUpdates | None = None,
        recorder: Recorder | None = None,
        earlier_ns: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        clock, telemetry = surroundings.clock, surroundings.telemetry
        self.universe = universe
        self._config = config
        self._feed = feed
        self._publisher = publisher
        self._clock = clock
        self._chance = surroundings.chance
        dropped = telemetry.counter("inbox_frames_dropped_total", "Frames lost to overflow")
        self._inbox = Inbox(config.flush, clock, on_drop=dropped.inc)
        self._window = Window(universe, config.subscription)
        self._recorder = recorder
        make_path = TickPath if recorder is None else recorder.path
        self._path = make_path(
            universe, config, publisher, surroundings=surroundings, pause=self._pause
        )
        self._watch = FeedWatch(
            universe,
            config,
            path=self._path,
            feed=feed,
            surroundings=surroundings,
            earlier_ns=earlier_ns,
        )
        self._is_stopping = False
        self._portion_bytes = PORTION_FLUSHES * config.flush.bytes_max
        self._seen_until_ns = clock.now_ns()
        """What was received later may still wait in the inbox, for all that the path knows."""
        waiting = telemetry.gauge("inbox_bytes", "Frames waiting for the tick path")
        waiting.set_function(lambda: self._inbox.waiting_bytes)
        self._texts = telemetry.counter("feed_texts_total", "Text messages received", ["kind"])
        self._sink: FeedSink = self._inbox
        if orders is not None:
            self._sink = _OrdersFirst(self._inbox, orders, self._texts)

    @property
    def epoch(self) -> int:
        """Return the number that marks everything this run publishes."""
        return self._path.announcer.epoch

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set, then drain.

        Args:
            stop: Set by the shell on SIGTERM.

        Raises:
            ExceptionGroup: A task failed in a way it was not written for; everything was cancelled.
        """
        self._say_unnamed_segments()
        self._subscribe(np.flatnonzero(self._window.wanted))
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._recorder is not None:
                    tasks.create_task(self._recorder.run(), name="recorder")
                feed = tasks.create_task(self._feed.run(self._sink), name="feed")
                path = tasks.create_task(self._run_path(), name="path")
                await stop.wait()
                log.info("engine_stopping")
                feed.cancel()
                self._is_stopping = True
                self._inbox.hurry()
                await self._drain(path)
                if self._recorder is not None:
                    self._recorder.finish()
        finally:
            await self._publisher.close()
        log.info("engine_stopped", epoch=self.epoch)

    def health(self) -> Health:
        """Return what is known now; ready means frames are coming and go out priced."""
        now_ns = self._clock.now_ns()
        feed = self._watch.connections.worst()
        frame_age_ms = _age_ms(now_ns, self._inbox.last_frame_ns)
        tick_age_ms = _age_ms(now_ns, self._path.last_tick_ns)
        failing_ms = _age_ms(now_ns, self._path.failing_since_ns)
        reason = ""
        if self._is_stopping:
            reason = "stopping"
        elif feed is not FeedState.UP:
            reason = f"feed {feed}"
        elif frame_age_ms is None or frame_age_ms > FRAME_AGE_MS_READY_MAX:
            reason = "no frames"
        elif failing_ms is not None:
            reason = "redis does not confirm"
        elif tick_age_ms is None:
            reason = "no tick yet"
        elif not self._config.redis_url and self._recording != ON:
            reason = f"recording alone, and not recording: {self._recording}"
        elif not self._window.is_open:
            reason = "an underlying has no price yet"
        return Health(
            is_ready=not reason,
            reason=reason,
            feed=feed,
            connections=self._watch.connections.states(),
            market="open" if self._watch.open_books() else "closed",
            frame_age_ms=frame_age_ms,
            tick_age_ms=tick_age_ms,
            publish_failing_ms=failing_ms,
            subscribed=int(np.count_nonzero(self._window.wanted)),
            books=self.universe.books,
            epoch=self.epoch,
            inbox_bytes=self._inbox.waiting_bytes,
            recording=self._recording,
        )

    @cached_property
    def _row_of(self) -> dict[tuple[str, str], int]:
        """Rows by exchange and symbol; megabytes that only who asks for prices needs."""
        names = self.universe.instruments
        pairs = zip(names.exchange.tolist(), names.tradingsymbol.tolist(), strict=True)
        return {pair: row for row, pair in enumerate(pairs)}

    def last_price(self, exchange: str, tradingsymbol: str) -> ReferencePrice | None:
        """Return what an instrument last traded at by its newest tick, None without one.

        Its time is when the tick came. Of when the trade and the book are, ticks in mode full say.
        """
        row, ticks = self._row_of.get((exchange, tradingsymbol)), self._path.latest.ticks
        if row is None or not ticks.received_at_ns[row]:
            return None
        return ReferencePrice(
            price_inr=float(ticks.ltp[row]),
            at_ns=int(ticks.received_at_ns[row]),
            source="ticks",
            traded_at_ns=int(ticks.last_trade_ts_ns[row]),
            book_at_ns=int(ticks.exchange_ts_ns[row]),
            bid_inr=float(ticks.bid_price[0, row]),
            ask_inr=float(ticks.ask_price[0, row]),
        )

    def refusals(self) -> dict[str, Any]:
        """Return what was not published, by reason: how often, and the newest samples."""
        return self._path.refusals.report()

    def _say_unnamed_segments(self) -> None:
        """Say once of each segment that nobody named that its prices are not published."""
        for segment, count in unnamed_segments(self.universe.instrument_token).items():
            log.warning("segment_unknown", segment=segment, instruments=count, advice=SCALE_ADVICE)

    @property
    def _recording(self) -> str:
        return "off" if self._recorder is None else self._recorder.state

    async def _drain(self, path: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(DRAIN_S_MAX):
                await path
        except TimeoutError:
            # Redis does not answer; the books will learn of the end by the missing heartbeats.
            log.warning("drain_timed_out", limit_s=DRAIN_S_MAX)

    async def _run_path(self) -> None:
        """Flush what arrives, and keep the periodic work; the one writer of every book."""
        everything = range(len(self.universe.books))
        publish = self._config.publish
        pulses = {
            self._rebalance: REBALANCE_MS,
            self._path.reprice: publish.reprice_ms,
            self._path.instruments: INSTRUMENTS_MS,
            self._path.snapshot: publish.snapshot_ms,
            self._heartbeat: publish.heartbeat_ms,
        }
        if self._config.bars.intervals:
            pulses[self._path.bars] = BARS_MS
        smiling = self._path.smiles.books
        if publish.smile_ms and smiling:
            # A fit takes milliseconds: one book at a time, so that no tick waits for all of them.
            turns = itertools.cycle(smiling)
            pulses[lambda: self._path.smile([next(turns)])] = publish.smile_ms // len(smiling)
        started_ns = self._clock.monotonic_ns()
        due_ns = dict.fromkeys(pulses, started_ns)
        while not self._is_stopping:
            await self._inbox.wait(until_ns=min(due_ns.values()))
            await self._flush_inbox()
            now_ns = self._clock.monotonic_ns()
            for pulse, period_ms in pulses.items():
                if now_ns >= due_ns[pulse]:
                    await pulse()
                    # From now, not from when it was due: a stall is not made up for by a burst.
                    due_ns[pulse] = now_ns + period_ms * NS_PER_MS
        await self._flush_inbox()
        await self._path.announce_status(everything, "stopped", "daemon is stopping")

    async def _flush_inbox(self) -> None:
        """Carry everything that waits down the path, frames and events in their order."""
        self._seen_until_ns = self._clock.now_ns()
        taken = self._inbox.take()
        if taken.overflow:
            await self._path.announce_gap(
                np.flatnonzero(self._window.wanted),
                from_ns=taken.overflow.from_ns,
                to_ns=taken.overflow.to_ns,
                reason="overflow",
            )
        frames: list[Frame] = []
        portion_bytes = 0
        for item in taken.items:
            if isinstance(item, Frame):
                may_speak_again = self._watch.may_end_silence(item)
                if may_speak_again or portion_bytes >= self._portion_bytes:
                    await self._flush(frames)
                    frames, portion_bytes = [], 0
                if may_speak_again and self._watch.ends_silence(item, self._window.wanted):
                    await self._watch.spoke_again(item)
                frames.append(item)
                portion_bytes += len(item.payload)
                continue
            await self._flush(frames)
            frames, portion_bytes = [], 0
            await self._handle(item)
        await self._flush(frames)

    async def _flush(self, frames: list[Frame]) -> None:
        if frames:
            await self._path.flush(frames, self._window.wanted)
            # The first price of an underlying opens its window at once, not at the next pulse.
            if not self._window.is_open:
                await self._rebalance()

    async def _rebalance(self) -> None:
        before = self._window.wanted
        if self._window.follow(self._path.latest.ticks):
            self._path.forget(np.flatnonzero(before & ~self._window.wanted))
            self._subscribe(np.flatnonzero(self._window.wanted & ~before))

    def _subscribe(self, rows: NDArray[np.intp]) -> None:
        """Tell the feed what is wanted; ``rows`` are those that were not wanted before."""
        self._path.subscribed(rows, since_ns=self._clock.now_ns())
        mode = self._config.subscription.mode
        wanted = np.flatnonzero(self._window.wanted)
        tokens = self.universe.instrument_token[wanted].tolist()
        self._feed.want(dict.fromkeys(tokens, mode))
        carriers = [self._feed.connection_of(token) for token in tokens]
        self._watch.connections.carry(wanted, carriers)
        log.info("subscription_changed", instruments=len(tokens), mode=mode.wire_name)

    async def _heartbeat(self) -> None:
        await self._watch.look(seen_until_ns=self._seen_until_ns)
        await self._path.heartbeat(self._watch.feed_of_book(), self._watch.open_books())

    async def _handle(self, event: FeedEvent) -> None:
        match event:
            case FeedUp():
                await self._watch.came_up(event)
            case FeedDown():
                await self._watch.went_down(event)
            case FeedText():
                self._texts.labels(event.kind).inc()
                if event.kind != "order":
                    await self._watch.broker_says(event)

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(PUBLISH_RETRY.delay_s(attempt, self._chance))


class _OrdersFirst:
    """Where the feed puts what it receives when somebody trades. Port ``FeedSink``.

    What it says of orders goes to the order half at once: it waits neither for a batch nor for a
    Redis that does not answer, and no overflow of ticks drops it.
    """

    def __init__(self, inbox: Inbox, orders: OrderUpdates, texts: Counter) -> None:
        self._inbox = inbox
        self._orders = orders
        self._texts = texts

    def put_frame(self, frame: Frame) -> None:
        """Take a binary message."""
        self._inbox.put_frame(frame)

    def put_event(self, event: FeedEvent) -> None:
        """Take a change of state or a text message."""
        if isinstance(event, FeedText) and event.kind == "order":
            self._texts.labels(event.kind).inc()
            self._orders.take_update(event.data)
            return
        if isinstance(event, FeedUp):
            self._orders.feed_came_back()
        self._inbox.put_event(event)


def _age_ms(now_ns: int, then_ns: int) -> float | None:
    return (now_ns - then_ns) / NS_PER_MS if then_ns else None
