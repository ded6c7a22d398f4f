"""Metrics in one registry per run."""

from __future__ import annotations

import pytest

from ticker_service.runtime.telemetry import Telemetry


def test_a_counter_is_exposed_with_its_meaning_and_labels() -> None:
    telemetry = Telemetry()
    telemetry.counter("gaps_total", "Gaps told", ["reason"]).labels("silent").inc(3)
    text = telemetry.exposition().decode()
    assert "# HELP gaps_total Gaps told" in text
    assert 'gaps_total{reason="silent"} 3.0' in text


def test_a_gauge_goes_down_again() -> None:
    telemetry = Telemetry()
    gauge = telemetry.gauge("inbox_bytes", "Waiting")
    gauge.set(5)
    gauge.set(2)
    assert "inbox_bytes 2.0" in telemetry.exposition().decode()


def test_a_latency_falls_into_its_bucket_of_milliseconds() -> None:
    telemetry = Telemetry()
    telemetry.latency_ms("publish_latency_ms", "Latency").observe(12.0)
    text = telemetry.exposition().decode()
    assert 'publish_latency_ms_bucket{le="10.0"} 0.0' in text
    assert 'publish_latency_ms_bucket{le="15.0"} 1.0' in text


def test_two_runs_in_one_process_do_not_share_their_numbers() -> None:
    one, other = Telemetry(), Telemetry()
    one.counter("frames_total", "Frames").inc()
    other.counter("frames_total", "Frames")
    assert "frames_total 0.0" in other.exposition().decode()


def test_one_run_cannot_have_two_metrics_of_one_name() -> None:
    telemetry = Telemetry()
    telemetry.counter("frames_total", "Frames")
    with pytest.raises(ValueError, match="frames"):
        telemetry.counter("frames_total", "Frames")
