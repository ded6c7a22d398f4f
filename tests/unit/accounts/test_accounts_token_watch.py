"""Which token an account sends with: the newest login, else the settings', else none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import virtual_time
from structlog.testing import capture_logs

from ticker_service.accounts.token_watch import FixedToken, TokenWatch, WatchedLogins
from ticker_service.accounts.tokens import AccessToken, MemoryTokens
from ticker_service.config import FeedAccountConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import Account
from ticker_service.domain.session import token_expires_ns
from ticker_service.errors import ConfigurationError
from ticker_service.ports import FeedLogin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAIN, SPARE = Account("MAIN"), Account("SPARE")
OWN = FeedAccountConfig(account=MAIN, api_key="key")
GIVEN = FeedLogin(access_token="feed's", api_key=OWN.api_key)
NOON_NS = 1_795_242_600 * NS_PER_S


def play(scene: Callable[[virtual_time.LoopClock], Awaitable[None]]) -> None:
    async def stage() -> None:
        await scene(virtual_time.LoopClock(NOON_NS))

    virtual_time.run(stage())


def token(value: str, clock: virtual_time.LoopClock) -> AccessToken:
    return AccessToken(account=MAIN, user_id="AB1234", value=value, issued_at_ns=clock.now_ns())


def test_a_login_is_noticed_within_two_seconds_and_told_once() -> None:
    async def scene(clock: virtual_time.LoopClock) -> None:
        tokens = MemoryTokens(clock)
        watch = TokenWatch([MAIN], tokens, given={}, clock=clock)
        told: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(
                watch.run(lambda account: told.append(watch.value(account)))
            )
            await asyncio.sleep(5.0)
            assert watch.value(MAIN) == ""
            await tokens.put(token("first", clock))
            await asyncio.sleep(2.0)
            assert watch.value(MAIN) == "first"
            await tokens.put(token("second", clock))
            await asyncio.sleep(60.0)
            running.cancel()
        assert told == ["first", "second"]

    play(scene)


def test_a_stored_token_of_another_user_is_not_used_and_told_once() -> None:
    async def scene(clock: virtual_time.LoopClock) -> None:
        tokens = MemoryTokens(clock)
        await tokens.put(token("of AB1234", clock))
        watch = TokenWatch([MAIN], tokens, given={}, clock=clock, users={MAIN: "CD5678"})
        with capture_logs() as logged:
            for _ in range(3):
                await watch.look(lambda _: None)
        assert (watch.value(MAIN), watch.stored(MAIN)) == ("", "")
        (line,) = logged
        assert (line["event"], line["account"]) == ("token_not_read", MAIN)
        assert "AB1234" in line["error"]

    play(scene)


def test_at_six_in_the_morning_there_is_no_token_until_the_next_login() -> None:
    async def scene(clock: virtual_time.LoopClock) -> None:
        tokens = MemoryTokens(clock)
        watch = TokenWatch([MAIN], tokens, given={MAIN: token("given", clock)}, clock=clock)
        told: list[str] = []
        await tokens.put(token("stored", clock))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(
                watch.run(lambda account: told.append(watch.value(account)))
            )
            six_ns = token_expires_ns(clock.now_ns())
            await asyncio.sleep((six_ns - clock.now_ns()) / NS_PER_S + 2.0)
            assert watch.value(MAIN) == ""
            await tokens.put(token("today", clock))
            await asyncio.sleep(2.0)
            running.cancel()
        assert told == ["stored", "", "today"]

    play(scene)


def test_a_login_comes_before_the_token_of_the_settings() -> None:
    async def scene(clock: virtual_time.LoopClock) -> None:
        tokens = MemoryTokens(clock)
        watch = TokenWatch([MAIN], tokens, given={MAIN: token("given", clock)}, clock=clock)
        await watch.look(_nobody)
        assert (watch.value(MAIN), watch.stored(MAIN)) == ("given", "")
        await tokens.put(token("stored", clock))
        await watch.look(_nobody)
        assert (watch.value(MAIN), watch.stored(MAIN)) == ("stored", "stored")

    play(scene)


def test_a_store_that_cannot_be_read_leaves_the_token_in_use_and_is_said_once() -> None:
    class Broken(MemoryTokens):
        is_broken = False

        async def get(self, account: Account) -> AccessToken | None:
            if self.is_broken:
                raise ConfigurationError("Condition failed: mode 0644")
            return await super().get(account)

    async def scene(clock: virtual_time.LoopClock) -> None:
        tokens = Broken(clock)
        watch = TokenWatch([MAIN], tokens, given={}, clock=clock)
        await tokens.put(token("stored", clock))
        await watch.look(_nobody)
        tokens.is_broken = True
        with capture_logs() as logs:
            for _ in range(3):
                await watch.look(_nobody)
        assert watch.value(MAIN) == "stored"
        assert [entry["event"] for entry in logs] == ["token_not_read"]

    play(scene)


def test_the_feed_tries_the_login_s_token_then_its_own_then_the_account_s() -> None:
    async def scene(clock: virtual_time.LoopClock) -> None:
        tokens = MemoryTokens(clock)
        watch = TokenWatch([MAIN], tokens, given={MAIN: token("account's", clock)}, clock=clock)
        source = WatchedLogins(watch, [OWN], given=GIVEN)
        await watch.look(_nobody)
        assert names(source) == ["feed's", "account's"]
        await tokens.put(token("login's", clock))
        await watch.look(_nobody)
        assert names(source) == ["login's", "feed's"]
        assert {each.account for each in source.candidates()} == {MAIN}
        assert (await source.other_than({"login's"})).access_token == "feed's"

    play(scene)


def test_the_feed_s_own_app_comes_before_the_accounts_to_fail_over_to() -> None:
    async def scene(clock: virtual_time.LoopClock) -> None:
        given = {SPARE: token("spare's", clock)}
        watch = TokenWatch([MAIN, SPARE], MemoryTokens(clock), given=given, clock=clock)
        await watch.look(_nobody)
        spare = FeedAccountConfig(account=SPARE, api_key="another")
        with_owner = WatchedLogins(watch, [OWN, spare], given=GIVEN)
        without = WatchedLogins(watch, [spare], given=GIVEN)
        assert names(with_owner) == names(without) == ["feed's", "spare's"]
        assert [each.account for each in with_owner.candidates()] == [MAIN, SPARE]
        assert [each.account for each in without.candidates()] == ["", SPARE]
        assert [each.api_key for each in without.candidates()] == [OWN.api_key, "another"]

    play(scene)


def test_a_fixed_token_is_the_only_one_there_will_be() -> None:
    async def scene(_: virtual_time.LoopClock) -> None:
        assert FixedToken("").candidates() == ()
        source = FixedToken("one")
        assert (await source.other_than(())).access_token == "one"
        try:
            async with asyncio.timeout(86_400.0):
                await source.other_than({"one"})
        except TimeoutError:
            return
        raise AssertionError

    play(scene)


def names(source: WatchedLogins) -> list[str]:
    """Return the tokens of a source, in order."""
    return [each.access_token for each in source.candidates()]


def _nobody(_: Account) -> None:
    return
