"""``ticker-service account …``: what halts an account, and letting it trade again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.jobs import run_job, whoever
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from ticker_service.config import OrderHalfConfig

account_cli = typer.Typer(
    name="account", help="What halts an account, and letting it trade again.", no_args_is_help=True
)
_Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; ticker-service.toml if left out. The environment wins."),
]


@account_cli.command()
def halts(config: _Config = None) -> None:
    """Print what halts which account and what to do."""

    async def job() -> int:
        from ticker_service import assembly  # noqa: PLC0415 - other verbs start faster without it

        standing = await assembly.standing_halts(_orders(config), SystemClock())
        for halt in standing:
            print(f"{halt.account} {halt.code} ({halt.reason}): {halt.advice}")  # noqa: T201
        if not standing:
            print("no halts")  # noqa: T201 - the answer
        return 0

    raise typer.Exit(run_job(job()))


@account_cli.command()
def resume(
    account: Annotated[str, typer.Argument(help="Name of a configured account.")],
    config: _Config = None,
) -> None:
    """Lift what halts an account; do so when its cause is gone. A running daemon notices."""

    async def job() -> int:
        from ticker_service import assembly  # noqa: PLC0415 - as above

        lifted = await assembly.resume_account(
            _orders(config), account, by_whom=whoever(), clock=SystemClock()
        )
        for halt in lifted:
            print(f"{halt.account} {halt.code}: lifted")  # noqa: T201 - the answer
        if not lifted:
            print(f"{account}: was not halted")  # noqa: T201 - likewise
        return 0

    raise typer.Exit(run_job(job()))


def _orders(config: Path | None) -> OrderHalfConfig:
    from app import settings  # noqa: PLC0415 - as above

    return settings.load_accounts(config, journal=True).accounts_config()
