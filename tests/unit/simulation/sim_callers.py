"""Callers: they place, change and cancel, repeat themselves until they are answered, and note it."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from exactly_once import Told
from sim_world import NoAnswer

from ticker_service.domain.exit import body_of as exit_body
from ticker_service.domain.job import Basket, BasketMode, Leg, body_of
from ticker_service.domain.order import (
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    to_fields,
)
from ticker_service.errors import JournalUnavailable, OrderRefused
from ticker_service.orders.access import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sim_play import Daemon, Play

    from ticker_service.domain.exit import Exit
    from ticker_service.orders.front import FrontDesk
    from ticker_service.orders.instructions import Answer

FUTURE: Final = "NIFTY26NOVFUT"
TRIES_MAX: Final = 40
AGAIN: Final = frozenset(
    {"ACCOUNT_NOT_OPEN", "ACCOUNT_HALTED", "TOO_MANY_WAITING", "NO_ABLE_ACCOUNT"}
)


def body_text(form: Mapping[str, str]) -> str:
    """Return what a request asks for in the words in which all records are compared."""
    return " ".join(f"{name}={value}" for name, value in sorted(form.items()))


@dataclass(slots=True, kw_only=True)
class Person:
    """One caller, with keys of their own."""

    play: Play
    name: str
    told: list[Told] = field(default_factory=list)

    async def trade(self, orders: int) -> None:
        """Place some orders at any time, and what else comes to mind about each."""
        async with asyncio.TaskGroup() as wishes:
            for number in range(orders):
                wishes.create_task(self._follow(f"{self.name}-{number}"))
            if self.play.world.happens(0.4):
                wishes.create_task(self._follow_job(f"{self.name}-job"))
            if self.play.has_exits and self.play.world.happens(0.7):
                wishes.create_task(self._follow_exit(f"{self.name}-exit"))

    async def _follow(self, key: str) -> None:
        world = self.play.world
        await asyncio.sleep(world.random_s(0.0, self.play.busy_s))
        order = self._order()
        async with asyncio.TaskGroup() as at_once:
            at_once.create_task(self._place(key, order))
            if world.happens(0.3):
                world.met["key_repeated"] += 1
                at_once.create_task(self._place(key, order, after_s=world.random_s(0.0, 8.0)))
            if world.happens(0.15):
                world.met["key_in_conflict"] += 1
                other = self._order()
                at_once.create_task(self._place(key, other, after_s=world.random_s(0.0, 2.0)))
            for number in range(world.chance.choice((0, 0, 1, 1, 2))):
                at_once.create_task(self._modify(key, number))
            if world.happens(0.45):
                at_once.create_task(self._cancel(key))

    async def _follow_job(self, key: str) -> None:
        """Place a basket or a sliced order, perhaps twice, and perhaps cancel all of it."""
        world = self.play.world
        await asyncio.sleep(world.random_s(0.0, self.play.busy_s))
        is_basket = world.happens(0.7)
        world.met["basket" if is_basket else "sliced"] += 1
        basket = self._basket() if is_basket else Basket(legs=(self._leg(),))
        async with asyncio.TaskGroup() as at_once:
            at_once.create_task(self._place_job(key, basket, is_basket=is_basket))
            if world.happens(0.3):
                later_s = world.random_s(0.0, 8.0)
                at_once.create_task(
                    self._place_job(key, basket, is_basket=is_basket, after_s=later_s)
                )
            if world.happens(0.3):
                at_once.create_task(self._cancel(key))

    async def _follow_exit(self, key: str) -> None:
        """Close a position or all of them, perhaps twice, and perhaps end that."""
        world = self.play.world
        await asyncio.sleep(world.random_s(0.0, self.play.busy_s / 2))
        wanted = self.play.wish(world.chance)
        world.met["exit" if wanted.tradingsymbol else "exit_of_all"] += 1
        if world.happens(0.5):
            order = dataclasses.replace(self._leg().order, quantity=5 * world.chance.randint(1, 6))
            await self._place(f"{key}-opens", order)
            await asyncio.sleep(world.random_s(0.0, 4.0))
        async with asyncio.TaskGroup() as at_once:
            at_once.create_task(self._exit(key, wanted))
            if world.happens(0.2):
                at_once.create_task(self._exit(key, wanted, after_s=world.random_s(0.0, 8.0)))
            if world.happens(0.15):
                at_once.create_task(self._cancel(key))

    async def _exit(self, key: str, wanted: Exit, *, after_s: float = 0.0) -> None:
        names = {"account": self.play.account, "client_order_id": key, "request_id": key}
        await asyncio.sleep(after_s)
        await self._insist(
            key,
            body_text(exit_body(wanted)),
            lambda front: front.jobs.exit(self._who, wanted=wanted, **names),
        )

    async def _place_job(
        self, key: str, basket: Basket, *, is_basket: bool, after_s: float = 0.0
    ) -> None:
        names = {"account": self.play.account, "client_order_id": key, "request_id": key}
        await asyncio.sleep(after_s)
        await self._insist(
            key,
            body_text(body_of(basket)),
            lambda front: (
                front.jobs.basket(self._who, basket=basket, **names)
                if is_basket
                else front.jobs.place_sliced(self._who, order=basket.legs[0].order, **names)
            ),
        )

    def _basket(self) -> Basket:
        chance = self.play.world.chance
        legs = [
            self._leg() if chance.random() < 0.2 else Leg(order=self._order())
            for _ in range(chance.randint(2, 4))
        ]
        return Basket(
            legs=tuple(legs),
            mode=chance.choice(list(BasketMode)),
            buys_first=chance.random() < 0.4,
        )

    def _leg(self) -> Leg:
        """Return a leg that may have to be cut."""
        lots = self.play.world.chance.randint(1, 20)
        order = dataclasses.replace(
            self._order(), exchange="NFO", tradingsymbol=FUTURE, quantity=5 * lots
        )
        return Leg(order=order, slice=True)

    def _order(self) -> OrderRequest:
        chance = self.play.world.chance
        return OrderRequest(
            exchange="NSE",
            tradingsymbol="INFY",
            transaction_type=chance.choice(self.play.sides),
            order_type=OrderType.LIMIT,
            product=Product.MIS,
            quantity=chance.randint(1, 100),
            price=Decimal(chance.randint(1_900, 2_100)) / 20,
        )

    async def _place(self, key: str, order: OrderRequest, *, after_s: float = 0.0) -> None:
        whose = self.play.whose(key)
        await asyncio.sleep(after_s)
        await self._insist(
            key,
            body_text(to_fields(order)),
            lambda front: front.place(
                self._who, **whose, client_order_id=key, request_id=key, order=order
            ),
        )

    async def _modify(self, key: str, number: int) -> None:
        chance = self.play.world.chance
        await asyncio.sleep(chance.uniform(0.0, 6.0))
        change = OrderChange(price=Decimal(chance.randint(1_900, 2_100)) / 20)
        await self._insist(
            f"{key}-modify-{number}",
            body_text(to_fields(change)),
            lambda front: front.modify(
                self._who,
                client_order_id=key,
                request_id=f"{key}-modify-{number}",
                change=change,
            ),
        )

    async def _cancel(self, key: str) -> None:
        await asyncio.sleep(self.play.world.random_s(0.0, 6.0))
        await self._insist(
            f"{key}-cancel",
            body_text({}),
            lambda front: front.cancel(self._who, client_order_id=key, request_id=f"{key}-cancel"),
        )

    @property
    def _who(self) -> Caller:
        return Caller(principal=self.name, accounts="all")

    async def _insist(
        self, request_id: str, body: str, ask: Callable[[FrontDesk], Awaitable[Answer]]
    ) -> None:
        """Send a request until it is answered, or until this caller has had enough of it."""
        world = self.play.world
        for _ in range(TRIES_MAX):
            daemon = self.play.some_daemon()
            if daemon is not None and not await self._is_to_try_again(
                daemon, request_id, body, ask
            ):
                return
            if world.happens(0.03):
                world.met["caller_gave_up"] += 1
                return
            await asyncio.sleep(world.random_s(0.05, 1.5))

    async def _is_to_try_again(
        self,
        daemon: Daemon,
        request_id: str,
        body: str,
        ask: Callable[[FrontDesk], Awaitable[Answer]],
    ) -> bool:
        async def served() -> Answer:
            daemon.process.step("C0")
            return await ask(daemon.front)

        try:
            answer = await daemon.process.ask(served)
        except (NoAnswer, JournalUnavailable):
            self._note(request_id, body)
            return True
        except OrderRefused as refused:
            self._note(request_id, body, code=refused.code)
            return refused.code in {*AGAIN, "UNKNOWN_ORDER"}
        self._note(request_id, body, task_id=str(answer.task.task_id))
        # Some ask again although they were answered.
        return self.play.world.happens(0.1)

    def _note(self, request_id: str, body: str, **said: str) -> None:
        self.told.append(Told(principal=self.name, request_id=request_id, body=body, **said))
        self.play.world.tell(self.name, f"{request_id} ({body}): {said or 'no answer'}")
