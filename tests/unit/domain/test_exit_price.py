"""Where the broker takes no MARKET, an exit sends LIMIT inside its band, and still never flips."""

from __future__ import annotations

import dataclasses
import random
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exit import KEY, LONG_AGO, NOW_NS, ROUNDS_MAX, Market, S, resting, task, view

from ticker_service.constants import NS_PER_S
from ticker_service.domain import exit as exits
from ticker_service.domain.exit import LegView, leg_moves, market_was_refused
from ticker_service.domain.exit_price import AUTOMATIC_PROTECTION, Edge, edge_of, percent_of
from ticker_service.domain.order import OrderTask, OrderType, Side, TaskKind, to_fields
from ticker_service.domain.order_state import LIVE

STEP: Final = Decimal("0.05")
PERCENT: Final = Decimal(2)
ENDS: Final = {"REFUSED", "TOO_MANY_ORDERS", "COULD_NOT_CANCEL", "BAND_EXHAUSTED"}
Prices = st.decimals(Decimal("0.05"), Decimal(50_000), places=2)


@given(
    last=Prices,
    percent=st.decimals(Decimal("0.1"), Decimal(100), places=1),
    side=st.sampled_from(Side),
    step=st.sampled_from([Decimal("0.01"), Decimal("0.05"), Decimal("0.1"), Decimal(1)]),
)
def test_a_price_is_on_the_step_and_inside_the_band(
    last: Decimal, percent: Decimal, side: Side, step: Decimal
) -> None:
    edge = edge_of(last, side, percent, price_step=step)
    assert edge is not None
    assert edge.price > 0
    assert edge.price % step == 0
    if side is Side.BUY:
        assert edge.price <= max(last * (1 + percent / 100), step)
    else:
        assert edge.price >= last * (1 - percent / 100)


@given(last=Prices, low=Prices, high=Prices, side=st.sampled_from(Side))
def test_a_price_is_inside_the_circuit_limits_or_there_is_none(
    last: Decimal, low: Decimal, high: Decimal, side: Side
) -> None:
    edge = edge_of(last, side, PERCENT, price_step=STEP, circuit=(low, high))
    if edge is not None:
        assert low <= edge.price <= high


@pytest.mark.parametrize("wrong", [Decimal(0), Decimal(-1), Decimal("NaN"), Decimal("Infinity")])
def test_without_a_last_price_or_a_step_there_is_no_price(wrong: Decimal) -> None:
    assert edge_of(wrong, Side.SELL, PERCENT, price_step=STEP) is None
    assert edge_of(Decimal(100), Side.SELL, PERCENT, price_step=wrong) is None


@pytest.mark.parametrize(
    ("last", "is_option", "percent"),
    [("99.95", False, "2"), ("100", False, "1"), ("9.95", True, "5"), ("500", True, "1")],
)
def test_minus_one_is_kites_own_band(last: str, percent: str, *, is_option: bool) -> None:
    found = percent_of(AUTOMATIC_PROTECTION, Decimal(last), is_option=is_option)
    assert found == Decimal(percent)
    assert percent_of(Decimal(7), Decimal(last), is_option=is_option) == 7


class Illiquid(Market):
    """A broker that takes no MARKET, and a last price that walks, stands, or cannot be read."""

    def __init__(self, chance: random.Random, held: int, *, stands: bool) -> None:
        super().__init__(chance, held)
        self.last, self.stands, self.blind = Decimal(100), stands, False

    def view(self) -> LegView:
        seen = super().view()
        by_limit = market_was_refused(list(self.children.values()))
        side = seen.closing.side
        edge = None
        if by_limit and side is not None and not self.blind:
            edge = edge_of(self.last, side, PERCENT, price_step=STEP)
        return dataclasses.replace(seen, by_limit=by_limit, edge=edge)

    def act(self, moves: exits.LegMoves) -> None:
        seen = self.view()
        for quantity in moves.place:
            self.add(TaskKind.PLACE, body=to_fields(exits.order_for(seen, quantity, PERCENT)))
        for order in moves.change:
            body = to_fields(exits.repricing(seen, PERCENT))
            self.add(TaskKind.MODIFY, body=body, target_task_id=order.task_id)
        for order in moves.cancel:
            self.add(TaskKind.CANCEL, target_task_id=order.task_id)

    def go_on(self) -> None:
        if not self.stands:
            self.last = max(self.last + self.chance.randint(-20, 20) * STEP, STEP)
        self.blind = self.chance.random() < 0.1
        super().go_on()

    def move_order(self, order: OrderTask) -> None:
        is_market = order.body["order_type"] == OrderType.MARKET
        if is_market and order.state is S.RECEIVED:
            self.put(order, S.REJECTED)
        elif order.state in LIVE and self.stands:
            return  # nobody takes the other side
        else:
            super().move_order(order)


@given(
    held=st.integers(-60, 60).filter(bool).map(lambda lots: lots * 5),
    seed=st.integers(0),
    stands=st.booleans(),
)
@settings(deadline=None)
def test_without_market_it_ends_flat_or_stopped_after_a_bounded_number_of_orders_and_never_flips(
    held: int, seed: int, *, stands: bool
) -> None:
    market = Illiquid(random.Random(seed), held, stands=stands)  # noqa: S311 - a play
    for _ in range(ROUNDS_MAX):
        seen, children = market.view(), list(market.children.values())
        moves = leg_moves(seen, children, market.now_ns)
        assert len(market.orders()) <= exits.ORDERS_MAX
        for order in market.orders():
            changes = [c for c in children if c.target_task_id == order.task_id]
            assert sum(c.kind is TaskKind.MODIFY for c in changes) <= exits.CHANGES_MAX
        if moves.is_over:
            assert market.held == 0
            return
        if moves.stop:
            assert moves.stop_code in ENDS
            return
        if seen.by_limit and seen.edge is None:
            assert not moves.place
            assert not moves.change
        assert sum(moves.place) <= seen.closing.room
        market.act(moves)
        market.go_on()
    raise AssertionError(f"neither flat nor stopped after {ROUNDS_MAX} looks")


def limited(price: str = "98", **more: Any) -> LegView:
    edge = Edge(price=Decimal(price), last=Decimal(100), percent=PERCENT)
    return dataclasses.replace(view(**more), by_limit=True, edge=edge)


def at(price: str, **changed: Any) -> OrderTask:
    return resting(
        body=to_fields(exits.order_for(limited(price), 75, PERCENT)), **{**LONG_AGO, **changed}
    )


def test_a_refused_market_order_makes_the_next_one_a_limit_at_the_end_of_the_band() -> None:
    refused = task(TaskKind.PLACE, 1, body={**at("98").body, "order_type": "MARKET"})
    assert not market_was_refused([refused])
    assert market_was_refused([dataclasses.replace(refused, state=S.REJECTED)])
    assert not market_was_refused([at("98", state=S.REJECTED)])
    order = exits.order_for(limited(), 75, PERCENT)
    assert order.order_type is OrderType.LIMIT
    assert (order.price, order.market_protection) == (Decimal(98), None)


def test_it_follows_the_last_price_and_is_not_changed_where_it_stands_already() -> None:
    order = at("98", updated_at_ns=NOW_NS - 10 * NS_PER_S)
    assert leg_moves(limited("97.5", under_way=75), [order], NOW_NS).change == (order,)
    assert leg_moves(limited("98", under_way=75), [order], NOW_NS) == exits.LegMoves()
    moved = task(
        TaskKind.MODIFY,
        2,
        state=S.ACKED,
        target_task_id=order.task_id,
        body={"order_type": "LIMIT", "price": "97.5"},
        updated_at_ns=NOW_NS - 10 * NS_PER_S,
    )
    assert leg_moves(limited("97.5", under_way=75), [order, moved], NOW_NS) == exits.LegMoves()
    assert leg_moves(limited("98", under_way=75), [order, moved], NOW_NS).change == (order,)


def test_one_that_stood_for_a_minute_at_the_end_of_the_band_is_for_a_person() -> None:
    moves = leg_moves(limited("98", under_way=75), [at("98")], NOW_NS)
    assert moves.stop_code == "BAND_EXHAUSTED"
    assert "98, the end of 2 % round 100" in moves.stop


def test_without_a_last_price_nothing_is_sent_and_nothing_changed() -> None:
    blind = dataclasses.replace(limited(), edge=None)
    assert leg_moves(blind, [], NOW_NS) == exits.LegMoves()
    resting_one = dataclasses.replace(limited(under_way=75), edge=None)
    assert leg_moves(resting_one, [at("98")], NOW_NS) == exits.LegMoves()


def test_the_evidence_says_at_what_price_it_was_sent() -> None:
    told = exits.evidence(limited(), [])
    assert (told.key, told.limit) == (":".join(KEY), "98, the end of 2 % round 100")
