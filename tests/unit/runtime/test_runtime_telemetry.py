"""Metrics in one registry per run."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ticker_service.runtime.telemetry import WAITING_ROWS_MAX, Telemetry


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


def samples(telemetry: Telemetry) -> dict[str, float]:
    lines = telemetry.exposition().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_a_column_of_latencies_falls_into_the_buckets_of_its_stage() -> None:
    telemetry = Telemetry()
    latency = telemetry.column_latency_ms("tick_latency_ms", "Latency", ["upstream", "ours"])
    latency.observe("ours", np.array([50_000, 100_000, 150_000, 7_000_000, 90_000_000_000]))
    found = samples(telemetry)
    by_bound = {
        bound: found[f'tick_latency_ms_bucket{{le="{bound}",stage="ours"}}']
        for bound in ("0.1", "0.2", "5.0", "10.0", "60000.0", "+Inf")
    }
    assert by_bound == {"0.1": 2, "0.2": 3, "5.0": 3, "10.0": 4, "60000.0": 4, "+Inf": 5}
    assert found['tick_latency_ms_count{stage="ours"}'] == 5
    assert found['tick_latency_ms_sum{stage="ours"}'] == pytest.approx(90_007.3)
    assert found['tick_latency_ms_count{stage="upstream"}'] == 0


def test_rows_with_one_latency_in_common_count_each() -> None:
    one, other = Telemetry(), Telemetry()
    latency = one.column_latency_ms("tick_latency_ms", "Latency", ["ours"])
    latency.observe_alike("ours", 3_000_000, 70)
    latency = other.column_latency_ms("tick_latency_ms", "Latency", ["ours"])
    latency.observe("ours", np.full(70, 3_000_000))
    assert samples(one) == samples(other)


def test_columns_count_alike_however_they_are_cut_up_and_whoever_looks_between() -> None:
    latency_ns = np.random.default_rng(5).integers(0, 10**10, 5 * WAITING_ROWS_MAX // 2)
    whole, cut = Telemetry(), Telemetry()
    whole.column_latency_ms("tick_latency_ms", "Latency", ["ours"]).observe("ours", latency_ns)
    in_parts = cut.column_latency_ms("tick_latency_ms", "Latency", ["ours"])
    for number, part in enumerate(np.array_split(latency_ns, 200)):
        in_parts.observe("ours", part)
        if number % 50 == 0:
            cut.exposition()
    assert samples(cut) == samples(whole)


def test_a_clock_that_was_set_back_makes_no_negative_latency() -> None:
    telemetry = Telemetry()
    latency = telemetry.column_latency_ms("tick_latency_ms", "Latency", ["ours"])
    latency.observe("ours", np.array([-5_000_000]))
    latency.observe_alike("ours", -5_000_000, 2)
    assert samples(telemetry)['tick_latency_ms_bucket{le="0.1",stage="ours"}'] == 3
    assert samples(telemetry)['tick_latency_ms_sum{stage="ours"}'] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_what_the_process_takes_is_exposed_on_demand() -> None:
    telemetry = Telemetry()
    telemetry.watch_process(lambda: 7)
    text = telemetry.exposition().decode()
    assert "asyncio_tasks 7.0" in text
    names = ("process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total ")
    assert all(f"\n{name}" in text for name in names)


def test_rows_that_have_a_latency_in_common_count_like_rows_one_by_one() -> None:
    one_by_one, together = Telemetry(), Telemetry()
    latency_ns = np.repeat(np.array([3_000_000, 40_000_000, -5, 3_000_000]), [2, 1, 4, 3])
    for telemetry, parts in ((one_by_one, np.split(latency_ns, 10)), (together, [latency_ns])):
        histogram = telemetry.column_latency_ms("tick_latency_ms", "Latency", ["ours"])
        for part in (*parts, latency_ns[:0]):
            histogram.observe("ours", part)
    assert together.exposition() == one_by_one.exposition()
