"""The database itself refuses what must never be, also from somebody who writes SQL by hand."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import uuid
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from failover_journal_contract import SPARE, hand_over
from journal_values import (
    ACCOUNT,
    NOON_NS,
    OPTIONS,
    claim,
    journal_at,
    new_task,
    ready,
    sending,
    step,
)

from ticker_service.adapters import postgres_journal
from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.postgres_pool import JournalOptions
from ticker_service.adapters.postgres_statements import Statements
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TRANSITIONS, TaskState
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ILLEGAL: Final = [
    (before, after)
    for before in TaskState
    for after in TaskState
    if after not in TRANSITIONS[before]
]
# How a task gets into each state, by legal steps after READY and the claim.
UNSENT_PATHS: Final[dict[TaskState, list[TaskState]]] = {
    TaskState.RECEIVED: [],
    TaskState.READY: [TaskState.READY],
    TaskState.REJECTED_LOCAL: [TaskState.REJECTED_LOCAL],
    TaskState.EXPIRED: [TaskState.EXPIRED],
    TaskState.CANCELLED_LOCAL: [TaskState.CANCELLED_LOCAL],
}
SENT_PATHS: Final[dict[TaskState, list[TaskState]]] = {
    TaskState.SENDING: [],
    TaskState.UNKNOWN: [TaskState.UNKNOWN],
    TaskState.NOT_PLACED: [TaskState.UNKNOWN, TaskState.NOT_PLACED],
    TaskState.MANUAL: [TaskState.UNKNOWN, TaskState.MANUAL],
    **{
        state: [state]
        for state in (
            TaskState.ACKED,
            TaskState.WORKING,
            TaskState.PARTIAL,
            TaskState.CANCELLED,
            TaskState.FILLED,
            TaskState.REJECTED,
        )
    },
}
JOB_PATHS: Final[dict[TaskState, list[TaskState]]] = {
    TaskState.RUNNING: [],
    TaskState.STOPPING: [TaskState.STOPPING],
    TaskState.DONE: [TaskState.DONE],
    TaskState.ESCALATED: [TaskState.ESCALATED],
}


@contextlib.contextmanager
def by_hand(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def with_journal(url: str, scenario: Callable[[PostgresJournal], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with journal_at(url) as journal:
            return await scenario(journal)

    return asyncio.run(opened())


async def one_sent(journal: PostgresJournal) -> None:
    task = await sending(journal, await journal.acquire(ACCOUNT))
    await journal.record(
        task, step(TaskState.PARTIAL, filled_quantity=25, outcome="ACKED"), now_ns=NOON_NS
    )


def test_the_database_knows_the_transitions_of_the_domain(database_url: str) -> None:
    with by_hand(database_url) as connection:
        stored = set(connection.execute("SELECT from_state, to_state FROM order_transition"))
    assert stored == {
        (before.value, after.value) for before, all_ in TRANSITIONS.items() for after in all_
    }


def test_no_state_is_left_by_a_way_that_is_not_drawn(database_url: str) -> None:
    async def one_in_each(journal: PostgresJournal) -> dict[TaskState, Any]:
        epoch = await journal.acquire(ACCOUNT)
        made = {}
        for state, path in (UNSENT_PATHS | SENT_PATHS | JOB_PATHS).items():
            if state in SENT_PATHS:
                task = await sending(journal, epoch)
            elif state in JOB_PATHS:
                task = (await journal.admit(new_task(kind=TaskKind.BASKET))).task
            else:
                task = (await journal.admit(new_task())).task
            for next_state in path:
                task = await journal.record(task, step(next_state), now_ns=NOON_NS)
            made[state] = task.task_id
        await journal.acquire(SPARE)
        over = await ready(journal, account_group="PAIR")
        await hand_over(journal, over)
        return made | {TaskState.FAILED_OVER: over.task_id}

    tasks = with_journal(database_url, one_in_each)
    assert set(tasks) == set(TaskState)
    with by_hand(database_url) as connection:
        for before, after in ILLEGAL:
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="no transition"):
                connection.execute(
                    "UPDATE order_task SET state = %s, version = version + 1 WHERE task_id = %s",
                    (after.value, tasks[before]),
                )


@pytest.mark.parametrize(
    "change",
    [
        "account = 'another'",
        "tag = 'ANOTHER'",
        "attempt = 2",
        "writer_epoch = 9",
        "send_not_after = now()",
        "kind = 'CANCEL'",
        "body = '{}'",
        "body_sha256 = sha256('')",
        "request_id = 'another'",
        "principal = 'another'",
        "client_order_id = 'another'",
        "deadline = now()",
        "created_at = now()",
        "target_task_id = task_id",
        "(job_id, leg, slice) = (task_id, 1, 1)",
        "filled_quantity = 24",
        "filled_quantity = -1",
        "average_price = 'NaN'",
        "average_price = '-Infinity'",
        "version = version + 2",
        "version = version",
    ],
)
def test_a_task_at_the_broker_keeps_what_was_sent(database_url: str, change: str) -> None:
    with_journal(database_url, one_sent)
    version = "" if change.startswith("version") else ", version = version + 1"
    with by_hand(database_url) as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute(f"UPDATE order_task SET {change}{version}")  # noqa: S608


def test_a_state_without_its_event_is_refused_at_commit(database_url: str) -> None:
    with_journal(database_url, one_sent)
    with (
        by_hand(database_url) as connection,
        pytest.raises(psycopg.errors.ForeignKeyViolation, match="order_task_has_its_event"),
    ):
        connection.execute("UPDATE order_task SET state = 'WORKING', version = version + 1")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE order_event SET data = '{}'",
        "UPDATE order_event SET account_seq = account_seq + 100",
        "DELETE FROM order_event",
        "DELETE FROM order_attempt",
        "DELETE FROM order_task",
        "DELETE FROM account_sequence",
        "DELETE FROM account_writer",
        "TRUNCATE order_task, order_attempt, order_event",
        "UPDATE order_attempt SET outcome = 'NOT_SENT'",
        "UPDATE order_attempt SET outcome = NULL, finished_at = NULL",
        "UPDATE order_attempt SET http_status = 200",
        "UPDATE order_attempt SET tag = 'ANOTHER'",
        "UPDATE account_writer SET epoch = epoch",
        "UPDATE account_sequence SET last_seq = last_seq - 1",
        "UPDATE account_sequence SET last_seq = last_seq + 2",
    ],
)
def test_what_is_written_stays_written(database_url: str, statement: str) -> None:
    with_journal(database_url, one_sent)
    with by_hand(database_url) as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute(statement)


def test_an_attempt_gets_its_outcome_once(database_url: str) -> None:
    async def twice(journal: PostgresJournal) -> None:
        task = await sending(journal, await journal.acquire(ACCOUNT))
        first = step(TaskState.WORKING, outcome="ACKED", http_status=200)
        task = await journal.record(task, first, now_ns=NOON_NS)
        await journal.record(
            task, step(TaskState.WORKING, outcome="AMBIGUOUS", http_status=500), now_ns=NOON_NS
        )

    with_journal(database_url, twice)
    with by_hand(database_url) as connection:
        found = connection.execute("SELECT outcome, http_status FROM order_attempt").fetchall()
    assert found == [("ACKED", 200)]


def test_evidence_that_outruns_the_answer_leaves_the_attempt_open_for_it(database_url: str) -> None:
    async def late_answer(journal: PostgresJournal) -> None:
        task = await sending(journal, await journal.acquire(ACCOUNT))
        task = await journal.record(task, step(TaskState.WORKING), now_ns=NOON_NS)
        await journal.record(
            task, step(TaskState.WORKING, outcome="ACKED", http_status=200), now_ns=NOON_NS
        )

    with_journal(database_url, late_answer)
    with by_hand(database_url) as connection:
        found = connection.execute("SELECT outcome, http_status FROM order_attempt").fetchall()
    assert found == [("ACKED", 200)]


def test_open_work_is_read_page_by_page_and_whole(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_journal, "PAGE_ROWS", 3)

    async def scene(journal: PostgresJournal) -> None:
        # By a clock that runs backward, and with another account's between them.
        given = []
        for number in range(9):
            new = new_task(received_at_ns=NOON_NS - number // 4 * 1_000)
            given.append((await journal.admit(new)).task)
            await journal.admit(new_task(account="OTHER"))
        for count in (9, 8, 7, 6):
            assert await journal.unsent(ACCOUNT) == given[9 - count :]
            await journal.record(given[9 - count], step(TaskState.EXPIRED), now_ns=NOON_NS)


def test_work_in_doubt_is_read_page_by_page_and_whole(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_journal, "PAGE_ROWS", 3)

    async def scene(journal: PostgresJournal) -> None:
        epoch = await journal.acquire(ACCOUNT)
        # Several of one instant: the page's end falls between two that differ by their id alone.
        given = [
            await sending(journal, epoch, received_at_ns=NOON_NS + number // 4 * 1_000)
            for number in range(9)
        ]
        inorder = sorted(given, key=lambda task: (task.created_at_ns, task.task_id))
        assert await journal.in_doubt(ACCOUNT) == inorder

    with_journal(database_url, scene)


def test_each_send_is_one_row_with_its_own_tag(database_url: str) -> None:
    async def two_sends(journal: PostgresJournal) -> None:
        epoch = await journal.acquire(ACCOUNT)
        task = await claim(journal, await ready(journal), epoch, tag="ONE")
        unsent = step(TaskState.READY, outcome="NOT_SENT")
        task = await journal.record(task, unsent, now_ns=NOON_NS)
        await claim(journal, task, epoch, tag="TWO")

    with_journal(database_url, two_sends)
    with by_hand(database_url) as connection:
        found = connection.execute(
            "SELECT attempt, tag, outcome FROM order_attempt ORDER BY attempt"
        ).fetchall()
    assert found == [(1, "ONE", "NOT_SENT"), (2, "TWO", None)]


def test_every_partial_or_unique_index_says_what_it_makes_impossible(database_url: str) -> None:
    with by_hand(database_url) as connection:
        comments = connection.execute(
            "SELECT indexrelid::regclass::text, obj_description(indexrelid, 'pg_class')"
            " FROM pg_index JOIN pg_class ON pg_class.oid = indrelid"
            " WHERE relnamespace = 'public'::regnamespace AND NOT indisprimary"
            " AND (indisunique OR indpred IS NOT NULL)"
        ).fetchall()
    assert len(comments) >= 8
    assert [name for name, comment in comments if "impossible" not in (comment or "")] == []


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("unsent_tasks", "order_task_unsent"),
        ("tasks_in_doubt", "order_task_in_doubt"),
        ("live_orders", "order_task_live"),
        ("tasks_by_order_id", "order_task_broker_order"),
        ("order_ids_since", "order_task_of_day"),
        ("orders_since", "order_task_admitted"),
        ("open_tasks_of", "order_task_unsent"),
        ("open_tasks_of", "order_task_in_doubt"),
        ("open_tasks_of", "order_task_live"),
        ("open_tasks_of", "order_task_job"),
        ("open_jobs", "order_task_job"),
        ("children_of", "order_task_child"),
        ("task_by_client_order", "order_task_named"),
        ("job_by_key", "order_task_named"),
        ("changes_of", "order_task_about"),
        ("changes_of_open", "order_task_about"),
        ("changes_of_open", "order_task_unsent"),
        ("changes_of_open", "order_task_in_doubt"),
        ("changes_of_open", "order_task_live"),
        ("dead_letters", "order_task_in_doubt"),
        ("dead_letters", "order_task_dead_letter"),
        ("task_events", "order_event_pkey"),
    ],
)
def test_open_work_is_found_without_reading_history(
    database_url: str, statement: str, index: str
) -> None:
    with by_hand(database_url) as connection:
        connection.execute("SET enable_seqscan = off")
        if index != "order_task_admitted":
            # To the planner of an empty table the index of all orders does for any of them.
            connection.execute("DROP INDEX order_task_admitted")
        if index == "order_task_broker_order":
            # To the planner of an empty table the two indexes of sent orders are alike.
            connection.execute("DROP INDEX order_task_of_day")
        if statement == "open_tasks_of":
            # Likewise the indexes of orders at rest and of all orders.
            connection.execute("DROP INDEX order_task_named")
        if statement == "dead_letters":
            connection.execute("DROP INDEX order_task_principal")
        # A plan that is kept does not know the parameters; it must do as well.
        connection.execute("SET plan_cache_mode = force_generic_plan")
        plan = connection.execute(
            b"EXPLAIN " + getattr(Statements.load(), statement),
            {
                "account": "A",
                "order_ids": ["1", "2"],
                "since": dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
                "after": dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
                "after_id": uuid.UUID(int=0),
                "after_seq": 0,
                "limit": 500,
                "accounts": ["A", "B"],
                "principal": "desk",
                "target_task_id": uuid.UUID(int=1),
                "job_ids": [uuid.UUID(int=1)],
                "client_order_id": "k",
                "task_id": uuid.UUID(int=1),
                "created_since": dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
                "failed_since": dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
            },
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert index in text
    assert "Seq Scan" not in text


def test_a_server_that_may_lose_commits_is_refused(database_url: str) -> None:
    async def opened() -> None:
        async with PostgresJournal(database_url, JournalOptions(operation_s=30.0)):
            pass

    with pytest.raises(ConfigurationError, match="fsync"):
        asyncio.run(opened())


def test_orders_are_committed_durably_whatever_the_database_prefers(database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    with by_hand(database_url) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    async def settings(journal: PostgresJournal) -> list[str]:
        asked = b"SELECT current_setting('synchronous_commit') AS setting"
        pools = (journal._orders, journal._queries)
        return [(await pool.run(asked, {}))[0]["setting"] for pool in pools]

    assert OPTIONS.orders.synchronous_commit == "on"
    assert with_journal(database_url, settings) == ["on", "off"]


def test_a_reason_that_postgres_cannot_hold_does_not_lose_the_fact(database_url: str) -> None:
    async def told(journal: PostgresJournal) -> None:
        task = await sending(journal, await journal.acquire(ACCOUNT))
        odd = step(
            TaskState.REJECTED,
            outcome="REJECTED",
            reason="no\0funds \ud800",
            facts={"nan": float("nan"), "text": "\0", "big": 2**80},
        )
        task = await journal.record(task, odd, now_ns=NOON_NS)
        assert task.reason == "no\ufffdfunds ?"
        last = (await journal.events_after(ACCOUNT, 0, limit=10))[-1]
        assert last.data["facts"] == {"nan": None, "text": "\ufffd", "big": str(2**80)}

    with_journal(database_url, told)
