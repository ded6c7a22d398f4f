"""What is asked before an account takes a new instruction; nothing here takes or sends one.

Path: order -> [admit] -> journal -> execute -> settle -> report. First how the account stands, what
people and the broker's refusals have stopped, and how much waits; then what the day leaves; then
whether it only reduces a position, where nothing else is let through; last the user's risk limits.
What it means and whether it can be right is asked before this, in `orders.front`; what may leave is
asked again right before the first byte, in `orders.holds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from ticker_service.accounts.kill_switches import refusal_of, symbol_of
from ticker_service.domain.breaker import BreakerState
from ticker_service.domain.job import order_forms
from ticker_service.domain.order import JOBS, TaskKind
from ticker_service.domain.order_legs import legs_of
from ticker_service.domain.order_state import JOB_OPEN, UNSENT
from ticker_service.errors import BrokerUnavailable, LoginRequired, OrderRefused
from ticker_service.orders.standing import DeskState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ticker_service.domain.kill_switch import KillSwitch
    from ticker_service.domain.order import Account, NewTask, OrderTask
    from ticker_service.orders.execute import Executor
    from ticker_service.orders.jobs import Jobs
    from ticker_service.orders.positions import Positions
    from ticker_service.orders.risk_gate import Judged, RiskGate
    from ticker_service.orders.standing import Standing
    from ticker_service.orders.waiting import Waiting
    from ticker_service.ports import OrderJournal

_ONLY_REDUCE: Final = frozenset({TaskKind.CANCEL, TaskKind.EXIT})
"""What does nothing but take risk away; each order of an exit is asked for itself."""


class MayReduceError(Exception):
    """Whether an order strictly reduces a position decides; to be asked of one at a time."""

    def __init__(self, judged: Judged | None = None) -> None:
        super().__init__()
        self.judged = judged


class PreTrade:
    """What one account asks; it changes nothing but what the risk gate reserves."""

    def __init__(  # noqa: PLR0913 - the parts of what is asked
        self,
        account: Account,
        *,
        journal: OrderJournal,
        executor: Executor,
        standing: Standing,
        waiting: Waiting,
        jobs: Jobs,
        positions: Positions,
        risk: RiskGate,
    ) -> None:
        self._account = account
        self._journal = journal
        self._executor = executor
        self._limits = executor.limits
        self._standing = standing
        self._waiting = waiting
        self._jobs = jobs
        self._positions = positions
        self._risk = risk

    def unable(self, body: Mapping[str, str]) -> str:
        """Return what keeps a new order from going out here at once, empty if nothing does.

        Stricter than admission: what is to go to one of several accounts goes where it need not
        wait for a broker.
        """
        refusal = self.refusal(TaskKind.PLACE, [body]) or self._limits.day_refusal()
        if refusal is not None:
            return refusal.code
        switches, symbol = self._executor.switches, symbol_of(body)
        if switches.reduce_only(self._account, symbol, TaskKind.PLACE) is not None:
            return "KILL_SWITCH"
        if self._executor.is_auth_refused:
            return "LOGIN_REQUIRED"
        if self._executor.breakers.orders.state is not BreakerState.CLOSED:
            return "BREAKER_OPEN"
        return "" if self._journal.is_writer(self._account) else "NOT_THE_WRITER"

    def refusal(self, kind: TaskKind, forms: Iterable[Mapping[str, str]]) -> OrderRefused | None:
        """Return why the account takes nothing new now, None if it does.

        Args:
            kind: What is asked.
            forms: The orders that it speaks of.
        """
        is_uncompared = (
            self._standing.state is DeskState.STARTING and self._executor.holds.is_uncompared
        )
        takes_it = is_uncompared and kind is TaskKind.CANCEL
        if self._standing.state is not DeskState.OPEN and not takes_it:
            rule = f"account {self._account} is {self._standing.state}"
            if is_uncompared:
                rule += "; its fills and positions could not be read yet; cancels are taken"
            if self._standing.state is DeskState.LOGIN_REQUIRED:
                rule += f"; run `ticker-service login {self._account}`"
            return OrderRefused("ACCOUNT_NOT_OPEN", rule)
        if kind is TaskKind.CANCEL:
            return self._waiting.refusal(kind)
        for form in forms:
            stopped = self._executor.switches.refusal(self._account, symbol_of(form))
            if stopped is not None:
                return stopped
        full = self._jobs.refusal() if kind in JOBS and kind is not TaskKind.EXIT else None
        return full or self._waiting.refusal(kind) or self._executor.halts.refusal()

    def stops_exits(self, symbol: str) -> OrderRefused | None:
        """Return what keeps back the orders of an exit, which only reduce; None if nothing does."""
        switches = self._executor.switches
        return self._executor.halts.refusal() or switches.refusal(self._account, symbol)

    async def beyond_limits(self, new: NewTask, *, is_alone: bool) -> OrderRefused | None:
        """Return which limit an instruction would exceed that waiting does not help.

        Raises:
            MayReduceError: What the day keeps free is for it if it reduces a position.
        """
        match new.kind:
            case TaskKind.PLACE:
                legs = legs_of(new.body)
                refusal = self._limits.day_refusal(legs=legs)
                if refusal is None or self._limits.day_refusal(is_exit=True, legs=legs):
                    return refusal
                if not is_alone:
                    raise MayReduceError
                return refusal if await self._why_not_reducing(new, None) else None
            case TaskKind.BASKET | TaskKind.SLICES:
                return self._limits.day_refusal()
            case TaskKind.MODIFY:
                return await self._limits.changes_refusal(new.target_task_id, self._journal)
            case TaskKind.CANCEL | TaskKind.EXIT:
                return None
            case _ as never:
                assert_never(never)

    def is_reduce_only(self, new: NewTask) -> bool:
        """Return whether a switch lets nothing of this kind through but what reduces a position."""
        return new.kind not in _ONLY_REDUCE and self._reduce_only(new) is not None

    def _reduce_only(self, new: NewTask) -> KillSwitch | None:
        """Return the first such switch that concerns an order of an instruction."""
        found = (
            self._executor.switches.reduce_only(self._account, symbol_of(form), new.kind)
            for form in order_forms(new)
        )
        return next((switch for switch in found if switch is not None), None)

    async def unreducing(self, new: NewTask) -> OrderRefused | None:
        """Return the refusal of what such a switch holds back; what cannot be told, it does."""
        switch = self._reduce_only(new)
        if switch is None or new.kind in _ONLY_REDUCE:
            return None
        if new.kind in JOBS:
            return refusal_of(switch, self._account, "of a job of several orders it is not told")
        target = await self._journal.task(new.target_task_id) if new.target_task_id else None
        why = await self._why_not_reducing(new, target)
        return refusal_of(switch, self._account, why) if why else None

    async def _why_not_reducing(self, new: NewTask, target: OrderTask | None) -> str:
        """Return why something does not strictly reduce a position, empty if it does."""
        try:
            return await self._positions.not_reducing(new, target)
        except (BrokerUnavailable, LoginRequired) as error:
            return f"whether it does is not known: {error}"

    async def judge(self, new: NewTask, *, is_alone: bool, before: Judged | None = None) -> Judged:
        """Hold an order or a change against the risk limits.

        Args:
            new: Which.
            is_alone: Whether no other is asked about meanwhile that may reduce as well.
            before: How it was judged when it was not alone.

        Raises:
            MayReduceError: It passes if it reduces a position; that is asked of one at a time.
        """
        target = await self._journal.task(new.target_task_id) if new.target_task_id else None
        if is_alone and self._risk.limits.broker_margin:
            # Nobody waits here for the broker to tell of a margin a second time.
            why = await self._why_not_reducing(new, target)
            if why and before is not None:
                return before.because_it_may_not(why)
            judged = await self._risk.judge(new, target, is_reducing=not why)
            return judged.because_it_may_not(why) if judged.may_reduce else judged
        judged = await self._risk.judge(new, target)
        if not judged.may_reduce:
            return judged
        if not is_alone:
            raise MayReduceError(judged)
        why = await self._why_not_reducing(new, target)
        if not why:
            return await self._risk.judge(new, target, is_reducing=True)
        return judged.because_it_may_not(why)

    async def withdraws(self, new: NewTask) -> bool:
        """Return whether this is a cancel that needs no broker, while a login is awaited.

        Of an order that has not been sent, or of a job, which then places no more.
        """
        if new.kind is not TaskKind.CANCEL or self._standing.state is not DeskState.LOGIN_REQUIRED:
            return False
        target = await self._journal.task(new.target_task_id) if new.target_task_id else None
        return target is not None and target.state in UNSENT | JOB_OPEN
