"""What two journals of one set of records promise, as two daemons on one database have them.

A test module inherits the contract and says how to open the two, and how the first one's session is
lost before it knows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import pytest
from journal_values import ACCOUNT, NOON_NS, claim, new_task, ready, sending, step, tag_of

from ticker_service.domain.halt import HaltCode, new_halt
from ticker_service.domain.order import Account
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import AccountTaken, IdempotencyConflict, TaskMoved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ticker_service.ports import OrderJournal

OTHER = Account("ZY9876")


class TwoJournals(Protocol):
    """Two daemons' journals of the same records."""

    one: OrderJournal
    other: OrderJournal

    def cut(self) -> None:
        """End the session that holds the first one's accounts, without its knowing."""
        ...

    async def notice(self) -> None:
        """Let the first one notice what was cut."""
        ...


class JournalsBesideContract:
    """I2, I4, I6: promises that need more than one process to be broken."""

    def open(self) -> AbstractAsyncContextManager[TwoJournals]:
        raise NotImplementedError

    def run(self, scenario: Callable[[TwoJournals], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with self.open() as two:
                await scenario(two)

        asyncio.run(opened())

    def test_each_has_what_the_other_wrote(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            sent = await sending(two.one, await two.one.acquire(ACCOUNT))
            assert await two.other.task(sent.task_id) == sent
            assert (await two.other.tasks_by_tag(ACCOUNT, [sent.tag or ""])).get(
                sent.tag or ""
            ) == sent
            assert await two.other.in_doubt(ACCOUNT) == [sent]
            assert await two.other.last_seq(ACCOUNT) == 3
            events = await two.other.events_after(ACCOUNT, 0, limit=10)
            assert [event.account_seq for event in events] == [1, 2, 3]
            await two.one.set_delivered(ACCOUNT, "redis", 2)
            assert await two.other.delivered_seq(ACCOUNT, "redis") == 2
            await two.one.halt(new_halt(ACCOUNT, HaltCode.ORPHAN_ORDER, "seen", now_ns=NOON_NS))
            assert [each.code for each in await two.other.halts(ACCOUNT)] == [HaltCode.ORPHAN_ORDER]

        self.run(scenario)

    def test_a_key_used_at_one_is_known_at_the_other(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            first = await two.one.admit(new_task(request_id="k", client_order_id="k"))
            again = await two.other.admit(new_task(request_id="k", client_order_id="k"))
            assert (again.task, again.is_new) == (first.task, False)
            with pytest.raises(IdempotencyConflict):
                await two.other.admit(
                    new_task(request_id="k", client_order_id="k", body={"quantity": "1"})
                )

        self.run(scenario)

    def test_a_tag_used_at_one_is_used_at_the_other(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            await claim(
                two.one, await ready(two.one), await two.one.acquire(ACCOUNT), tag=tag_of(7)
            )
            await two.one.release(ACCOUNT)
            epoch = await two.other.acquire(ACCOUNT)
            with pytest.raises(Exception, match=r"tag|unique"):
                await claim(two.other, await ready(two.other), epoch, tag=tag_of(7))

        self.run(scenario)

    def test_both_cannot_have_an_account(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            await two.one.acquire(ACCOUNT)
            with pytest.raises(AccountTaken):
                await two.other.acquire(ACCOUNT)
            assert two.one.is_writer(ACCOUNT)
            assert not two.other.is_writer(ACCOUNT)
            await two.other.acquire(OTHER)
            assert two.other.is_writer(OTHER)

        self.run(scenario)

    def test_an_account_given_back_is_free_with_a_later_epoch(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            # Twice: the lock counts, and one release has to give it back.
            await two.one.acquire(ACCOUNT)
            first = await two.one.acquire(ACCOUNT)
            await two.one.release(ACCOUNT)
            assert not two.one.is_writer(ACCOUNT)
            assert await two.other.acquire(ACCOUNT) > first

        self.run(scenario)

    def test_one_that_is_closed_has_no_account(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            await two.one.acquire(ACCOUNT)
            await two.one.close()
            assert not two.one.is_writer(ACCOUNT)
            async with asyncio.timeout(10):
                while not two.other.is_writer(ACCOUNT):
                    # A server notices the closed socket on its own time.
                    try:
                        await two.other.acquire(ACCOUNT)
                    except AccountTaken:
                        continue

        self.run(scenario)

    def test_a_superseded_writer_neither_claims_nor_says_how_a_send_ended(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            epoch = await two.one.acquire(ACCOUNT)
            sent, unsent = await sending(two.one, epoch), await ready(two.one)
            two.cut()
            # The old one has not noticed yet: only the records can stop it.
            newer = await two.other.acquire(ACCOUNT)
            assert two.one.is_writer(ACCOUNT)
            with pytest.raises(TaskMoved):
                await claim(two.one, unsent, epoch)
            for state in (TaskState.ACKED, TaskState.READY, TaskState.UNKNOWN):
                with pytest.raises(TaskMoved):
                    await two.one.record(sent, step(state, outcome="ANY"), now_ns=NOON_NS)
            assert (await claim(two.other, unsent, newer)).writer_epoch == newer

        self.run(scenario)

    def test_a_superseded_writer_may_say_that_the_broker_took_what_it_sent(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            sent = await sending(two.one, await two.one.acquire(ACCOUNT))
            two.cut()
            await two.other.acquire(ACCOUNT)
            # The order's id is evidence, whoever brings it; a successor could not find it alone.
            yes = step(TaskState.ACKED, outcome="ACKED", broker_order_id="1")
            acked = await two.one.record(sent, yes, now_ns=NOON_NS)
            assert (acked.state, acked.broker_order_id) == (TaskState.ACKED, "1")
            assert await two.other.task(sent.task_id) == acked

        self.run(scenario)

    def test_a_yes_is_recorded_after_another_writer_called_its_order_not_placed(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            sent = await sending(two.one, await two.one.acquire(ACCOUNT))
            two.cut()
            await two.other.acquire(ACCOUNT)
            task = sent
            for state in (TaskState.UNKNOWN, TaskState.NOT_PLACED):
                task = await two.other.record(task, step(state), now_ns=NOON_NS)
            yes = step(TaskState.ACKED, outcome="ACKED", broker_order_id="1")
            with pytest.raises(TaskMoved):
                await two.one.record(sent, yes, now_ns=NOON_NS)
            acked = await two.one.record(task, yes, now_ns=NOON_NS)
            assert (acked.state, acked.broker_order_id) == (TaskState.ACKED, "1")

        self.run(scenario)

    def test_what_another_writer_sent_is_looked_for_and_never_sent_again(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            sent = await sending(two.one, await two.one.acquire(ACCOUNT))
            two.cut()
            await two.other.acquire(ACCOUNT)
            again = step(TaskState.READY, outcome="NOT_SENT")
            with pytest.raises(TaskMoved):
                await two.other.record(sent, again, now_ns=NOON_NS)
            doubtful = await two.other.record(sent, step(TaskState.UNKNOWN), now_ns=NOON_NS)
            assert doubtful.state is TaskState.UNKNOWN

        self.run(scenario)

    def test_an_answer_is_still_recorded_when_the_lock_was_lost_and_nobody_took_it(self) -> None:
        async def scenario(two: TwoJournals) -> None:
            sent = await sending(two.one, await two.one.acquire(ACCOUNT))
            two.cut()
            await two.notice()
            assert not two.one.is_writer(ACCOUNT)
            with pytest.raises(TaskMoved):
                await claim(two.one, await ready(two.one), 1)
            acked = step(TaskState.ACKED, outcome="ACKED", broker_order_id="1")
            assert (await two.one.record(sent, acked, now_ns=NOON_NS)).state is TaskState.ACKED

        self.run(scenario)
