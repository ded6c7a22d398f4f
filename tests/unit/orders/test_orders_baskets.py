"""Baskets and sliced orders on a desk in memory, at virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from order_scene import ACCOUNT, BUY, Scene

from ticker_service.domain.halt import HaltCode
from ticker_service.domain.job import (
    CANCELS_MAX,
    Basket,
    BasketMode,
    Leg,
    LegStatus,
    body_of,
    cancels_of,
    report,
)
from ticker_service.domain.order import Side, TaskKind
from ticker_service.domain.order_state import TaskState as S
from ticker_service.errors import OrderRefused
from ticker_service.testing import Answer, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.domain.order import OrderRequest, OrderTask

SELL = replace(BUY, transaction_type=Side.SELL, tradingsymbol="NIFTY26NOV25100CE")
MARGIN = Answer(reply=refusal(400, "MarginException", "insufficient funds"), takes_effect=False)


class Desk(Scene):
    """A scene that trades baskets."""

    async def basket(self, *orders: OrderRequest, **how: Any) -> OrderTask:
        basket = Basket(legs=tuple(Leg(order=order) for order in orders), **how)
        return await self.submit(TaskKind.BASKET, body_of(basket))

    async def sliced(self, order: OrderRequest, parts: list[int]) -> OrderTask:
        body = body_of(Basket(legs=(Leg(order=order, slice=True),)))
        return await self.submit(TaskKind.SLICES, body, facts={"slices": {"1": parts}})

    def children(self, job: OrderTask) -> list[OrderTask]:
        found = [task for task in self.journal.tasks.values() if task.job_id == job.task_id]
        return sorted(found, key=lambda task: (task.leg, task.slice, task.created_at_ns))

    def orders(self, job: OrderTask) -> list[OrderTask]:
        return [child for child in self.children(job) if child.kind is TaskKind.PLACE]

    def statuses(self, job: OrderTask) -> list[LegStatus]:
        return [leg.status for leg in report(self.now(job), self.children(job))]

    def fill(self, order: OrderTask, quantity: int | None = None) -> None:
        row = self.broker.order_of_tag(self.now(order).tag or "")
        filled = row.quantity if quantity is None else quantity
        status = "COMPLETE" if filled == row.quantity else "OPEN"
        price = Decimal("100.05")
        row = self.broker.change(
            row.order_id, status=status, filled_quantity=filled, average_price=price
        )
        self.desk.take_update(row)

    async def ends(self, job: OrderTask) -> OrderTask:
        await self.until(lambda: self.now(job).state in {S.DONE, S.ESCALATED})
        return self.now(job)

    async def placed(self, job: OrderTask, count: int) -> list[OrderTask]:
        await self.until(
            lambda: sum(order.broker_order_id is not None for order in self.orders(job)) == count
        )
        return self.orders(job)


def on_desk(play: Callable[[Desk], Awaitable[None]]) -> None:
    async def opened() -> None:
        desk = Desk()
        async with desk.opened():
            await play(desk)

    virtual_time.run(opened())


def test_each_leg_becomes_an_order_with_a_key_and_a_tag_of_its_own() -> None:
    async def play(desk: Desk) -> None:
        job = await desk.basket(BUY, SELL)
        orders = await desk.placed(job, 2)
        assert [order.client_order_id for order in orders] == [
            f"{job.client_order_id}~1",
            f"{job.client_order_id}~2",
        ]
        assert len(set(desk.broker.sent_tags())) == 2
        for order in orders:
            desk.fill(order)
        job = await desk.ends(job)
        assert (job.state, job.reason_code) == (S.DONE, None)
        assert job.facts == {"filled": {"1": 75, "2": 75}}
        assert desk.statuses(job) == [LegStatus.FILLED] * 2

    on_desk(play)


def test_independent_legs_go_their_own_ways() -> None:
    async def play(desk: Desk) -> None:
        desk.broker.answers.append(MARGIN)
        job = await desk.basket(BUY, SELL)
        await desk.until(lambda: len(desk.broker.sent) == 2)
        await desk.until(lambda: LegStatus.FAILED in desk.statuses(job))
        assert desk.now(job).state is S.RUNNING
        (alive,) = [order for order in desk.orders(job) if order.state is not S.REJECTED]
        desk.fill(alive)
        job = await desk.ends(job)
        assert (job.state, job.reason_code) == (S.DONE, "NOT_ALL_FILLED")
        assert not [child for child in desk.children(job) if child.kind is TaskKind.CANCEL]

    on_desk(play)


def test_after_a_failure_what_rests_is_cancelled_and_what_filled_is_told() -> None:
    async def play(desk: Desk) -> None:
        job = await desk.basket(
            BUY, SELL, replace(BUY, quantity=150), mode=BasketMode.ALL_OR_COMPENSATE
        )
        first, second, third = await desk.placed(job, 3)
        desk.fill(first)
        desk.fill(second, 25)
        row = desk.broker.order_of_tag(third.tag or "")
        desk.desk.take_update(
            desk.broker.change(row.order_id, status="REJECTED", status_message="RMS: no")
        )
        job = await desk.ends(job)
        assert (job.state, job.reason_code) == (S.DONE, "LEG_FAILED")
        assert f"{third.client_order_id} is REJECTED: RMS: no" in (job.reason or "")
        assert job.facts == {"filled": {"1": 75, "2": 25, "3": 0}}
        assert [desk.now(order).state for order in (first, second, third)] == [
            S.FILLED,
            S.CANCELLED,
            S.REJECTED,
        ]
        assert len(cancels_of(second, desk.children(job))) == 1
        assert desk.statuses(job) == [LegStatus.FILLED, LegStatus.FAILED, LegStatus.FAILED]

    on_desk(play)


def test_no_sell_leaves_before_every_buy_is_filled() -> None:
    async def play(desk: Desk) -> None:
        job = await desk.basket(SELL, BUY, buys_first=True)
        (buy,) = await desk.placed(job, 1)
        assert buy.leg == 2
        desk.fill(buy, 25)
        await desk.reaches(buy, S.PARTIAL)
        await desk.until(lambda: desk.clock.monotonic_ns() > 60 * 10**9)
        assert desk.statuses(job) == [LegStatus.WAITING, LegStatus.OPEN]
        desk.fill(buy)
        orders = await desk.placed(job, 2)
        desk.fill(orders[0])
        assert (await desk.ends(job)).reason_code is None

    on_desk(play)


@pytest.mark.parametrize("mode", BasketMode)
def test_a_buy_that_fails_keeps_the_sells_from_leaving(mode: BasketMode) -> None:
    async def play(desk: Desk) -> None:
        desk.broker.answers.append(MARGIN)
        job = await desk.basket(SELL, BUY, buys_first=True, mode=mode)
        job = await desk.ends(job)
        assert len(desk.broker.sent) == 1
        assert desk.statuses(job) == [LegStatus.NOT_SENT, LegStatus.FAILED]

    on_desk(play)


def test_a_basket_is_cancelled_as_a_whole() -> None:
    async def play(desk: Desk) -> None:
        job = await desk.basket(BUY, SELL, BUY, buys_first=True)
        first, third = await desk.placed(job, 2)
        desk.fill(first)
        cancel = await desk.cancel(job)
        job = await desk.ends(job)
        assert (job.state, job.reason_code) == (S.DONE, "CANCELLED_BY_CALLER")
        assert desk.now(cancel).reason_code == "JOB_STOPPED"
        assert desk.now(third).state is S.CANCELLED
        assert desk.statuses(job) == [LegStatus.FILLED, LegStatus.NOT_SENT, LegStatus.FAILED]
        late = await desk.cancel(job)
        assert (await desk.reaches(late, S.REJECTED_LOCAL)).reason_code == "ORDER_ENDED"

    on_desk(play)


def test_a_sliced_order_is_several_orders_that_come_to_its_quantity() -> None:
    async def play(desk: Desk) -> None:
        job = await desk.sliced(replace(BUY, quantity=225), [75, 75, 75])
        orders = await desk.placed(job, 3)
        assert [order.body["quantity"] for order in orders] == ["75"] * 3
        assert orders[2].client_order_id == f"{job.client_order_id}~1.3"
        for order in orders:
            desk.fill(order)
        assert (await desk.ends(job)).facts == {
            "slices": {"1": [75, 75, 75]},
            "filled": {"1": 225},
        }
        (leg,) = report(desk.now(job), desk.children(job))
        assert (leg.status, leg.filled_quantity) == (LegStatus.FILLED, 225)
        assert leg.average_price == Decimal("100.05")

    on_desk(play)


def test_what_would_be_more_than_was_asked_does_not_leave_and_halts_the_account() -> None:
    async def play(desk: Desk) -> None:
        # I13, on the sending path: the plan itself is wrong here.
        job = await desk.sliced(replace(BUY, quantity=150), [75, 75, 75])
        await desk.until(desk.halts.standing)
        (halt,) = desk.halts.standing()
        assert halt.code is HaltCode.MORE_THAN_ASKED
        await desk.until(lambda: all(o.state is not S.SENDING for o in desk.orders(job)))
        assert sum(row.quantity for row in desk.broker.book.values()) <= 150
        with pytest.raises(OrderRefused, match="ACCOUNT_HALTED"):
            await desk.place()

    on_desk(play)


def test_a_basket_of_an_earlier_run_is_brought_to_its_end_and_no_leg_is_sent_twice() -> None:
    async def play() -> None:
        desk = Desk()
        async with desk.opened():
            job = await desk.basket(SELL, BUY, buys_first=True)
            (buy,) = await desk.placed(job, 1)
        desk.fill(buy)
        desk.renew()
        async with desk.opened():
            orders = await desk.placed(job, 2)
            desk.fill(orders[0])
            assert (await desk.ends(job)).state is S.DONE
        assert len(desk.broker.sent) == 2

    virtual_time.run(play())


@pytest.mark.parametrize("mode", BasketMode)
def test_a_leg_that_the_risk_limits_deny_is_told_and_no_order_of_it_is_journalled(
    mode: BasketMode,
) -> None:
    async def play() -> None:
        desk = Desk(risk={"order_quantity_max": 100})
        async with desk.opened():
            job = await desk.basket(BUY, replace(SELL, quantity=150), mode=mode)
            (first,) = await desk.placed(job, 1)
            if mode is BasketMode.INDEPENDENT:
                desk.fill(first)
            job = await desk.ends(job)
            first_leg, second_leg = report(job, desk.children(job))
            assert second_leg.status is LegStatus.NOT_SENT
            assert second_leg.refused.startswith("RISK_")
            assert len(desk.orders(job)) == 1
            if mode is BasketMode.INDEPENDENT:
                assert (first_leg.status, job.reason_code) == (LegStatus.FILLED, "NOT_ALL_FILLED")
            else:
                assert (first_leg.status, job.reason_code) == (LegStatus.FAILED, "LEG_FAILED")
                assert "was refused" in (job.reason or "")

    virtual_time.run(play())


def test_a_basket_holds_no_more_than_so_many_open_jobs() -> None:
    async def play(desk: Desk) -> None:
        desk.desk.jobs.open_count = 200
        with pytest.raises(OrderRefused, match="TOO_MANY_WAITING"):
            await desk.basket(BUY)
        assert desk.journal.events[ACCOUNT] == []

    on_desk(play)


@pytest.mark.parametrize("mode", BasketMode)
def test_what_was_not_journalled_by_the_deadline_of_its_job_is_never_sent(
    mode: BasketMode,
) -> None:
    async def play() -> None:
        # Acknowledged, and the daemon dies before its orders are journalled.
        desk = Desk()
        basket = Basket(legs=(Leg(order=BUY), Leg(order=SELL)), mode=mode)
        new = desk.new(TaskKind.BASKET, body_of(basket))
        job = (await desk.journal.admit(new)).task
        desk.pass_days(1)
        desk.renew()
        async with desk.opened():
            job = await desk.ends(job)
            assert (desk.broker.sent, desk.orders(job)) == ([], [])
            assert desk.statuses(job) == [LegStatus.NOT_SENT] * 2
            assert report(job, [])[0].refused.startswith("EXPIRED: ")
            is_all = mode is BasketMode.ALL_OR_COMPENSATE
            assert job.state is S.DONE
            assert job.reason_code == ("LEG_FAILED" if is_all else "NOT_ALL_FILLED")

    virtual_time.run(play())


@pytest.mark.parametrize(("days", "sent"), [(0, 2), (1, 1)])
def test_a_sell_that_waits_for_a_buy_leaves_on_the_day_of_its_basket_alone(
    days: int, sent: int
) -> None:
    async def play() -> None:
        desk = Desk()
        async with desk.opened():
            job = await desk.basket(SELL, BUY, buys_first=True)
            (buy,) = await desk.placed(job, 1)
        desk.fill(buy)
        desk.set_clock(3_600.0)  # its deadline is over, and it has not begun to wait for it
        desk.pass_days(days)
        desk.renew()
        async with desk.opened():
            if not days:
                sell, _ = await desk.placed(job, 2)
                desk.fill(sell)
            job = await desk.ends(job)
            assert job.reason_code == ("NOT_ALL_FILLED" if days else None)
            assert desk.statuses(job)[0] is (LegStatus.NOT_SENT if days else LegStatus.FILLED)
            assert len(desk.broker.sent) == sent

    virtual_time.run(play())


def test_a_basket_is_stopped_while_a_login_is_awaited() -> None:
    async def play(desk: Desk) -> None:
        job = await desk.basket(SELL, BUY, buys_first=True)
        (buy,) = await desk.placed(job, 1)
        desk.broker.is_token_refused = True
        desk.desk.token_has_ended()
        cancel = await desk.reaches(await desk.cancel(job), S.CANCELLED_LOCAL)
        assert cancel.reason_code == "JOB_STOPPED"
        desk.fill(buy)
        desk.broker.is_token_refused = False
        desk.desk.has_new_token()
        job = await desk.ends(job)
        assert (job.reason_code, desk.broker.sent_tags()) == ("CANCELLED_BY_CALLER", [buy.tag])
        assert desk.statuses(job) == [LegStatus.NOT_SENT, LegStatus.FILLED]

    on_desk(play)


def test_what_rests_when_the_token_ends_is_cancelled_after_the_login_however_late() -> None:
    async def play(desk: Desk) -> None:
        job = await desk.basket(BUY, SELL, mode=BasketMode.ALL_OR_COMPENSATE)
        first, second = await desk.placed(job, 2)
        row = desk.broker.order_of_tag(second.tag or "")
        desk.broker.is_token_refused = True
        desk.desk.token_has_ended()
        desk.desk.take_update(desk.broker.change(row.order_id, status="REJECTED"))
        await asyncio.sleep(3 * 3_600)
        assert desk.now(job).state is S.STOPPING
        assert len(cancels_of(first, desk.children(job))) <= 1
        desk.broker.is_token_refused = False
        desk.desk.has_new_token()
        job = await desk.ends(job)
        assert (job.state, job.reason_code) == (S.DONE, "LEG_FAILED")
        assert desk.now(first).state is S.CANCELLED

    on_desk(play)


def test_who_cancels_a_job_that_was_given_up_is_told_that_orders_of_it_may_stand() -> None:
    async def play(desk: Desk) -> None:
        no = Answer(reply=refusal(400, "OrderException"), takes_effect=False)
        job = await desk.basket(BUY, SELL)
        await desk.placed(job, 2)
        desk.broker.answers.extend([no] * (2 * CANCELS_MAX))
        await desk.cancel(job)
        job = await desk.ends(job)
        assert (job.state, job.reason_code) == (S.ESCALATED, "COULD_NOT_CANCEL")
        assert desk.desk.jobs.escalated == 1
        assert {row.status for row in desk.broker.book.values()} == {"OPEN"}
        late = await desk.reaches(await desk.cancel(job), S.REJECTED_LOCAL)
        assert late.reason_code == "JOB_ESCALATED"
        assert "may stand at the broker: look at its legs" in (late.reason or "")
        assert f"{job.client_order_id}~1" in (late.reason or "")

    on_desk(play)
