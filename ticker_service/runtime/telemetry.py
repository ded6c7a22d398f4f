"""Metrics in one registry per process run, so that two runs in one test do not meet."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

FINE_LATENCY_BUCKETS_MS: Final = (
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0),
    *(1_000.0, 2_000.0, 5_000.0, 10_000.0, 60_000.0),
)
LATENCY_BUCKETS_MS: Final = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1_000, 5_000)
WAITING_ROWS_MAX: Final = 16_384
"""Latencies that wait to be counted together."""
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class ColumnLatency:
    """Latencies by stage in fine buckets; a column costs a search, not a call per row.

    A collector of ``prometheus_client``, whose own histogram takes one number at a time. Columns
    wait until there are many rows, or somebody looks: to sort a few hundred into buckets takes as
    long as to sort thousands.
    """

    def __init__(self, name: str, meaning: str, stages: Sequence[str]) -> None:
        """Begin with nothing in each stage."""
        self._name = name
        self._meaning = meaning
        self._bounds_ns = [round(bound * 1e6) for bound in FINE_LATENCY_BUCKETS_MS]
        buckets = len(self._bounds_ns) + 1
        self._counts = {stage: np.zeros(buckets, np.int64) for stage in stages}
        self._sum_ns = dict.fromkeys(stages, 0)
        self._waiting: dict[str, list[NDArray[np.int64]]] = {stage: [] for stage in stages}
        self._waiting_rows = 0

    def observe(self, stage: str, latency_ns: NDArray[np.int64]) -> None:
        """Take one latency per row, ns, shape ``(n,)``; below zero counts as zero.

        A wall clock that was set back makes negative ones, and a sum must not fall. The column is
        kept for a while, so it must not be written to any more.
        """
        self._waiting[stage].append(latency_ns)
        self._waiting_rows += len(latency_ns)
        if self._waiting_rows >= WAITING_ROWS_MAX:
            self._count_waiting()

    def observe_alike(self, stage: str, latency_ns: int, rows: int) -> None:
        """Take one latency that so many rows have in common, ns."""
        latency_ns = max(latency_ns, 0)
        self._counts[stage][bisect_left(self._bounds_ns, latency_ns)] += rows
        self._sum_ns[stage] += latency_ns * rows

    def _count_waiting(self) -> None:
        for stage, columns in self._waiting.items():
            if columns:
                self._count(stage, np.concatenate(columns))
                columns.clear()
        self._waiting_rows = 0

    def _count(self, stage: str, latency_ns: NDArray[np.int64]) -> None:
        # Rows of one frame have most instants in common and stand together: looked up once.
        first = np.flatnonzero(np.diff(latency_ns, prepend=~latency_ns[:1]))
        rows = np.diff(first, append=len(latency_ns))
        latency_ns = np.maximum(latency_ns[first], 0)
        np.add.at(self._counts[stage], np.searchsorted(self._bounds_ns, latency_ns), rows)
        self._sum_ns[stage] += int(latency_ns @ rows)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the metric for the exposition."""
        self._count_waiting()
        family = HistogramMetricFamily(self._name, self._meaning, labels=["stage"])
        bounds = [*map(str, FINE_LATENCY_BUCKETS_MS), "+Inf"]
        for stage, counts in self._counts.items():
            below = zip(bounds, np.cumsum(counts).tolist(), strict=True)
            family.add_metric([stage], list(below), self._sum_ns[stage] / 1e6)
        yield family


class Telemetry:
    """Makes metrics; each component asks once, at its start, for those it keeps."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """Return a number that only grows; by convention its name ends in ``_total``."""
        return Counter(name, meaning, labels, registry=self._registry)

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """Return a number that goes up and down."""
        return Gauge(name, meaning, labels, registry=self._registry)

    def latency_ms(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Histogram:
        """Return a histogram of milliseconds."""
        return Histogram(name, meaning, labels, registry=self._registry, buckets=LATENCY_BUCKETS_MS)

    def column_latency_ms(self, name: str, meaning: str, stages: Sequence[str]) -> ColumnLatency:
        """Return a histogram of milliseconds by ``stage`` that takes whole columns at once."""
        latency = ColumnLatency(name, meaning, stages)
        self._registry.register(latency)
        return latency

    def watch_process(self, tasks: Callable[[], int]) -> None:
        """Add what the process takes: memory, descriptors, CPU seconds (on Linux), and tasks.

        Args:
            tasks: Returns how many tasks live now.
        """
        ProcessCollector(registry=self._registry)
        living = self.gauge("asyncio_tasks", "Tasks that have not ended")
        living.set_function(tasks)

    def exposition(self) -> bytes:
        """Return every metric in the Prometheus text format."""
        return generate_latest(self._registry)
