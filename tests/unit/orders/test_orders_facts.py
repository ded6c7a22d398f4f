"""What the broker shows against what we believed: nothing of it is lost, doubled or misreported."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import virtual_time
from order_scene import Scene, broker_order
from structlog.testing import capture_logs

from ticker_service.config import OrdersConfig
from ticker_service.domain.order import TaskUpdate
from ticker_service.domain.order_state import TaskState
from ticker_service.orders.standing import DeskState
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, Sent, refusal

if TYPE_CHECKING:
    from ticker_service.domain.order import OrderTask

S = TaskState
SILENCE = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")
THROTTLED = refusal(429, "NetworkException", "Too many requests")


async def doubtful(scene: Scene) -> OrderTask:
    """Place an order whose answer is lost and that the broker never got."""
    scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
    return await scene.reaches(await scene.place(), S.UNKNOWN)


async def book_under_way(scene: Scene, go_on: asyncio.Event) -> None:
    """Let a book be asked for that is of now and arrives when told."""
    orders = scene.broker.orders

    async def slowly() -> object:
        rows = await orders()
        await go_on.wait()
        return rows

    scene.broker.orders = slowly  # type: ignore[method-assign, assignment]
    reads = scene.broker.reads
    scene.desk.want_book()
    await scene.until(lambda: scene.broker.reads > reads)


# --- orders that were called unsent ---------------------------------------------------------------


@pytest.mark.parametrize(
    "reply", [THROTTLED, refusal(403, "TokenException")], ids=["throttled", "token"]
)
def test_an_order_that_was_called_unsent_and_is_in_the_book_is_not_sent_again(
    reply: Reply,
) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            # The broker says that nothing happened, and places it all the same.
            scene.broker.answers.append(Answer(reply=reply))
            with capture_logs() as logs:
                placed = await scene.place()
                await scene.until(lambda: scene.broker.book)
                scene.desk.want_book()
                found = await scene.reaches(placed, S.WORKING)
                await asyncio.sleep(60.0)
            assert found.broker_order_id in scene.broker.book
            assert len(scene.broker.sent) == len(scene.broker.book) == 1
            assert "late_fact_wins" in {entry["event"] for entry in logs}

    virtual_time.run(play())


def test_an_order_that_was_withdrawn_unsent_and_is_in_the_book_is_told_of() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=refusal(403, "TokenException")))
            scene.broker.is_down = True
            placed = await scene.place()
            await scene.until(lambda: scene.executor.is_auth_refused and scene.broker.book)
            await scene.reaches(await scene.cancel(placed), S.CANCELLED_LOCAL)
            scene.broker.is_down = False
            await scene.reaches(placed, S.WORKING)
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


# --- tags that the broker loses -------------------------------------------------------------------


@pytest.mark.parametrize("by", ["book", "update"])
def test_an_order_whose_tag_the_broker_lost_is_followed_by_its_order_id(by: str) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            (order_id,) = scene.broker.book
            if by == "update":
                filled = broker_order(order_id=order_id, status="COMPLETE", filled_quantity=75)
                scene.broker.is_down = True
                scene.desk.take_update(filled)
            else:
                scene.broker.change(order_id, tags=(), status="COMPLETE", filled_quantity=75)
            done = await scene.reaches(placed, S.FILLED)
            assert done.filled_quantity == 75

    virtual_time.run(play())


def test_a_known_order_without_its_tag_is_not_taken_for_one_that_is_in_doubt() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            known = await scene.reaches(await scene.place(), S.WORKING)
            (order_id,) = scene.broker.book
            scene.broker.change(order_id, tags=())
            unknown = await doubtful(scene)
            await scene.reaches(unknown, S.NOT_PLACED, S.MANUAL)
            assert scene.now(unknown).state is S.NOT_PLACED
            assert scene.now(known).state is S.WORKING

    virtual_time.run(play())


# --- truncated books ------------------------------------------------------------------------------


def test_a_book_that_lacks_an_order_of_the_day_proves_nothing_after_a_restart_either() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await scene.reaches(await scene.place(), S.WORKING)
            unknown = await doubtful(scene)
        scene.broker.hidden.update(scene.broker.book)
        scene.renew()
        async with scene.opened():
            await asyncio.sleep(600.0)
            assert scene.now(unknown).state is S.UNKNOWN
            scene.broker.hidden.clear()
            await scene.reaches(unknown, S.NOT_PLACED)

    virtual_time.run(play())


# --- the end of the day ---------------------------------------------------------------------------


def test_an_order_whose_end_was_not_seen_is_for_a_person_the_day_after_and_not_live() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
        # The exchange cancels it at the close; nobody was there to see.
        scene.broker.book.clear()
        scene.pass_days(1)
        scene.renew()
        async with scene.opened():
            ended = await scene.reaches(placed, S.MANUAL)
            assert ended.reason_code == "DAY_OVER"
            assert "day is over" in (ended.reason or "")
            reads = scene.broker.reads
            await asyncio.sleep(20 * scene.config.book_poll_live_s)
            assert scene.broker.reads - reads <= 5

    virtual_time.run(play())


def test_an_order_of_yesterday_that_the_book_still_shows_keeps_what_the_book_says() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.pass_days(1)
            await asyncio.sleep(60.0)
            assert scene.now(placed).state is S.WORKING
            (order_id,) = scene.broker.book
            scene.broker.change(order_id, status="CANCELLED")
            await scene.reaches(placed, S.CANCELLED)

    virtual_time.run(play())


@pytest.mark.parametrize("rests", [True, False], ids=["at-rest", "in-doubt"])
def test_an_order_of_a_day_whose_book_nobody_could_read_is_for_a_person(rests: bool) -> None:  # noqa: FBT001
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await (scene.place() if rests else doubtful(scene))
            before = await scene.reaches(placed, S.WORKING if rests else S.UNKNOWN)
            scene.broker.is_token_refused = True
            scene.pass_days(1)
            await asyncio.sleep(120.0)
            assert scene.now(placed).state is before.state, "its book may still be there"
            scene.pass_days(1)
            with capture_logs() as logs:
                ended = await scene.reaches(placed, S.MANUAL)
            assert ended.reason_code == "DAY_OVER"
            (alarm,) = [each for each in logs if each["event"] == "order_outlived_its_day"]
            assert (alarm["log_level"], alarm["code"]) == ("error", "DAY_OVER")
            # Whatever a book tells of it all the same is believed.
            if rests:
                (order_id,) = scene.broker.book
                scene.broker.change(order_id, status="COMPLETE", filled_quantity=75)
                scene.broker.is_token_refused = False
                scene.desk.has_new_token()
                await scene.reaches(placed, S.FILLED)

    virtual_time.run(play())


# --- changes in doubt -----------------------------------------------------------------------------


def test_a_change_waits_while_an_earlier_one_of_the_order_may_still_arrive() -> None:
    scene = Scene(OrdersConfig(deadline_s=600.0))

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            other = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
            first = await scene.reaches(await scene.modify(placed, price="101"), S.UNKNOWN)
            second = await scene.modify(placed, price="102")
            await scene.reaches(await scene.modify(other, price="99"), S.ACKED)
            await asyncio.sleep(20.0)
            assert scene.now(second).attempt == 0
            await scene.reaches(first, S.NOT_PLACED)
            await scene.reaches(second, S.ACKED)

    virtual_time.run(play())


def test_a_change_that_waits_for_one_in_doubt_expires_with_its_time_and_a_cancel_goes_out() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
            first = await scene.reaches(await scene.modify(placed, price="101"), S.UNKNOWN)
            second = await scene.modify(placed, price="102")
            ended = await scene.reaches(second, S.EXPIRED)
            assert ended.attempt == 0
            assert scene.now(first).state is S.UNKNOWN
            await scene.reaches(await scene.cancel(placed), S.ACKED)

    virtual_time.run(play())


def test_after_a_restart_a_change_still_waits_for_one_in_doubt() -> None:
    scene = Scene(OrdersConfig(deadline_s=600.0))

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
            first = await scene.reaches(await scene.modify(placed, price="101"), S.UNKNOWN)
            second = await scene.modify(placed, price="102")
        scene.renew()
        async with scene.opened():
            await asyncio.sleep(20.0)
            assert scene.now(second).attempt == 0
            await scene.reaches(first, S.NOT_PLACED)
            await scene.reaches(second, S.ACKED)

    virtual_time.run(play())


# --- clocks that are set --------------------------------------------------------------------------


def test_a_wall_clock_set_forward_does_not_prove_an_order_absent_too_early() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            unknown = await doubtful(scene)
            scene.set_clock(3_600.0)
            await asyncio.sleep(scene.config.settle_after_s - 5.0)
            assert scene.now(unknown).state is S.UNKNOWN
            await scene.reaches(unknown, S.NOT_PLACED)

    virtual_time.run(play())


def test_a_wall_clock_set_back_does_not_prolong_an_order_s_time() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.is_token_refused = True
            waiting = await scene.place()
            await scene.until(lambda: scene.executor.is_auth_refused)
            scene.set_clock(-3_600.0)
            await asyncio.sleep(scene.config.deadline_s + 5.0)
            scene.broker.is_token_refused = False
            scene.desk.has_new_token()
            await asyncio.sleep(10.0)
            assert scene.now(waiting).state is S.EXPIRED
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


def test_changes_go_out_as_they_were_asked_for_when_the_wall_clock_is_set_back() -> None:
    scene = Scene()
    gate = asyncio.Event()

    async def held(_: Sent) -> None:
        await gate.wait()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.on_sent = held
            for price in ("101", "102"):
                await scene.modify(placed, price=price)
                await asyncio.sleep(0.5)
            scene.set_clock(-5.0)
            last = await scene.modify(placed, price="103")
            gate.set()
            await scene.reaches(last, S.ACKED)
            await asyncio.sleep(5.0)
            (row,) = scene.broker.book.values()
            assert row.price == Decimal(103)

    virtual_time.run(play())


def test_a_wall_clock_set_back_during_a_stall_does_not_let_a_late_send_leave() -> None:
    scene = Scene()

    async def stall(name: str) -> None:
        if name == "claim":
            scene.journal.after = _at_once
            await asyncio.sleep(scene.config.send_window_s + 1.0)
            scene.set_clock(-60.0)

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = stall
            placed = await scene.place()
            await scene.until(lambda: scene.now(placed).attempt == 1)
            first = scene.now(placed).tag
            await scene.reaches(placed, S.ACKED, S.WORKING)
            assert first not in scene.broker.sent_tags()

    virtual_time.run(play())


async def _at_once(_: str) -> None:
    return


# --- what a caller is told ------------------------------------------------------------------------


def test_a_cancel_of_an_order_nobody_knows_of_does_not_say_that_it_is_not_there() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            unknown = await doubtful(scene)
            manual = TaskUpdate(state=S.MANUAL, event="needs_a_person")
            await scene.journal.record(scene.now(unknown), manual, now_ns=scene.clock.now_ns())
            ended = await scene.reaches(await scene.cancel(unknown), S.REJECTED_LOCAL)
            assert ended.reason_code == "ORDER_UNKNOWN"
            assert "not at the broker" not in (ended.reason or "")

    virtual_time.run(play())


def test_a_refusal_of_one_order_s_permission_holds_no_other_order_back() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            no_permission = refusal(403, "PermissionException", "Segment is not enabled")
            scene.broker.answers.append(Answer(reply=no_permission, takes_effect=False))
            ended = await scene.reaches(await scene.place(), S.REJECTED)
            assert ended.reason == "Segment is not enabled"
            await scene.reaches(await scene.place(), S.ACKED)

    virtual_time.run(play())


def test_an_account_is_not_parked_when_the_broker_takes_its_token_after_all() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            glitch = refusal(403, "TokenException")
            scene.broker.answers.append(Answer(reply=glitch, takes_effect=False))
            placed = await scene.place()
            done = await scene.reaches(placed, S.ACKED, S.EXPIRED)
            assert (done.attempt, scene.executor.is_auth_refused) == (2, False)

    virtual_time.run(play())


def test_a_book_that_was_asked_for_before_the_token_ended_does_not_open_the_account() -> None:
    scene = Scene()
    go_on = asyncio.Event()

    async def play() -> None:
        async with scene.opened():
            await book_under_way(scene, go_on)
            scene.broker.is_token_refused = True
            scene.desk.token_has_ended()
            go_on.set()
            await asyncio.sleep(1.0)
            assert scene.desk.state is DeskState.LOGIN_REQUIRED
            assert scene.executor.is_auth_refused

    virtual_time.run(play())


def test_a_book_asked_for_before_a_change_was_sent_does_not_show_its_effect() -> None:
    scene = Scene()
    go_on = asyncio.Event()

    async def play() -> None:
        async with scene.opened():
            order = await scene.reaches(await scene.place(), S.WORKING)
            await book_under_way(scene, go_on)
            first_price = next(iter(scene.broker.book.values())).price
            await scene.reaches(await scene.modify(order, price="101"), S.ACKED)
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
            back = await scene.modify(order, price=str(first_price))
            await scene.reaches(back, S.UNKNOWN)
            go_on.set()
            await scene.reaches(back, S.NOT_PLACED)
            assert S.ACKED not in scene.journal.states(back.task_id)

    virtual_time.run(play())


def test_who_takes_an_account_over_with_a_dead_token_says_that_a_login_is_needed() -> None:
    scene = Scene()
    scene.desk.standing.state = DeskState.STANDBY
    scene.broker.is_token_refused = True

    async def play() -> None:
        with capture_logs() as logs:
            async with scene.running():
                await scene.until(lambda: scene.desk.state is DeskState.LOGIN_REQUIRED)
        assert "login_required" in {entry["event"] for entry in logs}

    virtual_time.run(play())


def test_who_lost_an_account_and_takes_it_again_says_that_a_login_is_needed() -> None:
    scene = Scene()

    async def lose() -> None:
        async with scene.opened():
            scene.desk.writer_is_lost()
            await asyncio.sleep(10.0)

    async def play() -> None:
        with pytest.raises(ExceptionGroup):
            await lose()
        scene.broker.is_token_refused = True
        async with scene.running():
            await scene.until(lambda: scene.desk.state is DeskState.LOGIN_REQUIRED)

    virtual_time.run(play())


def test_tries_that_are_used_up_say_why() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            glitch = refusal(403, "TokenException", "Invalid token")
            scene.broker.answers.extend([Answer(reply=glitch, takes_effect=False)] * 9)
            ended = await scene.reaches(await scene.place(), S.REJECTED_LOCAL)
            assert "Invalid token" in (ended.reason or "")
            assert len(scene.broker.sent) == scene.config.attempts_max

    virtual_time.run(play())


def test_an_account_that_is_told_to_stop_is_not_opened_again_by_a_book_under_way() -> None:
    scene = Scene()
    go_on = asyncio.Event()

    async def play() -> None:
        async with scene.opened():
            await book_under_way(scene, go_on)
            scene.desk.stop()
            go_on.set()
            await asyncio.sleep(1.0)
            assert scene.desk.state == "stopping"

    virtual_time.run(play())
