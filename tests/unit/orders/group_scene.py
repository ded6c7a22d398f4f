"""Accounts of one group on one journal, each with a broker of its own, at virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final

from order_scene import BUY, Scene

from ticker_service.domain.account_group import AccountGroup, GroupBasis, GroupPolicy
from ticker_service.domain.order import Account, OrderTask
from ticker_service.orders.access import Caller
from ticker_service.orders.front import FrontDesk
from ticker_service.orders.group_exposure import GroupExposure
from ticker_service.orders.risk_fetch import RiskSources
from ticker_service.orders.standing import DeskState
from ticker_service.testing import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ticker_service.domain.order import OrderRequest
    from ticker_service.orders.instructions import Answer

MAIN: Final = Account("MAIN")
SPARE: Final = Account("SPARE")
THIRD: Final = Account("THIRD")
PAIR: Final = "PAIR"
EVERYTHING: Final = Caller(principal="desk", accounts="all")
_numbers = itertools.count(1)


class GroupScene:
    """Two accounts or more that stand in for each other, and the front desk before them."""

    def __init__(
        self,
        *accounts: Account,
        policy: GroupPolicy = GroupPolicy.FIRST_ABLE,
        moves_on_margin: bool = False,
        **of_scene: Any,
    ) -> None:
        self.journal = MemoryJournal()
        self.scenes = {
            account: Scene(journal=self.journal, account=account, **of_scene)
            for account in accounts or (MAIN, SPARE)
        }
        self.group = AccountGroup(
            name=PAIR,
            members=tuple(self.scenes),
            basis=GroupBasis.ONE_OWNER,
            policy=policy,
            moves_on_margin=moves_on_margin,
        )
        first = next(iter(self.scenes.values()))
        together = GroupExposure(
            [self.group],
            lambda account: self.scenes[account].desk.exposure,
            self.journal.is_writer,
        )
        for scene in self.scenes.values():
            scene.sources = RiskSources(groups=together)
            scene.renew()
        self.clock = first.clock
        self.front = FrontDesk(
            {account: scene.desk for account, scene in self.scenes.items()},
            self.journal,
            first.config,
            first.clock,
            switches=first.switches,
            groups=[self.group],
        )

    def __getitem__(self, account: Account) -> Scene:
        return self.scenes[account]

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Run the desks and wait until all take orders."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(scene.desk.run()) for scene in self.scenes.values()]
            try:
                for scene in self.scenes.values():
                    await scene.until(lambda scene=scene: scene.desk.state is DeskState.OPEN)
                yield
            finally:
                for each in running:
                    each.cancel()

    async def ask(
        self, key: str = "", order: OrderRequest = BUY, *, caller: Caller = EVERYTHING, **whose: Any
    ) -> Answer:
        """Place an order as a caller does, with the group unless told otherwise."""
        key = key or f"order-{next(_numbers)}"
        names = {"client_order_id": key, "request_id": key}
        return await self.front.place(caller, **(whose or {"group": PAIR}), **names, order=order)

    async def place(self, key: str = "", **given: Any) -> OrderTask:
        return (await self.ask(key, **given)).task

    async def until(self, condition: Any) -> None:
        await next(iter(self.scenes.values())).until(condition)
