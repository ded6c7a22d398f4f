"""Stop an account that has lost what its limits allow, until a person lets it go on.

Beside the path of an order. The day's result is the broker's own: realised, and open positions
marked to the last price when they were asked for. A limit that is reached is thrown as a kill
switch of the account: it survives restarts, holds up to the first byte, and a person releases it.
What a person released does not come back on the same day, nor does a milder level. The day's best
is in the journal before anything is judged by it, so that who takes over goes on with it.
"""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch, ScopeKind
from ticker_service.domain.risk import LatchLevel
from ticker_service.domain.risk_input import DayResult, Unusable, finite
from ticker_service.domain.risk_rules import loss_reached, watches_loss
from ticker_service.domain.session import ist_date
from ticker_service.errors import (
    BrokerUnavailable,
    ConfigurationError,
    JournalUnavailable,
    LoginRequired,
)

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping

    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.domain.order import Account
    from ticker_service.domain.risk import RiskLimits
    from ticker_service.orders.positions import Positions
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

BY_WHOM: Final = "risk gate"
LOOK_S_IDLE: Final = 5.0
"""So soon limits that were set are noticed."""
_KILLS: Final = {
    LatchLevel.BLOCK_NEW: KillLevel.BLOCK_NEW,
    LatchLevel.REDUCE_ONLY: KillLevel.REDUCE_ONLY,
    LatchLevel.HALT: KillLevel.CANCEL_ALL,
}
_LEVELS: Final = {
    **{kill: level for level, kill in _KILLS.items()},
    KillLevel.HALT_NEW: LatchLevel.HALT,
}
"""What each switch was thrown for."""


async def lift_losses(
    switches: KillSwitches, journal: OrderJournal, account: Account, *, by_whom: str, now_ns: int
) -> list[KillSwitch]:
    """Release what losses have thrown on an account and return it.

    Raises:
        ConfigurationError: A person's switch of the account stands as well: it is for `kill off`.
        JournalUnavailable: Nothing is released.
    """
    scope = KillScope(ScopeKind.ACCOUNT, account)
    known = {each.switch_id: each for each in await journal.kill_switches()}
    known |= {each.switch_id: each for each in switches.standing()}
    held = [each for each in known.values() if each.stands and each.scope == scope]
    others = [each for each in held if each.by_whom != BY_WHOM]
    if others:
        raise ConfigurationError(
            f"account={account}: {others[0]} stands as well; `ticker-service kill off {scope}` "
            "releases both"
        )
    if not held:
        return []
    return await switches.release(scope, journal, by_whom=by_whom, now_ns=now_ns)


class LossWatch:
    """One account's; belongs to one event loop."""

    def __init__(  # noqa: PLR0913 - the parts of one watch
        self,
        account: Account,
        limits: Callable[[], RiskLimits],
        positions: Positions,
        switches: KillSwitches,
        journal: OrderJournal,
        clock: Clock,
        *,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        """Begin with nothing seen.

        Args:
            account: Whose.
            limits: Those in force.
            positions: What is held and what it has brought.
            switches: Where a limit that is reached is thrown.
            journal: Knows what was thrown and released before.
            clock: Time.
            new_id: Makes the ids of switches.
        """
        self._account = account
        self._limits = limits
        self._positions = positions
        self._switches = switches
        self._journal = journal
        self._clock = clock
        self._new_id = new_id
        self._seen: tuple[int, Decimal] | None = None
        self._best = self._kept = Decimal(0)
        """The day's best, and what the journal has of it."""
        self._date: dt.date | None = None
        self._thrown: dict[LatchLevel, uuid.UUID] | None = None
        """The switch that each level threw today; None until the journal has told."""

    def forget(self) -> None:
        """Know nothing more: the account may have been another daemon's meanwhile."""
        self._seen = self._thrown = None

    def day(self) -> DayResult | None:
        """Return what the day has brought as it was last seen, None if it was not."""
        if self._seen is None or self._thrown is None:
            return None
        at_ns, result = self._seen
        return DayResult(
            at_ns=at_ns, result_inr=result, best_inr=self._best, lifted=self._lifted(self._thrown)
        )

    async def run(self) -> None:
        """Look again and again while a loss is limited, until cancelled."""
        while True:
            limits = self._limits()
            if not watches_loss(limits):
                self._seen = None
                await asyncio.sleep(LOOK_S_IDLE)
                continue
            try:
                await self.look()
            except (BrokerUnavailable, LoginRequired, JournalUnavailable, Unusable) as error:
                # What was seen grows old, and then orders are denied.
                log.warning("risk_result_not_read", account=self._account, error=str(error))
            await asyncio.sleep(float(limits.positions_age_s_max) / 2)

    async def look(self) -> None:
        """Read the day's result once and throw what it reaches.

        Raises:
            BrokerUnavailable: It could not be read.
            LoginRequired: The access token was refused.
            JournalUnavailable: The journal does not answer.
            Unusable: The broker tells no result of a position.
        """
        at_ns = self._clock.now_ns()
        today = ist_date(at_ns)
        if today != self._date or self._thrown is None:
            await self._remember(today)
        reading = await self._positions.read()
        result = Decimal(0)
        for position in reading.positions:
            if position.day_result_inr is None:
                raise Unusable("days_result", f"is not told of {':'.join(position.key)}")
            result += finite("days_result", position.day_result_inr)
        self._best = max(self._best, result)
        # Thrown before the journal is asked for anything: a switch holds without it.
        await self._throw_what_is_reached(at_ns, result)
        if self._best > self._kept:
            best = self._best
            await self._journal.keep_day_best(self._account, today, best)
            self._kept = best
        self._seen = at_ns, result

    async def _remember(self, today: dt.date) -> None:
        """Take what the journal has of a day, by whichever daemon it was seen."""
        self.forget()
        best = await self._journal.day_best(self._account, today)
        self._thrown = await self._thrown_on(today)
        self._date, self._best, self._kept = today, best, best

    def _lifted(self, thrown: Mapping[LatchLevel, uuid.UUID]) -> frozenset[LatchLevel]:
        standing = {each.switch_id for each in self._switches.standing()}
        levels = list(LatchLevel)
        # Who lets an account go on at a level lets it go on at the milder ones.
        gone = [levels.index(level) for level, each in thrown.items() if each not in standing]
        return frozenset(levels[: max(gone, default=-1) + 1])

    async def _throw_what_is_reached(self, at_ns: int, result: Decimal) -> None:
        thrown, limits = self._thrown or {}, self._limits()
        now = DayResult(
            at_ns=at_ns, result_inr=result, best_inr=self._best, lifted=self._lifted(thrown)
        )
        reached = loss_reached(limits, now)
        if reached is None or reached.level in thrown:
            return
        kill = _KILLS[reached.level]
        if kill is KillLevel.CANCEL_ALL and not limits.halt_cancels:
            kill = KillLevel.HALT_NEW
        switch = KillSwitch(
            switch_id=self._new_id(),
            scope=KillScope(ScopeKind.ACCOUNT, self._account),
            level=kill,
            why=reached.told,
            by_whom=BY_WHOM,
            since_ns=at_ns,
        )
        self._thrown = {**thrown, reached.level: switch.switch_id}
        log.error("risk_loss_reached", account=self._account, why=reached.told, **reached.numbers)
        await self._switches.throw(switch)

    async def _thrown_on(self, today: dt.date) -> dict[LatchLevel, uuid.UUID]:
        found = [*await self._journal.kill_switches(), *self._switches.standing()]
        return {
            _LEVELS[each.level]: each.switch_id
            for each in found
            if each.by_whom == BY_WHOM
            and each.scope == KillScope(ScopeKind.ACCOUNT, self._account)
            and each.level in _LEVELS
            and ist_date(each.since_ns) == today
        }
