"""``ticker-service replay``: which files, which times, and what is refused before anything runs."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from app import replay as job
from ticker_service.domain.session import IST, instant_ns
from ticker_service.errors import ConfigurationError, RecordingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("text", "speed"), [("1", 1.0), ("10", 10.0), ("0.5", 0.5), ("max", None)])
def test_a_speed_is_a_number_above_zero_or_max(text: str, speed: float | None) -> None:
    assert job._speed(text) == speed


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "fast", "Max"])
def test_any_other_speed_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--speed"):
        job._speed(text)


@pytest.mark.parametrize("text", ["09:20", "09:20:00", "0920"])
def test_a_time_is_an_indian_one_of_the_recording_s_day(text: str) -> None:
    wanted = dt.datetime(2026, 11, 20, 9, 20, tzinfo=IST)
    assert job._instant_ns("--from", text, "2026-11-20") == instant_ns(wanted)


def test_no_time_is_no_limit() -> None:
    assert job._instant_ns("--to", "", "2026-11-20") is None


@pytest.mark.parametrize("text", ["9:20", "25:00", "09:20+00:00", "noon", "2026-11-20"])
def test_any_other_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--from"):
        job._instant_ns("--from", text, "2026-11-20")


def test_the_tapes_of_a_folder_are_taken_by_day_run_and_part(tmp_path: Path) -> None:
    names = [
        "frames/2026-11-19/1795161600000000-000.tape",
        "frames/2026-11-20/1795251566694981-000.tape",
        "frames/2026-11-20/1795251566694981-001.tape",
        "frames/2026-11-20/1795261566694981-000.tape",
    ]
    for name in reversed([*names, "columns/date=2026-11-20/book=NIFTY/1-0000.parquet"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert job._files([tmp_path]) == [tmp_path / name for name in names]


def test_files_are_taken_in_the_order_given(tmp_path: Path) -> None:
    given = [tmp_path / "b.tape", tmp_path / "a.tape"]
    assert job._files(given) == given


def test_a_folder_without_a_recording_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no recording"):
        job._files([tmp_path])
