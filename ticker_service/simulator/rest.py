"""The REST root: all routes in one application, and every failure in Kite's envelope."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from ticker_service.simulator.envelope import KiteError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

log = structlog.get_logger(__name__)

STOP_S: Final = 1
KEEP_ALIVE_S: Final = 75
"""Longer than clients pause between requests, so that a pooled connection is not cut under them."""
REQUEST_HEAD_BYTES_MAX: Final = 128 * 1024
"""Room for 1,000 instruments in a query, which h11's own default of 64 kB does not give."""
LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""Closes with a reset instead of a farewell."""
_MESSAGES: Final = {404: "Route not found", 405: "Method not allowed"}


def application(routes: Sequence[Route]) -> Starlette:
    """Return the ASGI application of the REST root."""
    app = Starlette(
        routes=routes,
        exception_handlers={
            KiteError: _kite_error,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.router.redirect_slashes = False
    return app


class RestServer(uvicorn.Server):
    """uvicorn inside somebody else's event loop: signals are not its business."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                h11_max_incomplete_event_size=REQUEST_HEAD_BYTES_MAX,
            )
        )

    def cut(self, request: Request) -> None:
        """Reset the TCP connection that a request came over, without another byte."""
        client = request.client
        for connection in tuple(self.server_state.connections):
            transport: asyncio.Transport | None = getattr(connection, "transport", None)
            if transport is not None and getattr(connection, "client", None) == client:
                raw = transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
                transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers as they are."""
        yield


async def _kite_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, KiteError):  # pragma: no cover - Starlette hands over the right class
        raise error
    return error.response()


async def _http_error(_: Request, error: Exception) -> Response:
    status_code = error.status_code if isinstance(error, HTTPException) else 500
    message = _MESSAGES.get(status_code, "Bad request")
    return KiteError.general(status_code, message).response()


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("simulator_request_failed", path=request.url.path, exc_info=error)
    return KiteError.general(500, "Something unexpected went wrong").response()
