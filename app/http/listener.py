"""A listener of the daemon: bound before anything starts, served without touching signals."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Final

import uvicorn

from app.http.waiting import WaitingRoom, protocol_of
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

BACKLOG: Final = 64
KEEP_ALIVE_S: Final = 5
CONCURRENT_REQUESTS_MAX: Final = 64
STOP_S_MAX: Final = 1
PING_S: Final = 20.0


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
            f"cannot listen on {host} port {port}: {error.strerror or error}"
        ) from error
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the root under which a bound listener is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn on a socket that is already bound, leaving signals to the daemon."""

    def __init__(
        self,
        app: FastAPI,
        listener: socket.socket,
        *,
        frame_bytes_max: int = 65_536,
        sockets_max: int = 0,
    ) -> None:
        # uvicorn counts open WebSockets too: they must not take the requests' room.
        connections_max = CONCURRENT_REQUESTS_MAX + sockets_max
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_of(WaitingRoom(owing_max=connections_max // 2)),
                ws="websockets-sansio",
                ws_max_size=frame_bytes_max,
                ws_per_message_deflate=False,
                ws_ping_interval=PING_S,
                ws_ping_timeout=PING_S,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S_MAX,
                limit_concurrency=connections_max,
            )
        )
        # uvicorn logs a traceback for each request it cannot read: whoever can connect could fill
        # the log with them.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
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
