"""What is open on all accounts of a group together, as far as this process writes them.

An account that another daemon writes, or whose journal is being read, has orders that are not
known here: then the group's sum is not known, and who limits it denies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticker_service.domain.risk_input import GroupOpen

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence

    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.domain.exposure import Exposure, Open, OpenKey
    from ticker_service.domain.order import Account
    from ticker_service.domain.risk import RiskTable


class GroupExposure:
    """All groups'; belongs to one event loop, so what it tells holds until the next wait."""

    def __init__(
        self,
        groups: Sequence[AccountGroup],
        exposure: Callable[[Account], Exposure],
        is_writer: Callable[[Account], bool],
    ) -> None:
        """Take the parts.

        Args:
            groups: As they are declared.
            exposure: What is open of an account by this process.
            is_writer: Whether this process writes an account.
        """
        self._groups = groups
        self._exposure = exposure
        self._is_writer = is_writer

    def limited(
        self, account: Account, table: RiskTable, *, without: uuid.UUID | None = None
    ) -> tuple[GroupOpen, ...]:
        """Return the account's groups whose open orders are limited, and what they have open.

        Args:
            account: Whose order is to be judged.
            table: The limits in force.
            without: An order of any member that goes on as the one that is judged.
        """
        return tuple(
            GroupOpen(name=group.name, value_inr_max=most, open=self._sum(group, without))
            for group in self._groups
            if account in group.members
            and (most := table.group_value_inr_max(group.name)) is not None
        )

    def _sum(
        self, group: AccountGroup, without: uuid.UUID | None
    ) -> Mapping[OpenKey, Open] | Account:
        """Return the sum, or the first account whose orders are not known."""
        total: dict[OpenKey, Open] = {}
        for account in group.members:
            exposure = self._exposure(account)
            if not (exposure.is_whole and self._is_writer(account)):
                return account
            for key, each in exposure.by_key().items():
                total[key] = total[key] + each if key in total else each
            gone, counted = exposure.counted(without)
            if gone is not None:
                total[gone] -= counted
        return total
