"""All accounts in one process: how they stop, and what halts one of them from outside."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import TYPE_CHECKING

import pytest
import virtual_time
from order_scene import ACCOUNT, Scene

from ticker_service.accounts.token_watch import TokenWatch
from ticker_service.accounts.tokens import MemoryTokens
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.journal_audit import FaultCode, JournalFault
from ticker_service.domain.order import Account
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import OrderRefused
from ticker_service.orders.front import FrontDesk
from ticker_service.orders.notices import Notices
from ticker_service.orders.office import STOP_S_MAX, OrderOffice
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import ScriptedBroker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.orders.desk import AccountDesk


class StuckBroker(ScriptedBroker):
    """A gateway that does not end."""

    async def close(self) -> None:
        await asyncio.Event().wait()


class Board:
    async def post(self, notice: Mapping[str, object]) -> None:
        """Take a notice."""


def office_of(
    scene: Scene, *, is_stuck: bool = False, desks: Mapping[Account, AccountDesk] | None = None
) -> OrderOffice:
    surroundings = Surroundings(
        clock=scene.clock,
        chance=random.Random(1),  # noqa: S311 - jitter
        telemetry=Telemetry(),
    )
    kind = StuckBroker if is_stuck else ScriptedBroker
    return OrderOffice(
        FrontDesk(desks or {}, scene.journal, scene.config, scene.clock, switches=scene.switches),
        journal=scene.journal,
        gateways={Account(f"A{n}"): kind(scene.clock) for n in range(20)},
        tokens=TokenWatch([], MemoryTokens(scene.clock), given={}, clock=scene.clock),
        events=scene.sink,
        notices=Notices(Board(), surroundings),
        switches=scene.switches,
        cancel_all={},
        surroundings=surroundings,
    )


def test_many_accounts_that_do_not_end_are_given_up_in_one_limit() -> None:
    scene = Scene()

    async def play() -> None:
        stop = asyncio.Event()
        stop.set()
        began_s = asyncio.get_running_loop().time()
        await office_of(scene, is_stuck=True).run(stop)
        assert asyncio.get_running_loop().time() - began_s <= STOP_S_MAX + 0.1

    virtual_time.run(play())


def test_everything_is_given_back_once() -> None:
    scene = Scene()

    async def play() -> None:
        office = office_of(scene, is_stuck=False)
        stop = asyncio.Event()
        stop.set()
        await office.run(stop)
        await office.close()
        assert scene.journal.is_closed
        assert scene.sink.closed == 1

    virtual_time.run(play())


def test_an_account_whose_journal_disagrees_with_itself_is_halted_until_a_person_lifts_it() -> None:
    scene = Scene()
    fault = JournalFault(
        code=FaultCode.TASK_DIFFERS,
        account=ACCOUNT,
        where="task a version 4",
        field="filled_quantity",
        told="75",
        found="0",
    )

    async def play() -> None:
        office = office_of(scene, desks={ACCOUNT: scene.desk})
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), TaskState.WORKING)
            office.journal_disagrees(dataclasses.replace(fault, account=Account("OTHER")))
            assert office.halts() == []
            office.journal_disagrees(fault)
            office.journal_disagrees(fault)
            (halt,) = office.halts()
            assert (halt.code, halt.until_ns) == (HaltCode.JOURNAL_FAULT, None)
            assert "task a version 4 filled_quantity" in halt.reason
            assert "journal verify" in halt.advice
            with pytest.raises(OrderRefused, match="JOURNAL_FAULT"):
                await scene.place()
            await scene.reaches(await scene.cancel(resting), TaskState.ACKED)
            await asyncio.sleep(2.0)
            await scene.journal.lift_halts(ACCOUNT, by_whom="x", now_ns=scene.clock.now_ns())
            await scene.until(lambda: not office.halts(), within_s=5)
            await scene.reaches(await scene.place(), TaskState.WORKING)

    virtual_time.run(play())
