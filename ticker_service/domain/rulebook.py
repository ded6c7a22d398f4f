"""What Kite, SEBI and the exchanges ask of orders: dated rows that settings can change. Pure.

Admission, the limits of ``domain.limit`` and ``docs/rules.md`` take what they say from here. A user
changes a row by its name in the setting ``order_rules``: another number, or ``false`` where it
holds no more. Source of the numbers: kite.md §2.3, §3.2, §4 and §8.4.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Authority(StrEnum):
    """Whose rule it is."""

    KITE = "Kite"
    SEBI = "SEBI"
    EXCHANGE = "the exchange"


class RuleName(StrEnum):
    """The rows of the table."""

    REGISTERED_ADDRESS = "registered_address"
    ORDERS_PER_SECOND = "orders_per_second"
    ALGO_ID = "algo_id"
    MARKET_PROTECTION = "market_protection"
    SLICES = "slices"
    NO_IOC_ON_MCX = "no_ioc_on_mcx"
    ORDERS_PER_MINUTE = "orders_per_minute"
    ORDERS_PER_DAY = "orders_per_day"
    MODIFICATIONS_PER_ORDER = "modifications_per_order"
    FREEZE_QUANTITY = "freeze_quantity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row.

    Attributes:
        name: What the setting calls it.
        whose: Who made it.
        since: It holds from this day at the latest.
        number: Its number, None where it has none.
        says: What it asks, for people.
        advice: What to do about it, for people.
        source: Where it is written.
    """

    name: RuleName
    whose: Authority
    since: dt.date
    number: int | None
    says: str
    advice: str
    source: str

    @property
    def told(self) -> str:
        """Which rule, whose, and what to do; for who was refused by it."""
        return f"{self.whose}'s rule {self.name} since {self.since}: {self.says}. {self.advice}"


Rules = dict[RuleName, Rule]

_APRIL: Final = dt.date(2026, 4, 1)
_JULY: Final = dt.date(2026, 7, 14)
_FRAMEWORK: Final = "SEBI/HO/MIRSD/MIRSD-PoD/P/CIR/2025/0000013"

RULES: Final = (
    Rule(
        name=RuleName.REGISTERED_ADDRESS,
        whose=Authority.SEBI,
        since=_APRIL,
        number=2,
        says="orders, changes and cancels come from a registered static address, of at most two",
        advice="Register the machine's address with the broker, which changes it once a calendar "
        "week at most, or set source_address or proxy",
        source=f"{_FRAMEWORK}; Kite's page on static addresses",
    ),
    Rule(
        name=RuleName.ORDERS_PER_SECOND,
        whose=Authority.SEBI,
        since=_APRIL,
        number=10,
        says="at most so many orders, changes and cancels a second of one client account",
        advice="They wait for their turn; more needs a strategy registered with the exchange",
        source=f"{_FRAMEWORK}; Kite's API questions",
    ),
    Rule(
        name=RuleName.ALGO_ID,
        whose=Authority.SEBI,
        since=_APRIL,
        number=None,
        says="orders of a registered strategy carry the id that the exchange gave it",
        advice="Set the account's algo_id; without one the broker marks its orders itself",
        source=f"{_FRAMEWORK}; Kite forum 15350 and 15912",
    ),
    Rule(
        name=RuleName.MARKET_PROTECTION,
        whose=Authority.SEBI,
        since=_APRIL,
        number=100,
        says="MARKET and SL-M orders of programs carry a market protection, percent",
        advice="Give market_protection, -1 for Kite's own band, or send a LIMIT or SL order",
        source="Kite forum 15912 and 52991",
    ),
    Rule(
        name=RuleName.SLICES,
        whose=Authority.SEBI,
        since=_APRIL,
        number=10,
        says="one order is cut into at most so many slices",
        advice="Send the parts as orders of their own; this daemon never asks Kite to cut one",
        source="Kite forum 15912",
    ),
    Rule(
        name=RuleName.NO_IOC_ON_MCX,
        whose=Authority.SEBI,
        since=_APRIL,
        number=None,
        says="orders of programs on MCX may not be IOC",
        advice="Send it with validity DAY and cancel what is left",
        source="Kite forum 15912",
    ),
    Rule(
        name=RuleName.ORDERS_PER_MINUTE,
        whose=Authority.KITE,
        since=_JULY,
        number=400,
        says="at most so many orders, changes and cancels a minute of one client account",
        advice="They wait for their turn",
        source="Kite's documentation, exceptions",
    ),
    Rule(
        name=RuleName.ORDERS_PER_DAY,
        whose=Authority.KITE,
        since=_JULY,
        number=5_000,
        says="at most so many new orders a day of one client account, over all its apps",
        advice="What is kept free is for orders that strictly reduce a position, and for exits by "
        "hand; after that only a call to the broker helps",
        source="Kite's documentation, exceptions",
    ),
    Rule(
        name=RuleName.MODIFICATIONS_PER_ORDER,
        whose=Authority.KITE,
        since=_JULY,
        number=25,
        says="at most so many changes of one order",
        advice="Cancel it and place a new one",
        source="Kite's documentation, exceptions; Kite forum 31294",
    ),
    Rule(
        name=RuleName.FREEZE_QUANTITY,
        whose=Authority.EXCHANGE,
        since=dt.date(2026, 2, 1),
        number=None,
        says="one order in an underlying's derivatives is at most its freeze quantity",
        advice="Send it in parts; the quantities are the setting freeze_quantities",
        source="the exchanges' circulars, revised about monthly",
    ),
)
"""Oldest first within each name; the youngest that has begun applies."""

OF_LIMITS: Final = frozenset(
    {
        RuleName.ORDERS_PER_SECOND,
        RuleName.ORDERS_PER_MINUTE,
        RuleName.ORDERS_PER_DAY,
        RuleName.MODIFICATIONS_PER_ORDER,
    }
)
"""Rows that ``domain.limit`` keeps to; the setting ``limits`` changes them."""
_IN_ADMISSION: Final = frozenset({RuleName.MARKET_PROTECTION, RuleName.NO_IOC_ON_MCX})


def rules_of(changes: Mapping[str, int] | None = None, *, today: dt.date) -> Rules:
    """Return the rows that hold on a day, with those of the settings over them.

    Args:
        changes: By name; ``False`` drops a row that admission keeps to.
        today: The date in India.

    Raises:
        ConfigurationError: A change names no row, or is not possible; all are listed.
    """
    changes = changes or {}
    faults = [fault for name, value in changes.items() if (fault := _fault(name, value))]
    if faults:
        raise ConfigurationError("\n".join(faults))
    held = {row.name: row for row in RULES if row.since <= today}
    dropped = {name for name, value in changes.items() if value is False}
    return {
        name: dataclasses.replace(row, number=changes.get(name, row.number))
        for name, row in held.items()
        if name not in dropped
    }


def number_of(name: RuleName) -> int:
    """Return the number of a row that has one; its newest, for a limit has no days."""
    return max((row.since, row.number or 0) for row in RULES if row.name is name)[1]


def _fault(name: str, value: object) -> str:
    """Return what is wrong with a change of a row, empty if nothing is."""
    if name not in set(RuleName):
        return f"{name}: is no rule; the rules are {', '.join(RuleName)}"
    if name in OF_LIMITS:
        return f"{name}: is changed in the setting limits"
    if name not in _IN_ADMISSION:
        return f"{name}: nothing here is counted by it, so there is nothing to change"
    if value is False:
        return ""
    if name == RuleName.MARKET_PROTECTION and value is not True and value in range(1, 101):
        return ""
    return f"{name}={value}: must be false" + (
        ", or 1 to 100" if name == RuleName.MARKET_PROTECTION else ""
    )


NEWEST: Final = rules_of(today=dt.date.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeQuantity:
    """The largest quantity of one order in an underlying's derivatives, units, since a day."""

    name: str
    since: dt.date
    quantity: int


_FEBRUARY: Final = dt.date(2026, 2, 1)
FREEZE_QUANTITIES: Final = tuple(
    FreezeQuantity(name=name, since=_FEBRUARY, quantity=quantity)
    for name, quantity in (
        *(("NIFTY", 1_800), ("BANKNIFTY", 600), ("FINNIFTY", 1_800), ("MIDCPNIFTY", 2_800)),
        *(("NIFTYNXT50", 600), ("SENSEX", 1_000), ("BANKEX", 900)),
    )
)
"""Those of the indices as of February 2026 (kite.md §8.4); the dump does not tell them, the
exchanges revise them about monthly, and those of shares are in their circulars only."""


def freeze_quantities(changed: Mapping[str, int], *, today: dt.date) -> dict[str, int]:
    """Return the freeze quantities that hold on a day, with those of the settings over them.

    Args:
        changed: By name; 0 drops a row.
        today: The date in India.
    """
    rows = sorted(FREEZE_QUANTITIES, key=lambda row: row.since)
    known = {row.name: row.quantity for row in rows if row.since <= today} | dict(changed)
    return {name: quantity for name, quantity in known.items() if quantity}
