"""The command line: one program, one verb per job; a fault is one line and a non-zero status."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app import typed_wrong
from app.account_cli import account_cli
from app.desk_cli import desk_cli
from app.exit_cli import exit_positions, flatten
from app.greeks_cli import greeks
from app.jobs import EXIT_CONFIGURATION, EXIT_INTERRUPTED, run_job
from app.journal_cli import journal_cli
from app.kill_cli import kill_cli
from app.order_cli import order_cli, token_cli
from app.order_list_cli import changes, list_orders
from app.record_cli import record_cli
from app.risk_cli import risk_cli
from app.simulate_cli import simulate
from ticker_service.runtime.clock import SystemClock

cli = typer.Typer(
    name="ticker-service",
    help="Priced, gap-aware ticks from Zerodha Kite Connect on Redis.\n\n"
    "Start with [bold]ticker-service demo[/bold]: it needs no account and works at night.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


cli.add_typer(token_cli)
order_cli.command("list")(list_orders)
order_cli.command()(changes)
cli.add_typer(order_cli)
cli.add_typer(account_cli)
cli.add_typer(journal_cli)
cli.add_typer(kill_cli)
cli.add_typer(risk_cli)
cli.add_typer(desk_cli)
cli.command("exit")(exit_positions)
cli.command()(flatten)
cli.command()(simulate)
cli.add_typer(record_cli)
cli.command()(greeks)

_Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; ticker-service.toml if left out. The environment wins."),
]


@cli.command()
def demo(
    seconds: Annotated[
        float | None, typer.Option(min=1.0, help="Stop after so long; without it, at Ctrl-C.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="No screen; end with one line of JSON on stdout.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the simulated market.")] = 1,
) -> None:
    """Watch a live option chain on a simulated exchange; nothing to set up.

    Starts a private Redis-protocol server (or uses REDIS_URL), the simulator and the daemon, and
    shows what a subscriber sees. Whatever it started is gone when it ends. Exit status 0 means that
    ticks flowed, options were priced, and every volatility was within a point of the truth.
    """
    from app.console import demo as job  # noqa: PLC0415 - other verbs start faster without it

    _exit(run_job(job.demo(seconds=seconds, as_json=as_json, seed=seed, clock=SystemClock())))


@cli.command()
def run(
    config: _Config = None,
    embedded: Annotated[
        bool,
        typer.Option("--embedded", help="Start a private Redis server; the printed line names it."),
    ] = False,
) -> None:
    """Run the daemon: Kite's ticks in, priced batches on Redis out, until SIGTERM.

    Every setting is TICKER_SERVICE_<NAME> in the environment or <name> in the settings file. All
    faults in them are listed at once and nothing is started. Required: TICKER_SERVICE_KITE_API_KEY,
    TICKER_SERVICE_KITE_ACCESS_TOKEN and REDIS_URL. See docs/settings.md.
    """
    _exit(run_job(_daemon(config, embedded=embedded)))


@cli.command()
def tail(
    books: Annotated[list[str], typer.Argument(help="Books, such as NIFTY or RELIANCE.")],
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="Server to read from.")
    ] = "redis://127.0.0.1:6379/0",
    channel_prefix: Annotated[str, typer.Option(help="The daemon's setting.")] = "ticker:v1:",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per message.")] = False,
    latency: Annotated[
        bool, typer.Option("--latency", help="Show where ticks spend their time instead.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so long.")] = None,
) -> None:
    """Subscribe to books and show their option chain, their latency, or every message as JSON."""
    from app.console import tail as job  # noqa: PLC0415 - as above

    # A reader that went away (`tail --json | head`) ends a filter. The servers must not do this:
    # there a closed socket is an everyday thing.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    async def follow() -> int:
        view = job.View.LATENCY if latency else job.View.CHAIN
        if as_json:
            view = job.View.LATENCY_LINES if latency else job.View.LINES
        await job.tail(redis_url, books, channel_prefix=channel_prefix, view=view, seconds=seconds)
        return 0

    _exit(run_job(follow()))


@cli.command()
def migrate(config: _Config = None) -> None:
    """Bring the journal's database up to date; does nothing when it is."""

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - as above
        from ticker_service.assembly import migrate_journal  # noqa: PLC0415 - as above

        applied = await migrate_journal(settings.database_url(config))
        for name in applied:
            print(name)  # noqa: T201 - the answer
        print(f"{len(applied)} migrations applied", file=sys.stderr)  # noqa: T201 - likewise
        return 0

    _exit(run_job(job()))


@cli.command()
def login(
    account: Annotated[str, typer.Argument(help="Name of a configured account.")],
    pasted: Annotated[
        str, typer.Option("--redirect", help="Where Kite sent the browser, or the request_token.")
    ] = "",
    config: _Config = None,
) -> None:
    """Log an account in for the day: open the printed address, paste where it leads."""
    from app import account_jobs  # noqa: PLC0415 - as above

    _exit(run_job(account_jobs.log_in(account, pasted, config)))


@cli.command()
def doctor(config: _Config = None) -> None:
    """Check database, Redis, clock, tokens, instruments and broker; say what to do."""
    from app import doctor as job  # noqa: PLC0415 - as above

    _exit(run_job(job.examine(config)))


async def _daemon(config: Path | None, *, embedded: bool) -> int:
    from app import daemon, settings  # noqa: PLC0415 - as above

    if not embedded:
        await daemon.run(settings.load(config), pid=os.getpid(), file=config)
        return 0
    from app.embedded import embedded_redis  # noqa: PLC0415 - an optional extra

    async with embedded_redis() as redis:
        loaded = settings.load(config, redis_url=redis.url)
        await daemon.run(loaded, pid=os.getpid(), own_redis_url=redis.url, file=config)
    return 0


def _exit(status: int) -> NoReturn:
    raise typer.Exit(status)


def main() -> None:
    """Run the command line; what was typed wrong is one line, too."""
    try:
        status = cli(standalone_mode=False)
    except typer.Abort:
        status = EXIT_INTERRUPTED
    except typer.TyperException as error:
        if said := typed_wrong.line(error):
            print(f"ticker-service: {said}", file=sys.stderr)  # noqa: T201 - the user's terminal
        status = EXIT_CONFIGURATION
    sys.exit(status)


if __name__ == "__main__":
    main()
