"""Take an instruction for one account: have it asked about, journal it, hand it on to be carried.

Path: order -> [admit] -> [journal] -> execute -> settle -> report. `orders.pre_trade` says what is
asked; who is told yes here can rely on the row (I3). Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Final

from ticker_service.domain.job import order_forms
from ticker_service.domain.order import JOBS, TaskKind
from ticker_service.errors import JournalUnavailable, OrderRefused, TaskMoved
from ticker_service.orders.pre_trade import MayReduceError

if TYPE_CHECKING:
    from ticker_service.domain.exposure import Exposure
    from ticker_service.domain.order import NewTask, OrderTask
    from ticker_service.orders.dispatch import Dispatcher
    from ticker_service.orders.exits import Exits
    from ticker_service.orders.jobs import Jobs
    from ticker_service.orders.pre_trade import PreTrade
    from ticker_service.orders.risk_gate import Judged, RiskGate
    from ticker_service.orders.waiting import Waiting
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.bell import Bell
    from ticker_service.runtime.crash_points import Reach

_JUDGED: Final = frozenset({TaskKind.PLACE, TaskKind.MODIFY})
"""What the risk gate judges: cancels pass it by, and jobs are judged order by order."""


class Intake:
    """Takes what callers and jobs ask of one account."""

    def __init__(  # noqa: PLR0913 - the parts of taking one instruction
        self,
        asks: PreTrade,
        *,
        journal: OrderJournal,
        dispatcher: Dispatcher,
        waiting: Waiting,
        jobs: Jobs,
        exits: Exits,
        risk: RiskGate,
        exposure: Exposure,
        news: Bell,
        reach: Reach,
    ) -> None:
        """Take the parts.

        Args:
            asks: What is asked before.
            journal: Where it becomes durable.
            dispatcher: Carries what was taken.
            waiting: Counts it.
            jobs: Steps what is a job.
            exits: Knows whose orders do nothing but reduce a position.
            risk: Is told what was refused, and what did not become an order after all.
            exposure: Is told what may or may not have been taken.
            news: Rung when there are new events.
            reach: Says how far an instruction has come.
        """
        self._asks = asks
        self._journal = journal
        self._dispatcher = dispatcher
        self._waiting = waiting
        self._jobs = jobs
        self._exits = exits
        self._risk = risk
        self._exposure = exposure
        self._news = news
        self._reach = reach
        self._reducing = asyncio.Lock()

    async def submit(self, new: NewTask) -> tuple[OrderTask, bool]:
        """Journal an instruction and return it once it is durable; it is carried out behind this.

        Raises:
            OrderRefused: The account takes no orders now, or the key was used for something else.
            JournalUnavailable: Not durable; the caller must be told no.
        """
        judged = None
        if not self._asks.is_reduce_only(new):
            try:
                return await self._take(new)
            except MayReduceError as error:
                judged = error.judged
        # One at a time: of two that reduce the position each for itself, the second may not.
        async with self._reducing:
            return await self._take(new, is_alone=True, judged=judged)

    async def _take(
        self, new: NewTask, *, is_alone: bool = False, judged: Judged | None = None
    ) -> tuple[OrderTask, bool]:
        refusal = (
            self._asks.refusal(new.kind, order_forms(new))
            or await self._asks.beyond_limits(new, is_alone=is_alone)
            or await self._asks.unreducing(new)
        )
        if refusal is None and new.kind in _JUDGED:
            judged = await self._asks.judge(new, is_alone=is_alone, before=judged)
            refusal, new = judged.refusal, dataclasses.replace(new, risk=judged.facts)
        if refusal is not None:
            # What the key named before stands, whatever the account is like now: to be told no
            # would be to be told that nothing was sent (I2).
            known = await self._journal.known(new)
            if known is not None:
                return known, False
            if not await self._asks.withdraws(new):
                self._risk.record(new, refusal)
                raise refusal
        # What the risk gate let through is reserved already; it and this wait for nothing between.
        return await self._admit(new)

    async def take_child(self, new: NewTask) -> None:
        """Journal an order or cancel of a job, if enough room and the risk limits let it.

        Halts and kill switches hold it back where it is sent, and its time ends there.
        """
        refusal = self._waiting.refusal(self._waiting.kind_of(new))
        if refusal is not None:
            raise refusal
        judged = None
        # An exit waits for no word of the broker on money: whether it reduces is asked first.
        if not (self._risk.limits.broker_margin and self._exits.is_open(new.job_id)):
            try:
                await self._admit_judged(new, is_alone=False)
            except MayReduceError as error:
                judged = error.judged
            else:
                return
        async with self._reducing:
            await self._admit_judged(new, is_alone=True, before=judged)

    async def _admit_judged(
        self, new: NewTask, *, is_alone: bool, before: Judged | None = None
    ) -> None:
        if new.kind in _JUDGED:
            judged = await self._asks.judge(new, is_alone=is_alone, before=before)
            if judged.refusal is not None:
                self._risk.record(new, judged.refusal)
                raise judged.refusal
            new = dataclasses.replace(new, risk=judged.facts)
        await self._admit(new)

    async def _admit(self, new: NewTask) -> tuple[OrderTask, bool]:
        self._waiting.begin(new)
        self._waiting.asking.add(new.task_id)
        try:
            admitted = await self._journal.admit(new)
        except (OrderRefused, TaskMoved):
            self._risk.release(new)
            self._waiting.end(new)
            raise
        except BaseException as error:
            # It may have been taken; the next scan of the journal knows.
            self._exposure.doubted(new.task_id, new.deadline_ns)
            if not isinstance(error, JournalUnavailable):
                self._waiting.end(new)
            raise
        finally:
            self._waiting.asking.discard(new.task_id)
        if not admitted.is_new:
            self._risk.release(new)
        if not admitted.is_new or new.kind in JOBS:
            self._waiting.end(new)
        if new.kind in JOBS:
            self._jobs.begun.ring()
        self._reach("C1")
        if admitted.is_new and new.kind in {TaskKind.PLACE, TaskKind.CANCEL}:
            self._dispatcher.hand_on(admitted.task)
        else:
            # Changes of one order go out as the journal numbered them; its answers come in any
            # order.
            self._dispatcher.work.ring()
        self._news.ring()
        return admitted.task, admitted.is_new
