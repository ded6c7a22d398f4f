"""Every trade of the market as candles of a minute: the truth that bars made of ticks are held to.

Exact, unlike anything made from snapshots. The latest minutes are kept, as many as fit into a fixed
amount of memory; longer intervals are made of them as Kite makes them, from 09:15 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTE_S: Final = 60
MINUTES_MAX: Final = 400
"""A trading day has 375."""
BYTES_MAX: Final = 64 << 20
_COLUMNS: Final = 7
_OPENS_S: Final = 3 * 3_600 + 45 * 60
"""09:15 IST, where Kite's longer candles begin, in seconds of a UTC day."""
_MIDNIGHT_S: Final = 18 * 3_600 + 30 * 60
"""Midnight in India, where its days begin, likewise."""
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """Trades of an interval that begins at ``start_s``, seconds since 1970; prices are raw."""

    start_s: int
    open_raw: int
    high_raw: int
    low_raw: int
    close_raw: int
    volume: int
    oi: int
    trades: int


class CandleHistory:
    """The latest minutes, oldest overwritten first."""

    def __init__(self, rows: int) -> None:
        fitting = BYTES_MAX // (_COLUMNS * 8 * max(rows, 1))
        self.minutes_max = int(min(max(fitting, 2), MINUTES_MAX))
        shape = (self.minutes_max, rows)
        self._minute = np.full(self.minutes_max, -1, np.int64)
        self._open, self._high, self._low, self._last, self._volume, self._oi, self._trades = (
            np.zeros(shape, np.int64) for _ in range(_COLUMNS)
        )
        self._has_traded = np.zeros(shape, np.bool_)

    def clear(self) -> None:
        """Forget every candle."""
        self._minute[:] = -1
        self._has_traded[:] = False

    def record(
        self,
        rows: NDArray[np.intp],
        price_raw: NDArray[np.int64],
        quantity: NDArray[np.int64],
        oi: NDArray[np.int64],
        *,
        at_ns: int,
    ) -> None:
        """Take one trade of each of some rows.

        Args:
            rows: Rows of the catalogue, each once.
            price_raw: Their prices in wire units; an index prints its value for no quantity.
            quantity: Units traded.
            oi: Open interest after it, 0 where there is none.
            at_ns: When, ns since the Unix epoch.
        """
        minute = at_ns // (MINUTE_S * NS_PER_S)
        slot = minute % self.minutes_max
        if self._minute[slot] != minute:
            self._minute[slot] = minute
            self._has_traded[slot] = False
            self._volume[slot] = self._trades[slot] = 0
        is_first = ~self._has_traded[slot, rows]
        self._has_traded[slot, rows] = True
        self._open[slot, rows] = np.where(is_first, price_raw, self._open[slot, rows])
        high, low = self._high[slot, rows], self._low[slot, rows]
        self._high[slot, rows] = np.where(is_first, price_raw, np.maximum(high, price_raw))
        self._low[slot, rows] = np.where(is_first, price_raw, np.minimum(low, price_raw))
        self._last[slot, rows] = price_raw
        self._volume[slot, rows] += quantity
        self._oi[slot, rows] = oi
        self._trades[slot, rows] += 1

    def candles(self, row: int, *, from_s: int, to_s: int, length_s: int) -> list[Candle]:
        """Return a row's candles that begin within a window, oldest first; none without a trade.

        Args:
            row: Row of the catalogue.
            from_s: Start of the window, seconds since 1970.
            to_s: Its end, inclusive.
            length_s: Length of a candle, a multiple of a minute that divides a day.
        """
        slots = np.flatnonzero(self._has_traded[:, row] & (self._minute >= 0))
        slots = slots[np.argsort(self._minute[slots])]
        begins_s = _MIDNIGHT_S if length_s == _DAY_S else _OPENS_S
        found: dict[int, Candle] = {}
        for slot in slots.tolist():
            start_s = int(self._minute[slot]) * MINUTE_S
            start_s = (start_s - begins_s) // length_s * length_s + begins_s
            if from_s <= start_s <= to_s:
                found[start_s] = self._joined(found.get(start_s), slot, row, start_s)
        return list(found.values())

    def _joined(self, before: Candle | None, slot: int, row: int, start_s: int) -> Candle:
        high, low = int(self._high[slot, row]), int(self._low[slot, row])
        volume = int(self._volume[slot, row])
        return Candle(
            start_s=start_s,
            open_raw=before.open_raw if before else int(self._open[slot, row]),
            high_raw=max(before.high_raw, high) if before else high,
            low_raw=min(before.low_raw, low) if before else low,
            close_raw=int(self._last[slot, row]),
            volume=volume + (before.volume if before else 0),
            oi=int(self._oi[slot, row]),
            trades=int(self._trades[slot, row]) + (before.trades if before else 0),
        )
