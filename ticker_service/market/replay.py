"""Drive the tick path from recordings: the same calls, with the clock saying what it said then.

feed -> record -> (file) -> [replay] -> decode -> validate -> batch -> price -> publish.

The path is the daemon's own; only its clock and what calls it are other ones. So the same files
give the same bytes, of the same version and on the same kind of machine. Time between the steps is
waited for or not, and no byte depends on it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from ticker_service.config import RecordConfig
from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.market import tape, tape_header
from ticker_service.market.pipeline import TickPath
from ticker_service.market.record_columns import BUFFER_BYTES, ColumnRecorder
from ticker_service.market.replay_calls import Arguments, call
from ticker_service.runtime.pacing import Backoff
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from ticker_service.market.tape import Step, Tape
    from ticker_service.market.tape_header import Header
    from ticker_service.ports import ColumnParts, Outgoing, Payload, TickPublisher
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

PUBLISH_RETRY: Final = Backoff(delay_s_min=0.05, delay_s_max=1.0)
PAUSE_S_MIN: Final = 0.001
"""Shorter waits cost more than they are worth; the next step waits for them, too."""
COLUMN_BYTES_MAX: Final = 1 << 30
"""Room for the columns of one step: written after each, so nothing of a replay is refused."""
ONLY_SENDING: Final = frozenset({"heartbeat", "snapshot", "instruments"})
"""Steps without effect on what follows: left out where nothing is sent."""
NOT_RECORDED: Final = "not_recorded"
"""Reason of the gap that stands where steps are missing in a file."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An opened tape with its header read."""

    tape: Tape
    header: Header

    @classmethod
    def of(cls, opened: Tape) -> Self:
        """Read the header of an opened tape.

        Raises:
            RecordingError: It cannot be read by this version.
        """
        return cls(opened, tape_header.decode(opened.header, opened.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How to replay; instants are ns since the Unix epoch.

    Attributes:
        speed: How many times faster than it was; None for as fast as it goes.
        from_ns: Steps before this are taken in silence, so that what follows is what was published.
        to_ns: Nothing from here on; None for all of it.
        warm_up_ns: Begin so long before ``from_ns`` with nothing known, instead of at the start.
        channel_prefix: What all channels and keys begin with.
        epoch: What stands for the recorded epoch; None keeps it.
    """

    channel_prefix: str
    speed: float | None = None
    from_ns: int = 0
    to_ns: int | None = None
    warm_up_ns: int | None = None
    epoch: int | None = None


@dataclass(slots=True, kw_only=True)
class ReplaySummary:
    """What a replay did; counts are of what was sent unless they say otherwise.

    ``steps`` are all that were taken; ``losses`` are places where the file lacks something;
    ``behind_s_max`` is how far it fell behind the asked speed. ``sha256`` is over every message and
    value with its channel or key, the prefix left out: equal for equal bytes.
    """

    steps: int = 0
    frames: int = 0
    messages: int = 0
    values: int = 0
    sent_bytes: int = 0
    losses: int = 0
    torn_bytes: int = 0
    damaged_bytes: int = 0
    first_at_us: int = 0
    last_at_us: int = 0
    seconds: float = 0.0
    behind_s_max: float = 0.0
    sha256: str = ""


class Replay:
    """One pass over the tapes of one or more runs, in the order given."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        publisher: TickPublisher,
        options: ReplayOptions,
        *,
        surroundings: Surroundings,
        parts: ColumnParts | None = None,
    ) -> None:
        """Take what to replay, where to, and how.

        Args:
            recordings: Opened tapes in the order of their time.
            publisher: Where the messages go.
            options: Which part of them, and how fast.
            surroundings: Time, chance, metrics.
            parts: Where the published columns go as well; None for nowhere.
        """
        self._parts = parts
        self._columns: ColumnRecorder | None = None
        self._worked_at_ns = 0
        self._recordings = recordings
        self._options = options
        self._surroundings = surroundings
        self._pace = _Pace(surroundings.clock, options.speed)
        self._clock = _TapeClock()
        self._gate = _Gate(publisher, prefix_characters=len(options.channel_prefix))
        self._was_silent = False
        self._path: TickPath | None = None
        self._epoch = -1
        self._runs = 0
        self._wanted: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.summary = ReplaySummary()

    async def run(self) -> ReplaySummary:
        """Replay everything that was asked for.

        Raises:
            RecordingError: A file holds a step this version does not know.
        """
        began_ns = self._surroundings.clock.monotonic_ns()
        before: tuple[Header, int] | None = None
        for recording in self._needed():
            opened, header = recording.tape, recording.header
            path = await self._begin(header)
            if before is not None and before[0].epoch == header.epoch:
                await self._note_missing_parts(path, before, opened, header)
            for step in self._wanted_steps(opened):
                await self._take(path, step)
            before = header, opened.last_ns
            self.summary.torn_bytes += opened.torn_bytes
            self.summary.damaged_bytes += opened.damaged_bytes
        await self._finish_columns()
        self._gate.fill(self.summary)
        self.summary.behind_s_max = round(self._pace.behind_s_max, 3)
        ended_ns = self._surroundings.clock.monotonic_ns()
        self.summary.seconds = round((ended_ns - began_ns) / NS_PER_S, 3)
        return self.summary

    def _needed(self) -> list[Recording]:
        """Return the recordings without the runs that were over before anything is told."""
        last_ns: dict[int, int] = {}
        for each in self._recordings:
            epoch = each.header.epoch
            last_ns[epoch] = max(last_ns.get(epoch, 0), each.tape.last_ns)
        return [
            each for each in self._recordings if last_ns[each.header.epoch] >= self._options.from_ns
        ]

    async def _begin(self, header: Header) -> TickPath:
        """Return the path of a run; a later part of the same run goes on with the one there is."""
        if self._path is not None and header.epoch == self._epoch:
            return self._path
        if header.part:
            log.warning("replay_begins_in_mid_run", epoch=header.epoch, part=header.part)
        config = replace(
            header.config,
            publish=replace(header.config.publish, channel_prefix=self._options.channel_prefix),
        )
        self._epoch = header.epoch
        # The path takes its epoch from the clock.
        epoch = header.epoch
        if self._options.epoch is not None:
            epoch = self._options.epoch + self._runs
        self._runs += 1
        self._clock.set(epoch * NS_PER_US, ())
        self._path = TickPath(
            header.universe,
            config,
            self._gate,
            surroundings=replace(self._surroundings, clock=self._clock, telemetry=Telemetry()),
            pause=self._pause,
        )
        self._wanted = np.zeros(len(header.universe), np.bool_)
        await self._finish_columns()
        if self._parts is not None:
            self._columns = ColumnRecorder(
                RecordConfig(folder=Path(), waiting_bytes_max=COLUMN_BYTES_MAX),
                self._parts,
                header.universe,
                self._path.announcer.columns,
                epoch=epoch,
                telemetry=Telemetry(),
            )
        return self._path

    def _wanted_steps(self, opened: Tape) -> Iterator[Step]:
        options = self._options
        first_ns = 0
        if options.warm_up_ns is not None:
            first_ns = options.from_ns - options.warm_up_ns
        for step in opened.steps(from_ns=first_ns):
            if options.to_ns is not None and step.at_ns >= options.to_ns:
                return
            yield step

    async def _note_missing_parts(
        self, path: TickPath, before: tuple[Header, int], opened: Tape, header: Header
    ) -> None:
        if header.part != before[0].part + 1:
            await self._tell_loss(path, from_ns=before[1], to_ns=opened.first_ns)

    async def _take(self, path: TickPath, step: Step) -> None:
        """Take one step at its time, aloud or in silence."""
        self.summary.steps += 1
        is_aloud = step.at_ns >= self._options.from_ns
        if is_aloud and not self._gate.is_open:
            self._gate.is_open = True
            if self._was_silent:
                # Who joins now must not wait for the next pulse to learn what the tokens mean.
                self._clock.set(step.at_ns, ())
                await path.instruments()
                await path.snapshot()
        if self._gate.is_open:
            path.announcer.tap = None if self._columns is None else self._columns.take
            await self._pace.wait_for(step.at_ns)
        else:
            self._was_silent = True
            if step.name in ONLY_SENDING:
                return
            await asyncio.sleep(0)  # a long silence must still hear Ctrl-C
        self._clock.set(step.at_ns, step.readings_ns)
        await self._call(path, step)
        if self._gate.is_open:
            self.summary.frames += len(step.frames)
            self.summary.first_at_us = self.summary.first_at_us or step.at_ns // NS_PER_US
            self.summary.last_at_us = step.at_ns // NS_PER_US
            await self._write_columns(step.at_ns)

    async def _call(self, path: TickPath, step: Step) -> None:
        match step.name:
            case tape.FLUSH:
                await path.flush(step.frames, self._wanted)
            case tape.WANT:
                # A new mask each time, as the engine makes it: the path may compare identities.
                self._wanted = np.zeros(len(path.universe), np.bool_)
                self._wanted[Arguments(step, path).rows()] = True
            case tape.LOST:
                known = Arguments(step, path)
                await self._tell_loss(
                    path, from_ns=known.integer("from_ns"), to_ns=known.integer("to_ns")
                )
            case _:
                await call(path, step)

    async def _tell_loss(self, path: TickPath, *, from_ns: int, to_ns: int) -> None:
        """Announce that something is missing here; who listens must not take silence for quiet."""
        self.summary.losses += 1
        rows = np.flatnonzero(self._wanted)
        path.doubt(rows)
        if len(rows):
            await path.announce_gap(rows, from_ns=from_ns, to_ns=to_ns, reason=NOT_RECORDED)

    async def _write_columns(self, at_ns: int) -> None:
        if self._columns is None:
            return
        is_due = at_ns - self._worked_at_ns >= NS_PER_S
        if is_due or self._columns.waiting_bytes > BUFFER_BYTES:
            self._worked_at_ns = at_ns
            await self._columns.work(at_ns)

    async def _finish_columns(self) -> None:
        if self._columns is not None:
            await self._columns.work(0, is_over=True)
            self._columns = None

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(PUBLISH_RETRY.delay_s(attempt, self._surroundings.chance))


class _TapeClock:
    """A clock that says what it said then; when asked more often than then, the last again."""

    def __init__(self) -> None:
        self._at_ns = 0
        self._readings_ns: deque[int] = deque()

    def set(self, at_ns: int, readings_ns: Sequence[int]) -> None:
        self._at_ns = at_ns
        self._readings_ns = deque(readings_ns)

    def now_ns(self) -> int:
        if self._readings_ns:
            self._at_ns = self._readings_ns.popleft()
        return self._at_ns

    def monotonic_ns(self) -> int:
        return self._at_ns


class _Gate:
    """A publisher that lets nothing through until it is open, and takes the sum of what it let."""

    def __init__(self, publisher: TickPublisher, *, prefix_characters: int) -> None:
        self._publisher = publisher
        self._prefix_characters = prefix_characters
        self._digest = hashlib.sha256()
        self._messages = self._values = self._bytes = 0
        self.is_open = False

    async def send(self, outgoing: Outgoing) -> None:
        if not self.is_open:
            return
        await self._publisher.send(outgoing)
        for channel, message in outgoing.messages:
            self._add(channel, message)
        for key, value, _ in outgoing.values:
            self._add(key, value)
        self._messages += len(outgoing.messages)
        self._values += len(outgoing.values)

    async def close(self) -> None:
        await self._publisher.close()

    def fill(self, summary: ReplaySummary) -> None:
        summary.messages, summary.values = self._messages, self._values
        summary.sent_bytes = self._bytes
        summary.sha256 = self._digest.hexdigest()

    def _add(self, name: str, content: Payload) -> None:
        for part in (name[self._prefix_characters :].encode(), content):
            self._digest.update(len(part).to_bytes(8, "little"))
            self._digest.update(part)
        self._bytes += len(content)


class _Pace:
    """Waits between steps as long as it was then, divided by the speed."""

    def __init__(self, clock: Clock, speed: float | None) -> None:
        self._clock = clock
        self._speed = speed
        self._began: tuple[int, int] | None = None
        self.behind_s_max = 0.0

    async def wait_for(self, at_ns: int) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._speed is None:
            await asyncio.sleep(0)
            return
        began_ns, first_ns = self._began = self._began or (now_ns, at_ns)
        ahead_s = (began_ns + (at_ns - first_ns) / self._speed - now_ns) / NS_PER_S
        self.behind_s_max = max(self.behind_s_max, -ahead_s)
        await asyncio.sleep(ahead_s if ahead_s >= PAUSE_S_MIN else 0)
