"""Orders against the day's instruments: steps, lots, freeze quantities; and days without them."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
import virtual_time
from order_scene import ACCOUNT, BUY, Scene
from small_exchange import EXPIRIES, future, index, option, share, table_of

from ticker_service.domain import session
from ticker_service.domain.contracts import Contracts
from ticker_service.domain.order import OrderChange, OrderRequest, Product
from ticker_service.errors import BrokerUnavailable, OrderRefused
from ticker_service.orders import admit
from ticker_service.orders.access import Caller
from ticker_service.orders.contract_watch import RETRY, ContractWatch
from ticker_service.orders.front import FrontDesk
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.domain.instrument import InstrumentTable

USDINR: Final = future(9, "USDINR", EXPIRIES[0], "CDS") | {"price_step": 0.0025, "lot_size": 7}
DUMP: Final = table_of(
    [
        *(index(1, "NIFTY 50"), share(2, "INFY"), USDINR),
        option(3, "NIFTY", EXPIRIES[0], 24_000.0, "CE"),
    ]
)
LISTED: Final = Contracts.of(DUMP, fetched_at_ns=0)
FREEZE: Final = {"NIFTY": 1_800}
CALL: Final = dataclasses.replace(
    BUY, tradingsymbol="NIFTY26112324000CE", quantity=65, price=Decimal("100.05")
)
SHARE: Final = dataclasses.replace(
    CALL, exchange="NSE", tradingsymbol="INFY", product=Product.CNC, quantity=1
)
DOLLAR: Final = dataclasses.replace(
    CALL, exchange="CDS", tradingsymbol="USDINR26NOVFUT", price=Decimal("89.0025"), quantity=1
)


@pytest.mark.parametrize(
    "order",
    [
        *(CALL, SHARE, DOLLAR),
        dataclasses.replace(CALL, quantity=65 * 27),
        dataclasses.replace(CALL, price=Decimal("100.050")),
        dataclasses.replace(SHARE, quantity=100_001),
    ],
)
def test_a_right_order_of_a_listed_contract_is_let_through(order: OrderRequest) -> None:
    admit.check_listed(order, LISTED, FREEZE)


@pytest.mark.parametrize(
    ("order", "field", "value", "rule"),
    [
        (CALL, "tradingsymbol", "NIFTY26112324000PE", "one of the 4 instruments of"),
        (SHARE, "tradingsymbol", "NIFTY 50", "this is an index"),
        (CALL, "quantity", 75, "whole lots of 65: 65 or 130"),
        (CALL, "quantity", 1, "whole lots of 65: 65"),
        (CALL, "quantity", 65 * 28, "at most 1800, the freeze quantity of NIFTY"),
        (CALL, "price", Decimal("100.07"), "price step 0.05: 100.05 or 100.10"),
        (CALL, "price", Decimal("0.01"), "price step 0.05: 0.05"),
        (CALL, "trigger_price", Decimal("100.01"), "price step 0.05: 100.00 or 100.05"),
        (DOLLAR, "price", Decimal("89.001"), "price step 0.0025: 89.0000 or 89.0025"),
    ],
)
def test_a_wrong_one_is_refused_with_field_value_rule_and_what_would_do(
    order: OrderRequest, field: str, value: Any, rule: str
) -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.check_listed(dataclasses.replace(order, **{field: value}), LISTED, FREEZE)
    error = refused.value
    assert (error.code, error.field, error.value) == ("INVALID_FIELD", f"order.{field}", value)
    assert rule in error.rule


@pytest.mark.parametrize(
    ("field", "value"),
    [("quantity", 66), ("quantity", 65 * 28), ("price", Decimal("1.01"))],
)
def test_a_change_keeps_to_step_and_lots(field: str, value: Any) -> None:
    change = OrderChange(**{field: value})
    with pytest.raises(OrderRefused) as refused:
        admit.check_change_listed(change, CALL, LISTED, FREEZE)
    assert refused.value.field == f"order.{field}"
    delisted = dataclasses.replace(CALL, tradingsymbol="NIFTY26112399999CE")
    admit.check_change_listed(change, delisted, LISTED, FREEZE)


class Catalog:
    """Dumps to hand out; an error is raised instead."""

    def __init__(self, *answers: InstrumentTable | Exception) -> None:
        self.answers = list(answers)
        self.asked_s: list[float] = []

    async def fetch(self) -> InstrumentTable:
        self.asked_s.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do on the spot what a thread would do: virtual time cannot wait for one."""

    async def at_once(work: Callable[..., object], *given: object, **named: object) -> object:
        return work(*given, **named)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


def watch_of(scene: Scene, catalog: Catalog) -> ContractWatch:
    chance = random.Random(1)  # noqa: S311 - jitter
    surroundings = Surroundings(clock=scene.clock, chance=chance, telemetry=Telemetry())
    return ContractWatch(catalog, surroundings)


def at(scene: Scene, hour: int, minute: int) -> float:
    """Return the seconds from a scene's beginning, a Saturday noon, to the next such time."""
    noon = session.from_instant_ns(scene.clock._start_ns)
    then = dt.datetime.combine(noon.date() + dt.timedelta(days=1), dt.time(hour, minute))
    return (then - noon.replace(tzinfo=None)).total_seconds()


def test_a_dump_is_fetched_once_a_day_and_again_while_it_is_missing() -> None:
    scene = Scene()
    catalog = Catalog(DUMP, BrokerUnavailable("away"), DUMP)
    watch = watch_of(scene, catalog)

    async def play() -> None:
        renewed_s = at(scene, 8, 35)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(watch.run())
            await asyncio.sleep(renewed_s - 1.0)
            assert (watch.current() is not None, watch.count()) == (True, 4.0)
            await asyncio.sleep(1.5)
            assert (watch.current(), watch.count()) == (None, 0.0)
            await asyncio.sleep(30.0 + RETRY.delay_s_min)
            assert watch.current() is not None
            running.cancel()
        assert catalog.asked_s[0] == 0.0
        assert renewed_s <= catalog.asked_s[1] <= renewed_s + 10.0
        assert len(catalog.asked_s) == 3

    virtual_time.run(play())


def test_a_dump_of_before_nine_may_be_yesterdays_and_is_fetched_once_more() -> None:
    """Or what is listed today would be refused all day, because Kite was late by minutes."""
    scene = Scene()
    listed_today = option(5, "NIFTY", EXPIRIES[0], 26_000.0, "CE")
    late = table_of([index(1, "NIFTY 50"), listed_today])
    catalog = Catalog(DUMP, DUMP, BrokerUnavailable("away"), late)
    watch = watch_of(scene, catalog)

    async def play() -> None:
        nine_s = at(scene, 9, 0)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(watch.run())
            await asyncio.sleep(nine_s - 1.0)
            assert watch.count() == 4.0
            await asyncio.sleep(60.0)
            assert watch.count() == 2.0
            await asyncio.sleep(3600.0)
            running.cancel()
        assert len(catalog.asked_s) == 4

    virtual_time.run(play())


def test_without_the_days_dump_orders_go_to_the_broker_unchecked_by_it() -> None:
    scene = Scene()
    watch = watch_of(scene, Catalog())
    caller = Caller(principal="desk", accounts="all")
    wrong = dataclasses.replace(CALL, quantity=1)

    async def play() -> None:
        front = FrontDesk(
            {ACCOUNT: scene.desk},
            scene.journal,
            scene.config,
            scene.clock,
            switches=scene.switches,
            contracts=watch.current,
        )

        async def ask(key: str) -> bool:
            names = {"account": ACCOUNT, "client_order_id": key, "request_id": key}
            return (await front.place(caller, **names, order=wrong)).is_new

        async with scene.opened():
            assert await ask("before")
            await watch.take(DUMP)
            with pytest.raises(OrderRefused, match="whole lots of 65"):
                await ask("now")
            # What was taken stands, whatever the rules say since (I2).
            assert not await ask("before")
            scene.set_clock(at(scene, 8, 35))
            assert await ask("next day")

    virtual_time.run(play())
