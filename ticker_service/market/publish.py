"""Number, encode and hand on what subscribers get: batches, heartbeats, gaps, smiles, snapshots.

Path: feed -> decode -> validate -> batch -> price -> [publish].

Per book, ``seq`` is gap-free within an ``epoch`` and consumed by every message but heartbeats,
which repeat the last one (invariants M1 and M2, docs/wire.md). A message keeps its number
until it is confirmed: when Redis does not answer, the same bytes are sent again, and a subscriber
that saw them already drops them by their ``seq``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.constants import NS_PER_US
from ticker_service.market import columns, encode
from ticker_service.market.instrument_channels import InstrumentChannels
from ticker_service.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.config import PublishConfig
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe
    from ticker_service.market.batch import Batch
    from ticker_service.market.price import Priced
    from ticker_service.market.smiles import BookSmiles
    from ticker_service.market.streams import Standing

    Tap = Callable[[int, Mapping[str, Any], list[NDArray[Any]]], None]

WIRE_VERSION: Final = 1
SNAPSHOT_LIFETIME_MS: Final = 5_000
"""A snapshot outlives its publisher by no more than this: an old one must not look like news."""
INSTRUMENTS_LIFETIME_MS: Final = 120_000
"""Renewed every 30 s; what nobody publishes any more should not look as if somebody did."""

HEARTBEAT_LIFETIME_MS: Final = 7 * 86_400_000
"""A newest heartbeat stays over any holidays: the next run tells by it since when it was away."""


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
        has_options = len(universe.expiries) > 0
        self.columns = columns.chosen(
            depth=config.depth,
            options=has_options,
            own_volatility=has_options and config.own_volatility,
        )
        """The columns of every batch, in their order."""
        self._encoders = encode.encoders(config.encodings, self.columns)
        self.tap: Tap | None = None
        """Who else wants the book, header and columns of every batch; the arrays stay ours."""
        self._instruments = None
        if config.instrument_channels:
            self._instruments = InstrumentChannels(
                universe,
                self.columns,
                prefix=config.channel_prefix,
                lifetime_ms=config.instrument_ttl_ms,
            )

    def batches(
        self, batches: Sequence[Batch], rows: columns.Rows, *, now_ns: int
    ) -> list[Outgoing]:
        """Return the messages of each batch; each consumes a ``seq`` of its book.

        Args:
            batches: One per book that has rows.
            rows: The rows of all of them, each batch's where its ``part`` says.
            now_ns: The instant of publishing, ns since the Unix epoch.
        """
        if not batches:
            return []
        # For all books at once: a call costs more than the rows of a book.
        values = self._values(rows)
        parts = [batch.part for batch in batches]
        headers = [self._counted(batch, rows, now_ns=now_ns) for batch in batches]
        encoded = [one.encode_parts(headers, values, parts) for one in self._encoders]
        listed = []
        for batch, header, *messages in zip(batches, headers, *encoded, strict=True):
            channels = (self._name(one.channel, batch.book) for one in self._encoders)
            outgoing = Outgoing(messages=list(zip(channels, messages, strict=True)))
            if self.tap is not None or self._instruments is not None:
                of_batch = [column[batch.part] for column in values]
                besides = self._besides(batch.book, header, of_batch)
                outgoing = Outgoing.join([outgoing, besides])
            listed.append(outgoing)
        return listed

    def _counted(self, batch: Batch, rows: columns.Rows, *, now_ns: int) -> dict[str, object]:
        counters = self._counters[batch.book]
        counters.conflated += batch.conflated
        if not rows.is_repriced:
            counters.published += len(batch.ticks)
        return self._numbered(batch.book, "batch", now_ns, {"n": len(batch.ticks)})

    def _besides(
        self, book: int, header: Mapping[str, Any], values: list[NDArray[Any]]
    ) -> Outgoing:
        """Hand a batch to who else wants it, and return the messages of its instruments."""
        if self.tap is not None:
            self.tap(book, header, values)
        if self._instruments is None:
            return Outgoing()
        return self._instruments.outgoing(header, values)

    def gap(self, book: int, facts: Mapping[str, object], *, now_ns: int) -> Outgoing:
        """Return the messages that say ticks of some instruments may be missing."""
        return self._messages(book, self._numbered(book, "gap", now_ns, facts))

    def status(self, book: int, state: str, reason: str, *, now_ns: int) -> Outgoing:
        """Return the messages that say what the book's feed is doing."""
        facts = {"state": state, "reason": reason}
        return self._messages(book, self._numbered(book, "status", now_ns, facts))

    def smile(self, book: int, drawn: BookSmiles, *, now_ns: int) -> Outgoing:
        """Return the message with a book's smiles, a row per expiry; consumes a ``seq``.

        Its few columns are part of the header, which is the same in every encoding.
        """
        facts = {"n": len(drawn.expiries), "columns": columns.of_smiles(drawn)}
        return self._messages(book, self._numbered(book, "smile", now_ns, facts))

    def heartbeat(self, book: int, feed: str, *, is_market_open: bool, now_ns: int) -> Outgoing:
        """Return what tells a quiet channel from a dead one, as message and key; no new ``seq``."""
        counters = self._counters[book]
        facts = {
            "feed": feed,
            "market": "open" if is_market_open else "closed",
            "published": counters.published,
            "conflated": counters.conflated,
            "rejected": counters.rejected,
        }
        header = self._header(book, "heartbeat", now_ns, facts)
        key = (self._name("heartbeat", book), encode.dumps(header), HEARTBEAT_LIFETIME_MS)
        return Outgoing.join([self._messages(book, header), Outgoing(values=[key])])

    def snapshot(
        self, book: int, ticks: Ticks, priced: Priced, standing: Standing, *, now_ns: int
    ) -> Outgoing:
        """Return a book's latest rows, true for its present ``seq``."""
        header = self._header(book, "snapshot", now_ns, {"n": len(ticks)})
        values = self._values(columns.Rows(ticks=ticks, priced=priced, standing=standing))
        return Outgoing(
            values=[
                (
                    self._name(one.snapshot_key, book),
                    one.encode(header, values),
                    SNAPSHOT_LIFETIME_MS,
                )
                for one in self._encoders
            ]
        )

    def instruments(self, book: int, *, now_ns: int) -> Outgoing:
        """Return what a book's tokens stand for, in JSON whatever the encodings are."""
        of_book = self._universe.book == book
        table = self._universe.instruments.take(of_book)
        listed = {
            "instrument_token": table.instrument_token,
            "tradingsymbol": table.tradingsymbol.tolist(),
            "exchange": table.exchange.tolist(),
            "instrument_type": table.instrument_type.tolist(),
            "expiry": [str(day) if day else None for day in table.expiry.tolist()],
            "variance_ends_us": encode.whole_numbers(
                self._universe.expiry_ns[of_book] // NS_PER_US, missing=0
            ),
            "last_trade_us": encode.whole_numbers(
                self._universe.last_trade_ns[of_book] // NS_PER_US, missing=0
            ),
            "strike": np.where(table.is_option(), table.strike, np.nan),
            "lot_size": table.lot_size,
            "price_step": table.price_step,
        }
        facts = {"n": len(table), "columns": listed}
        value = encode.dumps(self._header(book, "instruments", now_ns, facts))
        key = self._name("instruments", book)
        return Outgoing(values=[(key, value, INSTRUMENTS_LIFETIME_MS)])

    def count_rejected(self, by_book: NDArray[np.int64]) -> None:
        """Add to the books' counters what validation dropped; by book number."""
        for book in np.flatnonzero(by_book).tolist():
            self._counters[book].rejected += int(by_book[book])

    def _numbered(
        self, book: int, kind: str, now_ns: int, facts: Mapping[str, object]
    ) -> dict[str, object]:
        self._counters[book].seq += 1
        return self._header(book, kind, now_ns, facts)

    def _messages(self, book: int, header: Mapping[str, object]) -> Outgoing:
        return Outgoing(
            messages=[(self._name(one.channel, book), one.encode(header)) for one in self._encoders]
        )

    def _values(self, rows: columns.Rows) -> list[NDArray[Any]]:
        return [column.values(rows) for column in self.columns]

    def _name(self, what: str, book: int) -> str:
        return f"{self._config.channel_prefix}{what}:{self._universe.books[book]}"

    def _header(
        self, book: int, kind: str, now_ns: int, facts: Mapping[str, object]
    ) -> dict[str, object]:
        return {
            "v": WIRE_VERSION,
            "kind": kind,
            "book": self._universe.books[book],
            "epoch": self.epoch,
            "seq": self._counters[book].seq,
            "published_at_us": now_ns // NS_PER_US,
            **facts,
        }
