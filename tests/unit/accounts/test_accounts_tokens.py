from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

import pytest

from ticker_service.accounts.tokens import AccessToken, AccessTokens, MemoryTokens, VaultTokens
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import Account
from ticker_service.domain.session import IST, instant_ns
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

MAIN, SPARE = Account("main"), Account("spare")
LOGIN_NS = instant_ns(dt.datetime(2026, 11, 20, 8, 30, tzinfo=IST))
SIX_NS = instant_ns(dt.datetime(2026, 11, 21, 6, 0, tzinfo=IST))


class Drawer:
    """A vault in memory that counts its readers, and can refuse."""

    def __init__(self) -> None:
        self.kept: dict[Account, bytes] = {}
        self.loads = 0
        self.is_full = False

    async def mark(self, account: Account) -> tuple[int, ...] | None:
        return (hash(self.kept[account]),) if account in self.kept else None

    async def load(self, account: Account) -> bytes | None:
        self.loads += 1
        return self.kept.get(account)

    async def save(self, account: Account, secret: bytes) -> None:
        if self.is_full:
            raise ConfigurationError("Condition failed: full")
        self.kept[account] = secret

    async def remove(self, account: Account) -> None:
        self.kept.pop(account, None)


def token(value: str = "planted-token", account: Account = MAIN) -> AccessToken:
    return AccessToken(account=account, user_id="AB1234", value=value, issued_at_ns=LOGIN_NS)


@pytest.fixture(params=["memory", "vault"])
def make(request: pytest.FixtureRequest) -> Callable[[ManualClock], AccessTokens]:
    if request.param == "memory":
        return MemoryTokens
    return lambda clock: VaultTokens(Drawer(), clock)


def test_a_token_is_good_until_six_in_the_morning_in_india(
    make: Callable[[ManualClock], AccessTokens],
) -> None:
    clock = ManualClock(LOGIN_NS)
    tokens = make(clock)

    async def main() -> None:
        await tokens.put(token())
        clock.advance(SIX_NS - LOGIN_NS - 1)
        assert await tokens.get(MAIN) == token()
        clock.advance(1)
        assert await tokens.get(MAIN) is None

    asyncio.run(main())


def test_accounts_have_tokens_of_their_own(make: Callable[[ManualClock], AccessTokens]) -> None:
    tokens = make(ManualClock(LOGIN_NS))

    async def main() -> None:
        await tokens.put(token("planted-main"))
        await tokens.put(token("planted-spare", SPARE))
        await tokens.forget(MAIN)
        assert await tokens.get(MAIN) is None
        assert await tokens.get(SPARE) == token("planted-spare", SPARE)

    asyncio.run(main())


def test_a_late_refusal_of_the_former_token_leaves_the_new_one(
    make: Callable[[ManualClock], AccessTokens],
) -> None:
    tokens = make(ManualClock(LOGIN_NS))

    async def main() -> None:
        await tokens.put(token("planted-former"))
        await tokens.put(token("planted-newer"))
        await tokens.forget(MAIN, refused="planted-former")
        assert await tokens.get(MAIN) == token("planted-newer")
        await tokens.forget(MAIN, refused="planted-newer")
        assert await tokens.get(MAIN) is None

    asyncio.run(main())


def test_forgetting_what_is_not_there_is_no_error(
    make: Callable[[ManualClock], AccessTokens],
) -> None:
    tokens = make(ManualClock(LOGIN_NS))
    asyncio.run(tokens.forget(MAIN))
    asyncio.run(tokens.forget(MAIN, refused="planted-unknown"))


def test_a_token_outlives_the_process_in_its_vault() -> None:
    drawer = Drawer()
    asyncio.run(VaultTokens(drawer, ManualClock(LOGIN_NS)).put(token()))
    later = VaultTokens(drawer, ManualClock(LOGIN_NS + NS_PER_S))
    assert asyncio.run(later.get(MAIN)) == token()


def test_the_vault_is_read_once_however_often_the_token_is_needed() -> None:
    drawer = Drawer()
    tokens = VaultTokens(drawer, ManualClock(LOGIN_NS))

    async def main() -> None:
        await tokens.put(token())
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(tokens.get(MAIN))

    asyncio.run(main())
    assert drawer.loads == 1


def test_what_another_process_puts_into_the_vault_is_found() -> None:
    drawer = Drawer()
    ours, theirs = (VaultTokens(drawer, ManualClock(LOGIN_NS)) for _ in range(2))

    async def main() -> None:
        assert await ours.get(MAIN) is None
        for value in ("planted-first", "planted-second"):
            await theirs.put(token(value))
            assert await ours.get(MAIN) == token(value)
        await theirs.forget(MAIN)
        assert await ours.get(MAIN) is None

    asyncio.run(main())


def test_a_fault_of_the_vault_is_looked_at_once_and_gone_with_the_next_login() -> None:
    drawer = Drawer()
    drawer.kept[MAIN] = b"planted{"
    tokens = VaultTokens(drawer, ManualClock(LOGIN_NS))

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(ConfigurationError, match="log in again"):
                await tokens.get(MAIN)
        assert drawer.loads == 1
        await VaultTokens(drawer, ManualClock(LOGIN_NS)).put(token())
        assert await tokens.get(MAIN) == token()

    asyncio.run(main())


def test_wiping_an_expired_token_leaves_the_one_that_was_just_put_there() -> None:
    drawer = Drawer()
    clock = ManualClock(LOGIN_NS)
    ours = VaultTokens(drawer, clock)
    today = AccessToken(account=MAIN, user_id="AB1234", value="planted-today", issued_at_ns=SIX_NS)

    async def main() -> None:
        await ours.put(token())
        assert await ours.get(MAIN) == token()
        clock.advance(SIX_NS - LOGIN_NS)
        mark, marks = drawer.mark, 0

        async def put_meanwhile(account: Account) -> tuple[int, ...] | None:
            nonlocal marks
            marks += 1
            if marks == 2:
                await VaultTokens(drawer, clock).put(today)
            return await mark(account)

        drawer.mark = put_meanwhile  # type: ignore[method-assign]
        await ours.get(MAIN)
        assert await ours.get(MAIN) == today

    asyncio.run(main())


def test_an_expired_token_is_wiped_from_the_vault() -> None:
    drawer = Drawer()
    asyncio.run(VaultTokens(drawer, ManualClock(LOGIN_NS)).put(token()))
    assert asyncio.run(VaultTokens(drawer, ManualClock(SIX_NS)).get(MAIN)) is None
    assert not drawer.kept


def test_a_token_that_was_not_saved_is_not_handed_out() -> None:
    drawer = Drawer()
    tokens = VaultTokens(drawer, ManualClock(LOGIN_NS))

    async def main() -> None:
        await tokens.put(token("planted-former"))
        drawer.is_full = True
        with pytest.raises(ConfigurationError):
            await tokens.put(token("planted-newer"))
        assert await tokens.get(MAIN) == token("planted-former")

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"", b"planted{", b"[]", b'{"account":"main"}', b"\xff"])
def test_what_is_no_token_is_refused_without_being_quoted(content: bytes) -> None:
    drawer = Drawer()
    drawer.kept[MAIN] = content
    with pytest.raises(ConfigurationError, match="log in again") as raised:
        asyncio.run(VaultTokens(drawer, ManualClock(LOGIN_NS)).get(MAIN))
    assert "planted" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_another_accounts_entry_is_refused() -> None:
    drawer = Drawer()
    asyncio.run(VaultTokens(drawer, ManualClock(LOGIN_NS)).put(token()))
    drawer.kept[SPARE] = drawer.kept[MAIN]
    with pytest.raises(ConfigurationError, match="another account's"):
        asyncio.run(VaultTokens(drawer, ManualClock(LOGIN_NS)).get(SPARE))


def test_the_value_is_in_no_representation() -> None:
    assert "planted" not in repr(token())
