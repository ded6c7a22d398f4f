"""What Kite, SEBI and the exchanges ask of orders, as dated rows that settings can change.

Pure. Source of the numbers: kite.md §2.3, §3.2, §4 and §8.4.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


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
