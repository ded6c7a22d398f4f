"""Live bars: what each instrument traded at in each interval, from the ticks that go by.

Beside the path: decode -> validate -> [bars], before anything is merged, so that a backlog costs
subscribers of ticks some ticks and subscribers of bars nothing.

Goal: the candles that Kite will state afterwards, as far as Kite's snapshots show them. A trade
belongs to the interval of its own stamp; a tick that shows no new trade (its volume has not grown)
moves no price. Volume is the growth of the day's cumulative volume, so that trades between two
snapshots are not lost, though they count where the second one does. A high or low that the day
had not seen before is taken over even when its trade was never shown. What no snapshot shows,
nobody can know: a price inside the day's range between two ticks.

A bar is final when it is published, a grace after its end; what comes later is counted. All work
is on columns; memory is fixed by the number of rows and the few bars that can be open at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.bar import bar_seconds
from ticker_service.domain.tick import NOT_CARRIED
from ticker_service.market.last_trades import NO_DAY, ByRow, day_of, volume_growth
from ticker_service.market.streams import Doubt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.config import BarsConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe
    from ticker_service.market.streams import Marks, Streams

CLOCK_AHEAD_NS_MAX: Final = 2 * NS_PER_S
"""As far as an exchange stamp may be ahead of us (``validate``)."""
PULSE_NS_MAX: Final = NS_PER_S
"""Bars are closed at least so often; between two times they pile up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBars:
    """All bars of one interval that ended at one instant, rows of a book together.

    Columns have shape ``(n,)``: prices in rupees, quantities in units; ``volume`` and ``oi`` are
    ``NOT_CARRIED`` and ``implied_volatility`` NaN where there is none. ``ticks`` is how many
    snapshots showed a trade; ``is_partial`` says that some may be missing.
    """

    interval: str
    start_ns: int
    end_ns: int
    rows: NDArray[np.intp]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.int64]
    oi: NDArray[np.int64]
    implied_volatility: NDArray[np.float64]
    ticks: NDArray[np.int64]
    is_partial: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trades:
    """Ticks that show a trade, shape ``(n,)``, those of a row together and in order.

    ``before_ns`` is the time of the row's tick before; ``day_high`` and ``day_low`` are those of
    the day where this tick has moved them, NaN elsewhere.
    """

    rows: NDArray[np.intp]
    at_ns: NDArray[np.int64]
    before_ns: NDArray[np.int64]
    price: NDArray[np.float64]
    day_high: NDArray[np.float64]
    day_low: NDArray[np.float64]
    volume: NDArray[np.int64]

    def take(self, chosen: NDArray[np.bool_]) -> _Trades:
        return _Trades(
            rows=self.rows[chosen],
            at_ns=self.at_ns[chosen],
            before_ns=self.before_ns[chosen],
            price=self.price[chosen],
            day_high=self.day_high[chosen],
            day_low=self.day_low[chosen],
            volume=self.volume[chosen],
        )


class Bars:
    """The open bars of every interval that is wanted; owned by the path's task."""

    def __init__(
        self, universe: Universe, config: BarsConfig, streams: Streams, *, now_ns: int
    ) -> None:
        rows = len(universe)
        self.is_wanted = bool(config.intervals)
        self._streams = streams
        self._is_lost = np.zeros(rows, np.bool_)
        self._day = np.full(rows, NO_DAY, np.int64)
        self._at_ns = np.zeros(rows, np.int64)
        self._volume = np.full(rows, NOT_CARRIED, np.int64)
        self._day_high = np.full(rows, np.nan)
        self._day_low = np.full(rows, np.nan)
        grace_ns = config.grace_ms * NS_PER_MS
        self.tables = [
            _Table(universe, interval, grace_ns=grace_ns, now_ns=now_ns)
            for interval in config.intervals
        ]

    def take(self, rows: NDArray[np.intp], ticks: Ticks, marks: Marks) -> None:
        """Take accepted ticks, those of an instrument in order of arrival.

        Args:
            rows: Their universe rows, shape ``(n,)``.
            ticks: The ticks.
            marks: What Kite had kept is where a bar starts from, and no trade. What is doubtful is
                left out; its volume is in the next tick's.
        """
        if not self.is_wanted:
            return
        if marks.doubt.any():
            is_sound = marks.doubt == Doubt.NONE
            rows, ticks, marks = rows[is_sound], ticks.take(is_sound), marks.take(is_sound)
        stamped_ns = np.where(ticks.exchange_ts_ns > 0, ticks.exchange_ts_ns, ticks.received_at_ns)
        trades = self._trades(rows, ticks, stamped_ns, ~marks.is_cached)
        has_oi = (ticks.oi != NOT_CARRIED) & ~marks.is_cached
        for table in self.tables:
            table.take(trades)
            table.take_oi(rows[has_oi], stamped_ns[has_oi], ticks.oi[has_oi])

    def take_volatility(
        self, rows: NDArray[np.intp], ticks: Ticks, volatility: NDArray[np.float64]
    ) -> None:
        """Take the volatilities of rows as just published; the last of a bar is its closing one."""
        if not self.is_wanted:
            return
        stamped_ns = np.where(ticks.exchange_ts_ns > 0, ticks.exchange_ts_ns, ticks.received_at_ns)
        for table in self.tables:
            table.take_volatility(rows, stamped_ns, volatility)

    def lose(self, rows: NDArray[np.intp]) -> None:
        """Note that the feed of some rows is lost: their bars lack something until it is back."""
        self._is_lost[rows] = True

    def gap(self, rows: NDArray[np.intp], *, from_ns: int, to_ns: int) -> None:
        """Note an interval in which ticks of some rows may be missing, and that it is over."""
        self._is_lost[rows] = False
        self.miss(rows, from_ns=from_ns, to_ns=to_ns)

    def miss(self, rows: NDArray[np.intp], *, from_ns: int, to_ns: int) -> None:
        """Note an interval in which ticks of some rows were not taken."""
        for table in self.tables:
            table.gap(rows, from_ns=from_ns, to_ns=to_ns)

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop what is known of instruments that are no longer subscribed."""
        self._day[rows] = NO_DAY
        self._volume[rows] = NOT_CARRIED
        self._day_high[rows] = self._day_low[rows] = np.nan
        for table in self.tables:
            table.end(rows)

    def close(self, now_ns: int) -> list[FinishedBars]:
        """Return the bars that have ended, oldest first within each interval.

        Args:
            now_ns: The present, ns since the Unix epoch.
        """
        finished = []
        for table in self.tables:
            table.advance_to(now_ns)
            finished += table.finished(self._is_lost, self._streams.subscribed_ns)
        return finished

    def _trades(
        self,
        rows: NDArray[np.intp],
        ticks: Ticks,
        stamped_ns: NDArray[np.int64],
        is_alive: NDArray[np.bool_],
    ) -> _Trades:
        """Return the ticks that show a trade, and remember each row's last."""
        by_row = ByRow(rows, row_count=len(self._at_ns))
        order, before = by_row.order, by_row.before
        at_ns = stamped_ns[order]
        day = day_of(at_ns)
        volume, high, low = ticks.volume[order], ticks.high[order], ticks.low[order]
        day_before = before(day, self._day)
        is_same_day = day_before == day
        volume_before = before(volume, self._volume)
        grown = volume_growth(volume, volume_before, is_same_day=is_same_day)
        high_before, low_before = before(high, self._day_high), before(low, self._day_low)
        price = ticks.ltp[order]
        # What has no volume is an index or comes in LTP mode: each tick is a new price.
        has_traded = ((volume == NOT_CARRIED) | (grown > 0)) & is_alive[order] & (price > 0.0)
        traded_ns = ticks.last_trade_ts_ns[order]
        trades = _Trades(
            rows=by_row.rows,
            at_ns=np.where(traded_ns > 0, traded_ns, at_ns),
            before_ns=before(at_ns, self._at_ns),
            price=price,
            day_high=np.where(is_same_day & (high > high_before), high, np.nan),
            day_low=np.where(is_same_day & (low < low_before), low, np.nan),
            volume=np.where(volume == NOT_CARRIED, NOT_CARRIED, grown),
        )
        return trades.take(has_traded)


class _Table:
    """The open bars of one interval: a few slots, each with a bar per row."""

    def __init__(self, universe: Universe, interval: str, *, grace_ns: int, now_ns: int) -> None:
        self.interval = interval
        self.late_ticks = np.zeros(len(universe.books), np.int64)
        """Ticks that came after their bar had been published, by book."""
        self._length_ns = bar_seconds(interval) * NS_PER_S
        self._grace_ns = grace_ns
        self._book = universe.book
        self._by_book = np.argsort(universe.book, kind="stable")
        overhang_ns = grace_ns + CLOCK_AHEAD_NS_MAX + PULSE_NS_MAX
        self._slots = -(-overhang_ns // self._length_ns) + 1
        self._closed = self._ended_by(now_ns)
        self._rows = rows = len(universe)
        cells = self._slots * rows
        self._open = np.full(cells, np.nan)
        self._high = np.full(cells, -np.inf)
        self._low = np.full(cells, np.inf)
        self._last = np.full(cells, np.nan)
        self._volume = np.zeros(cells, np.int64)
        self._has_volume = np.zeros(cells, np.bool_)
        self._oi = np.full(cells, NOT_CARRIED, np.int64)
        self._volatility = np.full(cells, np.nan)
        self._ticks = np.zeros(cells, np.int64)
        self._is_partial = np.zeros(cells, np.bool_)
        self._known_oi = np.full(rows, NOT_CARRIED, np.int64)
        self._ended: list[FinishedBars] = []

    @property
    def closed_until_ns(self) -> int:
        """The instant up to which bars are final."""
        return (self._closed + 1) * self._length_ns

    def take(self, trades: _Trades) -> None:
        """Put trades into their bars; those of bars that are final are counted."""
        bar = trades.at_ns // self._length_ns
        is_late = bar <= self._closed
        if is_late.any():
            np.add.at(self.late_ticks, self._book[trades.rows[is_late]], 1)
            trades, bar = trades.take(~is_late), bar[~is_late]
        while len(bar):
            fits = bar <= self._closed + self._slots
            self._merge(trades.take(fits), bar[fits])
            if fits.all():
                return
            # After a stall one flush spans many bars: the oldest make room, in their order.
            trades, bar = trades.take(~fits), bar[~fits]
            self._advance(int(bar.min()) - self._slots)

    def take_oi(
        self, rows: NDArray[np.intp], at_ns: NDArray[np.int64], oi: NDArray[np.int64]
    ) -> None:
        """Put open interests into their bars, the last of each bar staying."""
        bar = at_ns // self._length_ns
        is_open = (bar > self._closed) & (bar <= self._closed + self._slots)
        self._oi[self._cell(bar[is_open], rows[is_open])] = oi[is_open]

    def take_volatility(
        self, rows: NDArray[np.intp], at_ns: NDArray[np.int64], volatility: NDArray[np.float64]
    ) -> None:
        """Put volatilities into their bars, the last of each bar staying."""
        bar = at_ns // self._length_ns
        is_open = (bar > self._closed) & (bar <= self._closed + self._slots)
        self._volatility[self._cell(bar[is_open], rows[is_open])] = volatility[is_open]

    def gap(self, rows: NDArray[np.intp], *, from_ns: int, to_ns: int) -> None:
        """Call the open bars partial that an interval touches."""
        first = max(from_ns // self._length_ns, self._closed + 1)
        last = min(to_ns // self._length_ns, self._closed + self._slots)
        for bar in range(first, last + 1):
            self._is_partial[(bar % self._slots) * self._rows + rows] = True

    def end(self, rows: NDArray[np.intp]) -> None:
        """Call the open bars of some rows partial: nothing comes for them any more."""
        for slot in range(self._slots):
            self._is_partial[slot * self._rows + rows] = True
        self._known_oi[rows] = NOT_CARRIED

    def advance_to(self, now_ns: int) -> None:
        """End the bars whose grace is over."""
        self._advance(self._ended_by(now_ns))

    def finished(
        self, is_lost: NDArray[np.bool_], subscribed_ns: NDArray[np.int64]
    ) -> list[FinishedBars]:
        """Return what has ended since the last call, and whether something is missing there."""
        ended, self._ended = self._ended, []
        for bars in ended:
            # Asked for in its midst, or its feed lost: in either case it is a part.
            since_ns = subscribed_ns[bars.rows]
            bars.is_partial[:] |= is_lost[bars.rows] | (since_ns > bars.start_ns)
        return ended

    def _ended_by(self, now_ns: int) -> int:
        return int((now_ns - self._grace_ns) // self._length_ns) - 1

    def _cell(self, bar: NDArray[np.int64], rows: NDArray[np.intp]) -> NDArray[np.intp]:
        cell: NDArray[np.intp] = (bar % self._slots) * self._rows + rows
        return cell

    def _merge(self, trades: _Trades, bar: NDArray[np.int64]) -> None:
        cell, price = self._cell(bar, trades.rows), trades.price
        is_new = np.isnan(self._open[cell])
        # Of several for one bar the first stays, so they are written last to first.
        self._open[cell[is_new][::-1]] = price[is_new][::-1]
        self._last[cell] = price
        # An extreme of the day that this tick is the first to show was traded since the tick
        # before; if that was in the same bar, so was the extreme.
        is_within = trades.before_ns // self._length_ns == bar
        np.maximum.at(self._high, cell, price)
        np.minimum.at(self._low, cell, price)
        is_high = is_within & ~np.isnan(trades.day_high)
        is_low = is_within & ~np.isnan(trades.day_low)
        np.maximum.at(self._high, cell[is_high], trades.day_high[is_high])
        np.minimum.at(self._low, cell[is_low], trades.day_low[is_low])
        np.add.at(self._ticks, cell, 1)
        has_volume = trades.volume != NOT_CARRIED
        np.add.at(self._volume, cell[has_volume], trades.volume[has_volume])
        self._has_volume[cell[has_volume]] = True

    def _advance(self, last: int) -> None:
        """End all bars up to the number ``last``; of a long pause only the open ones matter."""
        for bar in range(self._closed + 1, min(last, self._closed + self._slots) + 1):
            self._end_bar(bar)
        self._closed = max(self._closed, last)

    def _end_bar(self, bar: int) -> None:
        slot = slice((bar % self._slots) * self._rows, (bar % self._slots + 1) * self._rows)
        has_oi = self._oi[slot] != NOT_CARRIED
        self._known_oi[has_oi] = self._oi[slot][has_oi]
        rows = self._by_book[self._ticks[slot][self._by_book] > 0]
        if len(rows):
            volume = self._volume[slot][rows]
            volume[~self._has_volume[slot][rows]] = NOT_CARRIED
            self._ended.append(
                FinishedBars(
                    interval=self.interval,
                    start_ns=bar * self._length_ns,
                    end_ns=(bar + 1) * self._length_ns,
                    rows=rows,
                    open=self._open[slot][rows],
                    high=self._high[slot][rows],
                    low=self._low[slot][rows],
                    close=self._last[slot][rows],
                    volume=volume,
                    oi=self._known_oi[rows],
                    implied_volatility=self._volatility[slot][rows],
                    ticks=self._ticks[slot][rows],
                    is_partial=self._is_partial[slot][rows],
                )
            )
        for column in (self._open, self._last, self._volatility):
            column[slot] = np.nan
        self._high[slot], self._low[slot] = -np.inf, np.inf
        for quantity in (self._volume, self._ticks):
            quantity[slot] = 0
        self._oi[slot] = NOT_CARRIED
        self._has_volume[slot] = self._is_partial[slot] = False
