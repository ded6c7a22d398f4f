"""A word that nothing new may be sent, and where it holds. Pure.

People throw it, and the risk gate when an account has lost too much; people alone release it. It
holds until then, and whatever stands between an intent and its first byte asks for it last (I12).
Source: reliability.md §6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, assert_never

from ticker_service.constants import NS_PER_US
from ticker_service.domain.order import TaskKind
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping

WHY_CHARACTERS_MAX: Final = 500
NO_GROUPS: Final[Mapping[str, Collection[str]]] = MappingProxyType({})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SYMBOL: Final = re.compile(r"[A-Z]{2,8}:[A-Z0-9][A-Z0-9&._%*$ -]{0,63}")


class KillLevel(StrEnum):
    """How much a switch stops, the least first."""

    BLOCK_NEW = "BLOCK_NEW"
    """No order leaves that does not strictly reduce the broker's net position; changes do, and
    cancels."""
    REDUCE_ONLY = "REDUCE_ONLY"
    """What strictly reduces the broker's net position leaves, and cancels; nothing else does."""
    HALT_NEW = "HALT_NEW"
    """No new order and no change leaves; cancels do."""
    CANCEL_ALL = "CANCEL_ALL"
    """The same, and whatever is open at the broker is cancelled, by whomever it was placed."""


class ScopeKind(StrEnum):
    """What a switch is about."""

    ALL = "all"
    GROUP = "group"
    ACCOUNT = "account"
    SYMBOL = "symbol"


@dataclass(frozen=True, slots=True)
class KillScope:
    """Where a switch holds: everywhere, on a group's accounts, on one, or for one symbol on all.

    ``name`` is the group's, the account's, or ``EXCHANGE:TRADINGSYMBOL``; empty for everywhere.
    Groups are given as their accounts by name; one that is not among them holds everywhere: whose
    accounts were meant is not known here.
    """

    kind: ScopeKind
    name: str = ""

    def __str__(self) -> str:
        """Return how people write it: ``all``, ``account:MAIN``, ``symbol:NSE:INFY``."""
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)

    @classmethod
    def of(cls, text: str) -> KillScope:
        """Return what a text says.

        Raises:
            ConfigurationError: It says none.
        """
        kind, _, name = text.partition(":")
        rule = {
            ScopeKind.GROUP.value: _NAME,
            ScopeKind.ACCOUNT.value: _NAME,
            ScopeKind.SYMBOL.value: _SYMBOL,
        }.get(kind)
        if text == ScopeKind.ALL.value or (rule is not None and rule.fullmatch(name)):
            return cls(ScopeKind(kind), name)
        raise ConfigurationError(
            f"scope={text[:100]!r}: must be all, group:NAME, account:NAME or "
            "symbol:EXCHANGE:TRADINGSYMBOL"
        )

    def covers(
        self, account: str, symbol: str = "", groups: Mapping[str, Collection[str]] = NO_GROUPS
    ) -> bool:
        """Return whether an order is meant; without a symbol, whether every order of it is."""
        if self.kind is ScopeKind.SYMBOL:
            return self.name == symbol
        return self.concerns(account, groups)

    def concerns(self, account: str, groups: Mapping[str, Collection[str]] = NO_GROUPS) -> bool:
        """Return whether some order of an account may be meant."""
        if self.kind is ScopeKind.GROUP:
            return self.name not in groups or account in groups[self.name]
        return self.kind is not ScopeKind.ACCOUNT or self.name == account


@dataclass(frozen=True, slots=True, kw_only=True)
class KillSwitch:
    """One switch that was thrown; times are ns since the Unix epoch, 0 while it stands."""

    switch_id: uuid.UUID
    scope: KillScope
    level: KillLevel
    why: str
    by_whom: str
    since_ns: int
    released_ns: int = 0
    released_by: str = ""

    def __str__(self) -> str:
        """Return what it is, for people and for refusals."""
        return f"{self.level} on {self.scope} by {self.by_whom} ({self.why})"

    @property
    def stands(self) -> bool:
        """Return whether nobody has released it."""
        return not self.released_ns

    def stops(self, kind: TaskKind, *, reduces: bool) -> bool:
        """Return whether what it covers must not leave.

        Args:
            kind: What is to be sent; what a job sends is an order.
            reduces: Whether it does nothing but strictly reduce the broker's net position.
        """
        if kind is TaskKind.CANCEL:
            return False
        match self.level:
            case KillLevel.BLOCK_NEW:
                return kind is not TaskKind.MODIFY and not reduces
            case KillLevel.REDUCE_ONLY:
                return not reduces
            case KillLevel.HALT_NEW | KillLevel.CANCEL_ALL:
                return True
            case _ as never:
                assert_never(never)

    @property
    def is_a_persons(self) -> bool:
        """Return whether somebody threw it, and not the daemon for a file it cannot read."""
        return bool(self.switch_id.int)


def switch_message(switch: KillSwitch) -> dict[str, str | int | None]:
    """Return a switch as people, programs and the file on disk have it; µs since 1970 UTC."""
    return {
        "switch_id": str(switch.switch_id),
        "scope": str(switch.scope),
        "level": switch.level.value,
        "why": switch.why,
        "by_whom": switch.by_whom,
        "since_us": switch.since_ns // NS_PER_US,
        "released_us": switch.released_ns // NS_PER_US or None,
        "released_by": switch.released_by or None,
    }


def strictest(
    switches: Collection[KillSwitch],
    account: str,
    symbol: str = "",
    groups: Mapping[str, Collection[str]] = NO_GROUPS,
) -> KillSwitch | None:
    """Return the switch that stops an order the most, None if none does."""
    held = [each for each in switches if each.stands and each.scope.covers(account, symbol, groups)]
    order = list(KillLevel)
    return max(held, key=lambda each: (order.index(each.level), -each.since_ns), default=None)
