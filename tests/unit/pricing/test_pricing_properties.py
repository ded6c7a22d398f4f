"""Laws that hold for every option, and promises that hold for every float."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ticker_service.pricing import PriceStatus, PricingKernel, carry_forward, parity_forward

KERNEL = PricingKernel(2)
# A loaded machine is not a broken law.
unhurried = settings(deadline=None)
any_float = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)

forwards = st.floats(1.0, 100_000.0)
log_strikes = st.floats(-1.0, 1.0)
terms_in_years = st.floats(1e-6, 3.0)
rates = st.floats(-0.05, 0.15)
volatilities = st.floats(0.01, 3.0)


@unhurried
@given(forwards, log_strikes, terms_in_years, rates, volatilities)
def test_call_less_put_is_the_discounted_forward_less_strike(
    forward: float, log_strike: float, years: float, rate: float, volatility: float
) -> None:
    strike = forward * float(np.exp(log_strike))

    out = KERNEL.evaluate(
        [volatility] * 2, [forward] * 2, [strike] * 2, [years] * 2, rate, [True, False]
    )

    discount = np.exp(-rate * years)
    np.testing.assert_allclose(
        out[0, 0] - out[0, 1], discount * (forward - strike), rtol=0.0, atol=1e-14 * forward
    )
    np.testing.assert_allclose(out[1, 0] - out[1, 1], discount, rtol=1e-14)
    np.testing.assert_array_equal(out[[2, 4], 0], out[[2, 4], 1])


@unhurried
@given(forwards, log_strikes, terms_in_years, rates, volatilities, st.booleans())
def test_a_price_comes_back_from_its_own_volatility(
    forward: float,
    log_strike: float,
    years: float,
    rate: float,
    volatility: float,
    is_call: bool,  # noqa: FBT001 - hypothesis calls by position
) -> None:
    terms = ([forward], [forward * float(np.exp(log_strike))], [years], rate, [is_call])
    price = KERNEL.evaluate([volatility], *terms)[0]
    solved, status = KERNEL.solve(price, *terms)
    assume(status[0] == PriceStatus.OK)

    again = KERNEL.evaluate(solved[0], *terms)[0]

    # A distance of z standard deviations magnifies the volatility's last digit z**2 times.
    np.testing.assert_allclose(again, price, rtol=1e-12, atol=0.0)


@unhurried
@given(st.lists(st.tuples(*[any_float] * 5, st.booleans()), min_size=1, max_size=5))
def test_any_floats_give_a_finite_row_or_nan_with_a_reason(
    rows: list[tuple[float, float, float, float, float, bool]],
) -> None:
    *columns, is_call = (np.array(column) for column in zip(*rows, strict=True))
    with np.errstate(all="raise"):
        solved, status = KERNEL.solve(*columns, is_call)
        evaluated = KERNEL.evaluate(*columns, is_call)

    is_ok = status == PriceStatus.OK
    assert (status <= PriceStatus.BAD_INPUT).all()
    assert np.isfinite(solved[:, is_ok]).all()
    assert np.isnan(solved[:, ~is_ok]).all()
    is_blank = np.isnan(evaluated).all(axis=0)
    assert np.isfinite(evaluated[:, ~is_blank]).all()


@unhurried
@given(
    st.lists(st.tuples(any_float, any_float, any_float, any_float), max_size=12),
    any_float,
    any_float,
)
def test_any_floats_give_a_positive_forward_or_none(
    rows: list[tuple[float, float, float, float]], guess: float, discount: float
) -> None:
    strike, call, put, spread = np.array(rows, dtype=float).reshape(-1, 4).T
    with np.errstate(all="raise"):
        result = parity_forward(strike, call, put, spread, guess=guess, discount=discount)

    if result.strikes_used:
        assert 0.0 < result.forward < np.inf
        assert result.dispersion >= 0.0
        assert 0 <= result.pair_index < len(strike)
    else:
        assert np.isnan(result.forward)
        assert result.pair_index == -1


@unhurried
@given(any_float, any_float, any_float)
def test_any_floats_give_a_carry_forward_or_nan(spot: float, rate: float, years: float) -> None:
    forward = carry_forward(spot, rate, years)

    assert forward >= 0.0 or np.isnan(forward)
