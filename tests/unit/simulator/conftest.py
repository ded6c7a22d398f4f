"""A fixed Saturday, a clock that stands there, and small markets."""

from __future__ import annotations

import datetime as dt
from typing import Final

import pytest
from order_stage import STATE_MS, OrderStage

from ticker_service.domain import session
from ticker_service.runtime.clock import ManualClock
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions

SATURDAY_NOON: Final = dt.datetime(2026, 11, 21, 12, 0, tzinfo=session.IST)


@pytest.fixture
def now_ns() -> int:
    return session.instant_ns(SATURDAY_NOON)


@pytest.fixture
def clock(now_ns: int) -> ManualClock:
    return ManualClock(now_ns)


@pytest.fixture
def options() -> SimulatorOptions:
    return SimulatorOptions(seed=7)


@pytest.fixture
def market(options: SimulatorOptions, now_ns: int) -> Market:
    return Market(options, now_ns=now_ns)


@pytest.fixture
def stage(market: Market, clock: ManualClock) -> OrderStage:
    return OrderStage(market, clock, SimulatorOptions(seed=7, order_state_ms=STATE_MS))
