"""The access token each account sends with now: the newest that a login has left for it.

The store is looked at every two seconds; a login needs no restart. A token that was given with the
settings is used while none is stored. One that has ended (06:00 IST) is not used any more, whatever
was refused or not: who has no token parks what it has and waits.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.order import Account
from ticker_service.errors import ConfigurationError
from ticker_service.ports import FeedLogin
from ticker_service.runtime.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from ticker_service.accounts.tokens import AccessToken, AccessTokens
    from ticker_service.config import FeedAccountConfig
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

LOOK_S: Final = 2.0
"""A login is noticed within this."""


class TokenWatch:
    """The tokens in use; belongs to one event loop, whose other threads may ask for the value."""

    def __init__(
        self,
        accounts: Sequence[Account],
        tokens: AccessTokens,
        *,
        given: Mapping[Account, AccessToken],
        clock: Clock,
        users: Mapping[Account, str] | None = None,
    ) -> None:
        """Know no token yet; :meth:`look` or :meth:`run` finds them.

        Args:
            accounts: Whose tokens.
            tokens: Where logins leave them.
            given: Those of the settings, used while none is stored.
            clock: Tells when a token has ended.
            users: Whose token each account's must be; a name in the settings may have moved on to
                another user after a login, whose token would trade on the wrong account.
        """
        self._accounts = tuple(accounts)
        self._tokens = tokens
        self._given = dict(given)
        self._clock = clock
        self._users = dict(users or {})
        self._stored: dict[Account, str] = {}
        self._in_use: dict[Account, str] = {}
        self._faults: dict[Account, str] = {}
        self._news = Bell()

    def value(self, account: Account) -> str:
        """Return what the account sends with now, empty when it has to log in."""
        return self._in_use.get(account, "")

    def stored(self, account: Account) -> str:
        """Return what a login has left, empty when there is nothing good."""
        return self._stored.get(account, "")

    def news(self) -> asyncio.Event:
        """Return what is set when a token changes; take it before looking."""
        return self._news.listen()

    async def look(self, changed: Callable[[Account], None]) -> None:
        """Look once at every account's token; tell of each that is another than before, or gone."""
        for account in self._accounts:
            try:
                token = await self._tokens.get(account)
            except ConfigurationError as error:
                self._say_fault(account, str(error))
                continue
            owner = self._users.get(account)
            if token is not None and owner not in {None, token.user_id}:
                self._say_fault(account, f"it is of user_id={token.user_id}, not of {owner}")
                token = None
            else:
                self._faults.pop(account, None)
            self._stored[account] = token.value if token is not None else ""
            value = self._stored[account] or self._given_value(account)
            if value != self._in_use.get(account, ""):
                self._in_use[account] = value
                log.info("token_changed" if value else "token_ended", account=account)
                changed(account)
                self._news.ring()

    async def run(self, changed: Callable[[Account], None]) -> None:
        """Look until cancelled."""
        while True:
            await self.look(changed)
            await asyncio.sleep(LOOK_S)

    def _given_value(self, account: Account) -> str:
        given = self._given.get(account)
        return "" if given is None or given.is_expired(self._clock.now_ns()) else given.value

    def _say_fault(self, account: Account, fault: str) -> None:
        # A file that cannot be read is so for hours; once says it.
        if self._faults.get(account) != fault:
            self._faults[account] = fault
            log.warning("token_not_read", account=account, error=fault)


class WatchedLogins:
    """The logins of the accounts that may carry the feed. Port ``AccessTokenSource``."""

    def __init__(
        self, watch: TokenWatch, accounts: Sequence[FeedAccountConfig], *, given: FeedLogin
    ) -> None:
        """Take whose logins may be used.

        Args:
            watch: The tokens in use.
            accounts: Who may carry the feed, in order.
            given: The feed's own token of the settings, empty for none: it follows what a login of
                an account of the same app has left, and comes before all others.
        """
        self._watch = watch
        self._accounts = tuple(accounts)
        owners = (each.account for each in self._accounts if each.api_key == given.api_key)
        self._given = replace(given, account=next(owners, ""))

    def candidates(self) -> tuple[FeedLogin, ...]:
        """Return the logins there are now, the one to try first at the front."""
        found = [] if self._given.account else [self._given]
        for each in self._accounts:
            account = Account(each.account)
            found.append(_login(each, self._watch.stored(account)))
            if each.account == self._given.account:
                found.append(self._given)
            found.append(_login(each, self._watch.value(account)))
        first: dict[str, FeedLogin] = {}
        for login in found:
            if login.access_token:
                first.setdefault(login.access_token, login)
        return tuple(first.values())

    async def other_than(self, refused: Container[str]) -> FeedLogin:
        """Return a login whose token is not among those refused, once there is one."""
        while True:
            news = self._watch.news()
            for login in self.candidates():
                if login.access_token not in refused:
                    return login
            await news.wait()


class FixedToken:
    """One token and never another. Port ``AccessTokenSource``."""

    def __init__(self, value: str) -> None:
        self._login = FeedLogin(access_token=value)

    def candidates(self) -> tuple[FeedLogin, ...]:
        """Return the token, if it is one."""
        return (self._login,) if self._login.access_token else ()

    async def other_than(self, refused: Container[str]) -> FeedLogin:
        """Return the token, never if it was refused."""
        token = self._login.access_token
        if not token or token in refused:
            await asyncio.Event().wait()
        return self._login


def _login(account: FeedAccountConfig, token: str) -> FeedLogin:
    return FeedLogin(access_token=token, account=account.account, api_key=account.api_key)
