"""All accounts in one process: how they stop."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import virtual_time
from order_scene import Scene

from ticker_service.accounts.token_watch import TokenWatch
from ticker_service.accounts.tokens import MemoryTokens
from ticker_service.domain.order import Account
from ticker_service.orders.front import FrontDesk
from ticker_service.orders.notices import Notices
from ticker_service.orders.office import STOP_S_MAX, OrderOffice
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import ScriptedBroker

if TYPE_CHECKING:
    from collections.abc import Mapping


class StuckBroker(ScriptedBroker):
    """A gateway that does not end."""

    async def close(self) -> None:
        await asyncio.Event().wait()


class Board:
    async def post(self, notice: Mapping[str, object]) -> None:
        """Take a notice."""


def office_of(scene: Scene, *, is_stuck: bool) -> OrderOffice:
    surroundings = Surroundings(
        clock=scene.clock,
        chance=random.Random(1),  # noqa: S311 - jitter
        telemetry=Telemetry(),
    )
    kind = StuckBroker if is_stuck else ScriptedBroker
    return OrderOffice(
        FrontDesk({}, scene.journal, scene.config, scene.clock, switches=scene.switches),
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
