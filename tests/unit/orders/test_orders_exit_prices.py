"""Where the broker takes no MARKET, an exit goes on by LIMIT, and says when its band is no use."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, Final

import virtual_time
from test_orders_exits import ONE, Market
from test_orders_slices import contracts

from ticker_service.domain.order import OrderTask, OrderType, TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.risk_input import ReferencePrice
from ticker_service.errors import BrokerUnavailable
from ticker_service.orders.last_prices import LastPricesOf, QuoteShelf
from ticker_service.orders.risk_fetch import RiskSources
from ticker_service.testing import Answer, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

S = TaskState
BY_LIMIT: Final = dataclasses.replace(ONE, order_type=OrderType.LIMIT)
NO_MARKET: Final = (
    "The market order was rejected since there are no trades in this instrument. "
    "Try placing a LIMIT order."
)
"""As Kite says it of a contract that has not traded today."""


class Illiquid(Market):
    """A contract whose last price is told by a quote, and which nobody trades unless told so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last_inr: float | None = 100.0
        self.circuit_inr = (50.0, 150.0)
        prices = LastPricesOf(self, QuoteShelf(), self.clock)
        self.sources = RiskSources(contracts=lambda: contracts(75), prices=prices)
        self.renew()

    async def quotes(
        self, symbols: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], ReferencePrice]:
        if self.last_inr is None:
            raise BrokerUnavailable("told to be down")
        lowest, highest = self.circuit_inr
        quote = ReferencePrice(
            price_inr=self.last_inr,
            at_ns=self.clock.now_ns(),
            source="quote",
            lower_circuit_inr=lowest,
            upper_circuit_inr=highest,
        )
        return dict.fromkeys(symbols, quote)

    async def held_shares(self) -> Mapping[tuple[str, str], int]:
        return {}

    def prices(self, job: OrderTask, kind: TaskKind = TaskKind.PLACE) -> list[str | None]:
        """Return the price of everything of a kind that was asked for an exit; None for MARKET."""
        tasks = [each for each in self.journal.tasks.values() if each.job_id == job.task_id]
        return [each.body.get("price") for each in tasks if each.kind is kind]


def play(scenario: Callable[[Illiquid], Awaitable[None]], fills: Sequence[int | None] = ()) -> None:
    async def playing() -> None:
        scene = Illiquid()
        scene.fills = list(fills)
        async with scene.opened():
            await scenario(scene)
        assert not scene.flipped

    virtual_time.run(playing())


def evidence(job: OrderTask) -> dict[str, Any]:
    told: Any = (job.facts or {})["report"]
    found: dict[str, Any] = told["1"]
    return found


def test_a_market_order_that_is_refused_is_followed_by_a_limit_at_the_end_of_the_band() -> None:
    async def scenario(scene: Illiquid) -> None:
        no = refusal(400, "InputException", NO_MARKET)
        scene.broker.answers.append(Answer(reply=no, takes_effect=False))
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        assert scene.prices(job) == [None, "98.00"]
        assert evidence(job)["refused"].endswith(NO_MARKET)

    play(scenario)


def test_its_caller_may_have_no_market_order_at_all() -> None:
    async def scenario(scene: Illiquid) -> None:
        job = await scene.ends(await scene.exit(BY_LIMIT))
        assert (job.state, scene.held) == (S.DONE, 0)
        assert scene.prices(job) == ["98.00"]

    play(scenario)


def test_what_rests_follows_the_last_price_and_stands_where_that_stands() -> None:
    async def scenario(scene: Illiquid) -> None:
        job = await scene.exit(BY_LIMIT)
        await scene.until(lambda: scene.sent(TaskKind.PLACE) == 1)
        await asyncio.sleep(20.0)
        assert not scene.sent(TaskKind.MODIFY)
        scene.last_inr = 90.0
        ended = await scene.ends(job)
        assert (ended.state, scene.held) == (S.DONE, 0)
        assert scene.prices(ended, TaskKind.MODIFY) == ["87.30"]

    play(scenario, [30, None])


def test_no_price_is_outside_the_circuit_limits_of_the_day() -> None:
    async def scenario(scene: Illiquid) -> None:
        scene.circuit_inr = (99.01, 150.0)
        job = await scene.ends(await scene.exit(BY_LIMIT))
        assert scene.prices(job) == ["99.05"]

    play(scenario)


def test_one_that_nobody_takes_at_the_end_of_the_band_is_cancelled_and_told_to_a_person() -> None:
    async def scenario(scene: Illiquid) -> None:
        job = await scene.ends(await scene.exit(BY_LIMIT))
        assert (job.state, job.reason_code) == (S.ESCALATED, "BAND_EXHAUSTED")
        assert (evidence(job)["held"], evidence(job)["filled"]) == (45, 30)
        assert "98.00, the end of 2 % round 100" in (job.reason or "")
        assert scene.prices(job) == ["98.00"]
        assert {row.status for row in scene.broker.book.values()} == {"CANCELLED"}

    play(scenario, [30, *[0] * 100])


def test_without_a_quote_nothing_is_sent_and_in_the_end_that_is_said() -> None:
    async def scenario(scene: Illiquid) -> None:
        scene.last_inr = None
        wanted = dataclasses.replace(BY_LIMIT, within_s=60)
        job = await scene.ends(await scene.exit(wanted))
        assert (job.state, job.reason_code) == (S.ESCALATED, "EXIT_TIMED_OUT")
        assert not scene.broker.sent

    play(scenario)


def test_where_the_type_was_not_the_reason_three_refusals_still_end_it() -> None:
    async def scenario(scene: Illiquid) -> None:
        no = refusal(400, "MarginException", "insufficient funds")
        scene.broker.answers.extend([Answer(reply=no, takes_effect=False)] * 9)
        job = await scene.ends(await scene.exit())
        assert (job.state, job.reason_code) == (S.ESCALATED, "REFUSED")
        assert scene.prices(job) == [None, "98.00", "98.00"]

    play(scenario)
