"""Number, encode and hand on what subscribers get: batches, heartbeats, gaps, statuses, snapshots.

Path: feed -> decode -> validate -> batch -> price -> [publish].

Per book, ``seq`` is gap-free within an ``epoch`` and consumed by batches, gaps and statuses;
heartbeats repeat the last one (invariants M1 and M2, docs/wire.md). A message keeps its number
until it is confirmed: when Redis does not answer, the same bytes are sent again, and a subscriber
that saw them already drops them by their ``seq``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from ticker_service.constants import NS_PER_US
from ticker_service.domain.tick import DEPTH_LEVELS, NOT_CARRIED, Mode
from ticker_service.market.forward_source import ForwardSource
from ticker_service.market.price import Leg
from ticker_service.market.quotes import PriceSource
from ticker_service.pricing import STATUS_WIRE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.config import PublishConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe
    from ticker_service.market.batch import Batch
    from ticker_service.market.price import Priced

WIRE_VERSION: Final = 1
SNAPSHOT_LIFETIME_MS: Final = 5_000
"""A snapshot outlives its publisher by no more than this: an old one must not look like news."""
INSTRUMENTS_LIFETIME_MS: Final = 120_000
"""Renewed every 30 s; what nobody publishes any more should not look as if somebody did."""
Columns = dict[str, Any]


def _names(words: Sequence[str]) -> NDArray[np.object_]:
    return np.array([word.lower() for word in words], dtype=object)


_MODE_NAMES: Final = np.array([None, *(mode.wire_name for mode in Mode)], dtype=object)
_PRICE_SOURCE_NAMES: Final = _names([source.name for source in PriceSource])
_FORWARD_SOURCE_NAMES: Final = _names([source.name for source in ForwardSource])
_LEG_NAMES: Final = _names([leg.name for leg in Leg])
_STATUS_NAMES: Final = np.array(STATUS_WIRE_NAMES, dtype=object)


@dataclass(slots=True)
class _BookCounters:
    """What a book's channel has seen since the epoch began."""

    seq: int = 0
    published: int = 0
    conflated: int = 0
    rejected: int = 0


class Announcer:
    """Writes the books' messages in order; one per process run, owned by the pipeline's task.

    ``epoch`` must increase with every run: consumers drop what is older than what they have.
    """

    def __init__(self, universe: Universe, config: PublishConfig, *, epoch: int) -> None:
        self.epoch = epoch
        self._universe = universe
        self._config = config
        self._counters = [_BookCounters() for _ in universe.books]

    def batch(self, batch: Batch, priced: Priced, *, now_ns: int) -> tuple[str, bytes]:
        """Return the channel and the message of one batch; consumes a ``seq``."""
        counters = self._counters[batch.book]
        counters.published += 0 if batch.is_repriced else len(batch.ticks)
        counters.conflated += batch.conflated
        columns = self._columns(batch.ticks, priced, is_repriced=batch.is_repriced)
        return self._numbered(
            batch.book, "batch", now_ns, {"n": len(batch.ticks), "columns": columns}
        )

    def gap(
        self,
        book: int,
        *,
        from_ns: int,
        to_ns: int,
        reason: str,
        instruments: Sequence[int],
        now_ns: int,
    ) -> tuple[str, bytes]:
        """Return the message that says ticks of these instruments may be missing."""
        facts = {
            "from_us": from_ns // NS_PER_US,
            "to_us": to_ns // NS_PER_US,
            "reason": reason,
            "instruments": list(instruments),
        }
        return self._numbered(book, "gap", now_ns, facts)

    def status(self, book: int, state: str, reason: str, *, now_ns: int) -> tuple[str, bytes]:
        """Return the message that says what the book's feed is doing."""
        return self._numbered(book, "status", now_ns, {"state": state, "reason": reason})

    def heartbeat(self, book: int, feed: str, *, now_ns: int) -> tuple[str, bytes]:
        """Return the message that tells a quiet channel from a dead one; repeats the ``seq``."""
        counters = self._counters[book]
        facts = {
            "feed": feed,
            "published": counters.published,
            "conflated": counters.conflated,
            "rejected": counters.rejected,
        }
        return self._channel(book), self._encode(book, "heartbeat", now_ns, facts)

    def snapshot(
        self, book: int, ticks: Ticks, priced: Priced, *, now_ns: int
    ) -> tuple[str, bytes, int]:
        """Return key, value and lifetime of a book's latest rows, true for its present ``seq``."""
        facts = {"n": len(ticks), "columns": self._columns(ticks, priced, is_repriced=False)}
        key = f"{self._config.channel_prefix}snapshot:{self._universe.books[book]}"
        return key, self._encode(book, "snapshot", now_ns, facts), SNAPSHOT_LIFETIME_MS

    def instruments(self, book: int, *, now_ns: int) -> tuple[str, bytes, int]:
        """Return key, value and lifetime of what a book's tokens stand for."""
        of_book = self._universe.book == book
        table = self._universe.instruments.take(of_book)
        columns: Columns = {
            "instrument_token": table.instrument_token,
            "tradingsymbol": table.tradingsymbol.tolist(),
            "exchange": table.exchange.tolist(),
            "instrument_type": table.instrument_type.tolist(),
            "expiry": [str(day) if day else None for day in table.expiry.tolist()],
            "variance_ends_us": _integers(
                self._universe.expiry_ns[of_book] // NS_PER_US, missing=0
            ),
            "last_trade_us": _integers(
                self._universe.last_trade_ns[of_book] // NS_PER_US, missing=0
            ),
            "strike": np.where(table.is_option(), table.strike, np.nan),
            "lot_size": table.lot_size,
            "price_step": table.price_step,
        }
        key = f"{self._config.channel_prefix}instruments:{self._universe.books[book]}"
        facts = {"n": len(table), "columns": columns}
        return key, self._encode(book, "instruments", now_ns, facts), INSTRUMENTS_LIFETIME_MS

    def count_rejected(self, by_book: NDArray[np.int64]) -> None:
        """Add to the books' counters what validation dropped; by book number."""
        for book in np.flatnonzero(by_book).tolist():
            self._counters[book].rejected += int(by_book[book])

    def _columns(self, ticks: Ticks, priced: Priced, *, is_repriced: bool) -> Columns:
        columns = tick_columns(ticks)
        if self._config.depth:
            columns |= depth_columns(ticks)
        if len(self._universe.expiries):
            columns |= priced_columns(priced)
        columns["is_repriced"] = [is_repriced] * len(ticks)
        return columns

    def _numbered(
        self, book: int, kind: str, now_ns: int, facts: Mapping[str, object]
    ) -> tuple[str, bytes]:
        self._counters[book].seq += 1
        return self._channel(book), self._encode(book, kind, now_ns, facts)

    def _channel(self, book: int) -> str:
        return f"{self._config.channel_prefix}ticks:{self._universe.books[book]}"

    def _encode(self, book: int, kind: str, now_ns: int, facts: Mapping[str, object]) -> bytes:
        message = {
            "v": WIRE_VERSION,
            "kind": kind,
            "book": self._universe.books[book],
            "epoch": self.epoch,
            "seq": self._counters[book].seq,
            "published_at_us": now_ns // NS_PER_US,
            **facts,
        }
        return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)


def tick_columns(ticks: Ticks) -> Columns:
    """Return the wire columns every instrument has; NaN becomes ``null`` when encoded."""
    return {
        "instrument_token": ticks.instrument_token,
        "exchange_ts_us": _integers(ticks.exchange_ts_ns // NS_PER_US, missing=0),
        "received_at_us": ticks.received_at_ns // NS_PER_US,
        "ltp": ticks.ltp,
        "last_quantity": _integers(ticks.last_quantity),
        "average_price": ticks.average_price,
        "volume": _integers(ticks.volume),
        "buy_quantity": _integers(ticks.buy_quantity),
        "sell_quantity": _integers(ticks.sell_quantity),
        "open": ticks.open,
        "high": ticks.high,
        "low": ticks.low,
        "close": ticks.close,
        "change_pct": np.round(100.0 * (ticks.ltp / ticks.close - 1.0), 4),
        "oi": _integers(ticks.oi),
        "bid": ticks.bid_price[0],
        "ask": ticks.ask_price[0],
        "bid_quantity": _integers(ticks.bid_quantity[0]),
        "ask_quantity": _integers(ticks.ask_quantity[0]),
        "mode": _MODE_NAMES[ticks.mode].tolist(),
    }


def depth_columns(ticks: Ticks) -> Columns:
    """Return five levels of both sides as thirty columns, best level 1."""
    columns: Columns = {}
    for level in range(DEPTH_LEVELS):
        for side in ("bid", "ask"):
            columns[f"{side}_price_{level + 1}"] = getattr(ticks, f"{side}_price")[level]
            for name in ("quantity", "orders"):
                values = getattr(ticks, f"{side}_{name}")[level]
                columns[f"{side}_{name}_{level + 1}"] = _integers(values)
    return columns


def priced_columns(priced: Priced) -> Columns:
    """Return the wire columns of options; ``null`` in the rows of other instruments."""
    is_option = priced.is_option
    return {
        "implied_volatility": np.where(is_option, priced.implied_volatility, np.nan),
        "delta": np.where(is_option, priced.delta, np.nan),
        "gamma": np.where(is_option, priced.gamma, np.nan),
        "theta": np.where(is_option, priced.theta, np.nan),
        "vega": np.where(is_option, priced.vega, np.nan),
        "rho": np.where(is_option, priced.rho, np.nan),
        "price_used": np.where(is_option, priced.price_used, np.nan),
        "price_source": _words(_PRICE_SOURCE_NAMES, priced.price_source, is_option),
        "forward": np.where(is_option, priced.forward, np.nan),
        "forward_source": _words(_FORWARD_SOURCE_NAMES, priced.forward_source, is_option),
        "forward_age_ms": np.where(is_option, np.round(priced.forward_age_ms), np.nan),
        "forward_dispersion": np.where(is_option, np.round(priced.forward_dispersion, 4), np.nan),
        "iv_status": _words(_STATUS_NAMES, priced.iv_status, is_option),
        "iv_leg": _words(_LEG_NAMES, priced.iv_leg, is_option),
    }


def _integers(
    values: NDArray[np.int64], *, missing: int = NOT_CARRIED
) -> NDArray[np.int64] | list[int | None]:
    """Return whole numbers for the wire, with ``null`` where a value is missing.

    A list only when something is missing: orjson writes a numpy column without making objects, but
    an integer column has no NaN, and a float column would change 65 into 65.0 from batch to batch.
    """
    is_missing = values == missing
    if not is_missing.any():
        return values
    listed: list[int | None] = values.tolist()
    for row in np.flatnonzero(is_missing).tolist():
        listed[row] = None
    return listed


def _words(
    names: NDArray[np.object_], codes: NDArray[np.uint8], is_option: NDArray[np.bool_]
) -> list[str | None]:
    words = names[codes]
    words[~is_option] = None
    listed: list[str | None] = words.tolist()
    return listed
