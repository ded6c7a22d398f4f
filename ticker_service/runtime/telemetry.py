"""Metrics in one registry per process run, so that two runs in one test do not meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Sequence

LATENCY_BUCKETS_MS: Final = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1_000, 5_000)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


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

    def exposition(self) -> bytes:
        """Return every metric in the Prometheus text format."""
        return generate_latest(self._registry)
