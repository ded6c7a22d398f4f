"""Send one instruction to the broker at most once, and have what became of it recorded.

Path: order -> admit -> journal -> [execute] -> settle -> report. The intent is committed before the
first byte (I4); what may leave at all is `orders.holds`'s; what happens to the bytes is judged
by one table (`orders.classify`) and recorded by `orders.outcomes`; an ambiguous outcome becomes
UNKNOWN and is never sent again (I1). From the intent to the record the work runs to its end even
when the process is told to stop. Source: reliability.md §1.3, §1.4 and §1.8.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypedDict

import structlog

from ticker_service.accounts.breaker import Health
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import TaskKind, change_from_fields, request_from_fields
from ticker_service.domain.order_legs import address_of, legs_of
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.tag import tag_of
from ticker_service.errors import JournalUnavailable, TaskMoved
from ticker_service.orders import classify
from ticker_service.orders.classify import Outcome
from ticker_service.orders.holds import (
    HALTED,
    JOB_STOPPED,
    MORE_THAN_ASKED,
    NOT_COUNTED,
    WINDOW_CLOSED,
    Holds,
)
from ticker_service.orders.outcomes import Outcomes
from ticker_service.ports import LANE_FULL, NO_ACCESS_TOKEN, NO_TURN, Reply, Withheld
from ticker_service.runtime.pacing import Backoff
from ticker_service.runtime.supervise import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ticker_service.accounts.breaker import Permit
    from ticker_service.accounts.breakers import Breakers
    from ticker_service.accounts.halts import Halts
    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.accounts.limits import Lane, OrderLimits
    from ticker_service.config import OrdersConfig
    from ticker_service.domain.order import BrokerOrder, OrderTask
    from ticker_service.domain.order_legs import Address
    from ticker_service.orders.classify import Verdict
    from ticker_service.ports import BrokerGateway, OrderJournal
    from ticker_service.runtime.crash_points import Reach
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

CANCEL_ATTEMPTS_MAX: Final = 100
"""A cancel is tried until its time is over, which a refusal for rate (429) may put off: what it
does a second time is harmless (reliability.md §1.8). Its deadline comes first as a rule."""
NO_BROKER_ID: Final = "the order has no broker id yet"
OURS: Final = frozenset(
    {
        WINDOW_CLOSED,
        MORE_THAN_ASKED,
        JOB_STOPPED,
        NOT_COUNTED,
        NO_BROKER_ID,
        HALTED,
        NO_TURN,
        LANE_FULL,
        NO_ACCESS_TOKEN,
    }
)
"""Why we did not ask; nothing about the broker's health."""


class _Send(TypedDict):
    """By when a request leaves and ends, and who has the last word."""

    deadline_ns: int
    leave_by_ns: int
    may_leave: Callable[[], bool]


class Executor:
    """Sends for one account; its caller decides which tasks, and never two at once of one order."""

    def __init__(  # noqa: PLR0913 - the parts of one send
        self,
        *,
        journal: OrderJournal,
        gateway: BrokerGateway,
        breakers: Breakers,
        limits: OrderLimits,
        halts: Halts,
        switches: KillSwitches,
        config: OrdersConfig,
        surroundings: Surroundings,
        reach: Reach,
    ) -> None:
        self.halts = halts
        """What holds new orders of the account back; cancels go out all the same."""
        self.limits = limits
        """How much the account may send, and has sent."""
        self.switches = switches
        """What people have stopped, looked at again right before the first byte (I12)."""
        self.writer_epoch = 0
        """Set once the account's lock is held; every intent carries it."""
        self.is_auth_refused = False
        """The broker refused the access token; nothing is sent until it takes one again."""
        self.on_named: Callable[[OrderTask, str], None] = _unheard
        """Told of the order id in the broker's answer before that is recorded, which may take."""
        self.legs_of: Callable[[OrderTask], Collection[BrokerOrder]] = _no_legs
        """What the broker has shown of an order's legs."""
        self.refusals = 0
        """How often the access token was refused or ended."""
        self._journal = journal
        self._gateway = gateway
        self.breakers = breakers
        """Whether the broker is asked."""
        self._breaker = breakers.orders
        self._pacer = limits.pacer
        self._config = config
        self._clock = surroundings.clock
        self._chance = surroundings.chance
        self.reach = reach
        self.holds = Holds(journal, halts, switches, surroundings.clock)
        """What may leave now."""
        self.outcomes = Outcomes(journal, surroundings, request_s_max=config.request_s_max)
        """Records what became of what left."""
        self._logins = 0

    async def take_over(self, writer_epoch: int) -> None:
        """Send under a new epoch from now on, knowing what was sent before and how it went.

        Raises:
            JournalUnavailable: That is not known; nothing may be sent.
        """
        await self.breakers.restore(self._journal)
        await self.limits.restore(self._journal)
        self.writer_epoch = writer_epoch

    def token_is_good(self) -> None:
        """Send again: the broker has just taken the token that a send was refused with."""
        self.is_auth_refused = False

    def token_has_ended(self) -> None:
        """Send nothing more until there is a new access token."""
        self.is_auth_refused = True
        self.refusals += 1

    def is_late(self, task: OrderTask, until_ns: int) -> bool:
        """Return whether a task's time is over by either clock; wall time may be set back."""
        return self._clock.now_ns() >= task.deadline_ns or self._clock.monotonic_ns() >= until_ns

    def is_held(self, task: OrderTask, target: OrderTask | None) -> bool:
        """Return whether an instruction has to wait, for a login or a person."""
        return self.is_auth_refused or self.holds.is_stopped(task, target, reduces=True)

    def has_new_token(self) -> None:
        """Send again; a refusal that is still to come speaks of the token before."""
        self.is_auth_refused = False
        self._logins += 1

    def stop(self) -> None:
        """Let what was sent be recorded within its deadline and a little; recovery has the rest."""
        self.outcomes.stop()

    async def send(self, task: OrderTask, target: OrderTask | None, *, until_ns: int) -> OrderTask:
        """Carry one READY task to the broker, at most once.

        Args:
            task: READY, as last read.
            target: The PLACE task that a MODIFY or CANCEL speaks of.
            until_ns: Monotonic instant by which it leaves or expires, beside its deadline.

        Returns:
            The task as it was left: READY again if nothing left and there is time, EXPIRED, or what
            the broker's answer made of it.

        Raises:
            JournalUnavailable: Before anything was sent; the caller tries again.
            TaskMoved: Somebody else moved it; the caller reads it again.
        """
        ended = await self._ended_before(task, until_ns=until_ns)
        if ended is not None:
            return ended
        if await self.holds.unreducing(task, target):
            return task
        lane: Lane = "cancel"
        if task.kind is not TaskKind.CANCEL:
            lane = "exit" if await self.holds.is_of_an_exit(task) else "place"
        until_ns = min(until_ns, self._monotonic_of(task.deadline_ns))
        if not await self._pacer.admit(lane, deadline_ns=until_ns):
            reason = f"no room to send it in time: {self._pacer.in_force(lane)}"
            return await self.outcomes.end_unsent(task, TaskState.EXPIRED, "DEADLINE", reason)
        if self.is_held(task, target):
            return task
        permit = self._breaker.admit(bypass=task.kind is TaskKind.CANCEL)
        if permit is None:
            await asyncio.sleep(self.retry_delay_s(0))
            return task
        try:
            return await finish(self._send_claimed(task, target, permit, until_ns=until_ns))
        finally:
            permit.release()

    async def _ended_before(self, task: OrderTask, *, until_ns: int) -> OrderTask | None:
        """End a task that is not to be sent whatever room there is; None if it may be."""
        if self.is_late(task, until_ns):
            return await self.outcomes.end_unsent(
                task, TaskState.EXPIRED, "DEADLINE", "its time was over"
            )
        is_cancel = task.kind is TaskKind.CANCEL
        if task.attempt >= (CANCEL_ATTEMPTS_MAX if is_cancel else self._config.attempts_max):
            reason = f"nothing left in {task.attempt} attempts; the last: {task.reason}"
            return await self.outcomes.end_unsent(
                task, TaskState.REJECTED_LOCAL, "NOT_SENT", reason
            )
        if task.kind is not TaskKind.MODIFY:
            return None
        refused = await self.limits.changes_refusal(task.target_task_id, self._journal)
        if refused is None:
            return None
        return await self.outcomes.end_unsent(
            task, TaskState.REJECTED_LOCAL, refused.code, refused.rule
        )

    async def _send_claimed(
        self, task: OrderTask, target: OrderTask | None, permit: Permit, *, until_ns: int
    ) -> OrderTask:
        """Commit the intent, send, judge, record; never abandoned halfway."""
        legs = legs_of(task.body)
        is_order = task.kind is TaskKind.PLACE
        uncount = self.limits.take_order_of_day(legs=legs) if is_order else _nothing
        if uncount is None and not await self.holds.why_not(task, target):
            uncount = self.limits.take_order_of_day(is_exit=True, legs=legs)
        if uncount is None:
            full = self.limits.day_is_full
            return await self.outcomes.end_unsent(
                task, TaskState.REJECTED_LOCAL, "ORDER_LIMIT", full
            )
        window_ns = int(self._config.send_window_s * NS_PER_S)
        closes_ns = min(self._clock.monotonic_ns() + window_ns, until_ns)
        try:
            claimed = await self._claim(task)
        except TaskMoved:
            uncount()
            raise
        if claimed is None:
            uncount()
            raise TaskMoved(f"task_id={task.task_id} was claimed by nobody; read it again")
        self.reach("C3")
        logins = self._logins
        reply = await self._transmit(claimed, target, closes_ns)
        verdict = classify.judge(task.kind, reply)
        permit.report(_health_of(verdict, reply))
        if classify.STATE_AFTER[verdict.outcome] is TaskState.READY:
            uncount()  # it did not come to the broker's desk, which counts orders
        if verdict.order_id:
            self.on_named(claimed, verdict.order_id)
        self._notice(verdict, claimed, logins=logins)
        self.reach("C6")
        return await self.outcomes.record(claimed, verdict, reply)

    async def _claim(self, task: OrderTask) -> OrderTask | None:
        """Commit the intent (I4); when the commit's answer is lost, read whether it happened."""
        now_ns, epoch = self._clock.now_ns(), self.writer_epoch
        tag = tag_of(self._config.installation, task.task_id, task.attempt + 1)
        window_ends_ns = now_ns + int(self._config.send_window_s * NS_PER_S)
        try:
            return await self._journal.claim(
                task,
                tag=tag,
                writer_epoch=epoch,
                now_ns=now_ns,
                send_not_after_ns=min(window_ends_ns, task.deadline_ns),
            )
        except JournalUnavailable:
            present = await self.outcomes.read_when_possible(task)
            # The tag alone does not tell: who overtook us makes the same of this attempt (I4, I6).
            is_ours = (present.tag, present.writer_epoch) == (tag, epoch)
            return present if present.state is TaskState.SENDING and is_ours else None

    async def _transmit(self, task: OrderTask, target: OrderTask | None, closes_ns: int) -> Reply:
        """Hand the bytes to the gateway, if they may still leave."""
        # The sum first: it asks the journal, and nothing may wait between the last look and the
        # first byte.
        failure = await self.holds.beyond_its_job(task)
        # Known before the claim, and asked again now that every other send sees this one.
        reduces = self.holds.must_reduce(task, target)
        # A reading of before it took its turn may lack what another hand has closed meanwhile.
        if await self.holds.unreducing(task, target, is_last=True):
            return Reply(withheld=Withheld.NOTHING_LEFT, failure=HALTED)
        failure = failure or self.holds.held_at_the_last(task, target, closes_ns, reduces=reduces)
        if failure:
            return Reply(withheld=Withheld.NOTHING_LEFT, failure=failure)

        def may_leave() -> bool:
            return not self.holds.is_stopped(task, target, reduces=reduces)

        deadline_ns = self._clock.monotonic_ns() + int(self._config.request_s_max * NS_PER_S)
        # A connection takes its time, too: what has not left by the end of the window never will.
        send: _Send = {
            "deadline_ns": deadline_ns,
            "leave_by_ns": closes_ns,
            "may_leave": may_leave,
        }
        if task.kind is TaskKind.PLACE:
            request = request_from_fields(task.body)
            return await self._gateway.place(request, tag=task.tag or "", **send)
        to = self.address(task, target)
        if to is None:
            return Reply(withheld=Withheld.NOTHING_LEFT, failure=NO_BROKER_ID)
        parent = to.parent_order_id
        if task.kind is TaskKind.CANCEL:
            return await self._gateway.cancel(
                to.order_id, to.variety, parent_order_id=parent, **send
            )
        change = change_from_fields(task.body)
        return await self._gateway.modify(
            to.order_id, to.variety, change, parent_order_id=parent, **send
        )

    def address(self, task: OrderTask, target: OrderTask | None) -> Address | None:
        """Return which order at the broker a change or a cancel goes to; None while unknown."""
        return None if target is None else address_of(task, target, self.legs_of(target))

    def _notice(self, verdict: Verdict, task: OrderTask, *, logins: int) -> None:
        if verdict.outcome is Outcome.REJECTED_AUTH and logins == self._logins:
            self.token_has_ended()
        if verdict.outcome is Outcome.THROTTLED:
            self._pacer.cool_down()
        if verdict.code in classify.HALTING_CODES:
            self.halts.begin(classify.HALTING_CODES[verdict.code], verdict.message)
        log.info(
            "order_sent",
            account=task.account,
            task_id=str(task.task_id),
            kind=task.kind,
            attempt=task.attempt,
            tag=task.tag,
            outcome=verdict.outcome,
            code=verdict.code,
        )

    def _monotonic_of(self, instant_ns: int) -> int:
        return self._clock.monotonic_ns() + instant_ns - self._clock.now_ns()

    def retry_delay_s(self, attempt: int) -> float:
        """Return how long a task waits before another try at what provably did not leave."""
        backoff = Backoff(
            delay_s_min=self._config.retry_s_min, delay_s_max=self._config.retry_s_max
        )
        return backoff.delay_s(attempt, self._chance)


def _unheard(_: OrderTask, __: str) -> None:
    return


def _no_legs(_: OrderTask) -> Collection[BrokerOrder]:
    return ()


def _nothing() -> None:
    return


def _health_of(verdict: Verdict, reply: Reply) -> Health:
    """Return what an outcome says about the broker's health, which is not whether it said yes."""
    if verdict.outcome is Outcome.AMBIGUOUS:
        return Health.AMBIGUOUS
    if verdict.outcome is Outcome.NOT_SENT:
        return Health.NEITHER if reply.failure in OURS else Health.FAILURE
    return Health.SUCCESS
