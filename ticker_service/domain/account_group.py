"""Accounts that stand in for each other: who they are, and how one is chosen for an order.

A group is of one beneficial owner, or stands on a written mandate: no order may reach the account
of a person who has not agreed to it. Pure. Source: reliability.md §1.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ticker_service.domain.order import Account


class GroupPolicy(StrEnum):
    """Which of the accounts that can take an order takes it."""

    FIRST_ABLE = "first_able"
    """The first in the order of the settings: the others stand by."""
    ROUND_ROBIN = "round_robin"
    """One after the other."""
    LEAST_USED = "least_used"
    """The one with the fewest orders of the day."""


class GroupBasis(StrEnum):
    """What allows orders of one caller on all accounts of a group."""

    ONE_OWNER = "one_owner"
    """All accounts are of the same beneficial owner."""
    WRITTEN_MANDATE = "written_mandate"
    """Every owner has agreed in writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountGroup:
    """A declared group; ``moves_on_margin`` also moves what was refused for want of margin."""

    name: str
    members: tuple[Account, ...]
    basis: GroupBasis
    policy: GroupPolicy = GroupPolicy.FIRST_ABLE
    moves_on_margin: bool = False
