"""The latency ledger: where the time between the exchange and the subscriber goes, per row.

Beside the path. A slow tick is either late when it comes or late when it goes, and only the second
is ours; so the way is cut into stages, each a histogram of its own.

The exchange stamps whole seconds, rounded down: what is ``upstream`` is too long by up to a second,
half of one on average, and moves with the difference between its clock and ours. The other stages
are measured on our clock alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ticker_service.market.validate import Plausible
    from ticker_service.runtime.telemetry import Telemetry


class Stage(StrEnum):
    """A part of the way."""

    UPSTREAM = "upstream"
    """Exchange stamp to receipt; ticks with a stamp that Kite had not kept."""
    DECODED = "decoded"
    """Receipt to decoded, the wait for the flush included."""
    PRICED = "priced"
    """Decoded to validated, batched and priced."""
    PUBLISHED = "published"
    """Priced to confirmed by Redis, encoding included."""
    OURS = "ours"
    """Receipt to confirmed: the sum of the last three."""


class LatencyLedger:
    """One entry per row that was published because of a packet."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._histogram = telemetry.column_latency_ms(
            "tick_latency_ms", "Latency of published ticks by stage", list(Stage)
        )

    def enter(
        self, accepted: Plausible, decoded_ns: int, priced_ns: int, published_ns: int
    ) -> None:
        """Enter the ticks of one flush; instants are ns since the Unix epoch."""
        ticks, histogram = accepted.ticks, self._histogram
        rows, received_ns = len(ticks), ticks.received_at_ns
        is_timed = (ticks.exchange_ts_ns > 0) & ~accepted.marks.is_cached
        if is_timed.all():
            histogram.observe(Stage.UPSTREAM, received_ns - ticks.exchange_ts_ns)
        elif is_timed.any():
            timed = received_ns[is_timed] - ticks.exchange_ts_ns[is_timed]
            histogram.observe(Stage.UPSTREAM, timed)
        histogram.observe(Stage.DECODED, decoded_ns - received_ns)
        histogram.observe_alike(Stage.PRICED, priced_ns - decoded_ns, rows)
        histogram.observe_alike(Stage.PUBLISHED, published_ns - priced_ns, rows)
        histogram.observe(Stage.OURS, published_ns - received_ns)
