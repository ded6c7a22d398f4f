"""The quote board: the present state of every instrument, in columns by row.

Prices are integers in the segment's wire units, so that what goes on the wire is exact. Owned by
``market``; encoders and REST only read it.
"""

from __future__ import annotations

import numpy as np

from ticker_service.domain.tick import DEPTH_LEVELS


class Board:
    """Columns of shape ``(n,)``; depth columns ``(n, 5)``, best level first.

    Times are whole seconds since the Unix epoch, as on the wire; quantities are units.
    """

    def __init__(self, rows: int) -> None:
        self.ltp_raw = np.zeros(rows, np.int64)
        self.open_raw = np.zeros(rows, np.int64)
        self.high_raw = np.zeros(rows, np.int64)
        self.low_raw = np.zeros(rows, np.int64)
        self.close_raw = np.zeros(rows, np.int64)
        self.last_quantity = np.zeros(rows, np.int64)
        self.volume = np.zeros(rows, np.int64)
        self.turnover_raw = np.zeros(rows, np.float64)
        self.buy_quantity = np.zeros(rows, np.int64)
        self.sell_quantity = np.zeros(rows, np.int64)
        self.oi = np.zeros(rows, np.int64)
        self.oi_day_high = np.zeros(rows, np.int64)
        self.oi_day_low = np.zeros(rows, np.int64)
        self.last_trade_s = np.zeros(rows, np.int64)
        self.exchange_s = np.zeros(rows, np.int64)
        depth = (rows, DEPTH_LEVELS)
        self.bid_raw = np.zeros(depth, np.int64)
        self.bid_quantity = np.zeros(depth, np.int64)
        self.bid_orders = np.zeros(depth, np.int64)
        self.ask_raw = np.zeros(depth, np.int64)
        self.ask_quantity = np.zeros(depth, np.int64)
        self.ask_orders = np.zeros(depth, np.int64)

    def average_raw(
        self, rows: np.ndarray[tuple[int], np.dtype[np.intp]]
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the volume-weighted average price of the rows; 0 where nothing has traded."""
        average = self.turnover_raw[rows] / np.maximum(self.volume[rows], 1)
        return np.rint(average).astype(np.int64)
