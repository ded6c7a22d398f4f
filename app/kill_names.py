"""Whether there is what a kill switch is to stop: a slip of the pen would stop nothing.

Settings and a running daemon tell the accounts and groups; a person in need may have neither, and
the switch is thrown all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticker_service.domain.kill_switch import ScopeKind
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ticker_service.domain.contracts import Contracts
    from ticker_service.domain.kill_switch import KillScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What accounts and groups there are; without an account, nothing is known."""

    accounts: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def __or__(self, other: Names) -> Names:
        """Return those of both."""
        return Names(accounts=self.accounts | other.accounts, groups=self.groups | other.groups)

    def has(self, scope: KillScope) -> bool:
        """Return whether a scope is one of these, or of no account or group."""
        match scope.kind:
            case ScopeKind.ACCOUNT:
                return scope.name in self.accounts
            case ScopeKind.GROUP:
                return scope.name in self.groups
            case _:
                return True


@dataclass(frozen=True, slots=True, kw_only=True)
class NamesHere:
    """What the daemon knows of names that a switch may be thrown on."""

    accounts: Collection[str]
    groups: Collection[str]
    contracts: Callable[[], Contracts | None]

    def told(self, scope: KillScope) -> dict[str, Any]:
        """Return them; ``is_instrument`` is None where the scope is no symbol's or nobody knows."""
        contracts = self.contracts()
        is_instrument = None
        if scope.kind is ScopeKind.SYMBOL and contracts is not None:
            exchange, _, tradingsymbol = scope.name.partition(":")
            is_instrument = contracts.find(exchange, tradingsymbol) is not None
        return {
            "accounts": sorted(self.accounts),
            "groups": sorted(self.groups),
            "is_instrument": is_instrument,
        }


def doubt(scope: KillScope, known: Names) -> str:
    """Return what to say of a scope that cannot be checked, nothing where it is known.

    Raises:
        ConfigurationError: It is not known, and others are.
    """
    if known.has(scope):
        return ""
    if not known.accounts:
        return (
            f"NOT CHECKED whether there is {scope}: neither these settings nor a daemon tell the "
            "accounts; `kill on all` stops every one"
        )
    names = known.accounts if scope.kind is ScopeKind.ACCOUNT else known.groups
    raise ConfigurationError(
        f"scope={scope}: must be one of {', '.join(sorted(names)) or 'none'}; NOTHING IS STOPPED; "
        "`all` stops every account, --force throws this one for another machine"
    )
