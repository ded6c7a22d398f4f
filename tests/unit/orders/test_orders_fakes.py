"""The in-memory journal and broker keep the contracts of the ports they stand in for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from journal_values import ACCOUNT, NOON_NS, new_task, sending, step
from journals_beside_contract import JournalsBesideContract
from order_journal_contract import OrderJournalContract
from port_contracts import BrokerGatewayContract

from ticker_service.domain.order_state import TaskState
from ticker_service.errors import JournalUnavailable, TaskMoved
from ticker_service.runtime.clock import SystemClock
from ticker_service.testing import MemoryJournal, ScriptedBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TestMemoryJournal(OrderJournalContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[MemoryJournal]:
        yield MemoryJournal()


class _TwoJournals:
    def __init__(self) -> None:
        self.one = MemoryJournal()
        self.other = MemoryJournal(beside=self.one)

    def cut(self) -> None:
        self.one.lose_writer(ACCOUNT, is_noticed=False)

    async def notice(self) -> None:
        self.one.lose_writer(ACCOUNT)


class TestMemoryJournalsBeside(JournalsBesideContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_TwoJournals]:
        yield _TwoJournals()


class _Broker:
    def __init__(self) -> None:
        self.gateway = ScriptedBroker(SystemClock())
        self.price = "100.05"
        self.price_across = "110.05"
        self.symbol = "INFY"

    def fill(self, order_id: str) -> None:
        self.gateway.change(
            order_id, status="COMPLETE", filled_quantity=1, average_price=Decimal("110.00")
        )

    def refuse_token(self) -> None:
        self.gateway.is_token_refused = True


class TestScriptedBroker(BrokerGatewayContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Broker]:
        yield _Broker()


def test_a_journal_that_is_down_does_nothing_and_says_so() -> None:
    async def scenario() -> None:
        journal = MemoryJournal()
        journal.is_down = True
        with pytest.raises(JournalUnavailable):
            await journal.admit(new_task())
        assert not journal.tasks

    asyncio.run(scenario())


@pytest.mark.parametrize("superseded", [False, True])
def test_a_superseded_writer_records_no_outcome(superseded: bool) -> None:  # noqa: FBT001
    async def scenario() -> None:
        journal = MemoryJournal()
        task = await sending(journal, await journal.acquire(ACCOUNT))
        journal.lose_writer(ACCOUNT, superseded=superseded)
        if not superseded:
            acked = await journal.record(task, step(TaskState.ACKED), now_ns=NOON_NS)
            assert acked.state is TaskState.ACKED
            return
        with pytest.raises(TaskMoved):
            await journal.record(task, step(TaskState.ACKED), now_ns=NOON_NS)

    asyncio.run(scenario())
