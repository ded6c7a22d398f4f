"""All accounts' desks in one process: start, tokens, updates of the feed, stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.errors import AccountTaken, ConfigurationError, JournalUnavailable
from ticker_service.orders.desk import DeskState, WriterLost
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ticker_service.accounts.tokens import AccessTokens
    from ticker_service.domain.halt import Halt
    from ticker_service.domain.order import Account
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.orders.front import FrontDesk
    from ticker_service.orders.notices import Notices
    from ticker_service.ports import BrokerGateway, OrderJournal
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

HALTED: Final = "halted"
STOP_S_MAX: Final = 15.0
"""Sends under way are recorded within this; their own deadlines are shorter."""
TOKEN_LOOK_S: Final = 2.0
RESTART: Final = Backoff(delay_s_min=0.5, delay_s_max=5.0)


class OrderOffice:
    """Runs the desks; one that loses its account's lock stands by until it has it again."""

    def __init__(  # noqa: PLR0913 - the parts of the order half
        self,
        front: FrontDesk,
        *,
        journal: OrderJournal,
        gateways: Mapping[Account, BrokerGateway],
        tokens: AccessTokens,
        token_in_use: dict[Account, str],
        notices: Notices,
        surroundings: Surroundings,
    ) -> None:
        """Take the parts.

        Args:
            front: What the doors talk to; it has the desks.
            journal: Open already; closed when :meth:`run` ends.
            gateways: By account; closed when :meth:`run` ends.
            tokens: Where a login leaves its token.
            notices: What everybody may know.
            token_in_use: What the gateways send with; this object keeps it up to date.
            surroundings: Time and chance.
        """
        self.front = front
        self._journal = journal
        self._gateways = gateways
        self._tokens = tokens
        self._token_in_use = token_in_use
        self._notices = notices
        self._surroundings = surroundings
        self._is_closed = False

    def states(self) -> dict[str, str]:
        """Return how each account's desk stands; ``halted`` is one that takes cancels only."""
        return {
            account: HALTED
            if desk.state is DeskState.OPEN and desk.halts.standing()
            else str(desk.state)
            for account, desk in self.front.desks.items()
        }

    def halts(self) -> list[Halt]:
        """Return what halts which account."""
        return [halt for desk in self.front.desks.values() for halt in desk.halts.standing()]

    async def run(self, stop: asyncio.Event) -> None:
        """Run every desk until ``stop`` is set, then let what was sent be recorded."""
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(self._watch_tokens(), name="tokens")]
                work.append(tasks.create_task(self._watch_writers(), name="writers"))
                work.append(tasks.create_task(self._notices.deliver(), name="notices"))
                work += [
                    tasks.create_task(self._keep(desk), name=f"desk-{desk.account}")
                    for desk in self.front.desks.values()
                ]
                await stop.wait()
                for desk in self.front.desks.values():
                    desk.stop()
                for task in work:
                    task.cancel()
        finally:
            await self.close()

    def take_update(self, data: object) -> None:
        """Take an order update of the feed; whose it is, the row says."""
        for account, gateway in self._gateways.items():
            row = gateway.order_update(data)
            if row is not None:
                self.front.desks[account].take_update(row)

    def feed_came_back(self) -> None:
        """Read the books: updates may have been missed meanwhile (kite.md §2.6)."""
        for desk in self.front.desks.values():
            desk.want_book()

    async def _keep(self, desk: AccountDesk) -> None:
        """Run a desk again whenever it had to give up its account."""
        attempt = 0
        while True:
            try:
                await desk.run()
            except AccountTaken as error:
                desk.state = DeskState.STANDBY
                if not attempt:
                    log.warning("account_stands_by", account=desk.account, error=str(error))
                    self._notices.tell("account", account=desk.account, state="standby")
            except (WriterLost, JournalUnavailable) as error:
                log.warning("account_given_up", account=desk.account, error=str(error))
            except BaseExceptionGroup as group:
                others = group.split((WriterLost, JournalUnavailable))[1]
                if others is not None:
                    raise
                log.warning("account_given_up", account=desk.account, error=str(group))
            await asyncio.sleep(RESTART.delay_s(attempt, self._surroundings.chance))
            attempt += 1

    async def _watch_tokens(self) -> None:
        """Use the newest token of every account; a login elsewhere needs no restart."""
        while True:
            for account, desk in self.front.desks.items():
                try:
                    token = await self._tokens.get(account)
                except ConfigurationError as error:
                    log.warning("token_not_read", account=account, error=str(error))
                    continue
                if token is not None and token.value != self._token_in_use.get(account):
                    self._token_in_use[account] = token.value
                    desk.has_new_token()
                    log.info("token_changed", account=account)
                    self._notices.tell("token", account=account, state="changed")
            await asyncio.sleep(TOKEN_LOOK_S)

    async def _watch_writers(self) -> None:
        def lost(accounts: frozenset[Account]) -> None:
            for account in accounts:
                self.front.desks[account].writer_is_lost()

        await self._journal.watch_writers(lost)

    async def close(self) -> None:
        """Give journal and gateways back; a second call finds nothing to do."""
        if self._is_closed:
            return
        self._is_closed = True
        closing: list[Callable[[], Awaitable[None]]] = [
            *(gateway.close for gateway in self._gateways.values()),
            self._journal.close,
        ]
        for close in closing:
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await close()
            except TimeoutError:
                log.warning("close_timed_out", limit_s=STOP_S_MAX)
