"""Accuracy against 60 digits, over the range that listed index options live in and beyond it."""

from __future__ import annotations

from itertools import product

import black_reference
import mpmath as mp
import numpy as np
import pytest
from black_reference import Terms, relative_error

from ticker_service.pricing import (
    EVALUATE_ROWS,
    PriceStatus,
    PricingKernel,
    _coefficients,
    first_guess,
    mills,
    wide,
)
from ticker_service.pricing.columns import Memory, Scratch
from ticker_service.pricing.normalise import EXCESS_AT_THE_MONEY
from ticker_service.pricing.wide import WideRows

FORWARD = 24_000.0
MINUTE = 1 / 525_600
YEARS = (MINUTE, 15 * MINUTE, 60 * MINUTE, 1 / 365, 7 / 365, 30 / 365, 0.25, 1.0)
LOG_STRIKES = (-1.0, -0.2, -0.05, -0.02, -0.005, -1e-5, 0.0, 1e-7, 0.005, 0.02, 0.05, 0.2, 1.0)
VOLATILITIES = (0.01, 0.06, 0.13, 0.4, 0.79, 0.81, 3.0)

VOLATILITY_ERROR_MAX = 1e-14
GREEKS_ERROR_MAX = 1e-13
# A density at distance z magnifies the rounding of its argument by z**2, here up to 37**2.
DEEP_GREEKS_ERROR_MAX = 2e-13
PRICE_MIN = 1e-280
DELTA_MIN = 1e-6


def grid(rate: float) -> list[tuple[float, Terms]]:
    return [
        (volatility, Terms(FORWARD, FORWARD * float(np.exp(x)), years, rate, is_call))
        for years, x, volatility, is_call in product(
            YEARS, LOG_STRIKES, VOLATILITIES, (True, False)
        )
    ]


def columns(cases: list[tuple[float, Terms]]) -> list[np.ndarray]:
    forward, strike, years, rate, is_call = zip(*(terms for _, terms in cases), strict=True)
    return [np.array(column) for column in (forward, strike, years, rate, is_call)]


def is_out_of_the_money(terms: Terms) -> bool:
    return (terms.strike >= terms.forward) == terms.is_call or terms.strike == terms.forward


def is_priced_by_volatility(exact: list[mp.mpf], terms: Terms) -> bool:
    """Neither worthless nor a forward in disguise."""
    undiscounted = abs(exact[1]) * mp.exp(terms.rate * terms.years)
    return bool(DELTA_MIN < undiscounted < 1 - DELTA_MIN)


@pytest.mark.parametrize("rate", [0.0, 0.065])
def test_price_and_greeks_of_a_volatility_match_sixty_digits(rate: float) -> None:
    cases = grid(rate)
    volatility = np.array([volatility for volatility, _ in cases])

    result = PricingKernel(len(cases)).evaluate(volatility, *columns(cases))

    worst = dict.fromkeys(EVALUATE_ROWS, 0.0)
    compared = 0
    for (sigma, terms), row in zip(cases, result.T, strict=True):
        exact = black_reference.evaluate(sigma, terms)
        if not is_priced_by_volatility(exact, terms):
            continue
        compared += 1
        for name, value, reference in zip(EVALUATE_ROWS, row, exact, strict=True):
            # Theta is the difference of decay and interest and may vanish: measure by its parts.
            error = abs(mp.mpf(float(value)) - reference)
            scale = abs(reference) + (abs(rate * exact[0]) / 365 if name == "theta" else 0)
            worst[name] = max(worst[name], float(error / scale))
    assert compared > 600
    assert max(worst.values()) <= GREEKS_ERROR_MAX, worst


@pytest.mark.parametrize(
    ("least_price", "error_max"),
    [(1e-100, GREEKS_ERROR_MAX), (PRICE_MIN, DEEP_GREEKS_ERROR_MAX)],
)
def test_deep_out_of_the_money_rows_keep_thirteen_digits_down_to_1e_100_and_near_that_to_1e_280(
    least_price: float, error_max: float
) -> None:
    cases = [case for case in grid(0.0) if is_out_of_the_money(case[1])]
    exact = [black_reference.evaluate(sigma, terms) for sigma, terms in cases]
    result = PricingKernel(len(cases)).evaluate([sigma for sigma, _ in cases], *columns(cases))

    errors = [
        max(relative_error(value, want) for value, want in zip(row, wanted, strict=True))
        for row, wanted in zip(result.T, exact, strict=True)
        if wanted[0] > least_price
    ]

    assert len(errors) > 400
    assert max(errors) <= error_max


def solvable(*, deepest: float) -> tuple[list[tuple[float, Terms]], list[float]]:
    """Grid rows, and their prices as floats, that still hold the given share of time value."""
    cases, prices = [], []
    for sigma, terms in grid(0.0):
        price = float(black_reference.evaluate(sigma, terms)[0])
        intrinsic = max((terms.forward - terms.strike) * (1 if terms.is_call else -1), 0.0)
        if price - intrinsic > max(deepest * intrinsic, PRICE_MIN):
            cases.append((sigma, terms))
            prices.append(price)
    return cases, prices


def test_implied_volatility_inverts_the_rounded_price_to_fourteen_digits() -> None:
    cases, prices = solvable(deepest=1e-12)

    result, status = PricingKernel(len(cases)).solve(prices, *columns(cases))

    assert len(cases) > 700
    assert (status == PriceStatus.OK).all()
    for value, price, (sigma, terms) in zip(result[0], prices, cases, strict=True):
        exact = black_reference.implied_volatility(price, sigma, terms)
        assert relative_error(value, exact) <= VOLATILITY_ERROR_MAX, (sigma, terms)


def test_greeks_of_a_price_match_sixty_digits() -> None:
    cases, prices = solvable(deepest=1e-3)

    result, _ = PricingKernel(len(cases)).solve(prices, *columns(cases))

    compared = 0
    for row, price, (sigma, terms) in zip(result.T, prices, cases, strict=True):
        exact = black_reference.evaluate(
            black_reference.implied_volatility(price, sigma, terms), terms
        )
        if is_priced_by_volatility(exact, terms):
            compared += 1
            for value, reference in zip(row[1:], exact[1:], strict=True):
                assert relative_error(value, reference) <= GREEKS_ERROR_MAX, (sigma, terms)
    assert compared > 500


def test_the_first_guess_is_good_to_3e_4_where_one_step_has_to_do() -> None:
    k = np.array([1e-300, 1e-6, 0.01, 0.1, 0.5, 1.0, 1.5, first_guess.LOG_MONEYNESS_MAX])
    s = np.array([1e-6, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, first_guess.TOTAL_VOLATILITY_MAX])
    k, s = (grid.ravel() for grid in np.meshgrid(k, s))
    with mp.workdps(60):
        exact = [_time_value(mp.mpf(float(a)), mp.mpf(float(b))) for a, b in zip(k, s, strict=True)]
    p = np.array([float(value) for value in exact])
    is_price = p > 1e-290
    scratch = Scratch(Memory(int(is_price.sum())), int(is_price.sum()))
    scratch.time_value[:] = p[is_price]
    scratch.log_moneyness[:] = k[is_price]
    scratch.excess[:] = np.expm1(k[is_price])

    first_guess.total_volatility(scratch)

    assert is_price.sum() > 40
    np.testing.assert_allclose(scratch.total_volatility, s[is_price], rtol=3e-4)


def solve_wide(k: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Solve rows as those that the first guess does not cover, whether it does or not."""
    scratch = Scratch(Memory(len(k)), len(k))
    scratch.log_moneyness[:] = np.maximum(k, EXCESS_AT_THE_MONEY)
    scratch.excess[:] = np.maximum(np.expm1(k), EXCESS_AT_THE_MONEY)
    scratch.time_value[:] = p
    with np.errstate(all="ignore"):
        first_guess.total_volatility(scratch)
        scratch.wide[:] = True
        WideRows(len(k)).solve(scratch)
    return scratch.total_volatility


def wide_grid() -> tuple[np.ndarray, np.ndarray]:
    """Return k and s all over the region that is not the first guess's, and just inside that."""
    k = np.array([0.0, 1e-8, 0.01, 0.1, 0.5, 1.0, 1.99, 2.01, 2.5, 3.0, 4.0, 6.0, 12.0, 25.0, 41.0])
    s = np.array([0.06, 0.1, 0.2, 0.4, 0.75, 0.81, 0.9, 1.4, 1.7, 2.2, 3.0, 4.0, 6.0, 9.0, 14.0])
    rng = np.random.default_rng(5)
    random_k = np.concatenate([rng.uniform(0.0, 6.0, 600), rng.uniform(0.0, 41.4, 300)])
    random_s = np.concatenate(
        [10 ** rng.uniform(-0.3, 1.1, 600), 10 ** rng.uniform(-1.2, 1.1, 300)]
    )
    k, s = (grid.ravel() for grid in np.meshgrid(k, s))
    k, s = np.concatenate([k, random_k]), np.concatenate([s, random_s])
    is_wide = (s > 0.7) | (k > 1.9)
    return k[is_wide], s[is_wide]


def test_wide_rows_reach_any_moneyness_and_any_time_value() -> None:
    k, s = wide_grid()
    with mp.workdps(60):
        exact = [_time_value(mp.mpf(float(a)), mp.mpf(float(b))) for a, b in zip(k, s, strict=True)]
    p = np.array([float(value) for value in exact])
    inside = (p > 1e-290) & (p < 1.0)

    found = solve_wide(k[inside], p[inside])

    # One unit in the last place of p (or of 1 - p, which is what a float64 above a half resolves).
    density = np.exp(-0.5 * (k / s - s / 2)[inside] ** 2) / np.sqrt(2 * np.pi)
    resolution = np.spacing(p[inside]) / density / s[inside]
    assert inside.sum() > 800
    assert (np.abs(found / s[inside] - 1.0) <= 4e-15 + 4 * resolution).all()


def test_three_steps_are_enough_for_every_wide_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 300_000
    rng = np.random.default_rng(9)
    k = np.concatenate([rng.uniform(0.0, most, rows) for most in (0.5, 6.0, 41.4)])
    log_p = np.concatenate([rng.uniform(least, 0.0, rows) for least in (-2.0, -20.0, -660.0)])
    p = np.exp(rng.permutation(log_p))
    is_high = rng.random(len(k)) < 0.4
    p[is_high] = 1.0 - 10 ** rng.uniform(-15.9, -0.3, is_high.sum())
    p = np.clip(p, 1e-290, 1.0 - 2.0**-53)

    three = solve_wide(k, p)
    monkeypatch.setattr(wide, "STEPS", 4)
    four = solve_wide(k, p)

    is_wide = (four > first_guess.TOTAL_VOLATILITY_MAX) | (k > first_guess.LOG_MONEYNESS_MAX)
    assert is_wide.sum() > 500_000
    assert np.abs(three / four - 1.0)[is_wide].max() < 5e-15


def _time_value(k: mp.mpf, s: mp.mpf) -> mp.mpf:
    near, far = k / s - s / 2, k / s + s / 2
    return black_reference.normal_cdf(-near) - mp.exp(k) * black_reference.normal_cdf(-far)


def test_mills_polynomial_is_good_to_two_units_of_1e_15() -> None:
    z = np.linspace(_coefficients.MILLS_LOWEST, 38.0, 400)

    ratio = np.empty_like(z)
    mills.ratio(z, ratio, v=np.empty_like(z), w=np.empty_like(z))

    with mp.workdps(60):
        for value, argument in zip(ratio, z, strict=True):
            x = mp.mpf(float(argument))
            normal = mp.sqrt(mp.pi / 2) * mp.exp(x * x / 2)
            exact = normal * mp.erfc(x / mp.sqrt(2))
            assert relative_error(value, exact) <= 2e-15, argument
