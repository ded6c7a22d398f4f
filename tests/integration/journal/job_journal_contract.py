"""What every ``OrderJournal`` promises of jobs and their children; part of its contract."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from journal_values import ACCOUNT, BODY, NOON_NS, all_of, new_task, step

from ticker_service.domain.order import Account, NewTask, OrderTask, TaskKind
from ticker_service.domain.order_replay import differences, replay
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import IdempotencyConflict, InvariantViolatedError, TaskMoved
from ticker_service.ports import Admitted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ticker_service.ports import OrderJournal

FACTS = {"slices": {"1": [50, 25]}, "why": "cut"}


def new_job(**changed: Any) -> NewTask:
    return new_task(**{"kind": TaskKind.SLICES, "facts": FACTS} | changed)


def part_of(job: OrderTask, part: int = 1, **changed: Any) -> NewTask:
    key = f"{job.client_order_id}~1.{part}"
    link = {"job_id": job.task_id, "leg": 1, "slice": part, "account": job.account}
    return new_task(**{"request_id": key, "client_order_id": key} | link | changed)


async def running(journal: OrderJournal, **changed: Any) -> OrderTask:
    return (await journal.admit(new_job(**changed))).task


async def stopped(journal: OrderJournal, job: OrderTask) -> OrderTask:
    return await journal.record(job, step(TaskState.STOPPING), now_ns=NOON_NS)


class JobJournalContract:
    """``OrderJournal``: I2, I9 and what I13 rests on."""

    def open(self) -> AbstractAsyncContextManager[OrderJournal]:
        raise NotImplementedError

    def run_jobs(self, scenario: Callable[[OrderJournal], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with self.open() as journal:
                await scenario(journal)

        asyncio.run(opened())

    def test_a_job_begins_running_with_its_facts_and_is_open(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job = await running(journal, request_id="cut", client_order_id="cut")
            assert (job.state, job.version, job.facts) == (TaskState.RUNNING, 1, FACTS)
            assert await journal.open_jobs(ACCOUNT) == [job]
            assert await journal.job_of("desk", "cut") == job
            assert await journal.task_of_order("desk", "cut") is None
            assert await journal.unsent(ACCOUNT) == []
            assert await journal.tasks_of("desk", [ACCOUNT], limit=5, only_open=True) == [job]

        self.run_jobs(scenario)

    def test_an_ended_job_is_not_open_and_takes_no_further_step(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job = await stopped(journal, await running(journal))
            assert await journal.open_jobs(ACCOUNT) == [job]
            job = await journal.record(job, step(TaskState.DONE), now_ns=NOON_NS)
            assert await journal.open_jobs(ACCOUNT) == []
            for state in (TaskState.RUNNING, TaskState.READY, TaskState.FILLED):
                with pytest.raises(InvariantViolatedError):
                    await journal.record(job, step(state), now_ns=NOON_NS)

        self.run_jobs(scenario)

    def test_facts_stand_until_others_are_told(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job = await running(journal)
            job = await journal.record(job, step(TaskState.RUNNING), now_ns=NOON_NS)
            assert job.facts == FACTS
            told = step(TaskState.STOPPING, facts={"seen": 3}, reason_code="LEG_FAILED")
            job = await journal.record(job, told, now_ns=NOON_NS)
            assert (job.facts, job.reason_code) == ({"seen": 3}, "LEG_FAILED")
            assert await journal.task(job.task_id) == job

        self.run_jobs(scenario)

    def test_children_are_found_by_their_job_part_by_part(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job, other = await running(journal), await running(journal)
            late = (await journal.admit(part_of(job, 2))).task
            early = (await journal.admit(part_of(job, 1))).task
            cancel = part_of(
                job,
                1,
                kind=TaskKind.CANCEL,
                request_id="away",
                body={},
                target_task_id=early.task_id,
                received_at_ns=NOON_NS + 1_000,
            )
            cancelled = (await journal.admit(cancel)).task
            elsewhere = (await journal.admit(part_of(other))).task
            assert await journal.children_of([job.task_id]) == [early, cancelled, late]
            assert early.job_id == job.task_id
            assert (early.leg, early.slice) == (1, 1)
            both = await journal.children_of([job.task_id, other.task_id])
            assert {task.task_id for task in both} >= {elsewhere.task_id, early.task_id}
            assert await journal.children_of([]) == []

        self.run_jobs(scenario)

    def test_a_part_of_a_job_is_one_order_whatever_its_key(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job = await running(journal)
            assert (await journal.admit(part_of(job))).is_new
            assert not (await journal.admit(part_of(job))).is_new
            with pytest.raises(TaskMoved):
                await journal.admit(part_of(job, request_id="x", client_order_id="x"))
            assert len(await journal.children_of([job.task_id])) == 1

        self.run_jobs(scenario)

    def test_a_job_that_stops_takes_no_further_order_but_cancels(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job = await running(journal)
            order = (await journal.admit(part_of(job))).task
            await stopped(journal, job)
            with pytest.raises(TaskMoved):
                await journal.admit(part_of(job, 2))
            assert not (await journal.admit(part_of(job))).is_new
            away = {"kind": TaskKind.CANCEL, "body": {}, "target_task_id": order.task_id}
            assert (await journal.admit(part_of(job, 1, request_id="away", **away))).is_new

        self.run_jobs(scenario)

    def test_an_order_of_another_account_is_no_part_of_a_job(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job = await running(journal)
            with pytest.raises(TaskMoved):
                await journal.admit(part_of(job, account=Account("ZY9876")))

        self.run_jobs(scenario)

    def test_no_order_is_taken_after_its_job_has_stopped(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            for _ in range(5):
                job = await running(journal)
                calls = [journal.admit(part_of(job, part)) for part in range(1, 9)]
                outcomes = await all_of([*calls[:4], stopped(journal, job), *calls[4:]])
                taken = [each for each in outcomes if isinstance(each, Admitted)]
                assert len(await journal.children_of([job.task_id])) == len(taken)
                moved = outcomes[4]
                assert isinstance(moved, OrderTask)
                # By their numbers in the journal: none of them comes after the stop.
                log = await journal.events_after(ACCOUNT, 0, limit=1_000)
                stop = next(e for e in log if (e.task_id, e.version) == (job.task_id, 2))
                parts = {each.task.task_id for each in taken}
                assert all(e.account_seq < stop.account_seq for e in log if e.task_id in parts)

        self.run_jobs(scenario)

    @pytest.mark.parametrize("is_job_first", [True, False])
    def test_a_key_is_one_order_s_or_one_job_s(self, *, is_job_first: bool) -> None:
        async def scenario(journal: OrderJournal) -> None:
            order = new_task(request_id="k", client_order_id="k")
            job = new_job(request_id="k", client_order_id="k", body=BODY)
            first, second = (job, order) if is_job_first else (order, job)
            await journal.admit(first)
            with pytest.raises(IdempotencyConflict) as refused:
                await journal.admit(second)
            assert refused.value.field == "request_id"
            with pytest.raises(IdempotencyConflict) as refused:
                await journal.admit(
                    new_task(kind=second.kind, request_id="other", client_order_id="k")
                )
            assert refused.value.field == "client_order_id"
            assert await journal.last_seq(ACCOUNT) == 1

        self.run_jobs(scenario)

    def test_the_same_job_under_its_key_is_the_same_however_it_would_be_cut_now(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            form = {"legs.1.price": "100.4", "legs.1.quantity": "75"}
            job = await running(journal, request_id="k", client_order_id="k", body=form)
            again = new_job(
                request_id="k",
                client_order_id="k",
                body=form | {"legs.1.price": "100.40"},
                facts={"slices": {"1": [75]}},
            )
            assert await journal.admit(again) == Admitted(task=job, is_new=False)

        self.run_jobs(scenario)

    def test_a_job_and_its_children_are_what_their_events_make_of_them(self) -> None:
        async def scenario(journal: OrderJournal) -> None:
            job = await running(journal)
            child = (await journal.admit(part_of(job))).task
            told = {"facts": {"filled": 50}, "reason_code": "LEG_FAILED", "reason": "leg 1"}
            job = await journal.record(job, step(TaskState.STOPPING, **told), now_ns=NOON_NS)
            job = await journal.record(job, step(TaskState.DONE), now_ns=NOON_NS)
            log = await journal.events_after(ACCOUNT, 0, limit=100)
            for task in (job, child):
                replayed = replay(event for event in log if event.task_id == task.task_id)
                assert replayed.task == task
                assert differences(replayed, task, []) == []

        self.run_jobs(scenario)
