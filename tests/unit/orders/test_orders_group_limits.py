"""What the accounts of a group have open together stays within the group's limit (I13)."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
import virtual_time
from group_scene import EVERYTHING, MAIN, PAIR, SPARE, GroupScene
from hypothesis import given, settings
from hypothesis import strategies as st
from order_scene import BUY

from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import RiskDenied
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer as BrokerAnswer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.domain.order import Account

ONE_INR: Final = BUY.quantity * (BUY.price or Decimal(0))


def limited(value_inr: Decimal, **more: Any) -> GroupScene:
    return GroupScene(risk={"groups": {PAIR: {"open_value_inr_max": value_inr}}} | more)


def play(scene: GroupScene, what: Callable[[], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with scene.opened():
            await what()

    virtual_time.run(scenario())


async def taken(scene: GroupScene, account: Account) -> str:
    """Place an order on an account, and return the code of its refusal, empty for none."""
    try:
        await scene.ask(account=account)
    except RiskDenied as refusal:
        return refusal.code
    return ""


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([MAIN, SPARE]), min_size=2, max_size=12),
    st.integers(1, 5),
)
def test_orders_at_once_on_two_accounts_never_pass_what_the_group_may_have_open(
    accounts: list[Account], room: int
) -> None:
    scene = limited(ONE_INR * room)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(taken(scene, account)) for account in accounts]
        codes = sorted(each.result() for each in asked)
        fit = min(room, len(accounts))
        assert codes == [""] * fit + ["RISK_GROUP_VALUE"] * (len(accounts) - fit)
        open_inr = sum(each.desk.exposure.total.value_inr for each in scene.scenes.values())
        assert open_inr == fit * ONE_INR

    play(scene, scenario)


def test_an_accounts_own_word_does_not_widen_the_groups() -> None:
    scene = limited(ONE_INR, accounts={MAIN: {"open_value_inr_max": "off"}})

    async def scenario() -> None:
        assert await taken(scene, MAIN) == ""
        assert await taken(scene, MAIN) == "RISK_GROUP_VALUE"
        assert await taken(scene, SPARE) == "RISK_GROUP_VALUE"

    play(scene, scenario)


def test_an_order_whose_outcome_is_unknown_takes_its_room_from_the_other_account() -> None:
    scene = limited(ONE_INR)

    async def scenario() -> None:
        reply = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")
        scene[MAIN].broker.answers.append(BrokerAnswer(reply=reply, takes_effect=False))
        order = (await scene.ask(account=MAIN)).task
        await scene[MAIN].reaches(order, TaskState.UNKNOWN)
        with pytest.raises(RiskDenied) as error:
            await scene.ask(account=SPARE)
        assert error.value.numbers["open_inr"] == f"{ONE_INR:f}"

    play(scene, scenario)


def test_an_account_that_another_daemon_writes_denies_as_its_orders_are_not_known_here() -> None:
    scene = limited(ONE_INR * 10)

    async def scenario() -> None:
        scene[SPARE].desk.exposure.is_whole = False
        with pytest.raises(RiskDenied) as error:
            await scene.ask(account=MAIN)
        assert (error.value.code, error.value.field) == ("RISK_GROUP_VALUE", "group")
        assert "PAIR: it is not known what all of its accounts have open" in error.value.rule
        assert SPARE not in error.value.rule  # who asks may not use that account
        scene[SPARE].desk.exposure.is_whole = True
        assert await taken(scene, MAIN) == ""

    play(scene, scenario)


def test_an_order_that_fails_over_keeps_its_room_and_takes_no_second_one() -> None:
    scene = limited(ONE_INR)
    main = scene[MAIN]

    async def halt(name: str) -> None:
        if name == "admit":
            main.journal.after = at_once
            main.halts.begin(HaltCode.WRONG_IP, "moved")

    async def scenario() -> None:
        main.journal.after = halt
        order = await scene.place()
        await main.reaches(order, TaskState.FAILED_OVER)
        now = await scene.front.order(EVERYTHING, order.client_order_id)
        assert now.account == SPARE
        await scene[SPARE].reaches(now, TaskState.WORKING)
        assert await taken(scene, SPARE) == "RISK_GROUP_VALUE"

    play(scene, scenario)


async def at_once(_: str) -> None:
    return
