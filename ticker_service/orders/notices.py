"""What everybody may know of the order half: breakers and accounts, on ``ticker:v1:events``.

Nothing private goes there, and nothing depends on it: a notice that cannot be delivered is dropped
and counted, the log and the metrics have it in any case.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_US
from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from ticker_service.ports import NoticeBoard
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

WAITING_MAX: Final = 100


class Notices:
    """Takes notices without waiting and delivers them one after the other."""

    def __init__(self, board: NoticeBoard, surroundings: Surroundings) -> None:
        self._board = board
        self._clock = surroundings.clock
        self._waiting: asyncio.Queue[dict[str, object]] = asyncio.Queue(WAITING_MAX)
        self._dropped = surroundings.telemetry.counter(
            "notices_dropped_total", "Notices that were not delivered"
        )

    def tell(self, kind: str, **facts: object) -> None:
        """Take a notice of a kind, such as ``breaker``; the newest one yields when it is full."""
        notice = {"v": 1, "kind": kind, "at_us": self._clock.now_ns() // NS_PER_US, **facts}
        try:
            self._waiting.put_nowait(notice)
        except asyncio.QueueFull:
            self._dropped.inc()

    async def deliver(self) -> None:
        """Deliver until cancelled."""
        while True:
            notice = await self._waiting.get()
            try:
                await self._board.post(notice)
            except PublishError as error:
                self._dropped.inc()
                log.warning("notice_not_delivered", kind=notice["kind"], error=str(error))
