"""The feed goes on with another account's login when its own can no longer carry it."""

from __future__ import annotations

from order_house import USERS, house
from running import eventually, is_kind, subscriber

SPARE = "SPARE"


def test_the_feed_fails_over_to_another_account_and_says_what_was_lost(
    redis_url: str, prefix: str
) -> None:
    assert {"MAIN", SPARE} == set(USERS)
    with (
        subscriber(redis_url, f"{prefix}ticks:NIFTY") as book,
        house(redis_url, prefix, feed_accounts=SPARE) as home,
    ):
        book.until(is_kind("batch"))
        simulator = home.exchange.simulator

        def end_the_session() -> None:
            simulator._sessions.expire_user(USERS["MAIN"])
            simulator.feed.wake()

        home.exchange.call(end_the_session)
        gap = book.until(is_kind("gap", reason="failover"))
        assert 0 < gap["from_us"] < gap["to_us"]
        assert gap["instruments"]
        up = book.until(is_kind("status", state="feed_up"))
        assert "another account" in up["reason"]
        book.until(is_kind("batch"))
        book.until(is_kind("heartbeat", feed="up"))
        # Nobody is asked to log in while somebody else carries the feed.
        states = [each["state"] for each in book.seen if each["kind"] == "status"]
        assert "login_required" not in states
        users = eventually(lambda: {each["user_id"] for each in home.exchange.connections()})
        assert users == {USERS[SPARE]}
