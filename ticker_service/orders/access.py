"""Who asks, and what of the order half is theirs: accounts, and groups of them (I14).

Path: order -> [admit] -> journal -> execute -> settle -> report. The doors say who asks; every
request finds its account here, and who may not use one need not know that it exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ticker_service.domain.kill_switch import ScopeKind
from ticker_service.domain.order import Account
from ticker_service.errors import OrderRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.orders.desk import AccountDesk


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and which accounts they may use."""

    principal: str
    accounts: frozenset[str] | Literal["all"]

    def may_use(self, account: str) -> bool:
        """Return whether the caller may use an account."""
        return self.accounts == "all" or account in self.accounts


class Access:
    """The accounts and groups of this process, as callers may use them."""

    def __init__(
        self, desks: Mapping[Account, AccountDesk], groups: Mapping[str, AccountGroup]
    ) -> None:
        self._desks = desks
        self._groups = groups

    def desk(self, caller: Caller, account: str) -> AccountDesk:
        """Return the desk of an account.

        Raises:
            OrderRefused: It is none of the caller's.
        """
        desk = self._desks.get(Account(account))
        if desk is None or not caller.may_use(account):
            # The same answer for both: who may not use an account need not know it exists (I14).
            raise OrderRefused(
                "UNKNOWN_ACCOUNT", "must be an account of yours", field="account", value=account
            )
        return desk

    def desks_of(self, caller: Caller, account: str | None) -> list[AccountDesk]:
        """Return the desk of one account, or of all that the caller may use.

        Raises:
            OrderRefused: The account is none of the caller's.
        """
        if account is not None:
            return [self.desk(caller, account)]
        return [desk for name, desk in self._desks.items() if caller.may_use(name)]

    def accounts_of(self, caller: Caller, account: str) -> list[Account]:
        """Return one account of a caller's, or all of them for ``all``.

        Raises:
            OrderRefused: It is none.
        """
        if account != ScopeKind.ALL.value:
            return [self.desk(caller, account).account]
        return [name for name in self._desks if caller.may_use(name)]

    def group(self, caller: Caller, name: str) -> AccountGroup:
        """Return a group.

        Raises:
            OrderRefused: There is none of that name whose accounts are all the caller's.
        """
        group = self._groups.get(name)
        # Wherever the order is now, it may go on on any of them.
        if group is None or not all(map(caller.may_use, group.members)):
            raise OrderRefused(
                "UNKNOWN_GROUP",
                "must be a group of accounts that are all yours",
                field="group",
                value=name,
            )
        return group
