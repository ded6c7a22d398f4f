"""What the risk gate costs an order: under the defaults, and with every rule on.

On the path of one order, without the journal: judge and reserve, fifty orders open, ten instruments
held, prices by ticks. Nothing of it waits.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.exposure import Exposure
from ticker_service.domain.order import (
    Account,
    NewTask,
    OrderRequest,
    OrderType,
    Product,
    Side,
    TaskKind,
    to_fields,
)
from ticker_service.domain.portfolio import BrokerPosition, PositionKey
from ticker_service.domain.risk import risk_table
from ticker_service.domain.risk_input import DayResult, ReferencePrice
from ticker_service.domain.trading_hours import calendar
from ticker_service.orders.last_prices import LastPricesOf, QuoteShelf
from ticker_service.orders.positions import Reading
from ticker_service.orders.risk_fetch import RiskSources
from ticker_service.orders.risk_gate import RiskGate
from ticker_service.orders.risk_tables import RiskTables
from ticker_service.runtime.clock import SystemClock
from ticker_service.testing import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TURNS: Final = 7
ORDERS: Final = 200
OPEN_ORDERS: Final = 50
HELD: Final = 10
AGE_NS: Final = NS_PER_S // 2
"""Of what is given: old enough that none is from a time to come where the machine pauses."""
EVERY_RULE: Final = {
    "order_value_inr_max": 10**9,
    "order_quantity_max": 10_000,
    "price_collar_percent": 50,
    "duplicate_window_s": 2,
    "open_value_inr_max": 10**9,
    "position_quantity_max": 10**6,
    "orders_per_minute_max": 10_000,
    "loss_halt_inr": 10**6,
    "trading_hours": True,
    "mis_last_minutes": 5,
    "banned_symbols": ["NSE:SOMETHING"],
}
"""All that need neither a quote nor the day's instruments."""
ORDER: Final = OrderRequest(
    exchange="NSE",
    tradingsymbol="INFY",
    transaction_type=Side.BUY,
    order_type=OrderType.LIMIT,
    product=Product.MIS,
    quantity=1,
    price=Decimal("1500.05"),
)


class _Positions:
    """Positions that have just been read."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._held = [
            BrokerPosition(
                key=PositionKey("NSE", f"HELD{number}", "MIS"), quantity=1, overnight_quantity=0
            )
            for number in range(HELD)
        ]

    async def read(self) -> Reading:
        return Reading(
            began_ns=self._clock.monotonic_ns(), account_seq=0, trades=[], positions=self._held
        )


class _NoQuotes:
    async def quotes(self, _: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Any]:
        return {}

    async def held_shares(self) -> Mapping[tuple[str, str], int]:
        return {}


def measured() -> dict[str, float]:
    """Return microseconds of CPU an order, medians of several turns."""
    return {
        "gate_default_us": _median_us({}),
        "gate_every_rule_us": _median_us(EVERY_RULE),
    }


def _median_us(said: Mapping[str, object]) -> float:
    return statistics.median(asyncio.run(_turn_us(said)) for _ in range(TURNS))


async def _turn_us(said: Mapping[str, object]) -> float:
    clock, exposure = SystemClock(), Exposure()
    prices = LastPricesOf(_NoQuotes(), QuoteShelf(), clock)
    prices.tick = lambda _, __: ReferencePrice(
        price_inr=1500.0,
        at_ns=clock.now_ns() - AGE_NS,
        source="ticks",
        traded_at_ns=clock.now_ns() - AGE_NS,
    )
    sources = RiskSources(calendar=calendar(is_always_open=True), prices=prices)
    gate = RiskGate(
        Account("MAIN"),
        RiskTables(risk_table(said)),
        exposure,
        _Positions(clock),  # type: ignore[arg-type]  # reading is all that the gate asks of it
        MemoryJournal(),
        clock,
        sources=sources,
        day=lambda: DayResult(at_ns=clock.now_ns() - AGE_NS, result_inr=0.0, best_inr=0.0),
    )
    for number in range(OPEN_ORDERS):
        exposure.reserve(_new(number))
    orders = [_new(OPEN_ORDERS + number) for number in range(ORDERS)]
    await gate.judge(orders[0], None)  # reads the positions and makes its plan
    began_s = time.thread_time()
    for new in orders[1:]:
        judged = await gate.judge(new, None)
        if judged.refusal is not None:
            raise AssertionError(f"Invariant: {judged.refusal}")
    return (time.thread_time() - began_s) / (ORDERS - 1) * 1e6


def _new(number: int) -> NewTask:
    body = to_fields(ORDER) | {"price": f"{1_000 + number}"}
    key = f"bench-{number}"
    return NewTask(
        task_id=uuid.UUID(int=number + 1),
        kind=TaskKind.PLACE,
        account=Account("MAIN"),
        principal="bench",
        request_id=key,
        client_order_id=key,
        body=body,
        body_sha256=bytes(32),
        deadline_ns=0,
        received_at_ns=0,
    )
