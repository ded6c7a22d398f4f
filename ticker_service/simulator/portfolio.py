"""Portfolio and funds routes: positions, holdings, margins (kite.md §2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from ticker_service.simulator import margins, positions
from ticker_service.simulator.envelope import KiteError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ticker_service.simulator.exchange import Exchange
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.order_desk import OrderDesk


class PortfolioRoutes:
    """What the fills have come to."""

    def __init__(self, market: Market, exchange: Exchange, desk: OrderDesk) -> None:
        self._market = market
        self._exchange = exchange
        self._desk = desk

    def routes(self) -> list[Route]:
        """Return the routes to mount at the REST root."""
        return [
            Route("/portfolio/positions", self._positions, methods=["GET"]),
            Route("/portfolio/holdings", self._holdings, methods=["GET"]),
            Route("/user/margins", self._margins, methods=["GET"]),
            Route("/user/margins/{segment}", self._segment, methods=["GET"]),
        ]

    async def _positions(self, request: Request) -> Response:
        def look(user_id: str) -> object:
            held = self._exchange.account(user_id).positions.values()
            rows = [positions.position_row(self._market, each) for each in held]
            return {"net": rows, "day": rows}

        return await self._desk.look(request, look)

    async def _holdings(self, request: Request) -> Response:
        def look(user_id: str) -> object:
            account = self._exchange.account(user_id)
            return [
                positions.holding_row(
                    self._market, each, used_quantity=account.used_quantity(each.row)
                )
                for each in account.holdings
            ]

        return await self._desk.look(request, look)

    async def _margins(self, request: Request) -> Response:
        def look(user_id: str) -> object:
            account = self._exchange.account(user_id)
            return {
                segment: margins.segment_row(self._market, account, segment)
                for segment in margins.SEGMENTS
            }

        return await self._desk.look(request, look)

    async def _segment(self, request: Request) -> Response:
        def look(user_id: str) -> object:
            segment = request.path_params["segment"]
            if segment not in margins.SEGMENTS:
                raise KiteError.input("Invalid `segment`.")
            return margins.segment_row(self._market, self._exchange.account(user_id), segment)

        return await self._desk.look(request, look)
