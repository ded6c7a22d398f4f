"""Write bars for their channels: one per book and interval, each with a numbering of its own.

Beside the path. The rules are those of the books' channels (``publish``): ``seq`` is gap-free
within an epoch and consumed by bars and gaps, heartbeats repeat the last one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.constants import NS_PER_US
from ticker_service.domain.bar import bar_seconds
from ticker_service.domain.tick import NOT_CARRIED
from ticker_service.market.encode import dumps, whole_numbers
from ticker_service.market.publish import WIRE_VERSION
from ticker_service.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe
    from ticker_service.market.bars import Bars, FinishedBars

MS_PER_S: Final = 1_000
LIFETIME_MS_MIN: Final = 10_000
LIFETIME_INTERVALS: Final = 3
"""The key of the newest bars ends itself after so many intervals without one."""


class BarAnnouncer:
    """Numbers and encodes bars; one per process run, owned by the path's task."""

    def __init__(
        self, universe: Universe, intervals: Sequence[str], *, channel_prefix: str, epoch: int
    ) -> None:
        self._universe = universe
        self._intervals = intervals
        self._prefix = channel_prefix
        self._epoch = epoch
        self._seq: Counter[tuple[int, str]] = Counter()
        self._has_options = [
            bool(universe.is_option[universe.book == book].any())
            for book in range(len(universe.books))
        ]

    def bars(self, finished: Sequence[FinishedBars], *, now_ns: int) -> Outgoing:
        """Return the messages with finished bars, and the keys with the newest of each book."""
        messages: list[tuple[str, bytes]] = []
        newest: dict[str, tuple[str, bytes, int]] = {}
        for one in finished:
            for book, part in _parts(self._universe.book[one.rows]):
                self._seq[book, one.interval] += 1
                facts = self._facts(one, book, part)
                messages.append(
                    (
                        self._name("bars", book, one.interval),
                        self._encode("bars", book, one.interval, now_ns, facts),
                    )
                )
                key = self._name("bar", book, one.interval)
                value = self._encode("bar", book, one.interval, now_ns, facts)
                newest[key] = (key, value, _lifetime_ms(one.interval))
        return Outgoing(messages=messages, values=list(newest.values()))

    def gap(self, book: int, facts: Mapping[str, object], *, now_ns: int) -> Outgoing:
        """Return a book's gap for the channels of all its intervals."""
        messages = []
        for interval in self._intervals:
            self._seq[book, interval] += 1
            name = self._name("bars", book, interval)
            messages.append((name, self._encode("gap", book, interval, now_ns, facts)))
        return Outgoing(messages=messages)

    def heartbeat(self, book: int, feed: str, bars: Bars, *, now_ns: int) -> Outgoing:
        """Return the heartbeats of a book's channels: up to when bars are final, what was late."""
        messages = []
        for table in bars.tables:
            facts = {
                "feed": feed,
                "closed_until_us": table.closed_until_ns // NS_PER_US,
                "late_ticks": int(table.late_ticks[book]),
            }
            name = self._name("bars", book, table.interval)
            message = self._encode("heartbeat", book, table.interval, now_ns, facts)
            messages.append((name, message))
        return Outgoing(messages=messages)

    def _facts(self, one: FinishedBars, book: int, part: slice) -> dict[str, object]:
        columns: dict[str, Any] = {
            "instrument_token": self._universe.instrument_token[one.rows[part]],
            "open": one.open[part],
            "high": one.high[part],
            "low": one.low[part],
            "close": one.close[part],
            "volume": whole_numbers(one.volume[part], missing=NOT_CARRIED),
            "oi": whole_numbers(one.oi[part], missing=NOT_CARRIED),
        }
        if self._has_options[book]:
            columns["implied_volatility"] = one.implied_volatility[part]
        columns |= {"ticks": one.ticks[part], "is_partial": one.is_partial[part]}
        return {
            "start_us": one.start_ns // NS_PER_US,
            "end_us": one.end_ns // NS_PER_US,
            "n": part.stop - part.start,
            "columns": columns,
        }

    def _name(self, what: str, book: int, interval: str) -> str:
        return f"{self._prefix}{what}:{self._universe.books[book]}:{interval}"

    def _encode(
        self, kind: str, book: int, interval: str, now_ns: int, facts: Mapping[str, object]
    ) -> bytes:
        return dumps(
            {
                "v": WIRE_VERSION,
                "kind": kind,
                "book": self._universe.books[book],
                "interval": interval,
                "epoch": self._epoch,
                "seq": self._seq[book, interval],
                "published_at_us": now_ns // NS_PER_US,
                **facts,
            }
        )


def _parts(book: NDArray[np.intp]) -> list[tuple[int, slice]]:
    """Return each book's number and where its rows lie; rows of a book stand together."""
    starts = np.flatnonzero(np.r_[True, book[1:] != book[:-1]]).tolist()
    ends = [*starts[1:], len(book)]
    return [(int(book[a]), slice(a, b)) for a, b in zip(starts, ends, strict=True)]


def _lifetime_ms(interval: str) -> int:
    lifetime_s = LIFETIME_INTERVALS * bar_seconds(interval)
    return max(LIFETIME_MS_MIN, lifetime_s * MS_PER_S)
