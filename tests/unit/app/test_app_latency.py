"""Where ticks spend their time, as an operator and as a subscriber see it."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from app.console.latency import ROWS_KEPT, LatencyView, ledger_lines
from ticker_service.market.latency import Stage
from ticker_service.runtime.telemetry import Telemetry

NOW_US = 1_795_239_000_000_000


def columns(
    ages_us: list[int], *, stamps: list[int | None] | None = None, is_cached: bool = False
) -> dict[str, list[object]]:
    received = [NOW_US - age for age in ages_us]
    return {
        "received_at_us": [*received],
        "exchange_ts_us": [*(stamps or [None] * len(received))],
        "is_cached": [is_cached] * len(received),
        "is_repriced": [False] * len(received),
    }


def test_the_daemon_s_ledger_names_bounds_and_ticks_of_each_stage() -> None:
    telemetry = Telemetry()
    ledger = telemetry.column_latency_ms("tick_latency_ms", "Latency", list(Stage))
    ledger.observe("ours", np.array([3_000_000] * 98 + [40_000_000] * 2))
    ledger.observe_alike("priced", 400_000, 100)
    ledger.observe_alike("published", 90_000_000_000, 1)
    lines = {line.split()[0]: line for line in ledger_lines(telemetry.exposition().decode())}
    assert set(lines) == {"ours", "priced", "published"}
    assert lines["ours"].split()[1:9] == ["p50", "<=", "5", "ms", "p99", "<=", "50", "ms"]
    assert "100 ticks" in lines["priced"]
    assert "more" in lines["published"]


def test_a_daemon_without_ticks_has_no_ledger() -> None:
    telemetry = Telemetry()
    telemetry.column_latency_ms("tick_latency_ms", "Latency", list(Stage))
    assert ledger_lines(telemetry.exposition().decode()) == []


def test_a_subscriber_tells_upstream_ours_and_delivery_apart() -> None:
    view = LatencyView("NIFTY")
    stamps: list[int | None] = [NOW_US - 502_000, NOW_US - 903_000]
    view.take(
        columns([2_000, 3_000], stamps=stamps),
        published_at_us=NOW_US,
        now_ns=NOW_US * 1_000 + 700_000,
    )
    figures = view.figures()
    assert figures["upstream"] == {"p50_ms": 700.0, "p99_ms": 896.0, "max_ms": 900.0}
    assert (figures["ours"]["p50_ms"], figures["ours"]["max_ms"]) == (2.5, 3.0)
    assert figures["delivery"]["p50_ms"] == 0.7
    assert view.rows == 2


def test_what_kite_had_kept_and_what_has_no_stamp_say_nothing_of_upstream() -> None:
    view = LatencyView("NIFTY")
    kept = columns([2_000], stamps=[NOW_US - 10**11], is_cached=True)
    view.take(kept, published_at_us=NOW_US, now_ns=NOW_US * 1_000)
    view.take(columns([2_000]), published_at_us=NOW_US, now_ns=NOW_US * 1_000)
    assert set(view.figures()) == {"ours", "delivery"}


def test_rows_that_were_only_repriced_do_not_count() -> None:
    view = LatencyView("NIFTY")
    repriced = columns([60_000_000]) | {"is_repriced": [True]}
    view.take(repriced, published_at_us=NOW_US, now_ns=NOW_US * 1_000)
    assert (view.rows, view.figures()) == (0, {})


def test_the_figures_are_of_the_latest_rows_and_memory_is_bounded() -> None:
    view = LatencyView("NIFTY")
    for age_us in (1_000_000, 5_000):
        for _ in range(3):
            view.take(columns([age_us] * ROWS_KEPT), published_at_us=NOW_US, now_ns=NOW_US * 1_000)
    assert view.figures()["ours"] == {"p50_ms": 5.0, "p99_ms": 5.0, "max_ms": 5.0}
    assert len(view._kept["ours"]) == ROWS_KEPT


def test_the_table_has_a_line_for_each_stage() -> None:
    view = LatencyView("NIFTY")
    view.take(columns([2_000]), published_at_us=NOW_US, now_ns=NOW_US * 1_000)
    screen = io.StringIO()
    Console(file=screen, width=120).print(view.table())
    assert "ours" in screen.getvalue()
    assert "2.00" in screen.getvalue()
