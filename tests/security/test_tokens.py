from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from app.security.tokens import (
    LEEWAY_S_MAX,
    TOKEN_CHARACTERS_MAX,
    TokenFault,
    TokenIssuer,
    TokenRefused,
    TokenRules,
    TokenVerifier,
)
from ticker_service.constants import NS_PER_S
from ticker_service.errors import ConfigurationError

SECRET = b"a planted secret of the tests, 32 bytes or more"
OTHER_SECRET = b"another planted secret, also of 32 bytes or more"
NOW_S = 1_800_000_000
NOW_NS = NOW_S * NS_PER_S
RULES = TokenRules(lifetime_s_max=3_600, leeway_s=5)
VERIFIER = TokenVerifier(SECRET, RULES)
GOOD_HEADER = {"alg": "HS256", "typ": "at+jwt"}
GOOD_CLAIMS: dict[str, Any] = {
    "iss": "ticker-service",
    "aud": "ticker-service",
    "sub": "alice",
    "iat": NOW_S,
    "exp": NOW_S + 600,
    "jti": "one",
    "scope": "orders:read orders:write",
    "accounts": ["main"],
}


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(header: object = GOOD_HEADER, claims: object = GOOD_CLAIMS, key: bytes = SECRET) -> str:
    """A token with any header and claims, correctly signed by HMAC-SHA256 whatever they say."""
    body = f"{part(header)}.{part(claims)}"
    return f"{body}.{part(hmac.new(key, body.encode(), hashlib.sha256).digest())}"


def claims_with(**changed: object) -> dict[str, Any]:
    return {**GOOD_CLAIMS, **changed}


def fault_of(token: str, now_ns: int = NOW_NS) -> TokenFault:
    with pytest.raises(TokenRefused) as raised:
        VERIFIER.verify(token, now_ns)
    assert len(token) < 8 or token not in str(raised.value)
    assert raised.value.__cause__ is None
    return raised.value.code


def test_the_control_is_accepted_so_that_each_attack_below_fails_for_its_own_reason() -> None:
    assert VERIFIER.verify(signed(), NOW_NS).subject == "alice"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(algorithm: str) -> None:
    header = {**GOOD_HEADER, "alg": algorithm}
    assert fault_of(f"{part(header)}.{part(GOOD_CLAIMS)}.") is TokenFault.INVALID
    assert fault_of(signed(header)) is TokenFault.INVALID


def test_a_token_without_its_signature_is_refused() -> None:
    assert fault_of(signed().rpartition(".")[0] + ".") is TokenFault.INVALID


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "PS256", "EdDSA", "HS384", "HS512"])
def test_the_header_does_not_choose_the_algorithm(algorithm: str) -> None:
    assert fault_of(signed({**GOOD_HEADER, "alg": algorithm})) is TokenFault.INVALID


def test_a_token_really_signed_with_hs512_and_our_secret_is_refused() -> None:
    token = jwt.encode(GOOD_CLAIMS, SECRET + SECRET, "HS512", headers={"typ": "at+jwt"})
    assert fault_of(token) is TokenFault.INVALID


@pytest.mark.parametrize("family", ["rsa", "ec"])
def test_a_public_key_used_as_the_hmac_secret_opens_nothing(family: str) -> None:
    private = (
        rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        if family == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert fault_of(signed(key=public)) is TokenFault.INVALID


@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": {"kty": "oct", "k": part(OTHER_SECRET)}},
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/chain"},
        {"x5c": ["MIIB"]},
        {"kid": "../../../../dev/null"},
        {"kid": "' UNION SELECT 'x"},
        {"kid": ""},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ],
)
def test_a_header_that_says_more_than_algorithm_and_type_is_refused(extra: dict[str, Any]) -> None:
    assert fault_of(signed({**GOOD_HEADER, **extra})) is TokenFault.INVALID
    assert fault_of(signed({**GOOD_HEADER, **extra}, key=OTHER_SECRET)) is TokenFault.INVALID


def test_a_key_brought_along_does_not_sign() -> None:
    header = {**GOOD_HEADER, "jwk": {"kty": "oct", "k": part(OTHER_SECRET)}}
    assert fault_of(signed(header, key=OTHER_SECRET)) is TokenFault.INVALID


@pytest.mark.parametrize("kind", ["JWT", "jwt", "AT+JWT", "application/at+jwt", "", None, 1])
def test_a_token_of_another_type_is_refused(kind: object) -> None:
    assert fault_of(signed({**GOOD_HEADER, "typ": kind})) is TokenFault.INVALID


def test_a_token_without_a_type_is_refused() -> None:
    assert fault_of(signed({"alg": "HS256"})) is TokenFault.INVALID


@pytest.mark.parametrize("audience", ["other", "ticker", "ticker-service ", ["ticker-service"], 1])
def test_a_token_for_another_audience_is_refused(audience: object) -> None:
    assert fault_of(signed(claims=claims_with(aud=audience))) is TokenFault.INVALID


@pytest.mark.parametrize("issuer", ["other", "ticker", "ticker-service/", "", ["ticker-service"]])
def test_a_token_of_another_issuer_is_refused(issuer: object) -> None:
    assert fault_of(signed(claims=claims_with(iss=issuer))) is TokenFault.INVALID


@pytest.mark.parametrize("name", sorted(GOOD_CLAIMS))
def test_a_token_that_lacks_a_claim_is_refused_and_told_which(name: str) -> None:
    claims = {key: value for key, value in GOOD_CLAIMS.items() if key != name}
    with pytest.raises(TokenRefused, match=f"claim {name} is missing") as raised:
        VERIFIER.verify(signed(claims=claims), NOW_NS)
    assert raised.value.code is TokenFault.INVALID


@pytest.mark.parametrize("name", sorted(GOOD_CLAIMS))
@pytest.mark.parametrize("value", [None, {}, 1.5, float("nan"), True, {"a": 1}, [1], "\r\n"])
def test_a_claim_of_another_kind_is_refused(name: str, value: object) -> None:
    assert fault_of(signed(claims=claims_with(**{name: value}))) is TokenFault.INVALID


def test_a_token_that_has_ended_is_refused_by_its_own_code() -> None:
    assert fault_of(signed(), (NOW_S + 605) * NS_PER_S) is TokenFault.EXPIRED


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    assert VERIFIER.verify(signed(), (NOW_S + 604) * NS_PER_S)
    assert VERIFIER.verify(signed(), (NOW_S - 5) * NS_PER_S)
    assert fault_of(signed(), (NOW_S - 6) * NS_PER_S) is TokenFault.NOT_YET_VALID


def test_a_token_issued_in_the_future_is_refused() -> None:
    claims = claims_with(iat=NOW_S + 60, exp=NOW_S + 600)
    assert fault_of(signed(claims=claims)) is TokenFault.NOT_YET_VALID


def test_a_token_before_its_time_is_refused() -> None:
    assert fault_of(signed(claims=claims_with(nbf=NOW_S + 60))) is TokenFault.NOT_YET_VALID
    assert VERIFIER.verify(signed(claims=claims_with(nbf=NOW_S - 60)), NOW_NS)
    assert fault_of(signed(claims=claims_with(nbf="soon"))) is TokenFault.INVALID


def test_a_token_that_ends_before_it_begins_is_refused() -> None:
    assert fault_of(signed(claims=claims_with(exp=NOW_S))) is TokenFault.INVALID


@pytest.mark.parametrize("end_s", [NOW_S + 10**9, 10**40])
def test_a_far_end_does_not_outlive_the_longest_lifetime(end_s: int) -> None:
    token = signed(claims=claims_with(exp=end_s))
    assert VERIFIER.verify(token, NOW_NS).expires_at_ns == (NOW_S + 3_600) * NS_PER_S
    assert fault_of(token, (NOW_S + 3_605) * NS_PER_S) is TokenFault.EXPIRED


def test_a_changed_claim_header_or_signature_is_refused() -> None:
    header, claims, signature = signed().split(".")
    richer = part(claims_with(accounts="all"))
    assert fault_of(f"{header}.{richer}.{signature}") is TokenFault.INVALID
    assert fault_of(f"{part({**GOOD_HEADER, 'x': 1})}.{claims}.{signature}") is TokenFault.INVALID
    assert fault_of(f"{header}.{claims}.{signature[::-1]}") is TokenFault.INVALID
    assert fault_of(f"{header}.{claims}.{signature[:-4]}") is TokenFault.INVALID


def test_a_token_signed_with_another_secret_is_refused() -> None:
    assert fault_of(signed(key=OTHER_SECRET)) is TokenFault.INVALID


def test_a_huge_token_is_refused_without_being_read() -> None:
    token = signed(claims=claims_with(accounts=[f"a{n}" for n in range(2_000)]))
    assert len(token) > TOKEN_CHARACTERS_MAX
    assert fault_of(token) is TokenFault.INVALID
    assert fault_of("x" * 50_000_000) is TokenFault.INVALID


def test_deep_nesting_is_refused_and_does_not_overflow() -> None:
    deep = part(b"[" * 2_900)
    assert len(deep) < TOKEN_CHARACTERS_MAX
    assert fault_of(f"{deep}.e30.x") is TokenFault.INVALID
    assert fault_of(signed(claims=b"[" * 2_000)) is TokenFault.INVALID


@pytest.mark.parametrize("claims", [[], "text", 1, None, b"", b"\xff", b'{"sub":'])
def test_claims_that_are_no_object_are_refused(claims: object) -> None:
    assert fault_of(signed(claims=claims)) is TokenFault.INVALID


def test_a_revoked_token_is_refused_from_then_on_and_others_are_not() -> None:
    revoked: set[str] = set()
    verifier = TokenVerifier(SECRET, RULES, revoked=revoked)
    assert verifier.verify(signed(), NOW_NS)
    revoked.add("one")
    with pytest.raises(TokenRefused) as raised:
        verifier.verify(signed(), NOW_NS)
    assert raised.value.code is TokenFault.REVOKED
    assert verifier.verify(signed(claims=claims_with(jti="two")), NOW_NS)


@given(st.text(max_size=300))
def test_any_text_is_refused_by_the_one_error(text: str) -> None:
    fault_of(text)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60).map(part),
            st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8)).map(part),
            st.just(part(GOOD_HEADER)),
        ),
        min_size=2,
        max_size=5,
    )
)
def test_any_parts_are_refused_by_the_one_error(parts: list[str]) -> None:
    fault_of(".".join(parts))


@given(st.dictionaries(st.sampled_from(sorted(GOOD_CLAIMS)), st.integers() | st.text(max_size=9)))
def test_signed_claims_of_any_value_are_understood_or_refused_by_the_one_error(
    changed: dict[str, object],
) -> None:
    try:
        VERIFIER.verify(signed(claims=claims_with(**changed)), NOW_NS)
    except TokenRefused:
        return


@pytest.mark.parametrize("make", [TokenIssuer, TokenVerifier])
@pytest.mark.parametrize("length", [0, 31])
def test_a_short_secret_is_refused_at_start_and_not_shown(make: Any, length: int) -> None:
    with pytest.raises(ConfigurationError, match="at least 32") as raised:
        make(b"s" * length)
    assert "sss" not in str(raised.value)


def test_leeway_has_a_ceiling() -> None:
    with pytest.raises(ConfigurationError, match="leeway_s=31"):
        TokenRules(leeway_s=LEEWAY_S_MAX + 1)


def test_the_secret_is_in_no_representation() -> None:
    for holder in (TokenIssuer(SECRET), VERIFIER):
        assert "planted" not in repr(holder)
