"""The forward of an expiry from its own options."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ticker_service.pricing import ParityForward, carry_forward, parity_forward, parity_forwards

NAN = float("nan")
FORWARD = 24_012.35
STRIKES = np.arange(23_000.0, 25_050.0, 50.0)


def chain(forward: float = FORWARD, discount: float = 1.0) -> tuple[np.ndarray, ...]:
    """Return strike, call, put, half_spread of a chain that agrees on its forward."""
    put = 60.0 + np.maximum(STRIKES - forward, 0.0) * discount
    call = put + (forward - STRIKES) * discount
    return STRIKES, call, put, np.full(STRIKES.shape, 0.5)


def test_a_chain_that_agrees_gives_its_forward_without_dispersion() -> None:
    result = parity_forward(*chain(), guess=24_000.0)

    assert result.forward == pytest.approx(FORWARD, abs=1e-9)
    assert result.dispersion == pytest.approx(0.0, abs=1e-9)
    assert result.strikes_used == 7


def test_the_discount_is_undone() -> None:
    result = parity_forward(*chain(discount=0.98), guess=24_000.0, discount=0.98)

    assert result.forward == pytest.approx(FORWARD, abs=1e-9)


def test_only_the_strikes_nearest_to_the_guess_are_weighed() -> None:
    strike, call, put, spread = chain()
    call[np.abs(strike - 24_000.0) > 100.0] += 500.0

    result = parity_forward(strike, call, put, spread, guess=24_000.0, strikes_max=5)

    assert result.forward == pytest.approx(FORWARD, abs=1e-9)
    assert result.strikes_used == 5


def test_without_a_guess_the_closest_call_and_put_mark_the_middle() -> None:
    strike, call, put, spread = chain()
    far = np.abs(strike - FORWARD) > 250.0
    call[far] += 40.0

    result = parity_forward(strike, call, put, spread, guess=NAN)

    assert result.forward == pytest.approx(FORWARD, abs=1e-9)


def test_one_wild_quote_does_not_move_the_median() -> None:
    strike, call, put, spread = chain()
    call[np.searchsorted(strike, 24_000.0)] += 300.0

    result = parity_forward(strike, call, put, spread, guess=24_000.0)

    assert result.forward == pytest.approx(FORWARD, abs=1e-9)


def test_a_tight_quote_outweighs_several_wide_ones() -> None:
    strike = np.array([23_900.0, 24_000.0, 24_100.0])
    put = np.array([50.0, 90.0, 150.0])
    call = put + np.array([24_010.0, 24_020.0, 24_030.0]) - strike

    result = parity_forward(strike, call, put, np.array([5.0, 5.0, 0.1]), guess=24_000.0)

    assert result == ParityForward(forward=24_030.0, dispersion=10.0, strikes_used=3, pair_index=2)


def test_the_pair_index_names_the_strike_that_was_taken_in_the_callers_order() -> None:
    strike, call, put, spread = (column[::-1] for column in chain())
    call = call + np.linspace(-1.0, 1.0, call.size)

    result = parity_forward(strike, call, put, spread, guess=24_000.0)

    index = result.pair_index
    assert result.forward == strike[index] + (call[index] - put[index])


@pytest.mark.parametrize("missing", [NAN, 0.0, -3.0, math.inf])
@pytest.mark.parametrize("leg", [1, 2])
def test_a_strike_lacking_a_price_does_not_count(leg: int, missing: float) -> None:
    columns = [column.copy() for column in chain()]
    columns[leg][:-2] = missing

    result = parity_forward(*columns, guess=24_000.0)

    assert result.strikes_used == 2
    assert result.forward == pytest.approx(FORWARD, abs=1e-9)


@pytest.mark.parametrize("unknown", [NAN, -0.05, math.inf])
def test_a_strike_without_a_spread_does_not_count(unknown: float) -> None:
    strike, call, put, spread = chain()
    spread[::2] = unknown

    result = parity_forward(strike, call, put, spread, guess=24_000.0)

    assert result.strikes_used == 7
    assert result.pair_index % 2 == 1


@pytest.mark.parametrize(
    "change", [{"discount": 0.0}, {"discount": NAN}, {"discount": -1.0}, {"strikes_max": 0}]
)
def test_without_a_usable_strike_there_is_no_forward(change: dict[str, float]) -> None:
    strike, call, put, spread = chain()
    result = parity_forward(strike, put - call, put, spread, guess=24_000.0, **change)  # type: ignore[arg-type]

    assert math.isnan(result.forward)
    assert math.isnan(result.dispersion)
    assert (result.strikes_used, result.pair_index) == (0, -1)


def test_several_chains_at_once_give_what_each_gives_alone() -> None:
    """Chains of different length, one without a guess, one without a price."""
    rng = np.random.default_rng(5)
    chains = []
    for forward, strikes in ((24_012.35, 41), (24_510.0, 12), (23_700.0, 5), (24_000.0, 3)):
        strike, call, put, spread = (column[:strikes] for column in chain(forward))
        scatter = rng.normal(0.0, 2.0, strikes)
        chains.append((strike, call + scatter, put, spread * rng.uniform(0.5, 9.0, strikes)))
    chains[3] = (*chains[3][:2], np.full(3, NAN), chains[3][3])
    guess, discount = np.array([24_000.0, NAN, 23_000.0, 24_000.0]), np.array([1.0, 0.98, 1.0, 1.0])
    padded = [np.full((4, 41), NAN) for _ in range(4)]
    for row, columns in enumerate(chains):
        for column, values in zip(padded, columns, strict=True):
            column[row, : len(values)] = values

    together = parity_forwards(*padded, guess=guess, discount=discount)

    for row, columns in enumerate(chains):
        alone = parity_forward(*columns, guess=guess[row], discount=discount[row])
        assert together.strikes_used[row] == alone.strikes_used
        assert together.pair_index[row] == alone.pair_index
        np.testing.assert_array_equal(
            [together.forward[row], together.dispersion[row]], [alone.forward, alone.dispersion]
        )


def test_an_empty_chain_has_no_forward() -> None:
    none = np.array([])

    assert math.isnan(parity_forward(none, none, none, none, guess=24_000.0).forward)


def test_carry_grows_the_spot_at_the_rate() -> None:
    assert carry_forward(24_000.0, 0.065, 0.5) == pytest.approx(24_000.0 * math.exp(0.0325))
    assert carry_forward(24_000.0, 0.0, 0.5) == 24_000.0


@pytest.mark.parametrize(
    ("spot", "rate", "years"), [(NAN, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, NAN, 1.0), (1.0, 1e9, 1.0)]
)
def test_carry_of_nonsense_is_nan(spot: float, rate: float, years: float) -> None:
    assert math.isnan(carry_forward(spot, rate, years))
