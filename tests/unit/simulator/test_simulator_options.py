"""The settings of a run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ticker_service.errors import ConfigurationError
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import DEFAULT_USERS, SimulatorOptions


def test_the_seed_fixes_the_applications_key_and_secret() -> None:
    assert SimulatorOptions(seed=3) == SimulatorOptions(seed=3)
    assert SimulatorOptions(seed=3).api_key != SimulatorOptions(seed=4).api_key
    assert SimulatorOptions(seed=3).api_secret != SimulatorOptions(seed=3).api_key


def test_a_key_and_secret_of_ones_own_are_kept() -> None:
    options = SimulatorOptions(api_key="mine", api_secret="hidden")

    assert (options.api_key, options.api_secret) == ("mine", "hidden")


def test_the_secret_is_not_shown_by_repr() -> None:
    options = SimulatorOptions(seed=3)

    assert options.api_secret not in repr(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redirect_url", "http://[bad"),
        ("redirect_url", "http://h:port"),
        ("redirect_url", "nowhere"),
        ("nearest_expiry_days_min", 367),
        ("host", ""),
        ("crossed_quote_ratio", 1.01),
        ("one_sided_quote_ratio", -0.1),
        ("dead_strike_ratio", math.nan),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}="):
        SimulatorOptions(**{name: value})


def test_one_port_is_not_for_two_roots() -> None:
    with pytest.raises(ConfigurationError, match="must differ"):
        SimulatorOptions(rest_port=5_000, ws_port=5_000)


def test_the_furthest_nearest_expiry_can_be_listed() -> None:
    options = SimulatorOptions(nearest_expiry_days_min=366)

    assert Market(options, now_ns=1_763_700_000_000_000_000).catalogue.instruments


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        SimulatorOptions(
            seed=-1,
            ws_port=70_000,
            rate_per_s=math.nan,
            steps_per_s=0,
            strikes_each_side=0,
            nearest_expiry_days_min=-1,
            truth_history_s=0,
            users=(*DEFAULT_USERS, DEFAULT_USERS[0]),
        )

    for name in (
        *("seed", "ws_port", "rate_per_s", "steps_per_s", "strikes_each_side"),
        *("nearest_expiry_days_min", "truth_history_s", "users"),
    ):
        assert f"{name}=" in str(refused.value)
