"""One TaskGroup that runs the feed and the tick path: start, drain, stop, health.

The feed's tasks only put frames and events into the inbox; one task takes them out, so that every
book has one writer. Stopping is written down: the feed is cancelled, what waits is flushed, the
subscribers are told, the connection is closed, each within its time (STYLE 33).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from ticker_service.constants import NS_PER_MS
from ticker_service.market.inbox import Inbox
from ticker_service.market.pipeline import TickPath
from ticker_service.market.rebalance import Window
from ticker_service.ports import FeedDown, FeedText, FeedUp, Frame
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.config import EngineConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.market.record import Recorder
    from ticker_service.ports import FeedEvent, FeedSource, OrderUpdates, TickPublisher
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

DRAIN_S_MAX: Final = 3.0
REBALANCE_MS: Final = 1_000
INSTRUMENTS_MS: Final = 30_000
"""A Redis that lost its data gets the instruments back within this."""
FRAME_AGE_MS_READY_MAX: Final = 5_000
TEXT_INTERVAL_NS: Final = 1_000_000_000
TEXT_CHARACTERS_MAX: Final = 500
LOGIN_ADVICE: Final = (
    "log in again with `ticker-service login`; without accounts, restart with a new token"
)
NOT_CARRIED_BY_ANY: Final = -1
"""Stands for the connection of a row that is not subscribed."""
PUBLISH_RETRY: Final = Backoff(delay_s_min=0.05, delay_s_max=1.0)


class FeedState(StrEnum):
    """What a connection of the feed is doing, worst last."""

    UP = "up"
    CONNECTING = "connecting"
    DOWN = "down"
    LOGIN_REQUIRED = "login_required"


_SEVERITY: Final = {state: place for place, state in enumerate(FeedState)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the engine knows of itself at one moment; ages in milliseconds."""

    is_ready: bool
    reason: str
    feed: FeedState
    connections: dict[int, str]
    frame_age_ms: float | None
    tick_age_ms: float | None
    publish_failing_ms: float | None
    subscribed: int
    books: tuple[str, ...]
    epoch: int
    inbox_bytes: int
    recording: str


@dataclass(slots=True)
class _Connection:
    state: FeedState = FeedState.CONNECTING
    down_since_ns: int = 0
    reason: str = ""


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
    ) -> None:
        clock, telemetry = surroundings.clock, surroundings.telemetry
        self.universe = universe
        self._config = config
        self._feed = feed
        self._publisher = publisher
        self._orders = orders
        self._clock = clock
        self._chance = surroundings.chance
        self._inbox = Inbox(config.flush, clock)
        self._window = Window(universe, config.subscription)
        self._recorder = recorder
        make_path = TickPath if recorder is None else recorder.path
        self._path = make_path(
            universe, config, publisher, surroundings=surroundings, pause=self._pause
        )
        self._connections: dict[int, _Connection] = {}
        self._carrier = np.full(len(universe), NOT_CARRIED_BY_ANY, np.intp)
        self._is_audible = np.zeros(len(universe), np.bool_)
        self._is_stopping = False
        self._said_at_ns = 0
        self._watched_ns = clock.monotonic_ns()
        self._connected = telemetry.gauge("feed_connections_up", "Connections that are open")
        waiting = telemetry.gauge("inbox_bytes", "Frames waiting for the tick path")
        waiting.set_function(lambda: self._inbox.waiting_bytes)
        self._dropped = telemetry.counter("inbox_frames_dropped_total", "Frames lost to overflow")
        self._texts = telemetry.counter("feed_texts_total", "Text messages received", ["kind"])

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
        self._subscribe(np.flatnonzero(self._window.wanted))
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._recorder is not None:
                    tasks.create_task(self._recorder.run(), name="recorder")
                feed = tasks.create_task(self._feed.run(self._inbox), name="feed")
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
        feed = self._worst(self._carrying())
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
        elif not self._window.is_open:
            reason = "an underlying has no price yet"
        return Health(
            is_ready=not reason,
            reason=reason,
            feed=feed,
            connections={n: str(c.state) for n, c in sorted(self._connections.items())},
            frame_age_ms=frame_age_ms,
            tick_age_ms=tick_age_ms,
            publish_failing_ms=failing_ms,
            subscribed=int(np.count_nonzero(self._window.wanted)),
            books=self.universe.books,
            epoch=self.epoch,
            inbox_bytes=self._inbox.waiting_bytes,
            recording="off" if self._recorder is None else self._recorder.state,
        )

    def refusals(self) -> dict[str, Any]:
        """Return what was not published, by reason: how often, and the newest samples."""
        return self._path.refusals.report()

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
        taken = self._inbox.take()
        if taken.overflow:
            self._dropped.inc(taken.overflow.frames)
            await self._path.announce_gap(
                np.flatnonzero(self._window.wanted),
                from_ns=taken.overflow.from_ns,
                to_ns=taken.overflow.to_ns,
                reason="overflow",
            )
        frames: list[Frame] = []
        for item in taken.items:
            if isinstance(item, Frame):
                frames.append(item)
                continue
            await self._flush(frames)
            frames = []
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
        self._carrier[:] = NOT_CARRIED_BY_ANY
        carriers = [self._feed.connection_of(token) for token in tokens]
        self._carrier[wanted] = [NOT_CARRIED_BY_ANY if n is None else n for n in carriers]
        log.info("subscription_changed", instruments=len(tokens), mode=mode.wire_name)

    async def _heartbeat(self) -> None:
        self._watch()
        states = {
            book: str(self._worst(self._connections_of(book)))
            for book in range(len(self.universe.books))
        }
        await self._path.heartbeat(states)

    def _watch(self) -> None:
        """Let time pass for the streams that could be heard."""
        now_ns = self._clock.monotonic_ns()
        lasted_ns, self._watched_ns = now_ns - self._watched_ns, now_ns
        self._path.watch(lasted_ns=lasted_ns)
        up = [n for n, c in self._connections.items() if c.state is FeedState.UP]
        is_audible = np.isin(self._carrier, up)
        if (is_audible != self._is_audible).any():
            self._is_audible = is_audible
            self._path.audible(np.flatnonzero(is_audible))

    async def _handle(self, event: FeedEvent) -> None:
        match event:
            case FeedUp():
                await self._feed_up(event)
            case FeedDown():
                await self._feed_down(event)
            case FeedText():
                self._texts.labels(event.kind).inc()
                if event.kind == "order":
                    if self._orders is not None:
                        self._orders.take_update(event.data)
                else:
                    await self._broker_says(event)
        states = [connection.state for connection in self._connections.values()]
        self._connected.set(states.count(FeedState.UP))

    async def _broker_says(self, event: FeedText) -> None:
        """Pass on what the broker says in words, such as that it ignored a subscription."""
        if event.at_ns - self._said_at_ns < TEXT_INTERVAL_NS:
            return  # counted above; one a second says it
        self._said_at_ns = event.at_ns
        words = _words(event.data)
        log.warning("feed_text", kind=event.kind, data=words)
        if event.kind in {"error", "message"}:
            state = f"feed_{event.kind}"
            await self._path.announce_status(self._books_of(event.connection), state, words)

    async def _feed_up(self, event: FeedUp) -> None:
        connection = self._connections.setdefault(event.connection, _Connection())
        if connection.down_since_ns:
            await self._path.announce_gap(
                self._rows_of(event.connection),
                from_ns=connection.down_since_ns,
                to_ns=event.at_ns,
                reason=connection.reason,
            )
        self._connections[event.connection] = _Connection(state=FeedState.UP)
        # Everything on it was subscribed anew, and Kite sends again what it had kept.
        self._path.subscribed(self._rows_of(event.connection), since_ns=event.at_ns)
        log.info("feed_up", connection=event.connection)
        if self._orders is not None:
            self._orders.feed_came_back()
        await self._path.announce_status(self._books_of(event.connection), "feed_up", "subscribed")

    async def _feed_down(self, event: FeedDown) -> None:
        connection = self._connections.setdefault(event.connection, _Connection())
        connection.state = FeedState.LOGIN_REQUIRED if event.login_required else FeedState.DOWN
        log.warning(
            "login_required" if event.login_required else "feed_down",
            connection=event.connection,
            reason=event.reason,
            silent_ms=(event.at_ns - event.last_frame_ns) // NS_PER_MS,
            **({"advice": LOGIN_ADVICE} if event.login_required else {}),
        )
        self._path.doubt(self._rows_of(event.connection))
        # Several failed attempts are one outage: it began with the last frame before the first.
        is_news = not connection.down_since_ns or event.login_required
        connection.down_since_ns = connection.down_since_ns or event.last_frame_ns
        connection.reason = connection.reason or event.reason
        if is_news:
            await self._path.announce_status(
                self._books_of(event.connection),
                "login_required" if event.login_required else "feed_down",
                event.reason,
            )

    def _rows_of(self, connection: int) -> NDArray[np.intp]:
        return np.flatnonzero(self._carrier == connection)

    def _books_of(self, connection: int) -> list[int]:
        books: list[int] = np.unique(self.universe.book[self._rows_of(connection)]).tolist()
        return books

    def _connections_of(self, book: int) -> dict[int, _Connection]:
        return self._known(self._carrier[self.universe.book == book])

    def _carrying(self) -> dict[int, _Connection]:
        """Return the connections that something wanted depends on; others may be as they are."""
        return self._known(self._carrier)

    def _known(self, numbers: NDArray[np.intp]) -> dict[int, _Connection]:
        return {n: c for n, c in self._connections.items() if (numbers == n).any()}

    @staticmethod
    def _worst(connections: dict[int, _Connection]) -> FeedState:
        if not connections:
            return FeedState.CONNECTING
        return max((c.state for c in connections.values()), key=_SEVERITY.__getitem__)

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(PUBLISH_RETRY.delay_s(attempt, self._chance))


def _words(data: object) -> str:
    try:
        return str(data)[:TEXT_CHARACTERS_MAX]
    except RecursionError:
        return "(nested too deeply to be shown)"


def _age_ms(now_ns: int, then_ns: int) -> float | None:
    return (now_ns - then_ns) / NS_PER_MS if then_ns else None
