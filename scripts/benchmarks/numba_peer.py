"""py_vollib_vectorized in a process of its own: importing it replaces vollib's functions.

Its last release is of 2021. With today's vollib it fails to compile (numba: ``Untyped global name
'normalised_black_call'``), because the functions it calls are plain Python now; and the versions
that it was written for have no wheels. So we compile those functions for it, which gives it the
speed that it had, and say so.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import types
import warnings
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final, Self

from scripts.benchmarks import measure

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from scripts.benchmarks.chain import Chain

COMPILE_S_MAX: Final = 180.0
RUN_S_MAX: Final = 60.0
_PLAIN_MODULES: Final = (
    "cody_special.erf_cody",
    "cody_special.normaldistribution",
    "piecewise_rational.rationalcubic",
)


class NumbaPeer:
    """The peer's process; ``why_not`` says in words why there is none."""

    def __init__(self, chain: Chain, flags: list[str]) -> None:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, chain, flags), daemon=True)
        self.why_not = ""
        self.volatility: Any = None

    def __enter__(self) -> Self:
        self._process.start()
        answer = self._ours.recv() if self._ours.poll(COMPILE_S_MAX) else "did not compile in time"
        if isinstance(answer, str):
            self.why_not = answer
        else:
            self.volatility = answer
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.kill()
        self._process.join()

    def turn(self) -> float:
        """Let it price the chain once; return its CPU seconds."""
        self._ours.send("once")
        if not self._ours.poll(RUN_S_MAX):
            raise measure.Disagreement(f"py_vollib_vectorized said nothing for {RUN_S_MAX:g} s")
        seconds: float = self._ours.recv()
        return seconds


def _serve(parent: Connection, chain: Chain, flags: list[str]) -> None:
    warnings.simplefilter("ignore")
    try:
        price = _pricer(chain, flags)
        parent.send(price())
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent prints it
        parent.send(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return
    while True:
        try:
            parent.recv()
        except EOFError:
            return
        began = time.thread_time()
        price()
        parent.send(time.thread_time() - began)


def _pricer(chain: Chain, flags: list[str]) -> Any:  # noqa: ANN401 - of an untyped library
    os.environ["PY_LETS_BE_RATIONAL_ENABLE_NUMBA"] = "1"
    numba = importlib.import_module("numba")
    for name in _PLAIN_MODULES:
        importlib.import_module(name)
        _compile_functions(sys.modules[name], numba.njit)
    vectorized = importlib.import_module("py_vollib_vectorized")

    def price() -> Any:  # noqa: ANN401
        volatility = vectorized.vectorized_implied_volatility(
            chain.price,
            chain.forward,
            chain.strike,
            chain.years,
            chain.rate,
            flags,
            model="black",
            on_error="ignore",
            return_as="numpy",
        )
        vectorized.get_all_greeks(
            flags,
            chain.forward,
            chain.strike,
            chain.years,
            chain.rate,
            volatility,
            model="black",
            return_as="dict",
        )
        return volatility

    return price


def _compile_functions(module: types.ModuleType, njit: Any) -> None:  # noqa: ANN401
    """Replace a module's functions by compiled ones, wherever its package names them, too."""
    for name, function in list(vars(module).items()):
        if not isinstance(function, types.FunctionType) or function.__module__ != module.__name__:
            continue
        compiled = njit(function)
        package = module.__name__.partition(".")[0]
        for place, other in list(sys.modules.items()):
            if place.partition(".")[0] == package and vars(other).get(name) is function:
                setattr(other, name, compiled)
