"""The command line of recordings: make them without publishing, and play them back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app.jobs import run_job

record_cli = typer.Typer()


@record_cli.command()
def record(
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; ticker-service.toml if left out. The environment wins."),
    ] = None,
) -> None:
    """Record the market without publishing it, until SIGTERM; needs no Redis.

    The same settings as [bold]run[/bold], but for redis_url, accounts and record: it subscribes,
    follows the money and prices as the daemon does, and writes below record_folder. To publish and
    record at once, set record = true and use [bold]run[/bold]: two programs with one api_key share
    Kite's three connections. See docs/record.md.
    """
    _exit(run_job(_record(config)))


@record_cli.command()
def replay(
    files: Annotated[list[Path], typer.Argument(help="Recordings (.tape), or a folder of them.")],
    speed: Annotated[
        str, typer.Option(help="How many times faster than it was: 1, 10, 0.5, or max.")
    ] = "1",
    from_time: Annotated[
        str, typer.Option("--from", help="Indian time to begin at, 09:20 or 09:20:30.")
    ] = "",
    to_time: Annotated[str, typer.Option("--to", help="Indian time to end before.")] = "",
    warm_up: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Begin so many seconds before --from, with nothing known, instead of at the "
            "recording's start: faster, and not the bytes that were published.",
        ),
    ] = None,
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="Server to publish to.")
    ] = "redis://127.0.0.1:6379/0",
    channel_prefix: Annotated[
        str, typer.Option(help="Prefix to publish under; without it replay:RECORDED PREFIX.")
    ] = "",
    new_epoch: Annotated[
        bool, typer.Option(help="Number this replay as a new run, so that readers take it as one.")
    ] = False,
    publish: Annotated[
        bool, typer.Option(help="Without, everything is done and nothing is sent.")
    ] = True,
    columns: Annotated[
        Path | None,
        typer.Option(help="Also write what is published as Parquet below this folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Drive the path from a recording: the same bytes on the same channels, under another prefix.

    Everything after the feed is the daemon's own. The same files give the same bytes: the sha256 at
    the end is over all of them. See docs/record.md.
    """
    from app import replay as job  # noqa: PLC0415 - other verbs start faster without it

    request = job.Request(
        files=files,
        speed=speed,
        from_time=from_time,
        to_time=to_time,
        warm_up_s=warm_up,
        redis_url=redis_url if publish else "",
        channel_prefix=channel_prefix,
        is_new_epoch=new_epoch,
        columns=columns,
        as_json=as_json,
    )
    _exit(run_job(job.replay(request)))


async def _record(config: Path | None) -> int:
    from app import daemon, settings  # noqa: PLC0415 - as above

    kind = settings.RecordingSettings
    loaded = settings.load(config, kind=kind, record=True, redis_url="", accounts={})
    await daemon.run(loaded, pid=os.getpid())
    return 0


def _exit(status: int) -> NoReturn:
    raise typer.Exit(status)
