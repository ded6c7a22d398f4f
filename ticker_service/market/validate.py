"""Keep ticks that can be true; count the rest by reason.

Path: feed -> decode -> [validate] -> batch -> price -> publish.
Pure: no I/O and no clock; receive times travel with the rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain.tick import Mode, Ticks
from ticker_service.domain.universe import ABSENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe

NOT_SUBSCRIBED: Final = "not_subscribed"
UNKNOWN_TOKEN: Final = "unknown_token"  # noqa: S105 - an instrument token, not a credential
IMPOSSIBLE_PRICE: Final = "impossible_price"
FUTURE_TIME: Final = "future_time"

# An exchange clock may run a little ahead of ours, and its stamps have whole seconds. Beyond this
# the packet is corrupt, not early.
EXCHANGE_CLOCK_AHEAD_NS_MAX: Final = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausible:
    """Ticks that can be true with their universe rows, and the count of the others by reason."""

    rows: NDArray[np.intp]
    ticks: Ticks
    rejected: Mapping[str, int]
    rejected_by_book: NDArray[np.int64]


def plausible(ticks: Ticks, universe: Universe, *, wanted: NDArray[np.bool_]) -> Plausible:
    """Drop what cannot be true, each row for its first reason.

    Args:
        ticks: Decoded rows in order of arrival.
        universe: What may be subscribed; any other token is unknown.
        wanted: Mask of the universe rows that are subscribed now. A tick of another row was under
            way when its instrument was dropped, and nothing would ever refresh it again.

    Returns:
        The rows that may go on, in order.
    """
    rows = universe.rows_of(ticks.instrument_token)
    reasons = {
        UNKNOWN_TOKEN: rows == ABSENT,
        NOT_SUBSCRIBED: ~wanted[rows],
        IMPOSSIBLE_PRICE: _impossible_price(ticks),
        FUTURE_TIME: np.maximum(ticks.exchange_ts_ns, ticks.last_trade_ts_ns)
        > ticks.received_at_ns + EXCHANGE_CLOCK_AHEAD_NS_MAX,
    }
    rejected: Counter[str] = Counter()
    keep = np.ones(len(ticks), np.bool_)
    for reason, fails in reasons.items():
        first = fails & keep
        if first.any():
            rejected[reason] = int(np.count_nonzero(first))
            keep &= ~fails
    by_book = np.zeros(len(universe.books), np.int64)
    if keep.all():
        return Plausible(rows=rows, ticks=ticks, rejected=rejected, rejected_by_book=by_book)
    lost = rows[~keep & (rows != ABSENT)]
    np.add.at(by_book, universe.book[lost], 1)
    return Plausible(
        rows=rows[keep], ticks=ticks.take(keep), rejected=rejected, rejected_by_book=by_book
    )


def _impossible_price(ticks: Ticks) -> NDArray[np.bool_]:
    """Return the rows whose prices no market prints.

    A missing last price is not impossible in full mode: a contract that never traded has a depth
    and no trade. In the lesser modes such a packet carries nothing at all.
    """
    never_traded = np.isnan(ticks.ltp) & (ticks.mode == Mode.FULL)
    bad_ltp = ~(ticks.ltp > 0.0) & ~never_traded
    # NaN (an empty level) compares False here, as it should.
    bad_depth = (ticks.bid_price <= 0.0).any(axis=0) | (ticks.ask_price <= 0.0).any(axis=0)
    bad_range = ticks.high < ticks.low
    for price in (ticks.open, ticks.high, ticks.low, ticks.close, ticks.average_price):
        bad_range |= price <= 0.0
    impossible: NDArray[np.bool_] = bad_ltp | bad_depth | bad_range
    return impossible
