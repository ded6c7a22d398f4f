"""Keep the published columns with their Greeks, by day and book, so that options have a history.

Beside the path: feed -> decode -> validate -> batch -> price -> publish -> [record].

What went out on a book's channel goes into parts: a part is open for so many minutes, and appears
when it is whole. Rows wait in memory until there are enough of them to compress well, bounded in
bytes, policy REFUSE: what does not fit is counted. A kill loses the open parts; the tape has what
they were made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from ticker_service.constants import NS_PER_US
from ticker_service.domain.session import day_end_ns, ist_date
from ticker_service.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.config import RecordConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.market.columns import Column
    from ticker_service.ports import ColumnParts
    from ticker_service.runtime.telemetry import Telemetry

log = structlog.get_logger()

ROW_GROUP_ROWS: Final = 1 << 16
"""Rows that are compressed together; readers skip groups by the times and tokens they hold."""
US_PER_S: Final = 1_000_000
BUFFER_BYTES: Final = 32 << 20
"""Rows of all books together that wait for more rows, at most."""
BATCH_BYTES: Final = 4_096
"""What a batch is taken to need in memory beside its values: some forty small arrays."""


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """The columns of one published batch, in the order of the wire, and what its header says."""

    seq: int
    published_at_us: int
    values: list[NDArray[Any]]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values[0])


@dataclass(slots=True)
class _Part:
    """An open part, and the batches that wait to be written to it."""

    name: str
    book: int
    began_us: int
    day_end_us: int
    batches: list[KeptBatch] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0
    written_rows: int = 0


class ColumnRecorder:
    """Takes batches without waiting, and writes them when ``work`` is called."""

    def __init__(
        self,
        config: RecordConfig,
        parts: ColumnParts,
        universe: Universe,
        columns: Sequence[Column],
        *,
        epoch: int,
        telemetry: Telemetry,
    ) -> None:
        """Take the parts' place and what the columns mean."""
        self._config = config
        self._parts = parts
        self._universe = universe
        self._epoch = epoch
        self._encode = _encoder(universe, columns, epoch)
        self._is_repriced = [column.name for column in columns].index("is_repriced")
        self._open: dict[int, _Part] = {}
        self._ended: list[_Part] = []
        self._numbers = [0] * len(universe.books)
        self._waiting_bytes = 0
        self.is_on = True
        """Whether batches are taken; what comes while it is False is counted as lost."""
        self._rows = telemetry.counter("record_rows_total", "Rows of columns written")
        self._bytes = telemetry.counter("record_column_bytes_total", "Bytes of columns written")
        self._lost = telemetry.counter("record_rows_lost_total", "Rows of columns not written")
        waiting = telemetry.gauge("record_columns_waiting_bytes", "Columns waiting for the disk")
        waiting.set_function(lambda: self._waiting_bytes)

    @property
    def waiting_bytes(self) -> int:
        """Size of the rows that are not yet written."""
        return self._waiting_bytes

    def take(self, book: int, header: Mapping[str, Any], values: list[NDArray[Any]]) -> None:
        """Keep a copy of a batch, or count its rows as lost when there is no room."""
        if not self._config.repriced and values[self._is_repriced].all():
            return
        size_bytes = BATCH_BYTES + sum(column.nbytes for column in values)
        if not self.is_on or self._waiting_bytes + size_bytes > self._config.waiting_bytes_max:
            self._lost.inc(len(values[0]))
            return
        part = self._part(book, header["published_at_us"])
        copies = [np.array(column) for column in values]
        part.batches.append(KeptBatch(header["seq"], header["published_at_us"], copies))
        part.rows += len(copies[0])
        part.size_bytes += size_bytes
        self._waiting_bytes += size_bytes

    async def work(self, now_ns: int, *, is_over: bool = False) -> int:
        """Write what is due, and close the parts whose time is over; return the bytes written.

        Args:
            now_ns: The time parts are measured by, ns since the Unix epoch.
            is_over: Close them all.

        Raises:
            RecordingError: Something was not written; the part it belongs to is abandoned.
        """
        written_bytes = 0
        for part in list(self._open.values()):
            if is_over or self._is_over(part, now_ns // NS_PER_US):
                self._ended.append(self._open.pop(part.book))
            elif part.rows >= ROW_GROUP_ROWS:
                written_bytes += await self._write(part)
        while self._ended:
            part = self._ended[0]
            written_bytes += await self._write(part)
            await self._close(part)
        # Many small books may together hold much: the largest go first, whatever their size.
        while self._waiting_bytes > min(BUFFER_BYTES, self._config.waiting_bytes_max // 2):
            largest = max(self._open.values(), key=lambda part: part.size_bytes)
            written_bytes += await self._write(largest)
        return written_bytes

    async def stop(self) -> None:
        """Take nothing more, and close what is open as well as it goes."""
        self.is_on = False
        while self._open or self._ended:
            try:
                await self.work(0, is_over=True)
            except RecordingError as error:
                log.warning("record_part_abandoned", error=str(error))

    def _part(self, book: int, published_at_us: int) -> _Part:
        """Return the part a batch of this instant goes to."""
        part = self._open.get(book)
        if part is not None and published_at_us < part.day_end_us:
            return part
        if part is not None:
            self._ended.append(part)
        at_ns = published_at_us * NS_PER_US
        number = self._numbers[book]
        self._numbers[book] += 1
        folder = f"columns/date={ist_date(at_ns)}/book={self._universe.books[book]}"
        part = self._open[book] = _Part(
            name=f"{folder}/{self._epoch}-{number:04d}.parquet",
            book=book,
            began_us=published_at_us,
            day_end_us=day_end_ns(at_ns) // NS_PER_US,
        )
        return part

    def _is_over(self, part: _Part, now_us: int) -> bool:
        return now_us >= min(part.day_end_us, part.began_us + self._config.part_s * US_PER_S)

    async def _write(self, part: _Part) -> int:
        batches, part.batches = part.batches, []
        rows, part.rows = part.rows, 0
        size_bytes, part.size_bytes = part.size_bytes, 0
        if not batches:
            return 0
        try:
            # A generator: what follows is computed in the thread that writes.
            streams = (self._stream(each) for each in [batches])
            written_bytes = await self._parts.append(part.name, streams)
        except RecordingError:
            await self._abandon(part, rows)
            raise
        finally:
            self._waiting_bytes -= size_bytes
        part.written_rows += rows
        self._rows.inc(rows)
        self._bytes.inc(written_bytes)
        return written_bytes

    async def _close(self, part: _Part) -> None:
        try:
            await self._parts.close(part.name)
        except RecordingError:
            await self._abandon(part, 0)
            raise
        self._ended.remove(part)
        log.info("recorded_columns", file=part.name, rows=part.written_rows)

    async def _abandon(self, part: _Part, rows: int) -> None:
        """Give a part up with all its rows: what is in the file cannot be read without its end."""
        self._lost.inc(rows + part.written_rows)
        if self._open.get(part.book) is part:
            del self._open[part.book]
        else:
            self._ended.remove(part)
        await self._parts.abandon(part.name)

    def _stream(self, batches: Sequence[KeptBatch]) -> bytes:
        """Return batches of one book as one Arrow stream."""
        values = [
            np.concatenate(column) for column in zip(*(b.values for b in batches), strict=True)
        ]
        counts = [len(batch) for batch in batches]
        return self._encode(
            values,
            np.repeat([batch.seq for batch in batches], counts),
            np.repeat([batch.published_at_us for batch in batches], counts),
        )


def _encoder(
    universe: Universe, columns: Sequence[Column], epoch: int
) -> Callable[[list[NDArray[Any]], NDArray[np.int64], NDArray[np.int64]], bytes]:
    # pyarrow is optional and large: only who records columns loads it. That it is there has been
    # found out when the parts' place was made.
    arrow = import_module("ticker_service.market.record_arrow")
    return partial(arrow.stream, arrow.Schema.of(universe, columns, epoch=epoch))
