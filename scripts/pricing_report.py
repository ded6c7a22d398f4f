"""Print the numbers that docs/pricing.md quotes.

``python -m scripts.pricing_report [SECTION ...]``: ``accuracy`` and ``truth`` measure by the tests'
own references, ``speed`` and ``smile`` take CPU time on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from scripts.benchmarks import chain as chains
from scripts.benchmarks import machine
from ticker_service.pricing import (
    PriceStatus,
    PricingKernel,
    fit_smiles,
    parity_forwards,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ROOT: Final = Path(__file__).resolve().parents[1]
for _part in ("unit/pricing", "unit/market"):
    sys.path.insert(0, str(ROOT / "tests" / _part))  # where the 60 digits and the exchange are

TURNS: Final = 15
TURN_S: Final = 0.02
ROWS: Final = (1, 2, 100, 1_000, 9_000, 100_000)
SEED: Final = 20_260_901
US: Final = 1e6
DEPTHS: Final = (1e-280, 1e-100)


def main() -> int:
    """Print the sections asked for."""
    sections = {"accuracy": accuracy, "truth": truth, "speed": speed, "smile": smile}
    parser = argparse.ArgumentParser(prog="pricing_report", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(sections))
    asked: list[str] = parser.parse_args().sections or list(sections)
    if unknown := set(asked) - set(sections):
        parser.error(f"unknown sections {sorted(unknown)}; there are {', '.join(sections)}")
    core = machine.pin()
    print(machine.line(core))
    for name in asked:
        print(f"\n{name}")
        with np.errstate(all="ignore"):
            sections[name]()
    return 0


def accuracy() -> None:
    """Print the worst relative errors against 60 digits over the tests' grid."""
    import black_reference as exact  # noqa: PLC0415 - of the tests
    import test_pricing_accuracy as grid  # noqa: PLC0415

    cases, prices = grid.solvable(deepest=1e-12)
    solved, _ = PricingKernel(len(cases)).solve(prices, *grid.columns(cases))
    errors: dict[str, list[float]] = {"out of the money": [], "in the money": []}
    for value, price, (sigma, terms) in zip(solved[0], prices, cases, strict=True):
        leg = "out of the money" if grid.is_out_of_the_money(terms) else "in the money"
        error = grid.relative_error(value, exact.implied_volatility(price, sigma, terms))
        errors[leg].append(error)
    for leg, found in errors.items():
        _say(f"volatility, {leg}", found)

    cases, prices = grid.solvable(deepest=1e-3)
    solved, _ = PricingKernel(len(cases)).solve(prices, *grid.columns(cases))
    found = []
    for row, price, (sigma, terms) in zip(solved.T, prices, cases, strict=True):
        wanted = exact.evaluate(exact.implied_volatility(price, sigma, terms), terms)
        if grid.is_priced_by_volatility(wanted, terms):
            found.append(_worst(grid.relative_error, row[1:], wanted[1:]))
    _say("Greeks of a price", found)

    found, deep = [], []
    cases = grid.grid(0.0)
    volatility = [sigma for sigma, _ in cases]
    rows = PricingKernel(len(cases)).evaluate(volatility, *grid.columns(cases))
    for row, (sigma, terms) in zip(rows.T, cases, strict=True):
        wanted = exact.evaluate(sigma, terms)
        if grid.is_priced_by_volatility(wanted, terms):
            found.append(_worst(grid.relative_error, row, wanted))
        if grid.is_out_of_the_money(terms) and wanted[0] > min(DEPTHS):
            deep.append((float(wanted[0]), _worst(grid.relative_error, row, wanted)))
    _say("price and Greeks of a volatility", found)
    for least in sorted(DEPTHS, reverse=True):
        of_depth = [error for price, error in deep if price > least]
        _say(f"the same, out of the money, price above {least:g}", of_depth)


def truth() -> None:
    """Print how far published volatilities were from those that the exchange priced with."""
    import test_market_truth as market  # noqa: PLC0415 - of the tests

    run = market.Run()
    good = run.quoted.where(run.quoted.word("own_iv_status") == "OK")
    error = np.abs(good.number("own_implied_volatility") - run.truth.volatility(*good.at()))
    allowed = market.PRICE_STEP + np.abs(good.number("delta")) * good.doubt()
    share = error / (market.VOL_POINT * allowed / good.number("vega"))
    by_parity = run.quoted.where(run.quoted.word("forward_source") == "parity")
    off = np.abs(by_parity.number("forward") - run.truth.forward(*by_parity.at()))
    print(f"packets {len(run.quoted)}, called OK {len(good)}")
    print(f"worst share of the bound: {share.max():.2f}")
    middle, high, worst = 100.0 * np.quantile(error, (0.5, 0.99, 1.0))
    print(f"error, points: median {middle:.3f}, 99th percentile {high:.2f}, worst {worst:.2f}")
    print(f"parity forward, worst share of its doubt: {(off / by_parity.doubt()).max():.2f}")


def speed() -> None:
    """Print CPU microseconds a call: the best and the middle of the turns."""
    for rows in ROWS:
        chain = chains.listed(rows, seed=SEED)
        terms = chain.forward, chain.strike, chain.years, chain.rate, chain.is_call
        _time_kernel(f"{rows} rows", chain.price, terms)
    chain = chains.listed(ROWS[-2], seed=SEED)
    terms = chain.forward, chain.strike, chain.years, chain.rate, chain.is_call
    bad = np.where(np.arange(len(chain)) % 10, chain.price, np.nan)
    _time_kernel(f"{len(chain)} rows, a tenth bad", bad, terms)
    for rows in (1, 9_000):
        _time_kernel(f"{rows} rows, all wide", *_wide(rows))
    price, terms = _wide(2)
    narrow = terms[2].copy()
    narrow[1] = 0.05
    terms = *terms[:2], narrow, *terms[3:]
    price = PricingKernel(2).evaluate(np.array([2.5, 0.2]), *terms)[0].copy()
    _time_kernel("2 rows, one wide", price, terms)
    for expiries in (1, 15):
        strike = np.tile(23_000.0 + 50.0 * np.arange(80), (expiries, 1))
        call, put = (
            np.maximum(25_000.0 - strike, 0.0) + 90.0,
            np.maximum(strike - 25_000.0, 0.0) + 90.0,
        )
        spread, guess = np.full(strike.shape, 0.1), np.full(expiries, 25_000.0)

        def forwards(
            terms: tuple[NDArray[np.float64], ...] = (strike, call, put, spread),
            guess: NDArray[np.float64] = guess,
        ) -> object:
            return parity_forwards(*terms, guess=guess, discount=np.ones(len(guess)))

        _time(f"parity_forwards, {expiries} chains of 80 strikes", forwards)


def smile() -> None:
    """Print CPU microseconds of a fit over 41 strikes an expiry."""
    for expiries in (1, 3, 60):
        strike = np.tile(25_000.0 + 50.0 * np.arange(-20, 21), (expiries, 1))
        k = np.log(strike / 25_000.0)
        noise = np.random.default_rng(1).normal(0.0, 1e-4, k.shape)
        volatility = 0.13 - 0.3 * k + 2.0 * k * k + noise
        forward, years = np.full(expiries, 25_000.0), np.linspace(4.0, 39.0, expiries) / 365.0

        def fit(
            strike: NDArray[np.float64] = strike,
            volatility: NDArray[np.float64] = volatility,
            forward: NDArray[np.float64] = forward,
            years: NDArray[np.float64] = years,
        ) -> object:
            return fit_smiles(strike, volatility, forward=forward, years=years)

        _time(f"fit_smiles, {expiries} expiries", fit)


def _wide(rows: int) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], ...]]:
    strike = np.linspace(20_000.0, 30_000.0, rows + 2)[1:-1]
    forward, years = np.full(rows, 25_000.0), np.full(rows, 1.0)
    terms = forward, strike, years, np.zeros(rows), strike > forward
    return PricingKernel(rows).evaluate(np.full(rows, 2.5), *terms)[0].copy(), terms


def _time_kernel(what: str, price: NDArray[np.float64], terms: tuple[object, ...]) -> None:
    rows = len(price)
    kernel = PricingKernel(min(rows, 9_000))
    out, status = np.empty((6, rows)), np.empty(rows, np.uint8)
    kernel.solve(price, *terms, out, status)  # type: ignore[arg-type]
    volatility = np.where(status == PriceStatus.OK, out[0], 0.2)
    _time(f"solve, {what}", lambda: kernel.solve(price, *terms, out, status), rows)  # type: ignore[arg-type]
    _time(f"evaluate, {what}", lambda: kernel.evaluate(volatility, *terms, out), rows)  # type: ignore[arg-type]


def _time(what: str, work: Callable[[], object], rows: int = 0) -> None:
    began = time.thread_time()
    work()
    count = max(1, round(TURN_S / max(time.thread_time() - began, 1e-7)))
    turns = []
    for _ in range(TURNS):
        began = time.thread_time()
        for _ in range(count):
            work()
        turns.append((time.thread_time() - began) / count)
    best, middle = min(turns), sorted(turns)[TURNS // 2]
    rate = f", {rows / middle / 1e6:.1f} M rows/s" if rows else ""
    print(f"{what}: best {best * US:.0f} us, median {middle * US:.0f} us{rate}")


def _worst(
    error_of: Callable[[float, object], float], row: NDArray[np.float64], wanted: list[object]
) -> float:
    return max(error_of(float(value), each) for value, each in zip(row, wanted, strict=True))


def _say(what: str, errors: list[float]) -> None:
    print(f"{what}: {len(errors)} rows, worst {max(errors):.1e}")


if __name__ == "__main__":
    sys.exit(main())
