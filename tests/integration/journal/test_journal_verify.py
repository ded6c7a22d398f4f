"""`journal verify`: what was changed behind the journal's back is named, and nothing else is."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import journal_story
import pytest
from journal_values import ACCOUNT, NOON_NS, all_of, journal_at, sending, step
from prometheus_client.parser import text_string_to_metric_families
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from tampering import FILLED, GOLDEN, load_golden, of_filled, tamper, unguarding

from app.fresh_databases import fresh_database
from ticker_service.adapters import postgres_audit
from ticker_service.assembly import watch_journal
from ticker_service.config import AccountConfig, OrderHalfConfig
from ticker_service.domain.journal_audit import FaultCode
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ticker_service.domain.journal_audit import Audit, JournalFault

SECONDS_MAX: Final = 60.0


@pytest.fixture
def told_url(database_url: str) -> str:
    """The address of a database that holds the golden story."""
    asyncio.run(journal_story.tell(database_url))
    return database_url


def verify(url: str, account: str | None = None) -> Audit:
    return asyncio.run(postgres_audit.verify(url, account))


@pytest.fixture(scope="module")
def story_url(template_url: str) -> Iterator[str]:
    """The address of a database with the golden story, in which nothing is ever committed."""
    with fresh_database(template_url) as url:
        asyncio.run(journal_story.tell(url))
        yield url


def found(url: str, *statements: str) -> list[JournalFault]:
    """Return what is found after some tampering, which is then undone."""

    async def scene() -> list[JournalFault]:
        async with await AsyncConnection.connect(url, row_factory=dict_row) as connection:
            for statement in (*unguarding(keys=True), *statements):
                await connection.execute(of_filled(statement))
            audit = await postgres_audit.look_through(connection, None)
            await connection.rollback()
        return audit.faults

    return asyncio.run(scene())


def test_a_journal_that_nobody_touched_is_sound(told_url: str) -> None:
    audit = verify(told_url)
    assert audit.is_sound
    assert (audit.events, audit.tasks, audit.attempts, audit.untold_tasks) == (53, 14, 9, 0)
    assert {name: (each.events, each.tasks) for name, each in audit.accounts.items()} == {
        ACCOUNT: (39, 10),
        journal_story.OTHER: (4, 1),
        journal_story.LEFT: (5, 1),
        journal_story.STANDBY: (2, 1),
        journal_story.NIGHT: (3, 1),
    }


def test_an_empty_journal_is_sound(database_url: str) -> None:
    assert verify(database_url).is_sound


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("state", "'WORKING'"),
        ("kind", "'CANCEL'"),
        ("account", "'ANOTHER'"),
        ("principal", "'another'"),
        ("request_id", "'another'"),
        ("client_order_id", "'another'"),
        ("body", "'{}'"),
        ("body_sha256", "sha256('')"),
        ("version", "6"),
        ("attempt", "2"),
        ("tag", "'ANOTHER'"),
        ("writer_epoch", "NULL"),
        ("deadline", "deadline + interval '1 microsecond'"),
        ("send_not_after", "NULL"),
        ("intent_at", "intent_at - interval '1 day'"),
        ("broker_order_id", "'260101000000002'"),
        ("broker_status", "'OPEN'"),
        ("filled_quantity", "74"),
        ("average_price", "average_price + 0.0000000000000001"),
        ("reason_code", "''"),
        ("reason", "'for no reason'"),
        ("target_task_id", "task_id"),
        ("created_at", "created_at + interval '1 microsecond'"),
        ("updated_at", "now()"),
    ],
)
def test_a_column_of_a_task_that_was_changed_is_named_and_nothing_else(
    story_url: str, column: str, value: str
) -> None:
    [fault] = found(
        story_url,
        # Some of these values break rules that hold without triggers; nobody is stopped from that.
        "ALTER TABLE order_task DROP CONSTRAINT order_task_check, DROP CONSTRAINT order_task_check1",
        f"UPDATE order_task SET {column} = {value} WHERE THIS",  # noqa: S608
    )
    assert (fault.code, fault.field) == (FaultCode.TASK_DIFFERS, column)
    assert (fault.where, str(fault.task_id)) == ("task filled version 7", FILLED)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("account", "'ANOTHER'"),
        ("tag", "'ANOTHER'"),
        ("body_sha256", "sha256('')"),
        ("intent_at", "now()"),
        ("send_not_after", "now()"),
        ("outcome", "'REJECTED'"),
        ("http_status", "NULL"),
        ("finished_at", "now()"),
    ],
)
def test_a_column_of_an_attempt_that_was_changed_is_named_and_nothing_else(
    story_url: str, column: str, value: str
) -> None:
    statement = f"UPDATE order_attempt SET {column} = {value} WHERE THIS"  # noqa: S608
    [fault] = found(story_url, statement)
    assert (fault.code, fault.field) == (FaultCode.ATTEMPT_DIFFERS, column)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM order_task WHERE THIS", {FaultCode.TASK_MISSING}),
        ("DELETE FROM order_attempt WHERE THIS", {FaultCode.ATTEMPT_MISSING}),
        (
            "DELETE FROM order_event WHERE THIS AND version = 4",
            {FaultCode.SEQUENCE_GAP, FaultCode.VERSION_GAP},
        ),
        (
            "DELETE FROM order_event WHERE THIS",
            {
                FaultCode.SEQUENCE_GAP,
                FaultCode.TASK_UNEXPLAINED,
                FaultCode.ATTEMPT_UNEXPLAINED,
            },
        ),
        (
            "DELETE FROM order_event WHERE account = 'AB9876' AND account_seq = 4",
            {FaultCode.SEQUENCE_HEAD, FaultCode.TASK_DIFFERS},
        ),
        ("UPDATE account_sequence SET last_seq = 7", {FaultCode.SEQUENCE_HEAD}),
        (
            "INSERT INTO event_delivery VALUES ('AB9876', 'redis', 5)",
            {FaultCode.CURSOR_AHEAD},
        ),
        (
            "UPDATE account_writer SET epoch = 1 WHERE account = 'AB9876'",
            {FaultCode.EPOCH_AHEAD},
        ),
        (
            "UPDATE order_event SET data = data || '{\"writer_epoch\": 9}' WHERE THIS AND version = 3",
            {
                FaultCode.EPOCH_FELL,
                FaultCode.EPOCH_AHEAD,
                FaultCode.TASK_DIFFERS,
                FaultCode.ATTEMPT_DIFFERS,
            },
        ),
        (
            "UPDATE order_event SET data = data - 'state' WHERE THIS AND version = 5",
            {FaultCode.UNREADABLE},
        ),
        (
            "UPDATE order_event SET data = '[]' WHERE THIS AND version = 1",
            {FaultCode.UNREADABLE},
        ),
        (
            "UPDATE order_event SET state = 'NOWHERE' WHERE THIS AND version = 5",
            {FaultCode.UNREADABLE},
        ),
        (
            "UPDATE order_event SET event_version = 9 WHERE THIS AND version = 5",
            {FaultCode.TOO_NEW},
        ),
        (
            (
                "UPDATE order_event SET state = 'READY', data = data || '{\"state\": \"READY\"}'"
                " WHERE THIS AND version = 5"
            ),
            {FaultCode.NO_TRANSITION},
        ),
        (
            "UPDATE order_event SET data = data || '{\"filled_quantity\": 20}' WHERE THIS AND version = 7",
            {FaultCode.FILLS_FELL},
        ),
    ],
)
def test_what_was_lost_or_forged_is_called_by_its_name(
    story_url: str, statement: str, expected: set[FaultCode]
) -> None:
    assert {fault.code for fault in found(story_url, statement)} == expected


def test_one_account_is_looked_at_alone(told_url: str) -> None:
    tamper(told_url, "UPDATE order_task SET reason = 'x' WHERE THIS")
    other = verify(told_url, journal_story.OTHER)
    assert (other.is_sound, other.events, other.tasks) == (True, 4, 1)
    assert verify(told_url, ACCOUNT).fault_count == 1
    with pytest.raises(ConfigurationError, match="no such account"):
        verify(told_url, "NOBODY")


def test_a_short_look_takes_the_newest_events_and_their_whole_tasks(told_url: str) -> None:
    def newest(events: int) -> Audit:
        return asyncio.run(postgres_audit.verify(told_url, ACCOUNT, newest=events))

    # Whole tasks: the first of these events is not the first of its task.
    short = newest(3)
    assert (short.is_sound, short.events, short.tasks) == (True, 4, 2)
    assert newest(1_000).events == 39
    tamper(told_url, "UPDATE order_task SET reason = 'x' WHERE THIS")
    assert newest(3).is_sound
    assert newest(1_000).fault_count == 1
    tamper(
        told_url, "DELETE FROM order_event WHERE account = 'ZX1234' AND account_seq = 38", keys=True
    )
    assert {fault.code for fault in newest(3).faults} == {
        FaultCode.SEQUENCE_GAP,
        FaultCode.TASK_DIFFERS,
    }


def test_of_very_many_faults_the_first_are_told_and_all_are_counted(
    told_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ticker_service.domain.journal_audit.FAULTS_KEPT_MAX", 3)
    tamper(told_url, "UPDATE order_task SET reason = 'x'")
    audit = verify(told_url)
    assert (len(audit.faults), audit.fault_count) == (3, 14)


def test_a_journal_is_read_in_pages_and_whole(
    told_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rows in (1, 2, 7):
        monkeypatch.setattr(postgres_audit, "PAGE_ROWS", rows)
        audit = verify(told_url)
        assert (audit.is_sound, audit.events, audit.attempts) == (True, 53, 9)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("v*.json")), ids=lambda file: file.stem)
def test_a_journal_that_an_older_program_left_is_sound_after_the_upgrade(
    database_url: str, file: Path
) -> None:
    load_golden(database_url, file)
    audit = verify(database_url)
    assert audit.faults == []
    assert audit.events == {"v1": 34, "v2": 34, "v3": 43, "v4": 50, "v5": 53}[file.stem]
    assert audit.untold_tasks == (8 if file.stem == "v1" else 0)


def test_a_journal_that_is_written_meanwhile_is_sound_at_every_instant(database_url: str) -> None:
    async def scene() -> None:
        is_over = asyncio.Event()
        async with journal_at(database_url) as journal:
            epoch = await journal.acquire(ACCOUNT)

            async def trade() -> None:
                while not is_over.is_set():
                    task = await sending(journal, epoch)
                    task = await journal.record(
                        task,
                        step(TaskState.PARTIAL, filled_quantity=25, outcome="ACKED"),
                        now_ns=NOON_NS,
                    )
                    done = step(TaskState.FILLED, filled_quantity=75)
                    await journal.record(task, done, now_ns=NOON_NS)

            async def look() -> list[Audit]:
                async with asyncio.timeout(SECONDS_MAX):
                    audits = [await postgres_audit.verify(database_url) for _ in range(10)]
                    while audits[-1].events <= audits[0].events:
                        audits.append(await postgres_audit.verify(database_url))
                is_over.set()
                return audits

            *traded, audits = await all_of([*(trade() for _ in range(6)), look()])
        assert traded == [None] * 6
        assert [fault for audit in audits for fault in audit.faults] == []
        events = [audit.events for audit in audits]
        assert all(before <= after for before, after in itertools.pairwise(events))

    asyncio.run(scene())


def test_a_running_daemon_shows_what_its_next_look_finds(told_url: str) -> None:
    accounts = tuple(
        AccountConfig(account=name, user_id="AB1234", api_key="key", api_secret="of no account")
        for name in ("UNUSED", ACCOUNT, journal_story.OTHER)
    )
    config = OrderHalfConfig(
        database_url=told_url,
        redis_url="",
        channel_prefix="",
        rest_root="",
        route_prefix="",
        accounts=accounts,
        kill_switch_file=Path("of-no-daemon"),
        requires_durable_storage=False,
    )
    surroundings = Surroundings(
        clock=SystemClock(),
        chance=random.Random(1),  # noqa: S311 - nothing secret
        telemetry=Telemetry(),
    )

    def shown() -> dict[str, float]:
        text = surroundings.telemetry.exposition().decode()
        return {
            sample.labels["account"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "journal_faults"
        }

    told: list[JournalFault] = []

    async def scene() -> None:
        async with asyncio.timeout(SECONDS_MAX), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(
                watch_journal(config, surroundings, on_fault=told.append, every_s=0.01)
            )
            await asyncio.sleep(0)
            assert shown() == {"UNUSED": 0, ACCOUNT: 0, journal_story.OTHER: 0}
            await asyncio.to_thread(
                tamper, told_url, "UPDATE order_task SET reason = 'x' WHERE account = 'AB9876'"
            )
            while shown()[journal_story.OTHER] != 1:  # noqa: ASYNC110 - a metric rings no bell
                await asyncio.sleep(0.01)
            assert shown()[ACCOUNT] == 0
            while not told:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
            assert (told[0].account, told[0].code) == (journal_story.OTHER, "TASK_DIFFERS")
            watching.cancel()

    asyncio.run(scene())


# --- from the shell ------------------------------------------------------------------------------


def shell(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "journal", *words],
        env={**os.environ, "DATABASE_URL": url, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def test_from_the_shell_a_sound_journal_is_status_zero(told_url: str) -> None:
    ran = shell(told_url, "verify")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "ok    53 events of 14 tasks and 9 attempts replayed in" in ran.stdout
    ran = shell(told_url, "verify", "--json", "--account", ACCOUNT)
    answer = json.loads(ran.stdout)
    assert (ran.returncode, answer["is_sound"], answer["events"]) == (0, True, 39)
    assert answer["accounts"] == [
        {"account": ACCOUNT, "events": 39, "last_seq": 39, "tasks": 10, "faults": 0}
    ]


def test_from_the_shell_a_fault_is_status_one_with_what_to_do(told_url: str) -> None:
    tamper(told_url, "UPDATE order_task SET filled_quantity = 74 WHERE THIS")
    ran = shell(told_url, "verify")
    assert ran.returncode == 1
    assert (
        "FAULT account ZX1234: TASK_DIFFERS: task filled version 7: filled_quantity:"
        " by its events 75, found 74"
    ) in ran.stdout
    assert "-> tables say otherwise than the events (accounts ZX1234)" in ran.stdout
    ran = shell(told_url, "verify", "--json")
    answer = json.loads(ran.stdout)
    assert (ran.returncode, answer["fault_count"]) == (1, 1)
    [fault] = answer["faults"]
    assert (fault["field"], fault["told"], fault["found"]) == ("filled_quantity", "75", "74")
    assert not fault["in_events"]


def test_from_the_shell_an_account_that_is_none_is_one_line(told_url: str) -> None:
    ran = shell(told_url, "verify", "--account", "NOBODY")
    assert ran.returncode == 2
    assert ran.stderr == (
        "ticker-service: account='NOBODY': the journal has no such account; it has AB9876, "
        "NI0001, PR0001, PR0002, ZX1234\n"
    )
