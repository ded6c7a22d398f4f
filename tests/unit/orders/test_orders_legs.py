"""Icebergs and cover orders: what the broker makes several orders of stays one instruction."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from order_scene import BUY, Scene, broker_order, task
from structlog.testing import capture_logs
from virtual_time import run

from ticker_service.adapters import kite_rows
from ticker_service.domain import order_legs
from ticker_service.domain.order import (
    IcebergLeg,
    OrderChange,
    OrderType,
    Product,
    TaskKind,
    Validity,
    Variety,
    to_fields,
)
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import OrderRefused
from ticker_service.orders import admit
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.domain.order import BrokerOrder, OrderRequest, OrderTask

ICEBERG = dataclasses.replace(
    BUY, variety=Variety.ICEBERG, quantity=150, iceberg_legs=2, iceberg_quantity=75
)
COVER = dataclasses.replace(
    BUY, variety=Variety.CO, product=Product.MIS, trigger_price=Decimal("98.00")
)


NEXT = "000000000000009"
"""The order that the broker made of the first."""
SILENCE = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")


async def rests(scene: Scene, order: OrderRequest) -> tuple[OrderTask, str, str]:
    """Return an order that rests, its id at the broker and its tag."""
    placed = await scene.place(order)
    working = await scene.reaches(placed, TaskState.WORKING)
    return placed, working.broker_order_id or "", working.tag or ""


def leg(number: int, **changed: Any) -> BrokerOrder:
    """Return one leg's row of an iceberg of two."""
    values: dict[str, Any] = {
        "order_id": f"26112100000000{number}",
        "variety": "iceberg",
        "iceberg": IcebergLeg(leg=number, legs=2, total_quantity=150),
    }
    return broker_order(**values | changed)


def filled(number: int, price: str = "100.05", **changed: Any) -> BrokerOrder:
    values = {"status": "COMPLETE", "filled_quantity": 75, "average_price": Decimal(price)}
    return leg(number, **values | changed)


def iceberg_task(**changed: Any) -> Any:
    return task(body=to_fields(ICEBERG), **changed)


@pytest.mark.parametrize(
    ("rows", "status", "filled_quantity", "average"),
    [
        ([leg(1)], "OPEN", 0, "0"),
        ([filled(1)], "OPEN", 75, "100.05"),
        ([filled(1, "100"), filled(2, "101")], "COMPLETE", 150, "100.5"),
        ([filled(1), leg(2, status="CANCELLED")], "CANCELLED", 75, "100.05"),
        ([filled(1), leg(2, status="REJECTED")], "CANCELLED", 75, "100.05"),
        ([leg(1, status="REJECTED")], "REJECTED", 0, "0"),
    ],
    ids=["rests", "between-two", "all-filled", "cancelled", "second-rejected", "first-rejected"],
)
def test_an_iceberg_is_the_sum_of_its_legs_in_whichever_order_they_come(
    rows: list[BrokerOrder], status: str, filled_quantity: int, average: str
) -> None:
    for shuffled in itertools.permutations(rows):
        whole = order_legs.whole_iceberg(iceberg_task(), shuffled)
        assert whole is not None
        assert (whole.order_id, whole.quantity) == (leg(1).order_id, 150)
        assert (whole.status, whole.filled_quantity) == (status, filled_quantity)
        assert whole.average_price == Decimal(average)


def test_nothing_is_summed_while_a_leg_is_missing() -> None:
    assert order_legs.whole_iceberg(iceberg_task(), [filled(2)]) is None


def test_an_older_row_of_a_leg_changes_nothing() -> None:
    legs: dict[str, BrokerOrder] = {}
    for row in [filled(1), leg(1), leg(1, filled_quantity=30)]:
        order_legs.keep_leg(legs, row)
    assert list(legs.values()) == [filled(1)]


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({"iceberg": {"leg": 0, "legs": 2, "total_quantity": 150}}, None),
        ({"iceberg": {"leg": 1}}, None),
        ({"iceberg": {"leg": "1"}}, None),
        (None, None),
        ([], None),
        ("x", None),
        ({"iceberg": 1}, None),
        (
            {"iceberg": {"leg": 1, "legs": 5, "leg_quantity": 200, "total_quantity": 1000}},
            IcebergLeg(leg=1, legs=5, total_quantity=1000),
        ),
    ],
)
def test_a_row_that_does_not_say_which_leg_it_is_is_none(
    meta: object, told: IcebergLeg | None
) -> None:
    row = {"order_id": "1", "status": "OPEN", "meta": meta}
    assert kite_rows.order(row, user_id="").iceberg == told


def _shown(scene: Scene, row: BrokerOrder, tag: str) -> None:
    scene.broker.book[row.order_id] = dataclasses.replace(row, tags=(tag,))


def test_the_legs_of_an_iceberg_come_to_one_instruction_and_no_alarm() -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            placed, first, tag = await rests(scene, ICEBERG)
            _shown(scene, filled(1, order_id=first), tag)
            _shown(scene, leg(2, order_id=NEXT), tag)
            partial = await scene.reaches(placed, TaskState.PARTIAL)
            assert (partial.filled_quantity, partial.broker_order_id) == (75, first)

            _shown(scene, filled(2, "101.05", order_id=NEXT), tag)
            done = await scene.reaches(placed, TaskState.FILLED)
            assert (done.filled_quantity, done.average_price) == (150, Decimal("100.55"))
            assert not scene.halts.standing()
            await scene.until(
                lambda: (scene.desk.audit.age_ns or 10**18) < 10**9 and scene.broker.reads > 20
            )
            assert not scene.desk.audit.differences
            assert scene.desk.audit.external() == []

    run(story())


def test_a_change_and_a_cancel_of_an_iceberg_go_to_the_leg_that_rests() -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            placed, first, tag = await rests(scene, ICEBERG)
            _shown(scene, filled(1, order_id=first), tag)
            _shown(scene, leg(2, order_id=NEXT), tag)
            await scene.reaches(placed, TaskState.PARTIAL)
            change = await scene.modify(placed, price="100.10")
            await scene.reaches(change, TaskState.ACKED)
            cancel = await scene.cancel(placed)
            await scene.reaches(cancel, TaskState.ACKED)
            assert [sent.what for sent in scene.broker.sent[1:]] == [NEXT] * 2
            ended = await scene.reaches(placed, TaskState.CANCELLED)
            assert ended.filled_quantity == 75

    run(story())


def _second(first: str, **changed: Any) -> BrokerOrder:
    values: dict[str, Any] = {
        "order_id": NEXT,
        "status": "TRIGGER PENDING",
        "variety": "co",
        "product": "CO",
        "transaction_type": "SELL",
        "order_type": "SL-M",
        "trigger_price": Decimal("98.00"),
        "parent_order_id": first,
    }
    return broker_order(**values | changed)


@pytest.mark.parametrize("bears_tag", [False, True])
def test_the_second_leg_of_a_cover_order_is_ours_and_its_exit_goes_to_it(
    *, bears_tag: bool
) -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            placed, first, tag = await rests(scene, COVER)
            scene.broker.change(
                first,
                status="COMPLETE",
                filled_quantity=75,
                average_price=Decimal("100.05"),
                product="CO",
            )
            await scene.reaches(placed, TaskState.FILLED)
            leaves = await scene.submit(
                TaskKind.CANCEL, {order_legs.EXIT: "true"}, target_task_id=placed.task_id
            )
            # Until the broker shows the second leg, there is nowhere to send it.
            reads = scene.broker.reads
            await scene.until(lambda: scene.broker.reads > reads + 1)
            assert len(scene.broker.sent) == 1

            tags = (tag,) if bears_tag else ()
            scene.broker.book[NEXT] = _second(first, tags=tags)
            await scene.reaches(leaves, TaskState.ACKED)
            assert scene.broker.sent[-1].what == NEXT
            assert not scene.halts.standing()
            assert scene.desk.audit.external() == []
            assert not scene.desk.audit.differences
            assert scene.now(placed).state is TaskState.FILLED

    run(story())


def test_a_cancel_of_a_filled_cover_order_is_no_exit() -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            placed, first, _ = await rests(scene, COVER)
            scene.broker.change(first, status="COMPLETE", filled_quantity=75)
            scene.broker.book[NEXT] = _second(first)
            await scene.reaches(placed, TaskState.FILLED)
            cancel = await scene.cancel(placed)
            await scene.reaches(cancel, TaskState.REJECTED)
            assert scene.broker.sent[-1].what == first
            assert scene.broker.book[NEXT].status == "TRIGGER PENDING"

    run(story())


def test_a_new_trigger_of_a_cover_order_goes_to_the_second_leg_once_there_is_one() -> None:
    placed = task(body=to_fields(COVER), state=TaskState.WORKING, broker_order_id="1")
    change = task(kind=TaskKind.MODIFY, body={"trigger_price": "97.00"})
    before = order_legs.address_of(change, placed, [])
    after = order_legs.address_of(change, placed, [_second("1")])
    assert before == order_legs.Address(order_id="1", variety=Variety.CO)
    assert after == order_legs.Address(order_id=NEXT, variety=Variety.CO, parent_order_id="1")
    price = task(kind=TaskKind.MODIFY, body={"price": "99.00"})
    assert order_legs.address_of(price, placed, [_second("1")]) == before


@pytest.mark.parametrize(
    ("order", "another"),
    [
        (ICEBERG, lambda _, tag: leg(1, order_id=NEXT, tags=(tag,))),
        (BUY, lambda first, _: _second(first)),
    ],
    ids=["a-second-first-leg", "a-leg-of-what-has-none"],
)
def test_what_can_be_no_leg_of_an_order_halts_the_account(
    order: OrderRequest, another: Callable[[str, str], BrokerOrder]
) -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            placed, first, tag = await rests(scene, order)
            if order is ICEBERG:
                _shown(scene, leg(1, order_id=first), tag)
            scene.broker.book[NEXT] = another(first, tag)
            await scene.until(scene.halts.standing)
            assert scene.now(placed).broker_order_id == first

    run(story())


@pytest.mark.parametrize(
    ("order", "field", "value"),
    [
        (COVER, "product", Product.NRML),
        (COVER, "order_type", OrderType.SL),
        (COVER, "trigger_price", None),
        (COVER, "trigger_price", Decimal("100.05")),
        (COVER, "validity", Validity.IOC),
        (COVER, "disclosed_quantity", 1),
        (COVER, "iceberg_legs", 2),
        (ICEBERG, "iceberg_legs", None),
        (ICEBERG, "iceberg_legs", 1),
        (ICEBERG, "iceberg_legs", 51),
        (ICEBERG, "iceberg_quantity", None),
        (ICEBERG, "iceberg_quantity", 74),
        (ICEBERG, "iceberg_quantity", -75),
        (ICEBERG, "validity", Validity.IOC),
        (BUY, "iceberg_legs", 2),
        (BUY, "iceberg_quantity", 75),
    ],
)
def test_a_form_that_breaks_a_rule_of_its_variety_is_refused(
    order: OrderRequest, field: str, value: object
) -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.check_order(dataclasses.replace(order, **{field: value}))  # type: ignore[arg-type]  # one field by name
    assert refused.value.field == f"order.{field}"


@pytest.mark.parametrize(
    ("order", "changed"),
    [
        (COVER, {}),
        (
            COVER,
            {"order_type": OrderType.MARKET, "price": None, "market_protection": Decimal(-1)},
        ),
        (ICEBERG, {}),
        (ICEBERG, {"validity": Validity.TTL, "validity_ttl": 2}),
    ],
)
def test_cover_orders_and_icebergs_that_keep_the_rules_pass(
    order: OrderRequest, changed: dict[str, Any]
) -> None:
    admit.check_order(dataclasses.replace(order, **changed))


@pytest.mark.parametrize(
    ("change", "placed", "field"),
    [
        (OrderChange(quantity=75), ICEBERG, "quantity"),
        (OrderChange(order_type=OrderType.LIMIT), COVER, "order_type"),
        (OrderChange(validity=Validity.DAY), ICEBERG, "validity"),
        (
            OrderChange(price=Decimal(99), trigger_price=Decimal(98)),
            COVER,
            "trigger_price",
        ),
    ],
)
def test_of_an_order_with_legs_price_and_trigger_alone_are_changed(
    change: OrderChange, placed: OrderRequest, field: str
) -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.check_change(change, placed)
    assert refused.value.field == f"order.{field}"
    admit.check_change(OrderChange(price=Decimal(99)), placed)
    admit.check_change(OrderChange(trigger_price=Decimal(98)), COVER)


def test_an_iceberg_whose_answer_was_lost_is_found_with_all_its_legs() -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=SILENCE))
            scene.broker.hidden.add("000000000000001")
            placed = await scene.place(ICEBERG)
            lost = await scene.reaches(placed, TaskState.UNKNOWN)
            tag = lost.tag or ""
            # The newest first, as an update may come before the book has either.
            _shown(scene, leg(2, order_id="000000000000002"), tag)
            _shown(scene, filled(1, order_id="000000000000001"), tag)
            await asyncio.sleep(5)
            assert scene.now(placed).state is TaskState.UNKNOWN
            scene.broker.hidden.clear()
            found = await scene.reaches(placed, TaskState.PARTIAL)
            assert (found.broker_order_id, found.filled_quantity) == ("000000000000001", 75)
            assert len(scene.broker.sent_tags()) == 1
            assert not scene.halts.standing()

    run(story())


def test_a_restart_between_two_legs_loses_and_doubles_nothing() -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            placed, first, tag = await rests(scene, ICEBERG)
            _shown(scene, filled(1, order_id=first), tag)
            await scene.reaches(placed, TaskState.PARTIAL)
        _shown(scene, filled(2, "101.05", order_id=NEXT), tag)
        scene.renew()
        async with scene.opened():
            done = await scene.reaches(placed, TaskState.FILLED)
            assert (done.filled_quantity, done.average_price) == (150, Decimal("100.55"))
            assert not scene.halts.standing()

    run(story())


def _covered(scene: Scene, first: str, **second: Any) -> None:
    scene.broker.change(
        first, status="COMPLETE", filled_quantity=75, average_price=Decimal("100.05")
    )
    scene.broker.book[NEXT] = _second(first, **second)


@pytest.mark.parametrize("takes_effect", [True, False])
def test_an_exit_in_doubt_is_settled_by_the_second_leg(*, takes_effect: bool) -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            placed, first, _ = await rests(scene, COVER)
            _covered(scene, first)
            await scene.reaches(placed, TaskState.FILLED)
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=takes_effect))
            leaves = await scene.submit(
                TaskKind.CANCEL, {order_legs.EXIT: "true"}, target_task_id=placed.task_id
            )
            await scene.reaches(leaves, TaskState.UNKNOWN)
            settled = await scene.reaches(leaves, TaskState.ACKED, TaskState.NOT_PLACED)
            wanted = TaskState.ACKED if takes_effect else TaskState.NOT_PLACED
            assert settled.state is wanted
            assert len([each for each in scene.broker.sent if each.kind is TaskKind.CANCEL]) == 1

    run(story())


def test_a_cover_order_that_lost_its_tag_is_not_called_absent() -> None:
    async def story() -> None:
        scene = Scene()
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=SILENCE))
            scene.broker.hidden.add("000000000000001")
            placed = await scene.place(COVER)
            await scene.reaches(placed, TaskState.UNKNOWN)
            scene.broker.change("000000000000001", tags=(), product="CO")
            scene.broker.hidden.clear()
            ended = await scene.reaches(placed, TaskState.MANUAL, TaskState.NOT_PLACED)
            assert (ended.state, ended.reason_code) == (TaskState.MANUAL, "FINGERPRINT")

    run(story())


@pytest.mark.parametrize("is_shown", [False, True])
def test_a_filled_cover_order_without_a_stop_is_said_loudly(*, is_shown: bool) -> None:
    async def story() -> list[Any]:
        scene = Scene()
        with capture_logs() as lines:
            async with scene.opened():
                placed, first, _ = await rests(scene, COVER)
                _covered(scene, first)
                if not is_shown:
                    scene.broker.hidden.add(NEXT)
                await scene.reaches(placed, TaskState.FILLED)
                await asyncio.sleep(120)
        return [line for line in lines if line["event"] == "cover_order_without_stop"]

    assert len(run(story())) == (0 if is_shown else 1)


def test_an_iceberg_needs_room_in_the_day_for_all_its_legs() -> None:
    async def story() -> None:
        scene = Scene(limit_changes={"orders_per_day": 4, "orders_per_day_reserve": 1})
        async with scene.opened():
            await scene.reaches(await scene.place(ICEBERG), TaskState.WORKING)
            await scene.reaches(await scene.place(), TaskState.WORKING)
            with pytest.raises(OrderRefused, match="ORDER_LIMIT"):
                await scene.place(ICEBERG)
            await scene.reaches(await scene.place(), TaskState.WORKING)

    run(story())
