"""The smile: found where it is known, refused where it cannot be seen, judged for arbitrage."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ticker_service.pricing import Smiles, SmileStatus, fit_smiles
from ticker_service.pricing.arbitrage import has_no_butterfly, has_no_calendar
from ticker_service.pricing.svi import RawSvi

NAN = float("nan")
FORWARD = 25_000.0
WEEK = 7 / 365


def strikes(count: int = 41, gap: float = 50.0, forward: float = FORWARD) -> np.ndarray:
    return forward + gap * (np.arange(count) - count // 2)[None, :]


def svi(a: float, b: float, rho: float, m: float, sigma: float) -> RawSvi:
    return RawSvi(
        a=np.array([a]),
        b=np.array([b]),
        rho=np.array([rho]),
        m=np.array([m]),
        sigma=np.array([sigma]),
    )


def fit(
    strike: np.ndarray,
    volatility: np.ndarray,
    error: np.ndarray | None = None,
    *,
    forward: float = FORWARD,
    years: float = WEEK,
) -> Smiles:
    rows = len(strike)
    return fit_smiles(
        strike,
        volatility,
        forward=np.full(rows, forward),
        years=np.full(rows, years),
        volatility_error=error,
    )


def volatility_of(curve: RawSvi, strike: np.ndarray, years: float) -> np.ndarray:
    variance, _, _ = curve.variance(np.log(strike / FORWARD))
    return np.sqrt(variance / years)


@settings(max_examples=150, deadline=None)
@given(
    years=st.sampled_from([0.5 / 365, WEEK, 30 / 365, 0.5]),
    level=st.floats(0.06, 0.8),
    slope=st.floats(0.05, 0.9),
    rho=st.floats(-0.9, 0.9),
    turn=st.floats(-0.7, 0.7),
    sharpness=st.floats(0.15, 1.5),
)
def test_a_known_smile_is_found_again(
    years: float, level: float, slope: float, rho: float, turn: float, sharpness: float
) -> None:
    # A range of three deviations to each side; turn and sharpness as shares of it.
    width = 3.0 * level * np.sqrt(years)
    strike = FORWARD * np.exp(np.linspace(-width, width, 31))[None, :]
    m, sigma = turn * width, sharpness * width
    b = slope * level * level * years / width
    a = level * level * years - b * sigma * np.sqrt(1 - rho * rho)
    curve = svi(max(a, 0.0) + 0.02 * level * level * years, b, rho, m, sigma)
    volatility = volatility_of(curve, strike, years)

    smiles = fit(strike, volatility, years=years)

    assert smiles.status.tolist() == [SmileStatus.OK]
    np.testing.assert_allclose(smiles.volatility(strike), volatility, atol=2e-6)
    at_the_money = volatility_of(curve, np.array([[FORWARD]]), years)[0, 0]
    assert smiles.atm_volatility[0] == pytest.approx(at_the_money, abs=2e-6)


def test_a_parabola_in_volatility_is_met_to_a_hundredth_of_a_point() -> None:
    strike = strikes()
    k = np.log(strike / FORWARD)
    volatility = 0.13 - 0.3 * k + 2.0 * k * k

    smiles = fit(strike, volatility)

    np.testing.assert_allclose(smiles.volatility(strike), volatility, atol=1e-4)
    assert smiles.atm_volatility[0] == pytest.approx(0.13, abs=2e-5)
    assert smiles.skew[0] == pytest.approx(-0.3, abs=2e-3)
    assert smiles.curvature[0] == pytest.approx(4.0, rel=0.05)
    assert smiles.fit_error_max[0] < 1e-4
    assert smiles.butterfly_ok[0]


def test_skew_and_curvature_are_the_curves_derivatives_at_the_forward() -> None:
    strike = strikes()
    k = np.log(strike / FORWARD)
    smiles = fit(strike, 0.2 - 0.5 * k + 3.0 * k * k)

    step = 1e-4
    around = smiles.volatility(FORWARD * np.exp(np.array([[-step, 0.0, step]])))[0]

    assert smiles.atm_volatility[0] == pytest.approx(around[1], rel=1e-12)
    assert smiles.skew[0] == pytest.approx((around[2] - around[0]) / (2 * step), rel=1e-4)
    bend = (around[2] - 2 * around[1] + around[0]) / step**2
    assert smiles.curvature[0] == pytest.approx(bend, rel=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_one_bad_quote_does_not_bend_the_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    strike = strikes()
    k = np.log(strike / FORWARD)
    volatility = 0.13 - 0.3 * k + 2.0 * k * k + rng.normal(0.0, 2e-4, k.shape)
    bad = int(rng.integers(1, 40))
    spoiled = volatility.copy()
    spoiled[0, bad] += 0.05

    smiles = fit(strike, spoiled)

    assert smiles.atm_volatility[0] == pytest.approx(0.13, abs=5e-4)
    # It is still in the error, so that nobody takes the curve for a perfect one.
    assert smiles.fit_error_max[0] == pytest.approx(0.05, abs=2e-3)


def test_a_wide_quote_counts_for_less_than_a_tight_one() -> None:
    strike = strikes(21)
    volatility = np.full((1, 21), 0.13)
    volatility[0, ::2] = 0.14
    error = np.full((1, 21), 5e-4)
    error[0, ::2] = 5e-3

    smiles = fit(strike, volatility, error)

    assert smiles.atm_volatility[0] == pytest.approx(0.13, abs=5e-4)
    assert smiles.fit_error[0] < 0.002 < smiles.fit_error_max[0]


@pytest.mark.parametrize("bad", [NAN, float("inf"), -0.1, 0.0, 1e300])
def test_a_bad_row_is_as_if_it_were_not_there(bad: float) -> None:
    strike = strikes(20)
    k = np.log(strike / FORWARD)
    volatility = 0.13 - 0.3 * k + 2.0 * k * k + 1e-4 * np.sin(np.arange(20))
    for column in (0, 1):
        tables = [strike.copy(), volatility.copy()]
        tables[column][0, [3, 12]] = bad

        with_bad = fit(*tables)
        without = fit(np.delete(strike, [3, 12], axis=1), np.delete(volatility, [3, 12], axis=1))

        assert with_bad.points.tolist() == [18]
        np.testing.assert_allclose(
            with_bad.volatility(strike), without.volatility(strike), atol=1e-9
        )


def test_expiries_do_not_touch_each_other() -> None:
    strike = np.repeat(strikes(21), 4, axis=0)
    k = np.log(strike / FORWARD)
    volatility = 0.13 - 0.3 * k + 2.0 * k * k
    volatility[1] = NAN
    volatility[2] = 1e300
    volatility[3] += 0.02

    together = fit(strike, volatility)

    assert together.status.tolist() == [
        SmileStatus.OK,
        SmileStatus.TOO_FEW_POINTS,
        SmileStatus.TOO_FEW_POINTS,
        SmileStatus.OK,
    ]
    for row in (0, 3):
        alone = fit(strike[row : row + 1], volatility[row : row + 1])
        np.testing.assert_allclose(
            together.volatility(strike)[row], alone.volatility(strike[:1])[0], atol=1e-9
        )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, SmileStatus.OK),
        ({"count": 5}, SmileStatus.TOO_FEW_POINTS),
        ({"count": 0}, SmileStatus.TOO_FEW_POINTS),
        ({"forward": FORWARD - 490.0}, SmileStatus.ONE_SIDED),
        ({"forward": FORWARD + 900.0}, SmileStatus.ONE_SIDED),
        ({"forward": NAN}, SmileStatus.NO_FORWARD),
        ({"forward": -1.0}, SmileStatus.BAD_INPUT),
        ({"years": 0.0}, SmileStatus.EXPIRED),
        ({"years": -WEEK}, SmileStatus.EXPIRED),
        ({"years": NAN}, SmileStatus.BAD_INPUT),
        ({"years": float("inf")}, SmileStatus.BAD_INPUT),
    ],
)
def test_a_smile_that_cannot_be_seen_is_refused_with_the_reason(
    change: dict[str, float], expected: SmileStatus
) -> None:
    terms = {"forward": FORWARD, "years": WEEK} | change
    strike = strikes(int(terms.pop("count", 21)))

    smiles = fit(strike, np.full(strike.shape, 0.13), **terms)

    assert smiles.status.tolist() == [expected]
    numbers = [
        *(smiles.curve.a, smiles.curve.b, smiles.curve.rho, smiles.curve.m, smiles.curve.sigma),
        *(smiles.atm_volatility, smiles.skew, smiles.curvature, smiles.strike_min),
        *(smiles.strike_max, smiles.fit_error, smiles.fit_error_max),
    ]
    assert all(np.isnan(column[0]) == (expected is not SmileStatus.OK) for column in numbers)
    assert (bool(smiles.butterfly_ok[0]), bool(smiles.calendar_ok[0])) == (not expected,) * 2


ANY = st.floats(width=64) | st.floats(0.01, 2.0) | st.floats(20_000.0, 30_000.0)


@settings(max_examples=300, deadline=None)
@given(
    strike=hnp.arrays(np.float64, (3, 9), elements=ANY),
    volatility=hnp.arrays(np.float64, (3, 9), elements=ANY),
    error=hnp.arrays(np.float64, (3, 9), elements=ANY),
    forward=hnp.arrays(np.float64, 3, elements=ANY),
    years=hnp.arrays(np.float64, 3, elements=ANY),
)
def test_any_floats_give_a_finite_curve_or_a_reason(
    strike: np.ndarray,
    volatility: np.ndarray,
    error: np.ndarray,
    forward: np.ndarray,
    years: np.ndarray,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smiles = fit_smiles(
            strike, volatility, forward=forward, years=years, volatility_error=error
        )

    for column in (
        *(smiles.curve.a, smiles.curve.b, smiles.curve.rho, smiles.curve.m, smiles.curve.sigma),
        *(smiles.atm_volatility, smiles.skew, smiles.curvature, smiles.fit_error),
    ):
        np.testing.assert_array_equal(np.isfinite(column), smiles.status == SmileStatus.OK)


@settings(max_examples=100, deadline=None)
@given(
    volatility=hnp.arrays(np.float64, (1, 15), elements=st.floats(0.02, 1.5)),
    years=st.sampled_from([1e-6, 1e-3, WEEK, 2.0]),
)
def test_whatever_the_quotes_the_curve_has_variance_everywhere_and_is_no_worse_than_flat(
    volatility: np.ndarray, years: float
) -> None:
    strike = strikes(15, 200.0)

    smiles = fit(strike, volatility, years=years)

    assert smiles.status.tolist() == [SmileStatus.OK]
    wide = FORWARD * np.exp(np.linspace(-3.0, 3.0, 301))[None, :]
    assert (smiles.volatility(wide) >= 0.0).all()
    assert abs(smiles.curve.rho[0]) <= 1.0
    assert smiles.curve.b[0] >= 0.0


def test_the_strikes_it_reaches_to_are_listed_ones_to_the_last_bit() -> None:
    for forward in np.linspace(24_900.0, 25_100.0, 101).tolist():
        strike = strikes()
        volatility = np.full(strike.shape, 0.13)
        volatility[0, [0, -1]] = NAN

        smiles = fit(strike, volatility, forward=forward)

        assert (smiles.strike_min[0], smiles.strike_max[0]) == (strike[0, 1], strike[0, -2])


def test_a_scale_of_prices_changes_nothing() -> None:
    strike = strikes()
    volatility = 0.13 + 1e-5 * (np.arange(41)[None, :] - 18) ** 2

    smiles = fit(strike, volatility)
    scaled = fit(strike * 8.0, volatility, forward=FORWARD * 8.0)

    np.testing.assert_allclose(scaled.skew, smiles.skew, rtol=1e-9)
    np.testing.assert_allclose(scaled.strike_min, smiles.strike_min * 8.0, rtol=1e-12)


def test_a_known_curve_with_butterfly_arbitrage_is_caught() -> None:
    """Axel Vogt's example, in Gatheral and Jacquier (arXiv 1204.0646), §3.1."""
    vogt = svi(-0.0410, 0.1331, 0.3060, 0.3586, 0.4153)
    low, high = np.array([-1.0]), np.array([1.0])

    assert not has_no_butterfly(vogt, low, high)[0]
    assert has_no_butterfly(svi(0.04, 0.1331, 0.3060, 0.3586, 0.4153), low, high)[0]


def test_a_wing_steeper_than_lee_allows_is_caught_outside_the_quoted_range() -> None:
    steep = svi(0.5, 1.5, 0.5, 0.0, 0.5)

    assert not has_no_butterfly(steep, np.array([-0.01]), np.array([0.01]))[0]


def test_quotes_with_a_negative_density_are_called_so() -> None:
    strike = strikes(21, 100.0)
    peak = 0.25 - 0.9 * np.abs(np.log(strike / FORWARD))  # the price is concave at the wings
    honest = fit(strike, np.full((1, 21), 0.2))
    steep = fit(strike, 0.08 + 6.0 * np.abs(np.log(strike / FORWARD)), years=0.5)

    assert honest.butterfly_ok[0]
    assert not steep.butterfly_ok[0]
    assert fit(strike, peak).status[0] == SmileStatus.OK


def test_calendar_arbitrage_is_blamed_on_the_later_expiry() -> None:
    strike = np.repeat(strikes(21), 3, axis=0)
    volatility = np.array([[0.20], [0.12], [0.20]]) + np.zeros((3, 21))
    years = np.array([3 * WEEK, 2 * WEEK, WEEK])
    forward = np.full(3, FORWARD)

    one = fit_smiles(strike, volatility, forward=forward, years=years)
    three = fit_smiles(
        strike, volatility, forward=forward, years=years, underlying=np.array([0, 1, 2])
    )

    # 0.12² of two weeks is less than 0.20² of one.
    assert one.calendar_ok.tolist() == [True, False, True]
    assert three.calendar_ok.tolist() == [True, True, True]


def test_curves_that_cross_are_calendar_arbitrage_though_their_money_is_in_order() -> None:
    low, high = np.array([-0.1, -0.1]), np.array([0.1, 0.1])
    crossing = RawSvi(
        a=np.array([0.001, 0.0012]),
        b=np.array([0.05, 0.001]),
        rho=np.zeros(2),
        m=np.zeros(2),
        sigma=np.array([0.01, 0.01]),
    )

    found = has_no_calendar(
        crossing, low, high, years=np.array([WEEK, 2 * WEEK]), underlying=np.zeros(2, np.intp)
    )

    assert found.tolist() == [True, False]


def test_no_expiries_are_no_smiles() -> None:
    none = fit_smiles(np.empty((0, 5)), np.empty((0, 5)), forward=np.empty(0), years=np.empty(0))

    assert len(none.status) == 0
