"""Under REDUCE_ONLY nothing leaves that could do more than reduce the broker's position (I12)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from typing import TYPE_CHECKING

import pytest
import virtual_time
from held_scene import SELL, Held
from order_scene import ACCOUNT, BUY, NOON_NS

from ticker_service.domain.halt import HaltCode
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch
from ticker_service.domain.order import OrderRequest, Side, TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import OrderRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.ports import Reply

S = TaskState
BOTH = pytest.mark.parametrize("level", [KillLevel.BLOCK_NEW, KillLevel.REDUCE_ONLY])
SYMBOL = f"{BUY.exchange}:{BUY.tradingsymbol}"


def switch(scope: str = "all", level: KillLevel = KillLevel.REDUCE_ONLY) -> KillSwitch:
    return KillSwitch(
        switch_id=uuid.uuid4(),
        scope=KillScope.of(scope),
        level=level,
        why="too much lost today",
        by_whom="operator",
        since_ns=NOON_NS,
    )


def sell(quantity: int) -> OrderRequest:
    return dataclasses.replace(SELL, quantity=quantity)


async def why_not(asked: Awaitable[object]) -> str:
    with pytest.raises(OrderRefused) as error:
        await asked
    assert error.value.code == "KILL_SWITCH"
    return error.value.rule


def play(scenario: Callable[[Held], Awaitable[None]]) -> None:
    async def playing() -> None:
        scene = Held()
        async with scene.opened():
            await scenario(scene)

    virtual_time.run(playing())


@BOTH
@pytest.mark.parametrize("scope", ["all", f"account:{ACCOUNT}", f"symbol:{SYMBOL}"])
def test_what_reduces_the_position_passes_and_every_other_order_is_refused(
    scope: str, level: KillLevel
) -> None:
    async def scenario(scene: Held) -> None:
        scene.kill_store.throw(switch(scope, level))
        rule = await why_not(scene.place())
        assert level in rule
        assert "has a net position of 75, which BUY does not reduce" in rule
        assert "more than the 75 that are left" in await why_not(scene.place(sell(76)))
        await scene.reaches(await scene.place(sell(75)), S.ACKED)
        assert "of which 75 are being closed already" in await why_not(scene.place(sell(1)))

    play(scenario)


def test_of_two_at_once_that_would_close_it_twice_one_passes() -> None:
    async def scenario(scene: Held) -> None:
        scene.kill_store.throw(switch())
        passed: list[int] = []

        async def ask(quantity: int) -> None:
            with contextlib.suppress(OrderRefused):
                await scene.place(sell(quantity))
                passed.append(quantity)

        async with asyncio.TaskGroup() as tasks:
            for quantity in (40, 50, 60):
                tasks.create_task(ask(quantity))
        assert passed == [40]

    play(scenario)


def test_a_stricter_switch_beside_it_stops_what_reduces_as_well() -> None:
    async def scenario(scene: Held) -> None:
        scene.kill_store.throw(switch())
        scene.kill_store.throw(switch(f"account:{ACCOUNT}", KillLevel.HALT_NEW))
        assert "HALT_NEW" in await why_not(scene.place(sell(75)))

    play(scenario)


@BOTH
def test_what_was_taken_before_and_opens_something_waits_and_expires(level: KillLevel) -> None:
    async def scenario(scene: Held) -> None:
        form = {"transaction_type": "BUY"} | _FORM
        scene.kill_store.throw(switch(level=level))
        opening = (await scene.journal.admit(scene.new(TaskKind.PLACE, form))).task
        closing = form | {"transaction_type": "SELL"}
        reducing = (await scene.journal.admit(scene.new(TaskKind.PLACE, closing))).task
        await scene.reaches(reducing, S.ACKED)
        await scene.reaches(opening, S.EXPIRED)
        assert len(scene.broker.sent) == 1

    play(scenario)


@BOTH
def test_thrown_after_the_intent_only_what_reduces_leaves(level: KillLevel) -> None:
    async def scenario(scene: Held) -> None:
        async def throw(name: str) -> None:
            if name == "claim":
                scene.kill_store.throw(switch(level=level))

        scene.journal.after = throw
        opening = await scene.place()
        await scene.until(lambda: scene.now(opening).attempt == 1)
        await asyncio.sleep(1.0)
        assert scene.now(opening).state is S.READY
        assert not scene.broker.sent
        await scene.reaches(await scene.place(sell(75)), S.ACKED)

    play(scenario)


@pytest.mark.parametrize(
    ("scope", "level"),
    [
        ("all", KillLevel.REDUCE_ONLY),
        ("all", KillLevel.HALT_NEW),
        (f"symbol:{SYMBOL}", KillLevel.HALT_NEW),
        ("", None),
    ],
)
def test_what_is_thrown_while_a_connection_is_made_holds_the_first_byte_back(
    scope: str, level: KillLevel | None
) -> None:
    """Between the last look in the loop and the write: a thread, a connection, a turn."""

    async def scenario(scene: Held) -> None:
        ask = scene.broker._take

        async def late(*request: object) -> Reply:
            if scope and level:
                scene.kill_store.throw(switch(scope, level))
            else:
                scene.halts.begin(HaltCode.WRONG_IP, "the broker said so")
            return await ask(*request)  # type: ignore[arg-type]

        scene.broker._take = late  # type: ignore[method-assign,assignment]
        placed = await scene.place()
        await scene.until(lambda: scene.now(placed).attempt == 1)
        await asyncio.sleep(1.0)
        assert scene.now(placed).state is S.READY
        assert not scene.broker.sent

    play(scenario)


def test_under_block_new_changes_leave_and_under_the_next_level_they_do_not() -> None:
    async def scenario(scene: Held) -> None:
        resting = await scene.reaches(await scene.place(), S.ACKED)
        scene.kill_store.throw(switch(level=KillLevel.BLOCK_NEW))
        await scene.reaches(await scene.modify(resting, price="99"), S.ACKED)
        scene.kill_store.throw(switch())
        await why_not(scene.modify(resting, price="98"))

    play(scenario)


def test_a_change_that_could_do_more_than_reduce_is_refused() -> None:
    async def scenario(scene: Held) -> None:
        closing = await scene.reaches(await scene.place(sell(30)), S.ACKED)
        opening = await scene.reaches(await scene.place(BUY), S.ACKED)
        await scene.reaches(closing, S.WORKING)
        await scene.reaches(opening, S.WORKING)
        scene.kill_store.throw(switch())
        await scene.reaches(await scene.modify(closing, price="99.5"), S.ACKED)
        await scene.reaches(await scene.modify(closing, quantity="75"), S.ACKED)
        assert "more than the 75" in await why_not(scene.modify(closing, quantity="80"))
        assert "which BUY does not reduce" in await why_not(scene.modify(opening, price="101"))
        assert "which BUY" in await why_not(scene.modify(opening, quantity="90"))
        smaller = await scene.modify(opening, quantity="25")
        await scene.reaches(smaller, S.ACKED)

    play(scenario)


def test_without_the_broker_s_positions_nothing_passes_but_cancels() -> None:
    async def scenario(scene: Held) -> None:
        resting = await scene.reaches(await scene.place(sell(30)), S.WORKING)
        scene.kill_store.throw(switch())
        await asyncio.sleep(6.0)
        answer = scene.broker.positions

        async def none() -> list[object]:
            scene.broker.is_down = True
            try:
                return await answer()  # type: ignore[return-value]
            finally:
                scene.broker.is_down = False

        scene.broker.positions = none  # type: ignore[method-assign,assignment]
        assert "is not known" in await why_not(scene.place(sell(45)))
        await scene.reaches(await scene.cancel(resting), S.ACKED)

    play(scenario)


def test_it_holds_after_a_restart() -> None:
    async def playing() -> None:
        scene = Held()
        async with scene.opened():
            scene.kill_store.throw(switch())
        scene.renew()
        async with scene.opened():
            await why_not(scene.place())
            await scene.reaches(await scene.place(sell(75)), S.ACKED)

    virtual_time.run(playing())


def test_a_known_key_still_names_its_order() -> None:
    async def scenario(scene: Held) -> None:
        new = scene.new(TaskKind.PLACE, {"transaction_type": Side.BUY.value} | _FORM)
        placed, _ = await scene.desk.submit(new)
        await scene.reaches(placed, S.ACKED)
        scene.kill_store.throw(switch())
        again, is_new = await scene.desk.submit(new)
        assert (again.task_id, is_new) == (placed.task_id, False)

    play(scenario)


_FORM = {
    "exchange": BUY.exchange,
    "tradingsymbol": BUY.tradingsymbol,
    "order_type": "LIMIT",
    "product": "NRML",
    "quantity": "75",
    "price": "100",
    "variety": "regular",
    "validity": "DAY",
}
