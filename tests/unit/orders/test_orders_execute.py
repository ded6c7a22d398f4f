"""One send: committed before it leaves, made at most once, and recorded whatever happens (I1, I4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from order_scene import ACCOUNT, Scene

from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import JournalUnavailable
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, MemoryJournal, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.domain.order import OrderTask
    from ticker_service.testing import Sent

S = TaskState
SILENCE = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")
UNSENT = Reply(withheld=Withheld.NOTHING_LEFT, failure="refused to connect")
QUICK = OrdersConfig(settle_after_s=0.0)


def test_the_intent_is_committed_before_the_broker_hears_of_the_order() -> None:
    scene = Scene()
    seen: list[tuple[TaskState, bool]] = []

    async def look(sent: Sent) -> None:
        present = (await scene.journal.tasks_by_tag(ACCOUNT, [sent.what])).get(sent.what)
        assert present is not None
        seen.append((present.state, present.send_not_after_ns is not None))

    async def play() -> None:
        scene.broker.on_sent = look
        async with scene.opened():
            await scene.reaches(await scene.place(), S.ACKED)

    virtual_time.run(play())
    assert seen == [(S.SENDING, True)]


def test_an_acknowledged_order_has_been_through_every_state_once() -> None:
    scene = Scene()

    async def play() -> list[TaskState]:
        async with scene.opened():
            placed = await scene.place()
            await scene.reaches(placed, S.ACKED)
            return scene.journal.states(placed.task_id)[:4]

    assert virtual_time.run(play()) == [S.RECEIVED, S.READY, S.SENDING, S.ACKED]


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (refusal(400, "InputException"), S.REJECTED),
        (refusal(400, "MarginException"), S.REJECTED),
        (refusal(500, "OrderException"), S.UNKNOWN),
        (refusal(400, "OrderException", "Order request timed out"), S.UNKNOWN),
        (refusal(503, "NetworkException"), S.UNKNOWN),
        (SILENCE, S.UNKNOWN),
        (Reply(http_status=200, body={"status": "success", "data": {}}), S.UNKNOWN),
        (Reply(http_status=307), S.UNKNOWN),
    ],
    ids=lambda it: it if isinstance(it, TaskState) else None,
)
def test_an_answer_that_is_no_acknowledgement_is_sent_once_and_judged(
    reply: Reply, state: TaskState
) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=reply, takes_effect=False))
            placed = await scene.place()
            await scene.reaches(placed, state)
            await asyncio.sleep(20.0)
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


def test_an_ambiguous_order_that_went_through_is_found_by_its_tag_and_not_sent_again() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=SILENCE))
            placed = await scene.place()
            found = await scene.reaches(placed, S.WORKING)
            assert S.UNKNOWN in scene.journal.states(placed.task_id)
            assert found.broker_order_id == scene.broker.order_of_tag(found.tag or "").order_id
            assert (found.reason_code, found.reason) == ("", "")
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


def test_an_ambiguous_order_that_did_not_go_through_is_proven_absent_and_not_sent_again() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
            placed = await scene.place()
            began_s = asyncio.get_running_loop().time()
            await scene.reaches(placed, S.NOT_PLACED)
            waited_s = asyncio.get_running_loop().time() - began_s
            assert waited_s >= scene.config.send_window_s + scene.config.settle_after_s
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


@pytest.mark.parametrize(
    "reply",
    [UNSENT, refusal(429, "NetworkException", "Too many requests")],
    ids=["not-sent", "throttled"],
)
def test_what_certainly_did_not_leave_is_sent_again_under_a_new_tag(reply: Reply) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=reply, takes_effect=False))
            done = await scene.reaches(await scene.place(), S.ACKED, S.WORKING)
            tags = scene.broker.sent_tags()
            assert len(tags) == len(set(tags)) == 2
            assert (done.attempt, done.tag, done.reason_code) == (2, tags[1], "")

    virtual_time.run(play())


def test_tries_are_bounded() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.extend([Answer(reply=UNSENT, takes_effect=False)] * 50)
            ended = await scene.reaches(await scene.place(), S.REJECTED_LOCAL)
            assert ended.reason_code == "NOT_SENT"
            assert len(scene.broker.sent) == scene.config.attempts_max

    virtual_time.run(play())


def test_after_its_deadline_an_order_expires_unsent() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            late = await scene.place(deadline_ns=scene.clock.now_ns() - 1)
            await scene.reaches(late, S.EXPIRED)
            assert not scene.broker.sent

    virtual_time.run(play())


def test_after_a_stall_beyond_its_deadline_an_order_does_not_leave() -> None:
    scene = Scene()
    half_a_window_s = scene.config.send_window_s / 2

    async def stall(name: str) -> None:
        if name == "claim":
            await asyncio.sleep(half_a_window_s)

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = stall
            deadline_ns = scene.clock.now_ns() + int(half_a_window_s * NS_PER_S)
            placed = await scene.place(deadline_ns=deadline_ns)
            await scene.reaches(placed, S.EXPIRED)
            assert not scene.broker.sent

    virtual_time.run(play())


@pytest.mark.parametrize("kind", ["place", "cancel", "modify"])
def test_what_takes_longer_to_connect_than_the_send_window_never_leaves(kind: str) -> None:
    scene = Scene(OrdersConfig(send_window_s=2.0, request_s_max=7.0, deadline_s=4.0))

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            scene.broker.answers.extend([Answer(connects_s=2.5)] * 9)
            if kind == "place":
                late = await scene.place()
            elif kind == "cancel":
                late = await scene.cancel(placed)
            else:
                late = await scene.modify(placed, price="101")
            ended = await scene.reaches(late, S.EXPIRED, S.REJECTED_LOCAL)
            assert ended.attempt > 0
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


def test_after_a_stall_beyond_the_send_window_nothing_leaves() -> None:
    scene = Scene()

    async def stall(name: str) -> None:
        if name == "claim" and not scene.broker.sent:
            scene.journal.after = _no_more
            await asyncio.sleep(scene.config.send_window_s)

    async def _no_more(_: str) -> None:
        return

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = stall
            placed = await scene.place()
            done = await scene.reaches(placed, S.ACKED, S.WORKING)
            assert done.attempt == 2
            assert scene.broker.sent_tags() == [done.tag]

    virtual_time.run(play())


def test_a_writer_that_lost_its_account_between_intent_and_send_sends_nothing() -> None:
    scene = Scene()

    async def lose(name: str) -> None:
        if name == "claim":
            scene.journal.lose_writer(ACCOUNT)

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = lose
            placed = await scene.place()
            await scene.until(lambda: scene.now(placed).attempt == 1)
            await asyncio.sleep(10.0)
            assert not scene.broker.sent
            assert scene.now(placed).state is S.READY

    virtual_time.run(play())


def test_a_fill_that_comes_before_the_answer_stands() -> None:
    scene = Scene()

    async def fill(sent: Sent) -> None:
        order_id = scene.broker.order_of_tag(sent.what).order_id
        scene.desk.take_update(scene.broker.change(order_id, status="COMPLETE", filled_quantity=75))
        placed = (await scene.journal.tasks_by_tag(ACCOUNT, [sent.what])).get(sent.what)
        assert placed is not None
        await scene.reaches(placed, S.FILLED)

    async def play() -> None:
        async with scene.opened():
            scene.broker.on_sent = fill
            placed = await scene.place()
            await scene.reaches(placed, S.FILLED)
            await asyncio.sleep(60.0)
            assert (scene.now(placed).state, scene.now(placed).filled_quantity) == (S.FILLED, 75)

    virtual_time.run(play())


@pytest.mark.parametrize("reply", [refusal(400, "OrderException"), SILENCE], ids=["no", "silence"])
def test_an_order_that_its_update_showed_alive_stays_so_whatever_the_answer_says(
    reply: Reply,
) -> None:
    scene = Scene()

    async def show(sent: Sent) -> None:
        scene.desk.take_update(scene.broker.order_of_tag(sent.what))
        placed = (await scene.journal.tasks_by_tag(ACCOUNT, [sent.what])).get(sent.what)
        assert placed is not None
        await scene.reaches(placed, S.WORKING)

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=reply))
            scene.broker.on_sent = show
            placed = await scene.place()
            await scene.until(lambda: scene.broker.sent)
            await asyncio.sleep(60.0)
            assert scene.now(placed).state is S.WORKING

    virtual_time.run(play())


def test_an_outcome_is_recorded_when_the_journal_is_back_and_never_lost() -> None:
    scene = Scene()

    async def break_down(_: Sent) -> None:
        scene.journal.is_down = True

    async def play() -> None:
        async with scene.opened():
            scene.broker.on_sent = break_down
            placed = await scene.place()
            await scene.until(lambda: scene.journal.is_down)
            await asyncio.sleep(45.0)
            assert scene.now(placed).state is S.SENDING
            scene.journal.is_down = False
            await scene.reaches(placed, S.ACKED)
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


@pytest.mark.parametrize("step", ["claim", "record"])
def test_a_commit_whose_confirmation_was_lost_is_read_back_and_not_repeated(step: str) -> None:
    scene = Scene()
    lost: list[str] = []

    async def lose(name: str) -> None:
        if name == step and not lost:
            lost.append(name)
            raise JournalUnavailable("the confirmation was lost")

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = lose
            placed = await scene.place()
            await scene.reaches(placed, S.ACKED, S.WORKING)
            assert lost
            assert len(scene.broker.sent) == 1
            states = scene.journal.states(placed.task_id)
            assert states[:3] == [S.RECEIVED, S.READY, S.SENDING]

    virtual_time.run(play())


def test_an_intent_that_is_committed_after_it_was_read_back_is_settled_and_not_forgotten() -> None:
    # The database may still be at a commit whose confirmation was lost when we read it back.
    scene = Scene(QUICK)
    journal = scene.journal
    waiting: list[Callable[[], Awaitable[OrderTask]]] = []
    claims: list[OrderTask] = []
    commit = journal.claim

    async def claim(task: OrderTask, **named: Any) -> OrderTask:
        claims.append(task)
        if len(claims) == 1:
            waiting.append(lambda: commit(task, **named))
            raise JournalUnavailable("the confirmation was lost")
        if waiting:
            await waiting.pop()()
        return await commit(task, **named)

    async def play() -> None:
        async with scene.opened():
            journal.claim = claim  # type: ignore[method-assign]
            placed = await scene.place()
            await scene.reaches(placed, S.NOT_PLACED)
            assert not scene.broker.sent

    virtual_time.run(play())


def test_an_intent_that_another_writer_committed_is_not_taken_for_ours() -> None:
    # Both make the same tag of the same task and attempt: it does not tell whose intent it is.
    scene = Scene()
    mine, other = scene.journal, MemoryJournal(beside=scene.journal)

    async def overtaken(task: OrderTask, **named: Any) -> OrderTask:
        mine.lose_writer(ACCOUNT, is_noticed=False)
        await other.claim(task, **{**named, "writer_epoch": await other.acquire(ACCOUNT)})
        raise JournalUnavailable("no answer in time")

    async def play() -> None:
        async with scene.opened():
            mine.claim = overtaken  # type: ignore[method-assign]
            placed = await scene.place()
            await scene.reaches(placed, S.SENDING)
            await asyncio.sleep(60.0)
            assert not scene.broker.sent

    virtual_time.run(play())


FREEZES = ["admit", "claim", "record"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", FREEZES)
def test_cancelled_at_any_write_an_order_is_neither_lost_nor_doubled(step: str, when: str) -> None:
    scene = Scene(QUICK)
    frozen, go_on = asyncio.Event(), asyncio.Event()

    async def freeze(name: str) -> None:
        if name == step and not frozen.is_set():
            frozen.set()
            await go_on.wait()

    async def play() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(scene.desk.run())
            await scene.until(lambda: scene.desk.state == "open")
            setattr(scene.journal, when, freeze)
            asking = tasks.create_task(scene.place(request_id="k", client_order_id="k"))
            await frozen.wait()
            asking.cancel()
            running.cancel()
            await asyncio.sleep(1.0)
            go_on.set()
        setattr(scene.journal, when, _unfrozen)
        scene.renew()
        async with scene.opened():
            again = await scene.place(request_id="k", client_order_id="k")
            await scene.until(lambda: scene.now(again).state in {S.ACKED, S.WORKING, S.NOT_PLACED})
            assert len(scene.journal.tasks) == 1
            assert len(scene.broker.sent) == len(scene.broker.book) <= 1

    virtual_time.run(play())


def test_cancelled_while_the_broker_answers_the_outcome_is_recorded_before_the_end() -> None:
    scene = Scene()
    frozen, go_on = asyncio.Event(), asyncio.Event()

    async def freeze(_: Sent) -> None:
        frozen.set()
        await go_on.wait()

    async def play() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(scene.desk.run())
            await scene.until(lambda: scene.desk.state == "open")
            scene.broker.on_sent = freeze
            placed = await scene.place()
            await frozen.wait()
            running.cancel()
            await asyncio.sleep(1.0)
            assert not running.done()
            go_on.set()
        assert scene.now(placed).state is S.ACKED
        assert len(scene.broker.sent) == 1

    virtual_time.run(play())


async def _unfrozen(_: str) -> None:
    return
