"""An order for a group goes to the account that can take it, and says why."""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from group_scene import EVERYTHING, MAIN, PAIR, SPARE, THIRD, GroupScene
from order_scene import BUY

from ticker_service.accounts.breaker import BreakerRules
from ticker_service.domain.account_group import GroupPolicy
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch
from ticker_service.domain.order import Product, Side
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import IdempotencyConflict, OrderRefused
from ticker_service.orders.access import Caller

if TYPE_CHECKING:
    from collections.abc import Callable


def hinder(scene: GroupScene, how: str) -> None:
    """Make the first account one that takes no orders now."""
    main = scene[MAIN]
    match how:
        case "ACCOUNT_HALTED":
            main.halts.begin(HaltCode.WRONG_IP, "moved")
        case "ACCOUNT_NOT_OPEN":
            main.desk.token_has_ended()
        case "BREAKER_OPEN":
            permit = main.breaker.admit()
            assert permit is not None
            permit.failed()
        case "ORDER_LIMIT":
            main.limits.placed_elsewhere = lambda: 10_000
        case "NOT_THE_WRITER":
            scene.journal.lose_writer(MAIN, is_noticed=False)
            scene.journal._held.pop(MAIN)
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    "how",
    ["ACCOUNT_HALTED", "ACCOUNT_NOT_OPEN", "BREAKER_OPEN", "ORDER_LIMIT", "NOT_THE_WRITER"],
)
def test_an_account_that_would_keep_an_order_waiting_is_passed_over_and_that_is_journalled(
    how: str,
) -> None:
    scene = GroupScene(breaker_rules=BreakerRules(failures_max=1, open_s=600.0))

    async def play() -> None:
        async with scene.opened():
            assert (await scene.place()).account == MAIN
            hinder(scene, how)
            order = await scene.place()
            assert (order.account, order.account_group) == (SPARE, PAIR)
            route = {"group": PAIR, "policy": "first_able", "passed_over": {MAIN: how}}
            assert order.facts == {"route": route}
            received = (await scene.journal.events_after(SPARE, 0, limit=1))[0]
            assert received.data["facts"] == order.facts
            await scene[SPARE].reaches(order, TaskState.WORKING)

    virtual_time.run(play())


def test_a_kill_switch_on_an_account_passes_it_over() -> None:
    scene = GroupScene()

    async def play() -> None:
        async with scene.opened():
            scene[MAIN].kill_store.throw(
                KillSwitch(
                    switch_id=uuid.UUID(int=1),
                    scope=KillScope.of(f"account:{MAIN}"),
                    level=KillLevel.HALT_NEW,
                    why="mine",
                    by_whom="me",
                    since_ns=scene.clock.now_ns(),
                )
            )
            assert (await scene.place()).account == SPARE

    virtual_time.run(play())


def test_where_no_account_can_take_it_the_caller_is_told_why_of_each() -> None:
    scene = GroupScene()

    async def play() -> None:
        async with scene.opened():
            known = await scene.place("known")
            for each in scene.scenes.values():
                each.halts.begin(HaltCode.WRONG_IP, "moved")
            with pytest.raises(OrderRefused) as refused:
                await scene.place()
            assert refused.value.code == "NO_ABLE_ACCOUNT"
            assert "MAIN: ACCOUNT_HALTED, SPARE: ACCOUNT_HALTED" in refused.value.rule
            assert (await scene.place("known")).task_id == known.task_id

    virtual_time.run(play())


def test_the_same_key_is_the_same_order_whichever_account_has_its_turn() -> None:
    scene = GroupScene(policy=GroupPolicy.ROUND_ROBIN)

    async def play() -> None:
        async with scene.opened():
            first = await scene.ask("same")
            again = await scene.ask("same")
            assert (first.is_new, again.is_new) == (True, False)
            assert again.task.task_id == first.task.task_id
            with pytest.raises(IdempotencyConflict):
                await scene.place("same", account=first.task.account)
            with pytest.raises(IdempotencyConflict):
                await scene.place("same", order=dataclasses.replace(BUY, quantity=150))
            assert sum(len(each.broker.sent_tags()) for each in scene.scenes.values()) <= 1

    virtual_time.run(play())


def test_by_turns_each_account_gets_one() -> None:
    scene = GroupScene(MAIN, SPARE, THIRD, policy=GroupPolicy.ROUND_ROBIN)

    async def play() -> None:
        async with scene.opened():
            orders = [await scene.place() for _ in range(4)]
            assert [each.account for each in orders] == [MAIN, SPARE, THIRD, MAIN]
            for order in orders:
                await scene[order.account].reaches(order, TaskState.WORKING)
            scene[SPARE].halts.begin(HaltCode.WRONG_IP, "moved")
            assert [(await scene.place()).account for _ in range(3)] == [THIRD, THIRD, MAIN]

    virtual_time.run(play())


def test_the_least_used_gets_the_next() -> None:
    scene = GroupScene(policy=GroupPolicy.LEAST_USED)

    async def play() -> None:
        async with scene.opened():
            scene[MAIN].limits.placed_elsewhere = lambda: 2
            went = []
            for _ in range(4):
                order = await scene.place()
                await scene[order.account].reaches(order, TaskState.WORKING)
                went.append(order.account)
            assert went == [SPARE, SPARE, MAIN, SPARE]

    virtual_time.run(play())


@pytest.mark.parametrize("whose", [{}, {"account": MAIN, "group": PAIR}])
def test_an_order_names_an_account_or_a_group(whose: dict[str, str]) -> None:
    scene = GroupScene()

    async def play() -> None:
        whole = {"account": None, "group": None} | whose
        with pytest.raises(OrderRefused, match="either an account or a group"):
            await scene.place(**whole)

    virtual_time.run(play())


def test_a_group_is_for_those_who_may_use_all_of_its_accounts() -> None:
    scene = GroupScene()

    async def play() -> None:
        async with scene.opened():
            half = Caller(principal="half", accounts=frozenset({MAIN}))
            whole = Caller(principal="whole", accounts=frozenset({MAIN, SPARE}))
            for caller, group in ((half, PAIR), (whole, "NONE")):
                with pytest.raises(OrderRefused) as refused:
                    await scene.place(caller=caller, group=group)
                assert refused.value.code == "UNKNOWN_GROUP"
            assert (await scene.place(caller=whole)).account == MAIN

    virtual_time.run(play())


def test_holdings_are_sold_where_they_are() -> None:
    scene = GroupScene()
    share = {"exchange": "NSE", "tradingsymbol": "INFY", "product": Product.CNC}
    sale = dataclasses.replace(BUY, transaction_type=Side.SELL, **share)

    async def play() -> None:
        async with scene.opened():
            with pytest.raises(OrderRefused, match="holdings are sold where they are"):
                await scene.place(order=sale)
            assert (await scene.place(order=sale, account=SPARE)).account == SPARE
            bought = dataclasses.replace(sale, transaction_type=Side.BUY)
            assert (await scene.place(order=bought)).account == MAIN

    virtual_time.run(play())


@pytest.mark.parametrize("name", [PAIR, "ELSEWHERE"])
def test_a_groups_kill_switch_is_for_who_may_use_all_its_accounts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return work(*given, **named)

    monkeypatch.setattr("ticker_service.accounts.kill_switches.asyncio.to_thread", at_once)
    scene = GroupScene()
    scope = KillScope.of(f"group:{name}")
    half = Caller(principal="half", accounts=frozenset({MAIN}))
    both = Caller(principal="both", accounts=frozenset({MAIN, SPARE}))

    async def play() -> None:
        for caller in (half, both, EVERYTHING):
            is_theirs = name == PAIR and caller is not half
            if is_theirs:
                switch, _ = await scene.front.controls.throw_kill_switch(
                    caller, scope, KillLevel.HALT_NEW, "drill"
                )
                (released,) = await scene.front.controls.release_kill_switches(caller, scope)
                assert released.switch_id == switch.switch_id
                continue
            with pytest.raises(OrderRefused, match="all yours"):
                await scene.front.controls.throw_kill_switch(
                    caller, scope, KillLevel.HALT_NEW, "drill"
                )
            if caller is not EVERYTHING:
                with pytest.raises(OrderRefused, match="all yours"):
                    await scene.front.controls.release_kill_switches(caller, scope)
        # One that stops every account here can be released here, whatever it is of.
        assert await scene.front.controls.release_kill_switches(EVERYTHING, scope) == []

    virtual_time.run(play())
