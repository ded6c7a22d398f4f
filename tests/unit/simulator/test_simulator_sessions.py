"""Logins and tokens, with a clock that is moved by hand."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING

import pytest

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.sessions import (
    REQUEST_TOKEN_LIFE_NS,
    REQUEST_TOKENS_MAX,
    Session,
    Sessions,
)

if TYPE_CHECKING:
    from ticker_service.runtime.clock import ManualClock
    from ticker_service.simulator.options import SimulatorOptions


@pytest.fixture
def sessions(options: SimulatorOptions, clock: ManualClock) -> Sessions:
    return Sessions(options, clock)


def _request_token(sessions: Sessions, options: SimulatorOptions) -> str:
    return sessions.issue_request_token(options.users[0])


def _exchange(sessions: Sessions, options: SimulatorOptions, request_token: str) -> Session:
    text = options.api_key + request_token + options.api_secret
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return sessions.exchange(
        api_key=options.api_key, request_token=request_token, checksum=checksum
    )


def _login(sessions: Sessions, options: SimulatorOptions) -> Session:
    return _exchange(sessions, options, _request_token(sessions, options))


def test_a_login_yields_a_session_of_that_user(
    sessions: Sessions, options: SimulatorOptions
) -> None:
    opened = _login(sessions, options)

    assert opened.user == options.users[0]
    assert sessions.authorised(options.api_key, opened.access_token) == opened


def test_a_request_token_works_once(sessions: Sessions, options: SimulatorOptions) -> None:
    token = _request_token(sessions, options)
    _exchange(sessions, options, token)

    with pytest.raises(KiteError, match="invalid or has expired") as refused:
        _exchange(sessions, options, token)
    assert (refused.value.status_code, refused.value.error_type) == (403, "TokenException")


def test_a_request_token_dies_after_minutes(
    sessions: Sessions, options: SimulatorOptions, clock: ManualClock
) -> None:
    token = _request_token(sessions, options)
    clock.advance(REQUEST_TOKEN_LIFE_NS)

    with pytest.raises(KiteError, match="invalid or has expired"):
        _exchange(sessions, options, token)


def test_a_wrong_checksum_is_refused_and_does_not_spend_the_token(
    sessions: Sessions, options: SimulatorOptions
) -> None:
    token = _request_token(sessions, options)

    with pytest.raises(KiteError, match="Invalid `checksum`"):
        sessions.exchange(api_key=options.api_key, request_token=token, checksum="é")
    assert _exchange(sessions, options, token)


def test_a_foreign_api_key_is_refused(sessions: Sessions, options: SimulatorOptions) -> None:
    with pytest.raises(KiteError, match="Invalid `api_key`"):
        sessions.exchange(api_key="other", request_token="x", checksum="x")
    opened = _login(sessions, options)
    with pytest.raises(KiteError, match="Incorrect"):
        sessions.authorised("other", opened.access_token)


def test_an_access_token_dies_at_six_in_the_morning_ist(
    sessions: Sessions, options: SimulatorOptions, clock: ManualClock
) -> None:
    token = _login(sessions, options).access_token
    six = dt.datetime(2026, 11, 22, 6, 0, tzinfo=session.IST)

    clock.advance(session.instant_ns(six) - NS_PER_S - clock.now_ns())
    assert sessions.is_live(token)
    clock.advance(NS_PER_S)
    assert not sessions.is_live(token)
    with pytest.raises(KiteError, match="Incorrect"):
        sessions.authorised(options.api_key, token)


def test_a_later_login_leaves_earlier_tokens_alone(
    sessions: Sessions, options: SimulatorOptions
) -> None:
    first, second = _login(sessions, options), _login(sessions, options)

    assert first.access_token != second.access_token
    assert sessions.is_live(first.access_token)


def test_logging_out_ends_that_session_only(sessions: Sessions, options: SimulatorOptions) -> None:
    first, second = _login(sessions, options), _login(sessions, options)

    sessions.close(options.api_key, first.access_token)

    assert not sessions.is_live(first.access_token)
    assert sessions.is_live(second.access_token)


def test_expiring_a_user_ends_all_of_his_sessions_and_nobody_elses(
    sessions: Sessions, options: SimulatorOptions
) -> None:
    mine = [_login(sessions, options), _login(sessions, options)]
    theirs = _exchange(sessions, options, sessions.issue_request_token(options.users[1]))

    assert sessions.expire_user(options.users[0].user_id) == 2

    assert not any(sessions.is_live(each.access_token) for each in mine)
    assert sessions.is_live(theirs.access_token)


def test_unused_request_tokens_do_not_pile_up(
    sessions: Sessions, options: SimulatorOptions
) -> None:
    oldest = _request_token(sessions, options)
    for _ in range(REQUEST_TOKENS_MAX):
        newest = _request_token(sessions, options)

    with pytest.raises(KiteError):
        _exchange(sessions, options, oldest)
    assert _exchange(sessions, options, newest)


def test_the_seed_fixes_keys_and_tokens(options: SimulatorOptions, clock: ManualClock) -> None:
    first = _login(Sessions(options, clock), options)
    second = _login(Sessions(options, clock), options)

    assert first == second
