"""One account's orders: who works on what, and when.

``AccountDesk.run`` keeps the loops: finding work, reading the broker's book, merging its updates,
delivering events. What happens to one instruction is in `orders.pipeline`. One process writes an
account: it holds the account's lock and stamps every intent with its ``writer_epoch`` (D11).
Cancels go out once every SENDING of an earlier run has become UNKNOWN and one whole order book has
been merged; admission opens when fills and positions have been read as well (I11).
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

import structlog

from ticker_service.accounts.failover import Evidence
from ticker_service.accounts.kill_switches import refusal_of, symbol_of
from ticker_service.constants import NS_PER_S
from ticker_service.domain import rulebook
from ticker_service.domain.breaker import BreakerState
from ticker_service.domain.exposure import Exposure
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.job import order_forms
from ticker_service.domain.order import JOBS, TaskKind
from ticker_service.domain.order_legs import is_exit, legs_of
from ticker_service.domain.order_state import JOB_OPEN, UNSENT, TaskState
from ticker_service.domain.session import ist_date
from ticker_service.errors import (
    BrokerUnavailable,
    JournalError,
    JournalUnavailable,
    LoginRequired,
    OrderRefused,
    TaskMoved,
)
from ticker_service.orders import exposure, pipeline
from ticker_service.orders.audit import Audit
from ticker_service.orders.book import BookKeeper
from ticker_service.orders.exits import Exits
from ticker_service.orders.jobs import Jobs
from ticker_service.orders.loss_watch import LossWatch
from ticker_service.orders.positions import Positions
from ticker_service.orders.reconcile import Reconciler
from ticker_service.orders.report import deliver
from ticker_service.orders.risk_gate import RiskGate, RiskSources, RiskTables
from ticker_service.orders.waiting import Waiting
from ticker_service.runtime.bell import Bell
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.kill_switch import KillSwitch
    from ticker_service.domain.order import Account, BrokerOrder, NewTask, OrderTask
    from ticker_service.orders.execute import Executor
    from ticker_service.orders.failover import Failover
    from ticker_service.orders.risk_gate import Judged
    from ticker_service.ports import BrokerGateway, OrderEventSink, OrderJournal
    from ticker_service.runtime.crash_points import Reach
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

_OF_THE_ACCOUNT: Final = frozenset({HaltCode.WRONG_IP, HaltCode.BROKER_ORDER_LIMIT})
"""Halts that speak of the account alone: what it has not sent is certainly not at its broker."""
_EVIDENCE: Final = {"THROTTLED": Evidence.THROTTLED, "AUTH_REFUSED": Evidence.REJECTED_AUTH}
"""By the code of a try that came back to READY; any other did not leave."""
SCAN_S: Final = 1.0
"""Work that nobody rang for, such as that of an earlier run, is found within this."""
LOOK_S: Final = 1.0
"""So soon a transition is tried again that the journal has not taken."""
_JUDGED: Final = frozenset({TaskKind.PLACE, TaskKind.MODIFY})
"""What the risk gate judges: cancels pass it by, and jobs are judged order by order."""
_ONLY_REDUCE: Final = frozenset({TaskKind.CANCEL, TaskKind.EXIT})
"""What does nothing but take risk away; each order of an exit is asked for itself."""
START_RETRY: Final = Backoff(delay_s_min=0.5, delay_s_max=10.0)


class DeskState(StrEnum):
    """Whether an account takes orders."""

    STARTING = "starting"
    OPEN = "open"
    LOGIN_REQUIRED = "login_required"
    STANDBY = "standby"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """Why an order does not go out on its account, and how certain it is that it is not there."""

    evidence: Evidence
    reason: str


class WriterLost(JournalError):  # noqa: N818 - says what happened
    """The session that holds the account's lock is gone; nothing may be sent any more (I6)."""


class _MayReduceError(Exception):
    """Whether an order strictly reduces a position decides; to be asked of one at a time."""

    def __init__(self, judged: Judged | None = None) -> None:
        super().__init__()
        self.judged = judged


class AccountDesk:
    """One account's orders: its lanes, its book, its events."""

    failover: Failover | None = None
    """Lets orders of groups go on elsewhere."""

    def __init__(  # noqa: PLR0913, PLR0915 - the parts of one account
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
        self.state = DeskState.STARTING
        self.news = Bell()
        self.halts = executor.halts
        self.breakers = executor.breakers
        self._journal = journal
        self._executor = executor
        self._sinks = sinks
        self._config = config
        self._surroundings = surroundings
        self._clock = surroundings.clock
        self._reach = reach
        self._reconciler = Reconciler(
            account,
            journal,
            surroundings.clock,
            installation=config.installation,
            halts=executor.halts,
        )
        memory, clock = self._reconciler.memory, surroundings.clock
        executor.on_named, executor.legs_of = memory.keep_named, memory.legs_of
        self._limits = executor.limits
        self._limits.placed_elsewhere = lambda: memory.placed_elsewhere
        self.positions = Positions(account, journal, gateway, memory, clock)
        self.audit = Audit(account, journal, self.positions, memory, clock)
        self.positions.lasting = self.audit.lasting
        self.exposure = Exposure()  # what is open and may still be filled
        self.losses = LossWatch(
            account, lambda: self.risk.limits, self.positions, executor.switches, journal, clock
        )
        self.risk = RiskGate(
            account,
            tables or RiskTables(),
            self.exposure,
            self.positions,
            clock,
            sources,
            day=self.losses.day,
        )
        executor.held_by_risk = self.risk.holds_back
        self._is_stopping = False
        self._lost = asyncio.Event()
        self._work = Bell()
        self._admitted: list[OrderTask] = []
        """Taken and not carried yet; what comes from our own doors is not read back."""
        self._handed_on = Bell()
        self._asking: set[uuid.UUID] = set()
        """What the journal is being asked to take; nobody can carry it yet."""
        self._book_wanted = Bell()
        self._audit_wanted = Bell()
        self._logged_in = Bell()
        self._waiting = Waiting(config.waiting_max)
        self._in_flight = self._waiting.carried
        self.book = BookKeeper(
            journal=journal,
            gateway=gateway,
            reconciler=self._reconciler,
            in_flight=self._in_flight,
            config=config,
            clock=surroundings.clock,
            news=self.news,
            work=self._work,
        )
        self.book.on_whole = self._take_book
        self.jobs = Jobs(
            account,
            journal=journal,
            take=self._take_child,
            config=config,
            clock=surroundings.clock,
            new_id=new_id,
            awaits_login=lambda: executor.is_auth_refused,
        )
        known = sources or RiskSources()
        self.exits = Exits(
            account,
            self.positions,
            contracts=known.contracts,
            freeze=self._freeze,
            clock=clock,
            prices=known.prices,
        )
        self.exits.limits = lambda: self.risk.limits
        self.exits.stopped = self._stops_exits
        self._waiting.is_open_exit = self.exits.is_open
        self.jobs.steppers[TaskKind.EXIT] = self.exits.step
        self._book_period_s = config.book_poll_idle_s
        self.on_uncompared: Callable[[bool], None] = lambda _: None
        """Told True when the account opens although its fills cannot be read, False when they
        could be."""
        self._updates: asyncio.Queue[BrokerOrder] = asyncio.Queue(maxsize=config.waiting_max)
        self.updates_dropped = 0
        """Updates of the feed that found no room; the broker's book tells the same."""
        self._reducing = asyncio.Lock()
        reduces = partial(self.positions.not_reducing, counts_unsent=False)
        executor.why_not_reducing = reduces
        executor.why_not_reducing_now = partial(reduces, than_s=0.0)
        self._uncompared_since_ns: int | None = None
        self._slots = asyncio.Semaphore(config.sends_parallel)
        self._exit_slots = asyncio.Semaphore(config.sends_parallel)
        self._cancel_slots = asyncio.Semaphore(config.sends_parallel)

    # --- what the doors ask -------------------------------------------------------------------

    async def submit(self, new: NewTask) -> tuple[OrderTask, bool]:
        """Journal an instruction and return it once it is durable; it is carried out behind this.

        Raises:
            OrderRefused: The account takes no orders now, or the key was used for something else.
            JournalUnavailable: Not durable; the caller must be told no.
        """
        judged = None
        if not self._is_reduce_only(new):
            try:
                return await self._take(new)
            except _MayReduceError as error:
                judged = error.judged
        # One at a time: of two that reduce the position each for itself, the second may not.
        async with self._reducing:
            return await self._take(new, is_alone=True, judged=judged)

    async def _take(
        self, new: NewTask, *, is_alone: bool = False, judged: Judged | None = None
    ) -> tuple[OrderTask, bool]:
        refusal = (
            self._refusal(new.kind, order_forms(new))
            or await self._beyond_limits(new, is_alone=is_alone)
            or await self._unreducing(new)
        )
        if refusal is None and new.kind in _JUDGED:
            judged = await self._judge(new, is_alone=is_alone, before=judged)
            refusal, new = judged.refusal, dataclasses.replace(new, risk=judged.facts)
        if refusal is not None:
            # What the key named before stands, whatever the account is like now: to be told no
            # would be to be told that nothing was sent (I2).
            known = await self._journal.known(new)
            if known is not None:
                return known, False
            if not await self._withdraws(new):
                self.risk.record(new, refusal)
                raise refusal
        # What the risk gate let through is reserved already; it and this wait for nothing between.
        return await self._admit(new)

    async def _take_child(self, new: NewTask) -> None:
        """Journal an order or cancel of a job, if enough room and the risk limits let it.

        Halts and kill switches hold it back where it is sent, and its time ends there.
        """
        refusal = self._waiting.refusal(self._waiting.kind_of(new))
        if refusal is not None:
            raise refusal
        judged = None
        # An exit waits for no word of the broker on money: whether it reduces is asked first.
        if not (self.risk.limits.broker_margin and self.exits.is_open(new.job_id)):
            try:
                await self._admit_judged(new, is_alone=False)
            except _MayReduceError as error:
                judged = error.judged
            else:
                return
        async with self._reducing:
            await self._admit_judged(new, is_alone=True, before=judged)

    async def _admit_judged(
        self, new: NewTask, *, is_alone: bool, before: Judged | None = None
    ) -> None:
        if new.kind in _JUDGED:
            judged = await self._judge(new, is_alone=is_alone, before=before)
            if judged.refusal is not None:
                self.risk.record(new, judged.refusal)
                raise judged.refusal
            new = dataclasses.replace(new, risk=judged.facts)
        await self._admit(new)

    async def _admit(self, new: NewTask) -> tuple[OrderTask, bool]:
        self._waiting.begin(new)
        self._asking.add(new.task_id)
        try:
            admitted = await self._journal.admit(new)
        except (OrderRefused, TaskMoved):
            self.risk.release(new)
            self._waiting.end(new)
            raise
        except BaseException as error:
            # It may have been taken; the next scan of the journal knows.
            self.exposure.doubted(new.task_id, new.deadline_ns)
            if not isinstance(error, JournalUnavailable):
                self._waiting.end(new)
            raise
        finally:
            self._asking.discard(new.task_id)
        if not admitted.is_new:
            self.risk.release(new)
        if not admitted.is_new or new.kind in JOBS:
            self._waiting.end(new)
        if new.kind in JOBS:
            self.jobs.begun.ring()
        self._reach("C1")
        if admitted.is_new and new.kind in {TaskKind.PLACE, TaskKind.CANCEL}:
            self._admitted.append(admitted.task)
            self._handed_on.ring()
        else:
            # Changes of one order go out as the journal numbered them; its answers come in any
            # order.
            self._work.ring()
        self.news.ring()
        return admitted.task, admitted.is_new

    def unable(self, body: Mapping[str, str]) -> str:
        """Return what keeps a new order from going out here at once, empty if nothing does.

        Stricter than admission: what is to go to one of several accounts goes where it need not
        wait for a broker.
        """
        refusal = self._refusal(TaskKind.PLACE, [body]) or self._limits.day_refusal()
        if refusal is not None:
            return refusal.code
        if self._executor.switches.reduce_only(self.account, symbol_of(body)) is not None:
            return "KILL_SWITCH"
        if self._executor.is_auth_refused:
            return "LOGIN_REQUIRED"
        if self.breakers.orders.state is not BreakerState.CLOSED:
            return "BREAKER_OPEN"
        return "" if self._journal.is_writer(self.account) else "NOT_THE_WRITER"

    def _refusal(self, kind: TaskKind, forms: Iterable[Mapping[str, str]]) -> OrderRefused | None:
        """Return why the account takes nothing new now, None if it does.

        Args:
            kind: What is asked.
            forms: The orders that it speaks of.
        """
        is_uncompared = self.state is DeskState.STARTING and self._executor.is_uncompared
        takes_it = is_uncompared and kind is TaskKind.CANCEL
        if self.state is not DeskState.OPEN and not takes_it:
            rule = f"account {self.account} is {self.state}"
            if is_uncompared:
                rule += "; its fills and positions could not be read yet; cancels are taken"
            if self.state is DeskState.LOGIN_REQUIRED:
                rule += f"; run `ticker-service login {self.account}`"
            return OrderRefused("ACCOUNT_NOT_OPEN", rule)
        if kind is TaskKind.CANCEL:
            return self._waiting.refusal(kind)
        for form in forms:
            stopped = self._executor.switches.refusal(self.account, symbol_of(form))
            if stopped is not None:
                return stopped
        full = self.jobs.refusal() if kind in JOBS and kind is not TaskKind.EXIT else None
        return full or self._waiting.refusal(kind) or self.halts.refusal()

    def _stops_exits(self, symbol: str) -> OrderRefused | None:
        """Return what keeps back the orders of an exit, which only reduce; None if nothing does."""
        switches = self._executor.switches
        return self.halts.refusal() or switches.refusal(self.account, symbol)

    async def _beyond_limits(self, new: NewTask, *, is_alone: bool) -> OrderRefused | None:
        """Return which limit an instruction would exceed that waiting does not help.

        Raises:
            _MayReduceError: What the day keeps free is for it if it reduces a position.
        """
        match new.kind:
            case TaskKind.PLACE:
                legs = legs_of(new.body)
                refusal = self._limits.day_refusal(legs=legs)
                if refusal is None or self._limits.day_refusal(is_exit=True, legs=legs):
                    return refusal
                if not is_alone:
                    raise _MayReduceError
                return refusal if await self._why_not_reducing(new, None) else None
            case TaskKind.BASKET | TaskKind.SLICES:
                return self._limits.day_refusal()
            case TaskKind.MODIFY:
                return await self._limits.changes_refusal(new.target_task_id, self._journal)
            case TaskKind.CANCEL | TaskKind.EXIT:
                return None
            case _ as never:
                assert_never(never)

    def _is_reduce_only(self, new: NewTask) -> bool:
        """Return whether a switch lets nothing of this kind through but what reduces a position."""
        return new.kind not in _ONLY_REDUCE and self._reduce_only(new) is not None

    def _reduce_only(self, new: NewTask) -> KillSwitch | None:
        """Return the first such switch that concerns an order of an instruction."""
        found = (
            self._executor.switches.reduce_only(self.account, symbol_of(form))
            for form in order_forms(new)
        )
        return next((switch for switch in found if switch is not None), None)

    async def _unreducing(self, new: NewTask) -> OrderRefused | None:
        """Return the refusal of what such a switch holds back; what cannot be told, it does."""
        switch = self._reduce_only(new)
        if switch is None or new.kind in _ONLY_REDUCE:
            return None
        if new.kind in JOBS:
            return refusal_of(switch, self.account, "of a job of several orders it is not told")
        target = await self._journal.task(new.target_task_id) if new.target_task_id else None
        why = await self._why_not_reducing(new, target)
        return refusal_of(switch, self.account, why) if why else None

    async def _why_not_reducing(self, new: NewTask, target: OrderTask | None) -> str:
        """Return why something does not strictly reduce a position, empty if it does."""
        try:
            return await self.positions.not_reducing(new, target)
        except (BrokerUnavailable, LoginRequired) as error:
            return f"whether it does is not known: {error}"

    async def _judge(self, new: NewTask, *, is_alone: bool, before: Judged | None = None) -> Judged:
        """Hold an order or a change against the risk limits.

        Args:
            new: Which.
            is_alone: Whether no other is asked about meanwhile that may reduce as well.
            before: How it was judged when it was not alone.

        Raises:
            _MayReduceError: It passes if it reduces a position; that is asked of one at a time.
        """
        target = await self._journal.task(new.target_task_id) if new.target_task_id else None
        if is_alone and self.risk.limits.broker_margin:
            # Nobody waits here for the broker to tell of a margin a second time.
            why = await self._why_not_reducing(new, target)
            if why and before is not None:
                return before.because_it_may_not(why)
            judged = await self.risk.judge(new, target, is_reducing=not why)
            return judged.because_it_may_not(why) if judged.may_reduce else judged
        judged = await self.risk.judge(new, target)
        if not judged.may_reduce:
            return judged
        if not is_alone:
            raise _MayReduceError(judged)
        why = await self._why_not_reducing(new, target)
        if not why:
            return await self.risk.judge(new, target, is_reducing=True)
        return judged.because_it_may_not(why)

    def _freeze(self) -> Mapping[str, int]:
        today = ist_date(self._clock.now_ns())
        return rulebook.freeze_quantities(self._config.freeze_quantities, today=today)

    async def _withdraws(self, new: NewTask) -> bool:
        """Return whether this is a cancel that needs no broker, while a login is awaited.

        Of an order that has not been sent, or of a job, which then places no more.
        """
        if new.kind is not TaskKind.CANCEL or self.state is not DeskState.LOGIN_REQUIRED:
            return False
        target = await self._journal.task(new.target_task_id) if new.target_task_id else None
        return target is not None and target.state in UNSENT | JOB_OPEN

    @property
    def placed_today(self) -> int:
        """Orders of the day that the broker may have counted."""
        return self._limits.placed_today

    def take_update(self, row: BrokerOrder) -> None:
        """Take an order update of the feed; when too many wait, the next book tells the same."""
        # Before it waits or is dropped: a book without this order is not whole.
        self._reconciler.learn([row])
        if not self._reconciler.has_our_tag(row):
            self.positions.hear(row)
        try:
            self._updates.put_nowait(row)
        except asyncio.QueueFull:
            self.updates_dropped += 1
            self._book_wanted.ring()

    def owns(self, order_id: str) -> None:
        """Hold an order of the broker's book for ours, which the journal has it for by now."""
        self._reconciler.memory.ours.add(order_id)

    def want_book(self) -> None:
        """Read the order book soon; after a reconnect of the feed updates may be missing."""
        self._book_wanted.ring()

    def _take_book(self, rows: Sequence[BrokerOrder], began_ns: int) -> None:
        self.audit.take_book(rows, began_ns)
        self.positions.take_book(rows, began_ns)

    def want_audit(self) -> None:
        """Compare the fills and positions soon."""
        self._audit_wanted.ring()

    def has_new_token(self) -> None:
        """Try again with a new access token."""
        self._executor.has_new_token()
        self._logged_in.ring()
        self._work.ring()
        self._book_wanted.ring()

    def token_has_ended(self) -> None:
        """Send nothing more until a login brings a new access token; what waits is kept."""
        self._executor.token_has_ended()
        self._needs_login("the access token has ended")

    def stop(self) -> None:
        """Take no more orders; what was sent is recorded or left to recovery in bounded time."""
        self._is_stopping = True
        self.state = DeskState.STOPPING
        self._executor.stop()

    def writer_is_lost(self) -> None:
        """Give the account up: another process may hold its lock by now."""
        self._lost.set()

    # --- the loops ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Take the account, settle what an earlier run left, then work until cancelled."""
        writer_epoch = await self._journal.acquire(self.account)
        self._lost.clear()
        self._reconciler.memory.doubt_the_journal()
        self.audit.forget()
        self.positions.forget()
        if not self._is_stopping:
            # It stood by, or had lost the account; a login that is needed must be said again.
            self.state = DeskState.STARTING
        try:
            await self._executor.take_over(writer_epoch)
            await exposure.take_over(self.exposure, self._journal, self.account)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._end_when_lost())
                for name, sink in self._sinks.items():
                    tasks.create_task(self._deliver(name, sink))
                tasks.create_task(self._merge_updates())
                await self._open()
                tasks.create_task(self._keep_halts())
                tasks.create_task(self._keep_breakers())
                tasks.create_task(self._keep_book())
                tasks.create_task(self._find_work(tasks))
                tasks.create_task(self._carry_admitted(tasks))
                tasks.create_task(self.jobs.run(self.news))
                tasks.create_task(self.losses.run())
                await self._compare()
                tasks.create_task(self._keep_audit())
        finally:
            self.state = DeskState.STOPPING
            self.exposure.is_whole = False  # from here on another daemon may write the account
            self._executor.is_uncompared = False
            self._in_flight.clear()
            self._admitted.clear()
            await self._journal.release(self.account)

    async def _open(self) -> None:
        """Let cancels go out: no SENDING is left and one whole book is merged (I11)."""
        attempt = 0
        while True:
            ring = self._logged_in.listen()
            try:
                await self.halts.settle(self._journal)
                # What another machine has stopped holds from the first order on (I12).
                await self._executor.switches.settle(self._journal)
                await self.book.read()
            except LoginRequired as error:
                self._needs_login(str(error))
            except (JournalUnavailable, BrokerUnavailable) as error:
                log.warning("account_not_open", account=self.account, error=str(error))
            else:
                break
            await _sleep_or_ring(START_RETRY.delay_s(attempt, self._surroundings.chance), ring)
            attempt += 1
        self._executor.is_uncompared = True
        self._opens()

    async def _compare(self) -> None:
        """Open admission: fills and positions have been read once (I11).

        Or they could not be for as long as the settings allow. They are witnesses: what differs is
        told and holds nothing back, so neither are orders held back for ever for want of them.
        """
        attempt, began_ns = 0, self._clock.monotonic_ns()
        while True:
            ring = self._logged_in.listen()
            try:
                await self.audit.look()
            except LoginRequired as error:
                self._needs_login(str(error))
                began_ns = self._clock.monotonic_ns()  # nothing can be asked for meanwhile
            except (JournalUnavailable, BrokerUnavailable) as error:
                log.warning("account_takes_cancels_only", account=self.account, error=str(error))
                if self._opens_uncompared(began_ns, error):
                    break
            else:
                break
            await _sleep_or_ring(START_RETRY.delay_s(attempt, self._surroundings.chance), ring)
            attempt += 1
        self._executor.is_uncompared = False
        if self.state is DeskState.LOGIN_REQUIRED:
            self._book_wanted.ring()  # the next book says whether it still is
        else:
            self._opens()
        self._work.ring()
        log.info("account_open", account=self.account, writer_epoch=self._executor.writer_epoch)

    def _opens_uncompared(self, began_ns: int, error: Exception) -> bool:
        """Return whether the account opens although nobody could compare; then say so loudly."""
        after_s = self._config.open_uncompared_after_s
        waited_ns = self._clock.monotonic_ns() - began_ns
        is_broker = isinstance(error, BrokerUnavailable)
        if not (is_broker and after_s and waited_ns >= after_s * NS_PER_S):
            return False
        log.error(
            "account_opened_uncompared",
            account=self.account,
            after_s=after_s,
            error=str(error),
            advice="look at the broker's fills and positions",
        )
        self._uncompared_since_ns = self._clock.monotonic_ns()
        self.on_uncompared(True)  # noqa: FBT003 - as it is documented
        return True

    async def _end_when_lost(self) -> None:
        await self._lost.wait()
        raise WriterLost(f"account={self.account}: the session that held its lock is gone")

    async def _find_work(self, tasks: asyncio.TaskGroup) -> None:
        """Start carrying every instruction that nobody carries yet, oldest first."""
        while True:
            ring = self._work.listen()
            before = self._uncarried()
            unsent: list[OrderTask] = []
            try:
                await exposure.resolve(self.exposure, self._journal, now_ns=self._clock.now_ns())
                unsent = await self._journal.unsent(self.account)
            except JournalUnavailable as error:
                log.warning("work_not_read", account=self.account, error=str(error))
            else:
                self._waiting.correct(before, unsent)
            for task in unsent:
                self._begin(task, tasks)
            await _sleep_or_ring(SCAN_S, ring)

    async def _carry_admitted(self, tasks: asyncio.TaskGroup) -> None:
        """Start carrying what our doors have just taken, without asking the journal for it."""
        while True:
            ring = self._handed_on.listen()
            admitted, self._admitted = self._admitted, []
            for task in admitted:
                self._begin(task, tasks)
            await ring.wait()

    def _begin(self, task: OrderTask, tasks: asyncio.TaskGroup) -> None:
        if task.task_id not in self._in_flight and not self._waits_its_turn(task):
            self._waiting.carry(task)
            tasks.create_task(self._carry_until_done(task), name=f"task-{task.task_id}")

    def _uncarried(self) -> frozenset[uuid.UUID]:
        """Return what the journal may have that nobody carries; take it before asking it."""
        return self._waiting.uncarried() - self._asking

    def _waits_its_turn(self, task: OrderTask) -> bool:
        """Return whether an earlier change of the same order is under way: the last one counts.

        One in doubt is under way as well: it may arrive at the exchange after a later one.
        """
        if task.kind is not TaskKind.MODIFY:
            return False
        if self._clock.now_ns() >= task.deadline_ns:
            return False  # it only has to be told so
        return self.book.is_changing(task.target_task_id) or any(
            (other.kind, other.target_task_id) == (task.kind, task.target_task_id)
            for other in self._in_flight.values()
        )

    async def _carry_until_done(self, task: OrderTask) -> None:
        """Carry one instruction until it is sent, ended, or handed to the book."""
        slots = self._exit_slots if self.exits.is_open(task.job_id) else self._slots
        slots = self._cancel_slots if task.kind is TaskKind.CANCEL else slots
        # In the past if its deadline is: a cancel's may still be put off (`pipeline.carry`).
        until_ns = self._clock.monotonic_ns() + task.deadline_ns - self._clock.now_ns()
        if is_exit(task):
            self._book_wanted.ring()  # it has the leg that this goes to
        try:
            while task.state in UNSENT:
                # Who waits to try again, or for another order, leaves its place to the others.
                tried = task.attempt
                async with slots:
                    try:
                        task = await pipeline.carry(
                            task,
                            self._journal,
                            self._executor,
                            until_ns=until_ns,
                            now_ns=self._clock.now_ns,
                            follow=None if self.failover is None else self.failover.follow,
                        )
                        task = await self._elsewhere(task, tried=tried)
                    except TaskMoved:
                        task = await self._journal.task(task.task_id) or task
                if self._executor.is_auth_refused and task.attempt > tried:
                    # The book says whether it is the token, and so the account, or the order.
                    self._book_wanted.ring()
                if task.state in UNSENT:
                    await asyncio.sleep(self._executor.retry_delay_s(task.attempt))
        except JournalUnavailable as error:
            # It is still READY in the journal; the next scan finds it again.
            log.warning("task_waits_for_journal", task_id=str(task.task_id), error=str(error))
        finally:
            self._in_flight.pop(task.task_id, None)
            if task.state is TaskState.UNKNOWN:
                self.book.doubt(task)
            self.news.ring()
            if self._uncarried():
                self._work.ring()
            is_idle = self._book_period_s > self._config.book_poll_live_s
            if task.state is TaskState.UNKNOWN or (task.state is TaskState.ACKED and is_idle):
                self._book_wanted.ring()

    async def _elsewhere(self, task: OrderTask, *, tried: int) -> OrderTask:
        """Let an order of a group that is left unsent go on on another account, if it may.

        Args:
            task: As it was left here.
            tried: How many attempts it had before.
        """
        if self.failover is None or task.account_group is None or task.state is not TaskState.READY:
            return task
        hindrance = self._hindrance(task, tried=tried)
        return task if hindrance is None else await self.failover.consider(task, hindrance)

    def _hindrance(self, task: OrderTask, *, tried: int) -> Hindrance | None:
        """Return what keeps an order from going out here that need not keep it from another.

        A person's kill switch does, wherever the order is. So does whatever says that we do not
        know what is at the broker: the start, and halts over orders that should not be there.
        """
        codes = {halt.code for halt in self.halts.standing()}
        symbol = symbol_of(task.body)
        if (
            task.kind is not TaskKind.PLACE
            or self.state not in {DeskState.OPEN, DeskState.LOGIN_REQUIRED}
            or self._executor.is_uncompared
            or codes - _OF_THE_ACCOUNT
            or self._executor.switches.holding(self.account, symbol)
        ):
            return None
        if task.attempt > tried:
            evidence = _EVIDENCE.get(task.reason_code or "", Evidence.NOT_SENT)
            return Hindrance(evidence=evidence, reason=task.reason_code or evidence)
        evidence = Evidence.NOT_SENT if task.attempt else Evidence.NEVER_SENT
        if self._executor.is_auth_refused or self.state is DeskState.LOGIN_REQUIRED:
            return Hindrance(evidence=evidence, reason="LOGIN_REQUIRED")
        if codes:
            return Hindrance(evidence=evidence, reason=min(codes).value)
        if self.breakers.orders.state is not BreakerState.CLOSED:
            return Hindrance(evidence=evidence, reason="BREAKER_OPEN")
        return None

    def join(self, failover: Failover) -> None:
        """Let orders of groups leave for other accounts."""
        self.failover = failover
        self._reconciler.on_surfaced = failover.surfaced
        self._executor.on_margin = failover.refused

    def take_over(self, task: OrderTask) -> None:
        """Carry what goes on here for a task of another account; it is journalled."""
        self._waiting.begin(task)
        if task.kind is TaskKind.MODIFY:
            self._work.ring()
        else:
            self._admitted.append(task)
            self._handed_on.ring()
        self.news.ring()

    async def _keep_halts(self) -> None:
        """Make halts durable, and notice those that are over or were lifted."""
        while True:
            ring = self.halts.news.listen()
            before = self.halts.standing()
            try:
                await self.halts.settle(self._journal)
            except JournalUnavailable as error:
                log.warning("halts_not_settled", account=self.account, error=str(error))
            if before and not self.halts.standing():
                self._work.ring()
            await _sleep_or_ring(self.halts.look_s, ring)

    async def _keep_breakers(self) -> None:
        """Make transitions of breakers durable, so that a restart finds them as they are."""
        while True:
            ring = self.breakers.news.listen()
            try:
                await self.breakers.settle(self._journal)
            except JournalUnavailable as error:
                log.warning("breakers_not_kept", account=self.account, error=str(error))
            if self.breakers.has_news:
                await asyncio.sleep(LOOK_S)
            else:
                await ring.wait()

    async def _keep_book(self) -> None:
        """Read the broker's book: often while something is live or unknown, now and then if not."""
        while True:
            ring = self._book_wanted.listen()
            refusals = self._executor.refusals
            try:
                self._book_period_s = await self.book.read()
            except LoginRequired as error:
                self._needs_login(str(error))
            except (BrokerUnavailable, JournalUnavailable) as error:
                log.warning("book_not_read", account=self.account, error=str(error))
            else:
                # A token that was refused or ended meanwhile is not proven by this book.
                if refusals == self._executor.refusals:
                    self._executor.token_is_good()
                    self._opens()
            await _sleep_or_ring(self._book_period_s, ring)

    async def _keep_audit(self) -> None:
        """Compare fills and positions now and then, and soon again while something differs."""
        period_s = self._config.audit_again_s  # what the first look saw is not sure yet
        while True:
            await _sleep_or_ring(period_s, self._audit_wanted.listen())
            period_s = self._config.audit_s
            try:
                await exposure.compare(self.exposure, self._journal, self.account)
                differs = self.state is DeskState.OPEN and await self.audit.look()
                self._say_compared()
                if differs:
                    self._book_wanted.ring()
                    period_s = self._config.audit_again_s
            except (BrokerUnavailable, LoginRequired, JournalUnavailable) as error:
                log.warning("account_not_audited", account=self.account, error=str(error))

    def _say_compared(self) -> None:
        """Take back that the account is open uncompared, once it was compared."""
        since_ns, age_ns = self._uncompared_since_ns, self.audit.age_ns
        if since_ns is None or age_ns is None:
            return
        if self._clock.monotonic_ns() - age_ns >= since_ns:
            self._uncompared_since_ns = None
            log.info("account_compared", account=self.account)
            self.on_uncompared(False)  # noqa: FBT003 - as it is documented

    def _opens(self) -> None:
        # A pass that ends while we are told to stop must not let anybody in again.
        if not self._is_stopping:
            is_uncompared = self._executor.is_uncompared
            self.state = DeskState.STARTING if is_uncompared else DeskState.OPEN

    def _needs_login(self, why: str) -> None:
        if self.state in {DeskState.STARTING, DeskState.OPEN}:
            self.state = DeskState.LOGIN_REQUIRED
            log.warning("login_required", account=self.account, reason=why)

    async def _merge_updates(self) -> None:
        """Merge the feed's order updates as they come; one that fails is in the next book."""
        while True:
            row = await self._updates.get()
            try:
                if await self._reconciler.merge_row(row):
                    self.news.ring()
            except JournalUnavailable as error:
                log.warning("update_not_merged", account=self.account, error=str(error))
                self._book_wanted.ring()

    async def _deliver(self, name: str, sink: OrderEventSink) -> None:
        await deliver(
            self.account,
            sink,
            name,
            journal=self._journal,
            bell=self.news,
            surroundings=self._surroundings,
            reach=self._reach,
        )


async def _sleep_or_ring(period_s: float, ring: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(period_s):
            await ring.wait()
    except TimeoutError:
        return
