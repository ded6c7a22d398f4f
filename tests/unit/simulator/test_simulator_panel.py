"""Who may use the panel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from ticker_service.simulator.feed import Feed
from ticker_service.simulator.ledger import Ledger
from ticker_service.simulator.order_faults import OrderFaults
from ticker_service.simulator.panel import PanelRoutes
from ticker_service.simulator.rest import application
from ticker_service.simulator.sessions import Sessions
from ticker_service.simulator.truth import TruthHistory
from ticker_service.simulator.updates import OrderUpdates

if TYPE_CHECKING:
    from ticker_service.runtime.clock import ManualClock
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.options import SimulatorOptions


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 404), ("example", 404)],
)
def test_the_panel_answers_loopback_callers_only(
    market: Market, options: SimulatorOptions, clock: ManualClock, host: str, status: int
) -> None:
    sessions = Sessions(options, clock)
    history = TruthHistory(market.catalogue, steps_max=1)
    feed = Feed(market, sessions, clock)
    updates = OrderUpdates(feed, OrderFaults(clock), clock)
    panel = PanelRoutes(feed, sessions, history, clock, updates, Ledger(clock))
    transport = httpx.ASGITransport(application(panel.routes()), client=(host, 5_000))

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://sim") as http:
            answers = [
                await http.get("/sim/truth"),
                await http.get("/sim/faults"),
                await http.get("/sim/ledger"),
                await http.delete("/sim/faults"),
                await http.post("/sim/faults", json={"fault": "kill_sockets"}),
                await http.post("/sim/message", json={"message": "hello"}),
            ]
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [status] * 6
