"""Keep the day's instruments at hand for the rules of new orders.

A dump that is not the day's says nothing: lots and price steps change from one day to the next, and
contracts are listed and end. Then orders go out unchecked by it and the broker, who knows, checks
them; a wrong lot is refused there and nothing is at stake here. The other way round a trader would
be locked out at 09:15 because a file is missing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.contracts import Contracts, dump_day, is_to_be_fetched_again
from ticker_service.errors import BrokerUnavailable, CatalogError
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from ticker_service.domain.instrument import InstrumentTable
    from ticker_service.ports import InstrumentCatalog
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

LOOK_S: Final = 10.0
RETRY: Final = Backoff(delay_s_min=10.0, delay_s_max=300.0)


class ContractWatch:
    """The newest dump; fetched when the day's is due, until there is one."""

    def __init__(self, catalog: InstrumentCatalog, surroundings: Surroundings) -> None:
        self._catalog = catalog
        self._surroundings = surroundings
        self._newest: Contracts | None = None
        self._fetched_ns = 0

    @property
    def _clock(self) -> Clock:
        return self._surroundings.clock

    def current(self) -> Contracts | None:
        """Return the day's contracts, None while they are not known."""
        newest = self._newest
        is_of_day = newest is not None and newest.day == dump_day(self._clock.now_ns())
        return newest if is_of_day else None

    def count(self) -> float:
        """Return how many contracts orders are checked against, 0 for none."""
        return float(len(self.current() or ()))

    async def take(self, dump: InstrumentTable) -> None:
        """Take a dump that was fetched just now; sorting it is work for a thread."""
        now_ns = self._fetched_ns = self._clock.now_ns()
        self._newest = await asyncio.to_thread(Contracts.of, dump, fetched_at_ns=now_ns)
        log.info("contracts_known", contracts=len(self._newest), day=str(self._newest.day))

    async def run(self) -> None:
        """Fetch the day's dump whenever it is due."""
        attempt = 0
        while True:
            is_known = self.current() is not None
            if is_known and not is_to_be_fetched_again(self._fetched_ns, self._clock.now_ns()):
                await asyncio.sleep(LOOK_S)
                continue
            try:
                await self.take(await self._catalog.fetch())
            except (BrokerUnavailable, CatalogError) as error:
                advice = "orders are not checked against the instruments until it comes"
                if is_known:
                    advice = "orders are checked against an earlier one of today until it comes"
                log.warning("contracts_unknown", error=str(error), advice=advice)
                await asyncio.sleep(RETRY.delay_s(attempt, self._surroundings.chance))
                attempt += 1
            else:
                attempt = 0
