"""Users' access tokens: HS256 JWTs that we mint and that only we accept.

A token is self-contained (RFC 9068's ``at+jwt``), so the verifier decides from the token, the
secret and the time alone. The header may say ``alg`` and ``typ`` and nothing else: every attack
that brings its own key, algorithm or extension (``jwk``, ``jku``, ``kid``, ``crit``, ``zip``) needs
one more word there. PyJWT checks the signature, issuer and audience; time is checked here,
because it is an argument.

Pure but for the random token id. Source: reliability.md §5.3.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

import jwt

from ticker_service.constants import NS_PER_S, SECONDS_PER_DAY
from ticker_service.errors import ConfigurationError, TickerServiceError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

ALGORITHM: Final = "HS256"
TYPE: Final = "at+jwt"
ISSUER: Final = "ticker-service"
AUDIENCE: Final = "ticker-service"
SECRET_BYTES_MIN: Final = 32
TOKEN_CHARACTERS_MAX: Final = 4_096
LEEWAY_S_MAX: Final = 30
LIFETIME_S_DEFAULT: Final = SECONDS_PER_DAY
"""A token ends a day after its issue at the latest: a bot logs in as often as its account does."""

CLAIMS_REQUIRED: Final = ("iss", "aud", "exp", "iat", "sub", "jti", "scope", "accounts")
ALL_ACCOUNTS: Final = "all"

# These words go into logs, channels and SQL parameters; control characters have no business there.
_SUBJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,127}")
_SCOPE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}(:[a-z][a-z0-9_]{0,31})?")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class Scope(StrEnum):
    """What a token may be good for."""

    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"
    PORTFOLIO_READ = "portfolio:read"
    MARKET_READ = "market:read"
    DESK = "desk"
    """To look at what may need a person, whoever asked for it, and to decide about it."""
    ADMIN = "admin"


class TokenFault(StrEnum):
    """Why a token was refused; stable words for programs."""

    INVALID = "TOKEN_INVALID"
    EXPIRED = "TOKEN_EXPIRED"
    NOT_YET_VALID = "TOKEN_NOT_YET_VALID"
    REVOKED = "TOKEN_REVOKED"


class TokenRefused(TickerServiceError):  # noqa: N818 - the answer the caller gets
    """The token does not open the door; the message never holds any of it.

    Attributes:
        code: One of :class:`TokenFault`.
    """

    def __init__(self, code: TokenFault, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whom a token speaks for, what it may do and where, and until when."""

    subject: str
    scopes: frozenset[str]
    accounts: frozenset[str] | Literal["all"]
    expires_at_ns: int
    jti: str

    def may(self, scope: str) -> bool:
        """Return whether the token carries a scope."""
        return scope in self.scopes

    def may_use(self, account: str) -> bool:
        """Return whether the token is good for an account."""
        return self.accounts == ALL_ACCOUNTS or account in self.accounts


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What issuer and verifier agree on.

    ``lifetime_s_max`` bounds both what is minted and what is accepted: whatever ``exp`` says, a
    token ends that long after its ``iat``.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    issuer: str = ISSUER
    audience: str = AUDIENCE
    lifetime_s_max: int = LIFETIME_S_DEFAULT
    leeway_s: int = 5

    def __post_init__(self) -> None:
        """Check what would make every token good or none."""
        if not 0 <= self.leeway_s <= LEEWAY_S_MAX:
            raise ConfigurationError(
                f"Condition failed: leeway_s={self.leeway_s} must be 0 to {LEEWAY_S_MAX}"
            )
        if self.lifetime_s_max <= 0:
            raise ConfigurationError(
                f"Condition failed: lifetime_s_max={self.lifetime_s_max} must be positive"
            )
        if not self.issuer or not self.audience:
            raise ConfigurationError("Condition failed: issuer and audience must not be empty")


_RULES: Final = TokenRules()


class TokenIssuer:
    """Makes tokens; holds the secret."""

    def __init__(self, secret: bytes, rules: TokenRules = _RULES) -> None:
        self._secret = _checked_secret(secret)
        self._rules = rules

    def mint(
        self,
        subject: str,
        *,
        scopes: Iterable[str],
        accounts: Iterable[str] | Literal["all"],
        lifetime_s: int,
        now_ns: int,
    ) -> str:
        """Return a new token.

        Args:
            subject: Whom it speaks for; idempotency keys are unique per subject.
            scopes: What it may do, such as ``orders:write``.
            accounts: Accounts it may use, or ``"all"``.
            lifetime_s: Seconds until it ends, at most the rules' ``lifetime_s_max``.
            now_ns: Wall time, ns since the Unix epoch.

        Raises:
            ConfigurationError: An argument is not fit for a token.
        """
        if not 0 < lifetime_s <= self._rules.lifetime_s_max:
            raise ConfigurationError(
                f"Condition failed: lifetime_s={lifetime_s} must be 1 to "
                f"{self._rules.lifetime_s_max}"
            )
        # Text is a sequence of letters too, and a scope with a space in it would be read as two.
        if isinstance(scopes, str) or (isinstance(accounts, str) and accounts != ALL_ACCOUNTS):
            raise ConfigurationError("Condition failed: scopes and accounts are lists of words")
        scope = sorted(set(scopes))
        if not all(_SCOPE.fullmatch(word) for word in scope):
            raise ConfigurationError(f"Condition failed: scopes={scope} holds what is no scope")
        names = ALL_ACCOUNTS if accounts == ALL_ACCOUNTS else sorted(set(accounts))
        now_s = now_ns // NS_PER_S
        claims = {
            "iss": self._rules.issuer,
            "aud": self._rules.audience,
            "sub": subject,
            "iat": now_s,
            "exp": now_s + lifetime_s,
            "jti": secrets.token_urlsafe(16),
            "scope": " ".join(scope),
            "accounts": names,
        }
        try:
            _principal(claims, expires_s=now_s + lifetime_s)
        except TokenRefused as error:
            raise ConfigurationError(f"Condition failed: {error}") from None
        token = jwt.encode(claims, self._secret, ALGORITHM, headers={"typ": TYPE})
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise ConfigurationError(
                f"Condition failed: the token has {len(token)} characters, "
                f"limit {TOKEN_CHARACTERS_MAX}; name fewer accounts"
            )
        return token


class TokenVerifier:
    """Decides whether a token is ours and still good.

    ``revoked`` holds the ids (``jti``) of tokens that are to be refused before their end. It is
    looked at on every verification, so its owner may add to it; an id can be dropped from it once
    ``lifetime_s_max`` has passed since it was added.
    """

    def __init__(
        self,
        secret: bytes,
        rules: TokenRules = _RULES,
        *,
        revoked: Container[str] = frozenset(),
    ) -> None:
        self._secret = _checked_secret(secret)
        self._rules = rules
        self._revoked = revoked
        self._jwt = jwt.PyJWT(
            {
                "require": list(CLAIMS_REQUIRED),
                "verify_exp": False,  # time is an argument here: see _end_of
                "verify_iat": False,
                "verify_nbf": False,
                "strict_aud": True,
                "enforce_minimum_key_length": True,
            }
        )

    def verify(self, token: str, now_ns: int) -> Principal:
        """Return whom a token speaks for.

        Args:
            token: What the caller sent, untrusted.
            now_ns: Wall time, ns since the Unix epoch.

        Raises:
            TokenRefused: It is not ours, malformed, or not good at this time.
        """
        claims = self._authentic_claims(token)
        principal = _principal(claims, expires_s=self._end_of(claims, now_ns // NS_PER_S))
        if principal.jti in self._revoked:
            raise TokenRefused(TokenFault.REVOKED, "it was revoked")
        return principal

    def _authentic_claims(self, token: str) -> Mapping[str, object]:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise TokenRefused(TokenFault.INVALID, f"longer than {TOKEN_CHARACTERS_MAX} characters")
        # Nested JSON as deep as the token is long overflows the parser before any signature is
        # checked, hence RecursionError. ``from None``: the cause may quote the token.
        try:
            header = jwt.get_unverified_header(token)
            if header != {"alg": ALGORITHM, "typ": TYPE}:
                raise TokenRefused(
                    TokenFault.INVALID, f"the header must be alg {ALGORITHM} and typ {TYPE} alone"
                )
            return self._jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
            )
        except jwt.MissingRequiredClaimError as error:
            raise TokenRefused(TokenFault.INVALID, f"claim {error.claim} is missing") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise TokenRefused(TokenFault.INVALID, _plain(error)) from None

    def _end_of(self, claims: Mapping[str, object], now_s: int) -> int:
        leeway_s = self._rules.leeway_s
        issued_s, expires_s = _whole(claims, "iat"), _whole(claims, "exp")
        not_before_s = _whole(claims, "nbf") if "nbf" in claims else issued_s
        if expires_s <= issued_s:
            raise TokenRefused(TokenFault.INVALID, "exp is not after iat")
        if max(issued_s, not_before_s) > now_s + leeway_s:
            raise TokenRefused(TokenFault.NOT_YET_VALID, "its time has not come")
        end_s = min(expires_s, issued_s + self._rules.lifetime_s_max)
        if end_s + leeway_s <= now_s:
            raise TokenRefused(TokenFault.EXPIRED, f"ended {now_s - end_s} s ago")
        return end_s


def _checked_secret(secret: bytes) -> bytes:
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigurationError(
            f"Condition failed: the token secret has {len(secret)} bytes, "
            f"it needs at least {SECRET_BYTES_MIN} random ones"
        )
    return secret


def _principal(claims: Mapping[str, object], *, expires_s: int) -> Principal:
    scope = claims["scope"]
    if not isinstance(scope, str):
        raise TokenRefused(TokenFault.INVALID, "claim scope is not text")
    scopes = frozenset(scope.split(" ")) if scope else frozenset()
    if not all(_SCOPE.fullmatch(word) for word in scopes):
        raise TokenRefused(TokenFault.INVALID, "claim scope holds what is no scope")
    return Principal(
        subject=_word(claims, "sub", _SUBJECT),
        scopes=scopes,
        accounts=_accounts(claims["accounts"]),
        expires_at_ns=expires_s * NS_PER_S,
        jti=_word(claims, "jti", _TOKEN_ID),
    )


def _accounts(claim: object) -> frozenset[str] | Literal["all"]:
    if claim == ALL_ACCOUNTS:
        return "all"
    if not isinstance(claim, list):
        raise TokenRefused(TokenFault.INVALID, "claim accounts is neither a list nor all")
    names = [name for name in claim if isinstance(name, str) and _ACCOUNT.fullmatch(name)]
    if len(names) != len(claim):
        raise TokenRefused(TokenFault.INVALID, "claim accounts holds what is no account")
    return frozenset(names)


def _word(claims: Mapping[str, object], name: str, shape: re.Pattern[str]) -> str:
    value = claims[name]
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise TokenRefused(TokenFault.INVALID, f"claim {name} has characters that cannot be in it")
    return value


def _whole(claims: Mapping[str, object], name: str) -> int:
    value = claims[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TokenRefused(TokenFault.INVALID, f"claim {name} is no whole number of seconds")
    return value


def _plain(error: Exception) -> str:
    # Only what we know to be fixed text: some of PyJWT's messages quote the header.
    if isinstance(error, jwt.InvalidSignatureError):
        return "the signature is not ours"
    if isinstance(error, jwt.InvalidAudienceError):
        return "claim aud is not us"
    if isinstance(error, jwt.InvalidIssuerError):
        return "claim iss is not us"
    return "malformed"
