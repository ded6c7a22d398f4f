"""``./scripts/bench`` as a user runs it: the peers are really called, and the report is there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import orjson
from running import program

if TYPE_CHECKING:
    from pathlib import Path

COMPILE_S = 240.0
"""numba compiles a peer at its first run."""


def test_pricing_compares_with_every_peer(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    command = (sys.executable, "-m", "scripts.benchmarks")
    with program("pricing", "--quick", "--json", str(path), command=command) as bench:
        assert bench.wait(COMPILE_S) == 0, bench.err.text()
        said = bench.out.text()
    results = {each["name"]: each for each in orjson.loads(path.read_bytes())}
    assert set(results) == {
        "pricing_py_vollib",
        "pricing_py_vollib_vectorized",
        "pricing_scipy_newton",
        "pricing_greeks",
        "pricing_one_option",
    }
    for name, each in results.items():
        assert name in said
        assert each["ours"] > 0.0
        if sys.platform == "linux":
            assert each["ratio"] == each["ours"] / each["peer"]
    assert "cores" in said


def test_a_day_of_candles_is_compared_with_what_pandas_users_do(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    command = (sys.executable, "-m", "scripts.benchmarks")
    with program("greeks_history", "--quick", "--json", str(path), command=command) as bench:
        assert bench.wait() == 0, bench.err.text()
    results = orjson.loads(path.read_bytes())
    assert [each["name"] for each in results] == ["greeks_history_newton", "greeks_history_vollib"]
    assert all(each["ours"] > 0.0 and each["peer"] > 0.0 for each in results)
