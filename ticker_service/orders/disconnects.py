"""Cancel the working orders of callers that were lost, for those who asked for it.

Beside the path of an order. A caller names a session on its socket; orders that it places from then
on carry the session in the journal, with how long it may be gone. When the last socket of a session
has been gone for so long, what is open of it is cancelled by instructions of the journal in the
caller's name, again and again until nothing is. Nothing but the journal says which orders these
are, so a daemon that died, or another that took the account over, does it as well: what it finds
open of a session nobody has taken up counts as lost from then on.

Stops stay, and orders that do nothing but close a position: who is lost needs them most. Source:
reliability.md §6; the broker has nothing of the kind.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import OrderType, TaskKind, Variety
from ticker_service.errors import (
    BrokerUnavailable,
    JournalUnavailable,
    LoginRequired,
    OrderRefused,
)
from ticker_service.orders.standing import DeskState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Awaitable, Callable, Mapping

    from ticker_service.domain.order import Account, OrderTask
    from ticker_service.orders.access import Caller
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

SESSION: Final = "session"
"""The fact of an order that names the session it was placed in."""
AFTER_S: Final = "cancel_after_s"
AFTER_S_MAX: Final = 300
SESSIONS_MAX: Final = 1_000
LOOK_S: Final = 1.0
ASK_AGAIN_S: Final = 15.0
"""What is still open so long after its cancel is cancelled again."""
TRIES_MAX: Final = 40
"""So many cancels of one order without effect are a person's business."""
_STOPS: Final = frozenset({OrderType.SL, OrderType.SL_M})

Name = tuple[str, str]
"""A principal and the name of its session."""


@dataclass(slots=True)
class _Asked:
    """How often an order's cancel was asked for, and when last, monotonic ns."""

    times: int = 0
    at_ns: int = 0


@dataclass(slots=True)
class _Session:
    after_s: int
    sockets: int = 0
    lost_ns: int | None = None
    """Since when the last socket is gone, monotonic ns; None while there is one."""
    asked: dict[uuid.UUID, _Asked] = field(default_factory=dict)

    def is_over(self, now_ns: int) -> bool:
        return self.lost_ns is not None and now_ns - self.lost_ns >= self.after_s * NS_PER_S


class Disconnects:
    """The sessions of this process; belongs to one event loop."""

    def __init__(
        self,
        desks: Mapping[Account, AccountDesk],
        journal: OrderJournal,
        clock: Clock,
        cancel: Callable[[OrderTask, str], Awaitable[object]],
    ) -> None:
        """Take the parts.

        Args:
            desks: By account; those that are open here are looked after.
            journal: Which orders are open, and of which session.
            clock: Tells how long a session has been gone.
            cancel: Asks for an order's cancel under a key, in the name of its principal.
        """
        self._desks = desks
        self._journal = journal
        self._clock = clock
        self._cancel = cancel
        self._sessions: dict[Name, _Session] = {}
        self._open: set[Account] = set()
        """Accounts whose orders of earlier runs have been looked through."""

    def take_up(self, caller: Caller, name: str, after_s: int) -> dict[str, object]:
        """Know that a socket has a session; return what its orders carry from now on.

        Whoever comes back under a name before its time is over keeps its orders.

        Raises:
            OrderRefused: There are too many.
        """
        key = (caller.principal, name)
        if key not in self._sessions and len(self._sessions) >= SESSIONS_MAX:
            raise OrderRefused("TOO_MANY_SESSIONS", f"at most {SESSIONS_MAX} at a time")
        session = self._sessions.setdefault(key, _Session(after_s))
        session.after_s = after_s
        session.sockets += 1
        session.lost_ns = None
        return {SESSION: name, AFTER_S: after_s}

    def lose(self, caller: Caller, name: str) -> None:
        """Know that one socket of a session is gone, for whatever reason."""
        session = self._sessions[caller.principal, name]
        session.sockets -= 1
        if not session.sockets:
            session.lost_ns = self._clock.monotonic_ns()

    def standing(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self._find_lost()
                await self._cancel_overdue()
            except JournalUnavailable as error:
                log.warning("disconnects_wait_for_journal", error=str(error))
            await asyncio.sleep(LOOK_S)

    async def _find_lost(self) -> None:
        """Know the sessions of earlier runs by what is open of them."""
        is_open = {name for name, desk in self._desks.items() if desk.state is DeskState.OPEN}
        # One that was not ours for a while may have orders placed through another daemon.
        is_away = {DeskState.STANDBY, DeskState.STARTING}
        self._open -= {name for name in self._open if self._desks[name].state in is_away}
        for account in is_open - self._open:
            for task in await self._open_orders(account):
                key, facts = _name_of(task), task.facts or {}
                if key is not None and key not in self._sessions:
                    lost = _Session(_after_s(facts), lost_ns=self._clock.monotonic_ns())
                    self._sessions[key] = lost
                    log.warning("session_found_lost", principal=key[0], session=key[1])
            self._open.add(account)

    async def _cancel_overdue(self) -> None:
        """Cancel what is open of the sessions whose time is over, and forget those that are done.

        One is done when nothing of it is open where this daemon may look; a session of an account
        that another daemon writes is that one's to end.
        """
        now_ns = self._clock.monotonic_ns()
        overdue = {key for key, each in self._sessions.items() if each.is_over(now_ns)}
        if not overdue:
            return
        left: set[Name] = set()
        for account, desk in self._desks.items():
            if not self._journal.is_writer(account):
                continue
            for task in await self._open_orders(account):
                key = _name_of(task)
                if key in overdue and await self._is_cancelled(desk, task, self._sessions[key]):
                    left.add(key)
        for key in overdue - left:
            if self._sessions[key].is_over(now_ns):
                del self._sessions[key]

    async def _is_cancelled(self, desk: AccountDesk, task: OrderTask, session: _Session) -> bool:
        """Ask for an order's cancel if it is to go and its turn has come; return if it is to go."""
        if await _stays(desk, task):
            return False
        now_ns = self._clock.monotonic_ns()
        asked = session.asked.setdefault(task.task_id, _Asked())
        if asked.times and now_ns - asked.at_ns < ASK_AGAIN_S * NS_PER_S:
            return True
        if asked.times >= TRIES_MAX:
            return False
        if session.lost_ns is None:
            return True  # it came back while others were asked for
        # The same key after a restart is the same cancel; the next one has another number.
        key = f"lost:{task.task_id}:{asked.times + 1}"
        try:
            await self._cancel(task, key)
        except OrderRefused as refusal:
            log.warning("lost_order_not_cancelled", order=task.client_order_id, error=str(refusal))
            return True
        asked.times, asked.at_ns = asked.times + 1, now_ns
        event = "lost_order_cancelled" if asked.times < TRIES_MAX else "lost_order_given_up"
        log.warning(
            event,
            account=task.account,
            task_id=str(task.task_id),
            session=(task.facts or {}).get(SESSION),
        )
        return True

    async def _open_orders(self, account: Account) -> list[OrderTask]:
        """Return an account's orders that have not ended, sent or not."""
        found = await self._journal.unsent(account)
        found += await self._journal.in_doubt(account)
        found += await self._journal.live_orders(account)
        return [task for task in found if task.kind is TaskKind.PLACE]


def _name_of(task: OrderTask) -> Name | None:
    session = (task.facts or {}).get(SESSION)
    return None if session is None else (task.principal, str(session))


def _after_s(facts: Mapping[str, object]) -> int:
    after_s = facts.get(AFTER_S)
    return after_s if isinstance(after_s, int) else AFTER_S_MAX


async def _stays(desk: AccountDesk, task: OrderTask) -> bool:
    """Return whether an order outlives its caller: a stop, or one that only closes a position.

    Where that cannot be said it is held for one that does not.
    """
    is_stop = task.body.get("order_type") in _STOPS or task.body.get("variety") == Variety.CO
    if is_stop:
        return True
    try:
        return not await desk.positions.not_reducing(task)
    except (BrokerUnavailable, LoginRequired):
        return False
