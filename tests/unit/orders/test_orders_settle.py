"""Evidence: an order is proven absent only when every condition of reliability.md §1.7 holds."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from order_scene import BUY, NOON_NS, broker_order, task

from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import TaskKind, Variety, to_fields
from ticker_service.domain.order_state import TaskState
from ticker_service.orders.settle import Evidence, judge_live, judge_unseen
from ticker_service.runtime.clock import Moment

if TYPE_CHECKING:
    from ticker_service.domain.order import BrokerOrder, OrderTask, TaskUpdate

S = TaskState
CONFIG = OrdersConfig()
CLOSED_NS = NOON_NS + int((CONFIG.send_window_s + CONFIG.settle_after_s) * NS_PER_S)
SPACING_NS = int(CONFIG.settle_spacing_s * NS_PER_S)
DAY_NS = 86_400 * NS_PER_S
UNKNOWN = task(state=S.UNKNOWN)
OTHERS = broker_order(order_id="9", tags=("SOMEBODY",))


def judge(
    evidence: Evidence,
    at_ns: int,
    *rows: BrokerOrder,
    is_whole: bool = True,
    of: OrderTask = UNKNOWN,
) -> TaskState | None:
    update = evidence.judge_place(of, rows, began=moment(at_ns), is_whole=is_whole)
    return update.state if update else None


def moment(at_ns: int, *, set_forward_ns: int = 0) -> Moment:
    """Return an instant by wall time, and by the clock that began at noon and was never set."""
    return Moment(now_ns=at_ns + set_forward_ns, monotonic_ns=at_ns - NOON_NS)


def doubting(of: OrderTask = UNKNOWN) -> Evidence:
    """Return the evidence of somebody who has looked since the order was sent."""
    evidence = Evidence(CONFIG)
    evidence.judge_place(of, (), began=moment(NOON_NS), is_whole=True)
    return evidence


def ends(**each: Any) -> list[TaskState | None]:
    """Read books from the closing of the window on, as many as are needed, and return the ends."""
    evidence = doubting()
    times = [CLOSED_NS + number * SPACING_NS for number in range(CONFIG.settle_reads_min)]
    return [judge(evidence, at_ns, OTHERS, **each) for at_ns in times]


def test_all_conditions_together_prove_absence() -> None:
    assert ends() == [None, None, S.NOT_PLACED]


def test_a1_books_begun_before_the_window_closed_do_not_count() -> None:
    evidence = doubting()
    early = [judge(evidence, CLOSED_NS - 1 - n * SPACING_NS) for n in range(20)]
    late = [judge(evidence, CLOSED_NS + n * SPACING_NS) for n in range(3)]
    assert (early, late) == ([None] * 20, [None, None, S.NOT_PLACED])


def test_a2_books_read_close_together_count_once() -> None:
    evidence = doubting()
    assert {judge(evidence, CLOSED_NS + n) for n in range(100)} == {None}


def test_a_wall_clock_that_is_set_forward_closes_no_window() -> None:
    evidence = doubting()
    for second in range(85):
        at = moment(NOON_NS + second * NS_PER_S, set_forward_ns=600 * NS_PER_S)
        assert evidence.judge_place(UNKNOWN, (), began=at, is_whole=True) is None


def test_a_wall_clock_that_is_set_back_does_not_stop_the_reads_from_counting() -> None:
    evidence = doubting()
    ends = []
    for second in range(0, 30, 2):
        back_ns = -second * NS_PER_S // 2
        at = moment(CLOSED_NS + second * NS_PER_S, set_forward_ns=back_ns)
        ends.append(evidence.judge_place(UNKNOWN, (), began=at, is_whole=True))
    assert any(end is not None and end.state is S.NOT_PLACED for end in ends)


def test_after_a_restart_the_window_is_waited_for_once_more() -> None:
    later_ns = CLOSED_NS + 600 * NS_PER_S
    evidence = Evidence(CONFIG)
    early = [judge(evidence, later_ns + n * SPACING_NS) for n in range(40)]
    assert set(early) == {None}
    wait_ns = int(CONFIG.settle_after_s * NS_PER_S)
    late = [judge(evidence, later_ns + wait_ns + n * SPACING_NS) for n in range(3)]
    assert late == [None, None, S.NOT_PLACED]


def test_a3_a_book_that_lacks_known_orders_does_not_count() -> None:
    assert ends(is_whole=False) == [None] * 3


def test_a4_an_order_without_a_tag_that_looks_like_it_is_for_a_person() -> None:
    twin = broker_order(order_id="8")
    assert judge(doubting(), CLOSED_NS, twin) is S.MANUAL


@pytest.mark.parametrize(
    ("placed", "end"),
    [
        ("2026-11-21 11:57:00", None),
        ("2026-11-21 11:59:00", S.MANUAL),
        ("2026-11-21 12:00:01", S.MANUAL),
        ("soon", S.MANUAL),
    ],
)
def test_a4_what_was_there_long_before_the_order_was_sent_is_not_it(
    placed: str, end: TaskState | None
) -> None:
    twin = broker_order(order_id="8", order_timestamp=placed)
    assert judge(doubting(), CLOSED_NS, twin) is end


def test_a4_an_order_that_is_known_to_be_another_of_ours_is_not_it() -> None:
    twin = broker_order(order_id="8")
    evidence = doubting()
    update = evidence.judge_place(
        UNKNOWN, [twin], began=moment(CLOSED_NS), is_whole=True, ours={"8"}
    )
    assert update is None


@pytest.mark.parametrize(
    "changed",
    [
        {"tags": ("SOMEBODY",)},
        {"exchange": "NSE"},
        {"tradingsymbol": "INFY"},
        {"transaction_type": "SELL"},
        {"product": "MIS"},
        {"quantity": 150},
    ],
    ids=lambda it: next(iter(it)),
)
def test_a4_an_order_that_differs_is_not_taken_for_it(changed: dict[str, Any]) -> None:
    assert judge(doubting(), CLOSED_NS, broker_order(order_id="8", **changed)) is None


def test_a5_another_day_s_book_proves_nothing() -> None:
    assert judge(Evidence(CONFIG), NOON_NS + DAY_NS) is S.MANUAL


def test_a_task_that_was_settled_starts_anew() -> None:
    evidence = doubting()
    for n in range(3):
        judge(evidence, CLOSED_NS + n * SPACING_NS)
    evidence.keep_only([])
    assert judge(evidence, CLOSED_NS + 9 * SPACING_NS) is None


def about(kind: TaskKind, **body: str) -> OrderTask:
    return task(state=S.UNKNOWN, kind=kind, body=body)


def target_says(
    asked: OrderTask, row: BrokerOrder | None, *, reads: int = 3, start_ns: int = CLOSED_NS
) -> TaskUpdate | None:
    evidence = Evidence(CONFIG)
    for at_ns in (NOON_NS, *(start_ns + number * SPACING_NS for number in range(reads))):
        update = evidence.judge_target(asked, row, began=moment(at_ns))
        if update is not None:
            return update
    return None


@pytest.mark.parametrize(
    ("asked", "row", "state", "code"),
    [
        (about(TaskKind.CANCEL), broker_order(status="CANCELLED"), S.ACKED, None),
        (about(TaskKind.CANCEL), broker_order(status="COMPLETE"), S.REJECTED, "ORDER_ENDED"),
        (about(TaskKind.CANCEL), broker_order(), S.NOT_PLACED, "NO_EFFECT"),
        (
            about(TaskKind.MODIFY, price="101"),
            broker_order(price=Decimal("101.00")),
            S.ACKED,
            None,
        ),
        (about(TaskKind.MODIFY, price="101"), broker_order(), S.NOT_PLACED, "NO_EFFECT"),
        (
            about(TaskKind.MODIFY, price="101", quantity="150"),
            broker_order(price=Decimal(101)),
            S.NOT_PLACED,
            "NO_EFFECT",
        ),
        (
            about(TaskKind.MODIFY, price="101"),
            broker_order(status="COMPLETE"),
            S.REJECTED,
            "ORDER_ENDED",
        ),
        (
            # Kite makes a LIMIT of it: whether it is this one or that of before nobody can tell.
            about(TaskKind.MODIFY, order_type="MARKET", market_protection="-1"),
            broker_order(),
            S.MANUAL,
            "NOT_SHOWN",
        ),
        (
            about(TaskKind.MODIFY, order_type="SL-M", trigger_price="99"),
            broker_order(order_type="SL", trigger_price=Decimal(99)),
            S.ACKED,
            None,
        ),
        (about(TaskKind.MODIFY, validity="IOC"), broker_order(), S.MANUAL, "NOT_SHOWN"),
    ],
)
def test_the_target_s_row_says_what_became_of_a_change_or_a_cancel(
    asked: OrderTask, row: BrokerOrder, state: TaskState, code: str | None
) -> None:
    update = target_says(asked, row)
    assert update is not None
    assert (update.state, update.reason_code) == (state, code)


def test_a_change_without_effect_so_far_may_still_come() -> None:
    asked = about(TaskKind.MODIFY, price="101")
    assert target_says(asked, broker_order(), reads=30, start_ns=NOON_NS) is None


def test_a_book_without_the_target_says_nothing_until_its_day_is_over() -> None:
    asked = about(TaskKind.CANCEL)
    assert target_says(asked, None, reads=30) is None
    update = target_says(asked, None, start_ns=NOON_NS + DAY_NS)
    assert update is not None
    assert update.state is S.MANUAL


@pytest.mark.parametrize(
    ("is_in_book", "at_ns", "end"),
    [(False, NOON_NS + DAY_NS, S.MANUAL), (True, NOON_NS + DAY_NS, None), (False, NOON_NS, None)],
)
def test_an_order_does_not_outlive_its_day_unless_the_book_still_shows_it(
    is_in_book: bool,  # noqa: FBT001
    at_ns: int,
    end: TaskState | None,
) -> None:
    resting = task(state=S.WORKING, broker_order_id="1")
    update = judge_live(resting, is_in_book=is_in_book, began=moment(at_ns))
    assert (update.state if update else None) is end


@pytest.mark.parametrize(("days", "end"), [(1, None), (5, None), (6, S.MANUAL)])
def test_an_after_market_order_may_rest_over_a_long_weekend(
    days: int, end: TaskState | None
) -> None:
    body = to_fields(dataclasses.replace(BUY, variety=Variety.AMO))
    resting = task(state=S.WORKING, broker_order_id="1", body=body)
    began = moment(NOON_NS + days * DAY_NS)
    update = judge_live(resting, is_in_book=False, began=began)
    assert (update.state if update else None) is end
    assert judge_unseen(resting, began=began) is None
    late = judge_unseen(resting, began=moment(NOON_NS + 7 * DAY_NS))
    assert late is not None
    assert late.state is S.MANUAL
