"""One account's orders: its parts, and the tasks that work on it at once.

``AccountDesk.run`` is the map of an account from the lock to its release. What happens to one
instruction is in `orders.intake`, `orders.dispatch` and `orders.pipeline`. One process writes an
account: it holds the account's lock and stamps every intent with its ``writer_epoch`` (D11).
Cancels go out, and later orders, when `orders.readiness` says so (I11).
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import TYPE_CHECKING

import structlog

from ticker_service.domain import rulebook
from ticker_service.domain.exposure import Exposure
from ticker_service.domain.order import TaskKind
from ticker_service.domain.session import ist_date
from ticker_service.errors import JournalError
from ticker_service.orders import exposure
from ticker_service.orders.audit import Audit
from ticker_service.orders.book import BookKeeper
from ticker_service.orders.book_watch import BookWatch
from ticker_service.orders.dispatch import Dispatcher
from ticker_service.orders.event_tail import EventTail
from ticker_service.orders.exits import Exits
from ticker_service.orders.intake import Intake
from ticker_service.orders.jobs import Jobs
from ticker_service.orders.loss_watch import LossWatch
from ticker_service.orders.positions import Positions
from ticker_service.orders.pre_trade import PreTrade
from ticker_service.orders.readiness import Readiness
from ticker_service.orders.reconcile import Reconciler
from ticker_service.orders.report import deliver
from ticker_service.orders.risk_fetch import RiskSources
from ticker_service.orders.risk_gate import RiskGate
from ticker_service.orders.risk_tables import RiskTables
from ticker_service.orders.standing import DeskState, Standing
from ticker_service.orders.waiting import Waiting
from ticker_service.runtime.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.order import Account, BrokerOrder, NewTask, OrderTask
    from ticker_service.orders.execute import Executor
    from ticker_service.orders.failover import Failover
    from ticker_service.ports import BrokerGateway, OrderEventSink, OrderJournal
    from ticker_service.runtime.crash_points import Reach
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()


class WriterLost(JournalError):  # noqa: N818 - says what happened
    """The session that holds the account's lock is gone; nothing may be sent any more (I6)."""


class AccountDesk:
    """One account's orders: its lanes, its book, its events."""

    def __init__(  # noqa: PLR0913 - the parts of one account
        self,
        account: Account,
        *,
        journal: OrderJournal,
        gateway: BrokerGateway,
        executor: Executor,
        sinks: Mapping[str, OrderEventSink],
        config: OrdersConfig,
        surroundings: Surroundings,
        reach: Reach,
        tables: RiskTables | None = None,
        sources: RiskSources | None = None,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self.account = account
        self.standing = Standing(account)
        self.news = Bell()
        self.events = EventTail(account, journal)
        """What follows a number, for those who follow the account."""
        self.halts = executor.halts
        self.breakers = executor.breakers
        self._journal = journal
        self._executor = executor
        self._sinks = sinks
        self._config = config
        self._surroundings = surroundings
        self._clock = clock = surroundings.clock
        self._reach = reach
        self._reconciler = Reconciler(
            account, journal, clock, installation=config.installation, halts=executor.halts
        )
        memory = self._reconciler.memory
        executor.on_named, executor.legs_of = memory.keep_named, memory.legs_of
        executor.limits.placed_elsewhere = lambda: memory.placed_elsewhere
        self.positions = Positions(account, journal, gateway, memory, clock)
        reduces = partial(self.positions.not_reducing, counts_unsent=False)
        executor.holds.why_not_reducing = reduces
        executor.holds.why_not_reducing_now = partial(reduces, than_s=0.0)
        self.audit = Audit(account, journal, self.positions, memory, clock)
        self.positions.lasting = self.audit.lasting
        self.exposure = Exposure()  # what is open and may still be filled
        self.losses = LossWatch(
            account, lambda: self.risk.limits, self.positions, executor.switches, journal, clock
        )
        known = sources or RiskSources()
        self.risk = RiskGate(
            account,
            tables or RiskTables(),
            self.exposure,
            self.positions,
            journal,
            clock,
            sources=sources,
            day=self.losses.day,
        )
        executor.holds.held_by_risk = self.risk.holds_back
        self._lost = asyncio.Event()
        self._waiting = waiting = Waiting(config.waiting_max)
        self._work = work = Bell()
        self.book = BookKeeper(
            journal=journal,
            gateway=gateway,
            reconciler=self._reconciler,
            in_flight=waiting.carried,
            config=config,
            clock=clock,
            news=self.news,
            work=work,
        )
        self.book.on_whole = self._take_book
        self.book_watch = BookWatch(
            self.book,
            reconciler=self._reconciler,
            positions=self.positions,
            executor=executor,
            standing=self.standing,
            config=config,
            news=self.news,
        )
        self.readiness = Readiness(
            account,
            journal=journal,
            executor=executor,
            standing=self.standing,
            watch=self.book_watch,
            audit=self.audit,
            exposure=self.exposure,
            config=config,
            surroundings=surroundings,
            work=work,
        )
        self.exits = Exits(
            account,
            self.positions,
            contracts=known.contracts,
            freeze=self._freeze,
            clock=clock,
            prices=known.prices,
        )
        self.exits.limits = lambda: self.risk.limits
        waiting.is_open_exit = self.exits.is_open
        self.jobs = Jobs(
            account,
            journal=journal,
            take=self._take_child,
            config=config,
            clock=clock,
            new_id=new_id,
            awaits_login=lambda: executor.is_auth_refused,
        )
        self.jobs.steppers[TaskKind.EXIT] = self.exits.step
        self.dispatcher = Dispatcher(
            account,
            journal=journal,
            executor=executor,
            standing=self.standing,
            waiting=waiting,
            watch=self.book_watch,
            exits=self.exits,
            exposure=self.exposure,
            config=config,
            clock=clock,
            work=work,
            news=self.news,
        )
        self.pre_trade = PreTrade(
            account,
            journal=journal,
            executor=executor,
            standing=self.standing,
            waiting=waiting,
            jobs=self.jobs,
            positions=self.positions,
            risk=self.risk,
        )
        self.exits.stopped = self.pre_trade.stops_exits
        self.intake = Intake(
            self.pre_trade,
            journal=journal,
            dispatcher=self.dispatcher,
            waiting=waiting,
            jobs=self.jobs,
            exits=self.exits,
            risk=self.risk,
            exposure=self.exposure,
            news=self.news,
            reach=reach,
        )

    # --- what the doors ask -------------------------------------------------------------------

    @property
    def state(self) -> DeskState:
        """Whether the account takes orders."""
        return self.standing.state

    async def submit(self, new: NewTask) -> tuple[OrderTask, bool]:
        """Journal an instruction and return it once it is durable, as :meth:`Intake.submit`."""
        return await self.intake.submit(new)

    async def _take_child(self, new: NewTask) -> None:
        await self.intake.take_child(new)

    def _freeze(self) -> Mapping[str, int]:
        today = ist_date(self._clock.now_ns())
        return rulebook.freeze_quantities(self._config.freeze_quantities, today=today)

    @property
    def placed_today(self) -> int:
        """Orders of the day that the broker may have counted."""
        return self._executor.limits.placed_today

    def take_update(self, row: BrokerOrder) -> None:
        """Take an order update of the feed, as :meth:`BookWatch.take_update`."""
        self.book_watch.take_update(row)

    def owns(self, order_id: str) -> None:
        """Hold an order of the broker's book for ours, which the journal has it for by now."""
        self._reconciler.memory.ours.add(order_id)

    def want_book(self) -> None:
        """Read the order book soon; after a reconnect of the feed updates may be missing."""
        self.book_watch.wanted.ring()

    def _take_book(self, rows: Sequence[BrokerOrder], began_ns: int) -> None:
        self.audit.take_book(rows, began_ns)
        self.positions.take_book(rows, began_ns)

    def want_audit(self) -> None:
        """Compare the fills and positions soon."""
        self.readiness.wanted.ring()

    def has_new_token(self) -> None:
        """Try again with a new access token."""
        self._executor.has_new_token()
        self.readiness.logged_in.ring()
        self._work.ring()
        self.book_watch.wanted.ring()

    def token_has_ended(self) -> None:
        """Send nothing more until a login brings a new access token; what waits is kept."""
        self._executor.token_has_ended()
        self.standing.needs_login("the access token has ended")

    def stop(self) -> None:
        """Take no more orders; what was sent is recorded or left to recovery in bounded time."""
        self.standing.stop()
        self._executor.stop()

    def writer_is_lost(self) -> None:
        """Give the account up: another process may hold its lock by now."""
        self._lost.set()

    def join(self, failover: Failover) -> None:
        """Let orders of groups leave for other accounts."""
        self.dispatcher.failover = failover
        self._reconciler.on_surfaced = failover.surfaced
        self._executor.outcomes.on_margin = failover.refused

    # --- the loops ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Take the account, settle what an earlier run left, then work until cancelled."""
        writer_epoch = await self._journal.acquire(self.account)
        self._lost.clear()
        self.events.follow()
        self._reconciler.memory.doubt_the_journal()
        self.audit.forget()
        self.positions.forget()
        self.losses.forget()
        self.risk.forget()
        self.standing.begin()
        try:
            await self._executor.take_over(writer_epoch)
            await exposure.take_over(self.exposure, self._journal, self.account)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._end_when_lost())
                for name, sink in self._sinks.items():
                    tasks.create_task(self._deliver(name, sink))
                tasks.create_task(self.book_watch.merge_updates())
                await self.readiness.open()
                tasks.create_task(self.halts.keep(self._journal, over=self._work.ring))
                tasks.create_task(self.breakers.keep(self._journal))
                tasks.create_task(self.book_watch.run())
                tasks.create_task(self.dispatcher.find_work(tasks))
                tasks.create_task(self.dispatcher.carry_admitted(tasks))
                tasks.create_task(self.jobs.run(self.news))
                tasks.create_task(self.losses.run())
                await self.readiness.compare()
                tasks.create_task(self.readiness.keep_compared())
        finally:
            self.standing.state = DeskState.STOPPING
            self.exposure.is_whole = False  # from here on another daemon may write the account
            self._executor.holds.is_uncompared = False
            self.dispatcher.forget()
            await self._journal.release(self.account)

    async def _end_when_lost(self) -> None:
        await self._lost.wait()
        raise WriterLost(f"account={self.account}: the session that held its lock is gone")

    async def _deliver(self, name: str, sink: OrderEventSink) -> None:
        await deliver(
            self.account,
            sink,
            name,
            journal=self._journal,
            tail=self.events,
            bell=self.news,
            surroundings=self._surroundings,
            reach=self._reach,
        )
