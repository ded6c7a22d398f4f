"""The tick path: feed -> decode -> validate -> batch -> price -> publish.

``TickPath.flush`` is the map: it calls the steps in this order. One task owns a ``TickPath``, so
that every book's ``seq`` has one writer; that task also sends the heartbeats, the snapshots, the
smiles, and the options whose numbers have moved without a packet of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from ticker_service.constants import NS_PER_MS, NS_PER_S, NS_PER_US
from ticker_service.errors import PublishError
from ticker_service.market import batch, columns, decode, publish, validate
from ticker_service.market.bar_wire import BarAnnouncer
from ticker_service.market.bars import Bars
from ticker_service.market.latency import LatencyLedger
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Pricer
from ticker_service.market.refusals import Refusals
from ticker_service.market.reprice import SentRows
from ticker_service.market.smiles import SmileDrawer
from ticker_service.market.streams import Streams
from ticker_service.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.config import EngineConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.market.batch import Batch
    from ticker_service.ports import Frame, TickPublisher
    from ticker_service.runtime.surroundings import Surroundings
    from ticker_service.runtime.telemetry import Telemetry

log = structlog.get_logger()

ATTEMPTS_PER_WARNING: Final = 30
"""Sends are a second apart by then, so an outage is in the log twice a minute."""


class TickPath:
    """The steps of the tick path with the state they share."""

    def __init__(
        self,
        universe: Universe,
        config: EngineConfig,
        publisher: TickPublisher,
        *,
        surroundings: Surroundings,
        pause: Callable[[int], Awaitable[None]],
    ) -> None:
        """Take the steps' parts.

        Args:
            universe: What may be subscribed.
            config: The engine's settings.
            publisher: Where messages go.
            surroundings: Time and metrics; the clock's reading now becomes the epoch.
            pause: Waits before attempt ``n + 1`` of a send that failed ``n + 1`` times.
        """
        clock = surroundings.clock
        self.universe = universe
        self.latest = LatestTable(universe)
        self.streams = Streams(universe)
        self.refusals = Refusals(universe)
        self.pricer = Pricer(universe, self.latest, config.pricing, mode=config.subscription.mode)
        self.smiles = SmileDrawer(universe, self.pricer)
        # A wall clock in microseconds grows from run to run and fits a JavaScript number.
        self.announcer = publish.Announcer(
            universe, config.publish, epoch=clock.now_ns() // NS_PER_US
        )
        self.failing_since_ns = 0
        """When Redis stopped confirming, ns since the Unix epoch; 0 while it does."""
        self.last_tick_ns = 0
        """When the last frame that held an acceptable tick was received; 0 before the first."""
        self._config = config
        self._publisher = publisher
        self._clock = clock
        self._pause = pause
        self._bars = Bars(universe, config.bars, self.streams, now_ns=clock.now_ns())
        self._bar_announcer = BarAnnouncer(
            universe,
            config.bars.intervals,
            channel_prefix=config.publish.channel_prefix,
            epoch=self.announcer.epoch,
        )
        self._sent = SentRows(len(universe))
        self._metrics = _Metrics(surroundings.telemetry)
        for table in self._bars.tables:
            self._metrics.late.labels(table.interval).set_function(table.late_ticks.sum)
        self._ledger = LatencyLedger(surroundings.telemetry)

    async def flush(self, frames: Sequence[Frame], wanted: NDArray[np.bool_]) -> None:
        """Carry waiting frames down the path.

        Args:
            frames: Binary messages in order of arrival, heartbeats among them.
            wanted: Mask of the universe rows that are subscribed; ticks of others are rejected.
        """
        decoded = decode.frames(frames, arrange=self.universe.rows_by_book)
        decoded_ns = self._clock.now_ns()
        accepted = validate.plausible(
            decoded.ticks,
            self.universe,
            self.streams,
            wanted=wanted,
            limits=self._config.validation,
            rows=decoded.rows,
        )
        now_ns = self._clock.now_ns()
        self._count(len(frames), decoded, accepted, now_ns=now_ns)
        if len(accepted.doubtful):
            # A trade that nobody believes is in no bar, and the bar that lacks it says so.
            self._bars.miss(accepted.doubtful, from_ns=frames[0].received_at_ns, to_ns=now_ns)
        if not len(accepted.rows):
            return
        self.streams.take(
            accepted.rows,
            accepted.ticks.received_at_ns,
            progress=accepted.progress,
            marks=accepted.marks,
        )
        self.last_tick_ns = int(accepted.ticks.received_at_ns.max())
        # Before anything is merged: a backlog must cost no bar a trade, and no trade its time.
        self._bars.take(accepted.rows, accepted.ticks, accepted.marks)
        self.pricer.hear(accepted.rows, accepted.ticks)
        arrived = batch.by_book(
            accepted.rows,
            accepted.ticks,
            accepted.marks,
            self.universe,
            conflate=self._is_late(frames[0].received_at_ns, now_ns),
        )
        self.latest.merge(arrived.terms.rows, arrived.ticks)
        self.pricer.update(arrived, now_ns=now_ns)
        priced = self.pricer.columns(arrived.terms, now_ns=now_ns)
        self._sent.keep(arrived.terms.rows, priced)
        self._bars.take_volatility(arrived.terms.rows, arrived.ticks, priced.implied_volatility)
        if not arrived.is_newest.all():
            # What is priced is the newest tick of an instrument; an earlier one in the same batch
            # has a last trade and a quote of its own, and nothing of the other's price.
            priced = replace(priced, is_option=priced.is_option & arrived.is_newest)
        standing = self.streams.standing(
            arrived.terms.rows, arrived.ticks.received_at_ns, now_ns=now_ns, marks=arrived.marks
        )
        priced_ns = self._clock.now_ns()
        rows = columns.Rows(ticks=arrived.ticks, priced=priced, standing=standing)
        await self._send(self._batches(arrived.batches, rows, now_ns=now_ns))
        published_ns = self._clock.now_ns()
        self._metrics.latency.observe((published_ns - frames[0].received_at_ns) / NS_PER_MS)
        self._ledger.enter(accepted, decoded_ns, priced_ns, published_ns)

    async def reprice(self) -> None:
        """Send again the options whose numbers have moved visibly since they went out."""
        now_ns = self._clock.now_ns()
        seen = self.latest.seen()
        everything = self.pricer.columns(seen.terms, now_ns=now_ns)
        places = np.flatnonzero(self._sent.has_moved(seen.terms, everything))
        if not len(places):
            return
        rows, priced = seen.terms.rows[places], everything.take(places)
        ticks = self.latest.ticks.take(rows)
        standing = self.streams.standing(rows, ticks.received_at_ns, now_ns=now_ns)
        batches = []
        for book, of_book in enumerate(seen.parts):
            part = slice(*np.searchsorted(places, (of_book.start, of_book.stop)).tolist())
            if part.start < part.stop:
                batches.append(batch.Batch(book=book, part=part, ticks=ticks.part(part)))
        self._sent.keep(rows, priced)
        moved = columns.Rows(ticks=ticks, priced=priced, standing=standing, is_repriced=True)
        await self._send(self._batches(batches, moved, now_ns=now_ns))

    async def smile(self, books: Sequence[int]) -> None:
        """Send the smiles of some books, each of which has options."""
        now_ns = self._clock.now_ns()
        of_books = (
            self.announcer.smile(book, self.smiles.draw(book, now_ns=now_ns), now_ns=now_ns)
            for book in books
        )
        await self._send(Outgoing.join(of_books))

    async def heartbeat(self, feed_of_book: Mapping[int, str], open_books: Collection[int]) -> None:
        """Send every book's heartbeat, with the state of its feed and of its market."""
        now_ns = self._clock.now_ns()
        of_books = []
        for book in range(len(self.universe.books)):
            feed, is_open = feed_of_book[book], book in open_books
            of_books += [
                self.announcer.heartbeat(book, feed, is_market_open=is_open, now_ns=now_ns),
                self._bar_announcer.heartbeat(book, feed, self._bars, now_ns=now_ns),
            ]
        await self._send(Outgoing.join(of_books))

    async def bars(self) -> None:
        """Send the bars that have ended."""
        now_ns = self._clock.now_ns()
        finished = self._bars.close(now_ns)
        if finished:
            self._metrics.bars.inc(sum(len(one.rows) for one in finished))
            await self._send(self._bar_announcer.bars(finished, now_ns=now_ns))

    async def snapshot(self) -> None:
        """Set every book's snapshot key, true for the book's present ``seq``."""
        now_ns = self._clock.now_ns()
        seen = self.latest.seen()
        ticks = self.latest.ticks.take(seen.terms.rows)
        priced = self.pricer.columns(seen.terms, now_ns=now_ns)
        standing = self.streams.standing(seen.terms.rows, ticks.received_at_ns, now_ns=now_ns)
        of_books = (
            self.announcer.snapshot(
                book, ticks.part(part), priced.part(part), standing.part(part), now_ns=now_ns
            )
            for book, part in enumerate(seen.parts)
        )
        await self._send(Outgoing.join(of_books))

    async def instruments(self) -> None:
        """Set every book's instruments key, which says what the tokens stand for."""
        now_ns = self._clock.now_ns()
        books = range(len(self.universe.books))
        of_books = (self.announcer.instruments(book, now_ns=now_ns) for book in books)
        await self._send(Outgoing.join(of_books))

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop what is known of instruments that are no longer subscribed."""
        self.latest.forget(rows)
        self.streams.forget(rows)
        self._bars.forget(rows)
        self.pricer.forget(rows)
        self._sent.forget(rows)

    def subscribed(self, rows: NDArray[np.intp], *, since_ns: int) -> None:
        """Note that rows were asked for now: Kite answers with the last tick it kept of each."""
        self.streams.subscribe(rows, at_ns=since_ns)

    def audible(self, rows: NDArray[np.intp]) -> None:
        """Note which rows would be heard if they spoke: the silence of the others says nothing."""
        self.streams.listen(rows)

    def watch(self, *, lasted_ns: int) -> None:
        """Let time pass for the audible rows, so that each one's usual rate is known."""
        self.streams.watch(lasted_s=lasted_ns / NS_PER_S)

    def doubt(self, rows: NDArray[np.intp]) -> None:
        """Call what is known of some instruments stale, because their feed is lost."""
        self.pricer.doubt(rows)
        self._bars.lose(rows)

    async def announce_status(self, books: Sequence[int], state: str, reason: str) -> None:
        """Tell the subscribers of some books what their feed is doing."""
        now_ns = self._clock.now_ns()
        of_books = (self.announcer.status(b, state, reason, now_ns=now_ns) for b in books)
        await self._send(Outgoing.join(of_books))

    async def announce_gap(
        self, rows: NDArray[np.intp], *, from_ns: int, to_ns: int, reason: str
    ) -> None:
        """Tell subscribers that ticks of these universe rows may be missing in an interval."""
        now_ns = self._clock.now_ns()
        self._bars.gap(rows, from_ns=from_ns, to_ns=to_ns)
        self.pricer.miss(rows)
        book_of_row = self.universe.book[rows]
        of_books = []
        for book in np.unique(book_of_row).tolist():
            facts = {
                "from_us": from_ns // NS_PER_US,
                "to_us": to_ns // NS_PER_US,
                "reason": reason,
                "instruments": self.universe.instrument_token[rows[book_of_row == book]].tolist(),
            }
            of_books += [
                self.announcer.gap(book, facts, now_ns=now_ns),
                self._bar_announcer.gap(book, facts, now_ns=now_ns),
            ]
            self._metrics.gaps.labels(reason).inc()
        await self._send(Outgoing.join(of_books))

    def _batches(self, batches: Sequence[Batch], rows: columns.Rows, *, now_ns: int) -> Outgoing:
        rows_out = self._metrics.repriced if rows.is_repriced else self._metrics.published
        for one in batches:
            rows_out.labels(self.universe.books[one.book]).inc(len(one.ticks))
            self._metrics.conflated.inc(one.conflated)
            self._metrics.batches.inc()
        return Outgoing.join(self.announcer.batches(batches, rows, now_ns=now_ns))

    async def _send(self, outgoing: Outgoing) -> None:
        """Send until confirmed: a message keeps its ``seq``, so repeating it is harmless.

        Meanwhile the feed goes on into its bounded inbox; what is lost there becomes a gap.
        """
        attempt = 0
        while True:
            try:
                await self._publisher.send(outgoing)
            except PublishError as error:
                self._metrics.failures.inc()
                self.failing_since_ns = self.failing_since_ns or self._clock.now_ns()
                if attempt % ATTEMPTS_PER_WARNING == 0:
                    log.warning("publish_failed", attempts=attempt + 1, error=str(error))
                await self._pause(attempt)
                attempt += 1
            else:
                self.failing_since_ns = 0
                if attempt:
                    log.info("publish_recovered", attempts=attempt)
                return

    def _is_late(self, received_at_ns: int, now_ns: int) -> bool:
        return now_ns - received_at_ns > self._config.flush.conflate_after_ms * NS_PER_MS

    def _count(
        self, frames: int, decoded: decode.Decoded, accepted: validate.Plausible, *, now_ns: int
    ) -> None:
        self._metrics.frames.inc(frames)
        self._metrics.packets.inc(decoded.packets)
        for reason, count in (*decoded.rejected.items(), *accepted.rejected.items()):
            self._metrics.rejected.labels(reason).inc(count)
        for doubt, places in accepted.doubted.items():
            self._metrics.doubted.labels(doubt).inc(len(places))
        self.announcer.count_rejected(accepted.rejected_by_book)
        self.refusals.take(decoded, accepted, now_ns=now_ns)


class _Metrics:
    def __init__(self, telemetry: Telemetry) -> None:
        self.frames = telemetry.counter("feed_frames_total", "Binary frames received")
        self.packets = telemetry.counter("feed_packets_total", "Packets found in frames")
        self.rejected = telemetry.counter(
            "feed_packets_rejected_total", "Frames or packets not published", ["reason"]
        )
        self.doubted = telemetry.counter(
            "ticks_doubted_total", "Ticks published with a doubt", ["doubt"]
        )
        self.published = telemetry.counter(
            "ticks_published_total", "Rows published that had a packet", ["book"]
        )
        self.repriced = telemetry.counter(
            "ticks_repriced_total",
            "Rows published without a packet, because their numbers moved",
            ["book"],
        )
        self.conflated = telemetry.counter(
            "ticks_conflated_total", "Rows merged into a newer one of the same instrument"
        )
        self.batches = telemetry.counter("batches_published_total", "Batches published")
        self.bars = telemetry.counter("bars_published_total", "Rows of bars published")
        self.late = telemetry.gauge(
            "bars_late_ticks", "Ticks since the start that came after their bar", ["interval"]
        )
        self.gaps = telemetry.counter("gaps_announced_total", "Gap records published", ["reason"])
        self.failures = telemetry.counter("publish_failures_total", "Sends Redis did not confirm")
        self.latency = telemetry.latency_ms(
            "publish_latency_ms", "First frame of a flush received to its batches published"
        )
