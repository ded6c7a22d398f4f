"""A kill switch on a name that nobody has is refused, or said to be unchecked."""

from __future__ import annotations

import pytest

from app.kill_names import Names, NamesHere, doubt
from ticker_service.domain.kill_switch import KillScope
from ticker_service.errors import ConfigurationError

HERE = Names(accounts=frozenset({"MAIN", "SPARE"}), groups=frozenset({"PAIR"}))


@pytest.mark.parametrize("scope", ["all", "account:MAIN", "group:PAIR", "symbol:NFO:TYPO"])
def test_a_name_that_is_known_and_what_is_no_name_raise_no_doubt(scope: str) -> None:
    assert not doubt(KillScope.of(scope), HERE)


@pytest.mark.parametrize(
    ("scope", "named"),
    [("account:MIAN", "MAIN, SPARE"), ("account:PAIR", "MAIN, SPARE"), ("group:PIAR", "PAIR")],
)
def test_a_name_that_is_not_among_those_known_is_refused_naming_them(
    scope: str, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{scope}: must be one of {named}; NOTHING"):
        doubt(KillScope.of(scope), HERE)


def test_a_group_where_there_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be one of none"):
        doubt(KillScope.of("group:PAIR"), Names(accounts=frozenset({"MAIN"})))


@pytest.mark.parametrize("scope", ["account:MAIN", "group:PAIR"])
def test_a_name_that_nobody_can_check_is_thrown_and_said_to_be_unchecked(scope: str) -> None:
    assert f"NOT CHECKED whether there is {scope}" in doubt(KillScope.of(scope), Names())


def test_names_of_settings_and_daemon_count_together() -> None:
    there = Names(accounts=frozenset({"OTHER"}))
    assert not doubt(KillScope.of("account:OTHER"), HERE | there)


def test_a_daemon_whose_instruments_are_not_known_says_nothing_of_a_symbol() -> None:
    here = NamesHere(accounts=["MAIN"], groups=[], contracts=lambda: None)
    assert here.told(KillScope.of("symbol:NFO:TYPO"))["is_instrument"] is None
