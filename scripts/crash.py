"""Kill the daemon at every named point, many times, and judge what is left: the crash campaign.

Run as `./scripts/crash`. Starts everything it needs on this machine; nothing is left behind. Exit
status 0 means that every run kept every promise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
# In the place of this folder, whose `secrets.py` would be taken for the standard library's.
sys.path[:1] = [str(ROOT / each) for each in ("", "tests", "tests/integration/crash")]

import crash_campaign as campaign  # noqa: E402 - its folder is known only now
from crash_run import AT_RANDOM, BEHAVIOURS, POINTS, Case, Report, play  # noqa: E402

from scripts.typed_numbers import whole  # noqa: E402

if TYPE_CHECKING:
    import crash_parts as parts

RUNS = 30


def main() -> int:
    """Run the campaign the arguments ask for."""
    options = _options()
    cases = [
        Case(point=point, behaviour=behaviour, seed=options.seed, number=number)
        for number in range(options.first, options.first + options.runs)
        for point in options.points
        for behaviour in options.behaviours
    ]
    print(f"seed {options.seed}, {len(cases)} runs, {options.jobs} at a time", flush=True)
    began = time.monotonic()
    reports = _play_all(cases, options)
    print(_table(reports))
    failed = sum(1 for report in reports if report.violations)
    seconds = time.monotonic() - began
    print(f"{len(reports)} runs, {failed} failed, {seconds:.0f} s, seed {options.seed}")
    return 1 if failed or not reports else 0


def _options() -> argparse.Namespace:
    def names(allowed: tuple[str, ...]) -> object:
        def parse(text: str) -> tuple[str, ...]:
            wanted = tuple(text.split(","))
            if unknown := set(wanted) - set(allowed):
                raise argparse.ArgumentTypeError(f"{sorted(unknown)} not in {allowed}")
            return wanted

        return parse

    points = (*POINTS, AT_RANDOM)
    parser = campaign.arguments("crash", __doc__, parts_called="runs")
    parser.add_argument(
        "--runs", type=whole(at_least=1), default=RUNS, help="per point and behaviour"
    )
    parser.add_argument("--points", type=names(points), default=points)
    parser.add_argument("--behaviours", type=names(BEHAVIOURS), default=BEHAVIOURS)
    return parser.parse_args()


def _play_all(cases: list[Case], options: argparse.Namespace) -> list[Report]:
    turn = threading.Lock()
    reports: list[Report] = []

    def one(case: Case, shared: parts.Servers, lane: parts.Lane) -> None:
        report = _played(case, shared, lane)
        with turn:
            reports.append(report)
            _tell(report, len(reports), len(cases))

    campaign.play_all(cases, options, one)
    return reports


def _played(case: Case, shared: parts.Servers, lane: parts.Lane) -> Report:
    try:
        return play(case, shared, lane)
    except Exception as error:  # noqa: BLE001 - the campaign goes on and says so at its end
        return Report(case=case, violations=[f"could not be played: {error!r}"])


def _tell(report: Report, done: int, count: int) -> None:
    case = report.case
    if report.violations:
        again = f"--seed {case.seed} --first {case.number} --runs 1"
        print(
            f"FAILED {case.point} {case.behaviour}: {'; '.join(report.violations)}"
            f" [{again} --points {case.point} --behaviours {case.behaviour}]",
            flush=True,
        )
        print(report.log, file=sys.stderr, flush=True)
    elif done % 50 == 0:
        print(f"{done} of {count}", file=sys.stderr, flush=True)


def _table(reports: list[Report]) -> str:
    names = ("point", "behaviour", "runs", "orders", "died there", "duplicates", "lost")
    lines = [
        f"| {' | '.join((*names, 'ended as', 's p50', 's max'))} |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    groups: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        groups.setdefault((report.case.point, report.case.behaviour), []).append(report)
    for (point, behaviour), group in sorted(groups.items()):
        lines.append(_row(point, behaviour, group))
    lines.append(_row("all", "", reports))
    return "\n".join(lines)


def _row(point: str, behaviour: str, group: list[Report]) -> str:
    ends: Counter[str] = Counter()
    for report in group:
        ends += report.ends
    told = ", ".join(f"{state} {count}" for state, count in ends.most_common())
    seconds = [report.quiet_s for report in group] or [0.0]
    return (
        f"| {point} | {behaviour} | {len(group)} | {sum(r.orders for r in group)} "
        f"| {sum(r.died_of_point for r in group)} | {sum(r.duplicates for r in group)} "
        f"| {sum(r.lost for r in group)} | {told} "
        f"| {statistics.median(seconds):.1f} | {max(seconds):.1f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
