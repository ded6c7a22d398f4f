"""Open an account, first for cancels and then for orders, and keep comparing (I11).

Path: order -> admit -> journal -> execute -> [settle] -> report. Cancels go out once every SENDING
of an earlier run has become UNKNOWN and one whole order book has been merged; orders when fills and
positions have been read as well, or could not be for as long as the settings allow. From then on
the same comparison is made now and then. Belongs to one event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.errors import BrokerUnavailable, JournalUnavailable, LoginRequired
from ticker_service.orders import exposure
from ticker_service.orders.standing import DeskState
from ticker_service.runtime.bell import Bell, ring_within
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.exposure import Exposure
    from ticker_service.domain.order import Account
    from ticker_service.orders.audit import Audit
    from ticker_service.orders.book_watch import BookWatch
    from ticker_service.orders.execute import Executor
    from ticker_service.orders.standing import Standing
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

START_RETRY: Final = Backoff(delay_s_min=0.5, delay_s_max=10.0)


class Readiness:
    """Whether one account may take cancels and orders."""

    def __init__(  # noqa: PLR0913 - the parts of a comparison
        self,
        account: Account,
        *,
        journal: OrderJournal,
        executor: Executor,
        standing: Standing,
        watch: BookWatch,
        audit: Audit,
        exposure: Exposure,
        config: OrdersConfig,
        surroundings: Surroundings,
        work: Bell,
    ) -> None:
        """Take the parts.

        Args:
            account: Whose.
            journal: What we know of its orders.
            executor: Is told what may go out.
            standing: Is told what is taken.
            watch: Reads the order book.
            audit: Compares fills and positions.
            exposure: The sums of what is open, which are compared as well.
            config: How often, and for how long at most orders wait.
            surroundings: Time and chance.
            work: Rung when what waited may go out.
        """
        self.wanted = Bell()
        """Rung when fills and positions are to be compared soon."""
        self.logged_in = Bell()
        """Rung when there is a new access token."""
        self.on_uncompared: Callable[[bool], None] = lambda _: None
        """Told True when the account opens although its fills cannot be read, False when they
        could be."""
        self._account = account
        self._journal = journal
        self._executor = executor
        self._standing = standing
        self._watch = watch
        self._audit = audit
        self._exposure = exposure
        self._after_s = config.open_uncompared_after_s
        self._every_s = config.audit_s
        self._again_s = config.audit_again_s
        self._clock = surroundings.clock
        self._chance = surroundings.chance
        self._work = work
        self._uncompared_since_ns: int | None = None

    async def open(self) -> None:
        """Let cancels go out: no SENDING is left and one whole book is merged (I11)."""
        attempt = 0
        while True:
            ring = self.logged_in.listen()
            try:
                await self._executor.halts.settle(self._journal)
                # What another machine has stopped holds from the first order on (I12).
                await self._executor.switches.settle(self._journal)
                await self._watch.book.read()
            except LoginRequired as error:
                self._standing.needs_login(str(error))
            except (JournalUnavailable, BrokerUnavailable) as error:
                log.warning("account_not_open", account=self._account, error=str(error))
            else:
                break
            await ring_within(START_RETRY.delay_s(attempt, self._chance), ring)
            attempt += 1
        self._executor.holds.is_uncompared = True
        self._standing.open(is_uncompared=True)

    async def compare(self) -> None:
        """Open admission: fills and positions have been read once (I11).

        Or they could not be for as long as the settings allow. They are witnesses: what differs is
        told and holds nothing back, so neither are orders held back for ever for want of them.
        """
        attempt, began_ns = 0, self._clock.monotonic_ns()
        while True:
            ring = self.logged_in.listen()
            try:
                await self._audit.look()
            except LoginRequired as error:
                self._standing.needs_login(str(error))
                began_ns = self._clock.monotonic_ns()  # nothing can be asked for meanwhile
            except (JournalUnavailable, BrokerUnavailable) as error:
                log.warning("account_takes_cancels_only", account=self._account, error=str(error))
                if self._opens_uncompared(began_ns, error):
                    break
            else:
                break
            await ring_within(START_RETRY.delay_s(attempt, self._chance), ring)
            attempt += 1
        self._executor.holds.is_uncompared = False
        if self._standing.state is DeskState.LOGIN_REQUIRED:
            self._watch.wanted.ring()  # the next book says whether it still is
        else:
            self._standing.open(is_uncompared=False)
        self._work.ring()
        log.info("account_open", account=self._account, writer_epoch=self._executor.writer_epoch)

    def _opens_uncompared(self, began_ns: int, error: Exception) -> bool:
        """Return whether the account opens although nobody could compare; then say so loudly."""
        after_s = self._after_s
        waited_ns = self._clock.monotonic_ns() - began_ns
        is_broker = isinstance(error, BrokerUnavailable)
        if not (is_broker and after_s and waited_ns >= after_s * NS_PER_S):
            return False
        log.error(
            "account_opened_uncompared",
            account=self._account,
            after_s=after_s,
            error=str(error),
            advice="look at the broker's fills and positions",
        )
        self._uncompared_since_ns = self._clock.monotonic_ns()
        self.on_uncompared(True)  # noqa: FBT003 - as it is documented
        return True

    async def keep_compared(self) -> None:
        """Compare fills and positions now and then, and soon again while something differs."""
        period_s = self._again_s  # what the first look saw is not sure yet
        while True:
            await ring_within(period_s, self.wanted.listen())
            period_s = self._every_s
            try:
                await exposure.compare(self._exposure, self._journal, self._account)
                differs = self._standing.state is DeskState.OPEN and await self._audit.look()
                self._say_compared()
                if differs:
                    self._watch.wanted.ring()
                    period_s = self._again_s
            except (BrokerUnavailable, LoginRequired, JournalUnavailable) as error:
                log.warning("account_not_audited", account=self._account, error=str(error))

    def _say_compared(self) -> None:
        """Take back that the account is open uncompared, once it was compared."""
        since_ns, age_ns = self._uncompared_since_ns, self._audit.age_ns
        if since_ns is None or age_ns is None:
            return
        if self._clock.monotonic_ns() - age_ns >= since_ns:
            self._uncompared_since_ns = None
            log.info("account_compared", account=self._account)
            self.on_uncompared(False)  # noqa: FBT003 - as it is documented
