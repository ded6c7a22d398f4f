"""An account's access token: kept sealed, handed out while it is good, wiped when it is not.

Kite ends every token at 06:00 IST, so a token's age is known without asking. Where the bytes rest
is behind ``TokenVault``, three calls that a file (``adapters.token_file``) or a secrets manager can
answer.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ticker_service.domain.order import Account
from ticker_service.domain.session import token_expires_ns
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from ticker_service.runtime.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What a login gave: the token, whose it is, and when it was issued (ns since the epoch)."""

    account: Account
    user_id: str
    value: str = field(repr=False)
    issued_at_ns: int

    @property
    def expires_at_ns(self) -> int:
        """When the broker ends it: the next 06:00 IST after its issue."""
        return token_expires_ns(self.issued_at_ns)

    def is_expired(self, now_ns: int) -> bool:
        """Return whether it has ended at ``now_ns``."""
        return now_ns >= self.expires_at_ns


Mark = tuple[int, ...] | None
"""Tells one secret of a vault from the next without opening it."""


class TokenVault(Protocol):
    """Where an account's secret bytes rest between runs; nothing but the bytes is promised secret.

    Every call raises ``ConfigurationError`` when the vault cannot be trusted or used; the message
    says what to do and never holds a secret.
    """

    async def mark(self, account: Account) -> Mark:
        """Return what is another whenever another secret is kept, None when none is; cheap."""
        ...

    async def load(self, account: Account) -> bytes | None:
        """Return what was saved for an account, None if nothing is."""
        ...

    async def save(self, account: Account, secret: bytes) -> None:
        """Replace what is kept for an account; durable when this returns."""
        ...

    async def remove(self, account: Account) -> None:
        """Keep nothing for an account; no error if nothing was."""
        ...


class AccessTokens(Protocol):
    """The access tokens of the configured accounts."""

    async def get(self, account: Account) -> AccessToken | None:
        """Return an account's token while it is good; None means: log in."""
        ...

    async def put(self, token: AccessToken) -> None:
        """Keep a new token in the place of the account's former one."""
        ...

    async def forget(self, account: Account, *, refused: str | None = None) -> None:
        """Wipe an account's token, or only the one the broker refused.

        Args:
            account: Whose.
            refused: The value the broker refused. A newer token, put in its place while the
                refusal was on its way, stays.
        """
        ...


class MemoryTokens:
    """Tokens that end with the process. Port ``AccessTokens``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: dict[Account, AccessToken] = {}

    async def get(self, account: Account) -> AccessToken | None:
        """Return an account's token while it is good."""
        token = self._tokens.get(account)
        if token is not None and token.is_expired(self._clock.now_ns()):
            del self._tokens[account]
            return None
        return token

    async def put(self, token: AccessToken) -> None:
        """Keep a new token in the place of the account's former one."""
        self._tokens[token.account] = token

    async def forget(self, account: Account, *, refused: str | None = None) -> None:
        """Wipe an account's token, or only the one the broker refused."""
        token = self._tokens.get(account)
        if token is not None and refused in {None, token.value}:
            del self._tokens[account]


class VaultTokens:
    """Tokens that outlive the process in a vault. Port ``AccessTokens``.

    Another process may put a new one there at any time, so the vault's mark is looked at whenever a
    token is asked for; what it keeps is opened once for each mark, because that takes long.
    """

    def __init__(self, vault: TokenVault, clock: Clock) -> None:
        self._vault = vault
        self._clock = clock
        self._known: dict[Account, _Opened] = {}
        self._lock = asyncio.Lock()

    async def get(self, account: Account) -> AccessToken | None:
        """Return an account's token while it is good; an expired one is wiped from the vault."""
        async with self._lock:
            token = await self._read(account)
            if token is not None and token.is_expired(self._clock.now_ns()):
                await self._wipe(account)
                return None
            return token

    async def put(self, token: AccessToken) -> None:
        """Keep a new token; durable when this returns."""
        async with self._lock:
            await self._vault.save(token.account, _to_bytes(token))

    async def forget(self, account: Account, *, refused: str | None = None) -> None:
        """Wipe an account's token, or only the one the broker refused."""
        async with self._lock:
            if refused is not None:
                token = await self._read(account)
                if token is None or token.value != refused:
                    return
            await self._wipe(account)

    async def _read(self, account: Account) -> AccessToken | None:
        # The mark comes first: what is put there afterwards is opened at the next look.
        mark = await self._vault.mark(account)
        known = self._known.get(account)
        if known is None or known.mark != mark:
            known = self._known[account] = await self._opened(account, mark)
        if known.fault:
            raise ConfigurationError(known.fault)
        return known.token

    async def _opened(self, account: Account, mark: Mark) -> _Opened:
        if mark is None:
            return _Opened(mark=None)
        try:
            secret = await self._vault.load(account)
            token = None if secret is None else _from_bytes(account, secret)
        except ConfigurationError as fault:
            return _Opened(mark=mark, fault=str(fault))
        return _Opened(mark=mark, token=token)

    async def _wipe(self, account: Account) -> None:
        # A login may have put a new one there since we looked; that one must stay.
        known = self._known.get(account)
        if known is None or known.mark == await self._vault.mark(account):
            await self._vault.remove(account)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What a vault kept under a mark: a token, nothing, or what cannot be used."""

    mark: Mark
    token: AccessToken | None = None
    fault: str = ""


def _to_bytes(token: AccessToken) -> bytes:
    return json.dumps(
        {
            "account": token.account,
            "user_id": token.user_id,
            "access_token": token.value,
            "issued_at_ns": token.issued_at_ns,
        }
    ).encode()


def _from_bytes(account: Account, secret: bytes) -> AccessToken:
    # ``from None`` throughout: a parser's message may quote the secret.
    try:
        entry = json.loads(secret)
        token = AccessToken(
            account=Account(str(entry["account"])),
            user_id=str(entry["user_id"]),
            value=str(entry["access_token"]),
            issued_at_ns=int(entry["issued_at_ns"]),
        )
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"Condition failed: what the vault keeps for account={account} is no access token; "
            "remove it and log in again"
        ) from None
    if token.account != account:
        raise ConfigurationError(
            f"Condition failed: the vault's entry for account={account} is another account's"
        )
    return token
