"""Hypothesis looks for a life of orders that breaks a promise, on the journal in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from journal_values import ACCOUNT
from order_machine import OrderMachine

from ticker_service.testing import MemoryJournal

if TYPE_CHECKING:
    from ticker_service.ports import OrderJournal


class MemoryMachine(OrderMachine):
    async def open_two(self) -> tuple[MemoryJournal, MemoryJournal]:
        one = MemoryJournal()
        return one, MemoryJournal(beside=one)

    async def cut(self, journal: OrderJournal) -> None:
        assert isinstance(journal, MemoryJournal)
        journal.lose_writer(ACCOUNT, is_noticed=False)

    async def notice(self, journal: OrderJournal) -> None:
        assert isinstance(journal, MemoryJournal)
        journal.lose_writer(ACCOUNT)


TestMemoryOrders = MemoryMachine.TestCase
TestMemoryOrders.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
