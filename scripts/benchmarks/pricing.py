"""Suite ``pricing``: our kernel against vollib, py_vollib_vectorized and Newton on scipy.

One chain of 9,000 options; volatility and five Greeks of every price, and the Greeks of every
volatility. Every side has to find our volatilities to 1e-9, and the analytical ones our Greeks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from scripts.benchmarks import chain as chains
from scripts.benchmarks import pricing_peers as peers
from scripts.benchmarks.measure import (
    Disagreement,
    Options,
    Result,
    Turns,
    compared,
    interleaved,
    repeated,
)
from scripts.benchmarks.numba_peer import NumbaPeer
from ticker_service.pricing import PriceStatus, PricingKernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from scripts.benchmarks.chain import Chain

ROWS: Final = 9_000
ROWS_QUICK: Final = 500
SEED: Final = 20_260_901
TOLERANCE: Final = 1e-9
FLOOR_NS: Final = 9.6
"""The same algorithm in C with AVX-512, one core of an AMD EPYC (Zen 5), 9,000 rows."""
OURS_GOAL: Final = 10e6
VOLLIB_GOAL: Final = 400.0
VECTORIZED_GOAL: Final = 20.0
NEWTON_GOAL: Final = 5.0
CALLS_GOAL: Final = 5_000.0
"""A call may cost 200 µs, whatever its size."""
NS_PER_S: Final = 1e9
US_PER_S: Final = 1e6
UNIT: Final = "options/s"
GREEKS: Final = slice(1, 6)


def run(options: Options) -> list[Result]:
    """Check, measure and return the comparisons."""
    chain = chains.listed(ROWS_QUICK if options.is_quick else ROWS, seed=SEED)
    return [*_solve(chain, options), _evaluate(chain, options), _one_option(chain, options)]


class _Ours:
    """The kernel with the columns it writes to, as the price step holds them."""

    def __init__(self, chain: Chain) -> None:
        self._kernel = PricingKernel(len(chain))
        self._terms = chain.forward, chain.strike, chain.years, chain.rate, chain.is_call
        self._price = chain.price
        self._out = np.empty((6, len(chain)))
        self._status = np.empty(len(chain), np.uint8)

    def solve(self) -> NDArray[np.float64]:
        out, _ = self._kernel.solve(self._price, *self._terms, self._out, self._status)
        return out

    def evaluate(self, volatility: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._kernel.evaluate(volatility, *self._terms, self._out)

    def solution(self) -> NDArray[np.float64]:
        solution = self.solve().copy()
        if (self._status != PriceStatus.OK).any():
            raise Disagreement(f"{np.count_nonzero(self._status)} of our rows are not OK")
        return solution


def _solve(chain: Chain, options: Options) -> list[Result]:
    ours, one_by_one = _Ours(chain), peers.OneByOne(chain)
    solution = ours.solution()
    _check("vollib", solution, one_by_one.solve())
    _check("Newton on scipy", solution, peers.newton(chain))
    with NumbaPeer(chain, peers.flags_of(chain.is_call)) as vectorized:
        sides = {
            "ours": repeated(ours.solve),
            "vollib": repeated(one_by_one.solve),
            "newton": repeated(lambda: peers.newton(chain)),
        }
        if not vectorized.why_not:
            _check("py_vollib_vectorized", solution[:1], (vectorized.volatility,))
            sides["vectorized"] = vectorized.turn
        turns = interleaved(sides, runs=options.runs)
    own = turns["ours"]
    facts = {
        "rows": len(chain),
        "ns_per_option": own.median_s / len(chain) * NS_PER_S,
        "floor_ns_per_option_in_c": FLOOR_NS,
    }
    return [
        compared(
            "pricing_py_vollib",
            own,
            turns["vollib"],
            items=len(chain),
            unit=UNIT,
            against="vollib (py_vollib), per option",
            ours_goal=OURS_GOAL,
            ratio_goal=VOLLIB_GOAL,
            more=facts,
        ),
        _against_vectorized(own, turns.get("vectorized"), vectorized.why_not, items=len(chain)),
        compared(
            "pricing_scipy_newton",
            own,
            turns["newton"],
            items=len(chain),
            unit=UNIT,
            against="Newton on scipy's ndtr, columns",
            ratio_goal=NEWTON_GOAL,
        ),
    ]


def _against_vectorized(ours: Turns, peer: Turns | None, why_not: str, *, items: int) -> Result:
    name = "pricing_py_vollib_vectorized"
    if peer is None:
        return Result(
            name=name,
            ours=items / ours.median_s,
            peer=None,
            unit=UNIT,
            against=f"did not run: {why_not}",
        )
    return compared(
        name,
        ours,
        peer,
        items=items,
        unit=UNIT,
        against="py_vollib_vectorized, made to compile",
        ratio_goal=VECTORIZED_GOAL,
    )


def _evaluate(chain: Chain, options: Options) -> Result:
    ours, one_by_one = _Ours(chain), peers.OneByOne(chain)
    volatility = ours.solution()[0]
    listed = volatility.tolist()
    _check("vollib's Greeks", ours.evaluate(volatility)[GREEKS], one_by_one.greeks(listed))
    turns = interleaved(
        {
            "ours": repeated(lambda: ours.evaluate(volatility)),
            "vollib": repeated(lambda: one_by_one.greeks(listed)),
        },
        runs=options.runs,
    )
    return compared(
        "pricing_greeks",
        turns["ours"],
        turns["vollib"],
        items=len(chain),
        unit=UNIT,
        against="vollib, five Greeks of a volatility",
    )


def _one_option(chain: Chain, options: Options) -> Result:
    """One option per call is what our kernel is worst at, and nothing here ever does."""
    one = chain.first(1)
    ours, one_by_one = _Ours(one), peers.OneByOne(one)
    turns = interleaved(
        {"ours": repeated(ours.solve), "vollib": repeated(one_by_one.solve)}, runs=options.runs
    )
    return compared(
        "pricing_one_option",
        turns["ours"],
        turns["vollib"],
        items=1,
        unit="calls/s",
        against="vollib, a single option",
        ours_goal=CALLS_GOAL,
        more={"us_per_call": turns["ours"].median_s * US_PER_S},
    )


def _check(who: str, ours: NDArray[np.float64], theirs: Sequence[ArrayLike]) -> None:
    """Hold a peer's rows to ours.

    A float64 price holds only so many digits of a volatility: deep in the money they are in the
    intrinsic value. So the volatilities may differ by the tolerance, and Greeks relative to their
    largest.
    """
    for row, (own, other) in enumerate(zip(ours, np.asarray(theirs, np.float64), strict=True)):
        error = np.abs(own - other)
        worst = float(error.max() / np.abs(own).max())
        if not worst <= TOLERANCE:
            place = int(np.argmax(error))
            raise Disagreement(
                f"{who} row={row} option={place}: {other[place]!r}, ours {own[place]!r}, "
                f"error {worst:.2g} of the largest, tolerance {TOLERANCE:g}"
            )
