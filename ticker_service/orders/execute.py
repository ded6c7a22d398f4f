"""Send one instruction to the broker at most once, and record what became of it.

Path: order -> admit -> journal -> [execute] -> settle -> report. The intent is committed before the
first byte (I4); what happens to the bytes is judged by one table (`orders.classify`); an ambiguous
outcome becomes UNKNOWN and is never sent again (I1). From the intent to the record the work runs to
its end even when the process is told to stop. Source: reliability.md §1.3, §1.4 and §1.8.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypedDict

import structlog

from ticker_service.accounts.breaker import Health
from ticker_service.accounts.kill_switches import symbol_of
from ticker_service.constants import NS_PER_S
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.job import excess
from ticker_service.domain.order import (
    TaskKind,
    TaskUpdate,
    change_from_fields,
    request_from_fields,
)
from ticker_service.domain.order_legs import address_of, legs_of
from ticker_service.domain.order_state import AT_BROKER, TERMINAL, TRANSITIONS, TaskState
from ticker_service.domain.tag import tag_of
from ticker_service.errors import (
    BrokerUnavailable,
    JournalError,
    JournalUnavailable,
    LoginRequired,
    TaskMoved,
)
from ticker_service.orders import classify
from ticker_service.orders.classify import Outcome
from ticker_service.ports import LANE_FULL, NO_ACCESS_TOKEN, NO_TURN, Reply, Withheld
from ticker_service.runtime.clock import Moment
from ticker_service.runtime.pacing import Backoff
from ticker_service.runtime.supervise import finish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

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

JOURNAL_RETRY: Final = Backoff(delay_s_min=0.05, delay_s_max=1.0)
LAST_TRIES_S: Final = 3.0
"""When told to stop without a journal, an answer that came by its deadline gets so long."""
CANCEL_ATTEMPTS_MAX: Final = 100
"""A cancel is tried until its time is over, which a refusal for rate (429) may put off: what it
does a second time is harmless (reliability.md §1.8). Its deadline comes first as a rule."""
WINDOW_CLOSED: Final = "send window closed"
MORE_THAN_ASKED: Final = "the orders of its job would be more than was asked"
JOB_STOPPED: Final = "its job was stopped meanwhile"
NOT_COUNTED: Final = "the orders of its job could not be counted"
NO_BROKER_ID: Final = "the order has no broker id yet"
HALTED: Final = "the account was halted, or a kill switch thrown, meanwhile"
MARGIN: Final = "MARGIN"
"""The table's word for a refusal for want of margin."""
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
        self.on_margin: Callable[[OrderTask, TaskUpdate], Awaitable[OrderTask | None]] | None = None
        """Records a refusal for want of margin if the order goes on on another account."""
        self.is_uncompared = False
        """Fills and positions are still to be read; until then cancels alone go out (I11)."""
        self.why_not_reducing: Callable[[OrderTask, OrderTask | None], Awaitable[str]] = _unknown
        """Asked while a switch lets nothing through but what reduces a position; empty if it does.
        Raises as reading the broker's books and the journal does."""
        self.why_not_reducing_now: Callable[[OrderTask, OrderTask | None], Awaitable[str]] = (
            _unknown
        )
        """The same, by a reading that begins then: the last look before the first byte."""
        self.held_by_risk: Callable[[Mapping[str, str]], str] = _free
        """Asked with an order's form, from any thread: why it must not leave unless it reduces a
        position, empty if it may."""
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
        self._gives_up_ns: int | None = None
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
        return self.is_auth_refused or self._is_stopped(task, target, reduces=True)

    def _is_stopped(self, task: OrderTask, target: OrderTask | None, *, reduces: bool) -> bool:
        """Return whether something holds all but cancels back: a halt, a kill switch, a start.

        Args:
            task: What is to be sent.
            target: The order that it is about, if it is not one itself.
            reduces: Whether it is known, or still to be asked, to do nothing but reduce a position.

        Thread/Task: any thread may call.
        """
        if task.kind is TaskKind.CANCEL:
            return False
        body = (target or task).body
        if self.is_uncompared or self.halts.standing():
            return True
        if self.held_by_risk(body) and not reduces:
            return True
        switch = self.switches.holding(task.account, symbol_of(body))
        return switch is not None and switch.stops(task.kind, reduces=reduces)

    async def _unreducing(
        self, task: OrderTask, target: OrderTask | None, *, is_last: bool = False
    ) -> str:
        """Return why an order is held back that may leave only if it reduces a position.

        While a switch or a ban lets nothing else through, and of an exit always. What cannot be
        told is held back.
        """
        if task.kind is TaskKind.CANCEL:
            return ""
        try:
            if not self._must_reduce(task, target) and not await self._is_of_an_exit(task):
                return ""
        except JournalError as error:
            return f"whether it reduces one is not known: {error}"
        return await self._why_not_reducing(task, target, is_last=is_last)

    def _must_reduce(self, task: OrderTask, target: OrderTask | None) -> bool:
        """Return whether a switch or a ban lets nothing through but what reduces a position."""
        body = (target or task).body
        switch = self.switches.reduce_only(task.account, symbol_of(body), task.kind)
        return switch is not None or bool(self.held_by_risk(body))

    async def _is_of_an_exit(self, task: OrderTask) -> bool:
        """Return whether a task is part of an exit, which does nothing but reduce a position."""
        job = await self._journal.task(task.job_id) if task.job_id else None
        return job is not None and job.kind is TaskKind.EXIT

    async def _why_not_reducing(
        self, task: OrderTask, target: OrderTask | None, *, is_last: bool = False
    ) -> str:
        """Return why something does not strictly reduce a position, empty if it does."""
        ask = self.why_not_reducing_now if is_last else self.why_not_reducing
        try:
            return await ask(task, target)
        except (BrokerUnavailable, LoginRequired, JournalError) as error:
            return f"whether it reduces one is not known: {error}"

    def has_new_token(self) -> None:
        """Send again; a refusal that is still to come speaks of the token before."""
        self.is_auth_refused = False
        self._logins += 1

    def stop(self) -> None:
        """Let what was sent be recorded within its deadline and a little; recovery has the rest.

        Without a journal a stop would wait for ever; the journal says SENDING, and the next process
        looks for the order in the broker's book, as it does after a crash.
        """
        limit_s = self._config.request_s_max + LAST_TRIES_S
        self._gives_up_ns = self._clock.monotonic_ns() + int(limit_s * NS_PER_S)

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
        if await self._unreducing(task, target):
            return task
        lane: Lane = "cancel"
        if task.kind is not TaskKind.CANCEL:
            lane = "exit" if await self._is_of_an_exit(task) else "place"
        until_ns = min(until_ns, self._monotonic_of(task.deadline_ns))
        if not await self._pacer.admit(lane, deadline_ns=until_ns):
            reason = f"no room to send it in time: {self._pacer.in_force(lane)}"
            return await self._end_unsent(task, TaskState.EXPIRED, "DEADLINE", reason)
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
            return await self._end_unsent(task, TaskState.EXPIRED, "DEADLINE", "its time was over")
        is_cancel = task.kind is TaskKind.CANCEL
        if task.attempt >= (CANCEL_ATTEMPTS_MAX if is_cancel else self._config.attempts_max):
            reason = f"nothing left in {task.attempt} attempts; the last: {task.reason}"
            return await self._end_unsent(task, TaskState.REJECTED_LOCAL, "NOT_SENT", reason)
        if task.kind is not TaskKind.MODIFY:
            return None
        refused = await self.limits.changes_refusal(task.target_task_id, self._journal)
        if refused is None:
            return None
        return await self._end_unsent(task, TaskState.REJECTED_LOCAL, refused.code, refused.rule)

    async def _send_claimed(
        self, task: OrderTask, target: OrderTask | None, permit: Permit, *, until_ns: int
    ) -> OrderTask:
        """Commit the intent, send, judge, record; never abandoned halfway."""
        legs = legs_of(task.body)
        is_order = task.kind is TaskKind.PLACE
        uncount = self.limits.take_order_of_day(legs=legs) if is_order else _nothing
        if uncount is None and not await self._why_not_reducing(task, target):
            uncount = self.limits.take_order_of_day(is_exit=True, legs=legs)
        if uncount is None:
            full = self.limits.day_is_full
            return await self._end_unsent(task, TaskState.REJECTED_LOCAL, "ORDER_LIMIT", full)
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
        return await self._record_outcome(claimed, verdict, reply)

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
            present = await self._read_when_possible(task)
            # The tag alone does not tell: who overtook us makes the same of this attempt (I4, I6).
            is_ours = (present.tag, present.writer_epoch) == (tag, epoch)
            return present if present.state is TaskState.SENDING and is_ours else None

    async def _transmit(self, task: OrderTask, target: OrderTask | None, closes_ns: int) -> Reply:
        """Hand the bytes to the gateway, if they may still leave."""
        # The sum first: it asks the journal, and nothing may wait between the last look and the
        # first byte.
        failure = await self._beyond_its_job(task)
        # Known before the claim, and asked again now that every other send sees this one.
        reduces = self._must_reduce(task, target)
        # A reading of before it took its turn may lack what another hand has closed meanwhile.
        if await self._unreducing(task, target, is_last=True):
            return Reply(withheld=Withheld.NOTHING_LEFT, failure=HALTED)
        failure = failure or self._held_at_the_last(task, target, closes_ns, reduces=reduces)
        if failure:
            return Reply(withheld=Withheld.NOTHING_LEFT, failure=failure)

        def may_leave() -> bool:
            return not self._is_stopped(task, target, reduces=reduces)

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

    async def _beyond_its_job(self, task: OrderTask) -> str:
        """Return why its job forbids an order: it has stopped, or would be more than asked (I13).

        Counted from the journal with this intent in it: of two that together would be too much the
        one whose intent was committed last sees both, whoever sends them.
        """
        if task.job_id is None or task.kind is not TaskKind.PLACE:
            return ""
        try:
            job = await self._journal.task(task.job_id)
            children = await self._journal.children_of([task.job_id])
        except JournalUnavailable:
            return NOT_COUNTED
        if job is not None and job.state is not TaskState.RUNNING:
            return JOB_STOPPED
        if job is not None and job.kind is TaskKind.EXIT:
            return ""  # what it may send follows from the position
        beyond = "no such job" if job is None else excess(job, children)
        if not beyond:
            return ""
        log.error("more_than_asked", account=task.account, task_id=str(task.task_id), beyond=beyond)
        self.halts.begin(HaltCode.MORE_THAN_ASKED, f"{task.client_order_id}: {beyond}")
        return MORE_THAN_ASKED

    def _held_at_the_last(
        self, task: OrderTask, target: OrderTask | None, closes_ns: int, *, reduces: bool
    ) -> str:
        """Return why a committed intent must not leave after all, empty if it may."""
        if not self._journal.is_writer(task.account):
            # The lock's session is gone: another process may write this account by now (I6).
            return WINDOW_CLOSED
        now = Moment.of(self._clock)
        if now.now_ns >= (task.send_not_after_ns or 0) or now.monotonic_ns >= closes_ns:
            # A stall between the commit and here: whoever looks at the book must be able to rely
            # on nothing leaving after this instant (I6), also when the wall clock was set back.
            return WINDOW_CLOSED
        return HALTED if self._is_stopped(task, target, reduces=reduces) else ""

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

    async def _record_outcome(self, task: OrderTask, verdict: Verdict, reply: Reply) -> OrderTask:
        """Record what became of the send, however long the journal takes (I3, I5).

        The broker's own update may have come first; then what it told stands, and the answer adds
        nothing to it. What we said of the order meanwhile does not stand against the broker's yes.
        """
        update = _update_of(verdict, reply, task)
        attempt = 0
        while True:
            try:
                recorded = await self._recorded(task, update)
            except TaskMoved:
                present = await self._read_when_possible(task)
                # If it has not moved, a newer writer has the account, and what became of this send
                # is that writer's to find out (I6).
                if present.version == task.version or not _still_says(update, present):
                    _notice_unrecorded(verdict, present)
                    return present
                task, update = present, _update_of(verdict, reply, present)
            except JournalUnavailable as error:
                if not attempt:
                    log.warning("outcome_not_recorded", task_id=str(task.task_id), error=str(error))
                if self._gives_up():
                    log.warning(
                        "outcome_left_to_recovery",
                        task_id=str(task.task_id),
                        order_id=verdict.order_id,
                    )
                    raise
                await asyncio.sleep(JOURNAL_RETRY.delay_s(attempt, self._chance))
                attempt += 1
            else:
                _notice_late(task, recorded)
                return recorded

    async def _recorded(self, task: OrderTask, update: TaskUpdate) -> OrderTask:
        """Record a step; one that says that margin lacks may let the order go on elsewhere."""
        if update.reason_code == MARGIN and task.state is TaskState.SENDING and self.on_margin:
            left = await self.on_margin(task, update)
            if left is not None:
                return left
        return await self._journal.record(task, update, now_ns=self._clock.now_ns())

    async def _read_when_possible(self, task: OrderTask) -> OrderTask:
        attempt = 0
        while True:
            try:
                present = await self._journal.task(task.task_id)
            except JournalUnavailable:
                if self._gives_up():
                    raise
                await asyncio.sleep(JOURNAL_RETRY.delay_s(attempt, self._chance))
                attempt += 1
            else:
                if present is None:
                    raise TaskMoved(f"task_id={task.task_id} is not in the journal")
                return present

    def _gives_up(self) -> bool:
        return self._gives_up_ns is not None and self._clock.monotonic_ns() >= self._gives_up_ns

    async def _end_unsent(
        self, task: OrderTask, state: TaskState, code: str, reason: str
    ) -> OrderTask:
        update = TaskUpdate(state=state, event=state.value.lower(), reason_code=code, reason=reason)
        return await self._journal.record(task, update, now_ns=self._clock.now_ns())

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


def _free(_: Mapping[str, str]) -> str:
    return ""


def _nothing() -> None:
    return


async def _unknown(_: OrderTask, __: OrderTask | None) -> str:
    return "the positions are not known"


def _still_says(update: TaskUpdate, present: OrderTask) -> bool:
    """Return whether the outcome of a send tells more than what its task has come to meanwhile."""
    if present.state in AT_BROKER or update.state not in TRANSITIONS[present.state]:
        return False
    if update.state is TaskState.ACKED and update.broker_order_id:
        # The broker has it, whatever was proven by books that lacked it. A change that later books
        # show without effect has none, although the broker said yes to it.
        return present.kind is TaskKind.PLACE or present.state not in TERMINAL
    if update.state in {TaskState.UNKNOWN, TaskState.ACKED}:
        return present.state not in {TaskState.UNKNOWN, *TERMINAL}
    return update.state is not TaskState.READY


def _notice_unrecorded(verdict: Verdict, present: OrderTask) -> None:
    """Say loudly that an order at the broker is not the one its task has in the journal."""
    is_placed = present.kind is TaskKind.PLACE and bool(verdict.order_id)
    if is_placed and present.broker_order_id != verdict.order_id:
        log.error(
            "order_id_not_recorded",
            account=present.account,
            task_id=str(present.task_id),
            order_id=verdict.order_id,
            journal_has=present.broker_order_id,
            state=present.state,
        )


def _notice_late(was: OrderTask, now: OrderTask) -> None:
    """Say loudly that what was called ended is at the broker (I7)."""
    if was.state in TERMINAL:
        log.error(
            "late_fact_wins",
            account=now.account,
            task_id=str(now.task_id),
            order_id=now.broker_order_id,
            was=was.state,
            now=now.state,
        )


def _health_of(verdict: Verdict, reply: Reply) -> Health:
    """Return what an outcome says about the broker's health, which is not whether it said yes."""
    if verdict.outcome is Outcome.AMBIGUOUS:
        return Health.AMBIGUOUS
    if verdict.outcome is Outcome.NOT_SENT:
        return Health.NEITHER if reply.failure in OURS else Health.FAILURE
    return Health.SUCCESS


def _update_of(verdict: Verdict, reply: Reply, task: OrderTask) -> TaskUpdate:
    state = classify.STATE_AFTER[verdict.outcome]
    # An order that is acknowledged has no fault; that of an earlier try goes with it.
    cleared = "" if task.reason_code else None
    return TaskUpdate(
        state=state,
        event=f"send_{verdict.outcome.lower()}",
        broker_order_id=verdict.order_id or None,
        reason_code=cleared if state is TaskState.ACKED else verdict.code,
        reason=cleared if state is TaskState.ACKED else verdict.message,
        outcome=verdict.outcome,
        http_status=reply.http_status,
    )
