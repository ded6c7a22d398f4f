"""The truth, recorded and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import orjson
import pytest

from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.simulator.smile import volatility_per_year
from ticker_service.simulator.truth import Truth, TruthHistory

if TYPE_CHECKING:
    from ticker_service.simulator.market import Market

STEP_US: Final = 50_000


def _record(market: Market, history: TruthHistory, now_ns: int, steps: int) -> None:
    for number in range(steps):
        at_ns = now_ns + number * STEP_US * NS_PER_US
        market.step(at_ns)
        history.record(at_ns, market.underlyings)


def _served(history: TruthHistory, now_us: int, **window: int | None) -> Truth:
    bounds = {"from_us": None, "to_us": None, **window}
    data = history.window(now_us=now_us, **bounds)
    return Truth(orjson.loads(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)))


def _options(market: Market) -> np.ndarray:
    return np.flatnonzero(market.catalogue.is_option)


def test_the_latest_forward_and_volatility_are_read_back_exactly(
    market: Market, now_ns: int
) -> None:
    history = TruthHistory(market.catalogue, steps_max=100)
    _record(market, history, now_ns, 5)
    rows, now_us = _options(market), now_ns // NS_PER_US + 4 * STEP_US
    state, curve = market.underlyings, market.catalogue.curve[_options(market)]

    truth = _served(history, now_us)
    token, at_us = market.catalogue.instrument_token[rows], np.full(len(rows), now_us)

    strike, forward = market.catalogue.strike_inr[rows], state.forward_inr[curve]
    assert np.array_equal(truth.forward(token, at_us), forward)
    assert np.array_equal(
        truth.volatility(token, at_us), volatility_per_year(state.smile[:, curve], forward, strike)
    )


def test_a_step_is_in_force_from_its_instant_until_the_next(market: Market, now_ns: int) -> None:
    history = TruthHistory(market.catalogue, steps_max=100)
    _record(market, history, now_ns, 3)
    start = now_ns // NS_PER_US
    truth = _served(history, start + 10 * STEP_US)
    token = np.full(4, market.catalogue.instrument_token[_options(market)[0]])

    at_us = start + np.array([0, STEP_US - 1, STEP_US, 5 * STEP_US])
    forward = truth.forward(token, at_us)

    assert forward[0] == forward[1]
    assert forward[1] != forward[2]
    assert forward[3] == market.underlyings.forward_inr[market.catalogue.curve[_options(market)[0]]]


def test_nothing_is_known_of_other_instruments_or_outside_the_history(
    market: Market, now_ns: int
) -> None:
    history = TruthHistory(market.catalogue, steps_max=100)
    _record(market, history, now_ns, 3)
    start = now_ns // NS_PER_US
    truth = _served(history, start + 3 * STEP_US)
    option = int(market.catalogue.instrument_token[_options(market)[0]])

    token = np.array([option, option, option, 256265, 2**32 - 1, 0])
    at_us = start + np.array([0, -1, 3 * STEP_US + 1, 0, 0, 0])

    assert np.isnan(truth.volatility(token, at_us)).tolist() == [False, *[True] * 5]
    assert np.isnan(truth.forward(token, at_us)).tolist() == [False, *[True] * 5]


def test_the_history_is_bounded_and_keeps_the_latest(market: Market, now_ns: int) -> None:
    history = TruthHistory(market.catalogue, steps_max=10)
    _record(market, history, now_ns, 25)
    start = now_ns // NS_PER_US

    truth = _served(history, start + NS_PER_S)

    assert truth.at_us.tolist() == [start + step * STEP_US for step in range(15, 25)]


def test_a_window_holds_every_step_in_force_within_it(market: Market, now_ns: int) -> None:
    history = TruthHistory(market.catalogue, steps_max=100)
    _record(market, history, now_ns, 10)
    start = now_ns // NS_PER_US

    truth = _served(
        history, start + NS_PER_S, from_us=start + STEP_US + 1, to_us=start + 3 * STEP_US
    )

    assert truth.at_us.tolist() == [start + step * STEP_US for step in (1, 2, 3)]
    assert truth.until_us == start + 3 * STEP_US


@pytest.mark.parametrize(
    "window", [{"to_us": 5}, {"from_us": 2**61, "to_us": 0}], ids=["before", "reversed"]
)
def test_an_empty_window_knows_nothing(market: Market, now_ns: int, window: dict[str, int]) -> None:
    history = TruthHistory(market.catalogue, steps_max=100)
    _record(market, history, now_ns, 3)

    truth = _served(history, now_ns // NS_PER_US + NS_PER_S, **window)

    option = market.catalogue.instrument_token[_options(market)[:1]]
    assert len(truth.at_us) == 0
    assert np.isnan(truth.volatility(option, np.array([now_ns // NS_PER_US]))).all()
