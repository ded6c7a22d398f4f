"""Logins and tokens by Kite's rules: request tokens once, access tokens until 06:00 IST.

Pure apart from its own state. Messages and error types as Kite words them (kite.md §3.1, §5.1). A
later login of the same user leaves earlier tokens alone; sources disagree on what Kite does.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.options import derived_secret

if TYPE_CHECKING:
    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.options import SimulatedUser, SimulatorOptions

REQUEST_TOKEN_LIFE_NS: Final = 300 * NS_PER_S
"""Kite says "a few minutes"."""
REQUEST_TOKENS_MAX: Final = 1_000
SESSIONS_MAX: Final = 10_000
"""A program that logs in for ever pushes out its own oldest tokens, not the machine's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A user logged in through the application."""

    user: SimulatedUser
    api_key: str
    access_token: str = field(repr=False)
    public_token: str = field(repr=False)
    enctoken: str = field(repr=False)
    login_ns: int
    expires_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _RequestToken:
    user: SimulatedUser
    expires_ns: int


class Sessions:
    """All tokens of the one registered application."""

    def __init__(self, options: SimulatorOptions, clock: Clock) -> None:
        self._seed = options.seed
        self._api_key = options.api_key
        self._api_secret = options.api_secret
        self._users = {user.user_id: user for user in options.users}
        self._clock = clock
        self._logins = 0
        self._request_tokens: dict[str, _RequestToken] = {}
        self._sessions: dict[str, Session] = {}

    def check_api_key(self, api_key: str) -> None:
        """Raise Kite's error unless this is the registered application."""
        if not _same(api_key, self._api_key):
            raise KiteError.input("Invalid `api_key`.")

    def user(self, user_id: str) -> SimulatedUser | None:
        """Return the user of that id, or None."""
        return self._users.get(user_id)

    def issue_request_token(self, user: SimulatedUser) -> str:
        """Log a user in and return the token that the redirect carries."""
        self._logins += 1
        token = self._secret("request_token")
        expires_ns = self._clock.now_ns() + REQUEST_TOKEN_LIFE_NS
        self._request_tokens[token] = _RequestToken(user=user, expires_ns=expires_ns)
        _drop_oldest(self._request_tokens, REQUEST_TOKENS_MAX)
        return token

    def exchange(self, *, api_key: str, request_token: str, checksum: str) -> Session:
        """Turn a request token into a session; it works once.

        Raises:
            KiteError: The application, the checksum or the token is wrong, spent or too old.
        """
        self.check_api_key(api_key)
        text = self._api_key + request_token + self._api_secret
        if not _same(checksum.lower(), hashlib.sha256(text.encode()).hexdigest()):
            raise KiteError.token("Invalid `checksum`.")
        granted = self._request_tokens.pop(request_token, None)
        if granted is None or granted.expires_ns <= self._clock.now_ns():
            raise KiteError.token("Token is invalid or has expired.")
        return self._open(granted.user)

    def authorised(self, api_key: str, access_token: str) -> Session:
        """Return the live session of the pair.

        Raises:
            KiteError: There is none: wrong key, unknown token, or past 06:00 IST.
        """
        found = self._sessions.get(access_token)
        if found is None or not _same(api_key, found.api_key) or not self.is_live(access_token):
            raise KiteError.token("Incorrect `api_key` or `access_token`.")
        return found

    def is_live(self, access_token: str) -> bool:
        """Return whether the token still opens anything."""
        found = self._sessions.get(access_token)
        return found is not None and self._clock.now_ns() < found.expires_ns

    def close(self, api_key: str, access_token: str) -> None:
        """Log a session out.

        Raises:
            KiteError: There is no such live session.
        """
        self.authorised(api_key, access_token)
        del self._sessions[access_token]

    def expire_user(self, user_id: str) -> int:
        """End every session of a user at once and return how many there were."""
        ended = [token for token, each in self._sessions.items() if each.user.user_id == user_id]
        for token in ended:
            del self._sessions[token]
        return len(ended)

    def _open(self, user: SimulatedUser) -> Session:
        now_ns = self._clock.now_ns()
        opened = Session(
            user=user,
            api_key=self._api_key,
            access_token=self._secret("access_token"),
            public_token=self._secret("public_token"),
            enctoken=self._secret("enctoken"),
            login_ns=now_ns,
            expires_ns=session.token_expires_ns(now_ns),
        )
        self._logins += 1
        self._sessions[opened.access_token] = opened
        _drop_oldest(self._sessions, SESSIONS_MAX)
        return opened

    def _secret(self, purpose: str) -> str:
        return derived_secret(self._seed, f"{purpose} {self._logins}")


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def _drop_oldest(tokens: dict[str, _RequestToken] | dict[str, Session], count_max: int) -> None:
    while len(tokens) > count_max:
        del tokens[next(iter(tokens))]
