"""How long to wait before trying again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.runtime.pacing import Backoff

BACKOFF = Backoff(delay_s_min=0.5, delay_s_max=15.0)


def chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - jitter, not a secret


class Fixed(random.Random):
    """Chance that always says the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


@given(st.integers(0, 10**9), st.integers())
def test_a_wait_is_never_shorter_or_longer_than_its_limits(attempt: int, seed: int) -> None:
    delay_s = BACKOFF.delay_s(attempt, chance(seed))
    assert 0.5 <= delay_s <= 15.0


@pytest.mark.parametrize(
    ("attempt", "longest_s"), [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 15.0), (10**6, 15.0)]
)
def test_the_longest_wait_doubles_up_to_its_cap(attempt: int, longest_s: float) -> None:
    assert BACKOFF.delay_s(attempt, Fixed(1.0)) == longest_s


def test_the_shortest_wait_stays_the_same_however_often_it_failed() -> None:
    assert {BACKOFF.delay_s(attempt, Fixed(0.0)) for attempt in range(10)} == {0.5}


def test_two_clients_that_failed_together_do_not_return_together() -> None:
    delays = {BACKOFF.delay_s(6, chance(seed)) for seed in range(100)}
    assert len(delays) == 100


def test_the_same_chance_gives_the_same_wait() -> None:
    assert BACKOFF.delay_s(3, chance(7)) == BACKOFF.delay_s(3, chance(7))
