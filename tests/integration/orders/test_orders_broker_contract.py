"""The gateway to Kite keeps the contract of its port, against the simulated exchange."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from port_contracts import BrokerGatewayContract
from running import DEADLINE_S, Exchange, exchange

from ticker_service.adapters.kite_broker import KiteBroker
from ticker_service.config import KiteConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import OrderRequest, OrderType, Product, Side, TaskKind
from ticker_service.orders import classify
from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ticker_service.ports import Reply

STILL = SimulatorOptions(seed=7, rate_per_s=0.0, enforce_rate_limits=False)


class _Kite:
    symbol = "INFY"

    def __init__(self, market: Exchange) -> None:
        self._token = market.access_token
        key = f"token {market.api_key}:{market.access_token}"
        quote: dict[str, Any] = httpx.get(
            f"{market.rest_root}/quote?i=NSE:INFY",
            headers={"Authorization": key},
            trust_env=False,
        ).json(parse_float=Decimal)["data"]["NSE:INFY"]
        self.price = str(quote["depth"]["buy"][4]["price"])
        self.price_across = str(quote["depth"]["sell"][0]["price"])
        config = KiteConfig(
            rest_root=market.rest_root, ws_root="", api_key=market.api_key, access_token=""
        )
        self.gateway = KiteBroker(
            config,
            user_id=market.user_id,
            clock=SystemClock(),
            access_token=lambda: self._token,
        )

    def fill(self, order_id: str) -> None:
        """Do nothing: the market is quoted there."""

    def refuse_token(self) -> None:
        self._token = "stale"


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    """A market that stands still, shared by the contract's tests."""
    with exchange(STILL) as running:
        yield running


class TestKiteBroker(BrokerGatewayContract):
    @pytest.fixture(autouse=True)
    def _market(self, market: Exchange) -> None:
        self.running = market

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Kite]:
        kite = _Kite(self.running)
        try:
            yield kite
        finally:
            await kite.gateway.close()


@pytest.mark.parametrize(("side", "code"), [(Side.BUY, "MARGIN"), (Side.SELL, "HOLDINGS")])
def test_what_lacks_funds_or_shares_is_refused_and_not_in_doubt(
    market: Exchange, side: Side, code: str
) -> None:
    """Kite's words for it send the reader to the order book, as those for a time-out do."""
    kite = _Kite(market)
    order = OrderRequest(
        exchange="NSE",
        tradingsymbol=kite.symbol,
        transaction_type=side,
        order_type=OrderType.LIMIT,
        product=Product.CNC,
        quantity=100_000,
        price=Decimal(kite.price),
    )
    deadline_ns = SystemClock().monotonic_ns() + int(DEADLINE_S * NS_PER_S)

    async def place() -> Reply:
        try:
            return await kite.gateway.place(order, tag="T0FVNDS", deadline_ns=deadline_ns)
        finally:
            await kite.gateway.close()

    verdict = classify.judge(TaskKind.PLACE, asyncio.run(place()))
    assert (verdict.outcome, verdict.code) == (classify.Outcome.REJECTED, code), verdict
    assert "orderbook" in verdict.message
