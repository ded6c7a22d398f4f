"""What every ``OrderJournal`` promises of orders that go on on another account (I2, I8, I9)."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from journal_values import ACCOUNT, NOON_NS, SECOND_NS, all_of, claim, new_task, ready, step

from ticker_service.domain.order import Account, TaskKind, body_sha256, successor_of
from ticker_service.domain.order_replay import differences, replay
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import IdempotencyConflict, InvariantViolatedError, TaskMoved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ticker_service.domain.order import NewTask, OrderTask
    from ticker_service.ports import OrderJournal

SPARE = Account("ZY9876")
THIRD = Account("ZW0001")
OVER = step(TaskState.FAILED_OVER, event="failed_over", reason_code="FAILED_OVER")
GROUPED = {"account_group": "PAIR", "facts": {"route": {"policy": "first_able"}}}


def goes_on(order: OrderTask, account: Account = SPARE, **changed: Any) -> NewTask:
    values: dict[str, Any] = {
        "task_id": uuid.uuid4(),
        "account": account,
        "target_task_id": None,
        "facts": {"from_account": order.account},
        "now_ns": NOON_NS + SECOND_NS,
    }
    return successor_of(order, **values | changed)


async def hand_over(journal: OrderJournal, order: OrderTask, **changed: Any) -> OrderTask:
    successor = goes_on(order, **changed)
    return await journal.hand_over(order, OVER, successor, now_ns=successor.received_at_ns)


async def failed_over(journal: OrderJournal, **changed: Any) -> tuple[OrderTask, OrderTask]:
    """Hand an order over, as the writer of both accounts; return the former and what goes on."""
    for account in (ACCOUNT, SPARE):
        await journal.acquire(account)
    former = await ready(journal, **GROUPED | changed)
    return former, await hand_over(journal, former)


class FailoverJournalContract:
    """An order goes on on another account once, under the same key, and never in two places."""

    def open(self) -> AbstractAsyncContextManager[OrderJournal]:
        raise NotImplementedError

    def run(self, scenario: Callable[[OrderJournal], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with self.open() as journal:
                await scenario(journal)

        asyncio.run(opened())

    def test_what_goes_on_has_the_key_the_body_and_the_time_of_the_former(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            former, now = await failed_over(journal)
            assert (now.account, now.state, now.hop) == (SPARE, TaskState.RECEIVED, 1)
            assert now.origin_task_id == former.task_id
            assert (now.request_id, now.body, now.deadline_ns, now.account_group) == (
                former.request_id,
                former.body,
                former.deadline_ns,
                "PAIR",
            )
            ended = await journal.task(former.task_id)
            assert ended is not None
            assert (ended.account, ended.state) == (ACCOUNT, TaskState.FAILED_OVER)
            assert await journal.lineage(now) == [ended, now] == await journal.lineage(ended)
            assert [task.task_id for task in await journal.unsent(SPARE)] == [now.task_id]
            assert await journal.unsent(ACCOUNT) == []

        self.run(scenario)

    def test_its_key_and_its_name_lead_to_where_it_has_come_to(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            former, now = await failed_over(journal)
            again = new_task(
                request_id=former.request_id,
                client_order_id=former.client_order_id,
                account=THIRD,
                **GROUPED,
            )
            admitted = await journal.admit(again)
            assert (admitted.task, admitted.is_new) == (now, False)
            assert await journal.known(again) == now
            named = await journal.task_of_order(former.principal, former.client_order_id)
            assert named == now

        self.run(scenario)

    def test_a_key_that_named_a_group_is_none_for_an_account_nor_another_group(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            former = await ready(journal, **GROUPED)
            key = {"request_id": former.request_id, "client_order_id": former.client_order_id}
            for other in ({"account": ACCOUNT}, {"account_group": "TRIO"}):
                with pytest.raises(IdempotencyConflict):
                    await journal.admit(new_task(**key, **other))

        self.run(scenario)

    def test_each_account_s_log_tells_its_part_and_both_replay(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            former, now = await failed_over(journal)
            here = await journal.events_after(ACCOUNT, 0, limit=10)
            there = await journal.events_after(SPARE, 0, limit=10)
            assert [(each.account_seq, each.event) for each in here] == [
                (1, "received"),
                (2, "step"),
                (3, "failed_over"),
            ]
            assert [(each.account_seq, each.event) for each in there] == [(1, "received")]
            assert there[0].data["facts"] == {"from_account": ACCOUNT}
            ended = await journal.task(former.task_id)
            assert differences(replay(here), ended, ()) == []
            assert differences(replay(there), now, ()) == []

        self.run(scenario)

    def test_an_order_that_was_sent_or_moved_meanwhile_is_not_handed_over(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epochs = [await journal.acquire(account) for account in (ACCOUNT, SPARE)]
            order = await ready(journal, **GROUPED)
            sent = await claim(journal, order, epochs[0])
            with pytest.raises(TaskMoved):
                await hand_over(journal, order)
            with pytest.raises(InvariantViolatedError):
                await hand_over(journal, sent)
            assert await journal.task(sent.task_id) == sent
            assert await journal.unsent(SPARE) == []
            assert await journal.last_seq(SPARE) == 0

        self.run(scenario)

    def test_of_many_that_hand_one_order_over_one_does(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            for account in (ACCOUNT, SPARE, THIRD):
                await journal.acquire(account)
            order = await ready(journal, **GROUPED)
            found = await all_of(
                [hand_over(journal, order, account=to) for to in (SPARE, THIRD) for _ in range(4)]
            )
            assert sum(isinstance(each, TaskMoved) for each in found) == 7
            assert len(await journal.lineage(order)) == 2

        self.run(scenario)

    def test_only_the_newest_writer_of_both_accounts_hands_over(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            await journal.acquire(ACCOUNT)
            order = await ready(journal, **GROUPED)
            with pytest.raises(TaskMoved):
                await hand_over(journal, order)
            await journal.acquire(SPARE)
            await journal.release(ACCOUNT)
            with pytest.raises(TaskMoved):
                await hand_over(journal, order)
            assert await journal.task(order.task_id) == order

        self.run(scenario)

    def test_an_instruction_comes_to_no_account_twice(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            _, now = await failed_over(journal)
            now = await journal.record(now, step(TaskState.READY), now_ns=NOON_NS)
            with pytest.raises(InvariantViolatedError):
                await hand_over(journal, now, account=ACCOUNT)
            await journal.acquire(THIRD)
            third = await hand_over(journal, now, account=THIRD)
            third = await journal.record(third, step(TaskState.READY), now_ns=NOON_NS)
            with pytest.raises(InvariantViolatedError):
                await hand_over(journal, third, account=SPARE)
            assert [each.account for each in await journal.lineage(third)] == [
                ACCOUNT,
                SPARE,
                THIRD,
            ]

        self.run(scenario)

    def test_what_goes_on_is_not_sent_once_the_former_has_surfaced(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epochs = {each: await journal.acquire(each) for each in (ACCOUNT, SPARE, THIRD)}
            order = await claim(journal, await ready(journal, **GROUPED), epochs[ACCOUNT])
            unsent = step(TaskState.READY, outcome="NOT_SENT")
            order = await journal.record(order, unsent, now_ns=NOON_NS)
            second = await hand_over(journal, order)
            second = await journal.record(second, step(TaskState.READY), now_ns=NOON_NS)
            third = await hand_over(journal, second, account=THIRD)
            third = await journal.record(third, step(TaskState.READY), now_ns=NOON_NS)
            former = await journal.task(order.task_id)
            assert former is not None
            surfaced = step(TaskState.WORKING, broker_order_id="26")
            await journal.record(former, surfaced, now_ns=NOON_NS)
            with pytest.raises(TaskMoved):
                await claim(journal, third, epochs[THIRD])
            assert await journal.task(third.task_id) == third

        self.run(scenario)

    def test_a_cancel_follows_its_order_under_its_own_key(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            former, now = await failed_over(journal)
            asked = {
                "kind": TaskKind.CANCEL,
                "client_order_id": former.client_order_id,
                "body": {},
                "body_sha256": body_sha256({}),
            }
            cancel = await ready(journal, request_id="c", target_task_id=former.task_id, **asked)
            follows = await hand_over(journal, cancel, target_task_id=now.task_id)
            assert (follows.kind, follows.account) == (TaskKind.CANCEL, SPARE)
            assert follows.target_task_id == now.task_id
            again = new_task(request_id="c", account=SPARE, target_task_id=now.task_id, **asked)
            assert await journal.known(again) == follows

        self.run(scenario)

    def test_what_was_refused_for_want_of_margin_goes_on_in_the_step_that_says_so(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epochs = [await journal.acquire(account) for account in (ACCOUNT, SPARE)]
            order = await claim(journal, await ready(journal, **GROUPED), epochs[0])
            no = step(TaskState.REJECTED, outcome="REJECTED", http_status=400, reason_code="MARGIN")
            successor = goes_on(order)
            now = await journal.hand_over(order, no, successor, now_ns=NOON_NS)
            refused = await journal.task(order.task_id)
            assert refused is not None
            assert (refused.state, refused.reason_code) == (TaskState.REJECTED, "MARGIN")
            assert await journal.lineage(refused) == [refused, now]
            now = await journal.record(now, step(TaskState.READY), now_ns=NOON_NS)
            assert (await claim(journal, now, epochs[1])).state is TaskState.SENDING

        self.run(scenario)
