"""The kill switches that hold here: this machine's file, and what the journal had when last asked.

The file makes a switch hold with every server down, and from the next send on; the journal takes
it to whichever machine runs the account next. Either is enough to stop, and it takes both to go on
(I12). Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.kill_switch import (
    NO_GROUPS,
    KillLevel,
    KillScope,
    ScopeKind,
    strictest,
)
from ticker_service.domain.order import TaskKind
from ticker_service.errors import ConfigurationError, JournalError, OrderRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from uuid import UUID

    from ticker_service.domain.kill_switch import KillSwitch
    from ticker_service.ports import KillStore, OrderJournal

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""A switch that was thrown on another machine is noticed within this, while the journal answers."""


class KillSwitches:
    """What people have stopped."""

    def __init__(
        self,
        store: KillStore,
        *,
        groups: Mapping[str, Collection[str]] = NO_GROUPS,
        on_change: Callable[[KillSwitch, bool], None] | None = None,
    ) -> None:
        """Begin with what the store has.

        Args:
            store: This machine's file.
            groups: The accounts of each group; a switch on any other group stops every account.
            on_change: Told of each switch, with True when it is first seen to stand and False when
                it was released.
        """
        self._store = store
        self._groups = groups
        self._on_change = on_change
        self._in_journal: dict[UUID, KillSwitch] = {}
        self._unsaved: dict[UUID, KillSwitch] = {}
        self._told: dict[UUID, KillSwitch] = {}
        self._stood = frozenset(each.switch_id for each in store.standing())
        """Thrown before this began, so no news."""
        self._settling = asyncio.Lock()
        """An answer of the journal must not be overtaken by an older one."""

    def standing(self) -> tuple[KillSwitch, ...]:
        """Return every switch that holds, oldest first; looks at the file."""
        found = self._unsaved | self._in_journal
        found |= {each.switch_id: each for each in self._store.standing()}
        return tuple(sorted(found.values(), key=lambda each: each.since_ns))

    def holding(self, account: str, symbol: str = "") -> KillSwitch | None:
        """Return what stops an order, None if nothing does; without a symbol, what stops all."""
        return strictest(self.standing(), account, symbol, self._groups)

    def concerning(self, accounts: Collection[str]) -> list[KillSwitch]:
        """Return the switches that may stop an order of some accounts, oldest first."""
        return [
            each
            for each in self.standing()
            if any(each.scope.concerns(account, self._groups) for account in accounts)
        ]

    def cancels(self, account: str) -> list[KillScope]:
        """Return the scopes on an account in which whatever is open is to be cancelled.

        A group's is the account's own. One that is not known here cancels nothing: to stop what was
        not meant can be undone, to cancel it cannot.
        """
        found = []
        for each in self.concerning([account]):
            if each.level is not KillLevel.CANCEL_ALL:
                continue
            if each.scope.kind is not ScopeKind.GROUP:
                found.append(each.scope)
            elif each.scope.name in self._groups:
                found.append(KillScope(ScopeKind.ACCOUNT, account))
        return found

    def refusal(self, account: str, symbol: str) -> OrderRefused | None:
        """Return what a new order or change is told, None if it may leave or may if it reduces."""
        switch = self.holding(account, symbol)
        if switch is None or not switch.stops(TaskKind.PLACE, reduces=True):
            return None
        return refusal_of(switch, account)

    def reduce_only(self, account: str, symbol: str, kind: TaskKind) -> KillSwitch | None:
        """Return the switch that lets nothing of a kind through but what reduces, None if none."""
        switch = self.holding(account, symbol)
        if switch is None or switch.stops(kind, reduces=True):
            return None
        return switch if switch.stops(kind, reduces=False) else None

    async def throw(self, switch: KillSwitch) -> bool:
        """Stop from now on; return whether that is on disk.

        It holds from the first line on, also where the disk refuses it: then in memory, and in the
        journal as soon as that answers.
        """
        self._unsaved[switch.switch_id] = switch
        self._tell()
        try:
            await asyncio.to_thread(self._store.throw, switch)
        except ConfigurationError as error:
            log.warning("kill_switch_not_on_disk", switch=str(switch), error=str(error))
            return False
        return True

    async def release(
        self, scope: KillScope, journal: OrderJournal, *, by_whom: str, now_ns: int
    ) -> list[KillSwitch]:
        """Release every switch of a scope, in the journal and on disk, and return them.

        Raises:
            JournalUnavailable: Nothing is released.
            ConfigurationError: The journal's are, those on disk are not, and hold.
        """
        for switch in self.standing():
            if switch.scope == scope and switch.is_a_persons:
                # Or it could be taken from the file into the journal in between, and stand there.
                await journal.keep_kill_switch(switch)
        found = await journal.release_kill_switches(scope, by_whom=by_whom, now_ns=now_ns)
        found += await asyncio.to_thread(self._store.release, scope, by_whom=by_whom, now_ns=now_ns)
        in_memory = [each for each in self._unsaved.values() if each.scope == scope]
        released = {each.switch_id: each for each in [*in_memory, *found]}
        for switch_id in released:
            self._unsaved.pop(switch_id, None)
            self._in_journal.pop(switch_id, None)
        self._tell()
        return sorted(released.values(), key=lambda each: each.since_ns)

    async def settle(self, journal: OrderJournal) -> None:
        """Give the journal what it lacks and take what it has.

        Raises:
            JournalUnavailable: Try again; what stands, stands.
        """
        async with self._settling:
            await self._settle(journal)

    async def _settle(self, journal: OrderJournal) -> None:
        self._tell()
        # What is thrown from here on is the next time's to give.
        before = set(self._unsaved)
        for switch in self.standing():
            if switch.switch_id not in self._in_journal and switch.is_a_persons:
                await journal.keep_kill_switch(switch)
        found = await journal.kill_switches()
        self._in_journal = {each.switch_id: each for each in found if each.stands}
        for switch_id in before:
            # It is the journal's to hold now, or to have released.
            self._unsaved.pop(switch_id, None)
        self._tell()

    async def keep(self, journal: OrderJournal) -> None:
        """Settle again and again until cancelled."""
        is_told = False
        while True:
            try:
                await self.settle(journal)
                is_told = False
            except JournalError as error:
                if not is_told:
                    log.warning("kill_switches_not_settled", error=str(error))
                is_told = True
            await asyncio.sleep(LOOK_S)

    def _tell(self) -> None:
        now = {each.switch_id: each for each in self.standing()}
        for switch_id, switch in now.items():
            if switch_id not in self._told:
                self._say(switch, stands=True)
        for switch_id, switch in self._told.items():
            if switch_id not in now:
                self._say(switch, stands=False)
        self._told = now

    def _say(self, switch: KillSwitch, *, stands: bool) -> None:
        thrown = "kill_switch_stands" if switch.switch_id in self._stood else "kill_switch_thrown"
        log.warning(
            thrown if stands else "kill_switch_released",
            scope=str(switch.scope),
            kill_level=switch.level,
            why=switch.why,
            by_whom=switch.by_whom,
        )
        if self._on_change is not None:
            self._on_change(switch, stands)


def refusal_of(switch: KillSwitch, account: str, why: str = "") -> OrderRefused:
    """Return what somebody is told whom a switch stops."""
    rule = f"stopped by a kill switch: {switch}; `ticker-service kill off` releases it"
    if why:
        rule += f"; it lets nothing through but what reduces a position: {why}"
    return OrderRefused("KILL_SWITCH", rule, field="account", value=account)


def symbol_of(body: Mapping[str, str]) -> str:
    """Return ``EXCHANGE:TRADINGSYMBOL`` of a PLACE's body, empty for any other's.

    As the exchanges write it: what the broker would make of another spelling is not for us to try.
    """
    if "tradingsymbol" not in body:
        return ""
    return f"{body['exchange']}:{body['tradingsymbol'].strip().upper()}"
