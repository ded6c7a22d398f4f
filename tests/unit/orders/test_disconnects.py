"""Cancel on disconnect: whose orders go when their caller is lost, which stay, and when."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
import virtual_time
from order_scene import ACCOUNT, BUY, Scene

from ticker_service.domain.order import (
    OrderRequest,
    OrderType,
    Side,
    TaskKind,
)
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.portfolio import BrokerPosition, PositionKey
from ticker_service.errors import OrderRefused
from ticker_service.orders import disconnects
from ticker_service.orders.access import Caller
from ticker_service.orders.front import FrontDesk
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ticker_service.domain.order import OrderTask

BOT: Final = Caller(principal="bot", accounts=frozenset({ACCOUNT}))
NIGHT: Final = Caller(principal="night", accounts="all")
SILENCE: Final = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer in time")
STOP: Final = dataclasses.replace(
    BUY, order_type=OrderType.SL, trigger_price=Decimal(99), transaction_type=Side.SELL
)
GRACE_S: Final = 10
KEY: Final = PositionKey(BUY.exchange, BUY.tradingsymbol, BUY.product)


class Play:
    """A scene with its front desk; ``place`` takes orders as a socket of a session does."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.broker = scene.broker
        self.renew()
        self._count = 0

    def renew(self) -> None:
        scene = self.scene
        self.front = FrontDesk(
            {ACCOUNT: scene.desk}, scene.journal, scene.config, scene.clock, switches=scene.switches
        )
        self.sessions = self.front.disconnects

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks, self.scene.opened():
            work = tasks.create_task(self.sessions.run())
            try:
                yield
            finally:
                work.cancel()

    async def place(
        self,
        facts: dict[str, object] | None,
        *,
        order: OrderRequest = BUY,
        caller: Caller = BOT,
        until: TaskState = TaskState.WORKING,
    ) -> OrderTask:
        self._count += 1
        key = f"order-{self._count}"
        answer = await self.front.place(
            caller, account=ACCOUNT, client_order_id=key, request_id=key, order=order, facts=facts
        )
        return await self.scene.reaches(answer.task, until)

    def state(self, task: OrderTask) -> TaskState:
        return self.scene.now(task).state

    def cancels(self) -> int:
        return sum(each.kind is TaskKind.CANCEL for each in self.scene.journal.tasks.values())


def play(scenario: Callable[[Play], Awaitable[None]]) -> None:
    async def played() -> None:
        stage = Play(Scene())
        async with stage.opened():
            await scenario(stage)

    virtual_time.run(played())


def test_what_a_lost_caller_placed_is_cancelled_when_its_grace_is_over_and_not_before() -> None:
    async def scenario(stage: Play) -> None:
        facts = stage.sessions.take_up(BOT, "a", GRACE_S)
        order = await stage.place(facts)
        await asyncio.sleep(3 * GRACE_S)
        assert stage.state(order) is TaskState.WORKING
        stage.sessions.lose(BOT, "a")
        await asyncio.sleep(GRACE_S - 1)
        assert stage.state(order) is TaskState.WORKING
        ended = await stage.scene.reaches(order, TaskState.CANCELLED)
        assert ended.filled_quantity == 0
        (cancel,) = await stage.front.changes(BOT, order.client_order_id, limit=9)
        assert (cancel.kind, cancel.principal) == (TaskKind.CANCEL, "bot")
        await asyncio.sleep(5)
        assert stage.sessions.standing() == 0

    play(scenario)


def test_a_caller_that_comes_back_in_time_keeps_its_orders() -> None:
    async def scenario(stage: Play) -> None:
        order = await stage.place(stage.sessions.take_up(BOT, "a", GRACE_S))
        for _ in range(3):
            stage.sessions.lose(BOT, "a")
            await asyncio.sleep(GRACE_S - 2)
            stage.sessions.take_up(BOT, "a", GRACE_S)
            await asyncio.sleep(2 * GRACE_S)
        # The old socket may be noticed to be gone after the new one is there.
        stage.sessions.take_up(BOT, "a", GRACE_S)
        stage.sessions.lose(BOT, "a")
        await asyncio.sleep(3 * GRACE_S)
        assert (stage.state(order), stage.cancels()) == (TaskState.WORKING, 0)

    play(scenario)


def test_stops_exits_and_orders_outside_the_session_stay() -> None:
    async def scenario(stage: Play) -> None:
        stage.broker.net_positions = [BrokerPosition(key=KEY, quantity=75, overnight_quantity=75)]
        facts = stage.sessions.take_up(BOT, "a", GRACE_S)
        others = stage.sessions.take_up(NIGHT, "a", GRACE_S)
        closing = dataclasses.replace(BUY, transaction_type=Side.SELL)
        kept = [
            await stage.place(facts, order=closing),
            await stage.place(None),
            await stage.place(others, caller=NIGHT),
            await stage.place(stage.sessions.take_up(BOT, "b", GRACE_S)),
        ]
        lost = await stage.place(facts)
        stage.sessions.lose(BOT, "a")
        await stage.scene.reaches(lost, TaskState.CANCELLED)
        await asyncio.sleep(3 * GRACE_S)
        assert [stage.state(each) for each in kept] == [TaskState.WORKING] * 4
        assert stage.cancels() == 1

    play(scenario)


def test_a_stop_outlives_its_caller() -> None:
    async def scenario(stage: Play) -> None:
        facts = stage.sessions.take_up(BOT, "a", GRACE_S)
        stop = await stage.place(facts, order=STOP)
        stage.sessions.lose(BOT, "a")
        await asyncio.sleep(3 * GRACE_S)
        assert (stage.state(stop), stage.cancels()) == (TaskState.WORKING, 0)

    play(scenario)


def test_where_no_position_can_be_read_an_order_is_held_for_one_that_goes() -> None:
    async def scenario(stage: Play) -> None:
        stage.broker.net_positions = [BrokerPosition(key=KEY, quantity=75, overnight_quantity=75)]
        facts = stage.sessions.take_up(BOT, "a", GRACE_S)
        order = await stage.place(facts, order=dataclasses.replace(BUY, transaction_type=Side.SELL))
        stage.broker.is_down = True
        stage.sessions.lose(BOT, "a")
        await stage.scene.until(stage.cancels)
        stage.broker.is_down = False
        await stage.scene.reaches(order, TaskState.CANCELLED)

    play(scenario)


def test_an_order_in_doubt_is_cancelled_as_soon_as_it_surfaces() -> None:
    async def scenario(stage: Play) -> None:
        facts = stage.sessions.take_up(BOT, "a", GRACE_S)
        order_id = f"{1:015d}"
        stage.broker.hidden.add(order_id)
        stage.broker.answers.append(Answer(reply=SILENCE))
        order = await stage.place(facts, until=TaskState.UNKNOWN)
        stage.sessions.lose(BOT, "a")
        await asyncio.sleep(3 * GRACE_S)
        assert stage.state(order) is TaskState.UNKNOWN
        stage.broker.hidden.clear()
        await stage.scene.reaches(order, TaskState.CANCELLED)

    play(scenario)


def test_a_cancel_without_effect_is_asked_again() -> None:
    async def scenario(stage: Play) -> None:
        order = await stage.place(stage.sessions.take_up(BOT, "a", GRACE_S))
        no = refusal(400, "OrderException")
        stage.broker.answers.extend([Answer(reply=no, takes_effect=False)] * 3)
        stage.sessions.lose(BOT, "a")
        await stage.scene.reaches(order, TaskState.CANCELLED)
        assert stage.cancels() == 4

    play(scenario)


def test_a_journal_that_is_away_puts_it_off_and_no_more() -> None:
    async def scenario(stage: Play) -> None:
        order = await stage.place(stage.sessions.take_up(BOT, "a", GRACE_S))
        stage.scene.journal.is_down = True
        stage.sessions.lose(BOT, "a")
        await asyncio.sleep(60)
        stage.scene.journal.is_down = False
        await stage.scene.reaches(order, TaskState.CANCELLED)

    play(scenario)


@pytest.mark.parametrize("comes_back", [True, False])
def test_the_next_daemon_ends_what_the_last_one_left_of_a_session_nobody_takes_up(
    *, comes_back: bool
) -> None:
    async def played() -> None:
        stage = Play(Scene())
        async with stage.opened():
            order = await stage.place(stage.sessions.take_up(BOT, "a", GRACE_S))
        stage.scene.renew()
        stage.renew()
        async with stage.opened():
            await asyncio.sleep(GRACE_S - 2)
            if comes_back:
                stage.sessions.take_up(BOT, "a", GRACE_S)
            await asyncio.sleep(3 * GRACE_S)
            wanted = TaskState.WORKING if comes_back else TaskState.CANCELLED
            assert stage.state(order) is wanted

    virtual_time.run(played())


def test_the_number_of_sessions_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnects, "SESSIONS_MAX", 2)

    async def scenario(stage: Play) -> None:
        stage.sessions.take_up(BOT, "a", GRACE_S)
        stage.sessions.take_up(BOT, "b", GRACE_S)
        stage.sessions.take_up(BOT, "a", GRACE_S)
        with pytest.raises(OrderRefused) as refused:
            stage.sessions.take_up(BOT, "c", GRACE_S)
        assert refused.value.code == "TOO_MANY_SESSIONS"

    play(scenario)


def test_an_order_tells_its_session_in_the_journal() -> None:
    async def scenario(stage: Play) -> None:
        order = await stage.place(stage.sessions.take_up(BOT, "a", GRACE_S))
        events: list[Any] = await stage.scene.journal.events_of(order.task_id, limit=1)
        assert events[0].data["facts"] == {"session": "a", "cancel_after_s": GRACE_S}

    play(scenario)
