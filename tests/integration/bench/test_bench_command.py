"""``./scripts/bench`` as a user runs it: the peers are really called, and the report is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from running import program

SMALL_DAY: Final = Path(__file__).resolve().parents[2] / "data" / "days" / "2026-11-21.tape"
COMPILE_S = 240.0
"""numba compiles a peer at its first run."""


def results_of(suite: str, folder: Path, *more: str) -> dict[str, dict[str, Any]]:
    path = folder / "bench.json"
    command = (sys.executable, "-m", "scripts.benchmarks")
    with program(suite, *more, "--quick", "--json", str(path), command=command) as bench:
        assert bench.wait(COMPILE_S) == 0, bench.err.text()
        said = bench.out.text()
    results = {each["name"]: each for each in orjson.loads(path.read_bytes())}
    assert "cores" in said
    assert all(name in said for name in results)
    assert all(each["ours"] > 0.0 for each in results.values())
    return results


def test_pricing_compares_with_every_peer(tmp_path: Path) -> None:
    results = results_of("pricing", tmp_path)
    assert set(results) == {
        "pricing_py_vollib",
        "pricing_py_vollib_vectorized",
        "pricing_scipy_newton",
        "pricing_greeks",
        "pricing_one_option",
    }
    if sys.platform != "linux":  # one peer is not to be had there
        del results["pricing_py_vollib_vectorized"]
    assert all(each["ratio"] == each["ours"] / each["peer"] for each in results.values())


def test_decoding_compares_frames_of_every_size_in_both_mixes(tmp_path: Path) -> None:
    results = results_of("decode", tmp_path)
    sizes = (1, 10, 100, 1_000)
    assert set(results) == {f"{kind}_{n}" for kind in ("decode", "decode_full") for n in sizes}
    assert all(each["ratio"] == each["ours"] / each["peer"] for each in results.values())


def test_recording_is_compared_with_a_compressed_file_of_frames(tmp_path: Path) -> None:
    results = results_of("recording", tmp_path)
    assert list(results) == ["record_frames", "replay"]
    assert results["record_frames"]["peer"] > 0.0
    assert results["replay"]["peer"] is None


def test_the_path_is_compared_in_both_encodings_and_says_where_its_time_goes(
    tmp_path: Path,
) -> None:
    results = results_of("path", tmp_path)
    assert list(results) == ["path_json", "path_arrow"]
    for each in results.values():
        assert each["ratio"] == each["ours"] / each["peer"]
        parts = sum(each[f"ns_{step}"] for step in ("decode", "solve", "encode", "send"))
        assert 0.0 < parts < each["ns_flush"]


def test_small_flushes_are_compared_and_say_what_a_flush_takes(tmp_path: Path) -> None:
    results = results_of("flush", tmp_path)
    assert list(results) == ["flush_50"]
    small = results["flush_50"]
    assert small["ticks_per_flush"] == 50
    of_steps = sum(small[f"ns_{step}"] for step in ("decode", "solve", "encode", "send"))
    assert 0.0 < of_steps < small["ns_flush"]


def test_a_recorded_day_takes_the_place_of_the_simulated_market(tmp_path: Path) -> None:
    results = results_of("path", tmp_path, "--tape", str(SMALL_DAY))
    assert list(results) == ["tape_json", "tape_arrow"]
    for each in results.values():
        assert each["rows_compared"] > 0
        assert each["ratio"] == each["ours"] / each["peer"]


def test_a_day_of_candles_is_compared_with_what_pandas_users_do(tmp_path: Path) -> None:
    results = results_of("greeks_history", tmp_path)
    assert list(results) == ["greeks_history_newton", "greeks_history_vollib"]
    assert all(each["peer"] > 0.0 for each in results.values())


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is known on Linux only")
def test_the_service_under_load_is_compared_at_each_flush_interval(tmp_path: Path) -> None:
    results = results_of("live", tmp_path)
    assert list(results) == ["live_5ms", "live_20ms", "live_100ms"]
    for each in results.values():
        assert each["ratio"] == each["ours"] / each["peer"]
        assert 0.0 < each["p50_ms"] <= each["p99_ms"]
        assert each["ours"] == pytest.approx(1e3 / each["p99_ms"])
        assert each["cpu_share"] > 0.0
        assert min(each["rows_per_s"], each["ticks_per_s"], each["peer_rows_per_s"]) > 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is known on Linux only")
def test_starting_is_compared_with_a_program_of_the_usual_libraries(tmp_path: Path) -> None:
    results = results_of("start", tmp_path)
    assert list(results) == ["start_100k", "memory_27k"]
    assert all(each["ratio"] == each["ours"] / each["peer"] for each in results.values())
    assert results["start_100k"]["dump_lines"] == 100_000
    memory = results["memory_27k"]
    assert memory["universe"] > 27_000
    assert memory["subscribed"] > 8_000
    assert min(memory["resident_mb"], memory["peer_resident_mb"]) > 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is known on Linux only")
def test_orders_are_compared_with_the_same_transactions_bare_and_a_recovery_is_timed(
    tmp_path: Path,
) -> None:
    results = results_of("orders", tmp_path)
    assert list(results) == [
        "orders_p50",
        "orders_p99",
        "orders_rate",
        "orders_gate",
        "orders_recovery",
    ]
    assert all(results[name]["peer"] > 0.0 for name in results if name != "orders_recovery")
    recovery = results["orders_recovery"]
    assert recovery["peer"] is None
    assert 0.0 < recovery["open_s"] <= recovery["settled_s"]
    # A fifth each, and of those in doubt every other one was in the broker's book.
    assert recovery["left"] == {
        "expired EXPIRED": 40,
        "ready WORKING": 40,
        "sending WORKING": 20,
        "sending NOT_PLACED": 20,
        "unknown WORKING": 20,
        "unknown NOT_PLACED": 20,
        "working WORKING": 40,
    }
