"""Choose the account of a group that an order goes to.

Path: order -> [admit] -> journal -> execute -> settle -> report. An account is able when an order
would go out there at once: it is open, logged in, its breaker closed, nothing halts or stops it,
and it has room. Of those the group's policy takes one, and why is journalled with the order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, assert_never

from ticker_service.domain.account_group import GroupPolicy
from ticker_service.errors import OrderRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.domain.order import Account
    from ticker_service.orders.desk import AccountDesk


NOWHERE: Final[Mapping[Account, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The account that an order goes to, None if none can take it, and why not the others."""

    group: AccountGroup
    account: Account | None
    passed_over: Mapping[Account, str]

    @property
    def facts(self) -> dict[str, object]:
        """What the journal keeps of it."""
        return {
            "group": self.group.name,
            "policy": self.group.policy.value,
            "passed_over": dict(self.passed_over),
        }

    def refusal(self) -> OrderRefused:
        """Return what the caller is told when no account can take the order."""
        why = ", ".join(f"{account}: {code}" for account, code in self.passed_over.items())
        return OrderRefused(
            "NO_ABLE_ACCOUNT",
            f"no account of the group takes orders now ({why})",
            field="group",
            value=self.group.name,
        )


class Router:
    """The groups of this process; belongs to one event loop."""

    def __init__(
        self, groups: Iterable[AccountGroup], desks: Mapping[Account, AccountDesk]
    ) -> None:
        """Take the groups and the desks of their accounts."""
        self.groups: Mapping[str, AccountGroup] = {each.name: each for each in groups}
        self._desks = desks
        self._turns: Counter[str] = Counter()
        """How many orders each group has been asked to take."""

    def choose(
        self,
        group: AccountGroup,
        body: Mapping[str, str],
        *,
        closed: Mapping[Account, str] = NOWHERE,
    ) -> Choice:
        """Return where an order goes.

        Args:
            group: Whose accounts.
            body: The form of the order.
            closed: Accounts that it may not go to, and why.
        """
        passed_over: dict[Account, str] = {}
        able: list[Account] = []
        for account in group.members:
            unable = closed.get(account) or self._desks[account].pre_trade.unable(body)
            if unable:
                passed_over[account] = unable
            else:
                able.append(account)
        chosen = self._pick(group, able) if able else None
        return Choice(group=group, account=chosen, passed_over=passed_over)

    def _pick(self, group: AccountGroup, able: Sequence[Account]) -> Account:
        """Take one by the group's policy; of equals the first in the order of the settings."""
        match group.policy:
            case GroupPolicy.FIRST_ABLE:
                return able[0]
            case GroupPolicy.ROUND_ROBIN:
                turn = self._turns[group.name] % len(group.members)
                self._turns[group.name] += 1
                in_turn = group.members[turn:] + group.members[:turn]
                return next(account for account in in_turn if account in able)
            case GroupPolicy.LEAST_USED:
                return min(able, key=lambda account: self._desks[account].placed_today)
            case _ as never:
                assert_never(never)
