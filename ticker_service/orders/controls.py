"""What stops callers, and what they stop: kill switches, and the risk limits in force.

Beside the path of an order: what is thrown here holds from then on wherever an order is taken or
sent (I12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch, ScopeKind
from ticker_service.errors import ConfigurationError, OrderRefused
from ticker_service.orders.loss_watch import BY_WHOM, lift_losses

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.orders.access import Access, Caller
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock


class Controls:
    """The controls of all accounts of this process, as callers may use them."""

    def __init__(
        self,
        access: Access,
        switches: KillSwitches,
        journal: OrderJournal,
        clock: Clock,
        *,
        new_id: Callable[[], uuid.UUID],
    ) -> None:
        self._access = access
        self._switches = switches
        self._journal = journal
        self._clock = clock
        self._new_id = new_id

    def kill_switches(self, caller: Caller) -> list[KillSwitch]:
        """Return the kill switches that stand and concern an account of the caller."""
        mine = [desk.account for desk in self._access.desks_of(caller, None)]
        return self._switches.concerning(mine)

    async def throw_kill_switch(
        self, caller: Caller, scope: KillScope, level: KillLevel, why: str
    ) -> tuple[KillSwitch, bool]:
        """Stop a scope from now on; return the switch and whether it is on disk.

        Raises:
            OrderRefused: The scope is not the caller's to stop.
        """
        self._check_scope(caller, scope)
        switch = KillSwitch(
            switch_id=self._new_id(),
            scope=scope,
            level=level,
            why=why,
            by_whom=caller.principal,
            since_ns=self._clock.now_ns(),
        )
        return switch, await self._switches.throw(switch)

    async def release_kill_switches(self, caller: Caller, scope: KillScope) -> list[KillSwitch]:
        """Release every switch of a scope and return them.

        Raises:
            OrderRefused: The scope is not the caller's to stop.
            JournalUnavailable: Nothing is released.
            ConfigurationError: The file cannot be written; what it holds stands.
        """
        self._check_scope(caller, scope, releases=True)
        return await self._switches.release(
            scope, self._journal, by_whom=caller.principal, now_ns=self._clock.now_ns()
        )

    async def close_to_new(self, caller: Caller, account: str, why: str) -> tuple[KillSwitch, bool]:
        """Let nothing but what reduces a position through, on one account or on ``all``.

        Returns and raises as :meth:`throw_kill_switch`.
        """
        kind = ScopeKind.ALL if account == ScopeKind.ALL.value else ScopeKind.ACCOUNT
        scope = KillScope(kind, "" if kind is ScopeKind.ALL else account)
        return await self.throw_kill_switch(caller, scope, KillLevel.REDUCE_ONLY, why or "flatten")

    def risk(self, caller: Caller, account: str | None = None) -> list[dict[str, object]]:
        """Return the risk limits in force and what of them is in use, of the caller's accounts."""
        standing = self._switches.standing()
        return [
            {
                **desk.risk.shown(),
                "latches": [
                    str(each)
                    for each in standing
                    if each.by_whom == BY_WHOM and each.scope.name == desk.account
                ],
            }
            for desk in self._access.desks_of(caller, account)
        ]

    async def lift_losses(self, caller: Caller, account: str) -> list[KillSwitch]:
        """Release what losses have stopped an account by, and return it.

        Raises:
            OrderRefused: The account is not the caller's, or a person's switch stands as well.
            JournalUnavailable: Nothing is released.
        """
        desk = self._access.desk(caller, account)
        try:
            return await lift_losses(
                self._switches,
                self._journal,
                desk.account,
                by_whom=caller.principal,
                now_ns=self._clock.now_ns(),
            )
        except ConfigurationError as error:
            raise OrderRefused("KILL_SWITCH", str(error), field="account", value=account) from error

    def _check_scope(self, caller: Caller, scope: KillScope, *, releases: bool = False) -> None:
        """Refuse a scope that reaches beyond the accounts of the caller, or means none.

        A switch on a group that is not known stops every account, so who has all may release it.
        """
        if scope.kind is ScopeKind.ACCOUNT:
            self._access.desk(caller, scope.name)
        elif scope.kind is ScopeKind.GROUP and not (releases and caller.accounts == "all"):
            self._access.group(caller, scope.name)
        elif caller.accounts != "all":
            raise OrderRefused(
                "FORBIDDEN",
                "must be account:NAME or group:NAME for a token that is not good for all accounts",
                field="scope",
                value=str(scope),
            )
