"""What may leave now: asked before an intent is committed, and again right before the first byte.

Path: order -> admit -> journal -> [execute] -> settle -> report. Halts, kill switches, the start,
the risk limits' bans, the sum of a job and the account's lock; what holds an order back here leaves
it in the journal (I6, I12, I13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.accounts.kill_switches import symbol_of
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.job import excess
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import (
    BrokerUnavailable,
    JournalError,
    JournalUnavailable,
    LoginRequired,
)
from ticker_service.runtime.clock import Moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ticker_service.accounts.halts import Halts
    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.domain.order import OrderTask
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

WINDOW_CLOSED: Final = "send window closed"
MORE_THAN_ASKED: Final = "the orders of its job would be more than was asked"
JOB_STOPPED: Final = "its job was stopped meanwhile"
NOT_COUNTED: Final = "the orders of its job could not be counted"
HALTED: Final = "the account was halted, or a kill switch thrown, meanwhile"


class Holds:
    """What holds the orders of one account back."""

    def __init__(
        self, journal: OrderJournal, halts: Halts, switches: KillSwitches, clock: Clock
    ) -> None:
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
        self.halts = halts
        self.switches = switches
        self._journal = journal
        self._clock = clock

    def is_stopped(self, task: OrderTask, target: OrderTask | None, *, reduces: bool) -> bool:
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

    async def unreducing(
        self, task: OrderTask, target: OrderTask | None, *, is_last: bool = False
    ) -> str:
        """Return why an order is held back that may leave only if it reduces a position.

        While a switch or a ban lets nothing else through, and of an exit always. What cannot be
        told is held back.
        """
        if task.kind is TaskKind.CANCEL:
            return ""
        try:
            if not self.must_reduce(task, target) and not await self.is_of_an_exit(task):
                return ""
        except JournalError as error:
            return f"whether it reduces one is not known: {error}"
        return await self.why_not(task, target, is_last=is_last)

    def must_reduce(self, task: OrderTask, target: OrderTask | None) -> bool:
        """Return whether a switch or a ban lets nothing through but what reduces a position."""
        body = (target or task).body
        switch = self.switches.reduce_only(task.account, symbol_of(body), task.kind)
        return switch is not None or bool(self.held_by_risk(body))

    async def is_of_an_exit(self, task: OrderTask) -> bool:
        """Return whether a task is part of an exit, which does nothing but reduce a position."""
        job = await self._journal.task(task.job_id) if task.job_id else None
        return job is not None and job.kind is TaskKind.EXIT

    async def why_not(
        self, task: OrderTask, target: OrderTask | None, *, is_last: bool = False
    ) -> str:
        """Return why something does not strictly reduce a position, empty if it does."""
        ask = self.why_not_reducing_now if is_last else self.why_not_reducing
        try:
            return await ask(task, target)
        except (BrokerUnavailable, LoginRequired, JournalError) as error:
            return f"whether it reduces one is not known: {error}"

    async def beyond_its_job(self, task: OrderTask) -> str:
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

    def held_at_the_last(
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
        return HALTED if self.is_stopped(task, target, reduces=reduces) else ""


def _free(_: Mapping[str, str]) -> str:
    return ""


async def _unknown(_: OrderTask, __: OrderTask | None) -> str:
    return "the positions are not known"
