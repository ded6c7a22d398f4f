"""An account's desk: who works on what and when, from its start to its loss."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import virtual_time
from order_scene import ACCOUNT, BUY, NOON_NS, Scene, broker_order
from structlog.testing import capture_logs

from ticker_service.accounts.breaker import BreakerRules, Health
from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerState
from ticker_service.domain.order import TaskKind, TaskUpdate, to_fields
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.tag import tag_of
from ticker_service.errors import (
    AccountTaken,
    IdempotencyConflict,
    JournalError,
    JournalUnavailable,
    OrderRefused,
)
from ticker_service.orders.desk import WriterLost
from ticker_service.orders.standing import DeskState
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, ScriptedBroker, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ticker_service.domain.order import Account, BrokerOrder, OrderTask
    from ticker_service.testing import Sent

S = TaskState
SILENCE = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")
FIRST_ORDER_ID = "000000000000001"
"""As the scripted broker numbers them."""
UNSENT = Reply(withheld=Withheld.NOTHING_LEFT, failure="refused to connect")


async def left_sending(scene: Scene, *, arrives: bool) -> OrderTask:
    """Leave an order as a process does that dies while it sends."""
    epoch = await scene.journal.acquire(ACCOUNT)
    new = scene.new(TaskKind.PLACE, to_fields(BUY))
    placed = (await scene.journal.admit(new)).task
    ready = await scene.journal.record(placed, _step(S.READY), now_ns=NOON_NS)
    tag = tag_of(scene.config.installation, ready.task_id, 1)
    limit_ns = NOON_NS + 5 * NS_PER_S
    await scene.journal.claim(
        ready, tag=tag, writer_epoch=epoch, now_ns=NOON_NS, send_not_after_ns=limit_ns
    )
    if arrives:
        await scene.broker.place(BUY, tag=tag, deadline_ns=limit_ns)
    await scene.journal.release(ACCOUNT)
    return placed


def _step(state: TaskState) -> TaskUpdate:
    return TaskUpdate(state=state, event="step")


# --- start-up -------------------------------------------------------------------------------------


def test_a_login_opens_an_account_at_once_however_long_it_has_waited_for_one() -> None:
    scene = Scene()
    scene.broker.is_token_refused = True

    async def scenario() -> None:
        async with scene.running():
            await asyncio.sleep(600.0)
            for _ in range(5):
                # Now, not at the next try, which may be ten seconds away.
                assert scene.desk.state is DeskState.LOGIN_REQUIRED
                scene.broker.is_token_refused = False
                scene.desk.has_new_token()
                await asyncio.sleep(0.1)
                assert scene.desk.state is DeskState.OPEN
                scene.broker.is_token_refused = True
                scene.desk.want_book()
                await asyncio.sleep(0.1)

    virtual_time.run(scenario())


@pytest.mark.parametrize(("arrives", "end"), [(True, S.WORKING), (False, S.NOT_PLACED)])
def test_what_an_earlier_run_was_sending_is_doubted_then_settled_and_never_sent(
    arrives: bool,  # noqa: FBT001
    end: TaskState,
) -> None:
    scene = Scene()

    async def play() -> None:
        placed = await left_sending(scene, arrives=arrives)
        async with scene.opened():
            await scene.reaches(placed, end)
            assert scene.journal.states(placed.task_id)[3] is S.UNKNOWN
            assert len(scene.broker.sent) == arrives

    virtual_time.run(play())


@pytest.mark.parametrize("trouble", ["is_down", "is_token_refused"])
def test_nothing_is_admitted_and_nothing_sent_before_a_whole_book_has_been_merged(
    trouble: str,
) -> None:
    scene = Scene()

    async def play() -> None:
        waiting = await scene.journal.admit(scene.new(TaskKind.PLACE, to_fields(BUY)))
        setattr(scene.broker, trouble, True)
        async with scene.running():
            await asyncio.sleep(8.0)
            assert scene.desk.state is not DeskState.OPEN
            with pytest.raises(OrderRefused) as refused:
                await scene.place()
            assert refused.value.code == "ACCOUNT_NOT_OPEN"
            assert not scene.broker.sent
            setattr(scene.broker, trouble, False)
            scene.desk.has_new_token()
            await scene.reaches(waiting.task, S.ACKED)

    virtual_time.run(play())


def test_an_instruction_of_an_earlier_run_is_carried_out_within_its_deadline() -> None:
    scene = Scene()

    async def play() -> None:
        waiting = (await scene.journal.admit(scene.new(TaskKind.PLACE, to_fields(BUY)))).task
        async with scene.opened():
            await scene.reaches(waiting, S.ACKED)

    virtual_time.run(play())


def test_an_account_that_another_process_writes_is_left_alone() -> None:
    scene = Scene()
    scene.journal.taken_elsewhere.add(ACCOUNT)
    with pytest.raises(AccountTaken):
        virtual_time.run(scene.desk.run())
    assert not scene.broker.reads


def test_a_desk_whose_writer_is_lost_ends_and_takes_nothing_more() -> None:
    scene = Scene()

    async def lose() -> None:
        async with scene.opened():
            scene.desk.writer_is_lost()
            await asyncio.sleep(60.0)

    async def play() -> None:
        with pytest.raises(ExceptionGroup) as ended:
            await lose()
        assert ended.value.subgroup(WriterLost)
        with pytest.raises(OrderRefused):
            await scene.place()

    virtual_time.run(play())


# --- cancels and changes --------------------------------------------------------------------------


def test_a_cancel_of_what_has_not_been_sent_happens_here_and_nothing_is_sent() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.is_token_refused = True
            placed = await scene.place()
            await scene.until(lambda: scene.executor.is_auth_refused)
            attempts = len(scene.broker.sent)
            gone = await scene.cancel(placed)
            await scene.reaches(gone, S.CANCELLED_LOCAL)
            assert scene.now(placed).state is S.CANCELLED_LOCAL
            await asyncio.sleep(60.0)
            assert len(scene.broker.sent) == attempts

    virtual_time.run(play())


def test_a_cancel_found_half_done_after_a_restart_is_done() -> None:
    scene = Scene()

    async def play() -> None:
        placed = (await scene.journal.admit(scene.new(TaskKind.PLACE, to_fields(BUY)))).task
        await scene.journal.record(placed, _step(S.CANCELLED_LOCAL), now_ns=NOON_NS)
        cancel = scene.new(TaskKind.CANCEL, {}, target_task_id=placed.task_id)
        waiting = (await scene.journal.admit(cancel)).task
        async with scene.opened():
            await scene.reaches(waiting, S.CANCELLED_LOCAL)
            assert not scene.broker.sent

    virtual_time.run(play())


@pytest.mark.parametrize("kind", ["cancel", "modify"])
def test_what_is_asked_of_an_order_in_mid_send_waits_for_its_order_id(kind: str) -> None:
    scene = Scene()
    go_on = asyncio.Event()

    async def freeze(sent: Sent) -> None:
        if sent.kind is TaskKind.PLACE:
            await go_on.wait()

    async def play() -> None:
        async with scene.opened():
            scene.broker.on_sent = freeze
            placed = await scene.place()
            await scene.until(lambda: scene.broker.sent)
            asked = (
                await scene.cancel(placed)
                if kind == "cancel"
                else await scene.modify(placed, price="99.95")
            )
            await asyncio.sleep(20.0)
            assert scene.now(asked).state is S.READY
            assert scene.now(asked).attempt == 0
            go_on.set()
            done = await scene.reaches(asked, S.ACKED)
            assert done.attempt == 1
            assert [sent.kind for sent in scene.broker.sent] == [TaskKind.PLACE, asked.kind]

    virtual_time.run(play())


@pytest.mark.parametrize("lives", [1, 2], ids=["runs on", "restarted"])
def test_a_cancel_of_an_order_in_doubt_outlives_its_own_time_and_goes_out_when_it_surfaces(
    lives: int,
) -> None:
    scene = Scene()

    async def hide(sent: Sent) -> None:
        if sent.kind is TaskKind.PLACE:
            scene.broker.hidden |= set(scene.broker.book)

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=SILENCE))
            scene.broker.on_sent = hide
            placed = await scene.reaches(await scene.place(), S.UNKNOWN)
            cancel = await scene.cancel(placed)
            await asyncio.sleep(2 * scene.config.deadline_s if lives == 1 else 1.0)
            if lives == 1:
                await surfaces(placed, cancel)
        if lives == 2:
            await asyncio.sleep(scene.config.deadline_s)
            scene.renew()
            async with scene.opened():
                await asyncio.sleep(scene.config.deadline_s)
                await surfaces(placed, cancel)

    async def surfaces(placed: OrderTask, cancel: OrderTask) -> None:
        assert scene.now(cancel).state is S.READY
        scene.broker.hidden.clear()
        assert (await scene.reaches(cancel, S.ACKED)).attempt == 1
        await scene.reaches(placed, S.CANCELLED)

    virtual_time.run(play())


def test_a_cancel_of_an_order_that_is_proven_absent_ends_with_it() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
            placed = await scene.reaches(await scene.place(), S.UNKNOWN)
            ended = await scene.reaches(await scene.cancel(placed), S.REJECTED_LOCAL)
            assert scene.now(placed).state is S.NOT_PLACED
            assert (ended.reason_code, ended.attempt) == ("ORDER_ENDED", 0)
            assert str(S.NOT_PLACED) in (ended.reason or "")

    virtual_time.run(play())


def test_a_cancel_whose_order_is_known_and_that_cannot_leave_ends_with_its_time() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.is_token_refused = True
            scene.executor.token_has_ended()
            asked_ns = scene.clock.now_ns()
            cancel = await scene.cancel(placed)
            ended = await scene.reaches(cancel, S.EXPIRED)
            waited_s = (ended.updated_at_ns - asked_ns) / NS_PER_S
            assert scene.config.deadline_s <= waited_s < scene.config.deadline_s + 5.0

    virtual_time.run(play())


def test_a_cancel_of_an_order_that_ended_here_is_refused_without_a_send() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            late = await scene.place(deadline_ns=NOON_NS)
            await scene.reaches(late, S.EXPIRED)
            ended = await scene.reaches(await scene.cancel(late), S.REJECTED_LOCAL)
            assert ended.reason_code == "ORDER_ENDED"
            assert not scene.broker.sent

    virtual_time.run(play())


def test_a_cancel_of_an_order_that_ended_at_the_broker_is_sent_because_a_late_fact_may_win() -> (
    None
):
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.place()
            await scene.reaches(placed, S.ACKED)
            first = await scene.cancel(placed)
            await scene.reaches(first, S.ACKED)
            await scene.reaches(placed, S.CANCELLED)
            second = await scene.cancel(placed)
            await scene.reaches(second, S.ACKED, S.REJECTED)
            kinds = [sent.kind for sent in scene.broker.sent]
            assert kinds == [TaskKind.PLACE, TaskKind.CANCEL, TaskKind.CANCEL]

    virtual_time.run(play())


def test_changes_of_one_order_go_out_one_after_the_other_in_their_order() -> None:
    scene = Scene()
    at_once: list[int] = []
    under_way = 0

    async def slowly(sent: Sent) -> None:
        nonlocal under_way
        if sent.kind is TaskKind.MODIFY:
            under_way += 1
            at_once.append(under_way)
            await asyncio.sleep(0.5)
            under_way -= 1

    async def play() -> None:
        async with scene.opened():
            placed = await scene.place()
            await scene.reaches(placed, S.ACKED, S.WORKING)
            scene.broker.on_sent = slowly
            changes = []
            for price in (101, 102, 103):
                changes.append(await scene.modify(placed, price=f"{price}"))
                await asyncio.sleep(0.001)
            for change in changes:
                await scene.reaches(change, S.ACKED)
            assert at_once == [1, 1, 1]
            (row,) = scene.broker.book.values()
            assert row.price == 103

    virtual_time.run(play())


def test_changes_that_wait_leave_room_for_the_orders_they_wait_for() -> None:
    scene = Scene(OrdersConfig(sends_parallel=2))

    async def play() -> None:
        held = [Answer(reply=UNSENT, takes_effect=False)] * 2
        async with scene.opened():
            scene.broker.answers.extend(held)
            placed = await scene.place()
            changes = [await scene.modify(placed, price="101") for _ in range(4)]
            await scene.reaches(placed, S.ACKED, S.WORKING)
            for change in changes:
                await scene.reaches(change, S.ACKED)

    virtual_time.run(play())


def test_a_cancel_goes_out_while_the_breaker_is_open_and_the_order_lane_is_full() -> None:
    scene = Scene(
        OrdersConfig(sends_parallel=2), breaker_rules=BreakerRules(failures_max=1, open_s=600.0)
    )
    go_on = asyncio.Event()

    async def freeze(sent: Sent) -> None:
        if sent.kind is TaskKind.PLACE:
            await go_on.wait()

    async def play() -> None:
        async with scene.opened():
            resting = await scene.place()
            await scene.reaches(resting, S.ACKED, S.WORKING)
            scene.broker.on_sent = freeze
            stuck = [await scene.place() for _ in range(4)]
            await scene.until(lambda: len(scene.broker.sent) == 3)
            permit = scene.breaker.admit()
            assert permit is not None
            permit.report(Health.FAILURE)
            assert scene.breaker.state is BreakerState.OPEN
            await scene.reaches(await scene.cancel(resting), S.ACKED)
            assert scene.now(stuck[3]).state in {S.RECEIVED, S.READY}
            go_on.set()

    virtual_time.run(play())


def test_an_open_breaker_sends_no_new_order() -> None:
    scene = Scene(breaker_rules=BreakerRules(failures_max=1, open_s=600.0))

    async def play() -> None:
        async with scene.opened():
            permit = scene.breaker.admit()
            assert permit is not None
            permit.report(Health.FAILURE)
            await scene.reaches(await scene.place(), S.EXPIRED)
            assert not scene.broker.sent

    virtual_time.run(play())


def test_a_restart_does_not_forget_an_open_breaker_and_one_order_finds_out() -> None:
    """What waits goes out one by one: the second only when the first has said that all is well."""
    scene = Scene(
        OrdersConfig(deadline_s=120.0), breaker_rules=BreakerRules(failures_max=1, open_s=60.0)
    )

    async def play() -> None:
        async with scene.opened():
            permit = scene.breaker.admit()
            assert permit is not None
            permit.report(Health.FAILURE)
            await scene.until(lambda: not scene.breakers.has_news)
            await scene.until(lambda: scene.journal.shared.breakers)
        scene.renew()
        async with scene.opened():
            opened_ns = scene.clock.monotonic_ns()
            assert scene.breaker.state is BreakerState.OPEN
            together: list[int] = []

            async def slow(_: object) -> None:
                together.append(len(scene.broker.sent))
                if len(together) == 1:
                    await asyncio.sleep(3.0)

            scene.broker.on_sent = slow
            for order in [await scene.place() for _ in range(3)]:
                await scene.reaches(order, S.ACKED)
            assert scene.clock.monotonic_ns() - opened_ns > 55 * NS_PER_S
            assert together[0] == 1
            sent_ns = [each.intent_at_ns or 0 for each in scene.journal.attempts]
            assert sent_ns[1] - sent_ns[0] >= 3 * NS_PER_S
            assert scene.breaker.state is BreakerState.CLOSED

    virtual_time.run(play())


# --- the access token -----------------------------------------------------------------------------


def test_an_order_refused_for_the_token_is_parked_and_goes_out_with_a_new_one() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.is_token_refused = True
            placed = await scene.place()
            await asyncio.sleep(10.0)
            assert scene.now(placed).state is S.READY
            assert len(scene.broker.sent) == 1
            scene.broker.is_token_refused = False
            scene.desk.has_new_token()
            done = await scene.reaches(placed, S.ACKED)
            assert done.attempt == 2

    virtual_time.run(play())


def test_an_order_that_waits_when_the_token_ends_is_kept_for_the_next_login() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.desk.token_has_ended()
            assert scene.desk.state is DeskState.LOGIN_REQUIRED
            waiting = (await scene.journal.admit(scene.new(TaskKind.PLACE, to_fields(BUY)))).task
            with pytest.raises(OrderRefused, match="ticker-service login MAIN"):
                await scene.place()
            await asyncio.sleep(5.0)
            assert not scene.broker.sent
            scene.desk.has_new_token()
            done = await scene.reaches(waiting, S.ACKED)
            assert done.attempt == 1
            assert scene.desk.state is DeskState.OPEN

    virtual_time.run(play())


def test_a_refusal_of_the_old_token_that_comes_late_does_not_park_the_new_one() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            old = refusal(403, "TokenException")
            scene.broker.answers.append(Answer(reply=old, takes_effect=False))

            async def log_in_meanwhile(_: Sent) -> None:
                if len(scene.broker.sent) == 1:
                    scene.desk.has_new_token()

            scene.broker.on_sent = log_in_meanwhile
            placed = await scene.place()
            done = await scene.reaches(placed, S.ACKED, S.WORKING, S.EXPIRED)
            assert done.state is not S.EXPIRED

    virtual_time.run(play())


def test_a_book_refused_for_the_token_closes_the_account_until_a_new_one() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.is_token_refused = True
            scene.desk.want_book()
            await scene.until(lambda: scene.desk.state is DeskState.LOGIN_REQUIRED)
            with pytest.raises(OrderRefused):
                await scene.place()
            scene.broker.is_token_refused = False
            scene.desk.has_new_token()
            await scene.until(lambda: scene.desk.state is DeskState.OPEN, within_s=1.0)

    virtual_time.run(play())


# --- the book -------------------------------------------------------------------------------------


async def doubtful(scene: Scene) -> OrderTask:
    """Place an order whose answer is lost and that the broker never got."""
    scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
    placed = await scene.place()
    return await scene.reaches(placed, S.UNKNOWN)


def test_a_truncated_book_proves_nothing() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            other = await scene.place()
            await scene.reaches(other, S.WORKING)
            (order_id,) = scene.broker.book
            unknown = await doubtful(scene)
            scene.broker.hidden.add(order_id)
            await asyncio.sleep(300.0)
            assert scene.now(unknown).state is S.UNKNOWN
            scene.broker.hidden.clear()
            await scene.reaches(unknown, S.NOT_PLACED)

    virtual_time.run(play())


@pytest.mark.parametrize("known_by", ["answer", "update"])
def test_a_book_without_an_order_that_no_book_has_shown_yet_proves_nothing(known_by: str) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.hidden.add(FIRST_ORDER_ID)
            lost = [Answer(reply=Reply(http_status=502))] if known_by == "update" else []
            scene.broker.answers.extend(lost)
            other = await scene.place()
            await scene.reaches(other, S.ACKED, S.UNKNOWN)
            if known_by == "update":
                (row,) = scene.broker.book.values()
                scene.desk.take_update(row)
                await scene.reaches(other, S.WORKING)
            await _stays_unknown_until_the_book_is_whole(scene)

    virtual_time.run(play())


def test_a_book_without_an_order_whose_answer_could_not_be_recorded_yet_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    record = scene.journal.record

    async def no_yes(of: OrderTask, update: TaskUpdate, *, now_ns: int) -> OrderTask:
        if update.state is S.ACKED:
            raise JournalUnavailable("told to be down")
        return await record(of, update, now_ns=now_ns)

    async def play() -> None:
        async with scene.opened():
            scene.broker.hidden.add(FIRST_ORDER_ID)
            monkeypatch.setattr(scene.journal, "record", no_yes)
            other = await scene.place()
            await scene.until(lambda: scene.broker.book)
            unknown = await doubtful(scene)
            await asyncio.sleep(300.0)
            monkeypatch.undo()  # a send that cannot be recorded would hold up the end of the test
            assert (scene.now(other).state, scene.now(unknown).state) == (S.SENDING, S.UNKNOWN)
            await scene.reaches(other, S.ACKED)
            scene.broker.hidden.clear()
            await scene.reaches(unknown, S.NOT_PLACED)

    virtual_time.run(play())


def test_a_book_without_an_order_that_an_earlier_run_sent_proves_nothing() -> None:
    scene = Scene()

    async def play() -> None:
        scene.broker.hidden.add(FIRST_ORDER_ID)
        async with scene.opened():
            await scene.reaches(await scene.place(), S.ACKED)
        scene.renew()
        async with scene.opened():
            await _stays_unknown_until_the_book_is_whole(scene)

    virtual_time.run(play())


def test_a_book_without_an_order_that_another_process_sent_meanwhile_proves_nothing() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await scene.until(lambda: scene.broker.reads)
        scene.broker.hidden.add(FIRST_ORDER_ID)
        sent = await left_sending(scene, arrives=True)
        named = TaskUpdate(state=S.ACKED, event="send_acked", broker_order_id=FIRST_ORDER_ID)
        await scene.journal.acquire(ACCOUNT)
        await scene.journal.record(scene.now(sent), named, now_ns=NOON_NS)
        await scene.journal.release(ACCOUNT)
        async with scene.opened():
            await _stays_unknown_until_the_book_is_whole(scene)

    virtual_time.run(play())


def test_an_update_that_comes_while_the_journal_is_read_is_known_of_the_day() -> None:
    scene = Scene()
    row = broker_order(order_id=FIRST_ORDER_ID, quantity=150)
    scene.journal.before = _once("order_ids_since", lambda: scene.desk.take_update(row))

    async def play() -> None:
        async with scene.opened():
            await _stays_unknown_until_the_book_is_whole(scene, shows=row)

    virtual_time.run(play())


def test_a_book_without_an_order_that_a_dropped_update_told_of_proves_nothing() -> None:
    scene = Scene(OrdersConfig(waiting_max=1))
    row = broker_order(order_id=FIRST_ORDER_ID, quantity=150)

    async def play() -> None:
        async with scene.opened():
            # The same order twice, then one that finds no room.
            other = broker_order(order_id="someone else's", quantity=300)
            scene.broker.book[other.order_id] = other
            for told in (other, other, row):
                scene.desk.take_update(told)
            assert scene.desk.book_watch.updates_dropped == 2
            await _stays_unknown_until_the_book_is_whole(scene, shows=row)

    virtual_time.run(play())


def test_orders_sent_while_books_are_read_do_not_hold_a_proof_up() -> None:
    scene = Scene()
    scene.broker = BookReadSlowly(scene.clock)
    scene.renew()

    async def play() -> None:
        async with scene.opened():
            unknown = await doubtful(scene)
            scene.broker.on_read = scene.place
            await scene.reaches(unknown, S.NOT_PLACED)

    virtual_time.run(play())


class BookReadSlowly(ScriptedBroker):
    """A broker whose book is older than its answer: ``on_read`` is awaited in between."""

    async def on_read(self) -> object:
        return None

    async def orders(self) -> Sequence[BrokerOrder]:
        rows = await super().orders()
        await self.on_read()
        await asyncio.sleep(0.5)
        return rows


async def _stays_unknown_until_the_book_is_whole(
    scene: Scene, *, shows: BrokerOrder | None = None
) -> None:
    unknown = await doubtful(scene)
    await asyncio.sleep(300.0)
    assert scene.now(unknown).state is S.UNKNOWN
    scene.broker.hidden.clear()
    if shows is not None:
        scene.broker.book[shows.order_id] = shows
    await scene.reaches(unknown, S.NOT_PLACED)


def _once(name: str, what: Callable[[], object]) -> Callable[[str], Awaitable[None]]:
    async def before(call: str) -> None:
        if call == name:
            what()
            await asyncio.sleep(0.1)

    return before


def test_the_next_day_s_book_needs_no_order_of_the_day_before() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await scene.reaches(await scene.place(), S.WORKING)
            scene.pass_days(1)
            scene.broker.book.clear()
            unknown = await doubtful(scene)
            await scene.reaches(unknown, S.NOT_PLACED)

    virtual_time.run(play())


def test_an_order_that_surfaces_after_it_was_proven_absent_comes_back() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=SILENCE))
            scene.broker.on_sent = _hide(scene)
            placed = await scene.place()
            await scene.reaches(placed, S.NOT_PLACED)
            scene.broker.hidden.clear()
            with capture_logs() as logs:
                await scene.reaches(placed, S.WORKING)
            assert "late_fact_wins" in {entry["event"] for entry in logs}

    virtual_time.run(play())


def _hide(scene: Scene) -> Callable[[Sent], Awaitable[None]]:
    async def hide(_: Sent) -> None:
        scene.broker.hidden.update(scene.broker.book)

    return hide


def test_an_order_with_our_tag_that_nobody_placed_is_reported_once() -> None:
    scene = Scene()

    async def play() -> None:
        tag = tag_of(scene.config.installation, scene.new(TaskKind.PLACE, {}).task_id, 1)
        scene.broker.book["9"] = broker_order(order_id="9", tags=(tag,))
        with capture_logs() as logs:
            async with scene.opened():
                await asyncio.sleep(200.0)
        orphans = [entry for entry in logs if entry["event"] == "orphan_order"]
        assert [entry["order_id"] for entry in orphans] == ["9"]

    virtual_time.run(play())


def test_a_second_order_under_one_tag_raises_an_alarm_and_changes_nothing() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            double = broker_order(
                order_id="9", tags=(placed.tag,), status="COMPLETE", filled_quantity=75
            )
            with capture_logs() as logs:
                scene.broker.book["9"] = double
                scene.desk.want_book()
                await asyncio.sleep(60.0)
            alarms = [entry for entry in logs if entry["event"] == "duplicate_order"]
            assert [entry["order_id"] for entry in alarms] == ["9"]
            assert scene.now(placed) == placed

    virtual_time.run(play())


@pytest.mark.parametrize("end", ["CANCELLED", "REJECTED"])
@pytest.mark.parametrize(
    ("status", "filled", "state"),
    [("OPEN", 0, S.WORKING), ("OPEN PENDING", 0, S.WORKING), ("OPEN", 25, S.PARTIAL)],
)
def test_an_ended_order_that_books_go_on_to_show_alive_comes_back_with_an_alarm(
    end: str, status: str, filled: int, state: TaskState
) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            order_id = placed.broker_order_id or ""
            alive = scene.broker.change(order_id, status=status, filled_quantity=filled)
            scene.desk.take_update(dataclasses.replace(alive, status=end))
            await scene.reaches(placed, S(end))
            with capture_logs() as logs:
                scene.desk.want_book()
                await asyncio.sleep(9.0)
                assert scene.now(placed).state is S(end), "it may be a stale book"
                await scene.until(lambda: scene.now(placed).state is state, within_s=10.0)
            assert "late_fact_wins" in {entry["event"] for entry in logs}

    virtual_time.run(play())


def test_a_stale_book_now_and_then_brings_no_ended_order_back() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            order_id = placed.broker_order_id or ""
            scene.broker.change(order_id, status="CANCELLED")
            scene.desk.want_book()
            await scene.reaches(placed, S.CANCELLED)
            for _ in range(5):
                for status in ("OPEN", "CANCELLED"):
                    scene.broker.change(order_id, status=status)
                    scene.desk.want_book()
                    await asyncio.sleep(4.0)
            assert scene.now(placed).state is S.CANCELLED

    virtual_time.run(play())


def test_a_row_that_the_journal_cannot_hold_is_told_and_the_others_are_merged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    record = scene.journal.record

    async def refusing(of: OrderTask, update: TaskUpdate, *, now_ns: int) -> OrderTask:
        if update.broker_status == "DAMAGED":
            raise JournalError("the database cannot hold this")
        return await record(of, update, now_ns=now_ns)

    async def play() -> None:
        async with scene.opened():
            damaged = await scene.reaches(await scene.place(), S.WORKING)
            sound = await scene.reaches(await scene.place(), S.WORKING)
            monkeypatch.setattr(scene.journal, "record", refusing)
            for placed, status in ((damaged, "DAMAGED"), (sound, "CANCELLED")):
                order_id = placed.broker_order_id or ""
                row = dataclasses.replace(scene.broker.book[order_id], status=status)
                scene.broker.book[order_id] = row
            with capture_logs() as logs:
                scene.desk.want_book()
                await scene.reaches(sound, S.CANCELLED)
            assert "row_not_journalled" in {entry["event"] for entry in logs}
            assert scene.desk.state is DeskState.OPEN

    virtual_time.run(play())


def test_a_fill_without_an_update_is_known_within_a_poll_of_a_live_account() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await asyncio.sleep(1.0)
            placed = await scene.place()
            await scene.reaches(placed, S.ACKED, S.WORKING)
            (order_id,) = scene.broker.book
            scene.broker.change(order_id, status="COMPLETE", filled_quantity=75)
            await scene.until(
                lambda: scene.now(placed).state is S.FILLED,
                within_s=scene.config.book_poll_live_s + 0.5,
            )

    virtual_time.run(play())


def test_too_many_updates_at_once_are_made_up_for_by_the_book() -> None:
    scene = Scene(OrdersConfig(waiting_max=2))

    async def play() -> None:
        async with scene.opened():
            placed = await scene.place()
            await scene.reaches(placed, S.ACKED, S.WORKING)
            (order_id,) = scene.broker.book
            filled = scene.broker.change(order_id, status="COMPLETE", filled_quantity=75)
            for _ in range(3):
                scene.desk.take_update(broker_order(order_id="someone else's"))
            scene.desk.take_update(filled)
            await scene.until(lambda: scene.now(placed).state is S.FILLED, within_s=1.0)

    virtual_time.run(play())


def test_a_book_pass_costs_what_is_open_and_not_what_the_day_has_seen() -> None:
    scene = Scene()
    asked: Counter[str] = Counter()
    read: list[int] = []

    async def count(name: str) -> None:
        asked[name] += 1

    async def play() -> None:
        live_orders = scene.journal.live_orders

        async def counted(account: Account) -> list[OrderTask]:
            found = await live_orders(account)
            read.append(len(found))
            return found

        async with scene.opened():
            for _ in range(20):
                placed = await scene.reaches(await scene.place(), S.ACKED, S.WORKING)
                await scene.reaches(await scene.cancel(placed), S.ACKED)
                await scene.reaches(placed, S.CANCELLED)
            await scene.reaches(await scene.place(), S.WORKING)
            await asyncio.sleep(10.0)
            scene.journal.before = count
            scene.journal.live_orders = counted  # type: ignore[method-assign]
            passes = scene.broker.reads
            scene.desk.want_book()
            await scene.until(lambda: scene.broker.reads > passes and read)
        assert asked["tasks_by_tag"] == 0
        assert read[0] == 1

    virtual_time.run(play())


# --- doors and events -----------------------------------------------------------------------------


def test_an_instruction_that_is_not_durable_is_refused_and_not_sent() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.journal.is_down = True
            with pytest.raises(JournalUnavailable):
                await scene.place()
            await asyncio.sleep(5.0)
            scene.journal.is_down = False
            await asyncio.sleep(5.0)
            assert not scene.broker.sent

    virtual_time.run(play())


@pytest.mark.parametrize("closed", ["token", "stopped", "full"])
def test_a_known_key_has_its_task_whatever_the_account_is_like_now(closed: str) -> None:
    scene = Scene(OrdersConfig(waiting_max=3))

    async def play() -> None:
        async with scene.opened():
            placed = await scene.place(request_id="k", client_order_id="k")
            await scene.reaches(placed, S.WORKING)
            if closed == "token":
                scene.broker.is_token_refused = True
                scene.desk.want_book()
                await scene.until(lambda: scene.desk.state is DeskState.LOGIN_REQUIRED)
            elif closed == "stopped":
                scene.desk.stop()
            else:
                scene.broker.on_sent = _stuck
                for _ in range(3):
                    await scene.place()
                    await asyncio.sleep(0.1)
            with pytest.raises(OrderRefused) as refused:
                await scene.place()
            assert refused.value.code in {"ACCOUNT_NOT_OPEN", "TOO_MANY_WAITING"}
            again = await scene.place(request_id="k", client_order_id="k")
            assert again.task_id == placed.task_id
            assert again.state is S.WORKING
            with pytest.raises(IdempotencyConflict):
                await scene.cancel(placed, request_id="k", client_order_id="k")
            scene.broker.on_sent = _unstuck

    virtual_time.run(play())


def test_changes_that_wait_their_turn_are_counted_among_what_waits_and_keep_no_cancel_out() -> None:
    scene = Scene(OrdersConfig(waiting_max=3, deadline_s=600.0))

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
            doubted = await scene.reaches(await scene.modify(placed, price="101"), S.UNKNOWN)
            waiting = [await scene.modify(placed, price=f"10{number}") for number in (2, 3, 4)]
            for _ in range(2):
                with pytest.raises(OrderRefused) as refused:
                    await scene.modify(placed, price="105")
                assert refused.value.code == "TOO_MANY_WAITING"
                with pytest.raises(OrderRefused):
                    await scene.place()
                await asyncio.sleep(5.0)
            await scene.reaches(doubted, S.NOT_PLACED)
            await scene.reaches(waiting[-1], S.ACKED)
            await scene.reaches(await scene.modify(placed, price="105"), S.ACKED)

    virtual_time.run(play())


def test_a_cancel_is_taken_however_many_orders_wait() -> None:
    scene = Scene(OrdersConfig(waiting_max=3, deadline_s=600.0))

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.on_sent = _stuck_unless_cancel
            for _ in range(3):
                await scene.place()
            with pytest.raises(OrderRefused, match="3 orders and changes"):
                await scene.place()
            await scene.reaches(await scene.cancel(placed), S.ACKED)

    virtual_time.run(play())


def test_no_two_instructions_take_the_last_place_and_none_is_counted_that_was_not_taken() -> None:
    scene = Scene(OrdersConfig(waiting_max=2))

    async def play() -> None:
        async with scene.opened():
            scene.broker.on_sent = _stuck
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(_taken(scene)) for _ in range(5)]
            assert sum(task.result() for task in asked) == 2
            await asyncio.sleep(60.0)
            scene.broker.on_sent = _unstuck
            scene.journal.is_down = True
            for _ in range(5):
                with pytest.raises(JournalUnavailable):
                    await scene.place()
            scene.journal.is_down = False
            await asyncio.sleep(2.0)
            placed = await scene.place(request_id="k", client_order_id="k")
            for _ in range(5):
                await scene.place(request_id="k", client_order_id="k")
            await scene.reaches(placed, S.ACKED)

    virtual_time.run(play())


async def _taken(scene: Scene) -> bool:
    try:
        await scene.place()
    except OrderRefused as refused:
        return refused.code != "TOO_MANY_WAITING"
    return True


async def _stuck_unless_cancel(sent: Sent) -> None:
    if sent.kind is not TaskKind.CANCEL:
        await asyncio.sleep(30.0)


async def _stuck(_: Sent) -> None:
    await asyncio.sleep(30.0)


async def _unstuck(_: Sent) -> None:
    return


def test_every_event_is_delivered_once_and_in_order_while_all_goes_well() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            for _ in range(5):
                await scene.reaches(await scene.place(), S.WORKING)
            await asyncio.sleep(2.0)
            seen = [event.account_seq for event in scene.sink.events]
            assert seen == list(range(1, len(scene.journal.events[ACCOUNT]) + 1))

    virtual_time.run(play())
