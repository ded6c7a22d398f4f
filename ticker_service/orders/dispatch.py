"""Carry one account's instructions to the broker: which, when, and how many at once.

Path: order -> admit -> journal -> [execute] -> settle -> report. What happens to one is in
`orders.pipeline`; this finds what nobody carries yet, lets changes of one order go one after the
other, keeps cancels and exits from waiting behind orders, and asks whether an order of a group that
is left unsent goes on elsewhere. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.accounts.failover import Evidence
from ticker_service.accounts.kill_switches import symbol_of
from ticker_service.domain.breaker import BreakerState
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_legs import is_exit
from ticker_service.domain.order_state import UNSENT, TaskState
from ticker_service.errors import JournalUnavailable, TaskMoved
from ticker_service.orders import exposure, pipeline
from ticker_service.orders.standing import DeskState
from ticker_service.runtime.bell import Bell, ring_within

if TYPE_CHECKING:
    from ticker_service.config import OrdersConfig
    from ticker_service.domain.exposure import Exposure
    from ticker_service.domain.order import Account, OrderTask
    from ticker_service.orders.book_watch import BookWatch
    from ticker_service.orders.execute import Executor
    from ticker_service.orders.exits import Exits
    from ticker_service.orders.failover import Failover
    from ticker_service.orders.standing import Standing
    from ticker_service.orders.waiting import Waiting
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()


_OF_THE_ACCOUNT: Final = frozenset({HaltCode.WRONG_IP, HaltCode.BROKER_ORDER_LIMIT})
"""Halts that speak of the account alone: what it has not sent is certainly not at its broker."""
_EVIDENCE: Final = {"THROTTLED": Evidence.THROTTLED, "AUTH_REFUSED": Evidence.REJECTED_AUTH}
"""By the code of a try that came back to READY; any other did not leave."""
SCAN_S: Final = 1.0
"""Work that nobody rang for, such as that of an earlier run, is found within this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """Why an order does not go out on its account, and how certain it is that it is not there."""

    evidence: Evidence
    reason: str


class Dispatcher:
    """Carries the instructions of one account."""

    failover: Failover | None = None
    """Lets orders of groups go on elsewhere."""

    def __init__(  # noqa: PLR0913 - the parts of carrying
        self,
        account: Account,
        *,
        journal: OrderJournal,
        executor: Executor,
        standing: Standing,
        waiting: Waiting,
        watch: BookWatch,
        exits: Exits,
        exposure: Exposure,
        config: OrdersConfig,
        clock: Clock,
        work: Bell,
        news: Bell,
    ) -> None:
        """Take the parts.

        Args:
            account: Whose.
            journal: Where they are.
            executor: Sends each at most once.
            standing: How the account stands.
            waiting: What waits, and what of it is carried.
            watch: Reads the broker's book, which names orders that are in doubt.
            exits: Knows whose orders do nothing but reduce a position.
            exposure: Which writes may or may not have happened.
            config: How many are sent at once.
            clock: Both readings of it.
            work: Rung when there may be something to carry.
            news: Rung when there are new events.
        """
        self.work = work
        self._account = account
        self._journal = journal
        self._executor = executor
        self._standing = standing
        self._waiting = waiting
        self._watch = watch
        self._book = watch.book
        self._exits = exits
        self._exposure = exposure
        self._clock = clock
        self._news = news
        self._admitted: list[OrderTask] = []
        """Taken and not carried yet; what comes from our own doors is not read back."""
        self._handed_on = Bell()
        self._slots = asyncio.Semaphore(config.sends_parallel)
        self._exit_slots = asyncio.Semaphore(config.sends_parallel)
        self._cancel_slots = asyncio.Semaphore(config.sends_parallel)

    def hand_on(self, task: OrderTask) -> None:
        """Have an instruction carried that has just been journalled, without reading it back."""
        self._admitted.append(task)
        self._handed_on.ring()

    def take_over(self, task: OrderTask) -> None:
        """Carry what goes on here for a task of another account; it is journalled."""
        self._waiting.begin(task)
        if task.kind is TaskKind.MODIFY:
            self.work.ring()
        else:
            self.hand_on(task)
        self._news.ring()

    def forget(self) -> None:
        """Carry nothing more: the account is given up, and the journal has what is left of it."""
        self._waiting.carried.clear()
        self._admitted.clear()

    async def find_work(self, tasks: asyncio.TaskGroup) -> None:
        """Start carrying every instruction that nobody carries yet, oldest first."""
        while True:
            ring = self.work.listen()
            before = self._waiting.uncarried()
            unsent: list[OrderTask] = []
            try:
                await exposure.resolve(self._exposure, self._journal, now_ns=self._clock.now_ns())
                unsent = await self._journal.unsent(self._account)
            except JournalUnavailable as error:
                log.warning("work_not_read", account=self._account, error=str(error))
            else:
                self._waiting.correct(before, unsent)
            for task in unsent:
                self._begin(task, tasks)
            await ring_within(SCAN_S, ring)

    async def carry_admitted(self, tasks: asyncio.TaskGroup) -> None:
        """Start carrying what our doors have just taken, without asking the journal for it."""
        while True:
            ring = self._handed_on.listen()
            admitted, self._admitted = self._admitted, []
            for task in admitted:
                self._begin(task, tasks)
            await ring.wait()

    def _begin(self, task: OrderTask, tasks: asyncio.TaskGroup) -> None:
        if task.task_id not in self._waiting.carried and not self._waits_its_turn(task):
            self._waiting.carry(task)
            tasks.create_task(self._carry_until_done(task), name=f"task-{task.task_id}")

    def _waits_its_turn(self, task: OrderTask) -> bool:
        """Return whether an earlier change of the same order is under way: the last one counts.

        One in doubt is under way as well: it may arrive at the exchange after a later one.
        """
        if task.kind is not TaskKind.MODIFY:
            return False
        if self._clock.now_ns() >= task.deadline_ns:
            return False  # it only has to be told so
        return self._book.is_changing(task.target_task_id) or any(
            (other.kind, other.target_task_id) == (task.kind, task.target_task_id)
            for other in self._waiting.carried.values()
        )

    async def _carry_until_done(self, task: OrderTask) -> None:
        """Carry one instruction until it is sent, ended, or handed to the book."""
        slots = self._exit_slots if self._exits.is_open(task.job_id) else self._slots
        slots = self._cancel_slots if task.kind is TaskKind.CANCEL else slots
        # In the past if its deadline is: a cancel's may still be put off (`pipeline.carry`).
        until_ns = self._clock.monotonic_ns() + task.deadline_ns - self._clock.now_ns()
        if is_exit(task):
            self._watch.wanted.ring()  # it has the leg that this goes to
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
                    self._watch.wanted.ring()
                if task.state in UNSENT:
                    await asyncio.sleep(self._executor.retry_delay_s(task.attempt))
        except JournalUnavailable as error:
            # It is still READY in the journal; the next scan finds it again.
            log.warning("task_waits_for_journal", task_id=str(task.task_id), error=str(error))
        finally:
            self._waiting.carried.pop(task.task_id, None)
            if task.state is TaskState.UNKNOWN:
                self._book.doubt(task)
            self._news.ring()
            if self._waiting.uncarried():
                self.work.ring()
            if task.state is TaskState.UNKNOWN or (
                task.state is TaskState.ACKED and self._watch.is_idle
            ):
                self._watch.wanted.ring()

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
        codes = {halt.code for halt in self._executor.halts.standing()}
        symbol = symbol_of(task.body)
        if (
            task.kind is not TaskKind.PLACE
            or self._standing.state not in {DeskState.OPEN, DeskState.LOGIN_REQUIRED}
            or self._executor.holds.is_uncompared
            or codes - _OF_THE_ACCOUNT
            or self._executor.switches.holding(self._account, symbol)
        ):
            return None
        if task.attempt > tried:
            evidence = _EVIDENCE.get(task.reason_code or "", Evidence.NOT_SENT)
            return Hindrance(evidence=evidence, reason=task.reason_code or evidence)
        evidence = Evidence.NOT_SENT if task.attempt else Evidence.NEVER_SENT
        if self._executor.is_auth_refused or self._standing.state is DeskState.LOGIN_REQUIRED:
            return Hindrance(evidence=evidence, reason="LOGIN_REQUIRED")
        if codes:
            return Hindrance(evidence=evidence, reason=min(codes).value)
        if self._executor.breakers.orders.state is not BreakerState.CLOSED:
            return Hindrance(evidence=evidence, reason="BREAKER_OPEN")
        return None
