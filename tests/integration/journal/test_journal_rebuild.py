"""`journal rebuild`: tables as the events make them, or exactly as they were before."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import journal_story
import psycopg
import pytest
from journal_values import ACCOUNT, NOON_NS, journal_at, new_task
from tampering import FILLED, GOLDEN, load_golden, tamper

from ticker_service.adapters import postgres_audit, postgres_rebuild
from ticker_service.domain.journal_audit import FaultCode, Rebuild
from ticker_service.domain.order import TaskUpdate
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import AccountTaken, InvariantViolatedError, TaskMoved

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_MAX: Final = 60.0
CHANGES: Final = (
    "UPDATE order_task SET state = 'WORKING', filled_quantity = 74, reason = 'x' WHERE THIS",
    "UPDATE order_task SET request_id = 'forged', deadline = now() WHERE request_id = 'lost'",
    "UPDATE order_task SET account = 'STOLEN' WHERE request_id = 'other'",
    "UPDATE order_attempt SET outcome = NULL, http_status = NULL, finished_at = NULL WHERE THIS",
    "UPDATE order_attempt SET tag = 'FORGED' WHERE account = 'AB9876'",
    "DELETE FROM order_attempt WHERE attempt = 2",
)


@pytest.fixture
def told_url(database_url: str) -> str:
    """The address of a database that holds the golden story."""
    asyncio.run(journal_story.tell(database_url))
    return database_url


def rebuild(url: str, account: str | None = None) -> Rebuild:
    return asyncio.run(postgres_rebuild.rebuild(url, account))


def guards(url: str) -> list[tuple[str, str]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname"
        ).fetchall()


def test_whatever_was_changed_is_made_again_from_the_events(told_url: str) -> None:
    before, guarded = journal_story.tables(told_url), guards(told_url)
    tamper(told_url, *CHANGES)
    assert journal_story.tables(told_url) != before
    rebuilt = rebuild(told_url)
    assert rebuilt.is_sound
    assert (rebuilt.tasks_changed, rebuilt.attempts_changed) == (3, 3)
    assert {fault.code for fault in rebuilt.before.faults} == {
        FaultCode.TASK_DIFFERS,
        FaultCode.ATTEMPT_DIFFERS,
        FaultCode.ATTEMPT_MISSING,
    }
    assert journal_story.tables(told_url) == before
    assert guards(told_url) == guarded


def test_rows_that_are_gone_come_back_and_rows_that_were_forged_go(told_url: str) -> None:
    before = journal_story.tables(told_url)
    tamper(
        told_url,
        "DELETE FROM order_task WHERE THIS",
        "DELETE FROM order_task WHERE request_id = 'waiting'",
        "INSERT INTO order_task SELECT (jsonb_populate_record(task,"
        ' \'{"task_id": "00000000-0000-0000-0000-0000000000ff", "request_id": "forged",'
        ' "client_order_id": "forged", "tag": "FORGED"}\')).* FROM order_task AS task'
        " WHERE request_id = 'lost'",
        keys=True,
    )
    rebuilt = rebuild(told_url)
    assert rebuilt.is_sound
    assert rebuilt.tasks_changed == 3
    assert journal_story.tables(told_url) == before


def test_an_orphan_that_was_taken_in_is_made_again_like_any_other(told_url: str) -> None:
    async def take_in() -> None:
        async with journal_at(told_url) as journal:
            await journal.acquire(ACCOUNT)
            shown = TaskUpdate(
                state=TaskState.PARTIAL,
                event="orphan_adopted",
                broker_order_id="261121000000077",
                filled_quantity=25,
                average_price=Decimal("100.05"),
            )
            new = new_task(request_id="orphan", facts={"by_whom": "night", "why": "restored"})
            await journal.adopt_orphan(new, shown, tag="T0ORPHAN1", sent_at_ns=NOON_NS)

    asyncio.run(take_in())
    assert asyncio.run(postgres_audit.verify(told_url)).is_sound
    before = journal_story.tables(told_url)
    tamper(
        told_url,
        "UPDATE order_task SET filled_quantity = 0, facts = NULL WHERE request_id = 'orphan'",
        "DELETE FROM order_attempt WHERE tag = 'T0ORPHAN1'",
    )
    rebuilt = rebuild(told_url)
    assert (rebuilt.is_sound, rebuilt.tasks_changed, rebuilt.attempts_changed) == (True, 1, 1)
    assert journal_story.tables(told_url) == before


def test_a_sound_journal_is_left_as_it_is(told_url: str) -> None:
    before = journal_story.tables(told_url)
    rebuilt = rebuild(told_url)
    assert (rebuilt.is_sound, rebuilt.tasks_changed, rebuilt.attempts_changed) == (True, 0, 0)
    assert journal_story.tables(told_url) == before


def test_one_account_is_made_anew_and_no_other_is_touched(told_url: str) -> None:
    tamper(told_url, CHANGES[0], "UPDATE order_task SET reason = 'x' WHERE account = 'AB9876'")
    rebuilt = rebuild(told_url, ACCOUNT)
    assert (rebuilt.is_sound, rebuilt.tasks_changed) == (True, 1)
    [fault] = asyncio.run(postgres_audit.verify(told_url)).faults
    assert (fault.account, fault.field) == (journal_story.OTHER, "reason")


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM order_event WHERE THIS AND version = 4",
        "UPDATE order_event SET data = data - 'state' WHERE THIS AND version = 5",
        "UPDATE order_event SET event_version = 9 WHERE account = 'AB9876' AND version = 2",
    ],
)
def test_damaged_events_are_not_built_upon(told_url: str, damage: str) -> None:
    tamper(told_url, CHANGES[1], damage)
    before = journal_story.tables(told_url)
    rebuilt = rebuild(told_url)
    assert (rebuilt.is_sound, rebuilt.after) == (False, None)
    assert journal_story.tables(told_url) == before


def test_while_a_daemon_writes_an_account_nothing_is_made_anew(told_url: str) -> None:
    async def scene() -> None:
        async with journal_at(told_url) as journal:
            await journal.acquire(journal_story.OTHER)
            with pytest.raises(AccountTaken, match="account=AB9876"):
                await postgres_rebuild.rebuild(told_url)
            assert (await postgres_rebuild.rebuild(told_url, ACCOUNT)).is_sound
            await journal.release(journal_story.OTHER)
            assert (await postgres_rebuild.rebuild(told_url)).is_sound

    asyncio.run(scene())


def test_while_an_account_is_made_anew_no_daemon_takes_it(
    told_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_through = postgres_rebuild.look_through
    refused: list[AccountTaken] = []

    async def look_and_try(*given: Any) -> Any:
        async with journal_at(told_url) as journal:
            with pytest.raises(AccountTaken) as error:
                await journal.acquire(ACCOUNT)
            refused.append(error.value)
        return await look_through(*given)

    monkeypatch.setattr(postgres_rebuild, "look_through", look_and_try)
    assert rebuild(told_url).is_sound
    assert refused


def test_a_journal_that_grew_meanwhile_is_not_overwritten_by_what_was_before(
    told_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(told_url, CHANGES[0])
    look_through = postgres_rebuild.look_through

    async def look_and_admit(*given: Any) -> Any:
        found = await look_through(*given)
        async with journal_at(told_url) as journal:
            await journal.admit(new_task())
        return found

    monkeypatch.setattr(postgres_rebuild, "look_through", look_and_admit)
    with pytest.raises(TaskMoved, match="grew from account_seq 39 to 40"):
        rebuild(told_url)
    monkeypatch.undo()
    assert asyncio.run(postgres_audit.verify(told_url)).fault_count == 3
    assert rebuild(told_url).is_sound


def test_what_old_events_do_not_tell_stays_as_the_row_has_it(database_url: str) -> None:
    load_golden(database_url, GOLDEN / "v1.json")
    before = journal_story.tables(database_url)
    tamper(database_url, CHANGES[0], CHANGES[3])
    assert rebuild(database_url).is_sound
    assert journal_story.tables(database_url) == before


def test_a_row_that_old_events_do_not_tell_is_not_made_up(database_url: str) -> None:
    load_golden(database_url, GOLDEN / "v1.json")
    tamper(database_url, "DELETE FROM order_task WHERE THIS", keys=True)
    rebuilt = rebuild(database_url)
    assert rebuilt.after is None
    codes = [fault.code for fault in rebuilt.before.faults]
    assert codes == [FaultCode.TASK_MISSING, FaultCode.UNTOLD]


def test_the_guards_stand_again_after_a_rebuild(told_url: str) -> None:
    tamper(told_url, CHANGES[0])
    assert rebuild(told_url).is_sound
    with psycopg.connect(told_url) as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute("UPDATE order_task SET filled_quantity = 1")


def test_a_shadow_that_breaks_a_rule_of_the_tables_changes_nothing(told_url: str) -> None:
    # The events fit each other, but no row may have such a tag.
    tamper(
        told_url,
        'UPDATE order_event SET data = data || \'{"tag": "no tag at all, with blanks"}\' WHERE THIS'
        " AND event = 'intent_recorded'",
    )
    before = journal_story.tables(told_url)
    with pytest.raises(InvariantViolatedError):
        rebuild(told_url)
    assert journal_story.tables(told_url) == before


# --- killed half-way -----------------------------------------------------------------------------


def test_killed_in_the_middle_of_the_swap_the_old_tables_are_there(told_url: str) -> None:
    guarded = guards(told_url)
    with psycopg.connect(told_url) as connection:
        # Whoever writes a row of `filled` stands still in the middle of its statement.
        connection.execute(
            "CREATE FUNCTION slow(state text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$"
            " BEGIN IF state = 'FILLED' THEN PERFORM pg_sleep(120); END IF; RETURN state; END $$"
        )
    tamper(told_url, *CHANGES)
    with psycopg.connect(told_url) as connection:
        connection.execute("CREATE INDEX order_task_slow ON order_task (slow(state))")
    before = journal_story.tables(told_url)
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "journal", "rebuild"],
        env={**os.environ, "DATABASE_URL": told_url},
    )
    try:
        backend = asleep(told_url)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with psycopg.connect(told_url, autocommit=True) as connection:
        # The server would notice by itself, when its statement ends.
        connection.execute("SELECT pg_terminate_backend(%s, 30000)", (backend,))
        connection.execute("DROP INDEX order_task_slow")
    assert journal_story.tables(told_url) == before
    assert guards(told_url) == guarded
    assert rebuild(told_url).is_sound


def asleep(url: str) -> int:
    """Wait until a rebuild stands still in its swap, and return the server's process."""
    until = time.monotonic() + SECONDS_MAX
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < until:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                " AND datname = current_database() AND query LIKE '%UPDATE order_task%'"
            ).fetchone()
            if found is not None:
                return int(found[0])
            connection.execute("SELECT pg_sleep(0.05)")
    raise AssertionError("the rebuild never came to its swap")


# --- from the shell ------------------------------------------------------------------------------


@pytest.fixture
def shell(told_url: str) -> Iterator[Any]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app.cli", "journal", *words],
            env={**os.environ, "DATABASE_URL": told_url},
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )

    return run


def test_from_the_shell_what_differed_is_told(told_url: str, shell: Any) -> None:
    tamper(told_url, "UPDATE order_task SET filled_quantity = 74 WHERE THIS")
    ran = shell("rebuild")
    assert (ran.returncode, ran.stderr) == (0, "")
    was, done = ran.stdout.splitlines()
    assert was == (
        "was   account ZX1234: TASK_DIFFERS: task filled version 7: filled_quantity:"
        f" by its events 75, found 74 (task_id {FILLED})"
    )
    assert done.startswith("ok    53 events replayed in ")
    assert "1 rows of tasks and 0 of attempts made anew; 0 faults are left" in done
    answer = json.loads(shell("rebuild", "--json").stdout)
    assert (answer["is_sound"], answer["is_done"], answer["tasks_changed"]) == (True, True, 0)
