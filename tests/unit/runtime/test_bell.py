"""A bell wakes whoever waits, and forgets."""

from __future__ import annotations

import asyncio

from ticker_service.runtime.bell import Bell


def test_all_who_listen_are_woken_and_who_comes_later_waits_for_the_next_ring() -> None:
    async def scenario() -> None:
        bell = Bell()
        early = [bell.listen() for _ in range(3)]
        bell.ring()
        assert all(each.is_set() for each in early)
        assert not bell.listen().is_set()

    asyncio.run(scenario())


def test_news_between_listening_and_waiting_is_not_missed() -> None:
    async def scenario() -> None:
        bell = Bell()
        ring = bell.listen()
        bell.ring()
        async with asyncio.timeout(1.0):
            await ring.wait()

    asyncio.run(scenario())
