"""An order is held against its account's risk limits before it is journalled (I13)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from order_scene import ACCOUNT, BUY, Scene

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import OrderRequest, OrderType, Product, Side, to_fields
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.portfolio import BrokerPosition, PositionKey
from ticker_service.domain.risk import risk_table
from ticker_service.domain.risk_input import OrderMargin, ReferencePrice
from ticker_service.errors import (
    BrokerUnavailable,
    JournalUnavailable,
    LoginRequired,
    RiskDenied,
)
from ticker_service.orders.risk_fetch import MARGIN_WAIT_S_MAX, RiskSources

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

S = TaskState
MARKET = dataclasses.replace(
    BUY, order_type=OrderType.MARKET, price=None, market_protection=Decimal(2)
)
SELL = dataclasses.replace(BUY, transaction_type=Side.SELL)
HELD = BrokerPosition(
    key=PositionKey(BUY.exchange, BUY.tradingsymbol, BUY.product),
    quantity=75,
    overnight_quantity=75,
)


class Prices:
    """Last prices that a test sets."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.price_inr: float | None = 100.0
        self.age_s = 0.0
        self.asked = 0
        self.on_ask: Any = None

    async def fresh(
        self,
        symbols: Collection[tuple[str, str]],
        *,
        within_s: float,  # noqa: ARG002 - as the port
        with_circuit: bool = False,  # noqa: ARG002 - as the port
    ) -> Mapping[tuple[str, str], ReferencePrice]:
        self.asked += 1
        await asyncio.sleep(0.1)
        if self.on_ask is not None:
            self.on_ask()
        if self.price_inr is None:
            return {}
        at_ns = self.scene.clock.now_ns() - int(self.age_s * NS_PER_S)
        told = ReferencePrice(
            price_inr=self.price_inr, at_ns=at_ns, source="test", traded_at_ns=at_ns
        )
        return dict.fromkeys(symbols, told)


def priced(**risk: Any) -> tuple[Scene, Prices]:
    scene = Scene(risk=risk)
    prices = Prices(scene)
    scene.sources = RiskSources(prices=prices)
    scene.renew()
    return scene, prices


async def denied(scene: Scene, order: OrderRequest = BUY, **changed: Any) -> RiskDenied:
    with pytest.raises(RiskDenied) as error:
        await scene.place(order, **changed)
    return error.value


def test_of_two_orders_at_once_that_only_fit_alone_one_is_denied() -> None:
    scene = Scene(risk={"open_value_inr_max": 10_000})

    async def one() -> str:
        try:
            await scene.place()
        except RiskDenied as refusal:
            return refusal.code
        return "taken"

    async def play() -> None:
        async with scene.opened():
            async with asyncio.TaskGroup() as tasks:
                both = [tasks.create_task(one()) for _ in range(2)]
            assert sorted(task.result() for task in both) == ["RISK_OPEN_VALUE", "taken"]

    virtual_time.run(play())


def test_a_denial_names_field_value_limit_and_the_numbers_and_nothing_is_journalled() -> None:
    scene = Scene(risk={"order_quantity_max": 50})
    told: list[RiskDenied] = []
    scene.desk.risk.on_denial = lambda _, refusal: told.append(refusal)

    async def play() -> None:
        async with scene.opened():
            refusal = await denied(scene)
            assert refusal.code == "RISK_ORDER_QUANTITY"
            assert (refusal.field, refusal.value, refusal.limit) == ("order.quantity", 75, 50)
            assert refusal.version == risk_table(scene.risk).version
            assert told == [refusal]
            assert not scene.journal.tasks
            assert scene.desk.exposure.by_key() == {}

    virtual_time.run(play())


def test_a_pass_is_journalled_with_the_limits_version_and_the_numbers_used() -> None:
    scene, _ = priced(price_collar_percent=5)

    async def play() -> None:
        async with scene.opened():
            placed = await scene.place()
            event = scene.journal.events[ACCOUNT][0]
            assert event.task_id == placed.task_id
            risk = event.data["risk"]
            assert isinstance(risk, dict)
            assert risk["limits"] == scene.tables.current.version
            assert (risk["reference_inr"], risk["reference_source"]) == (100.0, "test")

    virtual_time.run(play())


def test_under_the_defaults_nothing_is_fetched_and_nothing_added_to_the_journal() -> None:
    scene, prices = priced()

    async def play() -> None:
        async with scene.opened():
            await scene.place(MARKET)
            assert not prices.asked
            assert "risk" not in scene.journal.events[ACCOUNT][0].data

    virtual_time.run(play())


@pytest.mark.parametrize("spoil", ["missing", "stale", "no number", "no source"])
def test_when_the_price_source_dies_what_needs_it_is_denied_and_cancels_go(spoil: str) -> None:
    scene, prices = priced(price_collar_percent=5)

    async def play() -> None:
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), S.WORKING)
            match spoil:
                case "missing":
                    prices.price_inr = None
                case "stale":
                    prices.age_s = 3.5
                case "no number":
                    prices.price_inr = float("nan")
                case _:
                    scene.desk.risk._from._sources = RiskSources()
            assert (await denied(scene)).code == "RISK_PRICE_COLLAR"
            with pytest.raises(RiskDenied):
                await scene.modify(resting, price="101")
            await scene.reaches(await scene.cancel(resting), S.ACKED)

    virtual_time.run(play())


def test_what_strictly_reduces_the_position_passes_rules_of_price_and_value() -> None:
    scene, prices = priced(price_collar_percent=5, order_value_inr_max=1)

    async def play() -> None:
        scene.broker.net_positions = [HELD]
        async with scene.opened():
            prices.price_inr = None
            await scene.place(SELL)
            event = scene.journal.events[ACCOUNT][0]
            assert event.data["risk"] == {
                "limits": scene.tables.current.version,
                "is_reducing": True,
                "counts_inr": "7503.75",
                "open_inr": "0",
            }
            # All of the position is being closed: one more would open another.
            assert "strictly" in (await denied(scene, SELL)).rule
            assert (await denied(scene, BUY)).code == "RISK_ORDER_VALUE"

    virtual_time.run(play())


def test_of_two_at_once_that_reduce_the_position_each_for_itself_one_is_denied() -> None:
    scene = Scene(risk={"order_value_inr_max": 1})

    async def one() -> str:
        try:
            await scene.place(SELL)
        except RiskDenied as refusal:
            return refusal.code
        return "taken"

    async def play() -> None:
        scene.broker.net_positions = [HELD]
        async with scene.opened():
            async with asyncio.TaskGroup() as tasks:
                both = [tasks.create_task(one()) for _ in range(2)]
            assert sorted(task.result() for task in both) == ["RISK_ORDER_VALUE", "taken"]

    virtual_time.run(play())


def test_what_strictly_reduces_passes_no_rule_of_size() -> None:
    scene = Scene(risk={"order_quantity_max": 50, "order_value_inr_max": 1})

    async def play() -> None:
        scene.broker.net_positions = [HELD]
        async with scene.opened():
            assert (await denied(scene, SELL)).code == "RISK_ORDER_QUANTITY"

    virtual_time.run(play())


def test_an_order_is_judged_by_one_version_also_when_they_change_under_load() -> None:
    scene, prices = priced(price_collar_percent=5)
    stricter = risk_table({"price_collar_percent": 5, "order_quantity_max": 50})

    async def play() -> None:
        async with scene.opened():
            prices.on_ask = lambda: scene.tables.take(stricter)
            refusal = await denied(scene)
            assert (refusal.code, refusal.version) == ("RISK_ORDER_QUANTITY", stricter.version)
            assert prices.asked == 2

    virtual_time.run(play())


def test_limits_that_change_while_orders_pour_in_leave_no_gap() -> None:
    scene = Scene(risk={"open_value_inr_max": 10 * 7503.75})
    lower = risk_table({"open_value_inr_max": 5 * 7503.75})
    seen: list[tuple[str, Decimal]] = []

    async def pour() -> None:
        for _ in range(6):
            with contextlib.suppress(RiskDenied):
                await scene.place()
                version = scene.journal.events[ACCOUNT][-1].data.get("risk")
                seen.append((str(version), scene.desk.exposure.total.value_inr))

    async def play() -> None:
        async with scene.opened():
            async with asyncio.TaskGroup() as tasks:
                for _ in range(5):
                    tasks.create_task(pour())
                await scene.until(lambda: scene.desk.exposure.total.quantity >= 2 * 75)
                taken = scene.desk.exposure.total.value_inr
                scene.tables.take(lower)
            assert scene.desk.exposure.total.value_inr <= max(taken, 5 * Decimal("7503.75"))
            assert (await denied(scene)).version == lower.version
            assert seen

    virtual_time.run(play())


def test_a_key_that_is_known_is_answered_whatever_the_limits_are_now() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            new = scene.new(kind=(await scene.place()).kind, body=to_fields(BUY))
            first, is_new = await scene.desk.submit(new)
            scene.tables.take(risk_table({"order_quantity_max": 1}))
            again, is_again = await scene.desk.submit(dataclasses.replace(new, task_id=new.task_id))
            assert (is_new, is_again) == (True, False)
            assert again.task_id == first.task_id

    virtual_time.run(play())


def test_the_same_order_under_another_key_is_denied_for_a_while_and_names_the_first() -> None:
    scene = Scene(risk={"duplicate_window_s": 2})

    async def play() -> None:
        async with scene.opened():
            first = await scene.place()
            refusal = await denied(scene)
            assert refusal.code == "RISK_DUPLICATE"
            assert first.client_order_id in refusal.rule
            await scene.place(dataclasses.replace(BUY, price=Decimal("100.10")))
            await asyncio.sleep(2.1)
            await scene.place()

    virtual_time.run(play())


def test_a_caller_has_so_many_orders_a_minute_and_others_have_theirs() -> None:
    scene = Scene(risk={"orders_per_minute_max": 2})

    async def play() -> None:
        async with scene.opened():
            await scene.place()
            await scene.place()
            assert (await denied(scene)).code == "RISK_ORDER_RATE"
            await scene.place(principal="other")
            await asyncio.sleep(60.1)
            await scene.place()

    virtual_time.run(play())


def test_who_takes_an_account_over_knows_the_same_order_and_names_it() -> None:
    scene = Scene(risk={"duplicate_window_s": 20})

    async def play() -> None:
        async with scene.opened():
            first = await scene.place()
            await asyncio.sleep(5)
        scene.renew()
        async with scene.opened():
            refusal = await denied(scene)
            assert refusal.code == "RISK_DUPLICATE"
            assert first.client_order_id in refusal.rule
            assert 5.0 <= float(str(refusal.numbers["age_s"])) < 15.0
            again, is_new = await scene.desk.submit(
                scene.new(
                    first.kind,
                    dict(first.body),
                    client_order_id=first.client_order_id,
                    request_id=first.request_id,
                )
            )
            assert (again.task_id, is_new) == (first.task_id, False)
            await asyncio.sleep(20)
            await scene.place()

    virtual_time.run(play())


def test_who_takes_an_account_over_counts_the_orders_of_the_minute_each_once() -> None:
    scene = Scene(risk={"orders_per_minute_max": 3})

    async def play() -> None:
        async with scene.opened():
            await scene.place()
            await scene.place()
        for _ in range(2):  # the same process again, and another one
            async with scene.opened():
                pass
            scene.renew()
        async with scene.opened():
            await scene.place()
            assert (await denied(scene)).code == "RISK_ORDER_RATE"
            await scene.place(principal="other")
            await asyncio.sleep(60.1)
            await scene.place()

    virtual_time.run(play())


def test_an_order_from_a_clock_that_was_ahead_counts_from_the_takeover() -> None:
    scene = Scene(risk={"orders_per_minute_max": 1})

    async def play() -> None:
        async with scene.opened():
            await scene.place()
        scene.set_clock(-300)
        scene.renew()
        async with scene.opened():
            assert (await denied(scene)).code == "RISK_ORDER_RATE"
            await asyncio.sleep(60.1)
            await scene.place()

    virtual_time.run(play())


def test_while_the_journal_does_not_tell_the_orders_of_before_none_is_taken() -> None:
    scene = Scene(risk={"duplicate_window_s": 20})

    async def fail(name: str) -> None:
        if name == "orders_since":
            raise JournalUnavailable(name)

    async def play() -> None:
        async with scene.opened():
            scene.journal.before = fail
            with pytest.raises(JournalUnavailable):
                await scene.place()
            assert not scene.journal.tasks
            assert scene.desk.exposure.by_key() == {}

    virtual_time.run(play())


def test_limits_that_come_into_force_later_count_what_was_taken_before_the_restart() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await scene.place()
        scene.renew()
        async with scene.opened():
            await scene.place()  # nothing looks back, and the journal is not asked
            scene.tables.take(risk_table({"orders_per_minute_max": 2}))
            assert (await denied(scene)).code == "RISK_ORDER_RATE"
            scene.tables.take(risk_table({"duplicate_window_s": 100}))
            await asyncio.sleep(70)
            assert (await denied(scene)).code == "RISK_DUPLICATE"

    virtual_time.run(play())


def test_a_symbol_that_is_banned_after_the_claim_does_not_leave() -> None:
    scene = Scene()

    async def ban(name: str) -> None:
        if name == "claim":
            scene.tables.take(risk_table({"banned_symbols": [f"NFO:{BUY.tradingsymbol}"]}))

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = ban
            placed = await scene.place()
            await scene.until(lambda: scene.now(placed).attempt == 1)
            await scene.reaches(placed, S.EXPIRED)
            assert not scene.broker.sent

    virtual_time.run(play())


def test_what_is_not_known_to_be_taken_is_reserved_until_its_deadline() -> None:
    scene = Scene(risk={"open_value_inr_max": 10_000})

    async def lose(name: str) -> None:
        if name == "admit":
            raise JournalUnavailable("the confirmation was lost")

    async def play() -> None:
        async with scene.opened():
            scene.journal.before = lose
            with pytest.raises(JournalUnavailable):
                await scene.place()
            scene.journal.before = _at_once
            assert (await denied(scene)).code == "RISK_OPEN_VALUE"
            await asyncio.sleep(scene.config.deadline_s + 2.0)
            await scene.place()

    virtual_time.run(play())


async def _at_once(_: str) -> None:
    return


def test_a_position_limit_counts_what_is_open_and_what_was_filled_since_it_was_read() -> None:
    scene = Scene(risk={"position_quantity_max": 225})

    async def play() -> None:
        async with scene.opened():
            first = await scene.reaches(await scene.place(), S.WORKING)
            await scene.place()
            await scene.place()
            assert (await denied(scene)).code == "RISK_POSITION"
            scene.broker.net_positions = []  # the broker lags behind its own fills
            order_id = scene.now(first).broker_order_id or ""
            row = scene.broker.change(order_id, status="COMPLETE", filled_quantity=75)
            scene.desk.take_update(row)
            await scene.reaches(first, S.FILLED)
            assert (await denied(scene)).code == "RISK_POSITION"

    virtual_time.run(play())


def test_positions_are_read_again_after_the_wall_clock_was_set_back() -> None:
    scene = Scene(risk={"position_quantity_max": 1_000})

    async def play() -> None:
        scene.broker.net_positions = [HELD]
        async with scene.opened():
            await scene.place()
            scene.set_clock(-3_600)
            await scene.place()

    virtual_time.run(play())


def test_holdings_are_read_again_after_the_wall_clock_was_set_back() -> None:
    scene = Scene(risk={"sell_only_holdings": True})
    shares = dataclasses.replace(SELL, exchange="NSE", tradingsymbol="INFY", product=Product.CNC)

    async def held_shares() -> Mapping[tuple[str, str], int]:
        return {("NSE", "INFY"): 1_000}

    scene.sources = RiskSources(held_shares=held_shares)
    scene.renew()

    async def play() -> None:
        async with scene.opened():
            await scene.place(shares)
            scene.set_clock(-3_600)
            await scene.place(shares)

    virtual_time.run(play())


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("open_value_inr_max", "RISK_OPEN_VALUE"),
        ("position_quantity_max", "RISK_POSITION"),
    ],
)
def test_a_change_of_an_order_whose_size_is_not_known_is_denied(limit: str, code: str) -> None:
    scene = Scene(risk={limit: 1_000_000})

    async def play() -> None:
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), S.WORKING)
            scene.desk.exposure.forget()
            with pytest.raises(RiskDenied, match="not known") as error:
                await scene.modify(resting, quantity="150")
            assert error.value.code == code

    virtual_time.run(play())


@pytest.mark.parametrize("banned_at", ["admission", "claim"])
def test_what_is_held_of_a_banned_symbol_can_be_closed_and_no_more(banned_at: str) -> None:
    scene = Scene()
    ban = risk_table({"banned_symbols": [f"NFO:{BUY.tradingsymbol}"]})

    async def ban_late(name: str) -> None:
        if name == "claim":
            scene.tables.take(ban)

    async def play() -> None:
        scene.broker.net_positions = [HELD]
        async with scene.opened():
            if banned_at == "admission":
                scene.tables.take(ban)
            else:
                scene.journal.after = ban_late
            await scene.reaches(await scene.place(SELL), S.WORKING)
            # All of it is being closed: one more would open another.
            assert (await denied(scene, SELL)).code == "RISK_BANNED"
            assert (await denied(scene, BUY)).code == "RISK_BANNED"
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


def margined(**broker: Any) -> Scene:
    scene = Scene(risk={"broker_margin": True})
    scene.sources = RiskSources(margin=scene.broker.order_margin)
    scene.broker.margin = dataclasses.replace(
        scene.broker.margin,
        total_inr=Decimal("7500.50"),
        **{"available_inr": Decimal("7500.50"), **broker},
    )
    scene.renew()
    return scene


def test_an_order_within_the_brokers_free_margin_passes_and_the_numbers_are_journalled() -> None:
    scene = margined()

    async def play() -> None:
        async with scene.opened():
            await scene.place()
            told = scene.journal.events[ACCOUNT][0].data["risk"]
            assert isinstance(told, dict)
            assert (told["margin_inr"], told["available_inr"]) == ("7500.50", "7500.50")
            assert [asked.quantity for asked in scene.broker.margins_asked] == [75]

    virtual_time.run(play())


def test_an_order_above_the_brokers_free_margin_is_denied_with_the_numbers() -> None:
    scene = margined(available_inr=Decimal("7500.49"))

    async def play() -> None:
        async with scene.opened():
            refusal = await denied(scene)
            assert (refusal.code, refusal.value, refusal.limit) == (
                *("RISK_MARGIN", "7500.50", "7500.49"),
            )
            numbers = refusal.numbers
            assert (numbers["margin_inr"], numbers["available_inr"]) == ("7500.50", "7500.49")
            assert not scene.journal.tasks
            assert not scene.broker.sent

    virtual_time.run(play())


@pytest.mark.parametrize("trouble", ["down", "token", "late", "no way to ask"])
def test_without_the_brokers_word_on_the_margin_an_order_is_denied(trouble: str) -> None:
    scene = margined()
    answer = scene.broker.order_margin

    async def margin(order: OrderRequest) -> OrderMargin:
        if trouble == "down":
            raise BrokerUnavailable("it is down")
        if trouble == "token":
            raise LoginRequired("its token was refused")
        await asyncio.sleep(MARGIN_WAIT_S_MAX + 0.1)
        return await answer(order)

    scene.sources = RiskSources(margin=None if trouble == "no way to ask" else margin)
    scene.renew()

    async def play() -> None:
        async with scene.opened():
            refusal = await denied(scene)
            assert (refusal.code, refusal.field) == ("RISK_MARGIN", "order_margin")
            assert not scene.broker.sent

    virtual_time.run(play())


@pytest.mark.parametrize("is_answered", [True, False])
def test_what_strictly_reduces_needs_no_margin_of_the_broker(is_answered: bool) -> None:  # noqa: FBT001
    scene = margined(available_inr=Decimal(0))
    if not is_answered:
        scene.sources = RiskSources()
        scene.renew()

    async def play() -> None:
        scene.broker.net_positions = [HELD]
        async with scene.opened():
            await scene.reaches(await scene.place(SELL), S.WORKING)
            # All of it is being closed: one more would open another.
            assert (await denied(scene, SELL)).code == "RISK_MARGIN"

    virtual_time.run(play())


def test_a_change_that_asks_for_more_is_weighed_by_the_largest_quantity_asked_for() -> None:
    scene = margined()

    async def play() -> None:
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), S.WORKING)
            await scene.modify(resting, quantity="150")
            await scene.modify(resting, price="99")
            await scene.modify(resting, price="101")
            # The lower price asks for no more than is counted, so nobody was asked.
            assert [asked.quantity for asked in scene.broker.margins_asked] == [75, 150, 150]

    virtual_time.run(play())


def test_orders_ask_for_their_margins_one_at_a_time_so_that_books_keep_their_turn() -> None:
    scene = margined()
    answer, under_way, most = scene.broker.order_margin, 0, 0

    async def margin(order: OrderRequest) -> OrderMargin:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        under_way -= 1
        return await answer(order)

    scene.sources = RiskSources(margin=margin)
    scene.renew()

    async def play() -> None:
        async with scene.opened():
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(scene.place())
            assert (most, len(scene.broker.margins_asked)) == (1, 3)

    virtual_time.run(play())


def test_of_orders_that_wait_in_vain_for_their_margins_none_waits_for_another() -> None:
    scene = margined()

    async def silent(_: OrderRequest) -> OrderMargin:
        await asyncio.sleep(60)
        raise AssertionError

    scene.sources = RiskSources(margin=silent)
    scene.renew()

    async def play() -> None:
        scene.broker.net_positions = [HELD]
        async with scene.opened():
            began_ns = scene.clock.monotonic_ns()
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(denied(scene))
                closing = tasks.create_task(scene.place(SELL))
            assert closing.result().body["transaction_type"] == "SELL"
            waited_s = (scene.clock.monotonic_ns() - began_ns) / NS_PER_S
            assert waited_s < 2 * MARGIN_WAIT_S_MAX

    virtual_time.run(play())
