"""The account's net positions, their age, and what is being closed of each; virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from held_scene import KEY, SELL, Held
from order_scene import BUY, broker_order
from virtual_time import run

from ticker_service.domain.order import Side, TaskKind, Variety, to_fields
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.portfolio import BrokerTrade
from ticker_service.errors import BrokerUnavailable, OrderRefused
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def play(scenario: Callable[[Held], Awaitable[None]]) -> None:
    async def playing() -> None:
        scene = Held()
        async with scene.opened():
            await scenario(scene)

    run(playing())


def test_the_whole_position_may_be_closed_and_not_one_more() -> None:
    async def scenario(scene: Held) -> None:
        assert await scene.why_not(75) == ""
        assert "more than the 75 that are left" in await scene.why_not(76)
        assert "BUY does not reduce" in await scene.why_not(1, transaction_type=Side.BUY)

    play(scenario)


def test_an_order_at_rest_takes_its_whole_size_of_the_room() -> None:
    async def scenario(scene: Held) -> None:
        await scene.reaches(await scene.place(SELL), TaskState.ACKED)
        assert await scene.why_not(45) == ""
        assert "of which 30 are being closed already" in await scene.why_not(46)

    play(scenario)


def test_an_iceberg_takes_all_its_legs_of_the_room() -> None:
    async def scenario(scene: Held) -> None:
        legs = {"variety": Variety.ICEBERG, "iceberg_legs": 3, "iceberg_quantity": 10}
        await scene.reaches(await scene.place(dataclasses.replace(SELL, **legs)), TaskState.WORKING)
        assert "of which 30 are being closed already" in await scene.why_not(46)

    play(scenario)


def test_an_unknown_order_takes_its_whole_size() -> None:
    async def scenario(scene: Held) -> None:
        silence = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")
        scene.broker.answers.append(Answer(reply=silence, takes_effect=False))
        await scene.reaches(await scene.place(SELL), TaskState.UNKNOWN)
        assert "of which 30 are being closed already" in await scene.why_not(46)

    play(scenario)


def test_a_fill_since_the_position_was_read_takes_room_and_one_before_does_not_twice() -> None:
    async def scenario(scene: Held) -> None:
        placed = await scene.reaches(await scene.place(SELL), TaskState.ACKED)
        assert await scene.why_not(45) == ""
        scene.fill(scene.order_id, 30, "COMPLETE")
        scene.desk.take_update(scene.broker.book[scene.order_id])
        await scene.reaches(placed, TaskState.FILLED)
        assert scene.desk.positions.age_ns
        assert "more than the 45 that are left" in await scene.why_not(46)
        await asyncio.sleep(6)  # the reading is too old and is made anew
        assert await scene.why_not(45) == ""
        assert "has a net position of 45, of which 0" in await scene.why_not(46)

    play(scenario)


def test_an_order_that_came_and_filled_since_the_reading_is_counted() -> None:
    async def scenario(scene: Held) -> None:
        assert await scene.why_not(75) == ""
        placed = await scene.reaches(await scene.place(SELL), TaskState.ACKED)
        scene.fill(scene.order_id, 30, "COMPLETE")
        scene.desk.take_update(scene.broker.book[scene.order_id])
        await scene.reaches(placed, TaskState.FILLED)
        assert "of which 30 are being closed already" in await scene.why_not(46)

    play(scenario)


def test_an_order_of_another_app_takes_its_size() -> None:
    async def scenario(scene: Held) -> None:
        scene.broker.book["web"] = broker_order(
            order_id="web", transaction_type="SELL", quantity=50, filled_quantity=0
        )
        await asyncio.sleep(40)  # a book has shown it
        assert "of which 50 are being closed already" in await scene.why_not(26)

    play(scenario)


def test_a_change_to_more_counts_with_the_more() -> None:
    async def scenario(scene: Held) -> None:
        placed = await scene.reaches(await scene.place(SELL), TaskState.ACKED)
        await scene.why_not()
        await scene.reaches(await scene.modify(placed, quantity="60"), TaskState.ACKED)
        assert "of which 60 are being closed already" in await scene.why_not(16)

    play(scenario)


def test_while_a_change_is_on_its_way_there_is_no_room() -> None:
    async def scenario(scene: Held) -> None:
        await scene.reaches(await scene.place(SELL), TaskState.ACKED)
        scene.broker.change(scene.order_id, status="MODIFY PENDING")
        await asyncio.sleep(6)
        assert "are being closed already" in await scene.why_not(1)

    play(scenario)


def test_without_positions_nothing_is_known_to_reduce() -> None:
    async def scenario(scene: Held) -> None:
        await asyncio.sleep(6)
        scene.broker.is_down = True
        with pytest.raises(BrokerUnavailable):
            await scene.why_not(1)

    play(scenario)


def test_a_book_that_lacks_orders_is_no_leave_either() -> None:
    async def scenario(scene: Held) -> None:
        await scene.reaches(await scene.place(SELL), TaskState.ACKED)
        await asyncio.sleep(6)
        scene.broker.hidden.add(scene.order_id)
        await asyncio.sleep(6)
        with pytest.raises(BrokerUnavailable, match="lacks known orders"):
            await scene.why_not(1)

    play(scenario)


def test_where_fills_and_positions_differ_what_both_say_is_held() -> None:
    async def scenario(scene: Held) -> None:
        scene.broker.trade_book = [
            BrokerTrade(
                trade_id="1",
                order_id="web",
                key=KEY,
                transaction_type="SELL",
                quantity=50,
                average_price=Decimal(100),
            )
        ]
        await asyncio.sleep(6)
        assert "has a net position of 25" in await scene.why_not(26)
        # Seen again and again it is no lag: then the broker's positions are right.
        await asyncio.sleep(120)
        assert scene.desk.audit.differences
        assert await scene.why_not(75) == ""

    play(scenario)


@pytest.mark.parametrize("variety", ["amo", "auction", "co"])
def test_other_varieties_close_nothing(variety: str) -> None:
    async def scenario(scene: Held) -> None:
        asked = scene.new(TaskKind.PLACE, to_fields(SELL) | {"variety": variety})
        assert "closes no position" in await scene.desk.positions.not_reducing(asked)

    play(scenario)


def test_a_reading_is_used_again_while_it_is_young() -> None:
    async def scenario(scene: Held) -> None:
        await asyncio.sleep(6)
        before = scene.broker.reads
        for _ in range(50):
            await scene.why_not()
        assert scene.broker.reads - before <= 1

    play(scenario)


def test_what_the_day_keeps_free_is_for_orders_that_reduce_a_position() -> None:
    async def playing() -> None:
        scene = Held(limit_changes={"orders_per_day": 4, "orders_per_day_reserve": 2})
        async with scene.opened():
            for _ in range(2):
                await scene.reaches(await scene.place(BUY), TaskState.ACKED)
            with pytest.raises(OrderRefused, match="ORDER_LIMIT"):
                await scene.place(BUY)
            for _ in range(2):
                await scene.reaches(await scene.place(SELL), TaskState.ACKED)
            # They would reduce it further, but the broker takes no more.
            with pytest.raises(OrderRefused, match="ORDER_LIMIT"):
                await scene.place(SELL)
        assert len(scene.broker.sent_tags()) == 4

    run(playing())


def test_without_positions_what_the_day_keeps_free_stays_free() -> None:
    async def playing() -> None:
        scene = Held(limit_changes={"orders_per_day": 2, "orders_per_day_reserve": 1})
        async with scene.opened():
            await scene.reaches(await scene.place(BUY), TaskState.ACKED)
            scene.broker.is_down = True
            await asyncio.sleep(60)
            with pytest.raises(OrderRefused, match="ORDER_LIMIT"):
                await scene.place(SELL)

    run(playing())
