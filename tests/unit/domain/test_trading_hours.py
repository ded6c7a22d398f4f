"""When each market trades, and what an operator may add."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain import expiry_clock, trading_hours
from ticker_service.domain.session import IST, from_instant_ns, instant_ns
from ticker_service.domain.trading_hours import TRADING_HOURS, Phase, Venue, VenueKind
from ticker_service.errors import ConfigurationError

SHARES = Venue("NSE", VenueKind.SHARE)
AUCTIONED = Venue("NSE", VenueKind.SHARE_WITH_DERIVATIVES)
FUTURES = Venue("NFO", VenueKind.SHARE_DERIVATIVE)
RUPEE = Venue("CDS", VenueKind.CURRENCY)
GOLD = Venue("MCX", VenueKind.COMMODITY)
USUAL = trading_hours.calendar()


def at(text: str) -> int:
    return instant_ns(dt.datetime.fromisoformat(text).replace(tzinfo=IST))


def told(phase: Phase) -> tuple[bool, str]:
    return phase.is_open, f"{from_instant_ns(phase.until_ns):%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("venue", "day", "opens", "closes"),
    [
        (SHARES, "2026-07-31", "09:15", "15:30"),
        (SHARES, "2026-11-20", "09:15", "15:30"),
        (AUCTIONED, "2026-07-31", "09:15", "15:30"),
        (AUCTIONED, "2026-08-03", "09:15", "15:15"),
        (AUCTIONED, "2026-12-07", "09:15", "15:30"),
        (FUTURES, "2026-07-31", "09:15", "15:30"),
        (FUTURES, "2026-11-20", "09:15", "15:40"),
        (FUTURES, "2026-12-07", "09:15", "15:45"),
        (RUPEE, "2026-11-20", "09:00", "17:00"),
        (GOLD, "2026-10-30", "09:00", "23:30"),
        (GOLD, "2026-11-20", "09:00", "23:55"),
        (GOLD, "2027-03-15", "09:00", "23:30"),
    ],
)
def test_each_market_has_its_hours_of_the_day(
    venue: Venue, day: str, opens: str, closes: str
) -> None:
    opens_ns, closes_ns = at(f"{day} {opens}"), at(f"{day} {closes}")
    assert USUAL.phase(venue, opens_ns - 1) == Phase(
        is_open=False, until_ns=opens_ns, has_ended=False
    )
    assert USUAL.phase(venue, opens_ns) == Phase(is_open=True, until_ns=closes_ns, has_ended=False)
    assert USUAL.phase(venue, closes_ns - 1).is_open
    after = USUAL.phase(venue, closes_ns)
    assert (after.is_open, after.has_ended) == (False, True)


def test_after_the_close_on_friday_the_next_session_is_on_monday() -> None:
    assert told(USUAL.phase(FUTURES, at("2026-11-20 16:00"))) == (False, "2026-11-23 09:15")


def test_a_weekend_has_no_session_that_could_have_ended() -> None:
    phase = USUAL.phase(FUTURES, at("2026-11-21 16:00"))
    assert (phase.is_open, phase.has_ended) == (False, False)


def test_on_a_holiday_shares_rest_and_commodities_are_not_said_to() -> None:
    assert told(USUAL.phase(FUTURES, at("2026-11-24 11:00"))) == (False, "2026-11-25 09:15")
    assert USUAL.phase(GOLD, at("2026-11-24 11:00")).is_open


def test_an_operator_adds_holidays_for_all_or_one_exchange() -> None:
    known = trading_hours.calendar(holidays=["2027-01-26", "MCX:2027-01-27"])
    assert not known.phase(FUTURES, at("2027-01-26 11:00")).is_open
    assert not known.phase(GOLD, at("2027-01-26 11:00")).is_open
    assert known.phase(FUTURES, at("2027-01-27 11:00")).is_open
    assert not known.phase(GOLD, at("2027-01-27 11:00")).is_open


def test_a_special_session_is_the_only_one_of_its_day() -> None:
    known = trading_hours.calendar(
        sessions=["2026-11-08 13:45-14:45", "MCX:2026-12-25 17:00-23:30"]
    )
    assert told(known.phase(FUTURES, at("2026-11-08 11:00"))) == (False, "2026-11-08 13:45")
    assert told(known.phase(FUTURES, at("2026-11-08 14:00"))) == (True, "2026-11-08 14:45")
    assert told(known.phase(GOLD, at("2026-12-25 11:00"))) == (False, "2026-12-25 17:00")
    assert not known.phase(FUTURES, at("2026-12-25 18:00")).is_open


def test_two_sessions_of_a_day_end_with_the_second() -> None:
    known = trading_hours.calendar(
        sessions=["NSE:2026-11-21 11:30-12:30", "NSE:2026-11-21 09:15-10:00"]
    )
    between = known.phase(SHARES, at("2026-11-21 10:30"))
    assert (told(between), between.has_ended) == ((False, "2026-11-21 11:30"), False)
    assert known.phase(SHARES, at("2026-11-21 12:30")).has_ended


@pytest.mark.parametrize(
    ("holidays", "sessions"),
    [
        ("26-01-2027", None),
        ("2027-02-30", None),
        ("2027-01-26 09:00-10:00", None),
        ("mcx:2027-01-26", None),
        (None, "2027-01-26"),
        (None, "2027-01-26 10:00-09:00"),
        (None, "2027-01-26 25:00-26:00"),
        (None, ""),
    ],
)
def test_an_entry_that_cannot_be_read_is_named_with_the_rule(
    holidays: str | None, sessions: str | None
) -> None:
    given = {"holidays": [holidays] * (holidays is not None)}
    given["sessions"] = [sessions] * (sessions is not None)
    with pytest.raises(ConfigurationError, match="must be like") as raised:
        trading_hours.calendar(**given)  # type: ignore[arg-type]
    assert repr(holidays if sessions is None else sessions) in str(raised.value)


def test_a_calendar_of_holidays_alone_finds_no_session_and_does_not_search_for_ever() -> None:
    days = [dt.date(2027, 3, 1) + dt.timedelta(days=n) for n in range(60)]
    known = trading_hours.calendar(holidays=[str(day) for day in days])
    phase = known.phase(FUTURES, at("2027-03-01 11:00"))
    assert (phase.is_open, phase.until_ns) == (False, 0)


def test_a_simulated_market_never_closes() -> None:
    assert trading_hours.calendar(is_always_open=True).phase(GOLD, at("2026-11-22 03:00")).is_open


@given(
    st.sampled_from([SHARES, AUCTIONED, FUTURES, RUPEE, GOLD]),
    st.integers(at("2026-01-01 00:00"), at("2026-12-31 00:00")),
)
def test_nothing_changes_before_the_instant_that_is_named(venue: Venue, now_ns: int) -> None:
    phase = USUAL.phase(venue, now_ns)
    assert phase.until_ns > now_ns
    halfway = (now_ns + phase.until_ns) // 2
    assert USUAL.phase(venue, halfway).is_open == phase.is_open
    assert USUAL.phase(venue, phase.until_ns).is_open != phase.is_open


def test_the_last_trade_of_a_contract_is_within_the_hours_of_its_market() -> None:
    kinds = {"NFO-OPT": VenueKind.SHARE_DERIVATIVE, "MCX-OPT": VenueKind.COMMODITY}
    for segment, kind in kinds.items():
        for day in (dt.date(2026, 7, 28), dt.date(2026, 11, 19), dt.date(2026, 12, 15)):
            ends = expiry_clock.expiry_instants(segment, "RELIANCE", day)
            venue = Venue(segment.split("-")[0], kind)
            assert USUAL.phase(venue, ends.last_trade_ns - 1).is_open


def test_every_kind_of_market_has_hours_from_the_beginning() -> None:
    assert {hours.kind for hours in TRADING_HOURS if hours.since == dt.date.min} == set(VenueKind)
