"""Which recordings go, and when there is no room for more."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.config import RecordConfig
from ticker_service.market import retention
from ticker_service.ports import RecordedFile

TODAY = dt.date(2026, 11, 20)
GB = 1 << 30


def limits(**changed: int) -> RecordConfig:
    return RecordConfig(folder=Path("unused"), **{"free_bytes_min": 0, **changed})


def frames(days_ago: int, number: int = 0, size_bytes: int = 100) -> RecordedFile:
    day = TODAY - dt.timedelta(days=days_ago)
    return RecordedFile(name=f"frames/{day}/17952{number}-000.tape", size_bytes=size_bytes)


def columns(days_ago: int, size_bytes: int = 100) -> RecordedFile:
    day = TODAY - dt.timedelta(days=days_ago)
    name = f"columns/date={day}/book=NIFTY/part-0.parquet"
    return RecordedFile(name=name, size_bytes=size_bytes)


def gone(files: list[RecordedFile], **changed: int) -> list[RecordedFile]:
    names = retention.to_delete(files, limits(**changed), today=TODAY)
    by_name = {file.name: file for file in files}
    return [by_name[name] for name in names]


def test_without_limits_nothing_goes() -> None:
    assert gone([frames(4_000), columns(4_000)]) == []


def test_days_are_counted_back_from_today() -> None:
    files = [frames(days_ago) for days_ago in range(10)]
    assert gone(files, frames_days=7) == [frames(9), frames(8)]


def test_frames_and_columns_have_days_of_their_own() -> None:
    files = [frames(30), columns(30), frames(400), columns(400)]
    assert gone(files, frames_days=7, columns_days=365) == [frames(400), frames(30), columns(400)]


def test_the_oldest_frames_go_until_the_rest_fits() -> None:
    files = [frames(1), frames(2), frames(3, 1), frames(3, 0), frames(0)]
    assert gone(files, bytes_max=300) == [frames(3, 0), frames(3, 1)]
    assert gone(files, bytes_max=299) == [frames(3, 0), frames(3, 1), frames(2)]


def test_columns_go_only_when_no_older_day_s_frames_are_left() -> None:
    files = [columns(9), frames(1), columns(8), frames(0)]
    assert gone(files, bytes_max=300) == [frames(1)]
    assert gone(files, bytes_max=200) == [frames(1), columns(9)]


def test_today_stays_whatever_the_limits_say() -> None:
    assert gone([frames(0, size_bytes=GB), columns(0, size_bytes=GB)], bytes_max=1) == []


def test_what_is_too_old_counts_before_what_is_too_much() -> None:
    files = [frames(9), frames(2), frames(1)]
    assert gone(files, frames_days=7, bytes_max=200) == [frames(9)]


@pytest.mark.parametrize(
    "name", ["notes.txt", "frames/notes.txt", "frames/2026-99-99/a.tape", "frames/2026-11-01"]
)
def test_what_is_not_ours_is_never_deleted(name: str) -> None:
    assert gone([RecordedFile(name=name, size_bytes=GB)], frames_days=1, bytes_max=1) == []


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(0, 500)), max_size=30),
    st.integers(0, 30),
    st.integers(0, 3_000),
)
def test_what_stays_is_within_the_limits_or_of_today(
    kinds: list[tuple[int, bool, int]], days: int, bytes_max: int
) -> None:
    files = [
        RecordedFile(
            name=(frames(ago, place) if is_frames else columns(ago)).name + str(place),
            size_bytes=size,
        )
        for place, (ago, is_frames, size) in enumerate(kinds)
    ]
    deleted = gone(files, frames_days=days, bytes_max=bytes_max)
    kept = [file for file in files if file not in deleted]
    assert len(set(deleted)) == len(deleted)
    assert all(str(TODAY) not in file.name for file in deleted)
    if bytes_max and sum(file.size_bytes for file in kept) > bytes_max:
        assert all(str(TODAY) in file.name for file in kept)


@pytest.mark.parametrize(
    ("free_bytes", "is_on", "why"),
    [
        (2 * GB, True, ""),
        (2 * GB - 1, True, "disk"),
        (2 * GB, False, "disk"),
        (2 * GB + GB // 2, False, ""),
    ],
)
def test_recording_stops_before_the_disk_is_full_and_needs_more_room_to_start_again(
    free_bytes: int, *, is_on: bool, why: str
) -> None:
    config = limits(free_bytes_min=2 * GB)
    found = retention.obstacle(config, free_bytes=free_bytes, used_bytes=0, is_on=is_on)
    assert found == why


@pytest.mark.parametrize(
    ("used_bytes", "is_on", "why"),
    [
        (GB, True, ""),
        (GB + 1, True, "bytes_max"),
        (GB, False, "bytes_max"),
        (int(0.8 * GB), False, ""),
    ],
)
def test_what_cannot_be_deleted_stops_the_recording_at_its_limit(
    used_bytes: int, *, is_on: bool, why: str
) -> None:
    config = limits(bytes_max=GB)
    found = retention.obstacle(config, free_bytes=GB, used_bytes=used_bytes, is_on=is_on)
    assert found == why
