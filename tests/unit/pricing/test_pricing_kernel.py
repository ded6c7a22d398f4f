"""What a caller of the kernel may rely on besides the numbers themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from ticker_service.errors import InvariantViolatedError
from ticker_service.pricing import (
    EVALUATE_ROWS,
    SOLVE_ROWS,
    STATUS_WIRE_NAMES,
    PriceStatus,
    PricingKernel,
)
from ticker_service.pricing.normalise import (
    DISCOUNT_MAX,
    DISCOUNT_MIN,
    PRICE_MAX,
    PRICE_MIN,
    TIME_VALUE_MIN,
    VOLATILITY_MAX,
    VOLATILITY_MIN,
    YEARS_MAX,
    YEARS_MIN,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 0.065
NAN = float("nan")
INF = float("inf")
EXTREMES = [NAN, INF, -INF, 5e-324, 1e-300, 1e308, -1e308, 0.0, -0.0, 1.0, -1.0, 100.0]
EXTREMES += [1e-6, 1e-7, 1e12, 1e13, 1e-17, 1e-18, 24_000.05]


def chain(rows: int, seed: int = 1) -> tuple[np.ndarray, ...]:
    """Return prices and terms of an index chain: price, forward, strike, years, is_call."""
    rng = np.random.default_rng(seed)
    forward = rng.uniform(20_000.0, 60_000.0, rows)
    years = 10 ** rng.uniform(-3.0, 0.0, rows)
    volatility = rng.uniform(0.08, 0.5, rows)
    strike = forward * np.exp(rng.uniform(-2.0, 2.0, rows) * volatility * np.sqrt(years))
    is_call = (strike >= forward) ^ (rng.random(rows) < 0.1)
    price = PricingKernel(rows).evaluate(volatility, forward, strike, years, RATE, is_call)[0]
    return price, forward, strike, years, is_call


def solve_one(
    price: float = 100.0,
    forward: float = 24_000.0,
    strike: float = 24_500.0,
    years: float = 0.05,
    rate: float = 0.0,
    *,
    is_call: bool = True,
) -> tuple[np.ndarray, PriceStatus]:
    out, status = PricingKernel(4).solve([price], [forward], [strike], [years], rate, [is_call])
    return out[:, 0], PriceStatus(int(status[0]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, PriceStatus.OK),
        ({"price": NAN}, PriceStatus.BAD_INPUT),
        ({"price": INF}, PriceStatus.BAD_INPUT),
        ({"price": 0.0}, PriceStatus.BAD_INPUT),
        ({"price": -1.0}, PriceStatus.BAD_INPUT),
        ({"forward": NAN}, PriceStatus.BAD_INPUT),
        ({"forward": 0.0}, PriceStatus.BAD_INPUT),
        ({"forward": INF}, PriceStatus.BAD_INPUT),
        ({"strike": -24_500.0}, PriceStatus.BAD_INPUT),
        ({"strike": NAN}, PriceStatus.BAD_INPUT),
        ({"years": NAN}, PriceStatus.BAD_INPUT),
        ({"years": INF}, PriceStatus.BAD_INPUT),
        ({"rate": NAN}, PriceStatus.BAD_INPUT),
        ({"rate": INF}, PriceStatus.BAD_INPUT),
        ({"years": 0.0}, PriceStatus.EXPIRED),
        ({"years": -0.01}, PriceStatus.EXPIRED),
        ({"years": 1e-300}, PriceStatus.EXPIRED),
        ({"price": 24_000.0}, PriceStatus.ABOVE_BOUND),
        ({"price": 1e9}, PriceStatus.ABOVE_BOUND),
        ({"price": 24_500.0, "is_call": False}, PriceStatus.ABOVE_BOUND),
        ({"strike": 23_000.0, "price": 1_000.0}, PriceStatus.BELOW_INTRINSIC),
        ({"strike": 23_000.0, "price": 900.0}, PriceStatus.BELOW_INTRINSIC),
        ({"price": 500.0, "is_call": False}, PriceStatus.BELOW_INTRINSIC),
    ],
)
def test_a_row_without_an_answer_is_nan_throughout_and_says_why(
    change: dict[str, float | bool], expected: PriceStatus
) -> None:
    row, status = solve_one(**change)  # type: ignore[arg-type]

    assert status is expected
    assert np.isfinite(row).all() if expected is PriceStatus.OK else np.isnan(row).all()


@pytest.mark.parametrize("volatility", [NAN, INF, 0.0, -0.2])
def test_a_senseless_volatility_evaluates_to_nan_throughout(volatility: float) -> None:
    row = PricingKernel(4).evaluate([volatility], [100.0], [100.0], [1.0], 0.0, [True])

    assert np.isnan(row).all()


def test_an_expired_row_evaluates_to_nan_throughout() -> None:
    row = PricingKernel(4).evaluate([0.2], [100.0], [90.0], [0.0], 0.0, [True])

    assert np.isnan(row).all()


def test_bad_rows_do_not_touch_their_neighbours() -> None:
    price, forward, strike, years, is_call = chain(500)
    kernel = PricingKernel(500)
    clean, _ = kernel.solve(price, forward, strike, years, RATE, is_call)
    bad = np.zeros(500, bool)
    bad[::7] = True
    poison = np.resize([NAN, INF, -1.0, 0.0, 1e300, 5e-324], bad.sum())
    for column in (price, forward, strike, years):
        spoiled = column.copy()
        spoiled[bad] = poison
        arguments = [spoiled if c is column else c for c in (price, forward, strike, years)]

        out, status = kernel.solve(*arguments, RATE, is_call)

        np.testing.assert_array_equal(out[:, ~bad], clean[:, ~bad])
        assert (status[~bad] == PriceStatus.OK).all()
        assert (status[bad] != PriceStatus.OK).all()
        assert np.isnan(out[:, bad]).all()


def test_rows_outside_the_first_guess_do_not_touch_their_neighbours() -> None:
    kernel = PricingKernel(64)
    terms = (np.full(3, 100.0), np.array([100.0, 900.0, 130.0]), np.full(3, 2.0), 0.0, [True] * 3)
    price = kernel.evaluate([1.5, 1.2, 2.5], *terms)[0]

    together, _ = kernel.solve(price, *terms)

    for row in range(3):
        forward, strike, years, rate, is_call = terms
        alone, _ = kernel.solve(
            price[row : row + 1],
            forward[row : row + 1],
            strike[row : row + 1],
            years[row : row + 1],
            rate,
            is_call[row : row + 1],
        )
        np.testing.assert_allclose(together[:, row], alone[:, 0], rtol=5e-16)


def test_at_the_forward_call_and_put_split_the_discount_between_their_deltas() -> None:
    years, rate = 0.1, 0.065
    kernel = PricingKernel(2)
    terms = ([24_000.0] * 2, [24_000.0] * 2, [years] * 2, rate, [True, False])

    price, delta, *_ = kernel.evaluate([0.2, 0.2], *terms)
    solved, status = kernel.solve(price, *terms)

    assert (status == PriceStatus.OK).all()
    assert price[0] == price[1]
    assert delta[0] > 0.5 * np.exp(-rate * years) > -delta[1] > 0.0
    np.testing.assert_allclose(delta[0] - delta[1], np.exp(-rate * years), rtol=1e-15)
    np.testing.assert_allclose(solved[0], 0.2, rtol=1e-15)
    np.testing.assert_allclose(solved[1], delta, rtol=1e-14)


def test_rows_beyond_the_capacity_are_worked_through_in_chunks() -> None:
    price, *terms, is_call = chain(1_000)
    whole, whole_status = PricingKernel(1_000).solve(price, *terms, RATE, is_call)

    for capacity in (1, 7, 333):
        parts, parts_status = PricingKernel(capacity).solve(price, *terms, RATE, is_call)
        np.testing.assert_allclose(parts, whole, rtol=1e-13)
        np.testing.assert_array_equal(parts_status, whole_status)


def test_a_rate_column_equals_the_same_rate_as_a_number() -> None:
    price, *terms, is_call = chain(50)
    kernel = PricingKernel(20)

    number, _ = kernel.solve(price, *terms, RATE, is_call)
    column, _ = kernel.solve(price, *terms, np.full(50, RATE), is_call)

    np.testing.assert_array_equal(number, column)


def test_the_same_input_gives_the_same_bits() -> None:
    price, *terms, is_call = chain(300)
    kernel = PricingKernel(128)
    first, _ = kernel.solve(price, *terms, RATE, is_call)
    kernel.evaluate(np.full(300, NAN), *terms, RATE, is_call)

    again, _ = kernel.solve(price, *terms, RATE, is_call)

    np.testing.assert_array_equal(first, again)


def test_no_rows_are_no_trouble() -> None:
    kernel = PricingKernel(8)

    out, status = kernel.solve([], [], [], [], RATE, [])

    assert out.shape == (6, 0)
    assert status.shape == (0,)
    assert kernel.evaluate([], [], [], [], RATE, []).shape == (6, 0)


def test_foreign_columns_are_converted_not_refused() -> None:
    price, forward, strike, years, is_call = chain(40)
    strike = np.round(strike)
    kernel = PricingKernel(40)
    expected, _ = kernel.solve(price, forward, strike, years, RATE, is_call)
    strided = np.repeat(price, 3)[::3]
    big_endian = forward.astype(">f8")

    out, _ = kernel.solve(
        strided, big_endian, strike.astype(np.int32), list(years), RATE, is_call.astype(np.int8)
    )

    np.testing.assert_array_equal(out, expected)


def test_results_land_in_the_arrays_that_the_caller_owns() -> None:
    price, *terms, is_call = chain(30)
    kernel = PricingKernel(8)
    table = np.zeros((6, 100))
    codes = np.full(100, 99, np.uint8)

    out, status = kernel.solve(price, *terms, RATE, is_call, table[:, 10:40], codes[10:40])

    assert out.base is table
    assert np.isfinite(table[:, 10:40]).all()
    assert not table[:, :10].any()
    assert not table[:, 40:].any()
    assert (codes[10:40] == PriceStatus.OK).all()
    assert (status == PriceStatus.OK).all()
    assert kernel.evaluate(out[0].copy(), *terms, RATE, is_call, out) is out


@pytest.mark.parametrize(
    "arguments",
    [
        ([1.0, 2.0], [1.0], [1.0], [1.0], 0.0, [True]),
        ([1.0], [1.0], [1.0], [1.0], [0.0, 0.0], [True]),
        ([1.0], [1.0], [1.0], [1.0], 0.0, [True, False]),
        ([[1.0]], [[1.0]], [[1.0]], [[1.0]], 0.0, [[True]]),
        ([1.0], [1.0], [1.0], [1.0], 0.0, [True], np.empty((5, 1))),
        ([1.0], [1.0], [1.0], [1.0], 0.0, [True], np.empty((6, 1), np.float32)),
        ([1.0], [1.0], [1.0], [1.0], 0.0, [True], None, np.empty(2, np.uint8)),
        ([1.0], [1.0], [1.0], [1.0], 0.0, [True], None, np.empty(1, np.int64)),
        ([1.0], [1.0], [1.0], [1.0], 0.0, ["PE"]),
        ([1.0], [1.0], [1.0], [1.0], 0.0, [0.5]),
        (["a"], [1.0], [1.0], [1.0], 0.0, [True]),
        ([1.0 + 1.0j], [1.0], [1.0], [1.0], 0.0, [True]),
        ([10**400], [1.0], [1.0], [1.0], 0.0, [True]),
        ([1.0], [1.0], [1.0], [1.0], 0.0, [True], [[0.0]] * 6),
    ],
)
def test_columns_that_do_not_fit_are_our_bug_and_raise(arguments: tuple[object, ...]) -> None:
    with pytest.raises(InvariantViolatedError):
        PricingKernel(4).solve(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", range(5))
def test_a_result_that_would_overwrite_an_input_is_refused(place: int) -> None:
    rows = 40
    price, forward, strike, years, is_call = chain(rows)
    out = np.empty((6, rows))
    columns = [price, forward, strike, years, np.full(rows, RATE)]
    out[place] = columns[place]
    columns[place] = out[place]
    with pytest.raises(InvariantViolatedError):
        PricingKernel(rows).solve(*columns, is_call, out)  # type: ignore[call-arg, arg-type]
    flags = is_call.copy()
    with pytest.raises(InvariantViolatedError):
        PricingKernel(rows).solve(
            price, forward, strike, years, RATE, flags, None, flags.view(np.uint8)
        )


def test_out_and_status_in_the_same_memory_are_refused() -> None:
    price, *terms, is_call = chain(40)
    memory = np.empty(6 * 40 * 8, np.uint8)
    out = memory.view(np.float64).reshape(6, 40)
    with pytest.raises(InvariantViolatedError):
        PricingKernel(40).solve(price, *terms, RATE, is_call, out, memory[:40])


def test_a_masked_array_takes_no_result() -> None:
    price, *terms, is_call = chain(40)
    out = np.ma.masked_all((6, 40))  # type: ignore[no-untyped-call]
    with pytest.raises(InvariantViolatedError):
        PricingKernel(40).solve(price, *terms, RATE, is_call, out)


def test_results_land_in_arrays_of_any_layout() -> None:
    price, *terms, is_call = chain(40)
    kernel = PricingKernel(16)
    plain, _ = kernel.solve(price, *terms, RATE, is_call)
    for out in (np.zeros((6, 80))[:, ::2], np.zeros((40, 6)).T, np.zeros((12, 40))[::-2]):
        codes = np.full(80, 99, np.uint8)[::2]
        kernel.solve(price, *terms, RATE, is_call, out, codes)
        np.testing.assert_array_equal(out, plain)
        assert not codes.any()


def test_no_delta_has_the_other_kind_s_sign_however_senseless_the_volatility() -> None:
    rows = 50_000
    rng = np.random.default_rng(13)
    forward = rng.uniform(1.0, 1e5, rows)
    strike = forward * np.exp(rng.normal(0.0, 1.5, rows))
    years, is_call = 10 ** rng.uniform(-8.0, 2.0, rows), rng.random(rows) < 0.5
    volatility = 10 ** rng.uniform(-3.0, 1.5, rows)

    delta = PricingKernel(9_000).evaluate(volatility, forward, strike, years, RATE, is_call)[1]

    signed = np.where(is_call, delta, -delta)
    assert (signed >= 0.0).all()
    assert (signed <= np.exp(-RATE * years) * (1.0 + 1e-15)).all()


def test_a_masked_price_is_a_missing_one() -> None:
    price, forward, strike, years, is_call = chain(40)
    masked = np.ma.masked_array(price, mask=np.arange(40) == 7)  # type: ignore[no-untyped-call]
    out, status = PricingKernel(40).solve(masked, forward, strike, years, RATE, is_call)
    assert status[7] == PriceStatus.BAD_INPUT
    assert np.isnan(out[:, 7]).all()
    assert not status[:7].any()


def test_a_kernel_without_room_for_a_row_is_refused() -> None:
    with pytest.raises(InvariantViolatedError):
        PricingKernel(0)
    assert PricingKernel(3).capacity == 3


def some_of_every_kind(rows: int) -> tuple[np.ndarray, ...]:
    """Return a chain in which some rows are bad and some are outside the first guess."""
    price, forward, strike, years, is_call = chain(rows)
    wide = np.arange(0, rows, 7)
    volatility = np.full(len(wide), 1.2)
    volatility[::2] = 4.0
    years[wide] = 1.0
    strike[wide] = forward[wide] * np.resize([0.05, 1.0, 1.3, 20.0], len(wide))
    terms = forward[wide], strike[wide], years[wide], RATE, is_call[wide]
    price[wide] = PricingKernel(len(wide)).evaluate(volatility, *terms)[0]
    price[1::7], forward[2::7], years[3::7] = NAN, -1.0, 0.0
    return price, forward, strike, years, is_call


def narrow(rows: int) -> tuple[np.ndarray, ...]:
    return chain(rows)


def bad(rows: int) -> tuple[np.ndarray, ...]:
    _, *terms = chain(rows)
    return np.full(rows, NAN), *terms


def wide(rows: int) -> tuple[np.ndarray, ...]:
    _, forward, strike, _, is_call = chain(rows)
    years = np.full(rows, 2.0)
    terms = forward, strike, years, RATE, is_call
    return (
        PricingKernel(rows).evaluate(np.full(rows, 2.5), *terms)[0],
        forward,
        strike,
        years,
        is_call,
    )


# Views, numbers, slices and the arguments' holder: some forty small objects that live through a
# call, the same for two rows and for 9,000. A piece of wide rows lays its columns out anew.
WARM_BYTES_MAX = 8_000


MAKERS: Final = (narrow, bad, wide, some_of_every_kind)
ROWS_OF_A_CALL: Final = (1, 2, 9_000, 40_000)


def warm_call_bytes(make: Callable[[int], tuple[np.ndarray, ...]], rows: int) -> tuple[int, int]:
    """Return what a warm call allocates at its worst moment and what it leaves, bytes."""
    price, *terms, is_call = make(rows)
    rate = np.full(rows, RATE)
    volatility = np.where(np.arange(rows) % 7, 0.2, 4.0)
    kernel = PricingKernel(rows)
    out, status = np.empty((6, rows)), np.empty(rows, np.uint8)

    def call() -> None:
        kernel.solve(price, *terms, rate, is_call, out, status)
        kernel.evaluate(volatility, *terms, rate, is_call, out)

    call()
    tracemalloc.start()
    try:
        for _ in range(10):  # until the interpreter has adapted to the code, too
            call()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before, after - before


@pytest.fixture(scope="module")
def warm_bytes() -> dict[str, tuple[int, int]]:
    """Measure in a process of its own: threads and tracers of this one allocate, too."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_pricing_kernel as t; "
        "print(json.dumps({f'{m.__name__} {n}': t.warm_call_bytes(m, n)"
        " for m in t.MAKERS for n in t.ROWS_OF_A_CALL}))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    ran = subprocess.run(command, env=environment, check=True, capture_output=True)
    return json.loads(ran.stdout)


@pytest.mark.parametrize("rows", ROWS_OF_A_CALL)
@pytest.mark.parametrize("make", MAKERS)
def test_a_warm_call_allocates_nothing_that_grows_with_its_rows(
    warm_bytes: dict[str, tuple[int, int]],
    make: Callable[[int], tuple[np.ndarray, ...]],
    rows: int,
) -> None:
    at_worst, left = warm_bytes[f"{make.__name__} {rows}"]

    assert at_worst < WARM_BYTES_MAX
    assert left < 1_000


def test_rows_of_every_kind_in_one_call_are_what_they_are_alone() -> None:
    rows = 4_000
    price, *terms, is_call = some_of_every_kind(rows)
    out, status = PricingKernel(rows).solve(price, *terms, RATE, is_call)
    kernel = PricingKernel(1)

    assert set(status.tolist()) >= {PriceStatus.OK, PriceStatus.EXPIRED, PriceStatus.BAD_INPUT}
    for row in range(140):
        one = slice(row, row + 1)
        alone, code = kernel.solve(price[one], *(c[one] for c in terms), RATE, is_call[one])
        assert code[0] == status[row]
        np.testing.assert_allclose(out[:, one], alone, rtol=1e-14)


def test_a_million_random_rows_solve_without_a_nan() -> None:
    rows = 1_000_000
    rng = np.random.default_rng(7)
    forward = rng.uniform(50.0, 80_000.0, rows)
    strike = forward * np.exp(rng.normal(0.0, 0.3, rows))
    years = 10 ** rng.uniform(-6.5, 0.7, rows)
    volatility = 10 ** rng.uniform(-2.0, 0.5, rows)
    is_call = strike >= forward
    kernel = PricingKernel(9_000)

    evaluated = kernel.evaluate(volatility, forward, strike, years, RATE, is_call)
    solved, status = kernel.solve(evaluated[0], forward, strike, years, RATE, is_call)

    assert np.isfinite(evaluated).all()
    is_solved = status == PriceStatus.OK
    assert is_solved.sum() > 500_000
    assert np.isfinite(solved[:, is_solved]).all()
    assert (evaluated[0, ~is_solved] < 1e-250).all()
    # Where one unit in the last place of the price does not move it, the volatility comes back.
    price, vega, given = evaluated[0, is_solved], evaluated[4, is_solved], volatility[is_solved]
    is_sharp = np.spacing(price) < 1e-15 * (100.0 * vega) * given
    assert is_sharp.sum() > 400_000
    assert np.abs(solved[0, is_solved] / given - 1.0)[is_sharp].max() < 1e-14


def test_limits_of_float64_raise_nothing_even_where_numpy_is_told_to() -> None:
    rng = np.random.default_rng(11)
    values = np.array(EXTREMES)
    kernel = PricingKernel(5_000)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for _ in range(4):
            columns = [rng.choice(values, 20_000) for _ in range(5)]
            is_call = rng.random(20_000) < 0.5
            solved, status = kernel.solve(*columns, is_call)
            evaluated = kernel.evaluate(*columns, is_call)

            is_ok = status == PriceStatus.OK
            assert np.isfinite(solved[:, is_ok]).all()
            assert np.isnan(solved[:, ~is_ok]).all()
            is_blank = np.isnan(evaluated).all(axis=0)
            assert np.isfinite(evaluated[:, ~is_blank]).all()


def test_every_corner_of_the_limits_is_finite_or_nan_with_a_reason() -> None:
    money = [PRICE_MIN, 1.0, PRICE_MAX]
    years = [YEARS_MIN, 1e-9, 1.0, YEARS_MAX]
    log_discount = [np.log(DISCOUNT_MIN) * 0.999_999, 0.0, np.log(DISCOUNT_MAX) * 0.999_999]
    volatility = [VOLATILITY_MIN, 1e-100, 0.2, VOLATILITY_MAX]
    time_value = [1.001 * TIME_VALUE_MIN, 1e-100, 0.5, 1.0 - 1e-15]
    forward, strike, time, log, sigma, share = (
        grid.ravel()
        for grid in np.meshgrid(money, money, years, log_discount, volatility, time_value)
    )
    kernel = PricingKernel(len(forward))
    for is_call in (True, False):
        kind = np.full(len(forward), is_call)
        intrinsic = np.maximum((forward - strike) * (1 if is_call else -1), 0.0)
        price = (intrinsic + share * np.minimum(forward, strike)) * np.exp(log)

        solved, status = kernel.solve(price, forward, strike, time, -log / time, kind)
        evaluated = kernel.evaluate(sigma, forward, strike, time, -log / time, kind)

        assert (status == PriceStatus.OK).sum() > 500
        assert np.isfinite(solved[:, status == PriceStatus.OK]).all()
        assert np.isnan(solved[:, status != PriceStatus.OK]).all()
        assert np.isfinite(evaluated).all()


def test_status_codes_and_row_names_are_a_contract_of_the_wire() -> None:
    assert STATUS_WIRE_NAMES == (
        "OK",
        "BELOW_INTRINSIC",
        "ABOVE_BOUND",
        "EXPIRED",
        "BAD_INPUT",
        "CROSSED",
        "ONE_SIDED",
        "STALE",
        "UNRELIABLE",
        "NO_PRICE",
        "NO_FORWARD",
    )
    assert STATUS_WIRE_NAMES[PriceStatus.NO_FORWARD] == "NO_FORWARD"
    assert SOLVE_ROWS == ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")
    assert EVALUATE_ROWS == ("price", "delta", "gamma", "theta", "vega", "rho")
