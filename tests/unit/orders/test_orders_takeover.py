"""What a stalled sender still knows when another has taken its account or ended its task."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import virtual_time
from order_scene import ACCOUNT, Scene
from structlog.testing import capture_logs

from ticker_service.domain.order import TaskUpdate
from ticker_service.domain.order_state import TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ticker_service.domain.order import OrderTask
    from ticker_service.testing import Sent

S = TaskState


@contextlib.asynccontextmanager
async def answer_under_way(scene: Scene) -> AsyncIterator[OrderTask]:
    """Place an order that the broker has and no book shows; its yes comes when the block ends."""
    hold = asyncio.Event()

    async def held(_: Sent) -> None:
        await hold.wait()

    # Who settles it in the block is another process, which has not heard the answer.
    scene.executor.on_named = lambda *_: None
    scene.broker.on_sent = held
    placed = await scene.reaches(await scene.place(), S.SENDING)
    await scene.until(lambda: scene.broker.book)
    scene.broker.hidden |= set(scene.broker.book)
    yield scene.now(placed)
    hold.set()


async def ends_as(scene: Scene, task: OrderTask, *states: TaskState) -> None:
    for state in states:
        step = TaskUpdate(state=state, event="step", reason_code="STEP", reason="said so")
        await scene.journal.record(scene.now(task), step, now_ns=scene.clock.now_ns())


def test_a_yes_is_recorded_although_its_order_was_called_unknown_meanwhile() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            async with answer_under_way(scene) as placed:
                await ends_as(scene, placed, S.UNKNOWN)
            # Books that lack it for longer than any proof of absence takes.
            await asyncio.sleep(400.0)
            (order_id,) = scene.broker.book
            now = scene.now(placed)
            assert (now.state, now.broker_order_id, now.reason_code) == (S.ACKED, order_id, "")
            assert S.NOT_PLACED not in scene.journal.states(placed.task_id)

    virtual_time.run(play())


@pytest.mark.parametrize("end", [S.NOT_PLACED, S.MANUAL])
def test_a_yes_outweighs_an_end_that_we_gave_its_order_and_is_told_loudly(end: TaskState) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            async with answer_under_way(scene) as placed:
                await ends_as(scene, placed, S.UNKNOWN, end)
            with capture_logs() as logs:
                await scene.reaches(placed, S.ACKED)
            assert scene.now(placed).broker_order_id in scene.broker.book
            (alarm,) = (entry for entry in logs if entry["event"] == "late_fact_wins")
            assert (alarm["was"], alarm["log_level"]) == (end, "error")

    virtual_time.run(play())


def test_a_yes_is_recorded_although_a_newer_writer_has_the_account() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            async with answer_under_way(scene) as placed:
                scene.journal.lose_writer(ACCOUNT, superseded=True, is_noticed=False)
            acked = await scene.reaches(placed, S.ACKED)
            assert acked.broker_order_id in scene.broker.book

    virtual_time.run(play())


@pytest.mark.parametrize("state", [S.WORKING, S.FILLED, S.CANCELLED, S.REJECTED])
def test_a_yes_adds_nothing_to_what_the_broker_has_told_of_its_order(state: TaskState) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            async with answer_under_way(scene) as placed:
                (order_id,) = scene.broker.book
                told = TaskUpdate(state=state, event="broker_update", broker_order_id=order_id)
                await scene.journal.record(placed, told, now_ns=scene.clock.now_ns())
            await asyncio.sleep(5.0)
            assert scene.now(placed).state is state

    virtual_time.run(play())


def test_a_yes_to_a_cancel_does_not_outweigh_books_that_show_its_order_at_rest() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            hold = asyncio.Event()

            async def held(_: Sent) -> None:
                await hold.wait()

            scene.broker.on_sent = held
            cancel = await scene.reaches(await scene.cancel(placed), S.SENDING)
            await ends_as(scene, cancel, S.UNKNOWN, S.NOT_PLACED)
            hold.set()
            await asyncio.sleep(5.0)
            assert scene.now(cancel).state is S.NOT_PLACED

    virtual_time.run(play())


def test_a_yes_with_another_order_id_than_the_journal_s_is_said_loudly() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            with capture_logs() as logs:
                async with answer_under_way(scene) as placed:
                    told = TaskUpdate(state=S.WORKING, event="step", broker_order_id="another")
                    await scene.journal.record(placed, told, now_ns=scene.clock.now_ns())
                await asyncio.sleep(1.0)
            (alarm,) = (entry for entry in logs if entry["event"] == "order_id_not_recorded")
            assert alarm["order_id"] in scene.broker.book
            assert scene.now(placed).broker_order_id == "another"

    virtual_time.run(play())
