from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.accounts.login import (
    KiteApp,
    LoginFailed,
    checksum,
    log_in,
    login_url,
    read_redirect,
)
from ticker_service.accounts.tokens import AccessToken, MemoryTokens
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import Account
from ticker_service.errors import LoginRequired
from ticker_service.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW_NS = 1_800_000_000 * NS_PER_S
MAIN = Account("main")
APP = KiteApp(account=MAIN, user_id="AB1234", api_key="key&1", api_secret="planted-secret")
REQUEST = "plantedrequesttoken0123456789ABC"
SESSION = {"user_id": "AB1234", "access_token": "plantedaccesstoken"}


class Exchange:
    """Answers once with what it was made with, and keeps what it was asked."""

    def __init__(self, answer: Mapping[str, object] | Exception, clock: ManualClock) -> None:
        self.answer = answer
        self.asked: list[dict[str, str]] = []
        self.clock = clock

    async def exchange(
        self, *, api_key: str, request_token: str, checksum: str
    ) -> Mapping[str, object]:
        self.asked.append(
            {"api_key": api_key, "request_token": request_token, "checksum": checksum}
        )
        self.clock.advance(NS_PER_S)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def attempt(answer: Mapping[str, object] | Exception) -> tuple[Exchange, MemoryTokens]:
    clock = ManualClock(NOW_NS)
    tokens = MemoryTokens(clock)
    exchange = Exchange(answer, clock)
    try:
        asyncio.run(log_in(APP, REQUEST, exchange=exchange, tokens=tokens, clock=clock))
    finally:
        stored = asyncio.run(tokens.get(MAIN))
        assert stored is None or answer == SESSION
    return exchange, tokens


def test_the_page_names_the_app_and_no_secret() -> None:
    assert login_url(APP) == "https://kite.zerodha.com/connect/login?v=3&api_key=key%261"


def test_the_secret_is_in_no_representation() -> None:
    assert "planted" not in repr(APP)


@pytest.mark.parametrize(
    "pasted",
    [
        REQUEST,
        f"  {REQUEST}\n",
        f'"{REQUEST}"',
        f"https://127.0.0.1/back?request_token={REQUEST}&action=login&status=success",
        f"https://app.example/?status=success&request_token={REQUEST}#top",
        f"<http://localhost:5000/?action=login&type=login&status=success&request_token={REQUEST}>",
        f"localhost/?request_token={REQUEST}",
    ],
)
def test_an_address_or_a_bare_token_is_understood(pasted: str) -> None:
    assert read_redirect(pasted) == REQUEST


@pytest.mark.parametrize(
    "pasted",
    [
        "",
        "two words",
        "https://app.example/",
        "https://app.example/?request_token=",
        f"https://app.example/?request_token={REQUEST}&status=cancelled",
        f"https://app.example/?request_token={REQUEST}&status=success&status=error",
        f"https://app.example/?request_token={REQUEST}&request_token={REQUEST}2",
        f"https://app.example/?request_token={REQUEST}%0d%0aplanted",
        f"https://[app.example/?request_token={REQUEST}",
        f"https://app.example/?request_token={REQUEST}&{'a=b&' * 40}",
        f"https://app.example/?request_token={REQUEST}&x={'y' * 5_000}",
    ],
)
def test_anything_else_is_refused_without_being_quoted(pasted: str) -> None:
    with pytest.raises(LoginFailed, match="Condition failed") as raised:
        read_redirect(pasted)
    assert "planted" not in str(raised.value)
    assert raised.value.__cause__ is None


@given(st.text(max_size=200))
def test_any_text_is_understood_or_refused_by_the_one_error(pasted: str) -> None:
    try:
        assert read_redirect(pasted) in pasted
    except LoginFailed:
        return


def test_the_checksum_is_the_brokers() -> None:
    expected = hashlib.sha256(b"key" + b"request" + b"secret").hexdigest()
    assert checksum(api_key="key", request_token="request", api_secret="secret") == expected


def test_a_login_stores_the_token_with_its_user_and_the_time_it_was_asked_for() -> None:
    exchange, tokens = attempt(SESSION)
    assert asyncio.run(tokens.get(MAIN)) == AccessToken(
        account=MAIN, user_id="AB1234", value="plantedaccesstoken", issued_at_ns=NOW_NS
    )
    assert len(exchange.asked) == 1


def test_the_secret_itself_is_never_sent() -> None:
    exchange, _ = attempt(SESSION)
    assert "planted-secret" not in str(exchange.asked)


@pytest.mark.parametrize("user_id", ["ZZ9999", "ab1234", "", None, 7, "AB1234\n", ["AB1234"]])
def test_another_users_token_is_not_stored(user_id: object) -> None:
    with pytest.raises(LoginFailed, match="belongs to user_id=AB1234") as raised:
        attempt({**SESSION, "user_id": user_id})
    assert "\n" not in str(raised.value)
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize("value", [None, "", 7, "a b", "x" * 200, {"a": 1}])
def test_an_answer_without_a_usable_token_stores_nothing(value: object) -> None:
    with pytest.raises(LoginFailed, match="no access token"):
        attempt({**SESSION, "access_token": value})


def test_a_refused_request_token_is_reported_as_it_came() -> None:
    with pytest.raises(LoginRequired):
        attempt(LoginRequired("HTTP 403"))
