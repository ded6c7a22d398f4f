"""Candles, as Kite states them: ``/instruments/historical/{token}/{interval}`` (kite.md §2.8)."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.simulator import quotes, requests
from ticker_service.simulator.envelope import KiteError, success
from ticker_service.simulator.request_rates import Bucket

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ticker_service.simulator.market import Market
    from ticker_service.simulator.request_rates import RequestRates
    from ticker_service.simulator.sessions import Sessions

INTERVAL_S: Final = {
    "minute": 60,
    "3minute": 180,
    "5minute": 300,
    "10minute": 600,
    "15minute": 900,
    "30minute": 1_800,
    "60minute": 3_600,
    "day": 86_400,
}
DAYS_MAX: Final = {
    "minute": 60,
    "3minute": 100,
    "5minute": 100,
    "10minute": 100,
    "15minute": 200,
    "30minute": 200,
    "60minute": 400,
    "day": 2_000,
}
"""How long a window one call may ask for."""
_FORMATS: Final = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d")


class HistoricalRoutes:
    """What the market traded at since the simulator began, as far back as is kept."""

    def __init__(self, market: Market, sessions: Sessions, rates: RequestRates) -> None:
        self._market = market
        self._sessions = sessions
        self._rates = rates

    def routes(self) -> list[Route]:
        """Return the routes to mount at the REST root."""
        return [Route("/instruments/historical/{token}/{interval}", self._candles)]

    async def _candles(self, request: Request) -> Response:
        api_key, access_token = requests.credentials(request)
        self._rates.admit(api_key, Bucket.HISTORICAL)
        self._sessions.authorised(api_key, access_token)
        token, interval = request.path_params["token"], request.path_params["interval"]
        if interval not in INTERVAL_S:
            raise KiteError.input("invalid interval")
        row = self._market.catalogue.row_by_token.get(int(token)) if token.isdecimal() else None
        if row is None:
            raise KiteError.input("invalid token")
        from_s, to_s = _moment(request, "from"), _moment(request, "to")
        if to_s < from_s:
            raise KiteError.input("from date should be less than to date")
        if to_s - from_s > DAYS_MAX[interval] * 86_400:
            raise KiteError.input(
                f"interval exceeds max limit: {DAYS_MAX[interval]} days for {interval}"
            )
        with_oi = request.query_params.get("oi") == "1"
        candles = self._market.candles.candles(
            row, from_s=from_s, to_s=to_s, length_s=INTERVAL_S[interval]
        )
        listed = []
        for candle in candles:
            prices = (candle.open_raw, candle.high_raw, candle.low_raw, candle.close_raw)
            rupees = [quotes.scaled(self._market, row, raw) for raw in prices]
            start = session.from_instant_ns(candle.start_s * NS_PER_S)
            stamp = f"{start:%Y-%m-%dT%H:%M:%S%z}"
            listed.append([stamp, *rupees, candle.volume, *([candle.oi] if with_oi else [])])
        return success({"candles": listed})


def _moment(request: Request, name: str) -> int:
    """Return a time of India that a request names, as seconds since 1970."""
    text = request.query_params.get(name, "")
    for pattern in _FORMATS:
        try:
            naive = dt.datetime.strptime(text, pattern)  # noqa: DTZ007 - it is India's, see below
        except ValueError:
            continue
        return session.instant_ns(naive.replace(tzinfo=session.IST)) // NS_PER_S
    raise KiteError.input(f"invalid {name} date")
