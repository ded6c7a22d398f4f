"""Instruments and quote routes, as Kite answers them (kite.md §2.8)."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

from ticker_service.simulator import quotes, requests
from ticker_service.simulator.envelope import KiteError, success
from ticker_service.simulator.request_rates import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from ticker_service.simulator.market import Market
    from ticker_service.simulator.request_rates import RequestRates
    from ticker_service.simulator.sessions import Sessions

CSV: Final = "text/csv"
QUOTE_KEYS_MAX: Final = 500
SHORT_QUOTE_KEYS_MAX: Final = 1_000
ANONYMOUS: Final = ""
"""Who counts against the request rate when a caller of the dump shows no key."""


class MarketDataRoutes:
    """What the exchange lists, and what it last traded at."""

    def __init__(self, market: Market, sessions: Sessions, rates: RequestRates) -> None:
        self._market = market
        self._sessions = sessions
        self._rates = rates
        # The dump is made once a day at Kite and its prices are old by design.
        self._dumps: dict[str | None, tuple[bytes, bytes]] = {}
        self._dump_prices_inr = market.last_price_inr

    def routes(self) -> list[Route]:
        """Return the routes to mount at the REST root."""
        return [
            Route("/instruments", self._instruments),
            Route("/instruments/{exchange}", self._instruments),
            Route("/quote", self._quote),
            Route("/quote/ohlc", self._ohlc),
            Route("/quote/ltp", self._ltp),
        ]

    async def _instruments(self, request: Request) -> Response:
        self._rates.admit(_claimed_key(request), Bucket.OTHER)
        exchange: str | None = request.path_params.get("exchange")
        if exchange is not None and exchange not in self._market.catalogue.exchanges:
            raise KiteError.input("Invalid `exchange`.")
        plain, packed = self._dump(exchange)
        headers = {"content-type": CSV, "vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, headers={**headers, "content-encoding": "gzip"})
        return Response(plain, headers=headers)

    async def _quote(self, request: Request) -> Response:
        return self._answer(request, quotes.full, keys_max=QUOTE_KEYS_MAX)

    async def _ohlc(self, request: Request) -> Response:
        return self._answer(request, quotes.ohlc, keys_max=SHORT_QUOTE_KEYS_MAX)

    async def _ltp(self, request: Request) -> Response:
        return self._answer(request, quotes.ltp, keys_max=SHORT_QUOTE_KEYS_MAX)

    def _answer(
        self,
        request: Request,
        quote: Callable[[Market, int], dict[str, object]],
        *,
        keys_max: int,
    ) -> Response:
        api_key, access_token = requests.credentials(request)
        self._rates.admit(api_key, Bucket.QUOTE)
        self._sessions.authorised(api_key, access_token)
        keys = [key for key in request.query_params.getlist("i") if key]
        if not keys:
            raise KiteError.input("Missing or empty field `i`.")
        if len(keys) > keys_max:
            raise KiteError.input(f"Too many instruments: {len(keys)}, at most {keys_max}.")
        rows = {key: self._market.catalogue.row_of(key) for key in keys}
        return success(
            {key: quote(self._market, row) for key, row in rows.items() if row is not None}
        )

    def _dump(self, exchange: str | None) -> tuple[bytes, bytes]:
        if exchange not in self._dumps:
            plain = self._market.catalogue.dump(self._dump_prices_inr, exchange)
            self._dumps[exchange] = (plain, gzip.compress(plain, mtime=0))
        return self._dumps[exchange]


def _claimed_key(request: Request) -> str:
    try:
        return requests.credentials(request)[0]
    except KiteError:
        return ANONYMOUS
