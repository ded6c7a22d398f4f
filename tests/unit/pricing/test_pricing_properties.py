"""Laws that hold for every option, and promises that hold for every float."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ticker_service.pricing import PriceStatus, PricingKernel, carry_forward, parity_forward

KERNEL = PricingKernel(2)
PRICE, DELTA, GAMMA, THETA, VEGA, RHO = range(6)
# A loaded machine is not a broken law.
unhurried = settings(deadline=None)
any_float = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)

forwards = st.floats(1.0, 100_000.0)
log_strikes = st.floats(-1.0, 1.0)
terms_in_years = st.floats(1e-6, 3.0)
rates = st.floats(-0.05, 0.15)
volatilities = st.floats(0.01, 3.0)


class Option(NamedTuple):
    """An option; its columns have two rows, the second changed as told."""

    forward: float
    log_strike: float
    years: float
    rate: float
    volatility: float
    is_call: bool

    @property
    def strike(self) -> float:
        return self.forward * float(np.exp(self.log_strike))

    @property
    def intrinsic(self) -> float:
        """Undiscounted, rupees."""
        sign = 1.0 if self.is_call else -1.0
        return max(sign * (self.forward - self.strike), 0.0)

    def pair(self, **changed: float) -> tuple[np.ndarray, ...]:
        """Return volatility, forward, strike, years, rate, is_call of both rows."""
        names = ("volatility", "forward", "strike", "years", "rate", "is_call")
        return tuple(
            np.array([getattr(self, name), changed.get(name, getattr(self, name))])
            for name in names
        )

    def value(self, **changed: float) -> np.ndarray:
        """Return price and Greeks of both rows, shape ``(6, 2)``."""
        return KERNEL.evaluate(*self.pair(**changed)).copy()


options = st.builds(
    Option, forwards, log_strikes, terms_in_years, rates, volatilities, st.booleans()
)


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
@given(options)
def test_call_and_put_decay_and_discount_apart_by_the_forward_less_strike_alone(
    option: Option,
) -> None:
    call, put = option._replace(is_call=True).value(is_call=False).T

    worth = np.exp(-option.rate * option.years) * (option.forward - option.strike)
    scale = option.forward + abs(call[THETA])
    assert abs(call[THETA] - put[THETA] - option.rate * worth / 365.0) <= 1e-13 * scale
    assert abs(call[RHO] - put[RHO] + 0.01 * option.years * worth) <= 1e-13 * scale


@unhurried
@given(options, st.floats(1.001, 3.0))
def test_a_higher_volatility_is_never_a_lower_price(option: Option, ratio: float) -> None:
    low, high = option.value(volatility=option.volatility * ratio)[PRICE]

    assert high >= low * (1.0 - 1e-14)
    is_near = abs(option.log_strike) < option.volatility * np.sqrt(option.years)
    if is_near and option.volatility * ratio * np.sqrt(option.years) < 1.0:
        assert high > low


@unhurried
@given(options, st.floats(1.001, 2.0))
def test_a_call_gains_with_the_forward_and_loses_with_the_strike_and_a_put_the_other_way(
    option: Option, ratio: float
) -> None:
    sign = 1.0 if option.is_call else -1.0
    slack = 3e-14 * option.forward

    before, after = option.value(forward=option.forward * ratio)[PRICE]
    assert sign * (after - before) >= -slack
    before, after = option.value(strike=option.strike * ratio)[PRICE]
    assert sign * (before - after) >= -slack


@unhurried
@given(options, st.floats(1.0001, 2.0))
def test_a_higher_price_is_never_a_lower_volatility(option: Option, ratio: float) -> None:
    price = option.value(volatility=option.volatility * ratio)[PRICE]
    assume(price[1] > price[0])
    solved, status = KERNEL.solve(price, *option.pair()[1:])
    assume((status == PriceStatus.OK).all())

    assert solved[0, 1] >= solved[0, 0] * (1.0 - 1e-13)


@unhurried
@given(options)
def test_a_volatility_comes_back_as_exactly_as_its_price_tells_it(option: Option) -> None:
    is_out_of_the_money_call = option.strike >= option.forward
    option = option._replace(is_call=is_out_of_the_money_call)
    total = option.volatility * np.sqrt(option.years)
    assume(abs(option.log_strike) < 5.0 * total)
    assume(total < 1.0)
    value = option.value()
    solved, status = KERNEL.solve(value[PRICE], *option.pair()[1:])

    digit = np.spacing(value[PRICE, 0]) / (100.0 * value[VEGA, 0])
    assert status[0] == PriceStatus.OK
    assert abs(solved[0, 0] - option.volatility) <= 4.0 * digit + 1e-14 * option.volatility


@unhurried
@given(options, st.integers(-6, 6))
def test_in_another_currency_all_is_the_same_to_the_last_bit(option: Option, power: int) -> None:
    scale = 2.0**power  # exact, so that nothing but the law is tested
    pair = option.pair(forward=option.forward * scale, strike=option.strike * scale)
    value = KERNEL.evaluate(*pair).copy()
    solved, status = KERNEL.solve(value[PRICE], *pair[1:])

    by_unit = np.array([scale, 1.0, 1.0 / scale, scale, scale, scale])
    np.testing.assert_allclose(value[:, 1], value[:, 0] * by_unit, rtol=0.0, atol=1e-300)
    assert status[0] == status[1]
    np.testing.assert_array_equal(solved[0, 1], solved[0, 0])


@unhurried
@given(options, st.integers(-3, 3))
def test_only_variance_counts_where_money_costs_nothing(option: Option, power: int) -> None:
    option = option._replace(rate=0.0)
    value = option.value(volatility=option.volatility / 2.0**power, years=option.years * 4.0**power)

    same = value[[PRICE, DELTA, GAMMA]]
    np.testing.assert_allclose(same[:, 1], same[:, 0], rtol=0.0, atol=1e-300)


bad_rows = st.tuples(any_float, any_float, any_float, any_float, st.booleans())


@unhurried
@given(
    st.lists(options, min_size=1, max_size=6),
    st.lists(st.tuples(bad_rows, st.integers(0, 6)), max_size=6),
)
def test_whatever_stands_beside_a_row_leaves_it_as_it_would_be_alone(
    good: list[Option], bad: list[tuple[tuple[float, float, float, float, bool], int]]
) -> None:
    kernel = PricingKernel(16)
    rows = [
        ((float(one.value()[PRICE, 0]), one.forward, one.strike, one.years, one.is_call), True)
        for one in good
    ]
    for row, place in bad:
        rows.insert(place, (row, False))
    is_good = np.array([is_option for _, is_option in rows])
    *columns, is_call = (np.array(c) for c in zip(*(row for row, _ in rows), strict=True))

    together, status = kernel.solve(*columns, 0.05, is_call)
    for place in np.flatnonzero(is_good).tolist():
        row = [column[[place]] for column in columns]
        alone, alone_status = kernel.solve(*row, 0.05, is_call[[place]])
        assert status[place] == alone_status[0]
        # Not to the bit: the end of a column may take another instruction than its middle.
        np.testing.assert_allclose(together[:, place], alone[:, 0], rtol=1e-12, atol=0.0)


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
