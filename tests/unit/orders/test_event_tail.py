"""Who follows an account gets its events in order and without a gap, heard or read (I9)."""

from __future__ import annotations

import asyncio
import random

import pytest
from journal_values import ACCOUNT, NOON_NS, new_task, step

from ticker_service.domain.order_state import TaskState
from ticker_service.orders import event_tail
from ticker_service.orders.event_tail import EventTail
from ticker_service.testing import MemoryJournal


@pytest.mark.parametrize("seed", range(5))
def test_events_of_ours_and_of_others_come_in_order_and_without_a_gap(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_tail, "EVENTS_KEPT_MAX", 5)
    asyncio.run(_follows(random.Random(seed)))  # noqa: S311 - a test


async def _follows(chance: random.Random) -> None:
    ours = MemoryJournal()
    theirs = MemoryJournal(beside=ours)
    tail = EventTail(ACCOUNT, ours)
    tail.follow()
    had: list[int] = []
    for _ in range(200):
        match chance.choice(["ours", "ours", "theirs", "look"]):
            case "ours":
                task = (await ours.admit(new_task())).task
                await ours.record(task, step(TaskState.READY), now_ns=NOON_NS)
            case "theirs":
                await theirs.admit(new_task())
            case _:
                events = await tail.after(len(had), limit=3)
                had += [event.account_seq for event in events]
    while events := await tail.after(len(had), limit=3):
        had += [event.account_seq for event in events]
    assert had == list(range(1, len(ours.events[ACCOUNT]) + 1))


def test_while_the_journal_is_away_what_was_just_written_is_told_all_the_same() -> None:
    async def scenario() -> None:
        journal = MemoryJournal()
        tail = EventTail(ACCOUNT, journal)
        tail.follow()
        await journal.admit(new_task())
        journal.is_down = True
        assert await tail.after(0, limit=10) == journal.events[ACCOUNT]

    asyncio.run(scenario())
