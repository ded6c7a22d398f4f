from __future__ import annotations

from typing import Any

import jwt
import pytest

from app.security.tokens import Scope, TokenIssuer, TokenRules, TokenVerifier
from ticker_service.constants import NS_PER_S
from ticker_service.errors import ConfigurationError

SECRET = b"a planted secret of the tests, 32 bytes or more"
NOW_NS = 1_800_000_000 * NS_PER_S + 123_456_789
GOOD: dict[str, Any] = {
    "scopes": [Scope.ORDERS_WRITE, Scope.ORDERS_READ],
    "accounts": ["main", "spare"],
    "lifetime_s": 600,
    "now_ns": NOW_NS,
}
ISSUER = TokenIssuer(SECRET)
VERIFIER = TokenVerifier(SECRET)


def test_what_is_minted_is_what_is_read() -> None:
    principal = VERIFIER.verify(ISSUER.mint("alice", **GOOD), NOW_NS)
    assert principal.subject == "alice"
    assert principal.scopes == {"orders:read", "orders:write"}
    assert principal.accounts == {"main", "spare"}
    assert principal.expires_at_ns == (1_800_000_000 + 600) * NS_PER_S


def test_a_token_for_all_accounts_is_good_for_any() -> None:
    principal = VERIFIER.verify(ISSUER.mint("alice", **{**GOOD, "accounts": "all"}), NOW_NS)
    assert principal.accounts == "all"
    assert principal.may_use("whatever")


def test_a_token_is_good_for_its_accounts_and_scopes_only() -> None:
    principal = VERIFIER.verify(ISSUER.mint("alice", **GOOD), NOW_NS)
    assert principal.may_use("main")
    assert not principal.may_use("all")
    assert principal.may("orders:write")
    assert not principal.may(Scope.ADMIN)


def test_a_token_without_scopes_or_accounts_may_nothing() -> None:
    token = ISSUER.mint("alice", **{**GOOD, "scopes": [], "accounts": []})
    principal = VERIFIER.verify(token, NOW_NS)
    assert not principal.scopes
    assert not principal.may_use("")


def test_an_account_called_all_is_one_account() -> None:
    principal = VERIFIER.verify(ISSUER.mint("alice", **{**GOOD, "accounts": ["all"]}), NOW_NS)
    assert not principal.may_use("main")


def test_every_token_has_an_id_of_its_own() -> None:
    ids = {VERIFIER.verify(ISSUER.mint("alice", **GOOD), NOW_NS).jti for _ in range(100)}
    assert len(ids) == 100


def test_the_header_names_type_and_algorithm_alone() -> None:
    header = jwt.get_unverified_header(ISSUER.mint("alice", **GOOD))
    assert header == {"alg": "HS256", "typ": "at+jwt"}


@pytest.mark.parametrize(
    "changed",
    [
        {"lifetime_s": 0},
        {"lifetime_s": 86_401},
        {"scopes": ["orders:write admin"]},
        {"scopes": ["Orders"]},
        {"scopes": "admin"},
        {"accounts": [""]},
        {"accounts": ["a b"]},
        {"accounts": [f"account-{number:050}" for number in range(100)]},
        {"accounts": "main"},
    ],
)
def test_what_no_verifier_would_accept_is_not_minted(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ISSUER.mint("alice", **{**GOOD, **changed})


@pytest.mark.parametrize("subject", ["", "a b", "a\nb", "ä", "-x", "x" * 129])
def test_a_subject_is_a_plain_word(subject: str) -> None:
    with pytest.raises(ConfigurationError, match="sub"):
        ISSUER.mint(subject, **GOOD)


@pytest.mark.parametrize("numbers", [{"leeway_s": -1}, {"lifetime_s_max": 0}, {"issuer": ""}])
def test_rules_that_let_everything_or_nothing_through_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TokenRules(**numbers)
