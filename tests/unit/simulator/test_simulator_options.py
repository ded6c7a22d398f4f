"""The settings of a run."""

from __future__ import annotations

import math

import pytest

from ticker_service.errors import ConfigurationError
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
