"""One run's tapes in the recordings' folder: one per trading day, and a new one after every stop.

Knows names and what a file begins with; the folder does the writing. Owned by the recorder's task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.session import day_end_ns, ist_date
from ticker_service.market import tape, tape_header
from ticker_service.market.tape import Step, TapeWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ticker_service.config import EngineConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.ports import RecordFolder

log = structlog.get_logger()

SUFFIX: Final = ".tape"


@dataclass(frozen=True, slots=True)
class _Open:
    name: str
    writer: TapeWriter
    day_end_ns: int


class TapeFiles:
    """The tapes of one run, in parts that are numbered from 0."""

    def __init__(
        self, folder: RecordFolder, universe: Universe, config: EngineConfig, *, epoch: int
    ) -> None:
        self._folder = folder
        self._universe = universe
        self._config = config
        self._epoch = epoch
        self._part = 0
        self._file: _Open | None = None
        self._want: Step | None = None

    @property
    def is_open(self) -> bool:
        """Return whether a file has been begun and not closed."""
        return self._file is not None

    async def write(self, steps: Sequence[Step], *, sync: bool) -> int:
        """Write steps to the file of their day; return the bytes it took.

        Raises:
            RecordingError: Some of the steps are not written; begin a new file with ``close``.
        """
        count = 0
        for day_end, of_day in _by_day(steps, self._file.day_end_ns if self._file else 0):
            if self._file is None or self._file.day_end_ns != day_end:
                await self.close()
                count += await self._open(of_day[0].at_ns, day_end)
            file = self._file
            assert file is not None  # noqa: S101 - opened above
            count += await self._folder.append(file.name, file.writer.blocks(of_day), sync=sync)
            wants = [step for step in of_day if step.name == tape.WANT]
            self._want = wants[-1] if wants else self._want
        return count

    async def close(self) -> None:
        """Let go of the open file, if there is one."""
        if self._file is not None:
            file, self._file = self._file, None
            await self._folder.close(file.name)

    async def _open(self, at_ns: int, day_end: int) -> int:
        """Begin a file with what the run is and what is subscribed now."""
        day = str(ist_date(at_ns))
        header = tape_header.Header(
            software=tape_header.software(),
            epoch=self._epoch,
            part=self._part,
            trading_day=day,
            config=self._config,
            universe=self._universe,
        )
        writer = TapeWriter()
        name = f"frames/{day}/{self._epoch}-{self._part:03d}{SUFFIX}"
        self._part += 1
        opening = [writer.opening(tape_header.encode(header), at_ns=at_ns)]
        if self._want is not None:
            now = Step(name=tape.WANT, at_ns=at_ns, arguments=self._want.arguments)
            opening += writer.blocks([now])
        count = await self._folder.append(name, opening, sync=True)
        self._file = _Open(name, writer, day_end)
        log.info("recording_frames", file=name)
        return count


def _by_day(steps: Sequence[Step], day_end: int) -> Iterator[tuple[int, Sequence[Step]]]:
    """Split steps where a day ends; a clock that steps back does not lead back to a closed day."""
    first = 0
    for place, step in enumerate(steps):
        if step.at_ns >= day_end:
            if place > first:
                yield day_end, steps[first:place]
            first, day_end = place, day_end_ns(step.at_ns)
    if first < len(steps):
        yield day_end, steps[first:]
