"""Open orders count in full until they have ended, kept step by step as computed anew (I13)."""

from __future__ import annotations

import dataclasses
import random
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain.exposure import Exposure, Open, OpenKey
from ticker_service.domain.order import Account, NewTask, OrderTask, Side, TaskKind
from ticker_service.domain.order_state import (
    AT_BROKER,
    LIVE,
    TERMINAL,
    TRANSITIONS,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

S = TaskState
KEY = OpenKey("NFO", "NIFTY26NOV25000CE", "NRML", Side.BUY)
BODY = {
    "exchange": KEY.exchange,
    "tradingsymbol": KEY.tradingsymbol,
    "product": KEY.product,
    "transaction_type": "BUY",
    "order_type": "LIMIT",
    "quantity": "75",
    "price": "100.05",
    "variety": "regular",
    "validity": "DAY",
}
DEADLINE_NS = 1_000


def new(kind: TaskKind = TaskKind.PLACE, **changed: Any) -> NewTask:
    task_id = uuid.uuid4()
    values: dict[str, Any] = {
        "task_id": task_id,
        "kind": kind,
        "account": Account("MAIN"),
        "principal": "desk",
        "request_id": str(task_id),
        "client_order_id": str(task_id),
        "body": BODY,
        "body_sha256": bytes(32),
        "deadline_ns": DEADLINE_NS,
        "received_at_ns": 0,
    }
    return NewTask(**values | changed)


def task(of: NewTask, state: TaskState, version: int, filled_quantity: int = 0) -> OrderTask:
    values: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(OrderTask))
    values |= {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}
    values |= {"state": state, "version": version, "attempt": 1}
    values |= {"filled_quantity": filled_quantity, "created_at_ns": 0, "updated_at_ns": 0}
    del values["received_at_ns"], values["risk"]
    return OrderTask(**values)


def change(of: NewTask, **body: str) -> NewTask:
    return new(TaskKind.MODIFY, target_task_id=of.task_id, body=body)


def test_an_order_counts_in_full_until_its_outcome_is_known_then_with_what_is_left() -> None:
    exposure, order = Exposure(), new()
    full = Open(75, Decimal("7503.75"))
    exposure.reserve(order)
    assert exposure.of(KEY) == full
    for version, state in enumerate((S.RECEIVED, S.READY, S.SENDING, S.UNKNOWN), start=1):
        exposure.moved(task(order, state, version))
        assert exposure.of(KEY) == full
    exposure.moved(task(order, S.PARTIAL, 5, filled_quantity=50))
    assert exposure.of(KEY) == Open(25, Decimal("2501.25"))
    exposure.moved(task(order, S.FILLED, 6, filled_quantity=75))
    assert exposure.by_key() == {}
    assert exposure.total == Open()
    assert exposure.filled() == {KEY: 75}


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_an_order_that_has_ended_counts_no_more(state: TaskState) -> None:
    exposure, order = Exposure(), new()
    exposure.reserve(order)
    exposure.moved(task(order, state, 2))
    assert exposure.by_key() == {}


def test_a_market_order_counts_by_its_quantity_alone() -> None:
    exposure = Exposure()
    body = {name: value for name, value in BODY.items() if name != "price"}
    exposure.reserve(new(body=body | {"order_type": "MARKET"}))
    assert exposure.total == Open(75, Decimal(0), 75)


def test_a_stop_order_without_a_price_counts_at_its_trigger() -> None:
    exposure = Exposure()
    body = {name: value for name, value in BODY.items() if name != "price"}
    exposure.reserve(new(body=body | {"order_type": "SL-M", "trigger_price": "90"}))
    assert exposure.total == Open(75, Decimal(6750))


def test_a_change_counts_with_the_larger_of_what_was_and_what_was_asked_for() -> None:
    exposure, order = Exposure(), new()
    exposure.moved(task(order, S.WORKING, 4))
    more = change(order, quantity="150")
    exposure.reserve(more)
    assert exposure.of(KEY).quantity == 150
    less = change(order, quantity="25", price="200")
    exposure.moved(task(less, S.ACKED, 4))
    assert exposure.of(KEY) == Open(150, Decimal(30000))
    exposure.moved(task(more, S.REJECTED, 4))
    assert exposure.of(KEY) == Open(75, Decimal(15000))
    exposure.moved(task(order, S.CANCELLED, 5))
    assert exposure.by_key() == {}
    exposure.moved(task(less, S.ACKED, 5))
    assert exposure.by_key() == {}


def test_what_was_not_taken_counts_no_more() -> None:
    exposure, order = Exposure(), new()
    exposure.moved(task(order, S.WORKING, 4))
    refused, refused_change = new(), change(order, quantity="300")
    exposure.reserve(refused)
    exposure.reserve(refused_change)
    assert exposure.of(KEY).quantity == 375
    exposure.release(refused)
    exposure.release(refused_change)
    assert exposure.of(KEY).quantity == 75


def test_what_may_have_been_taken_counts_until_its_deadline_is_over_or_the_journal_has_it() -> None:
    exposure, lost, found = Exposure(), new(), new()
    for each in (lost, found):
        exposure.reserve(each)
        exposure.doubted(each.task_id, DEADLINE_NS)
    assert set(exposure.doubts) == {lost.task_id, found.task_id}
    exposure.unknown(lost.task_id, DEADLINE_NS - 1)
    assert exposure.of(KEY).quantity == 150
    exposure.unknown(lost.task_id, DEADLINE_NS)
    exposure.moved(task(found, S.READY, 2))
    assert exposure.of(KEY).quantity == 75
    assert exposure.doubts == ()


def test_old_news_of_an_order_that_has_ended_does_not_open_it_again() -> None:
    exposure, order = Exposure(), new()
    exposure.moved(task(order, S.CANCELLED, 5))
    exposure.moved(task(order, S.WORKING, 4))
    assert exposure.by_key() == {}
    exposure.moved(task(order, S.PARTIAL, 6, filled_quantity=25))  # a late fact wins
    assert exposure.of(KEY).quantity == 50


def histories(chance: random.Random) -> list[OrderTask]:
    """Return every step of some orders and of what was asked of them, in an order of its own."""
    steps = []
    for _ in range(chance.randint(1, 6)):
        side, price = chance.choice(["BUY", "SELL"]), chance.choice(["10", "20.05", ""])
        symbol = chance.choice(["A", "B"])
        body = BODY | {"tradingsymbol": symbol, "transaction_type": side}
        body["quantity"] = str(chance.randint(1, 9) * 10)
        body = body | {"price": price} if price else {k: v for k, v in body.items() if k != "price"}
        order = new(body=body)
        steps += steps_of(order, chance)
        for _ in range(chance.randint(0, 3)):
            asked = {"quantity": str(chance.randint(1, 200)), "price": chance.choice(["5", "30"])}
            kept = dict(chance.sample(sorted(asked.items()), chance.randint(1, 2)))
            steps += steps_of(change(order, **kept), chance)
        steps += steps_of(new(TaskKind.CANCEL, target_task_id=order.task_id, body={}), chance)
    return steps


def steps_of(asked: NewTask, chance: random.Random) -> list[OrderTask]:
    state, filled, steps = S.RECEIVED, 0, []
    for version in range(1, chance.randint(2, 9)):
        steps.append(task(asked, state, version, filled))
        following = sorted(TRANSITIONS[state])
        if asked.kind is not TaskKind.PLACE:
            following = [each for each in following if each not in LIVE - {S.ACKED}]
        if not following or (state in TERMINAL and chance.random() < 0.8):
            break
        state = chance.choice(following)
        if state in AT_BROKER and asked.kind is TaskKind.PLACE:
            filled = chance.randint(filled, int(asked.body["quantity"]))
    return steps


def newest(tasks: Iterable[OrderTask]) -> list[OrderTask]:
    found: dict[uuid.UUID, OrderTask] = {}
    for each in tasks:
        if each.task_id not in found or found[each.task_id].version < each.version:
            found[each.task_id] = each
    return list(found.values())


@given(st.integers(min_value=0, max_value=10**9))
def test_kept_step_by_step_it_is_what_the_newest_states_make_of_it(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a history is to be repeated
    exposure, told = Exposure(), []
    steps = histories(chance)
    chance.shuffle(steps)
    for each in steps:
        exposure.moved(each)
        told.append(each)
        if chance.random() < 0.3:
            exposure.moved(chance.choice(told))  # told twice, or late
        anew = Exposure.of_tasks(sorted(newest(told), key=lambda one: one.kind is TaskKind.MODIFY))
        assert exposure.by_key() == anew.by_key(), seed
        total = sum(anew.by_key().values(), Open())
        assert exposure.total == total, seed


def test_what_a_comparison_asks_the_journal_for_are_orders_and_changes_that_count() -> None:
    """A change that a process ended while it lost its account is told to its successor so."""
    exposure, order = Exposure(), new()
    asked = change(order, price="103.35")
    exposure.reserve(order)
    assert not exposure.open_tasks, "the journal does not have it yet"
    exposure.moved(task(order, S.WORKING, 6))
    exposure.moved(task(asked, S.READY, 2))
    assert exposure.open_tasks == {order.task_id, asked.task_id}
    exposure.moved(task(asked, S.EXPIRED, 3))
    assert exposure.open_tasks == {order.task_id}
    assert exposure.of(KEY) == Open(75, Decimal("7503.75"))
