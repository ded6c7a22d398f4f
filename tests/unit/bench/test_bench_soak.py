"""What the soak calls flat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from scripts import soak

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 60
STEADY = {"memory_mb": 200.0, "tasks": 14.0, "fds": 30.0}


def run_of(name: str = "tasks", value: Callable[[int], float] | None = None) -> list[soak.Sample]:
    """Return a steady run in which one number follows a rule of its own."""
    return [
        soak.Sample(
            **{
                **STEADY,
                "at_s": float(n),
                "ticks": 1_000.0 * n,
                name: value(n) if value else STEADY[name],
            }
        )
        for n in range(COUNT)
    ]


def test_a_daemon_that_stays_as_it_is_is_flat() -> None:
    assert not soak.growth(run_of())
    assert not soak.growth(run_of("memory_mb", lambda n: 200.0 + 3.0 * math.sin(n)))


def test_what_is_taken_while_it_warms_up_is_not_growth() -> None:
    assert not soak.growth(run_of("memory_mb", lambda n: 200.0 if n >= COUNT // 5 else 90.0 + n))


def test_what_a_reconnection_has_for_a_moment_is_not_growth() -> None:
    assert not soak.growth(run_of("tasks", lambda n: 19.0 if n % 10 == 9 else 14.0))


@pytest.mark.parametrize("name", ["memory_mb", "tasks", "fds"])
def test_what_grows_all_the_time_is_named(name: str) -> None:
    (said,) = soak.growth(run_of(name, lambda n: STEADY[name] * (1.0 + n / COUNT)))
    assert said.startswith(name)


def test_a_leak_of_a_descriptor_per_cut_is_found_in_a_run_with_a_few_cuts() -> None:
    (said,) = soak.growth(run_of("fds", lambda n: 30.0 + n // 12))
    assert said.startswith("fds")


def test_a_daemon_that_stands_still_is_not_flat() -> None:
    (said,) = soak.growth(run_of("ticks", lambda _: 5.0))
    assert "stands still" in said
