"""A second oracle: vollib, which many Indian desks and OpenAlgo's users know."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ticker_service.pricing import PricingKernel, spot_greeks

with warnings.catch_warnings():
    # The oracle's own sources carry invalid escapes and deprecated aliases; they are not ours.
    warnings.simplefilter("ignore")
    from vollib.black import black
    from vollib.black.greeks import analytical as black_greeks
    from vollib.black.implied_volatility import implied_volatility
    from vollib.black_scholes.greeks import analytical as spot_model

ROWS = 300
RATE = 0.065
ROW_NAMES = ("delta", "gamma", "theta", "vega", "rho")


@pytest.fixture(scope="module")
def chain() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20260803)
    forward = rng.uniform(10_000.0, 80_000.0, ROWS)
    years = 10 ** rng.uniform(-2.5, 0.0, ROWS)
    volatility = rng.uniform(0.08, 0.6, ROWS)
    reach = 2.0 * volatility * np.sqrt(years)
    return {
        "volatility": volatility,
        "forward": forward,
        "strike": forward * np.exp(rng.uniform(-1.0, 1.0, ROWS) * reach),
        "years": years,
        "is_call": rng.random(ROWS) < 0.5,
    }


def rows(chain: dict[str, np.ndarray]) -> list[tuple[str, float, float, float, float]]:
    return [
        ("c" if is_call else "p", float(forward), float(strike), float(years), float(volatility))
        for volatility, forward, strike, years, is_call in zip(*chain.values(), strict=True)
    ]


def test_prices_greeks_and_volatilities_agree_with_vollib(chain: dict[str, np.ndarray]) -> None:
    volatility, *terms, is_call = chain.values()
    kernel = PricingKernel(ROWS)

    evaluated = kernel.evaluate(volatility, *terms, RATE, is_call)
    solved, _ = kernel.solve(evaluated[0].copy(), *terms, RATE, is_call)

    for column, (flag, forward, strike, years, sigma) in enumerate(rows(chain)):
        price = black(flag, forward, strike, years, RATE, sigma)
        expected = [
            getattr(black_greeks, name)(flag, forward, strike, years, RATE, sigma)
            for name in ROW_NAMES
        ]
        np.testing.assert_allclose(evaluated[0, column], price, rtol=1e-10)
        np.testing.assert_allclose(evaluated[1:, column], expected, rtol=1e-9)
        np.testing.assert_allclose(solved[1:, column], expected, rtol=1e-9)
        theirs = implied_volatility(price, forward, strike, RATE, years, flag)
        np.testing.assert_allclose(solved[0, column], theirs, rtol=1e-9)


def test_spot_greeks_agree_with_vollib_on_the_spot_model(chain: dict[str, np.ndarray]) -> None:
    volatility, forward, strike, years, is_call = chain.values()
    spot = forward * np.exp(-RATE * years)
    greeks = PricingKernel(ROWS).evaluate(volatility, forward, strike, years, RATE, is_call)

    restated = spot_greeks(greeks, forward=forward, spot=spot, years=years, carry=RATE)

    for column, (flag, _, _, term, sigma) in enumerate(rows(chain)):
        expected = [
            getattr(spot_model, name)(
                flag, float(spot[column]), float(strike[column]), term, RATE, sigma
            )
            for name in ROW_NAMES
        ]
        np.testing.assert_allclose(restated[1:, column], expected, rtol=1e-8, atol=1e-12)


def test_spot_greeks_without_a_spot_are_nan() -> None:
    greeks = np.ones((6, 2))
    years = forward = np.ones(2)

    restated = spot_greeks(greeks, forward=forward, spot=0.0, years=years, carry=0.0)

    assert np.isnan(restated[1:3]).all()
