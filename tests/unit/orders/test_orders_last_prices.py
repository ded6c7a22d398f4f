"""Last prices for the risk gate: by ticks, else by a quote that many share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import virtual_time
from order_scene import NOON_NS
from virtual_time import LoopClock

from ticker_service.constants import NS_PER_S
from ticker_service.domain.risk_input import ReferencePrice
from ticker_service.errors import BrokerUnavailable
from ticker_service.orders.last_prices import WAIT_S_MAX, LastPricesOf, QuoteShelf

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

INFY: Final = ("NSE", "INFY")
SBIN: Final = ("NSE", "SBIN")


class Quotes:
    """A broker that answers one request a second."""

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.asked: list[list[tuple[str, str]]] = []
        self.fails = False
        self.takes_s = 0.5

    async def quotes(
        self, symbols: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], ReferencePrice]:
        self.asked.append(list(symbols))
        at_ns = self.clock.now_ns()
        await asyncio.sleep(self.takes_s)
        if self.fails:
            raise BrokerUnavailable("told to be down")
        quote = ReferencePrice(price_inr=100.0, at_ns=at_ns, source="quote", lower_circuit_inr=90.0)
        return dict.fromkeys(symbols, quote)

    async def held_shares(self) -> Mapping[tuple[str, str], int]:
        return {}


class Stage:
    def __init__(self) -> None:
        self.clock = LoopClock(NOON_NS)
        self.quotes = Quotes(self.clock)
        self.shelf = QuoteShelf()
        self.prices = LastPricesOf(self.quotes, self.shelf, self.clock)
        self.tick_age_s: float | None = None
        self.trade_age_s = 0.0
        self.prices.tick = self._tick

    def _tick(self, _: str, __: str) -> ReferencePrice | None:
        if self.tick_age_s is None:
            return None
        at_ns = self.clock.now_ns() - int(self.tick_age_s * NS_PER_S)
        traded_at_ns = self.clock.now_ns() - int(self.trade_age_s * NS_PER_S)
        return ReferencePrice(
            price_inr=101.0, at_ns=at_ns, source="ticks", traded_at_ns=traded_at_ns
        )

    def run(self, work: Coroutine[object, object, None]) -> None:
        virtual_time.run(work)


def test_a_young_tick_needs_no_quote() -> None:
    stage = Stage()
    stage.tick_age_s = 2.9

    async def play() -> None:
        found = await stage.prices.fresh([INFY], within_s=3.0)
        assert found[INFY].source == "ticks"
        assert not stage.quotes.asked

    stage.run(play())


def test_an_old_tick_and_circuit_limits_need_one() -> None:
    stage = Stage()

    async def play() -> None:
        stage.tick_age_s = 3.1
        assert (await stage.prices.fresh([INFY], within_s=3.0))[INFY].source == "quote"
        stage.tick_age_s = 0.1
        found = await stage.prices.fresh([SBIN], within_s=3.0, with_circuit=True)
        assert found[SBIN].lower_circuit_inr == 90.0
        assert len(stage.quotes.asked) == 2

    stage.run(play())


def test_a_young_tick_of_an_old_trade_does_not_serve() -> None:
    stage = Stage()
    stage.tick_age_s, stage.trade_age_s = 0.1, 3.1

    async def play() -> None:
        assert (await stage.prices.fresh([INFY], within_s=3.0))[INFY].source == "quote"

    stage.run(play())


def test_what_several_ask_for_at_once_is_asked_for_together_and_shared_while_young() -> None:
    stage = Stage()
    other = LastPricesOf(stage.quotes, stage.shelf, stage.clock)

    async def play() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stage.prices.fresh([INFY], within_s=3.0))
            for each in (stage.prices, other, other):
                tasks.create_task(each.fresh([SBIN], within_s=3.0))
        assert [sorted(each) for each in stage.quotes.asked] == [[INFY], [SBIN]]
        await other.fresh([SBIN], within_s=3.0)
        assert len(stage.quotes.asked) == 2
        await asyncio.sleep(2.0)
        await other.fresh([SBIN], within_s=3.0)
        assert len(stage.quotes.asked) == 3

    stage.run(play())


def test_a_broker_that_fails_or_takes_too_long_leaves_the_price_missing() -> None:
    stage = Stage()

    async def play() -> None:
        stage.quotes.fails = True
        assert await stage.prices.fresh([INFY], within_s=3.0) == {}
        stage.quotes.fails = False
        stage.quotes.takes_s = 60.0
        began_ns = stage.clock.monotonic_ns()
        assert await stage.prices.fresh([INFY], within_s=3.0) == {}
        assert stage.clock.monotonic_ns() - began_ns <= (WAIT_S_MAX + 0.1) * NS_PER_S
        assert not stage.shelf.wanted

    stage.run(play())
