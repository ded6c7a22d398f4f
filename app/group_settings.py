"""Groups of accounts as the settings declare them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from ticker_service.domain.account_group import AccountGroup, GroupBasis, GroupPolicy
from ticker_service.domain.order import Account

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

MEMBERS_MIN = 2
MEMBERS_MAX = 20


class GroupSettings(BaseModel):
    """Accounts that stand in for each other, and what allows that."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    accounts: tuple[str, ...] = Field(min_length=MEMBERS_MIN, max_length=MEMBERS_MAX)
    basis: Literal["one_owner", "written_mandate"]
    policy: Literal["first_able", "round_robin", "least_used"] = "first_able"
    moves_on_margin: bool = False

    def to_domain(self, name: str) -> AccountGroup:
        """Return the group as a value."""
        return AccountGroup(
            name=name,
            members=tuple(map(Account, self.accounts)),
            basis=GroupBasis(self.basis),
            policy=GroupPolicy(self.policy),
            moves_on_margin=self.moves_on_margin,
        )


def group_faults(groups: Mapping[str, GroupSettings], accounts: Container[str]) -> list[str]:
    """Return what is wrong between groups and accounts, a sentence for each."""
    faults = []
    for name, group in groups.items():
        unknown = [account for account in group.accounts if account not in accounts]
        if unknown:
            faults.append(f"{name}.accounts: {unknown} must be of the accounts")
        if len(set(group.accounts)) < len(group.accounts):
            faults.append(f"{name}.accounts: {list(group.accounts)} names an account twice")
        if name in accounts:
            faults.append(f"{name}: is the name of an account; give the group one of its own")
    return faults
