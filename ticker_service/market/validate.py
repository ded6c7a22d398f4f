"""Keep ticks that can be true, and count the rest by reason.

Path: feed -> decode -> [validate] -> batch -> price -> publish.
Pure but for the memory it is handed (``streams``): no I/O and no clock; receive times travel with
the rows.

A row is rejected for what no market can have sent, or what would put an older price over a newer
one. What a market does print now and then is doubtful: a crossed book in an auction, a price off
the step because the step was changed today. That is rejected, too, unless the settings want it
published with its mark. Almost every flush is wholly good, so each check first asks for the whole
flush, and looks for rows only when there is something to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain.tick import Mode, Ticks
from ticker_service.domain.universe import ABSENT
from ticker_service.market.streams import Doubt, Marks, progress_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ticker_service.config import ValidationConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.market.streams import Streams

UNKNOWN_TOKEN: Final = "unknown_token"  # noqa: S105 - an instrument token, not a credential
NOT_SUBSCRIBED: Final = "not_subscribed"
UNKNOWN_SEGMENT: Final = "unknown_segment"
IMPOSSIBLE_PRICE: Final = "impossible_price"
IMPOSSIBLE_QUANTITY: Final = "impossible_quantity"
FUTURE_TIME: Final = "future_time"
TOO_OLD: Final = "too_old"
TIME_BACK: Final = "time_back"
CROSSED_DEPTH: Final = Doubt.CROSSED_DEPTH.name.lower()
OFF_PRICE_STEP: Final = Doubt.OFF_PRICE_STEP.name.lower()
REASONS: Final = {
    UNKNOWN_TOKEN: "no instrument of the day that we may subscribe",
    NOT_SUBSCRIBED: "no longer subscribed; under way when the instrument was dropped",
    UNKNOWN_SEGMENT: "subscribed, but of a segment whose price scale is not known",
    IMPOSSIBLE_PRICE: "zero or negative, or a high below the low",
    IMPOSSIBLE_QUANTITY: "a single quantity beyond 2,147,483,647, or an open interest out of range",
    FUTURE_TIME: "stamped later than it was received",
    TOO_OLD: "stamped long before it was received, and after it was subscribed",
    TIME_BACK: "stamped before a tick of the instrument that was already accepted",
    CROSSED_DEPTH: "the best bid is above the best offer; refused unless doubtful ticks go out",
    OFF_PRICE_STEP: "a price is no multiple of the price step; likewise",
}
"""Why a packet with a readable layout is not published, in the order in which they are asked."""

# An exchange clock may run a little ahead of ours, and its stamps have whole seconds. Beyond this
# the packet is corrupt, not early.
EXCHANGE_CLOCK_AHEAD_NS_MAX: Final = 2_000_000_000
QUANTITY_MAX: Final = (1 << 31) - 1
"""Beyond this a number below zero was sent. The day's volume and the totals of a side may be more:
the wire has 32 bits for them, and cheap shares have used the last one."""
STEP_SLACK_RATIO: Final = 1e-5
"""Of a price step. The finest wire price is 0.00004 of the coarsest step of its segment."""
_STAMP_NS: Final = NS_PER_S
"""A stamp names a second, not the instant within it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausible:
    """Ticks that can be true with their universe rows, and the count of the others by reason.

    ``progress`` is that of ``streams``; ``refused`` are the places of the others in what was
    decoded, by reason. ``doubtful`` are the universe rows of ticks that are doubtful, refused or
    not, each as often as it has one.
    """

    rows: NDArray[np.intp]
    ticks: Ticks
    progress: NDArray[np.int64]
    marks: Marks
    refused: Mapping[str, NDArray[np.intp]]
    rejected_by_book: NDArray[np.int64]
    doubtful: NDArray[np.intp]

    @property
    def rejected(self) -> dict[str, int]:
        """How many were rejected, by reason."""
        return {reason: len(places) for reason, places in self.refused.items()}

    @property
    def doubted(self) -> dict[str, NDArray[np.intp]]:
        """Where the ticks are that go on with a doubt, by its name."""
        doubt = self.marks.doubt
        if not doubt.any():
            return {}
        places = {one.name.lower(): np.flatnonzero(doubt == one) for one in Doubt if one}
        return {name: found for name, found in places.items() if len(found)}


def plausible(
    ticks: Ticks,
    universe: Universe,
    streams: Streams,
    *,
    wanted: NDArray[np.bool_],
    limits: ValidationConfig,
    rows: NDArray[np.intp] | None = None,
) -> Plausible:
    """Drop what cannot be true, each row for its first reason, and mark what is doubtful.

    Args:
        ticks: Decoded rows in order of arrival.
        universe: What may be subscribed; any other token is unknown.
        streams: What each instrument's earlier ticks have shown; read, not written.
        wanted: Mask of the universe rows that are subscribed now. A tick of another row was under
            way when its instrument was dropped, and nothing would ever refresh it again.
        limits: How old a tick may be, and whether a doubtful one may go on.
        rows: The universe row of each tick, if it was looked up before.

    Returns:
        The rows that may go on, in order.
    """
    if rows is None:
        rows = universe.rows_of(ticks.instrument_token)
    sieve = _Sieve(rows, ticks)
    sieve.refuse(UNKNOWN_TOKEN, rows == ABSENT)
    sieve.refuse(NOT_SUBSCRIBED, ~wanted[sieve.rows])
    if not streams.all_readable:
        sieve.refuse(UNKNOWN_SEGMENT, ~streams.is_readable[sieve.rows])
    sieve.refuse(IMPOSSIBLE_PRICE, _impossible_price(sieve.ticks))
    sieve.refuse(IMPOSSIBLE_QUANTITY, _impossible_quantity(sieve.ticks))
    sieve.refuse(FUTURE_TIME, _future_time(sieve.ticks))
    is_cached = _cached(sieve.rows, sieve.ticks, streams)
    too_old = _too_old(sieve.ticks, age_ns_max=limits.tick_age_ms_max * NS_PER_MS)
    if too_old is not None:
        too_old &= ~is_cached
        sieve.refuse(TOO_OLD, too_old)
        is_cached = is_cached[~too_old]
    progress = progress_of(sieve.ticks)
    back = _time_back(sieve.rows, sieve.ticks, progress, streams)
    if back is not None:
        sieve.refuse(TIME_BACK, back)
        is_cached, progress = is_cached[~back], progress[~back]
    doubt = _doubt(sieve.rows, sieve.ticks, streams)
    is_doubtful = doubt.astype(np.bool_)
    doubtful = sieve.rows[is_doubtful]
    if len(doubtful) and not limits.publishes_doubtful:
        for each in (Doubt.CROSSED_DEPTH, Doubt.OFF_PRICE_STEP):
            fails = doubt == each
            sieve.refuse(each.name.lower(), fails)
            doubt = doubt[~fails]
        is_cached, progress = is_cached[~is_doubtful], progress[~is_doubtful]
    marks = Marks(is_cached=is_cached, doubt=doubt)
    lost = rows[sieve.refused_places()]
    by_book = np.zeros(len(universe.books), np.int64)
    if len(lost):
        np.add.at(by_book, universe.book[lost[lost != ABSENT]], 1)
    return Plausible(
        rows=sieve.rows,
        ticks=sieve.ticks,
        progress=progress,
        marks=marks,
        refused=sieve.refused,
        rejected_by_book=by_book,
        doubtful=doubtful,
    )


class _Sieve:
    """The rows that have passed so far, and where those that have not stood."""

    def __init__(self, rows: NDArray[np.intp], ticks: Ticks) -> None:
        self.rows = rows
        self.ticks = ticks
        self.refused: dict[str, NDArray[np.intp]] = {}
        self._places: NDArray[np.intp] | None = None

    def refuse(self, reason: str, fails: NDArray[np.bool_] | None) -> None:
        """Take out the rows that fail; None says that there are none."""
        if fails is None or not fails.any():
            return
        places = np.arange(len(self.rows)) if self._places is None else self._places
        passes = ~fails
        self.refused[reason] = places[fails]
        self._places = places[passes]
        self.rows = self.rows[passes]
        self.ticks = self.ticks.take(passes)

    def refused_places(self) -> NDArray[np.intp]:
        """Return the places of all that were refused."""
        if not self.refused:
            return np.empty(0, np.intp)
        return np.concatenate(list(self.refused.values()))


def _impossible_price(ticks: Ticks) -> NDArray[np.bool_] | None:
    """Return the rows whose prices no market prints.

    A missing last price is not impossible in full mode: a contract that never traded has a depth
    and no trade. In the lesser modes such a packet carries nothing at all.
    """
    has_ltp = ticks.ltp > 0.0
    bad_range = ticks.high < ticks.low
    # NaN (an empty level, a value not carried) compares False here, as it should.
    others = (ticks.open, ticks.high, ticks.low, ticks.close, ticks.average_price)
    levels = (ticks.bid_price, ticks.ask_price)
    is_wholly_good = has_ltp.all() and not bad_range.any()
    if is_wholly_good and not any((price <= 0.0).any() for price in (*others, *levels)):
        return None
    never_traded = np.isnan(ticks.ltp) & (ticks.mode == Mode.FULL)
    impossible: NDArray[np.bool_] = ~has_ltp & ~never_traded | bad_range
    for price in others:
        impossible |= price <= 0.0
    for side in levels:
        impossible |= (side <= 0.0).any(axis=0)
    return impossible


def _impossible_quantity(ticks: Ticks) -> NDArray[np.bool_] | None:
    """Return the rows with a quantity below zero, which the wire shows as a huge one."""
    bad_interest = ticks.oi_day_high < ticks.oi_day_low
    quantities = (ticks.last_quantity, ticks.bid_quantity, ticks.ask_quantity)
    if not any(_any_above(each, QUANTITY_MAX) for each in quantities) and not bad_interest.any():
        return None
    impossible: NDArray[np.bool_] = bad_interest | (ticks.last_quantity > QUANTITY_MAX)
    for side in (ticks.bid_quantity, ticks.ask_quantity):
        impossible |= (side > QUANTITY_MAX).any(axis=0)
    return impossible


def _future_time(ticks: Ticks) -> NDArray[np.bool_]:
    latest = np.maximum(ticks.exchange_ts_ns, ticks.last_trade_ts_ns)
    is_future: NDArray[np.bool_] = latest > ticks.received_at_ns + EXCHANGE_CLOCK_AHEAD_NS_MAX
    return is_future


def _cached(rows: NDArray[np.intp], ticks: Ticks, streams: Streams) -> NDArray[np.bool_]:
    """Return the ticks that were made before they were asked for.

    On every subscribe Kite sends the last tick it kept, which may be yesterday's (kite.md §1.8).
    A stamp tells; a tick without one is taken for such if it is the first since the subscription.
    """
    stamp_ns = ticks.exchange_ts_ns
    # Stamps later than any subscription: the usual flush.
    if len(rows) and stamp_ns.min() + _STAMP_NS > streams.newest_subscription_ns:
        return np.zeros(len(rows), np.bool_)
    is_early = stamp_ns + _STAMP_NS <= streams.subscribed_ns[rows]
    return np.where(stamp_ns > 0, is_early, streams.awaits_first[rows])


def _too_old(ticks: Ticks, *, age_ns_max: int) -> NDArray[np.bool_] | None:
    stamp_ns, received_ns = ticks.exchange_ts_ns, ticks.received_at_ns
    if not len(ticks) or received_ns.max() - stamp_ns.min() <= age_ns_max:
        return None
    too_old: NDArray[np.bool_] = (stamp_ns > 0) & (received_ns - stamp_ns > age_ns_max)
    return too_old if too_old.any() else None


def _time_back(
    rows: NDArray[np.intp], ticks: Ticks, progress: NDArray[np.int64], streams: Streams
) -> NDArray[np.bool_] | None:
    """Return the ticks that are older than one of their instrument that came before them."""
    stamped = ticks.exchange_ts_ns > 0
    back = (progress < streams.progress[rows]) & stamped
    if streams.repeats(rows):
        places = np.flatnonzero(stamped)
        back[places] |= _falls_within(rows[places], progress[places])
    return back if back.any() else None


def _falls_within(rows: NDArray[np.intp], progress: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where a row's progress is less than it was further up, rows being mixed."""
    order = np.argsort(rows, kind="stable")
    of_row, its = rows[order], progress[order]
    falls = np.zeros(len(rows), np.bool_)
    drops = (of_row[1:] == of_row[:-1]) & (its[1:] < its[:-1])
    for row in np.unique(of_row[1:][drops]).tolist():
        start, end = np.searchsorted(of_row, [row, row + 1])
        part = its[start:end]
        falls[order[start:end]] = part < np.maximum.accumulate(part)
    return falls


def _doubt(rows: NDArray[np.intp], ticks: Ticks, streams: Streams) -> NDArray[np.uint8]:
    """Return why each tick is doubtful, for its first reason."""
    bid, ask = ticks.bid_price[0], ticks.ask_price[0]
    doubt = np.zeros(len(rows), np.uint8)
    steps = np.empty((3, len(rows)))
    # An index has no step; what is divided by infinity is on it.
    np.divide((ticks.ltp, bid, ask), streams.step_or_infinity[rows], out=steps)
    off_step = np.abs(steps - np.rint(steps)) > STEP_SLACK_RATIO
    if off_step.any():
        doubt[off_step.any(axis=0)] = Doubt.OFF_PRICE_STEP
    crossed = bid > ask
    if crossed.any():
        # A price for no quantity is nobody's offer, and crosses nothing.
        crossed &= (ticks.bid_quantity[0] > 0) & (ticks.ask_quantity[0] > 0)
        doubt[crossed] = Doubt.CROSSED_DEPTH
    return doubt


def _any_above(quantity: NDArray[np.int64], limit: int) -> bool:
    return bool(quantity.size) and bool(quantity.max() > limit)
