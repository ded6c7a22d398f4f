"""Whose login carries a connection of the feed, and when another account's does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticker_service.adapters.kite_feed import FAILOVER_AFTER_S, HELD_S, REST_S, _Login, _Turns
from ticker_service.constants import NS_PER_S
from ticker_service.ports import FeedLogin

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

SECOND_NS = NS_PER_S


class Logins:
    """Logins that a test sets. Port ``AccessTokenSource``."""

    def __init__(self, *accounts: str) -> None:
        self.found = [FeedLogin(access_token=f"{each}'s", account=each) for each in accounts]

    def candidates(self) -> Sequence[FeedLogin]:
        return self.found

    async def other_than(self, refused: Container[str]) -> FeedLogin:
        raise NotImplementedError


class Connection:
    """One connection's turns, at a time that passes by its attempts."""

    def __init__(self, *accounts: str) -> None:
        self.login = _Login(Logins(*accounts))
        self.turns = _Turns(self.login)
        self.now_ns = 1_000 * SECOND_NS

    def tries(self) -> str | None:
        chosen = self.turns.choose(self.now_ns)
        return None if chosen is None else chosen.account

    def fails(self, *, after_s: float = 0.0, is_given_up: bool = False) -> str | None:
        """Try, fail after so long, and wait a second; return who was tried."""
        tried = self.tries()
        began_ns = self.now_ns
        self.now_ns += int(after_s * SECOND_NS)
        self.turns.ended(self.now_ns, began_ns=began_ns, held_s=after_s, is_given_up=is_given_up)
        self.now_ns += SECOND_NS
        return tried


def test_a_connection_stays_with_its_account_for_a_while_and_then_takes_the_next() -> None:
    connection = Connection("A", "B")
    tried = [connection.fails() for _ in range(int(FAILOVER_AFTER_S) + 2)]
    assert tried == ["A"] * (int(FAILOVER_AFTER_S) + 1) + ["B"]
    assert connection.tries() == "B"
    assert connection.turns.opened()


def test_a_connection_that_held_was_not_down() -> None:
    connection = Connection("A", "B")
    tried = {connection.fails(after_s=HELD_S) for _ in range(100)}
    assert tried == {"A"}
    assert not connection.turns.opened()


def test_a_refused_login_is_the_next_account_s_turn_at_once() -> None:
    connection = Connection("A", "B")
    assert connection.tries() == "A"
    connection.login.refuse(connection.login.usable()[0])
    assert connection.tries() == "B"
    assert connection.turns.opened()
    connection.login.refuse(connection.login.usable()[0])
    assert connection.tries() is None


def test_a_connection_that_brings_nothing_is_the_next_account_s_turn_at_once() -> None:
    connection = Connection("A", "B")
    assert connection.fails(after_s=60.0, is_given_up=True) == "A"
    assert connection.tries() == "B"


def test_who_serves_is_not_left_for_who_came_back() -> None:
    connection = Connection("A", "B")
    connection.fails(is_given_up=True)
    assert connection.fails(after_s=2 * REST_S) == "B"
    assert connection.tries() == "B"
    assert connection.turns.opened()
    assert not connection.turns.opened()


def test_when_all_fail_who_was_left_longest_ago_is_tried_again() -> None:
    connection = Connection("A", "B", "C")
    tried = [connection.fails(is_given_up=True) for _ in range(5)]
    assert tried == ["A", "B", "C", "A", "B"]


def test_a_single_account_is_tried_for_ever() -> None:
    connection = Connection("A")
    assert {connection.fails(is_given_up=True) for _ in range(50)} == {"A"}
    assert not connection.turns.opened()
