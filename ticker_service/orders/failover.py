"""Let an order of a group go on on another account, where nothing of it can be at the first's.

Beside the path of an order: the desk asks whenever it leaves an order unsent. Goal: an order that
its account cannot send goes out on one that can, once. What does not work is to move the task: its
attempts, its epochs and its place in the log are its account's. So the first ends as FAILED_OVER
and another one of the same key goes on, in one transaction under both accounts' newest epochs;
whoever asks for the key is led to where it has come to. What is allowed is one table
(`accounts.failover`); anything that cannot be told is a no, and the order stays where it is. Should
the broker have taken a try that was called unsent after all, all accounts that the order has been
on are halted (I8). Guarded by ``test_orders_failover.py`` and the simulation of two accounts.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.accounts.failover import Evidence, Situation, Target, judge
from ticker_service.domain.halt import HaltCode, new_halt
from ticker_service.domain.order import TaskKind, TaskUpdate, successor_of
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import TaskMoved

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping

    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.domain.order import Account, NewTask, OrderTask
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.orders.dispatch import Hindrance
    from ticker_service.orders.routing import Choice, Router
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

FAILED_OVER: Final = "FAILED_OVER"
EVENT: Final = "failed_over"
DENIED_MAX: Final = 1_000
"""So many denials of orders that may still go on are remembered, the newest."""


class Failover:
    """All accounts of this process; belongs to one event loop."""

    def __init__(
        self,
        router: Router,
        desks: Mapping[Account, AccountDesk],
        journal: OrderJournal,
        clock: Clock,
        *,
        new_id: Callable[[], uuid.UUID],
    ) -> None:
        self._router = router
        self._desks = desks
        self._journal = journal
        self._clock = clock
        self._new_id = new_id
        self._denied: dict[tuple[uuid.UUID, Account], str] = {}
        """The version of the limits by which an account denied an order, asked by that no more."""

    async def consider(self, task: OrderTask, hindrance: Hindrance) -> OrderTask:
        """Let an order that its account left unsent go on elsewhere if that is allowed.

        Args:
            task: READY, as its account left it.
            hindrance: Why its account does not send it.

        Returns:
            The task as it is left: FAILED_OVER if another one goes on for it.

        Raises:
            TaskMoved: Somebody else moved it; the caller reads it again.
            JournalUnavailable: Read it again before anything is done about it.
        """
        group = self._router.groups.get(task.account_group or "")
        if group is None or self._is_late(task):
            return task
        situation = _situation(task, task.state, group, hindrance.evidence)
        choice = await self._choice(task, group, situation)
        if choice is None or choice.account is None:
            return task
        ruling = judge(situation, _FIT)
        facts = _facts(task, choice, hindrance.reason, hindrance.evidence, ruling.code)
        update = _update(hindrance.reason, facts)
        return await self._go_on(task, update, choice.account, facts, target=None)

    async def refused(self, task: OrderTask, update: TaskUpdate) -> OrderTask | None:
        """Let an order that the broker refused for want of margin go on elsewhere if it may.

        Args:
            task: SENDING; its sender has the answer.
            update: What records that it was refused.

        Returns:
            The task as it is left, None when it may not and nothing was recorded, or somebody moved
            it: whoever records the refusal then learns which.

        Raises:
            JournalUnavailable: Read it again before anything is done about it.
        """
        group = self._router.groups.get(task.account_group or "")
        if group is None or self._is_late(task):
            return None
        ended = _situation(task, update.state, group, Evidence.MARGIN)
        choice = await self._choice(task, group, ended)
        if choice is None or choice.account is None:
            return None
        facts = _facts(task, choice, "MARGIN", Evidence.MARGIN, "MARGIN_BY_CONSENT")
        try:
            left = await self._go_on(task, update, choice.account, facts, target=None)
        except TaskMoved:
            # Perhaps only the other account's lock is gone, and this task has not moved at all.
            return None
        return None if left is task else left

    async def follow(self, task: OrderTask, target: OrderTask) -> OrderTask:
        """Let a change or a cancel go where its order has gone; raises as :meth:`consider`.

        Args:
            task: READY.
            target: The order it speaks of, which ended as FAILED_OVER.
        """
        order = (await self._journal.lineage(target))[-1]
        if order.account == task.account or not self._journal.is_writer(order.account):
            return task
        facts = {"from_account": task.account, "reason": "ORDER_MOVED"}
        update = _update("its order goes on there", facts)
        return await self._go_on(task, update, order.account, facts, target=order.task_id)

    async def surfaced(self, task: OrderTask, reason: str, fact_ns: int | None) -> None:
        """Halt every account that an order has been on: a try called unsent is at its broker.

        Args:
            task: The order, on any of them.
            reason: In words.
            fact_ns: When that happened, wall time.

        Raises:
            JournalUnavailable: Try again; nothing else is to be recorded before.
        """
        for each in await self._journal.lineage(task):
            desk = self._desks.get(each.account)
            if desk is not None and self._journal.is_writer(each.account):
                desk.halts.begin(HaltCode.UNSENT_AT_BROKER, reason, fact_ns=fact_ns)
            else:
                now_ns = self._clock.now_ns()
                halt = new_halt(each.account, HaltCode.UNSENT_AT_BROKER, reason, now_ns=now_ns)
                await self._journal.halt(halt)

    async def _choice(
        self, task: OrderTask, group: AccountGroup, situation: Situation
    ) -> Choice | None:
        """Return where an order may go on, None when it has to stay."""
        # First without the position: most orders may not move, and that needs no reading.
        if not judge(situation, _FIT).moves:
            return None
        lineage = await self._journal.lineage(task)
        closed = {each: "RISK_DENIED" for each in group.members if self._denies(task, each)}
        closed |= {each.account: "WAS_THERE" for each in lineage}
        choice = self._router.choose(group, task.body, closed=closed)
        if choice.account is None:
            return None
        reduces = await self._desks[task.account].positions.may_close(task)
        # Asked again: it may have become unable meanwhile.
        target = Target(
            is_of_group=choice.account in group.members,
            is_held=self._journal.is_writer(choice.account),
            is_open=not self._desks[choice.account].pre_trade.unable(task.body),
        )
        moves = judge(dataclasses.replace(situation, reduces=reduces), target).moves
        return choice if moves else None

    async def _go_on(
        self,
        task: OrderTask,
        update: TaskUpdate,
        account: Account,
        facts: Mapping[str, object],
        *,
        target: uuid.UUID | None,
    ) -> OrderTask:
        now_ns = self._clock.now_ns()
        successor: NewTask = successor_of(
            task,
            task_id=self._new_id(),
            account=account,
            target_task_id=target,
            facts={**(task.facts or {}), "route": facts},
            now_ns=now_ns,
        )
        named = {"to_account": account, "successor": str(successor.task_id)}
        update = dataclasses.replace(update, facts={**(update.facts or {}), **named})
        desk = self._desks[account]
        if task.kind is not TaskKind.CANCEL:
            # What passes is reserved there before the former ends here.
            order = await self._journal.task(target) if target else None
            former = task.task_id if order is None else None
            judged = await desk.risk.judge(successor, order, instead_of=former)
            if judged.refusal is not None:
                desk.risk.record(successor, judged.refusal)
                self._keep_denial(task, account, judged.refusal.version)
                return task
            successor = dataclasses.replace(successor, risk=judged.facts)
        try:
            admitted = await self._journal.hand_over(task, update, successor, now_ns=now_ns)
        except TaskMoved:
            desk.risk.release(successor)
            raise
        except BaseException:
            # It may have been taken; what is reserved for it stays until the journal tells.
            desk.exposure.doubted(successor.task_id, successor.deadline_ns)
            raise
        log.warning(
            "order_failed_over" if target is None else "instruction_followed_its_order",
            account=task.account,
            to_account=account,
            task_id=str(task.task_id),
            successor=str(admitted.task_id),
            reason=update.reason,
        )
        desk.dispatcher.take_over(admitted)
        left = await self._journal.task(task.task_id)
        if left is None:
            raise TaskMoved(f"task_id={task.task_id} is not in the journal")
        return left

    def _denies(self, task: OrderTask, account: Account) -> bool:
        """Return whether an account has denied an order by the limits that are in force."""
        version = self._desks[account].risk.tables.current.version
        return self._denied.get((task.task_id, account)) == version

    def _keep_denial(self, task: OrderTask, account: Account, version: str) -> None:
        self._denied[task.task_id, account] = version
        if len(self._denied) > DENIED_MAX:
            del self._denied[next(iter(self._denied))]

    def _is_late(self, task: OrderTask) -> bool:
        return self._clock.now_ns() >= task.deadline_ns


_FIT: Final = Target(is_of_group=True, is_held=True, is_open=True)


def _situation(
    task: OrderTask, state: TaskState, group: AccountGroup, evidence: Evidence
) -> Situation:
    """Return what is judged of an order that would go on from a state."""
    return Situation(
        kind=task.kind,
        state=state,
        body=task.body,
        evidence=evidence,
        is_leg=task.job_id is not None,
        moves_on_margin=group.moves_on_margin,
    )


def _facts(
    task: OrderTask, choice: Choice, reason: str, evidence: Evidence, ruling: str
) -> dict[str, object]:
    """Return the decision as both accounts' logs keep it."""
    return {
        **choice.facts,
        "from_account": task.account,
        "reason": reason,
        "evidence": evidence.value,
        "ruling": ruling,
    }


def _update(reason: str, facts: Mapping[str, object]) -> TaskUpdate:
    return TaskUpdate(  # which account that is, is among the facts: not all may know
        state=TaskState.FAILED_OVER,
        event=EVENT,
        reason_code=FAILED_OVER,
        reason=f"goes on on another account: {reason}",
        facts=facts,
    )
