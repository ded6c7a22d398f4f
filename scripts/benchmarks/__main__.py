"""The runner behind ``./scripts/bench``: pins a core, runs the suites, prints and writes.

Exit status 1 means that two sides did not compute the same thing; a missed goal is only told.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from rich.console import Console
from rich.table import Table

from scripts.benchmarks import machine
from scripts.benchmarks.measure import Disagreement, Options, Result
from scripts.typed_numbers import whole
from ticker_service.errors import RecordingError
from ticker_service.runtime import memory

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITES: Final = (
    *("pricing", "greeks_history", "decode", "path", "flush", "recording"),
    *("live", "start", "orders"),
)
TAPED: Final = "taped"
"""What runs in the place of suite ``path`` when recordings are given."""
SUITES_BY_DEFAULT: Final = ("decode", "path")
JSON_BY_DEFAULT: Final = Path("bench.json")
RUNS: Final = 9
RUNS_QUICK: Final = 3
COLUMNS_WITHOUT_TERMINAL: Final = 120


def main() -> int:
    """Run what the arguments ask for."""
    arguments = _arguments()
    core = machine.pin()
    memory.keep_freed()  # as the daemon does; it serves the peers as well
    runs = arguments.runs or (RUNS_QUICK if arguments.quick else RUNS)
    options = Options(
        runs=runs,
        is_quick=arguments.quick,
        tapes=arguments.tape,
        orders_per_s=arguments.orders_per_s,
    )
    console = Console(width=None if sys.stdout.isatty() else COLUMNS_WITHOUT_TERMINAL)
    console.print(machine.line(core), highlight=False)
    results: list[Result] = []
    began = time.monotonic()
    try:
        for suite in arguments.suites or SUITES_BY_DEFAULT:
            console.print(f"{suite} ...", highlight=False)
            module = TAPED if options.tapes else suite
            results += importlib.import_module(f"scripts.benchmarks.{module}").run(options)
    except Disagreement as error:
        print(f"bench: the sides disagree, so nothing was compared: {error}", file=sys.stderr)
        return 1
    except RecordingError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _print(console, results, options)
    arguments.json.write_bytes(orjson.dumps(_rows(results), option=orjson.OPT_INDENT_2) + b"\n")
    seconds = time.monotonic() - began
    console.print(f"{len(results)} comparisons, {seconds:.0f} s; written to {arguments.json}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"of {', '.join(SUITES)}; by default {' and '.join(SUITES_BY_DEFAULT)}",
    )
    parser.add_argument("--json", type=Path, default=JSON_BY_DEFAULT, metavar="PATH")
    parser.add_argument(
        "--runs", type=whole(at_least=1), metavar="N", help=f"turns of each side; {RUNS}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="little input and few runs: does it work at all?"
    )
    parser.add_argument(
        "--orders-per-s",
        type=whole(at_least=1),
        metavar="N",
        help="over all accounts of suite orders, where a machine does not carry its 200",
    )
    parser.add_argument(
        "--tape",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with path: frames of this recording instead of a simulated market's; repeatable",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"unknown suites {sorted(unknown)}; there are {', '.join(SUITES)}")
    if arguments.tape and arguments.suites != ["path"]:
        parser.error("--tape goes with the suite path alone: ./scripts/bench path --tape FILE")
    for file in arguments.tape:
        if not file.is_file():
            parser.error(f"--tape {file}: there is no such recording")
    return arguments


def _print(console: Console, results: Sequence[Result], options: Options) -> None:
    measured = f"medians of {options.runs} turns in CPU seconds, or as the suite says"
    table = Table(title=f"{measured}; higher is better")
    for heading in ("name", "ours", "peer", "unit", "ratio", "of single turns", "goal"):
        is_number = heading in {"ours", "peer", "ratio", "of single turns"}
        table.add_column(heading, justify="right" if is_number else "left")
    for result in results:
        table.add_row(
            result.name,
            _rate(result.ours),
            _rate(result.peer),
            result.unit,
            _times(result.ratio),
            " to ".join(_times(each) for each in result.spread or ()),
            _goal(result, options),
        )
    console.print(table)
    for result in results:
        facts = [f"{name} {_fact(value)}" for name, value in result.more.items()]
        console.print(
            f"{result.name}: against {result.against}" + "".join(f"; {fact}" for fact in facts),
            highlight=False,
        )


def _rows(results: Sequence[Result]) -> list[dict[str, object]]:
    return [
        {
            "name": result.name,
            "ours": result.ours,
            "peer": result.peer,
            "ratio": result.ratio,
            "unit": result.unit,
            "against": result.against,
            "spread": result.spread,
            "ours_goal": result.ours_goal,
            "ratio_goal": result.ratio_goal,
            "at_most": result.at_most,
            "is_met": result.is_met,
            **result.more,
        }
        for result in results
    ]


def _goal(result: Result, options: Options) -> str:
    parts = []
    if result.ours_goal is not None:
        parts.append(_rate(result.ours_goal))
    if result.ratio_goal is not None:
        parts.append(_times(result.ratio_goal))
    parts += [f"{name} <= {limit:g}" for name, limit in result.at_most.items()]
    if not parts or options.is_quick or result.is_met is None:
        return ""
    return f"{', '.join(parts)}: {'met' if result.is_met else 'missed'}"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _times(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.3g}x"  # noqa: PLR2004 - digits to read


def _fact(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
