"""The daemon's own listener: alive, ready, metrics. On loopback unless told otherwise."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Response
from fastapi.responses import JSONResponse

from app.kill_names import NamesHere
from ticker_service.constants import NS_PER_US
from ticker_service.domain.egress import look_message
from ticker_service.domain.kill_switch import KillScope, switch_message
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.telemetry import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ticker_service.domain.egress import EgressLook
    from ticker_service.domain.halt import Halt
    from ticker_service.domain.kill_switch import KillSwitch
    from ticker_service.engine import Health
    from ticker_service.runtime.telemetry import Telemetry

NOBODY: Final = NamesHere(accounts=(), groups=(), contracts=lambda: None)
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def application(  # noqa: PLR0913 - what the listener shows
    health: Callable[[], Health],
    telemetry: Telemetry,
    *,
    accounts: Callable[[], Mapping[str, str]] = dict,
    halts: Callable[[], Sequence[Halt]] = tuple,
    kill_switches: Callable[[], Sequence[KillSwitch]] = tuple,
    egress: Callable[[], Sequence[EgressLook]] = tuple,
    refusals: Callable[[], Mapping[str, Any]] = dict,
    risk: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    names: NamesHere = NOBODY,
) -> FastAPI:
    """Return the routes; each answers from memory and waits for nothing.

    ``accounts`` says how each account's desk stands and ``halts`` what holds one back; an account
    that takes no orders does not make the tick half unready, and is there to be read.
    ``kill_switches`` says what people have stopped, ``egress`` from where orders leave.
    ``refusals`` says what was not published, and why; ``risk`` the limits of each account;
    ``names`` what a kill switch may be thrown on.
    """
    app = FastAPI(title="ticker-service health", docs_url=None, redoc_url=None)

    @app.get("/health/live")
    async def live() -> JSONResponse:
        """Answer 200 as long as the event loop turns."""
        return JSONResponse({"status": "live"}, headers=HEADERS)

    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        """Answer 200 when ticks are coming in and going out, 503 with the reason otherwise."""
        now = health()
        body = {
            "status": "ready" if now.is_ready else "not_ready",
            **asdict(now),
            "accounts": accounts(),
            "halts": [_halt(halt) for halt in halts()],
            "kill_switches": [switch_message(each) for each in kill_switches()],
            "egress": [look_message(each) for each in egress()],
        }
        return JSONResponse(body, status_code=200 if now.is_ready else 503, headers=HEADERS)

    @app.get("/debug/refusals")
    async def refused() -> JSONResponse:
        """Answer what was not published or published with a doubt: counts and newest samples."""
        return JSONResponse(refusals(), headers=HEADERS)

    @app.get("/debug/risk")
    async def limited() -> JSONResponse:
        """Answer each account's risk limits, what of them is in use, and the newest denials."""
        return JSONResponse({"accounts": list(risk())}, headers=HEADERS)

    @app.get("/debug/kill-scope")
    async def named(scope: Annotated[str, Query(max_length=100)]) -> JSONResponse:
        """Answer which accounts and groups there are, and whether a symbol is an instrument's."""
        try:
            told = names.told(KillScope.of(scope))
        except ConfigurationError as error:
            return JSONResponse({"message": str(error)}, status_code=422, headers=HEADERS)
        return JSONResponse(told, headers=HEADERS)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Answer every metric in the Prometheus text format."""
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE, headers=HEADERS)

    return app


def _halt(halt: Halt) -> dict[str, object]:
    return {
        "account": halt.account,
        "code": halt.code,
        "since_us": halt.since_ns // NS_PER_US,
        "until_us": None if halt.until_ns is None else halt.until_ns // NS_PER_US,
        "advice": halt.advice,
    }
