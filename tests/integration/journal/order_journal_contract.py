"""What every ``OrderJournal`` promises, whatever stands behind it.

A test module inherits the contract and says how to open an empty journal.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from failover_journal_contract import FailoverJournalContract
from job_journal_contract import JobJournalContract
from journal_values import (
    ACCOUNT,
    NOON_NS,
    SECOND_NS,
    all_of,
    claim,
    new_task,
    ready,
    sending,
    step,
    tag_of,
)

from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerName, BreakerState, BreakerStep
from ticker_service.domain.halt import HaltCode, new_halt
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch
from ticker_service.domain.order import Account, OrderEvent, OrderTask, TaskKind, TaskUpdate
from ticker_service.domain.order_replay import differences, replay
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.risk import RiskDenial, risk_table
from ticker_service.errors import (
    IdempotencyConflict,
    InvariantViolatedError,
    OrderRefused,
    TaskMoved,
)
from ticker_service.ports import Admitted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.ports import OrderJournal

OTHER = Account("ZY9876")


class Told:
    """A follower that keeps what it is told."""

    def __init__(self) -> None:
        self.tasks: list[OrderTask] = []
        self.doubts: list[uuid.UUID] = []

    def moved(self, task: OrderTask) -> None:
        self.tasks.append(task)

    def doubted(self, task_id: uuid.UUID, until_ns: int) -> None:  # noqa: ARG002 - as the port
        self.doubts.append(task_id)


class OrderJournalContract(JobJournalContract, FailoverJournalContract):
    """``OrderJournal``: I2, I4, I5, I6 and I9 as far as one journal can keep them."""

    def run(self, scenario: Callable[[OrderJournal], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with self.open() as journal:
                await scenario(journal)

        asyncio.run(opened())

    def test_an_admitted_instruction_is_received_as_it_was_given(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            new = new_task(body={"price": "101.50", "quantity": "75"})
            admitted = await journal.admit(new)
            task = admitted.task
            assert admitted.is_new
            assert (task.state, task.version, task.attempt) == (TaskState.RECEIVED, 1, 0)
            assert task.body == new.body
            assert task.body_sha256 == new.body_sha256
            assert task.deadline_ns == new.deadline_ns
            assert task.created_at_ns == new.received_at_ns
            assert await journal.task(new.task_id) == task

        self.run(scenario)

    def test_the_same_key_and_body_give_the_same_task(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            first = await journal.admit(new_task(request_id="k", client_order_id="k"))
            second = await journal.admit(new_task(request_id="k", client_order_id="k"))
            assert second == Admitted(task=first.task, is_new=False)
            assert await journal.last_seq(ACCOUNT) == 1

        self.run(scenario)

    def test_a_key_is_known_with_its_body_and_only_asked_for(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            first = await journal.admit(new_task(request_id="k", client_order_id="k"))
            again = new_task(request_id="k", client_order_id="k")
            assert await journal.known(again) == first.task
            other = new_task(request_id="k", client_order_id="k", body={"quantity": "1"})
            with pytest.raises(IdempotencyConflict):
                await journal.known(other)
            assert await journal.known(new_task()) is None
            assert await journal.last_seq(ACCOUNT) == 1

        self.run(scenario)

    def test_fifty_callers_with_one_key_at_once_make_one_task(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            calls = [
                journal.admit(new_task(request_id="k", client_order_id="k")) for _ in range(50)
            ]
            outcomes = await all_of(calls)
            assert all(isinstance(outcome, Admitted) for outcome in outcomes)
            assert sum(outcome.is_new for outcome in outcomes) == 1
            assert len({outcome.task.task_id for outcome in outcomes}) == 1
            assert await journal.last_seq(ACCOUNT) == 1

        self.run(scenario)

    @pytest.mark.parametrize(
        "other",
        [
            {"body": {"quantity": "150"}},
            {"account": OTHER},
            {"kind": TaskKind.CANCEL},
            {"client_order_id": "another"},
        ],
        ids=["body", "account", "kind", "client_order_id"],
    )
    def test_the_same_key_for_something_else_is_a_conflict_without_effect(
        self, other: dict[str, Any]
    ) -> None:
        async def scenario(journal: OrderJournal) -> None:
            first = await journal.admit(new_task(request_id="k", client_order_id="k"))
            with pytest.raises(IdempotencyConflict) as refused:
                await journal.admit(new_task(**{"request_id": "k", "client_order_id": "k"} | other))
            assert (refused.value.field, refused.value.value) == ("request_id", "k")
            assert await journal.task(first.task.task_id) == first.task
            assert await journal.last_seq(ACCOUNT) == 1

        self.run(scenario)

    def test_an_order_name_of_another_request_is_a_conflict(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            await journal.admit(new_task(request_id="one", client_order_id="name"))
            with pytest.raises(IdempotencyConflict) as refused:
                await journal.admit(new_task(request_id="two", client_order_id="name"))
            assert (refused.value.field, refused.value.value) == ("client_order_id", "name")

        self.run(scenario)

    def test_a_cancel_may_name_the_order_it_speaks_of(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            order = (await journal.admit(new_task(client_order_id="name"))).task
            cancel = new_task(
                kind=TaskKind.CANCEL, client_order_id="name", body={}, target_task_id=order.task_id
            )
            assert (await journal.admit(cancel)).is_new
            assert await journal.task_of_order("desk", "name") == order

        self.run(scenario)

    def test_keys_of_two_principals_are_apart(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            for principal in ("desk", "night"):
                new = new_task(principal=principal, request_id="k", client_order_id="k")
                assert (await journal.admit(new)).is_new

        self.run(scenario)

    @pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "\ud800"])
    def test_a_name_that_cannot_be_kept_is_refused(self, name: str) -> None:
        async def scenario(journal: OrderJournal) -> None:
            with pytest.raises(OrderRefused):
                await journal.admit(new_task(request_id=name))

        self.run(scenario)

    def test_a_claim_commits_the_intent(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            task = await claim(journal, await ready(journal), epoch, tag=tag_of(1))
            assert (task.state, task.attempt, task.tag) == (TaskState.SENDING, 1, tag_of(1))
            assert task.writer_epoch == epoch
            assert task.intent_at_ns == NOON_NS + SECOND_NS
            assert task.send_not_after_ns == NOON_NS + 2 * SECOND_NS
            assert await journal.task(task.task_id) == task
            assert (await journal.tasks_by_tag(ACCOUNT, [tag_of(1)])).get(tag_of(1)) == task

        self.run(scenario)

    def test_of_twenty_claimers_one_wins(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            task = await ready(journal)
            outcomes = await all_of([claim(journal, task, epoch) for _ in range(20)])
            assert sum(isinstance(outcome, OrderTask) for outcome in outcomes) == 1
            assert sum(isinstance(outcome, TaskMoved) for outcome in outcomes) == 19

        self.run(scenario)

    @pytest.mark.parametrize("epoch_step", [-1, 1])
    def test_an_epoch_that_is_not_the_newest_claims_nothing(self, epoch_step: int) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            task = await ready(journal)
            with pytest.raises(TaskMoved):
                await claim(journal, task, epoch + epoch_step)
            assert await journal.task(task.task_id) == task

        self.run(scenario)

    def test_without_the_account_nothing_is_claimed(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            task = await ready(journal)
            await journal.release(ACCOUNT)
            with pytest.raises(TaskMoved):
                await claim(journal, task, epoch)

        self.run(scenario)

    def test_a_tag_is_used_once(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            await claim(journal, await ready(journal), epoch, tag=tag_of(1))
            other = await ready(journal)
            with pytest.raises(InvariantViolatedError):
                await claim(journal, other, epoch, tag=tag_of(1))
            assert await journal.task(other.task_id) == other

        self.run(scenario)

    def test_a_step_sets_what_it_names_and_leaves_the_rest(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            task = await sending(journal, epoch)
            acked = step(TaskState.ACKED, broker_order_id="151220", outcome="ACKED")
            task = await journal.record(task, acked, now_ns=NOON_NS + SECOND_NS)
            resting = step(TaskState.WORKING, broker_status="OPEN", reason="")
            task = await journal.record(task, resting, now_ns=NOON_NS + 2 * SECOND_NS)
            assert (task.state, task.version) == (TaskState.WORKING, 5)
            assert (task.broker_order_id, task.broker_status) == ("151220", "OPEN")
            assert task.reason == ""
            assert task.reason_code is None
            assert task.updated_at_ns == NOON_NS + 2 * SECOND_NS

        self.run(scenario)

    def test_of_twenty_steps_from_one_version_one_is_made(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            task = (await journal.admit(new_task())).task
            calls = [journal.record(task, step(TaskState.READY), now_ns=NOON_NS) for _ in range(20)]
            outcomes = await all_of(calls)
            assert sum(isinstance(outcome, OrderTask) for outcome in outcomes) == 1
            assert sum(isinstance(outcome, TaskMoved) for outcome in outcomes) == 19
            assert await journal.last_seq(ACCOUNT) == 2

        self.run(scenario)

    def test_a_step_that_is_no_transition_is_refused(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            task = (await journal.admit(new_task())).task
            with pytest.raises(InvariantViolatedError):
                await journal.record(task, step(TaskState.FILLED), now_ns=NOON_NS)
            assert await journal.task(task.task_id) == task
            assert await journal.last_seq(ACCOUNT) == 1

        self.run(scenario)

    def test_an_order_in_doubt_is_never_ready_again(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            task = await sending(journal, await journal.acquire(ACCOUNT))
            task = await journal.record(task, step(TaskState.UNKNOWN), now_ns=NOON_NS)
            for state in (TaskState.READY, TaskState.SENDING):
                with pytest.raises(InvariantViolatedError):
                    await journal.record(task, step(state), now_ns=NOON_NS)

        self.run(scenario)

    def test_a_filled_quantity_never_falls(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            task = await sending(journal, await journal.acquire(ACCOUNT))
            half = step(TaskState.PARTIAL, filled_quantity=50)
            task = await journal.record(task, half, now_ns=NOON_NS)
            with pytest.raises(InvariantViolatedError):
                await journal.record(
                    task, step(TaskState.PARTIAL, filled_quantity=49), now_ns=NOON_NS
                )
            assert await journal.task(task.task_id) == task

        self.run(scenario)

    def test_what_was_not_sent_is_sent_again_under_a_new_tag(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            task = await claim(journal, await ready(journal), epoch, tag=tag_of(1))
            unsent = step(TaskState.READY, outcome="NOT_SENT")
            task = await journal.record(task, unsent, now_ns=NOON_NS)
            assert (task.state, task.attempt, task.tag) == (TaskState.READY, 1, tag_of(1))
            task = await claim(journal, task, epoch, tag=tag_of(2))
            assert (task.attempt, task.tag) == (2, tag_of(2))
            for tag in (tag_of(1), tag_of(2)):
                assert (await journal.tasks_by_tag(ACCOUNT, [tag])).get(tag) == task

        self.run(scenario)

    @pytest.mark.parametrize("price", ["0.05", "101.50", "123456789012345.67", "99.123456789012"])
    def test_a_price_comes_back_to_the_digit(self, price: str) -> None:
        async def scenario(journal: OrderJournal) -> None:
            task = await sending(journal, await journal.acquire(ACCOUNT), body={"price": price})
            filled = step(TaskState.FILLED, filled_quantity=75, average_price=Decimal(price))
            await journal.record(task, filled, now_ns=NOON_NS)
            known = await journal.task(task.task_id)
            assert known is not None
            assert str(known.average_price) == price
            assert known.body == {"price": price}
            last = (await journal.events_after(ACCOUNT, 0, limit=100))[-1]
            assert last.data["average_price"] == price

        self.run(scenario)

    def test_the_log_of_an_account_tells_each_step_in_order(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            new = new_task(request_id="k", client_order_id="k")
            task = (await journal.admit(new)).task
            task = await journal.record(
                task, step(TaskState.READY, event="checked"), now_ns=NOON_NS
            )
            task = await claim(journal, task, epoch, tag=tag_of(1))
            refused = step(
                TaskState.REJECTED,
                event="refused",
                outcome="REJECTED",
                http_status=400,
                reason_code="BROKER_REJECTED",
                reason="Insufficient funds",
                facts={"error_type": "MarginException"},
            )
            await journal.record(task, refused, now_ns=NOON_NS)
            log = await journal.events_after(ACCOUNT, 0, limit=100)
            assert [one.event for one in log] == [
                "received",
                "checked",
                "intent_recorded",
                "refused",
            ]
            assert [one.account_seq for one in log] == [1, 2, 3, 4]
            assert [one.version for one in log] == [1, 2, 3, 4]
            assert {one.task_id for one in log} == {task.task_id}
            assert {one.client_order_id for one in log} == {"k"}
            assert len({one.event_id for one in log}) == 4
            assert log[0].data["body"] == new.body
            assert log[0].data["request_id"] == "k"
            assert log[2].data["tag"] == tag_of(1)
            assert log[3].state is TaskState.REJECTED
            assert log[3].data["reason_code"] == "BROKER_REJECTED"
            assert log[3].data["reason"] == "Insufficient funds"
            assert log[3].data["facts"] == {"error_type": "MarginException"}

        self.run(scenario)

    def test_a_task_is_what_its_events_make_of_it(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            task = await ready(journal, deadline_ns=NOON_NS + 1_234_567)
            task = await claim(journal, task, epoch)
            task = await journal.record(
                task, step(TaskState.READY, outcome="THROTTLED", http_status=429), now_ns=NOON_NS
            )
            task = await claim(journal, task, epoch)
            fill = {"filled_quantity": 50, "average_price": Decimal("118.4000")}
            says = {
                "broker_order_id": "1",
                "broker_status": "OPEN",
                "reason": "",
                "outcome": "ACKED",
            }
            now_ns = NOON_NS + 5_000_999
            task = await journal.record(
                task, step(TaskState.PARTIAL, **fill, **says), now_ns=now_ns
            )
            replayed = replay(await journal.events_after(ACCOUNT, 0, limit=100))
            assert replayed.untold == set()
            assert differences(replayed, task, replayed.attempts) == []
            assert [each.outcome for each in replayed.attempts] == ["THROTTLED", "ACKED"]

        self.run(scenario)

    def test_a_log_is_read_in_pages(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            for _ in range(7):
                await journal.admit(new_task())
            await journal.admit(new_task(account=OTHER))
            seen: list[int] = []
            while page := await journal.events_after(ACCOUNT, seen[-1] if seen else 0, limit=3):
                assert len(page) <= 3
                seen += [one.account_seq for one in page]
            assert seen == [1, 2, 3, 4, 5, 6, 7]
            assert await journal.last_seq(ACCOUNT) == 7
            assert await journal.last_seq(OTHER) == 1
            assert await journal.last_seq(Account("nobody")) == 0

        self.run(scenario)

    def test_a_reader_behind_many_writers_never_sees_a_gap(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            seen: list[int] = []

            async def follow() -> None:
                while len(seen) < 120:
                    page = await journal.events_after(ACCOUNT, len(seen), limit=1_000)
                    seen.extend(one.account_seq for one in page)

            async with asyncio.TaskGroup() as group:
                group.create_task(follow())
                for _ in range(60):
                    group.create_task(ready(journal))
            assert seen == list(range(1, 121))

        self.run(scenario)

    def test_open_work_is_found_in_its_order_and_nothing_that_has_ended(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)

            async def sent(*states: TaskState, **changed: Any) -> OrderTask:
                task = await sending(journal, epoch, **changed)
                for state in states:
                    task = await journal.record(task, step(state), now_ns=NOON_NS)
                return task

            young = await ready(journal, received_at_ns=NOON_NS + 5 * SECOND_NS)
            # Admitted later and said to be older: the wall clock was set back between the two.
            old = (await journal.admit(new_task())).task
            await journal.record(await ready(journal), step(TaskState.EXPIRED), now_ns=NOON_NS)
            doubtful = await sent(TaskState.UNKNOWN, received_at_ns=NOON_NS + SECOND_NS)
            leaving = await sent()
            live = [
                await sent(state, received_at_ns=NOON_NS + number)
                for number, state in enumerate(
                    (TaskState.ACKED, TaskState.WORKING, TaskState.PARTIAL)
                )
            ]
            for kind in (TaskKind.MODIFY, TaskKind.CANCEL):
                await sent(TaskState.ACKED, kind=kind, body={}, target_task_id=live[0].task_id)
            await sent(TaskState.WORKING, TaskState.FILLED)
            await journal.admit(new_task(account=OTHER))
            assert await journal.unsent(ACCOUNT) == [young, old]
            assert await journal.in_doubt(ACCOUNT) == [leaving, doubtful]
            assert await journal.live_orders(ACCOUNT) == sorted(
                live, key=lambda task: (task.created_at_ns, task.task_id)
            )

        self.run(scenario)

    def test_changes_count_for_open_orders_until_they_fail(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)

            async def placed(*states: TaskState) -> OrderTask:
                task = await sending(journal, epoch)
                for state in states:
                    task = await journal.record(task, step(state), now_ns=NOON_NS)
                return task

            async def changed(order: OrderTask, *states: TaskState) -> OrderTask:
                body = {"quantity": "150"}
                named = {"kind": TaskKind.MODIFY, "target_task_id": order.task_id, "body": body}
                task = await sending(journal, epoch, **named)
                for state in states:
                    task = await journal.record(task, step(state), now_ns=NOON_NS)
                return task

            at_rest, doubtful = await placed(TaskState.WORKING), await placed(TaskState.UNKNOWN)
            waiting = (await journal.admit(new_task())).task
            ended = await placed(TaskState.FILLED)
            counts = [
                await changed(at_rest),
                await changed(doubtful, TaskState.UNKNOWN),
                await changed(waiting, TaskState.ACKED),
            ]
            await changed(at_rest, TaskState.REJECTED)
            await changed(ended, TaskState.ACKED)
            await sending(journal, epoch, kind=TaskKind.CANCEL, target_task_id=at_rest.task_id)
            found = await journal.changes_of_open(ACCOUNT)
            assert {task.task_id: task for task in found} == {task.task_id: task for task in counts}
            assert await journal.changes_of_open(OTHER) == []

        self.run(scenario)

    def test_who_follows_an_account_is_told_of_every_write_to_its_tasks(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            told, others = Told(), Told()
            journal.follow(ACCOUNT, told)
            journal.follow(OTHER, others)
            epoch = await journal.acquire(ACCOUNT)
            task = await sending(journal, epoch)
            await journal.record(task, step(TaskState.ACKED), now_ns=NOON_NS)
            assert [(each.version, each.state) for each in told.tasks] == [
                (1, TaskState.RECEIVED),
                (2, TaskState.READY),
                (3, TaskState.SENDING),
                (4, TaskState.ACKED),
            ]
            assert told.tasks[-1] == await journal.task(task.task_id)
            with pytest.raises(TaskMoved):
                await journal.record(task, step(TaskState.REJECTED), now_ns=NOON_NS)
            assert len(told.tasks) == 4
            assert not others.tasks

        self.run(scenario)

    def test_who_hears_of_an_event_has_what_is_read_of_it_later(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            heard: list[OrderEvent] = []
            others: list[OrderEvent] = []
            journal.hear_events(ACCOUNT, heard.append)
            journal.hear_events(OTHER, others.append)
            epoch = await journal.acquire(ACCOUNT)
            task = await sending(journal, epoch)
            filled = step(TaskState.PARTIAL, filled_quantity=3, average_price=Decimal("101.250"))
            told = replace(filled, facts={"at_us": 1, "of": {"b": 1.5, "aa": None, "c": "é"}})
            await journal.record(task, told, now_ns=NOON_NS + 1_999)
            with pytest.raises(TaskMoved):
                await journal.record(task, step(TaskState.REJECTED), now_ns=NOON_NS)
            again = new_task(request_id=task.request_id, client_order_id=task.client_order_id)
            assert not (await journal.admit(again)).is_new
            assert heard == await journal.events_after(ACCOUNT, 0, limit=10)
            assert [event.account_seq for event in heard] == [1, 2, 3, 4]
            assert not others

        self.run(scenario)

    def test_our_orders_are_found_by_the_broker_s_ids_and_by_their_day(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)

            async def placed(order_id: str | None, **changed: Any) -> OrderTask:
                task = await sending(journal, epoch, **changed)
                acked = step(TaskState.ACKED, broker_order_id=order_id)
                return await journal.record(task, acked, now_ns=NOON_NS)

            one, two = await placed("1"), await placed("2")
            await placed(None)
            await placed("1", kind=TaskKind.CANCEL, body={}, target_task_id=one.task_id)
            found = await journal.tasks_by_order_id(ACCOUNT, ["2", "1", "9"])
            assert {task.task_id for task in found} == {one.task_id, two.task_id}
            assert await journal.tasks_by_order_id(ACCOUNT, []) == []
            assert await journal.tasks_by_order_id(OTHER, ["1"]) == []
            sent_ns = one.intent_at_ns or 0
            assert await journal.order_ids_since(ACCOUNT, sent_ns) == {"1", "2"}
            assert await journal.order_ids_since(ACCOUNT, sent_ns + SECOND_NS) == set()

        self.run(scenario)

    def test_what_was_never_sent_is_not_at_the_broker_and_what_was_called_unsent_may_be(
        self,
    ) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            fresh = await ready(journal)
            with pytest.raises(InvariantViolatedError):
                await journal.record(fresh, step(TaskState.WORKING), now_ns=NOON_NS)
            unsent = step(TaskState.READY, outcome="NOT_SENT")
            tried = await journal.record(await sending(journal, epoch), unsent, now_ns=NOON_NS)
            found = await journal.record(tried, step(TaskState.WORKING), now_ns=NOON_NS)
            assert found.state is TaskState.WORKING

        self.run(scenario)

    def test_a_price_below_zero_is_kept(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            task = await sending(journal, await journal.acquire(ACCOUNT))
            filled = step(TaskState.FILLED, filled_quantity=1, average_price=Decimal("-37.63"))
            task = await journal.record(task, filled, now_ns=NOON_NS)
            assert task.average_price == Decimal("-37.63")

        self.run(scenario)

    def test_a_caller_sees_its_newest_tasks_on_the_accounts_it_names(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            for number in range(4):
                await journal.admit(new_task(received_at_ns=NOON_NS + number))
                await journal.admit(
                    new_task(client_order_id=f"n{number}", received_at_ns=NOON_NS + number * 1_000)
                )
            await journal.admit(new_task(account=OTHER, client_order_id="elsewhere"))
            await journal.admit(new_task(principal="night", client_order_id="theirs"))
            newest = await journal.tasks_of("desk", [ACCOUNT], limit=2)
            assert [task.client_order_id for task in newest] == ["n3", "n2"]
            assert len(await journal.tasks_of("desk", [ACCOUNT], limit=100)) == 8
            assert len(await journal.tasks_of("desk", [ACCOUNT, OTHER], limit=100)) == 9
            assert await journal.tasks_of("desk", [], limit=100) == []

        self.run(scenario)

    def test_a_caller_sees_what_is_open_and_how_the_changes_of_an_order_ended(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)

            async def sent(second: int, state: TaskState, **changed: Any) -> OrderTask:
                at_ns = NOON_NS + second * SECOND_NS
                task = await sending(journal, epoch, received_at_ns=at_ns, **changed)
                return await journal.record(task, step(state, outcome="ACKED"), now_ns=at_ns)

            order = await sent(1, TaskState.WORKING)
            about = {"target_task_id": order.task_id, "client_order_id": order.client_order_id}
            change = await sent(2, TaskState.ACKED, kind=TaskKind.MODIFY, body={}, **about)
            cancel = await sent(3, TaskState.REJECTED, kind=TaskKind.CANCEL, body={}, **about)
            await sent(4, TaskState.FILLED)
            doubt = await sent(5, TaskState.UNKNOWN)
            await journal.admit(new_task(principal="night"))
            unsent = (await journal.admit(new_task(received_at_ns=NOON_NS + 6 * SECOND_NS))).task
            found = await journal.tasks_of("desk", [ACCOUNT, OTHER], limit=10, only_open=True)
            assert found == [unsent, doubt, order]
            assert await journal.tasks_of("desk", [ACCOUNT], limit=2, only_open=True) == found[:2]
            assert await journal.tasks_of("desk", [OTHER], limit=10, only_open=True) == []
            assert await journal.changes_of(order.task_id, limit=10) == [cancel, change]
            assert await journal.changes_of(order.task_id, limit=1) == [cancel]
            assert await journal.changes_of(cancel.task_id, limit=10) == []

        self.run(scenario)

    def test_what_may_need_a_person_is_found_by_state_and_age(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)

            async def sent(second: int, *states: TaskState, **changed: Any) -> OrderTask:
                at_ns = NOON_NS + second * SECOND_NS
                task = await sending(journal, epoch, received_at_ns=at_ns, **changed)
                for state in states:
                    task = await journal.record(task, step(state), now_ns=at_ns)
                return task

            doubt = await sent(1, TaskState.UNKNOWN)
            await sent(2, TaskState.UNKNOWN, TaskState.MANUAL)
            await sent(3, TaskState.REJECTED)
            lost = await sent(4, TaskState.UNKNOWN, TaskState.MANUAL)
            failed = await sent(5, TaskState.REJECTED)
            unplaced = await sent(6, TaskState.UNKNOWN, TaskState.NOT_PLACED)
            await sent(7, TaskState.FILLED)
            await sent(8)
            since = {"created_since_ns": NOON_NS + 4 * SECOND_NS}
            since["failed_since_ns"] = NOON_NS + 5 * SECOND_NS
            found = await journal.dead_letters(ACCOUNT, limit=10, **since)
            assert found == [lost, doubt, unplaced, failed]
            # However much has failed since, it does not take the place of what is in doubt.
            assert await journal.dead_letters(ACCOUNT, limit=2, **since) == found[:2]
            since["failed_since_ns"] = NOON_NS + 6 * SECOND_NS
            assert failed not in await journal.dead_letters(ACCOUNT, limit=10, **since)
            assert await journal.dead_letters(OTHER, limit=10, **since) == []

        self.run(scenario)

    def test_a_person_s_word_ends_what_no_evidence_settled_and_is_told_with_who_and_why(
        self,
    ) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            facts = {"by_whom": "night", "why": "looked"}
            task = await sending(journal, epoch, facts=facts)
            for state in (TaskState.UNKNOWN, TaskState.MANUAL):
                task = await journal.record(task, step(state), now_ns=NOON_NS)
            said = TaskUpdate(state=TaskState.NOT_PLACED, event="marked_not_placed", facts=facts)
            task = await journal.record(task, said, now_ns=NOON_NS)
            events = await journal.events_of(task.task_id, limit=10)
            assert [event.version for event in events] == list(range(1, task.version + 1))
            assert events[0].data["facts"] == events[-1].data["facts"] == facts
            assert await journal.events_of(task.task_id, limit=1) == events[:1]
            assert await journal.events_of(uuid.uuid4(), limit=1) == []
            assert await journal.task_of_request(task.principal, task.request_id) == task
            assert await journal.task_of_request("nobody", task.request_id) is None

        self.run(scenario)

    def test_an_order_that_the_journal_had_lost_begins_where_the_broker_has_it(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            new = new_task(facts={"by_whom": "night", "why": "restored"})
            shown = TaskUpdate(
                state=TaskState.PARTIAL,
                event="orphan_adopted",
                broker_order_id="261121000000077",
                broker_status="OPEN",
                filled_quantity=25,
                average_price=Decimal("100.05"),
            )
            sent = {"tag": "T0ORPHAN1", "sent_at_ns": NOON_NS - SECOND_NS}
            adopted = await journal.adopt_orphan(new, shown, **sent)
            task = adopted.task
            assert (adopted.is_new, task.state, task.version) == (True, TaskState.PARTIAL, 1)
            assert (task.attempt, task.tag, task.writer_epoch) == (1, "T0ORPHAN1", epoch)
            assert (task.filled_quantity, task.average_price) == (25, Decimal("100.05"))
            assert (await journal.adopt_orphan(new, shown, **sent)).is_new is False
            assert await journal.tasks_by_tag(ACCOUNT, ["T0ORPHAN1"]) == {"T0ORPHAN1": task}
            assert await journal.live_orders(ACCOUNT) == [task]
            assert await journal.unsent(ACCOUNT) == []
            assert await journal.placed_since(ACCOUNT, NOON_NS - 2 * SECOND_NS) == 1
            with pytest.raises(TaskMoved):
                await journal.adopt_orphan(new_task(), shown, **sent)
            named = new_task(client_order_id=new.client_order_id, request_id="other")
            with pytest.raises(IdempotencyConflict):
                await journal.adopt_orphan(named, shown, **sent | {"tag": "T0ORPHAN2"})
            task = await journal.record(task, step(TaskState.FILLED), now_ns=NOON_NS)
            events = await journal.events_of(task.task_id, limit=10)
            assert [event.event for event in events][:1] == ["orphan_adopted"]
            replayed = replay(events)
            assert replayed.task == task
            assert [each.outcome for each in replayed.attempts] == ["ADOPTED"]
            with pytest.raises(TaskMoved):
                await journal.adopt_orphan(new_task(account=OTHER), shown, **sent)

        self.run(scenario)

    def test_what_is_not_there_is_none(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            assert await journal.task(uuid.uuid4()) is None
            assert await journal.task_of_order("desk", "nothing") is None
            assert (await journal.tasks_by_tag(ACCOUNT, [tag_of(1)])).get(tag_of(1)) is None

        self.run(scenario)

    def test_a_sink_goes_on_where_it_was_and_never_back(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            assert await journal.delivered_seq(ACCOUNT, "redis") == 0
            for reached, known in ((5, 5), (9, 9), (7, 9)):
                await journal.set_delivered(ACCOUNT, "redis", reached)
                assert await journal.delivered_seq(ACCOUNT, "redis") == known
            assert await journal.delivered_seq(ACCOUNT, "log") == 0
            assert await journal.delivered_seq(OTHER, "redis") == 0

        self.run(scenario)

    def test_a_halt_stands_until_it_is_lifted_and_may_come_again(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            wrong_ip = new_halt(ACCOUNT, HaltCode.WRONG_IP, "no such IP", now_ns=NOON_NS)
            limit = new_halt(ACCOUNT, HaltCode.BROKER_ORDER_LIMIT, "5,000", now_ns=NOON_NS)
            for halt in (wrong_ip, limit, wrong_ip):
                await journal.halt(halt)
            assert await journal.halts(ACCOUNT) == [limit, wrong_ip]
            assert await journal.halts(OTHER) == []
            tomorrow_ns = limit.until_ns or 0
            lifted = await journal.lift_halts(ACCOUNT, by_whom="me", now_ns=tomorrow_ns)
            assert lifted == [wrong_ip]
            assert await journal.lift_halts(ACCOUNT, by_whom="me", now_ns=tomorrow_ns) == []
            after = await journal.halts(ACCOUNT)
            assert after == [limit, replace(wrong_ip, lifted_at_ns=tomorrow_ns)]
            assert not any(halt.stands(tomorrow_ns) for halt in after)
            again = new_halt(ACCOUNT, HaltCode.WRONG_IP, "again", now_ns=tomorrow_ns)
            await journal.halt(again)
            assert await journal.halts(ACCOUNT) == [limit, again]

        self.run(scenario)

    def test_what_the_broker_may_have_counted_is_told_by_account_instant_and_outcome(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch, other = await journal.acquire(ACCOUNT), await journal.acquire(OTHER)
            sent_ns = NOON_NS + SECOND_NS
            assert await journal.placed_since(ACCOUNT, 0) == 0
            assert await journal.sends_since(ACCOUNT, 0) == []
            counted: list[OrderTask] = []
            for state, outcome in (
                (TaskState.READY, "NOT_SENT"),
                (TaskState.READY, "THROTTLED"),
                (TaskState.READY, "REJECTED_AUTH"),
                (TaskState.REJECTED, "REJECTED"),
                (TaskState.UNKNOWN, "AMBIGUOUS"),
                (TaskState.ACKED, "ACKED"),
            ):
                task = await sending(journal, epoch)
                named = "261121000000001" if state is TaskState.ACKED else None
                update = step(state, outcome=outcome, broker_order_id=named)
                counted.append(await journal.record(task, update, now_ns=sent_ns))
            await sending(journal, epoch)  # its outcome is still to come
            await sending(journal, other, account=OTHER)
            cancel = {"kind": TaskKind.CANCEL, "target_task_id": counted[-1].task_id}
            await sending(journal, epoch, body={}, **cancel)
            assert await journal.placed_since(ACCOUNT, sent_ns) == 4
            assert await journal.placed_since(ACCOUNT, sent_ns + SECOND_NS) == 0
            kinds = [sent.kind for sent in await journal.sends_since(ACCOUNT, sent_ns)]
            assert sorted(kinds) == ["CANCEL", *["PLACE"] * 6]
            assert {sent.at_ns for sent in await journal.sends_since(ACCOUNT, 0)} == {sent_ns}
            assert await journal.placed_since(OTHER, sent_ns) == 1

        self.run(scenario)

    def test_the_changes_of_one_order_that_the_broker_may_have_counted_are_told(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epoch = await journal.acquire(ACCOUNT)
            first, second = [await ready(journal), await ready(journal)]
            for target, outcomes in ((first, ("ACKED", "THROTTLED", None)), (second, ("ACKED",))):
                for outcome in outcomes:
                    change = {"kind": TaskKind.MODIFY, "target_task_id": target.task_id}
                    task = await sending(journal, epoch, **change)
                    if outcome is not None:
                        state = TaskState.ACKED if outcome == "ACKED" else TaskState.READY
                        await journal.record(task, step(state, outcome=outcome), now_ns=NOON_NS)
            assert await journal.changes_sent(first.task_id) == 2
            assert await journal.changes_sent(second.task_id) == 1
            assert await journal.changes_sent(uuid.uuid4()) == 0

        self.run(scenario)

    def test_risk_limits_are_kept_when_they_change_and_only_then(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            first, second = risk_table({"order_lots_max": 2}), risk_table({"order_lots_max": 3})
            for number, table in enumerate((first, first, second, first)):
                await journal.keep_risk_limits(table, now_ns=NOON_NS + number * SECOND_NS)
            kept = await journal.risk_limits(limit=10)
            assert [each.version for each in kept] == [
                first.version,
                second.version,
                first.version,
            ]
            assert kept[1].said == {"order_lots_max": 3}
            assert kept[1].at_ns == NOON_NS + 2 * SECOND_NS
            assert await journal.risk_limits(limit=1) == kept[:1]

        self.run(scenario)

    def test_denials_are_kept_with_their_numbers_newest_first(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            denials = [
                RiskDenial(
                    account=account,
                    at_ns=NOON_NS + number * SECOND_NS,
                    principal="desk",
                    client_order_id=f"order-{number}",
                    kind="PLACE",
                    code="RISK_ORDER_LOTS",
                    field="order.quantity",
                    value="225",
                    limit="2",
                    rule="must be at most 2 lots",
                    version="abc",
                    numbers={"lots": "3"},
                )
                for number, account in enumerate((ACCOUNT, OTHER, ACCOUNT))
            ]
            for each in denials:
                await journal.keep_risk_denial(each)
            assert await journal.risk_denials(ACCOUNT, limit=10) == [denials[2], denials[0]]
            assert await journal.risk_denials(ACCOUNT, limit=1) == [denials[2]]

        self.run(scenario)

    def test_the_newest_orders_since_an_instant_are_told_oldest_first(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            times = [NOON_NS + number * SECOND_NS for number in range(4)]
            news = [new_task(received_at_ns=at_ns) for at_ns in times]
            orders = [(await journal.admit(each)).task for each in news]
            await journal.admit(new_task(account=OTHER, received_at_ns=times[3]))
            cancel = {"kind": TaskKind.CANCEL, "target_task_id": orders[3].task_id, "body": {}}
            await journal.admit(new_task(received_at_ns=times[3], **cancel))
            found = await journal.orders_since(ACCOUNT, times[1], limit=10)
            assert [each.task_id for each in found] == [each.task_id for each in orders[1:]]
            assert [each.at_ns for each in found] == times[1:]
            (newest,) = await journal.orders_since(ACCOUNT, 0, limit=1)
            named = (newest.principal, newest.client_order_id, newest.job_id, newest.body)
            assert named == (news[3].principal, news[3].client_order_id, None, news[3].body)

        self.run(scenario)

    def test_the_best_of_an_accounts_day_is_kept_and_never_falls(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            day, next_day = dt.date(2026, 11, 20), dt.date(2026, 11, 23)
            assert await journal.day_best(ACCOUNT, day) == 0
            for best in ("2500.05", "3000.10", "1000"):
                await journal.keep_day_best(ACCOUNT, day, Decimal(best))
            assert await journal.day_best(ACCOUNT, day) == Decimal("3000.10")
            assert await journal.day_best(OTHER, day) == 0
            assert await journal.day_best(ACCOUNT, next_day) == 0

        self.run(scenario)

    def test_a_breaker_stands_as_it_was_kept_last_for_as_long_as_the_journal_says(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            assert await journal.breakers(ACCOUNT) == []
            shut, opened = BreakerState.CLOSED, BreakerState.OPEN
            for account, name, after in (
                (ACCOUNT, BreakerName.ORDERS, opened),
                (ACCOUNT, BreakerName.ORDERS, shut),
                (ACCOUNT, BreakerName.READS, opened),
                (OTHER, BreakerName.ORDERS, opened),
            ):
                step = BreakerStep(
                    account=account, breaker=name, before=shut, after=after, failures=5
                )
                await journal.keep_breaker(step)
            await asyncio.sleep(0.05)
            told = {kept.breaker: kept for kept in await journal.breakers(ACCOUNT)}
            assert {name: kept.state for name, kept in told.items()} == {
                BreakerName.ORDERS: shut,
                BreakerName.READS: opened,
            }
            assert 0.04 < told[BreakerName.READS].age_s < 60.0

        self.run(scenario)

    @pytest.mark.parametrize("scope", ["all", "account:MAIN", "group:PAIR"])
    def test_a_kill_switch_is_thrown_once_and_released_once(self, scope: str) -> None:
        async def scenario(journal: OrderJournal) -> None:
            here, there = _switch(scope, 1), _switch("symbol:NSE:M&M", 2)
            for each in (here, there, here):
                await journal.keep_kill_switch(each)
            assert await journal.kill_switches() == [here, there]
            later_ns = NOON_NS + NS_PER_S
            (released,) = await journal.release_kill_switches(
                here.scope, by_whom="me", now_ns=later_ns
            )
            assert released == replace(here, released_ns=later_ns, released_by="me")
            assert await journal.release_kill_switches(here.scope, by_whom="b", now_ns=1) == []
            await journal.keep_kill_switch(here)
            assert await journal.kill_switches() == [released, there]

        self.run(scenario)

    def test_each_acquire_is_a_later_epoch(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            epochs = [await journal.acquire(ACCOUNT), await journal.acquire(ACCOUNT)]
            await journal.release(ACCOUNT)
            epochs.append(await journal.acquire(ACCOUNT))
            assert epochs == sorted(set(epochs))
            await journal.release(OTHER)

        self.run(scenario)


def _switch(scope: str, number: int) -> KillSwitch:
    return KillSwitch(
        switch_id=uuid.UUID(int=number),
        scope=KillScope.of(scope),
        level=KillLevel.CANCEL_ALL,
        why="why",
        by_whom="me",
        since_ns=NOON_NS + number * 1_000,
    )
