"""Keep what came in and when every step of the path was taken, so that a day can be replayed.

Beside the path: feed -> [record] -> decode -> validate -> batch -> price -> publish.

Goal: the same file gives the same bytes. Recording what arrives is not enough, for what goes out
depends on which frames were flushed together, on what was subscribed, and on what the clock said
whenever a step asked. So the recorder stands between the engine and the path, notes every call with
its arguments and the clock's answers, and leaves the path itself alone (``RecordedPath``).

The feed never waits for a disk. Steps go into a queue bounded in bytes, policy REFUSE: what does
not fit is counted, told, and marked in the file as lost. One task encodes, compresses and writes in
a worker thread, at least once a second, which is what a kill can lose.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson
import structlog

from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.errors import PublishError, RecordingError
from ticker_service.market import tape
from ticker_service.market.disk_guard import DiskGuard
from ticker_service.market.pipeline import TickPath
from ticker_service.market.record_columns import ColumnRecorder
from ticker_service.market.tape import Step
from ticker_service.market.tape_files import TapeFiles
from ticker_service.ports import Outgoing
from ticker_service.runtime import supervise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.config import EngineConfig, RecordConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.ports import ColumnParts, Frame, RecordFolder, TickPublisher
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.surroundings import Surroundings
    from ticker_service.runtime.telemetry import Telemetry

log = structlog.get_logger()

WRITE_EVERY_S: Final = 1.0
WRITE_BYTES: Final = 4 << 20
"""So much is written at once, without waiting for the second to be over."""
SYNC_EVERY_NS: Final = 5 * NS_PER_S
"""How much a power cut can take beyond what a kill takes."""
RETRY_EVERY_NS: Final = 30 * NS_PER_S
"""How long after a failed write another file is tried."""
NOTICES_MAX: Final = 100

ON: Final = "on"
WRITE_FAILED: Final = "write_failed"
OVERFLOW: Final = "overflow"
FAILED: Final = "failed"


class RecordedPath(TickPath):
    """The tick path whose every step is noted; to the engine it is a ``TickPath``."""

    def __init__(
        self,
        universe: Universe,
        config: EngineConfig,
        publisher: TickPublisher,
        *,
        surroundings: Surroundings,
        pause: Callable[[int], Awaitable[None]],
        recorder: Recorder,
    ) -> None:
        """Take what a ``TickPath`` takes, and who keeps the notes."""
        self._noting = _NotingClock(surroundings.clock)
        self._recorder = recorder
        super().__init__(
            universe,
            config,
            publisher,
            surroundings=replace(surroundings, clock=self._noting),
            pause=pause,
        )

    async def flush(self, frames: Sequence[Frame], wanted: NDArray[np.bool_]) -> None:
        """Carry waiting frames down the path; what is subscribed goes before them on the tape."""
        self._recorder.note_wanted(wanted)
        with self._step(tape.FLUSH, frames=frames):
            await super().flush(frames, wanted)

    async def reprice(self) -> None:
        """Send again the options whose forward has moved."""
        with self._step("reprice"):
            await super().reprice()

    async def smile(self, books: Sequence[int]) -> None:
        """Send the smiles of some books."""
        with self._step("smile", books=list(books)):
            await super().smile(books)

    async def heartbeat(self, feed_of_book: Mapping[int, str], open_books: Collection[int]) -> None:
        """Send every book's heartbeat."""
        states = [[book, state] for book, state in feed_of_book.items()]
        with self._step("heartbeat", feed_of_book=states, books=list(open_books)):
            await super().heartbeat(feed_of_book, open_books)

    async def bars(self) -> None:
        """Send the bars that have ended."""
        with self._step("bars"):
            await super().bars()

    async def snapshot(self) -> None:
        """Set every book's snapshot key."""
        with self._step("snapshot"):
            await super().snapshot()

    async def instruments(self) -> None:
        """Set every book's instruments key."""
        with self._step("instruments"):
            await super().instruments()

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop what is known of instruments that are no longer subscribed."""
        with self._step("forget", rows=rows.tolist()):
            super().forget(rows)

    def subscribed(self, rows: NDArray[np.intp], *, since_ns: int) -> None:
        """Note that rows were asked for now."""
        with self._step("subscribed", rows=rows.tolist(), since_ns=since_ns):
            super().subscribed(rows, since_ns=since_ns)

    def audible(self, rows: NDArray[np.intp]) -> None:
        """Note which rows would be heard if they spoke."""
        with self._step("audible", rows=rows.tolist()):
            super().audible(rows)

    def watch(self, *, lasted_ns: int) -> None:
        """Let time pass for the audible rows."""
        with self._step("watch", lasted_ns=lasted_ns):
            super().watch(lasted_ns=lasted_ns)

    def doubt(self, rows: NDArray[np.intp]) -> None:
        """Call what is known of some instruments stale."""
        with self._step("doubt", rows=rows.tolist()):
            super().doubt(rows)

    async def announce_status(self, books: Sequence[int], state: str, reason: str) -> None:
        """Tell the subscribers of some books what their feed is doing."""
        with self._step("announce_status", books=list(books), state=state, reason=reason):
            await super().announce_status(books, state, reason)

    async def announce_gap(
        self, rows: NDArray[np.intp], *, from_ns: int, to_ns: int, reason: str
    ) -> None:
        """Tell subscribers that ticks may be missing."""
        with self._step(
            "announce_gap", rows=rows.tolist(), from_ns=from_ns, to_ns=to_ns, reason=reason
        ):
            await super().announce_gap(rows, from_ns=from_ns, to_ns=to_ns, reason=reason)

    @contextmanager
    def _step(self, name: str, frames: Sequence[Frame] = (), **arguments: object) -> Iterator[None]:
        """Note a step when it is over, also when it failed: above all that should be replayed."""
        at_ns = self._noting.begin()
        try:
            yield
        finally:
            self._recorder.take(
                Step(
                    name=name,
                    at_ns=at_ns,
                    readings_ns=self._noting.readings_ns,
                    frames=frames,
                    arguments=arguments,
                )
            )


class _NotingClock:
    """A clock that remembers what it has answered since a step began."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.readings_ns: list[int] = []

    def begin(self) -> int:
        self.readings_ns = []
        return self._clock.now_ns()

    def now_ns(self) -> int:
        now_ns = self._clock.now_ns()
        self.readings_ns.append(now_ns)
        return now_ns

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns()


@dataclass(slots=True)
class _Loss:
    """Steps in a row that are not in the file."""

    from_ns: int
    to_ns: int
    reason: str
    steps: int = 0
    frames: int = 0


class Recorder:
    """Takes steps without waiting and writes them in a task of its own (``run``)."""

    def __init__(
        self,
        config: RecordConfig,
        folder: RecordFolder,
        surroundings: Surroundings,
        *,
        parts: ColumnParts | None = None,
    ) -> None:
        """Take where recordings go.

        Args:
            config: What is recorded, and its limits.
            folder: Where the tapes go.
            surroundings: Time and metrics.
            parts: Where the published columns go; None to keep none.
        """
        self._parts = parts
        self._columns: ColumnRecorder | None = None
        self._telemetry = surroundings.telemetry
        self._config = config
        self._folder = folder
        self._clock = surroundings.clock
        self._guard = DiskGuard(config, folder, surroundings)
        self._metrics = _Metrics(surroundings.telemetry, self)
        self.state = ON
        """``on``, or why nothing is written: ``disk``, ``bytes_max``, ``folder``, ``write_failed``,
        ``failed``."""
        self._waiting: list[Step] = []
        self._waiting_bytes = 0
        self._urgent = asyncio.Event()
        self._is_over = False
        self._wanted: NDArray[np.bool_] | None = None
        self._loss: _Loss | None = None
        self._notices: deque[dict[str, object]] = deque(maxlen=NOTICES_MAX)
        self._tapes: TapeFiles | None = None
        self._publisher: TickPublisher | None = None
        self._events_channel = ""
        self._synced_at_ns = self._failed_at_ns = -RETRY_EVERY_NS

    @property
    def waiting_bytes(self) -> int:
        """Size of the steps that are not yet written."""
        return self._waiting_bytes

    def path(
        self,
        universe: Universe,
        config: EngineConfig,
        publisher: TickPublisher,
        *,
        surroundings: Surroundings,
        pause: Callable[[int], Awaitable[None]],
    ) -> TickPath:
        """Return a tick path whose steps come here; arguments as of ``TickPath``."""
        path = RecordedPath(
            universe, config, publisher, surroundings=surroundings, pause=pause, recorder=self
        )
        epoch = path.announcer.epoch
        self._tapes = TapeFiles(self._folder, universe, config, epoch=epoch)
        if self._parts is not None:
            self._columns = ColumnRecorder(
                self._config,
                self._parts,
                universe,
                path.announcer.columns,
                epoch=epoch,
                telemetry=self._telemetry,
            )
            path.announcer.tap = self._columns.take
        self._publisher = publisher
        self._events_channel = f"{config.publish.channel_prefix}events"
        return path

    def note_wanted(self, wanted: NDArray[np.bool_]) -> None:
        """Take what is subscribed, if it has changed since it was last taken."""
        if wanted is self._wanted:
            return
        self._wanted = wanted
        rows = np.flatnonzero(wanted).tolist()
        self.take(Step(name=tape.WANT, at_ns=self._clock.now_ns(), arguments={"rows": rows}))

    def take(self, step: Step) -> None:
        """Take a step, or count it as lost when there is no room or nothing is written."""
        size_bytes = tape.size_bytes(step)
        limit = self._config.waiting_bytes_max
        if self._loss is not None:
            limit //= 2  # or the small steps between large ones would make a loss of each of those
        # A single step may exceed the limit: it is a backlog that the feed's own limit has bounded.
        is_full = bool(self._waiting_bytes) and self._waiting_bytes + size_bytes > limit
        if self.state != ON or is_full or size_bytes > tape.STEP_BYTES_MAX:
            self._lose([step], OVERFLOW if self.state == ON else self.state)
            return
        if self._loss is not None:
            self._waiting.append(self._tell_loss(self._loss))
            self._loss = None
        self._waiting.append(step)
        self._waiting_bytes += size_bytes
        if self._waiting_bytes >= WRITE_BYTES:
            self._urgent.set()

    def finish(self) -> None:
        """Let ``run`` write what is here and return."""
        self._is_over = True
        self._urgent.set()

    async def run(self) -> None:
        """Write until :meth:`finish`, or until cancelled, and then what is still waiting."""
        try:
            while not self._is_over:
                await supervise.finish(self._work())
                await self._pause()
        except Exception:
            # A recording is not worth a feed: whatever is wrong here, the path goes on without it.
            log.exception("recording_failed")
            self.state = FAILED
        finally:
            if self.state != FAILED:
                await supervise.finish(self._end())

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(WRITE_EVERY_S):
                await self._urgent.wait()
        except TimeoutError:
            return
        finally:
            self._urgent.clear()

    async def _work(self) -> None:
        await self._heed(await self._guard.look())
        await self._write()
        await self._write_columns()
        await self._tell()

    async def _end(self) -> None:
        if self._loss is not None and self.state == ON:
            self._waiting.append(self._tell_loss(self._loss))
        await self._write()
        await self._let_go()

    async def _let_go(self) -> None:
        """Close what is open, whole or torn; what follows begins anew."""
        if self._tapes is not None:
            await self._tapes.close()
        if self._columns is not None:
            await self._columns.stop()

    async def _write_columns(self) -> None:
        if self._columns is None or self.state != ON:
            return
        try:
            self._guard.count(await self._columns.work(self._clock.now_ns()))
        except RecordingError as error:
            await self._fail(error)

    async def _write(self) -> None:
        steps, self._waiting = self._waiting, []
        if not steps or self._tapes is None:
            return
        size_bytes = self._waiting_bytes
        now_ns = self._clock.monotonic_ns()
        is_due = now_ns - self._synced_at_ns >= SYNC_EVERY_NS
        try:
            written_bytes = await self._tapes.write(steps, sync=is_due)
        except RecordingError as error:
            self._lose(steps, WRITE_FAILED)
            await self._fail(error)
        else:
            self._synced_at_ns = now_ns if is_due else self._synced_at_ns
            self._guard.count(written_bytes)
            self._metrics.wrote(steps, written_bytes)
        finally:
            # Only now: what is being written is still in memory.
            self._waiting_bytes -= size_bytes

    async def _fail(self, error: RecordingError) -> None:
        log.warning("record_write_failed", error=str(error))
        self._failed_at_ns = self._clock.monotonic_ns()
        await self._stop(WRITE_FAILED)

    async def _heed(self, obstacle: str) -> None:
        """Stop when something stands in the way, and start again when nothing does any more."""
        if obstacle and self.state == ON:
            if self._tapes is not None and self._tapes.is_open:
                await self._write()
            await self._stop(obstacle)
        elif obstacle:
            self.state = obstacle
        elif self.state != ON:
            since_ns = self._clock.monotonic_ns() - self._failed_at_ns
            if self.state == WRITE_FAILED and since_ns < RETRY_EVERY_NS:
                return
            self.state = ON
            if self._columns is not None:
                self._columns.is_on = True
            log.info("recording_goes_on")
            self._notice(state=ON)

    async def _stop(self, why: str) -> None:
        self.state = why
        log.error("recording_stopped", reason=why)
        self._notice(state="stopped", reason=why)
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._waiting_bytes -= sum(tape.size_bytes(step) for step in waiting)
            self._lose(waiting, why)
        await self._let_go()

    def _lose(self, steps: Sequence[Step], why: str) -> None:
        """Count steps that will not be in the file, to be told there when it goes on."""
        loss = self._loss
        if loss is None:
            loss = self._loss = _Loss(from_ns=steps[0].at_ns, to_ns=steps[0].at_ns, reason=why)
            log.warning("recording_loses_steps", reason=why)
        loss.from_ns = min(loss.from_ns, steps[0].at_ns)
        loss.to_ns = max(loss.to_ns, steps[-1].at_ns)
        loss.steps += len(steps)
        loss.frames += sum(len(step.frames) for step in steps)
        # What is subscribed may be among them: the next flush says it again.
        self._wanted = None
        self._metrics.lost(steps, why)

    def _tell_loss(self, loss: _Loss) -> Step:
        """Return the mark of a loss in the file; the log and the ``events`` channel get it, too."""
        facts = asdict(loss)
        log.warning("recording_lost_steps", **facts)
        self._notice(state="lost", **facts)
        return Step(name=tape.LOST, at_ns=loss.to_ns, arguments=facts)

    def _notice(self, **facts: object) -> None:
        at_us = self._clock.now_ns() // NS_PER_US
        self._notices.append({"v": 1, "kind": "recording", "at_us": at_us, **facts})

    async def _tell(self) -> None:
        """Publish what happened to the recording; a notice that Redis does not take is dropped."""
        if not self._notices or self._publisher is None:
            return
        messages = [(self._events_channel, orjson.dumps(notice)) for notice in self._notices]
        self._notices.clear()
        try:
            await self._publisher.send(Outgoing(messages=messages))
        except PublishError as error:
            log.warning("recording_notice_not_delivered", error=str(error))


class _Metrics:
    def __init__(self, telemetry: Telemetry, recorder: Recorder) -> None:
        self._bytes = telemetry.counter("record_bytes_total", "Bytes of frames written, compressed")
        self._steps = telemetry.counter("record_steps_total", "Steps of the path written")
        self._frames = telemetry.counter("record_frames_total", "Frames written")
        self._lost = telemetry.counter("record_steps_lost_total", "Steps not written", ["reason"])
        self._frames_lost = telemetry.counter(
            "record_frames_lost_total", "Frames not written", ["reason"]
        )
        is_on = telemetry.gauge("record_on", "1 while frames are recorded")
        is_on.set_function(lambda: float(recorder.state == ON))
        waiting = telemetry.gauge("record_waiting_bytes", "Steps waiting for the disk")
        waiting.set_function(lambda: recorder.waiting_bytes)

    def wrote(self, steps: Sequence[Step], written_bytes: int) -> None:
        self._bytes.inc(written_bytes)
        self._steps.inc(len(steps))
        self._frames.inc(sum(len(step.frames) for step in steps))

    def lost(self, steps: Sequence[Step], why: str) -> None:
        self._lost.labels(why).inc(len(steps))
        self._frames_lost.labels(why).inc(sum(len(step.frames) for step in steps))
