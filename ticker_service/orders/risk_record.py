"""Write which risk limits are in force, and what they deny, into the journal.

Beside the path of an order: a denial is told at once and written behind it. What finds no room is
in the log all the same, and counted here (I15).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.risk import RiskDenial
from ticker_service.errors import JournalUnavailable

if TYPE_CHECKING:
    from ticker_service.domain.order import NewTask
    from ticker_service.domain.risk import RiskTable
    from ticker_service.errors import RiskDenied
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

WAITING_MAX: Final = 1_000
AGAIN_S: Final = 1.0


class RiskRecord:
    """All accounts of one process; belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing to write."""
        self.dropped = 0
        """Denials that found no room, since the start."""
        self._clock = clock
        self._waiting: asyncio.Queue[RiskDenial | tuple[RiskTable, int]] = asyncio.Queue(
            maxsize=WAITING_MAX
        )

    def limits(self, table: RiskTable) -> None:
        """Take what limits from now on."""
        self._put((table, self._clock.now_ns()))

    def denied(self, new: NewTask, refusal: RiskDenied) -> None:
        """Take a denial."""
        self._put(
            RiskDenial(
                account=new.account,
                at_ns=self._clock.now_ns(),
                principal=new.principal,
                client_order_id=new.client_order_id,
                kind=new.kind.value,
                code=refusal.code,
                field=refusal.field,
                value=str(refusal.value),
                limit=str(refusal.limit),
                rule=refusal.rule,
                version=refusal.version,
                numbers={name: str(value) for name, value in refusal.numbers.items()},
            )
        )

    async def run(self, journal: OrderJournal) -> None:
        """Write what comes until cancelled, however long the journal takes."""
        while True:
            what = await self._waiting.get()
            while True:
                try:
                    if isinstance(what, RiskDenial):
                        await journal.keep_risk_denial(what)
                    else:
                        await journal.keep_risk_limits(what[0], now_ns=what[1])
                except JournalUnavailable as error:
                    log.warning("risk_not_recorded", error=str(error))
                    await asyncio.sleep(AGAIN_S)
                else:
                    break

    def _put(self, what: RiskDenial | tuple[RiskTable, int]) -> None:
        try:
            self._waiting.put_nowait(what)
        except asyncio.QueueFull:
            self.dropped += 1
