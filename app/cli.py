"""The command line: one program, one verb per job; a fault is one line and a non-zero status."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import orjson
import typer
import uvloop

from ticker_service.errors import ConfigurationError, TickerServiceError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

EXIT_FAULT: Final = 1
EXIT_CONFIGURATION: Final = 2
EXIT_INTERRUPTED: Final = 130

cli = typer.Typer(
    name="ticker-service",
    help="Priced, gap-aware ticks from Zerodha Kite Connect on Redis.\n\n"
    "Start with [bold]ticker-service demo[/bold]: it needs no account and works at night.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


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

    _exit(_run(job.demo(seconds=seconds, as_json=as_json, seed=seed, clock=SystemClock())))


@cli.command()
def run(
    config: Annotated[
        Path, typer.Option(help="Settings file; the environment wins over it.")
    ] = Path("ticker-service.toml"),
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a private Redis server; for trying things.")
    ] = False,
) -> None:
    """Run the daemon: Kite's ticks in, priced batches on Redis out, until SIGTERM.

    Every setting is TICKER_SERVICE_<NAME> in the environment or <name> in the settings file. All
    faults in them are listed at once and nothing is started. Required: TICKER_SERVICE_KITE_API_KEY,
    TICKER_SERVICE_KITE_ACCESS_TOKEN and REDIS_URL. See docs/settings.md.
    """
    _exit(_run(_daemon(config, embedded=embedded)))


@cli.command()
def simulate(
    seed: Annotated[int, typer.Option(min=0, help="Fixes everything random.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    rest_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="REST port; 0: the system chooses.")
    ] = 0,
    ws_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="WebSocket port; 0: the system chooses.")
    ] = 0,
    rate: Annotated[float, typer.Option(min=0.0, help="Ticks a second over everything.")] = 2_000.0,
    nearest_expiry_days: Annotated[
        int, typer.Option(min=0, help="Nearest expiry at least so far ahead; 0 allows today.")
    ] = 1,
    redirect_url: Annotated[str, typer.Option(help="Where a login sends the browser.")] = "",
    rate_limits: Annotated[
        bool, typer.Option(help="Answer 429 beyond Kite's request rates.")
    ] = True,
) -> None:
    """Run a Kite-compatible exchange on loopback until SIGTERM.

    The first line on standard output is one JSON object with rest_root, ws_root, login_url,
    api_key, api_secret and users. Every Kite client works against those roots. See
    docs/simulator.md for its faults and its truth.
    """
    from ticker_service.simulator import SimulatorOptions  # noqa: PLC0415 - as above

    def options() -> SimulatorOptions:
        return SimulatorOptions(
            seed=seed,
            host=host,
            rest_port=rest_port,
            ws_port=ws_port,
            rate_per_s=rate,
            nearest_expiry_days_min=nearest_expiry_days,
            redirect_url=redirect_url,
            enforce_rate_limits=rate_limits,
        )

    async def serve() -> int:
        from ticker_service.simulator import Simulator  # noqa: PLC0415 - as above

        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with Simulator(options(), clock=SystemClock()) as simulator:
            sys.stdout.buffer.write(orjson.dumps(simulator.banner()) + b"\n")
            sys.stdout.buffer.flush()
            await stop.wait()
        return 0

    _exit(_run(serve()))


@cli.command()
def tail(
    books: Annotated[list[str], typer.Argument(help="Books, such as NIFTY or RELIANCE.")],
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="Server to read from.")
    ] = "redis://127.0.0.1:6379/0",
    channel_prefix: Annotated[str, typer.Option(help="The daemon's setting.")] = "ticker:v1:",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per message.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so long.")] = None,
) -> None:
    """Subscribe to books and show their option chain, or every message as JSON."""
    from app.console import tail as job  # noqa: PLC0415 - as above

    # A reader that went away (`tail --json | head`) ends a filter. The servers must not do this:
    # there a closed socket is an everyday thing.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    async def follow() -> int:
        await job.tail(
            redis_url, books, channel_prefix=channel_prefix, as_json=as_json, seconds=seconds
        )
        return 0

    _exit(_run(follow()))


async def _daemon(config: Path, *, embedded: bool) -> int:
    from app import daemon, settings  # noqa: PLC0415 - as above

    if not embedded:
        await daemon.run(settings.load(config), pid=os.getpid())
        return 0
    from app.embedded import embedded_redis  # noqa: PLC0415 - an optional extra

    async with embedded_redis() as redis:
        await daemon.run(settings.load(config, redis_url=redis.url), pid=os.getpid())
    return 0


def _run(job: Coroutine[Any, Any, int]) -> int:
    """Run a job to its end; what it could not do becomes one clear line."""
    try:
        return uvloop.run(job)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except TickerServiceError as error:
        return _complain(error)
    except BaseExceptionGroup as group:
        faults = group.subgroup(TickerServiceError)
        if faults is None:
            raise
        return _complain(_first(faults))


def _complain(error: BaseException) -> int:
    for line in str(error).splitlines():
        print(f"ticker-service: {line}", file=sys.stderr)  # noqa: T201 - the user's terminal
    return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_FAULT


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _exit(status: int) -> NoReturn:
    raise typer.Exit(status)


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
