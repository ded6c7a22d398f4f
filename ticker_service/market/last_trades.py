"""Which ticks show a trade, and when each instrument last traded where no packet says so.

Beside the path: decode -> validate -> [last trades], before anything is merged. Pure.

A full packet bears the time of its last trade. One in quote or LTP mode does not, and comes when
an order was placed as well as when something was traded, so that its own time says nothing: a last
trade of this morning would look as fresh as the newest order beside it. What tells is the growth of
the day's volume, and in LTP mode, which has none, another price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from ticker_service.constants import NS_PER_S, SECONDS_PER_DAY
from ticker_service.domain.tick import NOT_CARRIED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.tick import Ticks

Number = TypeVar("Number", np.int64, np.float64)
UNKNOWN_NS: Final = 0
"""The time of a trade that nobody has seen: longer ago than any limit."""
NO_DAY: Final = -1
_IST_AHEAD_NS: Final = 19_800 * NS_PER_S
_DAY_NS: Final = SECONDS_PER_DAY * NS_PER_S
_SMALL: Final = 1 << 16


class ByRow:
    """The ticks of a flush put in order of their rows, those of a row in order of arrival.

    Attributes:
        order: Place of each tick in the flush, shape ``(n,)``.
        rows: Its universe row, ascending.
        is_first: Whether it is its row's first in the flush.
    """

    def __init__(self, rows: NDArray[np.intp], *, row_count: int) -> None:
        """Take universe rows, shape ``(n,)``, and how many the universe has."""
        # Sixteen bits are sorted by counting.
        keys = rows.astype(np.uint16 if row_count <= _SMALL else np.intp, copy=False)
        self.order = np.argsort(keys, kind="stable")
        self.rows = rows[self.order]
        self.is_first = np.ones(len(rows), np.bool_)
        self.is_first[1:] = self.rows[1:] != self.rows[:-1]
        self._is_last = np.roll(self.is_first, -1)

    def before(self, now: NDArray[Number], known: NDArray[Number]) -> NDArray[Number]:
        """Return the value that each tick's predecessor had, and remember each row's last.

        Args:
            now: The ticks' values, in this order, shape ``(n,)``.
            known: The last value of every universe row before the flush; written.
        """
        shifted = np.roll(now, 1)
        shifted[self.is_first] = known[self.rows[self.is_first]]
        known[self.rows[self._is_last]] = now[self._is_last]
        return shifted


def day_of(at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the Indian day that instants (ns since the Unix epoch) fall on."""
    return (at_ns + _IST_AHEAD_NS) // _DAY_NS


def volume_growth(
    volume: NDArray[np.int64], before: NDArray[np.int64], *, is_same_day: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return by how much the day's volume has grown; 0 where one of the two is not known.

    Args:
        volume: Cumulative volume of each tick, units, shape ``(n,)``.
        before: That of the tick before it.
        is_same_day: Whether they are of one day: each begins at zero.
    """
    grown = volume - np.where(is_same_day, before, 0)
    is_countable = (before != NOT_CARRIED) & (volume != NOT_CARRIED)
    grown[~is_countable | (grown < 0)] = 0
    return grown


class LastTrades:
    """When each universe row last showed a trade; owned by the price step.

    Attributes:
        at_ns: When the packet that first showed the row's last trade was received, ns since the
            Unix epoch, shape ``(rows,)``; ``UNKNOWN_NS`` where it was traded before anybody looked.
    """

    def __init__(self, rows: int) -> None:
        """Know nothing of so many universe rows."""
        self.at_ns = np.full(rows, UNKNOWN_NS, np.int64)
        self._day = np.full(rows, NO_DAY, np.int64)
        self._volume = np.full(rows, NOT_CARRIED, np.int64)
        self._ltp = np.full(rows, np.nan)

    def take(self, rows: NDArray[np.intp], ticks: Ticks, *, awaits_news: NDArray[np.bool_]) -> None:
        """Take accepted ticks, those of an instrument in order of arrival.

        Args:
            rows: Their universe rows, shape ``(n,)``.
            ticks: The ticks.
            awaits_news: Whether a row was not heard until now, shape ``(universe rows,)``: what its
                first tick shows was traded at a time that is not known.
        """
        by_row = ByRow(rows, row_count=len(self.at_ns))
        row, order = by_row.rows, by_row.order
        received_ns, ltp = ticks.received_at_ns[order], ticks.ltp[order]
        day, volume = day_of(received_ns), ticks.volume[order]
        is_same_day = by_row.before(day, self._day) == day
        volume_before = by_row.before(volume, self._volume)
        ltp_before = by_row.before(ltp, self._ltp)
        has_volume = (volume != NOT_CARRIED) & (volume_before != NOT_CARRIED)
        grown = volume_growth(volume, volume_before, is_same_day=is_same_day)
        # A NaN before says that nothing was known, and after that it is not known still.
        has_moved = (ltp != ltp_before) & ~np.isnan(ltp_before)
        has_traded = np.where(has_volume, grown > 0, has_moved)
        is_unseen = by_row.is_first & awaits_news[row]
        self.at_ns[row[is_unseen & has_traded]] = UNKNOWN_NS
        is_seen = has_traded & ~is_unseen
        # Of several of a row the last stays.
        self.at_ns[row[is_seen]] = received_ns[is_seen]

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop what is known of instruments that are no longer subscribed."""
        self.at_ns[rows] = UNKNOWN_NS
        self._day[rows] = NO_DAY
        self._volume[rows] = NOT_CARRIED
        self._ltp[rows] = np.nan

    def traded_ns(self, rows: NDArray[np.intp], latest: Ticks) -> NDArray[np.int64]:
        """Return when the last trade of each row was made, ns since the Unix epoch.

        The exchange's own time, where the row's tick bears it; else when it was seen,
        ``UNKNOWN_NS`` if it was not. A full packet without that time has not been traded for so
        long that the exchange does not know either: its last price is a close of earlier.

        Args:
            rows: Universe rows, shape ``(n,)``.
            latest: Latest tick of every universe row.
        """
        stamped_ns = latest.last_trade_ts_ns[rows]
        is_stamped = stamped_ns > 0
        if is_stamped.all():
            return stamped_ns
        return np.where(is_stamped, stamped_ns, self.at_ns[rows])
