"""The broker's limits as callers meet them: refused here, by name, before the broker refuses."""

from __future__ import annotations

import pytest
import virtual_time
from order_scene import Scene, broker_order

from ticker_service.accounts.breaker import BreakerRules
from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import OrderRefused
from ticker_service.ports import LANE_FULL, NO_ACCESS_TOKEN, NO_TURN, Reply, Withheld
from ticker_service.testing import Answer, refusal

S = TaskState
NOT_LEFT = Reply(withheld=Withheld.NOTHING_LEFT, failure="connection refused")


def test_an_order_beyond_the_day_is_refused_with_the_limit_and_its_cancel_goes_out() -> None:
    scene = Scene(limit_changes={"orders_per_day": 3, "orders_per_day_reserve": 1})

    async def play() -> None:
        async with scene.opened():
            placed = [await scene.reaches(await scene.place(), S.ACKED) for _ in range(2)]
            with pytest.raises(OrderRefused) as told:
                await scene.place()
            assert told.value.code == "ORDER_LIMIT"
            assert "orders_per_day=3" in told.value.rule
            await scene.reaches(await scene.cancel(placed[0]), S.ACKED)

    virtual_time.run(play())
    assert len(scene.broker.sent_tags()) == 2


def test_the_days_orders_are_counted_over_a_restart_and_begin_anew_the_next_day() -> None:
    scene = Scene(limit_changes={"orders_per_day": 3, "orders_per_day_reserve": 1})

    async def play() -> None:
        async with scene.opened():
            for _ in range(2):
                await scene.reaches(await scene.place(), S.ACKED)
        scene.renew()
        async with scene.opened():
            with pytest.raises(OrderRefused):
                await scene.place()
        scene.pass_days(1)
        scene.broker.book.clear()
        scene.renew()
        async with scene.opened():
            await scene.reaches(await scene.place(), S.ACKED)

    virtual_time.run(play())


def test_an_order_that_did_not_come_to_the_broker_does_not_count() -> None:
    scene = Scene(
        OrdersConfig(attempts_max=3),
        limit_changes={"orders_per_day": 2, "orders_per_day_reserve": 1},
    )

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers += [Answer(reply=NOT_LEFT, takes_effect=False)] * 2
            await scene.reaches(await scene.place(), S.ACKED)

    virtual_time.run(play())


@pytest.mark.parametrize("why", [NO_TURN, LANE_FULL, NO_ACCESS_TOKEN])
def test_a_send_that_we_held_back_says_nothing_of_the_broker(why: str) -> None:
    scene = Scene(
        OrdersConfig(attempts_max=5), breaker_rules=BreakerRules(failures_max=1, open_s=600.0)
    )
    held = Reply(withheld=Withheld.NOTHING_LEFT, failure=why)

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers += [Answer(reply=held, takes_effect=False)] * 3
            await scene.reaches(await scene.place(), S.ACKED)

    virtual_time.run(play())


def test_an_order_that_the_broker_refused_counts_for_the_day() -> None:
    scene = Scene(limit_changes={"orders_per_day": 2, "orders_per_day_reserve": 1})

    async def play() -> None:
        async with scene.opened():
            no = refusal(400, "InputException")
            scene.broker.answers.append(Answer(reply=no, takes_effect=False))
            await scene.reaches(await scene.place(), S.REJECTED)
            with pytest.raises(OrderRefused):
                await scene.place()

    virtual_time.run(play())


def test_orders_that_wait_together_do_not_exceed_the_day_together() -> None:
    """All were admitted while there was room; what finds none is ended unsent, with the reason."""
    scene = Scene(limit_changes={"orders_per_day": 4, "orders_per_day_reserve": 1})

    async def play() -> None:
        async with scene.opened():
            placed = [await scene.place() for _ in range(6)]
            left = [await scene.reaches(each, S.ACKED, S.REJECTED_LOCAL) for each in placed]
        ended = [each for each in left if each.state is S.REJECTED_LOCAL]
        assert len(ended) == 3
        assert {each.reason_code for each in ended} == {"ORDER_LIMIT"}

    virtual_time.run(play())
    assert len(scene.broker.sent_tags()) == 3


def test_orders_that_other_apps_placed_count_once_the_book_shows_them() -> None:
    scene = Scene(limit_changes={"orders_per_day": 3, "orders_per_day_reserve": 1})
    for number in (1, 2):
        order_id = f"26112100000000{number}"
        scene.broker.book[order_id] = broker_order(order_id=order_id)

    async def play() -> None:
        async with scene.opened():
            with pytest.raises(OrderRefused):
                await scene.place()

    virtual_time.run(play())


def test_our_own_orders_in_the_book_are_not_counted_twice() -> None:
    scene = Scene(limit_changes={"orders_per_day": 4, "orders_per_day_reserve": 1})

    async def play() -> None:
        async with scene.opened():
            await scene.reaches(await scene.place(), S.ACKED)
            scene.desk.want_book()
            reads = scene.broker.reads
            await scene.until(lambda: scene.broker.reads > reads + 1)
            assert scene.limits.placed_today == 1
        scene.renew()
        async with scene.opened():
            assert scene.limits.placed_today == 1

    virtual_time.run(play())


def test_a_change_beyond_the_orders_own_limit_is_refused_here_and_its_cancel_is_not() -> None:
    scene = Scene(limit_changes={"modifications_per_order": 3})

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.ACKED)
            for number in range(3):
                await scene.reaches(await scene.modify(placed, price=f"10{number}"), S.ACKED)
            with pytest.raises(OrderRefused) as told:
                await scene.modify(placed, price="99")
            assert told.value.code == "MODIFICATION_LIMIT"
            assert "modifications_per_order=3" in told.value.rule
            other = await scene.reaches(await scene.place(), S.ACKED)
            await scene.reaches(await scene.modify(other, price="101"), S.ACKED)
            await scene.reaches(await scene.cancel(placed), S.ACKED)

    virtual_time.run(play())


def test_changes_that_wait_together_do_not_exceed_the_orders_limit_together() -> None:
    scene = Scene(limit_changes={"modifications_per_order": 2})

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.ACKED)
            changes = [await scene.modify(placed, price=f"10{number}") for number in range(4)]
            left = [await scene.reaches(each, S.ACKED, S.REJECTED_LOCAL) for each in changes]
        assert [each.state for each in left] == [S.ACKED] * 2 + [S.REJECTED_LOCAL] * 2
        assert left[2].reason_code == "MODIFICATION_LIMIT"

    virtual_time.run(play())


def test_a_known_key_has_its_answer_when_its_limit_is_reached() -> None:
    scene = Scene(limit_changes={"orders_per_day": 2, "orders_per_day_reserve": 1})

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(request_id="k"), S.ACKED)
            again = await scene.place(request_id="k", client_order_id=placed.client_order_id)
            assert again.task_id == placed.task_id

    virtual_time.run(play())


def test_an_order_that_finds_no_turn_in_time_says_which_limit_kept_it() -> None:
    scene = Scene(OrdersConfig(deadline_s=0.5))

    async def play() -> None:
        async with scene.opened():
            placed = [await scene.place() for _ in range(9)]
            left = [await scene.reaches(each, S.ACKED, S.EXPIRED) for each in placed]
        (late,) = [each for each in left if each.state is S.EXPIRED]
        assert "orders_per_second=8" in (late.reason or "")

    virtual_time.run(play())


def test_a_restart_does_not_begin_the_second_anew() -> None:
    scene = Scene()

    async def play() -> list[int]:
        async with scene.opened():
            for _ in range(8):
                await scene.reaches(await scene.place(), S.ACKED)
        scene.renew()
        async with scene.opened():
            await scene.reaches(await scene.place(), S.ACKED)
        return [sent.intent_at_ns or 0 for sent in scene.journal.attempts]

    sent_ns = virtual_time.run(play())
    assert sent_ns[8] - sent_ns[0] > NS_PER_S
