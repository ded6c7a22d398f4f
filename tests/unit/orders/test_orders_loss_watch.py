"""A loss or a fall from the day's best stops an account until a person lets it go on (I13)."""

from __future__ import annotations

import asyncio
import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from order_scene import ACCOUNT, BUY, Scene, cancelling

from ticker_service.domain.kill_switch import KillLevel, KillScope, ScopeKind
from ticker_service.domain.order import Side
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.portfolio import BrokerPosition, PositionKey
from ticker_service.errors import JournalUnavailable, OrderRefused, RiskDenied
from ticker_service.orders.loss_watch import lift_losses

if TYPE_CHECKING:
    from collections.abc import Callable

SCOPE = KillScope(ScopeKind.ACCOUNT, ACCOUNT)


@pytest.fixture(autouse=True)
def _without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time has no threads; the store of these tests needs none."""

    async def at_once(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return work(*given, **named)

    monkeypatch.setattr("ticker_service.accounts.kill_switches.asyncio.to_thread", at_once)


def losing(scene: Scene, result_inr: str | None, quantity: int = 75) -> None:
    key = PositionKey(BUY.exchange, BUY.tradingsymbol, BUY.product)
    result = None if result_inr is None else Decimal(result_inr)
    scene.broker.net_positions = [
        BrokerPosition(
            key=key, quantity=quantity, overnight_quantity=quantity, day_result_inr=result
        )
    ]


async def standing(scene: Scene) -> list[KillLevel]:
    return [each.level for each in scene.switches.standing()]


async def refused(scene: Scene, **changed: Any) -> OrderRefused:
    with pytest.raises(OrderRefused) as error:
        await scene.place(dataclasses.replace(BUY, **changed))
    return error.value


def test_a_loss_throws_a_switch_that_lets_only_reductions_through_and_survives_a_restart() -> None:
    scene = Scene(risk={"loss_reduce_only_inr": 5_000})

    async def play() -> None:
        losing(scene, "-4999")
        async with scene.opened():
            await scene.place()
            losing(scene, "-5000.5")
            await scene.until(scene.switches.standing)
            assert await standing(scene) == [KillLevel.REDUCE_ONLY]
            told = await refused(scene)
            assert "loss of 5000.5 rupees" in told.rule
            await scene.place(dataclasses.replace(BUY, transaction_type=Side.SELL))
        scene.renew()
        losing(scene, "100")
        async with scene.opened():
            assert (await refused(scene)).code == "KILL_SWITCH"

    virtual_time.run(play())


def test_what_a_person_lifted_does_not_come_back_on_the_same_day_also_after_a_restart() -> None:
    scene = Scene(risk={"loss_reduce_only_inr": 5_000, "loss_halt_inr": 9_000})

    async def play() -> None:
        losing(scene, "-6000")
        async with scene.opened():
            await scene.until(scene.switches.standing)
            await scene.switches.release(
                SCOPE, scene.journal, by_whom="operator", now_ns=scene.clock.now_ns()
            )
            await scene.until(lambda: not scene.switches.standing())
            await scene.place()
        scene.renew()
        async with scene.opened():
            await scene.until(lambda: scene.desk.losses.day() is not None)
            await scene.place()
            assert await standing(scene) == []
            losing(scene, "-9000")
            await scene.until(scene.switches.standing)
            assert await standing(scene) == [KillLevel.CANCEL_ALL]

    virtual_time.run(play())


async def lifted(scene: Scene) -> list[KillLevel]:
    found = await lift_losses(
        scene.switches, scene.journal, ACCOUNT, by_whom="operator", now_ns=scene.clock.now_ns()
    )
    return [each.level for each in found]


async def seen(scene: Scene, result_inr: int) -> None:
    await scene.until(lambda: (day := scene.desk.losses.day()) and day.result_inr == result_inr)


def test_the_mildest_level_holds_new_orders_until_a_person_lifts_it_and_lets_changes_go() -> None:
    scene = Scene(risk={"loss_block_new_inr": 5_000})

    async def play() -> None:
        losing(scene, "0")
        async with scene.opened():
            await seen(scene, 0)
            resting = await scene.place()
            await scene.until(lambda: scene.now(resting).broker_order_id)
            losing(scene, "-5000")
            await scene.until(scene.switches.standing)
            assert await standing(scene) == [KillLevel.BLOCK_NEW]
            assert (await refused(scene)).code == "KILL_SWITCH"
            changed = await scene.modify(resting, price="99")
            await scene.until(lambda: scene.now(changed).state is TaskState.ACKED)
            await scene.place(dataclasses.replace(BUY, transaction_type=Side.SELL))
            losing(scene, "-4000")
            await seen(scene, -4000)
            assert "loss of 5000 rupees" in (await refused(scene)).rule
        scene.renew()
        async with scene.opened():
            await seen(scene, -4000)
            assert (await refused(scene)).code == "KILL_SWITCH"
            assert await lifted(scene) == [KillLevel.BLOCK_NEW]
            await scene.place()
            losing(scene, "-6000")
            await seen(scene, -6000)
            await scene.place()

    virtual_time.run(play())


def test_who_lifts_a_level_is_not_stopped_by_a_milder_one_on_the_same_day() -> None:
    scene = Scene(risk={"loss_block_new_inr": 4_000, "loss_reduce_only_inr": 5_000})

    async def play() -> None:
        losing(scene, "-6000")
        async with scene.opened():
            await scene.until(scene.switches.standing)
            assert await standing(scene) == [KillLevel.REDUCE_ONLY]
            await lifted(scene)
            await asyncio.sleep(30)
            assert await standing(scene) == []
            await scene.place()

    virtual_time.run(play())


def test_a_fall_is_counted_from_the_days_best_that_an_earlier_daemon_saw() -> None:
    scene = Scene(risk={"drawdown_halt_inr": 1_000})

    async def play() -> None:
        losing(scene, "3000")
        async with scene.opened():
            await seen(scene, 3000)
        losing(scene, "2000")
        scene.renew()
        async with scene.opened():
            await scene.until(scene.switches.standing)
            assert "drawdown of 1000 rupees" in scene.switches.standing()[0].why

    virtual_time.run(play())


def test_a_best_that_the_journal_has_not_taken_lets_no_order_through() -> None:
    scene = Scene(risk={"drawdown_halt_inr": 1_000})

    async def play() -> None:
        async def fail(name: str) -> None:
            if name == "keep_day_best":
                raise JournalUnavailable(name)

        losing(scene, "0")
        async with scene.opened():
            await seen(scene, 0)
            await scene.place()
            scene.journal.before = fail
            losing(scene, "3000")
            await asyncio.sleep(11)
            assert (await refused(scene)).code == "RISK_LOSS"
            losing(scene, "2000")
            await scene.until(scene.switches.standing)  # and is counted from all the same
            assert await standing(scene) == [KillLevel.CANCEL_ALL]

    virtual_time.run(play())


@pytest.mark.parametrize("read", ["day_best", "kill_switches"])
def test_what_the_journal_does_not_tell_of_the_day_denies(read: str) -> None:
    scene = Scene(risk={"drawdown_halt_inr": 1_000})

    async def play() -> None:
        async def fail(name: str) -> None:
            if name == read:
                raise JournalUnavailable(name)

        losing(scene, "0")
        async with scene.opened():
            scene.desk.losses.forget()
            scene.journal.before = fail
            await asyncio.sleep(11)
            refusal = await refused(scene)
            assert (refusal.code, refusal.field) == ("RISK_LOSS", "days_result")

    virtual_time.run(play())


def test_a_fall_from_the_days_best_is_counted_from_there_and_anew_each_day() -> None:
    scene = Scene(risk={"drawdown_halt_inr": 1_000})

    async def play() -> None:
        losing(scene, "3000")
        async with scene.opened():
            await scene.until(lambda: scene.desk.losses.day() is not None)
            losing(scene, "2001")
            await scene.until(lambda: (day := scene.desk.losses.day()) and day.result_inr < 3000)
            assert await standing(scene) == []
            losing(scene, "2000")
            await scene.until(scene.switches.standing)
            assert "drawdown of 1000 rupees" in scene.switches.standing()[0].why

    virtual_time.run(play())


@pytest.mark.parametrize("fails", ["not told", "not read"])
def test_a_result_that_is_not_known_denies_what_does_not_reduce(fails: str) -> None:
    scene = Scene(risk={"loss_halt_inr": 5_000})

    async def play() -> None:
        losing(scene, "0")
        async with scene.opened():
            await scene.until(lambda: scene.desk.losses.day() is not None)
            await scene.place()
            if fails == "not told":
                losing(scene, None)
            else:
                scene.broker.is_down = True
            await scene.until(
                lambda: scene.clock.now_ns() - (scene.desk.losses._seen or (0, 0))[0] > 11 * 10**9
            )
            refusal = await refused(scene)
            assert isinstance(refusal, RiskDenied)
            assert (refusal.code, refusal.field) == ("RISK_LOSS", "days_result")

    virtual_time.run(play())


@pytest.mark.parametrize("cancels", [True, False])
def test_a_halt_cancels_what_rests_unless_the_limits_say_otherwise(*, cancels: bool) -> None:
    said = {} if cancels else {"halt_cancels": False}
    scene = Scene(risk={"loss_halt_inr": 5_000, **said})

    async def play() -> None:
        losing(scene, "0")
        async with scene.opened(), cancelling(scene):
            await scene.until(lambda: scene.desk.losses.day() is not None)
            resting = await scene.reaches(await scene.place(), TaskState.WORKING)
            losing(scene, "-5000")
            await scene.until(scene.switches.standing)
            level = KillLevel.CANCEL_ALL if cancels else KillLevel.HALT_NEW
            assert await standing(scene) == [level]
            if cancels:
                await scene.reaches(resting, TaskState.CANCELLED)
            else:
                await asyncio.sleep(30)
                assert scene.now(resting).state is TaskState.WORKING
            assert (await refused(scene)).code == "KILL_SWITCH"

    virtual_time.run(play())


def test_a_halt_of_before_that_cancelled_nothing_is_not_thrown_again_the_same_day() -> None:
    scene = Scene(risk={"loss_halt_inr": 5_000, "halt_cancels": False})

    async def play() -> None:
        losing(scene, "-5000")
        async with scene.opened():
            await scene.until(scene.switches.standing)
            await scene.switches.release(
                SCOPE, scene.journal, by_whom="operator", now_ns=scene.clock.now_ns()
            )
        scene.risk = {"loss_halt_inr": 5_000}
        scene.renew()
        async with scene.opened():
            await scene.until(lambda: scene.desk.losses.day() is not None)
            await asyncio.sleep(30)
            assert await standing(scene) == []

    virtual_time.run(play())
