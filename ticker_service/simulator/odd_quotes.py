"""Quotes that no model makes and every market shows: crossed, one-sided, none for a day.

Path: fair price → quotes → [odd quotes] → packets. Options only, and only when asked for; chance is
a stream of its own, so the market beneath is the same with and without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import SECONDS_PER_DAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.simulator.board import Board
    from ticker_service.simulator.catalogue import Catalogue
    from ticker_service.simulator.options import SimulatorOptions

CROSSED_STEPS_MAX: Final = 3


class OddQuotes:
    """Which quotes are spoilt, and how.

    Attributes:
        is_dead: Options that nobody quotes and that last traded yesterday, shape ``(n,)``.
    """

    def __init__(
        self, options: SimulatorOptions, catalogue: Catalogue, rng: np.random.Generator
    ) -> None:
        self._crossed_ratio = options.crossed_quote_ratio
        self._one_sided_ratio = options.one_sided_quote_ratio
        self._catalogue = catalogue
        self._rng = rng
        draw = rng.random(len(catalogue))
        self.is_dead = catalogue.is_option & (draw < options.dead_strike_ratio)

    def bury(self, board: Board) -> None:
        """Leave of the dead strikes what Kite keeps: yesterday's last trade and an empty depth."""
        rows = np.flatnonzero(self.is_dead)
        for depth in (board.bid_raw, board.bid_quantity, board.bid_orders):
            depth[rows] = 0
        for depth in (board.ask_raw, board.ask_quantity, board.ask_orders):
            depth[rows] = 0
        for total in (board.buy_quantity, board.sell_quantity, board.volume, board.last_quantity):
            total[rows] = 0
        board.turnover_raw[rows] = 0.0
        for price in (board.ltp_raw, board.open_raw, board.high_raw, board.low_raw):
            price[rows] = board.close_raw[rows]
        board.last_trade_s[rows] -= SECONDS_PER_DAY
        board.exchange_s[rows] -= SECONDS_PER_DAY

    def spoil(self, board: Board, rows: NDArray[np.intp]) -> None:
        """Cross some of the quotes just made, and take one side of others away."""
        if not self._crossed_ratio + self._one_sided_ratio:
            return
        options = rows[self._catalogue.is_option[rows]]
        draw, side = self._rng.random((2, len(options)))
        steps = self._rng.integers(1, CROSSED_STEPS_MAX + 1, len(options))
        is_crossed = draw < self._crossed_ratio
        self._cross(board, options[is_crossed], steps[is_crossed])
        is_one_sided = ~is_crossed & (draw < self._crossed_ratio + self._one_sided_ratio)
        lacks_bid = side < 0.5  # noqa: PLR2004 - a fair coin
        # Nobody bids for a nearly worthless option anyway; it keeps its offer.
        lacks_bid |= board.bid_raw[options, 0] == 0
        for lacking, price, quantity, orders, total in (
            (lacks_bid, board.bid_raw, board.bid_quantity, board.bid_orders, board.buy_quantity),
            (~lacks_bid, board.ask_raw, board.ask_quantity, board.ask_orders, board.sell_quantity),
        ):
            lack = options[is_one_sided & lacking]
            price[lack] = quantity[lack] = orders[lack] = 0
            total[lack] = 0

    def _cross(self, board: Board, rows: NDArray[np.intp], steps: NDArray[np.int64]) -> None:
        """Lift the bids of some rows above their offers."""
        bid, ask = board.bid_raw[rows], board.ask_raw[rows, 0]
        over = ask + steps * self._catalogue.price_step_raw[rows] - bid[:, 0]
        is_quoted = (bid > 0) & (bid[:, :1] > 0)
        board.bid_raw[rows] = np.where(is_quoted, bid + over[:, None], 0)
