"""The broker's daily login: open a page, paste what comes back, exchange it for the day's token.

    login_url -> (a person logs in) -> read_redirect -> log_in: checksum, exchange, user_id, store

The page is opened and the second factor is given by a person; nothing here automates it. Source:
kite.md §3.1.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qs, urlencode, urlsplit

from ticker_service.accounts.tokens import AccessToken
from ticker_service.errors import TickerServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.accounts.tokens import AccessTokens
    from ticker_service.domain.order import Account
    from ticker_service.runtime.clock import Clock

LOGIN_ROOT: Final = "https://kite.zerodha.com/connect/login"
REDIRECT_CHARACTERS_MAX: Final = 4_096
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{6,128}")
_USER_ID: Final = re.compile(r"[A-Za-z0-9]{2,32}")


class LoginFailed(TickerServiceError):  # noqa: N818 - says what happened
    """No token was obtained, nothing was stored; log in once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KiteApp:
    """An account's Kite Connect app, and the one user who may log in to it."""

    account: Account
    user_id: str
    api_key: str
    api_secret: str = field(repr=False)


class SessionExchange(Protocol):
    """The one call that turns a request token into a session."""

    async def exchange(
        self, *, api_key: str, request_token: str, checksum: str
    ) -> Mapping[str, object]:
        """Return the session's fields, among them ``access_token`` and ``user_id``.

        Raises:
            LoginRequired: The broker refused; the request token is used up, old or another app's.
            BrokerUnavailable: No answer; the request token may be used up.
        """
        ...


def login_url(app: KiteApp, *, login_root: str = LOGIN_ROOT) -> str:
    """Return the page where the account's owner logs in; it holds no secret."""
    return f"{login_root}?{urlencode({'v': '3', 'api_key': app.api_key})}"


def read_redirect(text: str) -> str:
    """Return the request token in what a person pasted.

    Args:
        text: The address the browser was sent to after the login, or the bare request token.

    Raises:
        LoginFailed: It is neither, or the address says that the login did not succeed.
    """
    pasted = text.strip().strip("'\"<>").strip()
    if len(pasted) > REDIRECT_CHARACTERS_MAX:
        raise LoginFailed(
            f"Condition failed: {len(pasted)} characters are no redirect address, "
            f"limit {REDIRECT_CHARACTERS_MAX}"
        )
    if _TOKEN.fullmatch(pasted):
        return pasted
    return _token_in_query(pasted)


def checksum(*, api_key: str, request_token: str, api_secret: str) -> str:
    """Return what proves to the broker that the app's owner asks, without sending the secret."""
    return hashlib.sha256(f"{api_key}{request_token}{api_secret}".encode()).hexdigest()


async def log_in(
    app: KiteApp,
    request_token: str,
    *,
    exchange: SessionExchange,
    tokens: AccessTokens,
    clock: Clock,
) -> AccessToken:
    """Exchange a request token once and keep the access token if it is the right user's.

    Raises:
        LoginFailed: Another user logged in, or the answer has no usable token; nothing is stored.
        LoginRequired: The broker refused the request token.
        BrokerUnavailable: No answer; log in once more, the request token may be used up.
    """
    # Before the call: if 06:00 IST passes while it runs, the token is taken for yesterday's, and
    # the worst is a second login, not a day with a dead token.
    issued_at_ns = clock.now_ns()
    session = await exchange.exchange(
        api_key=app.api_key,
        request_token=request_token,
        checksum=checksum(
            api_key=app.api_key, request_token=request_token, api_secret=app.api_secret
        ),
    )
    _check_user(app, session.get("user_id"))
    value = session.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise LoginFailed(f"account={app.account}: the broker's answer holds no access token")
    token = AccessToken(
        account=app.account, user_id=app.user_id, value=value, issued_at_ns=issued_at_ns
    )
    await tokens.put(token)
    return token


def _token_in_query(pasted: str) -> str:
    # The text holds a credential, so no message quotes it, not even in part.
    try:
        query = urlsplit(pasted).query
        fields = parse_qs(query, max_num_fields=32)
    except ValueError:
        raise LoginFailed("Condition failed: the pasted text is no redirect address") from None
    status = fields.get("status", ["success"])
    if status != ["success"]:
        raise LoginFailed("Condition failed: the redirect address says the login did not succeed")
    found = fields.get("request_token", [])
    if len(found) != 1 or not _TOKEN.fullmatch(found[0]):
        raise LoginFailed(
            "Condition failed: the pasted text holds no request_token; paste the whole address "
            "the browser shows after the login, or the token alone"
        )
    return found[0]


def _check_user(app: KiteApp, user_id: object) -> None:
    if user_id == app.user_id:
        return
    known = isinstance(user_id, str) and _USER_ID.fullmatch(user_id)
    raise LoginFailed(
        f"account={app.account} belongs to user_id={app.user_id}, but "
        f"{user_id if known else 'nobody we can name'} logged in; nothing was stored"
    )
