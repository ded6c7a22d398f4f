"""The fuzzer itself: it runs, it finds nothing in the path, and it finds what was put there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fuzz_targets
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "tests" / "data" / "fuzz"


def fuzz(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "fuzz.py"), target, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["decode", "path", "text"])
def test_a_short_search_finds_no_bytes_that_break_the_path(target: str) -> None:
    done = fuzz(target, "--seconds", "5")
    assert done.returncode == 0, done.stderr[-4_000:]
    assert json.loads(done.stdout)["runs"] > 0


@pytest.mark.slow
def test_the_search_finds_a_fault_that_was_put_there_and_keeps_the_bytes(tmp_path: Path) -> None:
    done = fuzz("planted", "--seconds", "20", "--seed", "1", "--findings", str(tmp_path))
    assert done.returncode != 0
    assert "the planted fault" in done.stderr
    (kept,) = tmp_path.iterdir()
    again = fuzz("planted", "--input", str(kept))
    assert again.returncode != 0
    assert "the planted fault" in again.stderr


@pytest.mark.parametrize("target", ["decode", "path", "text"])
def test_every_seed_and_every_past_finding_keeps_the_promises(target: str) -> None:
    past = sorted((KEPT / target).glob("*")) if (KEPT / target).is_dir() else []
    inputs = [*fuzz_targets.seeds(target), *(file.read_bytes() for file in past)]
    assert inputs
    for data in inputs:
        fuzz_targets.TARGETS[target](data)


def test_the_seeds_of_the_path_reach_its_end() -> None:
    for data in fuzz_targets.seeds("path"):
        fuzz_targets.carry_any(data)
    assert fuzz_targets.rows_published() > 20
