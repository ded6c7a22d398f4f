"""A shell beside a daemon, in which somebody sits at the dead-letter desk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crash_parts import TOKEN_SECRET
from typer.testing import CliRunner

from app.desk_cli import desk_cli
from app.security.tokens import Scope, TokenIssuer
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from crash_parts import Daemon, World


def desk(own: World, daemon: Daemon, *words: str) -> tuple[int, str]:
    """Type a command of ``ticker-service desk``; return its status and what it says."""
    token = TokenIssuer(TOKEN_SECRET.encode()).mint(
        "night-desk",
        scopes=[Scope.DESK],
        accounts=[own.account],
        lifetime_s=600,
        now_ns=SystemClock().now_ns(),
    )
    told = {"TICKER_ORDERS_URL": daemon.facts()["orders_ws_url"], "TICKER_ORDERS_TOKEN": token}
    ran = CliRunner().invoke(desk_cli, words, env=told | {"COLUMNS": "80"})
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.exit_code, ran.output
