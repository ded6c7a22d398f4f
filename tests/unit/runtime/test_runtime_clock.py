"""Time as an argument."""

from __future__ import annotations

import pytest

from ticker_service.runtime.clock import ManualClock, SystemClock


def test_a_manual_clock_stands_still() -> None:
    clock = ManualClock(5)
    assert [clock.now_ns(), clock.now_ns(), clock.monotonic_ns()] == [5, 5, 0]


def test_both_readings_of_a_manual_clock_move_together() -> None:
    clock = ManualClock(5)
    clock.advance(3)
    clock.advance(4)
    assert (clock.now_ns(), clock.monotonic_ns()) == (12, 7)


def test_a_manual_clock_refuses_to_go_back() -> None:
    with pytest.raises(ValueError, match="step_ns=-1"):
        ManualClock(5).advance(-1)


def test_the_machine_s_monotonic_reading_never_goes_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic_ns() for _ in range(100)]
    assert readings == sorted(readings)


def test_the_machine_s_wall_time_is_in_nanoseconds_since_1970() -> None:
    year_2020_ns, year_2200_ns = 1_577_836_800 * 10**9, 7_258_118_400 * 10**9
    assert year_2020_ns < SystemClock().now_ns() < year_2200_ns
