"""``ticker-service journal …``: whether the order journal is sound, and what to do if it is not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from app.jobs import EXIT_FAULT, run_job
from ticker_service.domain.journal_audit import OF_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ticker_service.domain.journal_audit import Audit, JournalFault, Rebuild

journal_cli = typer.Typer(
    name="journal",
    help="Whether the order journal is sound, and making its tables anew.",
    no_args_is_help=True,
)
_Account = Annotated[
    str | None, typer.Option(help="Only this account's part of the journal; all if left out.")
]
_Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; ticker-service.toml if left out. The environment wins."),
]
_Json = Annotated[bool, typer.Option("--json", help="One line of JSON instead.")]


@journal_cli.command()
def verify(account: _Account = None, config: _Config = None, as_json: _Json = False) -> None:
    """Replay every event and compare with the tables; exit status 0 only if nothing is wrong.

    Needs the database alone, changes nothing, and keeps no daemon waiting.
    """

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - other verbs start faster without it
        from ticker_service import assembly  # noqa: PLC0415 - likewise

        url = settings.database_url(config)
        began = time.monotonic()
        audit = await assembly.verify_journal(url, account)
        seconds = time.monotonic() - began
        if as_json:
            print(orjson.dumps(report(audit, seconds)).decode())  # noqa: T201 - the answer
        else:
            show(audit, seconds)
        return 0 if audit.is_sound else EXIT_FAULT

    raise typer.Exit(run_job(job()))


@journal_cli.command()
def rebuild(account: _Account = None, config: _Config = None, as_json: _Json = False) -> None:
    """Make the tables anew from the events, all that differs or nothing; print what differed.

    Refuses while a daemon writes one of the accounts, and where the events themselves are damaged.
    """

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - as above
        from ticker_service import assembly  # noqa: PLC0415 - as above

        url = settings.database_url(config)
        began = time.monotonic()
        rebuilt = await assembly.rebuild_journal(url, account)
        seconds = time.monotonic() - began
        if as_json:
            print(orjson.dumps(_rebuilt(rebuilt, seconds)).decode())  # noqa: T201 - the answer
        else:
            for line in _rebuilt_lines(rebuilt, seconds):
                print(line)  # noqa: T201 - the answer
        return 0 if rebuilt.is_sound else EXIT_FAULT

    raise typer.Exit(run_job(job()))


def _rebuilt(rebuilt: Rebuild, seconds: float) -> dict[str, Any]:
    return {
        "is_sound": rebuilt.is_sound,
        "is_done": rebuilt.after is not None,
        "tasks_changed": rebuilt.tasks_changed,
        "attempts_changed": rebuilt.attempts_changed,
        "before": report(rebuilt.before, seconds),
    }


def _rebuilt_lines(rebuilt: Rebuild, seconds: float) -> Iterator[str]:
    before, after = rebuilt.before, rebuilt.after
    label = "FAULT" if after is None else "was  "
    yield from (f"{label} {_words(fault)}" for fault in before.faults)
    if before.fault_count > len(before.faults):
        yield f"{label} and {before.fault_count - len(before.faults):,} more"
    if after is None:
        yield "FAULT nothing was changed: events themselves are damaged"
        yield from (f"      -> {advice}" for advice in _advice(before))
        return
    yield from (f"FAULT {_words(fault)}" for fault in after.faults)
    yield (
        f"{'ok' if after.is_sound else 'FAULT':5} {before.events:,} events replayed in "
        f"{seconds:.1f} s; {rebuilt.tasks_changed:,} rows of tasks and "
        f"{rebuilt.attempts_changed:,} of attempts made anew; {after.fault_count:,} faults are left"
    )


def report(audit: Audit, seconds: float) -> dict[str, Any]:
    """Return what was found, as ``--json`` prints it."""
    return {
        "is_sound": audit.is_sound,
        "events": audit.events,
        "tasks": audit.tasks,
        "attempts": audit.attempts,
        "untold_tasks": audit.untold_tasks,
        "seconds": round(seconds, 3),
        "events_per_s": round(audit.events / seconds),
        "accounts": [
            {
                "account": each.account,
                "events": each.events,
                "last_seq": each.last_seq,
                "tasks": each.tasks,
                "faults": each.fault_count,
            }
            for _, each in sorted(audit.accounts.items())
        ],
        "fault_count": audit.fault_count,
        "faults": [
            {
                "code": fault.code,
                "account": fault.account,
                "task_id": None if fault.task_id is None else str(fault.task_id),
                "where": fault.where,
                "field": fault.field,
                "told": fault.told,
                "found": fault.found,
                "in_events": fault.code not in OF_TABLES,
            }
            for fault in audit.faults
        ],
    }


def show(audit: Audit, seconds: float) -> None:
    """Print what was found, for people."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table("account")
    for name in ("events", "last number", "tasks", "faults"):
        table.add_column(name, justify="right")
    for _, each in sorted(audit.accounts.items()):
        counts = (each.events, each.last_seq, each.tasks, each.fault_count)
        table.add_row(each.account, *(f"{count:,}" for count in counts))
    Console().print(table)
    for line in _lines(audit, seconds):
        print(line)  # noqa: T201 - the answer


def _lines(audit: Audit, seconds: float) -> Iterator[str]:
    for fault in audit.faults:
        yield f"FAULT {_words(fault)}"
    hidden = audit.fault_count - len(audit.faults)
    if hidden:
        yield f"FAULT and {hidden:,} more"
    if audit.untold_tasks:
        yield (
            f"-     {audit.untold_tasks:,} tasks are of an older version, whose events do not tell "
            "everything; what they tell was compared"
        )
    yield (
        f"{'ok' if audit.is_sound else 'FAULT':5} {audit.events:,} events of {audit.tasks:,} tasks "
        f"and {audit.attempts:,} attempts replayed in {seconds:.1f} s "
        f"({audit.events / seconds:,.0f} events/s): {audit.fault_count:,} faults"
    )
    yield from (f"      -> {advice}" for advice in _advice(audit))


def _words(fault: JournalFault) -> str:
    said = f"account {fault.account}: {fault.code}: {fault.where}"
    if fault.field:
        said += f": {fault.field}"
    if fault.told or fault.found:
        said += f": by its events {fault.told}, found {fault.found}"
    return said if fault.task_id is None else f"{said} (task_id {fault.task_id})"


def _advice(audit: Audit) -> list[str]:
    """Return what to do, the worse first."""
    in_events = [fault for fault in audit.faults if fault.code not in OF_TABLES]
    advice = []
    if in_events:
        advice.append(
            "events are the truth and some of them are damaged or lost, which no rebuild puts "
            "right: keep a copy of this database, restore the newest sound backup beside it, and "
            "look at the broker's book before anything trades (docs/journal.md)"
        )
    if len(in_events) < len(audit.faults):
        accounts = sorted({fault.account for fault in audit.faults if fault.code in OF_TABLES})
        advice.append(
            f"tables say otherwise than the events (accounts {', '.join(accounts)}): stop their "
            "daemon, then run `ticker-service journal rebuild`"
        )
    return advice
