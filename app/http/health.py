"""The daemon's own listener: alive, ready, metrics. On loopback unless told otherwise."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from ticker_service.errors import ConfigurationError
from ticker_service.runtime.telemetry import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ticker_service.engine import Health
    from ticker_service.runtime.telemetry import Telemetry

BACKLOG: Final = 64
KEEP_ALIVE_S: Final = 5
CONCURRENT_REQUESTS_MAX: Final = 64
STOP_S_MAX: Final = 1
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def application(health: Callable[[], Health], telemetry: Telemetry) -> FastAPI:
    """Return the routes; each answers from memory and waits for nothing."""
    app = FastAPI(title="ticker-service health", docs_url=None, redoc_url=None)

    @app.get("/health/live")
    async def live() -> JSONResponse:
        """Answer 200 as long as the event loop turns."""
        return JSONResponse({"status": "live"}, headers=HEADERS)

    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        """Answer 200 when ticks are coming in and going out, 503 with the reason otherwise."""
        now = health()
        body = {"status": "ready" if now.is_ready else "not_ready", **asdict(now)}
        return JSONResponse(body, status_code=200 if now.is_ready else 503, headers=HEADERS)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Answer every metric in the Prometheus text format."""
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE, headers=HEADERS)

    return app


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything else starts, so that a taken port is a clear refusal.

    Raises:
        ConfigurationError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"health_host={host} health_port={port}: cannot listen: {error.strerror or error}"
        ) from error
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the root under which a bound listener is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn on a socket that is already bound, leaving signals to the daemon."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S_MAX,
                limit_concurrency=CONCURRENT_REQUESTS_MAX,
            )
        )
        self._listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers alone."""
        yield

    async def run_until_stopped(self) -> None:
        """Serve until ``stop`` is called."""
        await self.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Ask ``run_until_stopped`` to return once requests under way are answered."""
        self.should_exit = True
