"""An account's three breakers, kept in the journal so that a restart finds them as they were.

A breaker is in force the moment it opens and durable soon after. Restored, it stays open for what
is left of its time, told by the database's clock, and then lets one probe through: a restart
neither begins to hammer a broker that is down nor leaves one alone for ever. Restoring is no
transition and is not kept anew, or a daemon that restarts often would never come to its probe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.accounts.breaker import Breaker, BreakerChange, BreakerRules
from ticker_service.domain.breaker import BreakerName, BreakerState, BreakerStep
from ticker_service.errors import JournalUnavailable
from ticker_service.runtime.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ticker_service.domain.order import Account
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""So soon a transition is tried again that the journal has not taken."""
UNSAVED_MAX: Final = 100
"""More transitions than this wait for no journal: the newest say how the breakers stand."""


class Breakers:
    """Belongs to one event loop."""

    def __init__(
        self,
        account: Account,
        *,
        clock: Clock,
        rules: Mapping[BreakerName, BreakerRules] | None = None,
        on_change: Callable[[BreakerName, BreakerChange], None] | None = None,
    ) -> None:
        """Begin with all closed.

        Args:
            account: Whose.
            clock: Its monotonic reading times them.
            rules: When each opens and for how long, where it is not as usual.
            on_change: Told of each transition, those of restoring among them.
        """
        self.news = Bell()
        """Rung when there is a transition to be made durable."""
        self._account = account
        self._on_change = on_change
        self._unsaved: deque[BreakerStep] = deque(maxlen=UNSAVED_MAX)
        rules = rules or {}
        self._breakers = {
            name: Breaker(
                f"{name}-{account}",
                rules=rules.get(name, BreakerRules()),
                clock=clock,
                on_change=partial(self._changed, name),
            )
            for name in BreakerName
        }
        self.orders = self._breakers[BreakerName.ORDERS]
        self.reads = self._breakers[BreakerName.READS]
        self.feed = self._breakers[BreakerName.FEED]

    @property
    def has_news(self) -> bool:
        """Whether a transition waits for the journal."""
        return bool(self._unsaved)

    def refused_count(self, name: BreakerName) -> int:
        """Return how many requests a breaker has kept from being made."""
        return self._breakers[name].refused_count

    async def restore(self, journal: OrderJournal) -> None:
        """Stand as an earlier process left them.

        Raises:
            JournalUnavailable: How they stood is not known.
        """
        for kept in await journal.breakers(self._account):
            if kept.state is not BreakerState.CLOSED:
                self._breakers[kept.breaker].resume(open_for_s=kept.age_s)

    async def settle(self, journal: OrderJournal) -> None:
        """Make every transition durable.

        Raises:
            JournalUnavailable: Try again; what stands, stands.
        """
        while self._unsaved:
            step = self._unsaved[0]
            await journal.keep_breaker(step)
            # More may have come meanwhile and pushed this one out.
            if self._unsaved and self._unsaved[0] is step:
                self._unsaved.popleft()

    async def keep(self, journal: OrderJournal) -> None:
        """Settle whenever there is news until cancelled: a restart finds them as they are."""
        while True:
            ring = self.news.listen()
            try:
                await self.settle(journal)
            except JournalUnavailable as error:
                log.warning("breakers_not_kept", account=self._account, error=str(error))
            if self.has_news:
                await asyncio.sleep(LOOK_S)
            else:
                await ring.wait()

    def _changed(self, name: BreakerName, change: BreakerChange) -> None:
        if not change.is_resumed:
            self._unsaved.append(
                BreakerStep(
                    account=self._account,
                    breaker=name,
                    before=change.before,
                    after=change.after,
                    failures=change.failures,
                )
            )
            self.news.ring()
        if self._on_change is not None:
            self._on_change(name, change)
