from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from ticker_service.accounts.login import KiteApp, LoginFailed, log_in, login_url, read_redirect
from ticker_service.accounts.tokens import VaultTokens
from ticker_service.adapters.kite_login import KiteLogin
from ticker_service.adapters.token_file import TokenFiles
from ticker_service.domain.order import Account
from ticker_service.errors import LoginRequired
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from running import Exchange

MAIN = Account("main")
PHRASE = b"a planted phrase of the tests"


def app_of(exchange: Exchange) -> KiteApp:
    return KiteApp(
        account=MAIN,
        user_id=exchange.user_id,
        api_key=exchange.api_key,
        api_secret=exchange.banner["api_secret"],
    )


def redirected(exchange: Exchange, user_id: str) -> str:
    """The address a browser ends at after the login page."""
    page = login_url(app_of(exchange), login_root=f"{exchange.rest_root}/connect/login")
    answer = httpx.get(page, params={**httpx.URL(page).params, "user_id": user_id}, trust_env=False)
    return answer.headers["Location"]


def vault_tokens(home: Path) -> VaultTokens:
    return VaultTokens(TokenFiles(home, PHRASE), SystemClock())


def test_a_login_at_the_broker_outlives_the_process_and_lies_nowhere_in_clear(
    lively_exchange: Exchange, tmp_path: Path
) -> None:
    async def log_in_once() -> str:
        token = await log_in(
            app_of(lively_exchange),
            read_redirect(redirected(lively_exchange, lively_exchange.user_id)),
            exchange=KiteLogin(lively_exchange.rest_root),
            tokens=vault_tokens(tmp_path / "tokens"),
            clock=SystemClock(),
        )
        return token.value

    value = asyncio.run(log_in_once())
    kept = asyncio.run(vault_tokens(tmp_path / "tokens").get(MAIN))
    assert kept is not None
    assert kept.value == value
    profile = httpx.get(
        f"{lively_exchange.rest_root}/user/profile",
        headers={"Authorization": f"token {lively_exchange.api_key}:{kept.value}"},
        trust_env=False,
    )
    assert profile.json()["data"]["user_id"] == lively_exchange.user_id
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert value.encode() not in files[0].read_bytes()


def test_a_request_token_is_good_once(lively_exchange: Exchange, tmp_path: Path) -> None:
    pasted = redirected(lively_exchange, lively_exchange.user_id)

    async def log_in_once() -> None:
        await log_in(
            app_of(lively_exchange),
            read_redirect(pasted),
            exchange=KiteLogin(lively_exchange.rest_root),
            tokens=vault_tokens(tmp_path / "tokens"),
            clock=SystemClock(),
        )

    asyncio.run(log_in_once())
    with pytest.raises(LoginRequired, match="HTTP 403"):
        asyncio.run(log_in_once())


def test_the_wrong_person_at_the_login_page_leaves_nothing_behind(
    lively_exchange: Exchange, tmp_path: Path
) -> None:
    app = app_of(lively_exchange)
    stranger = KiteApp(
        account=MAIN, user_id="ZZ9999", api_key=app.api_key, api_secret=app.api_secret
    )

    async def log_in_once() -> None:
        await log_in(
            stranger,
            read_redirect(redirected(lively_exchange, lively_exchange.user_id)),
            exchange=KiteLogin(lively_exchange.rest_root),
            tokens=vault_tokens(tmp_path / "tokens"),
            clock=SystemClock(),
        )

    with pytest.raises(LoginFailed, match="belongs to user_id=ZZ9999"):
        asyncio.run(log_in_once())
    assert not list(tmp_path.rglob("*.sealed"))
