from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.security.limits import ConnectionCaps, ConnectionRegister, RequestLimiter, RequestRate
from ticker_service.constants import NS_PER_S
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import ManualClock

RATE = RequestRate(per_s=2.0, burst=4, principals_max=3)
CAPS = ConnectionCaps(total_max=4, per_principal_max=2, unnamed_max=2)


def test_a_burst_passes_then_the_rate() -> None:
    clock = ManualClock(0)
    limiter = RequestLimiter(RATE, clock)
    assert [limiter.take("a") for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]
    clock.advance(NS_PER_S // 2)
    assert limiter.take("a") == 0.0
    assert limiter.take("a") == 0.5
    assert limiter.refused_count == 2


def test_one_principal_does_not_use_up_anothers_share() -> None:
    limiter = RequestLimiter(RATE, ManualClock(0))
    for _ in range(10):
        limiter.take("a")
    assert limiter.take("b") == 0.0


def test_a_request_may_cost_more_than_one() -> None:
    limiter = RequestLimiter(RATE, ManualClock(0))
    assert limiter.take("a", cost=3) == 0.0
    assert limiter.take("a", cost=3) == 1.0
    assert limiter.take("a", cost=1) == 0.0


def test_a_full_table_keeps_those_it_limits_and_makes_newcomers_wait() -> None:
    clock = ManualClock(0)
    limiter = RequestLimiter(RATE, clock)
    for principal in "abc":
        for _ in range(5):
            limiter.take(principal)
    assert limiter.take("d") == 2.0
    assert limiter.take("a") > 0.0
    clock.advance(2 * NS_PER_S)
    assert limiter.take("d") == 0.0


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * NS_PER_S), st.integers(0, 20).map(str)),
        max_size=200,
    )
)
def test_memory_is_bounded_and_no_principal_exceeds_burst_and_rate(
    asks: list[tuple[int, str]],
) -> None:
    clock = ManualClock(0)
    limiter = RequestLimiter(RATE, clock)
    taken: dict[str, list[int]] = {}
    for gap_ns, principal in asks:
        clock.advance(gap_ns)
        if limiter.take(principal) == 0.0:
            taken.setdefault(principal, []).append(clock.monotonic_ns())
        assert len(limiter) <= RATE.principals_max
    for instants in taken.values():
        for first, start in enumerate(instants):
            for last in range(first, len(instants)):
                allowed = RATE.burst + RATE.per_s * (instants[last] - start) / NS_PER_S
                assert last - first + 1 <= allowed + 1e-6


@pytest.mark.parametrize("numbers", [{"per_s": 0}, {"burst": 0}, {"principals_max": 0}])
def test_a_rate_that_lets_nobody_in_is_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        RequestRate(**numbers)


def test_connections_without_a_name_cannot_fill_the_house() -> None:
    register = ConnectionRegister(CAPS)
    assert register.enter() is not None
    assert register.enter() is not None
    assert register.enter() is None
    assert register.open_count == 2


def test_a_crowd_without_names_does_not_keep_out_who_has_one() -> None:
    register = ConnectionRegister(CAPS)
    for _ in range(2):
        assert register.enter() is not None
    slot = register.enter(is_known=True)
    assert slot is not None
    assert slot.name("a")
    assert register.enter(is_known=True) is not None
    assert register.enter(is_known=True) is None, "the total is a cap for everybody"


def test_a_principal_has_its_share_of_connections_and_no_more() -> None:
    register = ConnectionRegister(CAPS)
    for _ in range(2):
        slot = register.enter()
        assert slot is not None
        assert slot.name("a")
    third = register.enter()
    assert third is not None
    assert not third.name("a")
    third.release()
    assert register.count_of("a") == 2
    assert register.open_count == 2


def test_the_total_is_a_cap_of_its_own() -> None:
    register = ConnectionRegister(CAPS)
    for principal in "abcd":
        slot = register.enter()
        assert slot is not None
        assert slot.name(principal)
    assert register.enter() is None
    assert register.refused_count == 1


def test_a_released_place_is_free_once_and_only_once() -> None:
    register = ConnectionRegister(CAPS)
    slot = register.enter()
    assert slot is not None
    assert slot.name("a")
    slot.release()
    slot.release()
    assert register.open_count == 0
    assert register.count_of("a") == 0
    assert not slot.name("a")


def test_a_named_connection_keeps_its_name() -> None:
    register = ConnectionRegister(CAPS)
    slot = register.enter()
    assert slot is not None
    assert slot.name("a")
    assert slot.name("a")
    assert not slot.name("b")
    assert register.count_of("a") == 1
