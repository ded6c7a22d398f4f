"""A task made from its events alone: of every version ever written, and never past a fault."""

from __future__ import annotations

import dataclasses
import itertools
import uuid
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
from golden_journals import VERSIONS, GoldenJournal
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain import dead_letter, order_events
from ticker_service.domain.journal_audit import FaultCode
from ticker_service.domain.order import Account, OrderEvent, OrderTask, TaskKind
from ticker_service.domain.order_replay import EventRefused, Replay, differences, replay, shown
from ticker_service.domain.order_state import TaskState

if TYPE_CHECKING:
    from pathlib import Path

NEWEST: Final = VERSIONS[-1]
UNTOLD_BY_VERSION_ONE: Final = {
    "deadline_ns",
    "body_sha256",
    "writer_epoch",
    "send_not_after_ns",
}


@pytest.fixture
def golden() -> GoldenJournal:
    return GoldenJournal(NEWEST)


def task_called(golden: GoldenJournal, name: str) -> OrderTask:
    return next(task for task in golden.tasks.values() if task.request_id == name)


# --- what was ever written ---------------------------------------------------------------------


@pytest.mark.parametrize("file", VERSIONS, ids=lambda file: file.stem)
def test_the_tables_a_program_left_are_what_its_events_make_today(file: Path) -> None:
    golden = GoldenJournal(file)
    assert len(golden.tasks) == {"v1": 8, "v2": 8, "v3": 11, "v4": 13, "v5": 14}[file.stem]
    for task_id, task in golden.tasks.items():
        replayed = replay(golden.events_of(task))
        assert differences(replayed, task, golden.attempts[task_id]) == []


def test_there_is_a_golden_journal_of_every_version_of_every_event() -> None:
    held = {
        (row["event"], row["event_version"])
        for file in VERSIONS
        for row in GoldenJournal(file).event_rows
    }
    for event, newest in order_events.EVENT_VERSIONS.items():
        assert {(event, version) for version in range(1, newest + 1)} <= held
    assert {(event, 1) for event in (order_events.ORPHAN_ADOPTED, dead_letter.CLOSED)} <= held


def test_what_version_one_did_not_tell_is_left_open_and_not_guessed() -> None:
    golden = GoldenJournal(VERSIONS[0])
    task = task_called(golden, "filled")
    replayed = replay(golden.events_of(task))
    assert replayed.untold == UNTOLD_BY_VERSION_ONE
    assert replayed.attempts[0].writer_epoch is None
    assert replay(GoldenJournal(NEWEST).events_of(task)).untold == set()


def test_today_every_field_of_a_task_and_its_attempts_follows_from_events(
    golden: GoldenJournal,
) -> None:
    for task_id, task in golden.tasks.items():
        replayed = replay(golden.events_of(task))
        assert replayed.untold == set()
        assert replayed.task == task
        assert replayed.attempts == golden.attempts[task_id]


# --- what is no history ------------------------------------------------------------------------


def of_filled(golden: GoldenJournal) -> list[OrderEvent]:
    return golden.events_of(task_called(golden, "filled"))


def saying(event: OrderEvent, **changed: Any) -> OrderEvent:
    return replace(event, data={**event.data, **changed})


def refusal(events: list[OrderEvent]) -> EventRefused:
    with pytest.raises(EventRefused) as refused:
        replay(events)
    return refused.value


def test_a_task_that_does_not_begin_with_its_admission_is_no_task(golden: GoldenJournal) -> None:
    assert refusal(of_filled(golden)[1:]).code is FaultCode.BEGINNING


@pytest.mark.parametrize("lost", range(1, 6))
def test_a_lost_event_is_a_gap_that_nothing_is_replayed_across(
    golden: GoldenJournal, lost: int
) -> None:
    events = of_filled(golden)
    del events[lost]
    refused = refusal(events)
    assert (refused.code, refused.field) == (FaultCode.VERSION_GAP, "version")
    assert (refused.told, refused.found) == (str(lost + 1), str(lost + 2))


def test_an_event_that_comes_twice_is_refused(golden: GoldenJournal) -> None:
    events = of_filled(golden)
    assert refusal([*events, events[-1]]).code is FaultCode.VERSION_GAP


def test_numbers_of_the_log_rise_with_the_versions(golden: GoldenJournal) -> None:
    *events, last = of_filled(golden)
    assert refusal([*events, replace(last, account_seq=1)]).field == "account_seq"


@pytest.mark.parametrize("state", [TaskState.READY, TaskState.SENDING, TaskState.NOT_PLACED])
def test_a_way_that_is_not_drawn_is_refused(golden: GoldenJournal, state: TaskState) -> None:
    *events, last = of_filled(golden)
    astray = saying(replace(last, state=state), state=state.value)
    assert refusal([*events, astray]).code is FaultCode.NO_TRANSITION


def test_an_order_leaves_for_the_broker_by_an_intent_alone(golden: GoldenJournal) -> None:
    received, ready, intent, *_ = of_filled(golden)
    assert (
        refusal([received, ready, replace(intent, event="x", event_version=1)]).code
        is FaultCode.NO_TRANSITION
    )
    unsent = saying(
        replace(intent, event="x", event_version=1, state=TaskState.FILLED), state="FILLED"
    )
    assert refusal([received, ready, unsent]).told == "sent before"


def test_fills_never_fall(golden: GoldenJournal) -> None:
    *events, last = of_filled(golden)
    refused = refusal([*events, saying(last, filled_quantity=24)])
    assert (refused.code, refused.told, refused.found) == (FaultCode.FILLS_FELL, "25 or more", "24")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"data": {"state": "WORKING"}}, "state"),
        ({"data": {"version": 99}}, "version"),
        ({"data": {"kind": "CANCEL"}}, "kind"),
        ({"principal": "another"}, "principal"),
        ({"client_order_id": "another"}, "client_order_id"),
    ],
)
def test_an_event_that_contradicts_itself_or_its_task_is_refused(
    golden: GoldenJournal, changed: dict[str, Any], field: str
) -> None:
    *events, last = of_filled(golden)
    data = {**last.data, **changed.pop("data", {})}
    refused = refusal([*events, replace(last, **changed, data=data)])
    assert (refused.code, refused.field) == (FaultCode.NOT_ITS_OWN, field)


def test_a_task_stays_on_its_account_also_before_it_is_sent(golden: GoldenJournal) -> None:
    other = Account("OTHER")
    lost = golden.events_of(task_called(golden, "lost"))
    for events in (lost, lost[:2], of_filled(golden)):
        *before, last = events
        refused = refusal([*before, replace(last, account=other)])
        assert (refused.code, refused.field) == (FaultCode.NO_TRANSITION, "account")


def test_a_tag_is_no_second_attempt_s(golden: GoldenJournal) -> None:
    lost = golden.events_of(task_called(golden, "lost"))
    first, second = (n for n, event in enumerate(lost) if event.event == "intent_recorded")
    lost[second] = saying(lost[second], tag=lost[first].data["tag"])
    assert refusal(lost).code is FaultCode.TAG_TWICE
    lost[second] = saying(lost[second], tag="ANOTHER", attempt=3)
    assert refusal(lost).field == "attempt"


def test_an_event_of_a_newer_program_is_not_half_understood(golden: GoldenJournal) -> None:
    *events, last = of_filled(golden)
    assert refusal([*events, replace(last, event_version=2)]).code is FaultCode.TOO_NEW


@pytest.mark.parametrize(
    ("number", "lacks"),
    [(0, "kind"), (0, "body"), (0, "deadline_us"), (2, "tag"), (2, "writer_epoch"), (3, "state")],
)
def test_an_event_that_lacks_what_it_must_tell_is_refused(
    golden: GoldenJournal, number: int, lacks: str
) -> None:
    events = of_filled(golden)
    data = {name: value for name, value in events[number].data.items() if name != lacks}
    events[number] = replace(events[number], data=data)
    assert refusal(events).code is FaultCode.UNREADABLE


# --- where tables say otherwise ------------------------------------------------------------------


def _other(value: Any) -> Any:  # noqa: PLR0911 - one branch for each type of a field
    match value:
        case TaskState():
            return TaskState.MANUAL
        case TaskKind():
            return TaskKind.CANCEL
        case None:
            return "something"
        case int():
            return value + 1_000
        case Decimal():
            return value + Decimal("0.01")
        case bytes():
            return bytes(32)
        case uuid.UUID():
            return uuid.UUID(int=99)
        case dict():
            return {**value, "price": "1"}
        case _:
            return value + "x"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(OrderTask)])
def test_a_column_that_was_changed_is_named_and_nothing_else(
    golden: GoldenJournal, field: str
) -> None:
    task = task_called(golden, "filled")
    changed = (
        1_000
        if field.endswith("_ns") and getattr(task, field) is None
        else _other(getattr(task, field))
    )
    row = replace(task, **{field: changed})
    found = differences(replay(golden.events_of(task)), row, golden.attempts[task.task_id])
    assert [(fault.code, fault.field) for fault in found] == [
        (FaultCode.TASK_DIFFERS, field.removesuffix("_ns"))
    ]


def test_rows_that_are_missing_or_unexplained_are_named(golden: GoldenJournal) -> None:
    task = task_called(golden, "lost")
    attempts = golden.attempts[task.task_id]
    replayed = replay(golden.events_of(task))

    def codes(row: OrderTask | None, *rows: Any) -> list[FaultCode]:
        return [fault.code for fault in differences(replayed, row, rows)]

    assert codes(None, *attempts) == [FaultCode.TASK_MISSING]
    assert codes(task, attempts[0]) == [FaultCode.ATTEMPT_MISSING]
    third = replace(attempts[1], attempt=3)
    assert codes(task, *attempts, third) == [FaultCode.ATTEMPT_UNEXPLAINED]
    late = replace(attempts[1], http_status=200)
    assert codes(task, attempts[0], late) == [FaultCode.ATTEMPT_DIFFERS]
    nothing = differences(Replay(), task, attempts)
    assert [fault.code for fault in nothing] == [
        FaultCode.TASK_UNEXPLAINED,
        FaultCode.ATTEMPT_UNEXPLAINED,
        FaultCode.ATTEMPT_UNEXPLAINED,
    ]


def test_values_are_shown_as_people_read_them() -> None:
    assert shown("deadline_ns", 1_767_250_830_138_471) == "2026-01-01T07:00:30.138471+00:00"
    assert shown("average_price", Decimal("1E+2")) == "100"
    assert shown("body_sha256", b"\x01\xff") == "01ff"
    assert shown("tag", None) == "nothing"


# --- any history -------------------------------------------------------------------------------


@given(st.data())
def test_no_event_that_is_lost_repeated_or_moved_goes_unseen(data: st.DataObject) -> None:
    golden = GoldenJournal(NEWEST)
    tasks = sorted(golden.tasks.values(), key=lambda task: task.request_id)
    task = data.draw(st.sampled_from([each for each in tasks if each.version > 2]))
    events = golden.events_of(task)
    number = data.draw(st.integers(0, len(events) - 1))
    match data.draw(st.sampled_from(["lose", "repeat", "swap"])):
        case "lose":
            del events[number]
        case "repeat":
            events.insert(number, events[number])
        case _:
            other = data.draw(st.integers(0, len(events) - 1).filter(lambda n: n != number))
            events[number], events[other] = events[other], events[number]
    try:
        replayed = replay(events)
    except EventRefused:
        return
    assert differences(replayed, task, golden.attempts[task.task_id])


def test_a_prefix_of_a_history_is_a_history(golden: GoldenJournal) -> None:
    for task, length in itertools.product(golden.tasks.values(), range(1, 9)):
        events = golden.events_of(task)[:length]
        replayed = replay(events)
        assert replayed.task is not None
        assert replayed.task.version == len(events)
