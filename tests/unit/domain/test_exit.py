"""An exit ends flat or says why not, and nothing it does can flip the position."""

from __future__ import annotations

import dataclasses
import random
import uuid
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ticker_service.constants import NS_PER_S
from ticker_service.domain import exit as exits
from ticker_service.domain.closing import Closing, UnderWay, closing
from ticker_service.domain.exit import Exit, LegView, body_of, exit_of, leg_moves
from ticker_service.domain.job import CANCELS_MAX, UNSENT_CANCELS_MAX
from ticker_service.domain.order import (
    Account,
    OrderTask,
    OrderType,
    Side,
    TaskKind,
    to_fields,
)
from ticker_service.domain.order_state import LIVE, TERMINAL, TaskState
from ticker_service.domain.portfolio import PositionKey

S = TaskState
KEY: Final = PositionKey("NFO", "NIFTY26NOVFUT", "NRML")
ROUNDS_MAX: Final = 3_000


def task(kind: TaskKind, number: int, **changed: Any) -> OrderTask:
    values: dict[str, Any] = {
        "task_id": uuid.UUID(int=number),
        "kind": kind,
        "account": Account("MAIN"),
        "principal": "desk",
        "request_id": f"x~1.{number}",
        "client_order_id": f"x~1.{number}",
        "body": {},
        "body_sha256": bytes(32),
        "state": S.RECEIVED,
        "version": 1,
        "attempt": 0,
        "tag": None,
        "writer_epoch": None,
        "deadline_ns": 0,
        "send_not_after_ns": None,
        "intent_at_ns": None,
        "broker_order_id": None,
        "broker_status": None,
        "filled_quantity": 0,
        "average_price": None,
        "reason_code": None,
        "reason": None,
        "target_task_id": None,
        "created_at_ns": 0,
        "updated_at_ns": 0,
        "leg": 1,
        "slice": number,
    }
    return OrderTask(**values | changed)


class Market:
    """A broker and a journal as an exit sees them; what happens next is drawn."""

    def __init__(self, chance: random.Random, held: int) -> None:
        self.chance, self.held, self.began = chance, held, held
        self.children: dict[uuid.UUID, OrderTask] = {}
        self.now_ns = 10**18

    def view(self) -> LegView:
        orders = [
            UnderWay(
                key=KEY,
                side=Side(order.body["transaction_type"]),
                most=order.filled_quantity
                if order.state in TERMINAL
                else int(order.body["quantity"]),
                counted=order.filled_quantity,
            )
            for order in self.orders()
        ]
        held = closing(KEY, self.held, orders)
        return LegView(closing=held, is_flat=not self.held, lot_size=5, largest=40)

    def orders(self) -> list[OrderTask]:
        return [child for child in self.children.values() if child.kind is TaskKind.PLACE]

    def act(self, moves: exits.LegMoves) -> None:
        view = self.view()
        for quantity in moves.place:
            order = exits.order_for(view, quantity, Decimal(-1))
            assert order.order_type is OrderType.MARKET
            self.add(TaskKind.PLACE, body=to_fields(order))
        for order in moves.change:
            self.add(TaskKind.MODIFY, target_task_id=order.task_id)
        for order in moves.cancel:
            self.add(TaskKind.CANCEL, target_task_id=order.task_id)

    def add(self, kind: TaskKind, **more: Any) -> None:
        number = len(self.children) + 1
        times = {"created_at_ns": self.now_ns, "updated_at_ns": self.now_ns}
        added = task(kind, number, **times | more)
        self.children[added.task_id] = added

    def put(self, child: OrderTask, state: TaskState, filled: int = 0) -> None:
        whole = child.filled_quantity + filled
        self.children[child.task_id] = dataclasses.replace(
            child, state=state, filled_quantity=whole, updated_at_ns=self.now_ns
        )
        if filled:
            is_buy = child.body["transaction_type"] == Side.BUY
            self.held += filled if is_buy else -filled
            assert self.held * self.began >= 0, "the position was flipped"

    def go_on(self) -> None:
        """Let time pass, and something happen to everything that is open."""
        self.now_ns += self.chance.randint(1, 8) * NS_PER_S
        for child in list(self.children.values()):
            if child.state in TERMINAL or (
                child.kind is not TaskKind.PLACE and child.state is S.ACKED
            ):
                continue
            if child.kind is TaskKind.PLACE:
                self.move_order(child)
            else:
                self.move_change(child)

    def move_order(self, order: OrderTask) -> None:
        left = int(order.body["quantity"]) - order.filled_quantity
        if order.state in LIVE:
            filled = self.chance.choice([0, 0, 5, left // 10 * 5, left])
            if filled:
                self.put(order, S.FILLED if filled == left else S.PARTIAL, filled)
            return
        ends = [S.SENDING, S.UNKNOWN, S.WORKING, S.WORKING, S.REJECTED, S.EXPIRED, S.NOT_PLACED]
        if order.state in {S.SENDING, S.UNKNOWN}:
            ends = [S.UNKNOWN, S.WORKING, S.REJECTED, S.NOT_PLACED]
        self.put(order, self.chance.choice(ends))

    def move_change(self, child: OrderTask) -> None:
        state = self.chance.choice([S.UNKNOWN, S.ACKED, S.ACKED, S.REJECTED])
        self.put(child, state)
        target = self.children[child.target_task_id or uuid.UUID(int=0)]
        if child.kind is TaskKind.CANCEL and state is S.ACKED and target.state in LIVE:
            self.put(target, S.CANCELLED)


@given(held=st.integers(-60, 60).filter(bool).map(lambda lots: lots * 5), seed=st.integers(0))
@settings(deadline=None)
def test_whatever_the_broker_does_it_ends_flat_or_stopped_and_never_flips(
    held: int, seed: int
) -> None:
    market = Market(random.Random(seed), held)  # noqa: S311 - a play
    for _ in range(ROUNDS_MAX):
        moves = leg_moves(market.view(), list(market.children.values()), market.now_ns)
        if moves.is_over:
            assert market.held == 0
            return
        if moves.stop:
            assert moves.stop_code in {"REFUSED", "TOO_MANY_ORDERS", "COULD_NOT_CANCEL"}
            return
        assert sum(moves.place) <= market.view().closing.room
        assert all(quantity <= 40 and quantity % 5 == 0 for quantity in moves.place)
        market.act(moves)
        market.go_on()
    raise AssertionError(f"neither flat nor stopped after {ROUNDS_MAX} looks")


def view(held: int = 75, under_way: int = 0, **more: Any) -> LegView:
    return LegView(
        closing=Closing(key=KEY, quantity=held, under_way=under_way), is_flat=not held, **more
    )


def resting(**changed: Any) -> OrderTask:
    body = to_fields(exits.order_for(view(), 75, Decimal(2)))
    return task(TaskKind.PLACE, 1, **{"body": body, "state": S.WORKING} | changed)


NOW_NS: Final = 10**18
LONG_AGO: Final = {"updated_at_ns": NOW_NS - 60 * NS_PER_S}


def test_what_is_held_is_sent_in_slices_of_whole_lots_below_the_freeze_quantity() -> None:
    moves = leg_moves(view(3_975, lot_size=75, largest=1_800), [], NOW_NS)
    assert moves.place == (1_350, 1_350, 1_275)


def test_no_more_than_ten_orders_are_open_at_once() -> None:
    assert len(leg_moves(view(2_000, largest=100), [], NOW_NS).place) == 10


def test_an_order_in_doubt_counts_whole_and_nothing_is_sent_beside_it() -> None:
    in_doubt = resting(state=S.UNKNOWN, **LONG_AGO)
    moves = leg_moves(view(150, under_way=75), [in_doubt], NOW_NS)
    assert moves == exits.LegMoves()


def test_what_rests_is_priced_again_and_after_25_times_cancelled() -> None:
    order = resting(**LONG_AGO)
    assert leg_moves(view(75, 75), [order], NOW_NS).change == (order,)
    changes = [
        task(TaskKind.MODIFY, n, state=S.ACKED, target_task_id=order.task_id, **LONG_AGO)
        for n in range(2, 27)
    ]
    assert leg_moves(view(75, 75), [order, *changes[:24]], NOW_NS).change == (order,)
    assert leg_moves(view(75, 75), [order, *changes], NOW_NS).cancel == (order,)


def test_an_order_whose_change_was_refused_is_cancelled() -> None:
    order = resting(**LONG_AGO)
    refused = task(TaskKind.MODIFY, 2, state=S.REJECTED, target_task_id=order.task_id, **LONG_AGO)
    assert leg_moves(view(75, 75), [order, refused], NOW_NS).cancel == (order,)


def test_one_that_goes_on_filling_is_left_alone() -> None:
    order = resting(state=S.PARTIAL, filled_quantity=30, updated_at_ns=NOW_NS - NS_PER_S)
    assert leg_moves(view(45, 45), [order], NOW_NS) == exits.LegMoves()


def test_orders_of_others_that_close_it_leave_nothing_to_send() -> None:
    assert leg_moves(view(75, under_way=75), [], NOW_NS) == exits.LegMoves()


def test_an_order_that_a_person_has_to_look_for_stops_it() -> None:
    assert leg_moves(view(), [resting(state=S.MANUAL)], NOW_NS).stop_code == "ORDER_UNKNOWN"


@pytest.mark.parametrize("held", [74, -74])
def test_less_than_a_lot_is_not_sent_and_is_for_a_person(held: int) -> None:
    moves = leg_moves(view(held, lot_size=75), [], NOW_NS)
    assert (moves.place, moves.stop_code) == ((), "LESS_THAN_A_LOT")
    assert "74" in moves.stop
    assert "75" in moves.stop


def test_less_than_a_lot_is_waited_for_while_something_is_under_way_to_close_it() -> None:
    assert leg_moves(view(74, under_way=1, lot_size=75), [], NOW_NS) == exits.LegMoves()
    assert leg_moves(view(76, under_way=75, lot_size=75), [], NOW_NS) == exits.LegMoves()
    ended = resting(state=S.CANCELLED, updated_at_ns=NOW_NS)
    assert leg_moves(view(74, lot_size=75), [ended], NOW_NS) == exits.LegMoves()


def test_less_than_a_lot_needs_no_price_to_be_told() -> None:
    assert leg_moves(view(74, lot_size=75, by_limit=True), [], NOW_NS).stop_code


def test_once_it_ends_what_is_open_is_cancelled_until_it_is_gone() -> None:
    order = resting()
    assert exits.ending_moves([order], NOW_NS).cancel == (order,)
    asked = task(
        TaskKind.CANCEL, 2, state=S.SENDING, target_task_id=order.task_id, updated_at_ns=NOW_NS
    )
    assert exits.ending_moves([order, asked], NOW_NS) == exits.LegMoves()
    gone = dataclasses.replace(order, state=S.CANCELLED)
    assert exits.ending_moves([gone, asked], NOW_NS).is_over


def test_cancels_that_ended_unsent_say_nothing_of_the_broker() -> None:
    order = resting()
    asked = [
        task(TaskKind.CANCEL, n, state=S.EXPIRED, target_task_id=order.task_id)
        for n in range(2, 90)
    ]
    assert exits.ending_moves([order, *asked], NOW_NS).cancel == (order,)
    asked = [dataclasses.replace(cancel, state=S.REJECTED) for cancel in asked[:CANCELS_MAX]]
    moves = exits.ending_moves([order, *asked], NOW_NS)
    assert (moves.cancel, moves.stop_code) == ((), "COULD_NOT_CANCEL")


def test_an_order_that_no_cancel_ends_keeps_no_other_from_being_cancelled() -> None:
    stuck, other = resting(), resting(task_id=uuid.UUID(int=99), slice=2)
    asked = [
        task(TaskKind.CANCEL, n, state=S.REJECTED, target_task_id=stuck.task_id)
        for n in range(2, 2 + CANCELS_MAX)
    ]
    assert exits.ending_moves([stuck, other, *asked], NOW_NS) == exits.LegMoves(cancel=(other,))
    gone = dataclasses.replace(other, state=S.CANCELLED)
    assert exits.ending_moves([stuck, gone, *asked], NOW_NS).stop_code == "COULD_NOT_CANCEL"


def test_cancels_that_end_unsent_get_rarer_and_have_an_end() -> None:
    order, asked, now_ns = resting(), list[OrderTask](), NOW_NS
    for number in range(2, 2 + UNSENT_CANCELS_MAX):
        while not exits.ending_moves([order, *asked], now_ns).cancel:
            now_ns += NS_PER_S
        asked.append(
            task(
                TaskKind.CANCEL,
                number,
                state=S.EXPIRED,
                target_task_id=order.task_id,
                updated_at_ns=now_ns,
            )
        )
    assert now_ns - NOW_NS >= 12 * 3_600 * NS_PER_S
    assert exits.ending_moves([order, *asked], now_ns).stop_code == "COULD_NOT_CANCEL"


@pytest.mark.parametrize(
    "wanted",
    [
        Exit(),
        Exit(exchange="NFO", tradingsymbol="X", product="MIS", cancel_resting=True, within_s=9),
        Exit(market_protection=Decimal("2.5")),
    ],
)
def test_a_form_tells_all_of_it(wanted: Exit) -> None:
    assert exit_of(body_of(wanted)) == wanted


def test_an_exit_means_one_symbol_one_product_or_all() -> None:
    symbol = Exit(exchange=KEY.exchange, tradingsymbol=KEY.tradingsymbol)
    assert Exit().means(*KEY)
    assert symbol.means(*KEY)
    assert not dataclasses.replace(symbol, product="MIS").means(*KEY)
    assert not symbol.means("NFO", "OTHER", "NRML")
