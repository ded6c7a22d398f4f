"""The broker's limits on what we ask of it, and what of each we use: one table. Pure.

A user changes a row by its name in the setting ``limits``: ``orders_per_minute = 300`` is how many
there may be in all, ``orders_per_minute_reserve = 60`` how many of these new orders and changes
leave for cancels (for exits, where it is the day's). Source of the numbers: kite.md §4.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.domain.rulebook import RuleName, number_of
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

AT_MOST_MAX: Final = 1_000_000
RESERVE: Final = "_reserve"


class LimitScope(StrEnum):
    """Among whom a limit is shared."""

    ACCOUNT = "account"
    """The client account, over all its apps: it limits this daemon's part alone."""
    ORDER = "order"
    API_KEY = "api_key"
    """The Kite Connect app: accounts that trade through one app share it."""


class LimitName(StrEnum):
    """The rows of the table."""

    ORDERS_PER_SECOND = "orders_per_second"
    ORDERS_PER_MINUTE = "orders_per_minute"
    ORDERS_PER_DAY = "orders_per_day"
    MODIFICATIONS_PER_ORDER = "modifications_per_order"
    QUOTES_PER_SECOND = "quotes_per_second"
    HISTORICAL_PER_SECOND = "historical_per_second"
    READS_PER_SECOND = "reads_per_second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One row.

    Attributes:
        name: What the setting calls it.
        scope: Among whom it is shared.
        counts: What is counted, for people.
        window: In how long, for people; seconds in ``window_s``, None for a day or a lifetime.
        at_most: How many in all, in any such window.
        reserve: How many of these only cancels (of the day: only exits) may use.
    """

    name: LimitName
    scope: LimitScope
    counts: str
    window: str
    window_s: float | None
    at_most: int
    reserve: int = 0

    @property
    def open(self) -> int:
        """How many of them anybody may use."""
        return self.at_most - self.reserve


LIMITS: Final = (
    Limit(
        name=LimitName.ORDERS_PER_SECOND,
        scope=LimitScope.ACCOUNT,
        counts="orders, changes and cancels",
        window="any second, calendar or sliding",
        window_s=1.0,
        at_most=number_of(RuleName.ORDERS_PER_SECOND),
        reserve=2,
    ),
    Limit(
        name=LimitName.ORDERS_PER_MINUTE,
        scope=LimitScope.ACCOUNT,
        counts="orders, changes and cancels",
        window="any 60 s",
        window_s=60.0,
        at_most=number_of(RuleName.ORDERS_PER_MINUTE),
        reserve=40,
    ),
    Limit(
        name=LimitName.ORDERS_PER_DAY,
        scope=LimitScope.ACCOUNT,
        counts="new orders, also those that the broker refused",
        window="a day, IST",
        window_s=None,
        at_most=number_of(RuleName.ORDERS_PER_DAY),
        reserve=250,
    ),
    Limit(
        name=LimitName.MODIFICATIONS_PER_ORDER,
        scope=LimitScope.ORDER,
        counts="changes",
        window="the life of the order",
        window_s=None,
        at_most=number_of(RuleName.MODIFICATIONS_PER_ORDER),
    ),
    Limit(
        name=LimitName.QUOTES_PER_SECOND,
        scope=LimitScope.API_KEY,
        counts="requests for quotes",
        window="any second",
        window_s=1.0,
        at_most=1,
    ),
    Limit(
        name=LimitName.HISTORICAL_PER_SECOND,
        scope=LimitScope.API_KEY,
        counts="requests for candles",
        window="any second",
        window_s=1.0,
        at_most=3,
    ),
    Limit(
        name=LimitName.READS_PER_SECOND,
        scope=LimitScope.API_KEY,
        counts="all other readings, such as of the order book and of margins",
        window="any second",
        window_s=1.0,
        at_most=10,
    ),
)
"""The broker's numbers, and what we leave free of each."""

Limits = dict[LimitName, Limit]


def limits_of(changes: Mapping[str, int] | None = None) -> Limits:
    """Return the table with a user's changes.

    Raises:
        ConfigurationError: A change names no row, or leaves one without room; all are listed.
    """
    changes = changes or {}
    rows = {row.name: row for row in LIMITS}
    keys = {row.name.value for row in LIMITS} | {row.name + RESERVE for row in LIMITS}
    faults = [
        f"{key}: is no limit; the limits are {', '.join(rows)}, each also with {RESERVE}"
        for key in changes
        if key not in keys
    ]
    for name, row in rows.items():
        at_most = changes.get(name, row.at_most)
        # Who lowers a limit has not to lower what is kept free of it as well.
        kept = min(row.reserve, max(at_most - 1, 0))
        reserve = changes.get(name + RESERVE, kept)
        if not 0 < at_most <= AT_MOST_MAX:
            faults.append(f"{name}={at_most}: must be 1 to {AT_MOST_MAX}")
        elif not 0 <= reserve < at_most:
            faults.append(f"{name}{RESERVE}={reserve}: must be 0 or more, and below {at_most}")
        rows[name] = dataclasses.replace(row, at_most=at_most, reserve=reserve)
    if faults:
        raise ConfigurationError("\n".join(faults))
    return rows
