"""All accounts' desks in one process: start, tokens, updates of the feed, stop."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.halt import HaltCode
from ticker_service.errors import AccountTaken, JournalError
from ticker_service.orders.risk_tables import RiskTables
from ticker_service.orders.standing import DeskState
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ticker_service.accounts.egress_watch import EgressWatch
    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.accounts.token_watch import TokenWatch
    from ticker_service.domain.egress import EgressLook
    from ticker_service.domain.halt import Halt
    from ticker_service.domain.journal_audit import JournalFault
    from ticker_service.domain.order import Account
    from ticker_service.domain.risk_input import ReferencePrice
    from ticker_service.orders.cancel_all import CancelAll
    from ticker_service.orders.contract_watch import ContractWatch
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.orders.front import FrontDesk
    from ticker_service.orders.last_prices import LastPricesOf
    from ticker_service.orders.notices import Notices
    from ticker_service.orders.postbacks import Postbacks
    from ticker_service.orders.risk_record import RiskRecord
    from ticker_service.ports import BrokerGateway, OrderEventSink, OrderJournal
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

HALTED: Final = "halted"
STOP_S_MAX: Final = 15.0
"""Sends under way are recorded within this; their own deadlines are shorter."""
STATES_LOOK_S: Final = 0.5
RESTART: Final = Backoff(delay_s_min=0.5, delay_s_max=5.0)


class OrderOffice:
    """Runs the desks; one that loses its account's lock stands by until it has it again."""

    def __init__(  # noqa: PLR0913 - the parts of the order half
        self,
        front: FrontDesk,
        *,
        journal: OrderJournal,
        gateways: Mapping[Account, BrokerGateway],
        tokens: TokenWatch,
        events: OrderEventSink,
        notices: Notices,
        switches: KillSwitches,
        cancel_all: Mapping[Account, CancelAll],
        surroundings: Surroundings,
        contracts: ContractWatch | None = None,
        risk: RiskTables | None = None,
        egress: Mapping[Account, EgressWatch] | None = None,
        prices: Sequence[LastPricesOf] = (),
        record: RiskRecord | None = None,
        postbacks: Postbacks | None = None,
    ) -> None:
        """Take the parts.

        Args:
            front: What the doors talk to; it has the desks.
            journal: Open already; closed when :meth:`run` ends.
            gateways: By account; closed when :meth:`run` ends.
            tokens: What the gateways send with; this object keeps it up to date.
            events: Where order events go; closed when :meth:`run` ends.
            notices: What everybody may know.
            switches: What people have stopped.
            cancel_all: By account; at work while a switch asks for it.
            surroundings: Time and chance.
            contracts: The day's instruments, which this object keeps up to date.
            risk: The risk limits in force.
            postbacks: Who hears the broker's postbacks, if anybody does.
            egress: By account, who looks from which address its orders leave, if anybody does.
            prices: What the risk gate is told of last prices; they take the ticks.
            record: Writes what the risk gate has to tell, if anybody does.
        """
        self.risk = risk or RiskTables()
        self._egress = egress or {}
        self._prices = prices
        self._record = record
        self.postbacks = postbacks
        self.contracts = contracts
        self.front = front
        self._journal = journal
        self._gateways = gateways
        self.tokens = tokens
        self._events = events
        self._notices = notices
        self.switches = switches
        self._cancel_all = cancel_all
        self._surroundings = surroundings
        self._is_closed = False
        self._told: dict[Account, DeskState] = {}

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

    def journal_disagrees(self, fault: JournalFault) -> None:
        """Halt an account whose events do not make its tables, until a person says otherwise.

        What the database guards is sent as it says, but a fill that is not there is a position that
        nobody counts.
        """
        desk = self.front.desks.get(fault.account)
        if desk is not None:
            where = f"{fault.code}: {fault.where} {fault.field}"
            desk.halts.begin(HaltCode.JOURNAL_FAULT, where.rstrip())

    def egress(self) -> list[EgressLook]:
        """Return from where each account's orders leave, as far as it was looked at."""
        return [each.newest for each in self._egress.values() if each.newest is not None]

    async def run(self, stop: asyncio.Event) -> None:
        """Run every desk until ``stop`` is set, then let what was sent be recorded."""
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(self.tokens.run(self._token_changed), name="tokens")]
                work.append(tasks.create_task(self._tell_states(), name="states"))
                work.append(tasks.create_task(self._watch_writers(), name="writers"))
                work.append(tasks.create_task(self._notices.deliver(), name="notices"))
                work.append(tasks.create_task(self.switches.keep(self._journal), name="switches"))
                work.append(tasks.create_task(self.front.disconnects.run(), name="disconnects"))
                work += [
                    tasks.create_task(each.run(partial(self._has, account)), name=f"all-{account}")
                    for account, each in self._cancel_all.items()
                ]
                work += [
                    tasks.create_task(each.run(), name=f"egress-{account}")
                    for account, each in self._egress.items()
                ]
                if self.postbacks is not None:
                    work.append(tasks.create_task(self.postbacks.run(), name="postbacks"))
                if self._record is not None:
                    work.append(tasks.create_task(self._record.run(self._journal), name="risk"))
                if self.contracts is not None:
                    work.append(tasks.create_task(self.contracts.run(), name="contracts"))
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

    def take_ticks(self, tick: Callable[[str, str], ReferencePrice | None]) -> None:
        """Know what instruments last traded at by the ticks of this process."""
        for prices in self._prices:
            prices.tick = tick

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
            desk.want_audit()

    async def _keep(self, desk: AccountDesk) -> None:
        """Run a desk again whenever it had to give up its account."""
        attempt = 0
        while True:
            try:
                await desk.run()
            except AccountTaken as error:
                desk.standing.state = DeskState.STANDBY
                if not attempt:
                    log.warning("account_stands_by", account=desk.account, error=str(error))
            except JournalError as error:
                log.warning("account_given_up", account=desk.account, error=str(error))
            except BaseExceptionGroup as group:
                others = group.split(JournalError)[1]
                if others is not None:
                    raise
                log.warning("account_given_up", account=desk.account, error=str(group))
            await asyncio.sleep(RESTART.delay_s(attempt, self._surroundings.chance))
            attempt += 1

    def _has(self, account: Account) -> bool:
        """Return whether no other daemon is known to have an account."""
        return self.front.desks[account].state is not DeskState.STANDBY

    def _token_changed(self, account: Account) -> None:
        """Let an account go on with its new token, or wait for one."""
        desk = self.front.desks[account]
        if self.tokens.value(account):
            desk.has_new_token()
            self._notices.tell("token", account=account, state="changed")
        else:
            desk.token_has_ended()
            self._notices.tell("token", account=account, state="ended")

    async def _tell_states(self) -> None:
        """Tell everybody when an account opens, closes, needs a login or stands by."""
        while True:
            for account, desk in self.front.desks.items():
                if self._told.get(account) is not desk.state:
                    self._told[account] = desk.state
                    self._notices.tell("account", account=account, state=str(desk.state))
            await asyncio.sleep(STATES_LOOK_S)

    async def _watch_writers(self) -> None:
        def lost(accounts: frozenset[Account]) -> None:
            for account in accounts:
                self.front.desks[account].writer_is_lost()

        await self._journal.watch_writers(lost)

    async def close(self) -> None:
        """Give journal, gateways and sinks back, all in one limit; once more does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            async with asyncio.timeout(STOP_S_MAX):
                async with asyncio.TaskGroup() as tasks:
                    for gateway in self._gateways.values():
                        tasks.create_task(gateway.close())
                await self._events.close()
                await self._journal.close()
        except TimeoutError:
            log.warning("close_timed_out", limit_s=STOP_S_MAX)
