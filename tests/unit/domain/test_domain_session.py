"""Trading time: India's clock, and the end of an access token."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.domain.session import IST


def utc_ns(*moment: int) -> int:
    return int(dt.datetime(*moment, tzinfo=dt.UTC).timestamp()) * NS_PER_S


def ist_ns(*moment: int) -> int:
    return session.instant_ns(dt.datetime(*moment, tzinfo=IST))


def test_the_date_in_india_is_a_day_ahead_of_utc_in_the_evening() -> None:
    assert session.ist_date(utc_ns(2026, 11, 20, 18, 30)) == dt.date(2026, 11, 21)


def test_the_date_in_india_is_that_of_utc_just_before() -> None:
    assert session.ist_date(utc_ns(2026, 11, 20, 18, 30) - 1) == dt.date(2026, 11, 20)


@given(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(IST)))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_an_instant_is_exact_to_the_microsecond(moment: dt.datetime) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert epoch + dt.timedelta(microseconds=session.instant_ns(moment) / 1_000) == moment


@given(st.integers(0, 4_000_000_000))
def test_whole_seconds_survive_the_way_to_india_and_back(seconds: int) -> None:
    at_ns = seconds * NS_PER_S
    assert session.instant_ns(session.from_instant_ns(at_ns)) == at_ns


def test_a_naive_datetime_is_refused_because_it_names_no_instant() -> None:
    with pytest.raises(ValueError, match="naive"):
        session.instant_ns(dt.datetime(2026, 11, 20, 11, 0))  # noqa: DTZ001 - the subject


@pytest.mark.parametrize(
    ("issued", "ends"),
    [
        ((2026, 11, 20, 8, 0), (2026, 11, 21, 6, 0)),
        ((2026, 11, 20, 23, 59), (2026, 11, 21, 6, 0)),
        ((2026, 11, 21, 0, 1), (2026, 11, 21, 6, 0)),
        ((2026, 11, 21, 5, 59), (2026, 11, 21, 6, 0)),
        ((2026, 11, 21, 6, 0), (2026, 11, 22, 6, 0)),
        ((2026, 12, 31, 12, 0), (2027, 1, 1, 6, 0)),
    ],
)
def test_a_token_ends_at_the_next_six_in_the_morning_of_india(
    issued: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    assert session.token_expires_ns(ist_ns(*issued)) == ist_ns(*ends)


@given(st.integers(0, 4_000_000_000 * NS_PER_S))
def test_a_token_always_ends_later_and_within_a_day(issued_ns: int) -> None:
    left_ns = session.token_expires_ns(issued_ns) - issued_ns
    assert 0 < left_ns <= 86_400 * NS_PER_S
