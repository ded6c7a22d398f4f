"""The latency ledger for people: from the daemon's metrics, and from what a subscriber sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

LEDGER: Final = "tick_latency_ms"
MEANINGS: Final = {
    "upstream": "exchange's stamp to us; stamps are whole seconds, so up to 1,000 ms too long",
    "decoded": "the wait for the flush, and decoding",
    "priced": "validated, grouped by book and priced",
    "published": "encoded, sent, and confirmed by Redis",
    "ours": "received to confirmed",
    "delivery": "made to here; compares two clocks if the daemon is on another machine",
}
QUANTILES: Final = (0.5, 0.99)
ROWS_KEPT: Final = 20_000
"""Of so many rows the figures are; at 2,000 ticks a second that is ten seconds."""
US_PER_MS: Final = 1_000.0


def ledger_lines(exposition: str) -> list[str]:
    """Return the ledger of a daemon as lines of text.

    Args:
        exposition: What ``/metrics`` answers.
    """
    lines = []
    for stage, rows, (low, high) in _stages(exposition):
        if rows:
            bounds = f"p50 <= {_ms(low):>9}  p99 <= {_ms(high):>9}"
            lines.append(f"{stage:9}  {bounds}  {rows:>12,} ticks  {MEANINGS[stage]}")
    return lines


def _stages(exposition: str) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Yield each stage with its rows and the bounds below which half and 99 % of them are."""
    buckets: dict[str, list[tuple[float, float]]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == f"{LEDGER}_bucket":
                bound = float(sample.labels["le"])
                buckets.setdefault(sample.labels["stage"], []).append((bound, sample.value))
    for stage, below in buckets.items():
        bounds, counts = np.array(sorted(below)).T
        places = np.searchsorted(counts, [quantile * counts[-1] for quantile in QUANTILES])
        low, high = bounds[places].tolist()
        yield stage, int(counts[-1]), (low, high)


def _ms(value: float) -> str:
    return "more" if np.isinf(value) else f"{value:g} ms"


class LatencyView:
    """What a subscriber of one book sees of the way its ticks came; repriced rows do not count."""

    def __init__(self, book: str) -> None:
        self.book = book
        self.rows = 0
        self._kept = {stage: np.empty(0) for stage in ("upstream", "ours", "delivery")}

    def take(self, columns: Mapping[str, Any], *, published_at_us: int, now_ns: int) -> None:
        """Take a batch.

        Args:
            columns: Its columns.
            published_at_us: When it was made, µs since 1970 UTC.
            now_ns: When it was received here, ns since 1970 UTC.
        """
        is_new = ~np.asarray(columns["is_repriced"], np.bool_)
        received = _numbers(columns["received_at_us"])[is_new]
        stamped = _numbers(columns["exchange_ts_us"])[is_new]
        stamped[np.asarray(columns["is_cached"], np.bool_)[is_new]] = np.nan
        self.rows += len(received)
        upstream = received - stamped
        self._keep("upstream", upstream[~np.isnan(upstream)])
        self._keep("ours", published_at_us - received)
        self._keep("delivery", np.full(len(received), now_ns / 1e3 - published_at_us))

    def figures(self) -> dict[str, dict[str, float]]:
        """Return median, 99th percentile and maximum of each stage of the latest rows, ms."""
        return {
            stage: {
                "p50_ms": round(float(np.quantile(kept, 0.5)), 3),
                "p99_ms": round(float(np.quantile(kept, 0.99)), 3),
                "max_ms": round(float(kept.max()), 3),
            }
            for stage, kept in self._kept.items()
            if len(kept)
        }

    def table(self) -> Table:
        """Return the figures for the screen."""
        table = Table(title=f"{self.book}: latency of the latest ticks, {self.rows:,} so far")
        for name in ("stage", "p50 ms", "p99 ms", "max ms", "what"):
            table.add_column(name, justify="left" if name in {"stage", "what"} else "right")
        for stage, figures in self.figures().items():
            what = "received to made" if stage == "ours" else MEANINGS[stage]
            table.add_row(stage, *(f"{value:,.2f}" for value in figures.values()), what)
        return table

    def _keep(self, stage: str, latency_us: NDArray[np.float64]) -> None:
        latest = np.concatenate([self._kept[stage], latency_us / US_PER_MS])
        self._kept[stage] = latest[-ROWS_KEPT:]


def _numbers(values: Any) -> NDArray[np.float64]:  # noqa: ANN401 - a list with None, or an array
    return np.array(values, np.float64)
