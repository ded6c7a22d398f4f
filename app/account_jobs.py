"""``ticker-service login``: a day's access token for one account."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from app import settings
from ticker_service import assembly
from ticker_service.accounts.login import login_url
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path


async def log_in(account: str, pasted: str, config: Path | None) -> int:
    """Print where to log in, take where that led, and keep the token for the daemon.

    Raises:
        TickerServiceError: The account is not configured, the login failed, or there is no
            passphrase to keep the token with.
    """
    loaded = settings.load_accounts(config)
    half = loaded.accounts_config()
    app = assembly.kite_app(half, account)
    if not loaded.passphrase():
        raise ConfigurationError(
            "TICKER_SERVICE_TOKEN_PASSPHRASE (or token_passphrase): is required to hand the token "
            "to the daemon; see docs/settings.md"
        )
    clock = SystemClock()
    if not pasted:
        print(f"Log in as {app.user_id} here:\n\n  {login_url(app)}\n", file=sys.stderr)  # noqa: T201
        print("Paste the address it leads to: ", end="", file=sys.stderr, flush=True)  # noqa: T201
        pasted = sys.stdin.readline()
    token = await assembly.log_in_at_kite(
        half, account, pasted, tokens=loaded.token_store(clock), clock=clock
    )
    print(f"{account}: logged in as {token.user_id}; good until 06:00 IST")  # noqa: T201
    return 0
