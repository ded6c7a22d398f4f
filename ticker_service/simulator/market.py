"""The simulated market: each step moves the underlyings and requotes the instruments it picks.

Path: underlyings → fair price → quotes (some odd) and trades on the board → packets.
Deterministic: the same seed and the same instants give the same bytes. All work is on columns; no
task, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S, SECONDS_PER_DAY
from ticker_service.domain.tick import DEPTH_LEVELS
from ticker_service.pricing import PricingKernel
from ticker_service.simulator import catalogue as catalogue_of
from ticker_service.simulator import underlyings as underlyings_of
from ticker_service.simulator.board import Board
from ticker_service.simulator.candles import CandleHistory
from ticker_service.simulator.listing import UNDERLYINGS
from ticker_service.simulator.odd_quotes import OddQuotes
from ticker_service.simulator.packets import UNCHANGED, PacketTables
from ticker_service.simulator.smile import volatility_per_year

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.simulator.options import SimulatorOptions

YEARS_MIN: Final = 1.0 / (365 * SECONDS_PER_DAY)
"""Once its variance has ended a contract is quoted at the value it had a second before, until its
last trade."""
RATE: Final = 0.0
"""Options are priced on their own forward and not discounted."""

OVERNIGHT_MOVE: Final = 0.006
TRADE_RATIO: Final = 0.7
"""Share of updates that carry a trade; the rest move quotes and depth only."""
LOTS_TRADED_MAX: Final = 20
LOTS_PER_LEVEL_MAX: Final = 60
ORDERS_PER_LEVEL_MAX: Final = 25
LOTS_BEHIND_DEPTH_MAX: Final = 5_000
OPENING_LOTS_MAX: Final = 20_000
OPENING_OI_LOTS_MAX: Final = 50_000
OI_LOTS_MOVE: Final = 5

# Half of the spread: a share of the price, plus steps that grow with the distance of the strike.
HALF_SPREAD_RATIO: Final = 0.0004
HALF_SPREAD_STEPS_PER_MONEYNESS: Final = 60.0
# A nearly worthless option is not quoted wide; its spread is a few steps however far the strike.
HALF_SPREAD_STEPS_WORTHLESS: Final = 0.5
HALF_SPREAD_RATIO_MAX: Final = 0.1
DEPTH_GAP_STEPS_PER_MONEYNESS: Final = 25.0

# How often an instrument changes, relative to the others. Strikes near the money and the nearest
# expiry change most; at the default rate that comes to one to two changes a second.
WEIGHT_INDEX: Final = 2.0
WEIGHT_PLAIN: Final = 1.2
WEIGHT_OPTION_FAR: Final = 0.75
WEIGHT_OPTION_NEAR: Final = 0.35
WEIGHT_WIDTH: Final = 0.025
WEIGHT_PER_LATER_EXPIRY: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Rows whose packet changed in one step, ascending, with the least mode that shows it."""

    rows: NDArray[np.intp]
    least_mode: NDArray[np.uint8]


class Market:
    """Catalogue, board and packets of one simulated exchange.

    Attributes:
        catalogue: The instruments.
        board: Their present state.
        packets: The same, encoded.
        underlyings: Spots, forwards and smiles in force.
        candles: What was traded, minute by minute.
    """

    def __init__(self, options: SimulatorOptions, *, now_ns: int) -> None:
        opening_rng, self._rng, odd_rng = (
            np.random.Generator(np.random.PCG64(child))
            for child in np.random.SeedSequence(options.seed).spawn(3)
        )
        opening_inr = underlyings_of.opening_prices_inr(opening_rng)
        self.catalogue = catalogue_of.build(
            opening_inr[: len(UNDERLYINGS)].tolist(),
            now_ns=now_ns,
            strikes_each_side=options.strikes_each_side,
            days_min=options.nearest_expiry_days_min,
            lines_min=options.instruments_min,
        )
        self.underlyings = underlyings_of.Underlyings(
            opening_inr,
            self.catalogue.curves,
            rng=opening_rng,
            step_s=1.0 / options.steps_per_s,
        )
        self.board = Board(len(self.catalogue))
        self.packets = PacketTables(
            self.catalogue.instrument_token, index_count=self.catalogue.index_count
        )
        self._kernel = PricingKernel(len(self.catalogue))
        self._odd = OddQuotes(options, self.catalogue, odd_rng)
        self.candles = CandleHistory(len(self.catalogue))
        self._open(opening_rng, now_ns)
        # The opening is what was before the first tick; candles begin with the first step.
        self.candles.clear()
        weight = _weights(self.catalogue, self.underlyings.forward_inr)
        weight[self._odd.is_dead] = 0.0
        self._pick_probability = weight * (options.rate_per_s / options.steps_per_s / weight.sum())

    @property
    def last_price_inr(self) -> NDArray[np.float64]:
        """The last price of every instrument, rupees, shape ``(n,)``."""
        price_inr: NDArray[np.float64] = self.board.ltp_raw / self.catalogue.price_scale
        return price_inr

    def step(self, at_ns: int) -> Changes:
        """Move the market by one step, in force from the instant ``at_ns``."""
        self.underlyings.step()
        self.underlyings.mark(at_ns)
        picked = self._rng.random(len(self.catalogue)) < self._pick_probability
        rows = np.flatnonzero(picked & (at_ns <= self.catalogue.last_trade_ns))
        self._requote(rows, at_ns, self._rng)
        least_mode = self.packets.encode(self.board, rows)
        seen = least_mode != UNCHANGED
        return Changes(rows=rows[seen], least_mode=least_mode[seen])

    def _open(self, rng: np.random.Generator, now_ns: int) -> None:
        """Fill the board as after the opening: yesterday's close, a first price, some volume."""
        board, lots = self.board, self.catalogue.lot_size
        count = len(self.catalogue)
        rows = np.arange(count)
        self.underlyings.mark(now_ns)
        today = self._opening_raw(rows, now_ns)
        overnight = 1.0 + OVERNIGHT_MOVE * rng.standard_normal(count)
        steps = self.catalogue.price_step_raw
        board.close_raw[:] = np.maximum(np.rint(today * overnight / steps), 1.0) * steps
        board.open_raw[:] = board.high_raw[:] = board.low_raw[:] = board.ltp_raw[:] = today
        is_tradable = rows >= self.catalogue.index_count
        board.volume[:] = rng.integers(1, OPENING_LOTS_MAX, count) * lots * is_tradable
        board.turnover_raw[:] = board.volume * board.ltp_raw.astype(np.float64)
        board.last_quantity[:] = lots * is_tradable
        board.last_trade_s[:] = is_tradable * (now_ns // NS_PER_S)
        oi_lots = rng.integers(1, OPENING_OI_LOTS_MAX, count)
        board.oi[:] = oi_lots * lots * self.catalogue.is_derivative
        board.oi_day_high[:] = board.oi_day_low[:] = board.oi
        self._requote(rows, now_ns, rng)
        self._odd.bury(board)
        self.packets.encode(board, rows)

    def _opening_raw(self, rows: NDArray[np.intp], now_ns: int) -> NDArray[np.int64]:
        step = self.catalogue.price_step_raw[rows]
        fair_raw = self._fair_inr(rows, now_ns) * self.catalogue.price_scale[rows]
        steps = np.maximum(np.rint(fair_raw / step), 1.0)
        return np.asarray(steps * step, np.int64)

    def _fair_inr(self, rows: NDArray[np.intp], at_ns: int) -> NDArray[np.float64]:
        """Return the model's price of each row, rupees."""
        listed, state = self.catalogue, self.underlyings
        driver, curve = listed.driver[rows], listed.curve[rows]
        fair = np.where(driver >= 0, state.price_inr[driver], state.vix())
        on_curve = curve >= 0
        fair[on_curve] = state.forward_inr[curve[on_curve]]
        option = np.flatnonzero(listed.is_option[rows])
        if len(option):
            curve, strike = curve[option], listed.strike_inr[rows[option]]
            forward = state.forward_inr[curve]
            years = np.maximum(state.years_to_expiry(at_ns), YEARS_MIN)[curve]
            volatility = volatility_per_year(state.smile[:, curve], forward, strike)
            is_call = listed.is_call[rows[option]]
            fair[option] = self._kernel.evaluate(volatility, forward, strike, years, RATE, is_call)[
                0
            ]
        return fair

    def _requote(self, rows: NDArray[np.intp], at_ns: int, rng: np.random.Generator) -> None:
        board = self.board
        board.exchange_s[rows] = at_ns // NS_PER_S
        split = int(np.searchsorted(rows, self.catalogue.index_count))
        index_rows, tradable_rows = rows[:split], rows[split:]
        value_raw = self._opening_raw(index_rows, at_ns)
        self._print(index_rows, value_raw)
        nothing = np.zeros_like(value_raw)
        self.candles.record(index_rows, value_raw, nothing, nothing, at_ns=at_ns)
        self._quote(tradable_rows, at_ns, rng)
        self._odd.spoil(board, tradable_rows)
        self._trade(tradable_rows, at_ns, rng)

    def _print(self, rows: NDArray[np.intp], price_raw: NDArray[np.int64]) -> None:
        """Make a price the last one, and widen the day's range to hold it."""
        board = self.board
        board.ltp_raw[rows] = price_raw
        board.high_raw[rows] = np.maximum(board.high_raw[rows], price_raw)
        board.low_raw[rows] = np.minimum(board.low_raw[rows], price_raw)

    def _quote(self, rows: NDArray[np.intp], at_ns: int, rng: np.random.Generator) -> None:
        """Set five levels on each side of the fair price, on the price step."""
        board, listed = self.board, self.catalogue
        step, lots = listed.price_step_raw[rows], listed.lot_size[rows]
        moneyness = self._moneyness(rows)
        fair = self._fair_inr(rows, at_ns) * listed.price_scale[rows] / step
        wing = np.minimum(
            HALF_SPREAD_STEPS_PER_MONEYNESS * moneyness,
            HALF_SPREAD_STEPS_WORTHLESS + HALF_SPREAD_RATIO_MAX * fair,
        )
        half = HALF_SPREAD_RATIO * fair + wing + rng.random(len(rows))
        best_bid = np.floor(fair - half).astype(np.int64)
        best_ask = np.maximum(np.ceil(fair + half).astype(np.int64), np.maximum(best_bid, 0) + 1)
        gap = 1 + (DEPTH_GAP_STEPS_PER_MONEYNESS * moneyness).astype(np.int64)
        away = gap[:, None] * np.arange(DEPTH_LEVELS)
        bid, ask = best_bid[:, None] - away, best_ask[:, None] + away
        # A buyer cannot offer less than one step: the level is then empty, which Kite writes as 0.
        present = bid >= 1
        board.bid_raw[rows] = np.where(present, bid, 0) * step[:, None]
        board.ask_raw[rows] = ask * step[:, None]
        shape = bid.shape
        bid_lots = rng.integers(1, LOTS_PER_LEVEL_MAX, shape) * present
        ask_lots = rng.integers(1, LOTS_PER_LEVEL_MAX, shape)
        orders = rng.integers(1, ORDERS_PER_LEVEL_MAX, (2, *shape))
        board.bid_quantity[rows] = bid_lots * lots[:, None]
        board.ask_quantity[rows] = ask_lots * lots[:, None]
        board.bid_orders[rows] = np.minimum(orders[0], bid_lots)
        board.ask_orders[rows] = np.minimum(orders[1], ask_lots)
        behind = rng.integers(0, LOTS_BEHIND_DEPTH_MAX, (2, len(rows))) * lots
        bids_behind = np.where(present.all(axis=1), behind[0], 0)
        board.buy_quantity[rows] = board.bid_quantity[rows].sum(axis=1) + bids_behind
        board.sell_quantity[rows] = board.ask_quantity[rows].sum(axis=1) + behind[1]

    def _trade(self, rows: NDArray[np.intp], at_ns: int, rng: np.random.Generator) -> None:
        """Let some of the rows trade at their best bid or offer."""
        board, listed = self.board, self.catalogue
        chance, side = rng.random((2, len(rows)))
        lots = rng.integers(1, LOTS_TRADED_MAX, len(rows))
        oi_lots = rng.integers(-OI_LOTS_MOVE, OI_LOTS_MOVE + 1, len(rows))
        traded = chance < TRADE_RATIO
        rows, lots, oi_lots, side = rows[traded], lots[traded], oi_lots[traded], side[traded]
        bid, ask = board.bid_raw[rows, 0], board.ask_raw[rows, 0]
        at_bid = (bid > 0) & ((side < 0.5) | (ask == 0))  # noqa: PLR2004 - a fair coin
        price = np.where(at_bid, bid, ask)
        self._print(rows, price)
        quantity = lots * listed.lot_size[rows]
        board.last_quantity[rows] = quantity
        board.volume[rows] += quantity
        board.turnover_raw[rows] += quantity * price
        board.last_trade_s[rows] = at_ns // NS_PER_S
        has_oi = board.oi[rows] > 0
        oi = np.maximum(board.oi[rows] + oi_lots * listed.lot_size[rows], listed.lot_size[rows])
        board.oi[rows] = np.where(has_oi, oi, 0)
        board.oi_day_high[rows] = np.maximum(board.oi_day_high[rows], board.oi[rows])
        board.oi_day_low[rows] = np.minimum(board.oi_day_low[rows], board.oi[rows])
        self.candles.record(rows, price, quantity, board.oi[rows], at_ns=at_ns)

    def _moneyness(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return _moneyness(self.catalogue, self.underlyings.forward_inr, rows)


def _moneyness(
    listed: catalogue_of.Catalogue, forward_inr: NDArray[np.float64], rows: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return |ln(strike / forward)| of options, 0 for all else."""
    distance = np.zeros(len(rows))
    option = np.flatnonzero(listed.is_option[rows])
    picked = rows[option]
    forward = forward_inr[listed.curve[picked]]
    distance[option] = np.abs(np.log(listed.strike_inr[picked] / forward))
    return distance


def _weights(
    listed: catalogue_of.Catalogue, forward_inr: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how often each instrument changes, relative to the others."""
    rows = np.arange(len(listed))
    distance = _moneyness(listed, forward_inr, rows)
    near = np.exp(-((distance / WEIGHT_WIDTH) ** 2))
    later = np.array([_later_expiries(listed.curves, curve) for curve in listed.curve])
    option = (WEIGHT_OPTION_FAR + WEIGHT_OPTION_NEAR * near) * WEIGHT_PER_LATER_EXPIRY**later
    weight = np.where(listed.is_option, option, WEIGHT_PLAIN)
    weight[: listed.index_count] = WEIGHT_INDEX
    return weight


def _later_expiries(curves: tuple[catalogue_of.Curve, ...], number: int) -> int:
    """Return how many expiries of the same underlying come before this one."""
    if number < 0:
        return 0
    mine = curves[number]
    return sum(each.underlying == mine.underlying and each.expiry < mine.expiry for each in curves)
