"""The state machine of an instruction: whatever comes, in whatever order, leads to one truth (I7)."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_scene import broker_order, task

from ticker_service.domain.order import JOBS, TaskKind
from ticker_service.domain.order_state import (
    AT_BROKER,
    JOB_OPEN,
    LIVE,
    TERMINAL,
    TRANSITIONS,
    UNSENT,
    TaskState,
    first_state,
    merge,
    state_of,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from ticker_service.domain.order import BrokerOrder, OrderTask

S = TaskState
FIELDS = ("broker_order_id", "broker_status", "filled_quantity", "average_price", "reason")
MIGRATIONS = Path(__file__).parents[3] / "ticker_service" / "adapters" / "migrations"
INTERIM = ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING")
RESTING = (
    "OPEN",
    "TRIGGER PENDING",
    "MODIFY VALIDATION PENDING",
    "MODIFIED",
    "UPDATE",
    "BRAND NEW",
)


def after(start: OrderTask, rows: Sequence[BrokerOrder]) -> OrderTask:
    """Merge rows as the journal would, refusing what is no transition."""
    present = start
    for row in rows:
        update = merge(present, row)
        if update is None:
            continue
        assert update.state in TRANSITIONS[present.state], (present.state, update.state, row)
        assert (update.filled_quantity or 0) >= present.filled_quantity
        told = {name: getattr(update, name) for name in FIELDS}
        present = dataclasses.replace(
            present,
            state=update.state,
            version=present.version + 1,
            **{name: value for name, value in told.items() if value is not None},
        )
    return present


def truth(of: OrderTask) -> tuple[object, ...]:
    return of.state, of.broker_order_id, of.filled_quantity, of.average_price


@st.composite
def histories(draw: st.DrawFn) -> list[BrokerOrder]:
    """Return one order's life as the broker knows it: fills only grow, an end is the last row."""
    rows = [broker_order(status=status) for status in draw(st.lists(st.sampled_from(INTERIM)))]
    filled = 0
    for _ in range(draw(st.integers(0, 4))):
        filled += draw(st.integers(0, 15))
        status = draw(st.sampled_from(RESTING))
        rows.append(_filled(status, filled))
    end = draw(st.sampled_from(["COMPLETE", "CANCELLED", "REJECTED", None]))
    if end is not None:
        rows.append(_filled(end, 75 if end == "COMPLETE" else filled))
    return rows or [broker_order()]


def _filled(status: str, filled: int) -> BrokerOrder:
    price = Decimal(100) + filled if filled else Decimal(0)
    return broker_order(status=status, filled_quantity=filled, average_price=price)


STARTS = st.sampled_from([S.SENDING, S.UNKNOWN, S.NOT_PLACED, S.MANUAL])


@given(histories(), STARTS, st.randoms(use_true_random=False), st.data())
def test_the_order_and_number_of_updates_do_not_change_what_an_order_came_to(
    history: list[BrokerOrder], state: TaskState, chance: random.Random, data: st.DataObject
) -> None:
    start = task(state=state)
    repeats = data.draw(st.lists(st.sampled_from(history), max_size=6))
    shuffled = history + repeats
    chance.shuffle(shuffled)
    in_order, any_order = after(start, history), after(start, shuffled)
    # What was held for ended is moved by a fact that its own table allows; the last word of the
    # whole book, which is read again and again, is the same.
    final = after(any_order, history)
    assert truth(final) == truth(in_order) == truth(after(in_order, shuffled))


@given(histories(), st.sampled_from([S.SENDING, S.UNKNOWN]), st.randoms(use_true_random=False))
def test_every_order_of_arrival_gives_the_same_truth_at_once(
    history: list[BrokerOrder], state: TaskState, chance: random.Random
) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)
    assert truth(after(task(state=state), shuffled)) == truth(after(task(state=state), history))


@given(histories(), STARTS)
def test_a_row_merged_twice_changes_nothing_the_second_time(
    history: list[BrokerOrder], state: TaskState
) -> None:
    present = task(state=state)
    for row in history:
        present = after(present, [row])
        assert after(present, [row]) == present


ROWS = st.builds(
    broker_order,
    status=st.sampled_from(["COMPLETE", "CANCELLED", "REJECTED", *INTERIM, *RESTING]),
    filled_quantity=st.integers(0, 75),
    status_message=st.sampled_from(["", "told"]),
)


@given(st.sampled_from(TaskState), st.booleans(), st.lists(ROWS, max_size=8))
def test_whatever_rows_come_no_step_is_one_the_journal_refuses(
    state: TaskState,
    has_order_id: bool,  # noqa: FBT001 - drawn
    rows: list[BrokerOrder],
) -> None:
    order_id = broker_order().order_id if has_order_id else None
    end = after(task(state=state, broker_order_id=order_id), rows)
    if state is S.FILLED:
        assert end.state is S.FILLED


OURS = [S.READY, S.NOT_PLACED, S.EXPIRED, S.MANUAL, S.REJECTED_LOCAL, S.CANCELLED_LOCAL]


@pytest.mark.parametrize("state", [*OURS, S.CANCELLED, S.REJECTED])
def test_a_late_fill_wins_over_every_end(state: TaskState) -> None:
    found = after(task(state=state), [_filled("COMPLETE", 75)])
    assert (found.state, found.filled_quantity) == (S.FILLED, 75)


@pytest.mark.parametrize("state", OURS)
@pytest.mark.parametrize(
    ("row", "found"),
    [
        (broker_order(status="PUT ORDER REQ RECEIVED"), (S.ACKED, 0)),
        (broker_order(status="OPEN", filled_quantity=25), (S.PARTIAL, 25)),
        (broker_order(status="CANCELLED", filled_quantity=25), (S.CANCELLED, 25)),
        (broker_order(status="REJECTED"), (S.REJECTED, 0)),
    ],
    ids=lambda it: it.status if hasattr(it, "status") else None,
)
def test_whatever_we_say_of_an_order_the_broker_s_word_outweighs_it(
    state: TaskState, row: BrokerOrder, found: tuple[TaskState, int]
) -> None:
    end = after(task(state=state), [row])
    assert (end.state, end.filled_quantity) == found


def test_an_order_the_answer_called_refused_and_that_was_cancelled_keeps_its_fills() -> None:
    refused = task(state=S.REJECTED, reason_code="BROKER_REFUSED")
    end = after(refused, [broker_order(status="CANCELLED", filled_quantity=25)])
    assert (end.state, end.filled_quantity) == (S.CANCELLED, 25)


def test_what_is_filled_grows_on_when_the_broker_says_more() -> None:
    early = after(task(), [_filled("COMPLETE", 50)])
    assert after(early, [_filled("COMPLETE", 75)]).filled_quantity == 75


@pytest.mark.parametrize("status", ["OPEN", "TRIGGER PENDING", "UPDATE"])
@pytest.mark.parametrize("state", OURS)
def test_an_order_held_for_dead_that_rests_is_working(state: TaskState, status: str) -> None:
    assert after(task(state=state), [broker_order(status=status)]).state is S.WORKING


def test_an_order_the_answer_called_refused_that_rests_in_the_book_is_working() -> None:
    refused = task(state=S.REJECTED, reason_code="BROKER_REFUSED")
    assert after(refused, [broker_order()]).state is S.WORKING


def test_an_order_the_answer_called_refused_stays_so_when_the_book_says_the_same() -> None:
    refused = task(state=S.REJECTED, reason_code="MARGIN")
    assert after(refused, [broker_order(status="REJECTED")]).state is S.REJECTED


@pytest.mark.parametrize("end", ["CANCELLED", "REJECTED"])
def test_a_stale_live_row_does_not_bring_an_ended_order_back(end: str) -> None:
    ended = after(task(), [broker_order(status=end)])
    assert after(ended, [broker_order(status="OPEN")]).state is S(end)


def test_partly_filled_and_then_cancelled_keeps_its_fills() -> None:
    part = after(task(), [_filled("OPEN", 50)])
    assert part.state is S.PARTIAL
    ended = after(part, [broker_order(status="CANCELLED", filled_quantity=0)])
    assert (ended.state, ended.filled_quantity, ended.average_price) == (S.CANCELLED, 50, 150)


def test_a_row_from_before_the_order_reached_the_exchange_is_no_news_of_one_that_rests() -> None:
    resting = after(task(), [broker_order(status="OPEN")])
    for status in ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING"):
        assert merge(resting, broker_order(status=status)) is None
    changing = after(resting, [broker_order(status="MODIFY PENDING")])
    assert changing.broker_status == "MODIFY PENDING"


def test_a_price_that_comes_after_its_fill_is_taken_and_no_price_takes_its_place() -> None:
    unpriced = after(task(), [broker_order(status="COMPLETE", filled_quantity=75)])
    priced = after(unpriced, [_filled("COMPLETE", 75)])
    assert (unpriced.average_price, priced.average_price) == (0, 175)
    assert merge(priced, broker_order(status="COMPLETE", filled_quantity=75)) is None


def test_an_ended_order_is_not_called_open_by_the_row_of_an_earlier_fill() -> None:
    ended = after(task(), [broker_order(status="CANCELLED")])
    filled = after(ended, [_filled("OPEN", 50)])
    told = (filled.state, filled.broker_status, filled.filled_quantity)
    assert told == (S.CANCELLED, "CANCELLED", 50)


def test_a_fill_before_the_answer_is_a_fill() -> None:
    assert after(task(state=S.SENDING), [_filled("COMPLETE", 75)]).state is S.FILLED


@pytest.mark.parametrize("status", ["BRAND NEW", "", "MODIFY PENDING", "cancel pending"])
def test_a_status_nobody_knows_is_a_live_one(status: str) -> None:
    assert state_of(broker_order(status=status)) in LIVE


def test_an_update_of_a_resting_order_is_working_and_with_fills_partial() -> None:
    assert state_of(broker_order(status="UPDATE")) is S.WORKING
    assert state_of(broker_order(status="UPDATE", filled_quantity=1)) is S.PARTIAL


def test_the_reason_of_a_doubt_goes_with_the_doubt() -> None:
    doubtful = task(state=S.UNKNOWN, reason_code="SERVER_ERROR", reason="HTTP 502")
    update = merge(doubtful, broker_order())
    assert update is not None
    assert (update.state, update.reason_code, update.reason) == (S.WORKING, "", "")


def test_a_refusal_of_the_exchange_says_why() -> None:
    row = broker_order(status="REJECTED", status_message="price out of range")
    update = merge(task(), row)
    assert update is not None
    assert (update.reason_code, update.reason) == ("BROKER_REJECTED", "price out of range")


def test_every_state_says_what_may_follow() -> None:
    assert set(TRANSITIONS) == set(TaskState)
    assert set().union(*TRANSITIONS.values()) <= set(TaskState)
    assert UNSENT | {S.SENDING, S.UNKNOWN} | LIVE | TERMINAL | JOB_OPEN == set(TaskState)


def test_no_order_is_ever_in_a_state_of_a_job_nor_the_other_way_round() -> None:
    of_jobs = JOB_OPEN | {S.DONE, S.ESCALATED}
    for state in TaskState:
        assert TRANSITIONS[state] <= (of_jobs if state in of_jobs else set(S) - of_jobs)
    for kind in TaskKind:
        assert first_state(kind) is (S.RUNNING if kind in JOBS else S.RECEIVED)


def test_what_may_have_left_is_never_made_ready_and_never_sent_again() -> None:
    for state in AT_BROKER | TERMINAL | {S.UNKNOWN}:
        assert not TRANSITIONS[state] & {S.READY, S.SENDING, S.RECEIVED}
    assert S.SENDING not in TRANSITIONS[S.SENDING]
    assert [state for state in S if S.SENDING in TRANSITIONS[state]] == [S.READY]


def test_the_database_holds_the_same_transitions() -> None:
    written = "".join(migration.read_text() for migration in sorted(MIGRATIONS.glob("*.sql")))
    tables = [part.split(";", 1)[0] for part in written.split("INSERT INTO order_transition")[1:]]
    pairs = set(re.findall(r"\('(\w+)', '(\w+)'\)", "".join(tables)))
    assert pairs == {(was.value, now.value) for was in S for now in TRANSITIONS[was]}
