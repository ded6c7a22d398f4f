"""How an order is cut: whole lots, as equal as can be, never more than it or than ten (I13)."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_scene import BUY, task

from ticker_service.domain.contracts import Contracts
from ticker_service.domain.job import (
    Basket,
    BasketMode,
    Leg,
    basket_of,
    body_of,
    excess,
    part_key,
)
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.rulebook import rules_of
from ticker_service.errors import OrderRefused
from ticker_service.orders import slices

DAY = dt.date(2026, 11, 21)
RULES = rules_of(today=DAY)


def contracts(lot_size: int) -> Contracts:
    return Contracts(
        day=DAY,
        key=np.array([f"NFO:{BUY.tradingsymbol}".encode()], np.bytes_),
        name_number=np.zeros(1, np.int32),
        names=("NIFTY",),
        price_step=np.array([0.05]),
        lot_size=np.array([lot_size], np.int32),
        kind=np.ones(1, np.uint8),
    )


@given(
    lots=st.integers(1, 10_000),
    lot_size=st.integers(1, 500),
    freeze=st.integers(1, 10_000),
)
def test_slices_are_whole_lots_come_to_the_order_and_no_one_is_too_large(
    lots: int, lot_size: int, freeze: int
) -> None:
    order = replace(BUY, quantity=lots * lot_size)
    if lots > freeze // lot_size * 10:
        with pytest.raises(OrderRefused, match=r"order\.quantity"):
            slices.cut(order, contracts(lot_size), {"NIFTY": freeze}, RULES)
        return
    cut = slices.cut(order, contracts(lot_size), {"NIFTY": freeze}, RULES)
    assert sum(cut) == order.quantity
    assert all(0 < part <= freeze and part % lot_size == 0 for part in cut)
    assert len(cut) <= 10
    assert max(cut) - min(cut) <= lot_size


def test_an_order_that_is_not_whole_lots_is_refused_and_not_cut() -> None:
    with pytest.raises(OrderRefused, match="whole lots of 65"):
        slices.cut(replace(BUY, quantity=2_000), contracts(65), {"NIFTY": 1_800}, RULES)


def test_without_the_day_s_instruments_nothing_is_cut() -> None:
    order = replace(BUY, quantity=5_000)
    assert slices.cut(order, None, {"NIFTY": 1_800}, RULES) == [5_000]


@given(
    count=st.integers(1, 5),
    mode=st.sampled_from(list(BasketMode)),
    buys_first=st.booleans(),
    is_cut=st.booleans(),
)
def test_a_basket_comes_back_from_its_form(
    *, count: int, mode: BasketMode, buys_first: bool, is_cut: bool
) -> None:
    legs = tuple(
        Leg(order=replace(BUY, quantity=75 * n), slice=is_cut) for n in range(1, count + 1)
    )
    asked = Basket(legs=legs, mode=mode, buys_first=buys_first)
    assert basket_of(body_of(asked)) == asked


def test_keys_of_parts_say_which_they_are() -> None:
    assert part_key("k", 2) == "k~2"
    assert part_key("k", 1, 3) == "k~1.3"


IN_FULL = {TaskState.SENDING, TaskState.UNKNOWN, TaskState.ACKED, TaskState.WORKING}
IN_FULL |= {TaskState.PARTIAL, TaskState.FILLED, TaskState.MANUAL}


@given(
    states=st.lists(
        st.sampled_from(
            sorted(
                set(TaskState)
                - {TaskState.RUNNING, TaskState.STOPPING, TaskState.DONE, TaskState.ESCALATED}
            )
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_or_may_be_at_the_market_counts_whole(states: list[TaskState]) -> None:
    job = task(kind=TaskKind.SLICES, body=body_of(Basket(legs=(Leg(order=BUY),))), leg=None)
    children = [
        task(state=state, job_id=job.task_id, leg=1, slice=number, filled_quantity=5)
        for number, state in enumerate(states, 1)
    ]
    counted = sum(75 if state in IN_FULL else 5 for state in states)
    assert bool(excess(job, children)) == (counted > 75)
