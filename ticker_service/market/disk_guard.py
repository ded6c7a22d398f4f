"""Keep the recordings within their limits, and say when there is no room for more.

Looks every few seconds, so that the disk never fills between two looks: at 60,000 ticks a second a
recording grows by about 5 MB/s. Owned by the recorder's task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.session import ist_date
from ticker_service.errors import RecordingError
from ticker_service.market import retention

if TYPE_CHECKING:
    from ticker_service.config import RecordConfig
    from ticker_service.ports import RecordFolder
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

LOOK_EVERY_NS: Final = 5 * NS_PER_S
TIDY_EVERY_NS: Final = 60 * NS_PER_S
"""Listing the folder is more work than asking for free room; between two lists bytes are added."""
UNREADABLE: Final = "folder"
UNFINISHED: Final = ".open"
"""How the names of parts end that are still being written; a living writer holds a lock."""


class DiskGuard:
    """What is used, what is free, and why nothing may be written; ``look`` often."""

    def __init__(
        self, config: RecordConfig, folder: RecordFolder, surroundings: Surroundings
    ) -> None:
        self._config = config
        self._folder = folder
        self._clock = surroundings.clock
        self._used_bytes = 0
        self._looked_at_ns = -LOOK_EVERY_NS
        self._tidied_at_ns = -TIDY_EVERY_NS
        self._why = ""
        telemetry = surroundings.telemetry
        self._free = telemetry.gauge("record_free_bytes", "Room left where recordings are")
        self._used = telemetry.gauge("record_used_bytes", "Room that recordings take")
        self._deleted = telemetry.counter("record_files_deleted_total", "Files that had to go")

    def count(self, written_bytes: int) -> None:
        """Add what was written since the folder was last listed."""
        self._used_bytes += written_bytes

    async def look(self) -> str:
        """Return why nothing may be written: ``disk``, ``bytes_max``, ``folder``; empty if it may.

        Deletes what the limits no longer allow. Answers from memory if it has just looked.
        """
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_at_ns < LOOK_EVERY_NS:
            return self._why
        self._looked_at_ns = now_ns
        try:
            if now_ns - self._tidied_at_ns >= TIDY_EVERY_NS:
                self._tidied_at_ns = now_ns
                await self._tidy()
            free_bytes = await self._folder.free_bytes()
        except RecordingError as error:
            log.warning("recordings_unreadable", error=str(error))
            self._why = UNREADABLE
            return self._why
        self._free.set(free_bytes)
        self._used.set(self._used_bytes)
        self._why = retention.obstacle(
            self._config,
            free_bytes=free_bytes,
            used_bytes=self._used_bytes,
            is_on=not self._why,
        )
        return self._why

    async def _tidy(self) -> None:
        files = await self._folder.files()
        today = ist_date(self._clock.now_ns())
        self._used_bytes = sum(file.size_bytes for file in files)
        size_bytes = {file.name: file.size_bytes for file in files}
        for file in files:
            # Of a part that was open when its run was killed only the beginning is there.
            if file.name.endswith(UNFINISHED) and await self._folder.delete(file.name):
                self._used_bytes -= file.size_bytes
                log.warning("record_part_lost", file=file.name, size_bytes=file.size_bytes)
        for name in retention.to_delete(files, self._config, today=today):
            if await self._folder.delete(name):
                self._used_bytes -= size_bytes[name]
                self._deleted.inc()
                log.info("recording_deleted", file=name, size_bytes=size_bytes[name])
