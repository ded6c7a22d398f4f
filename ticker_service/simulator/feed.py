"""The WebSocket root: who may connect, and who gets what.

Path: market → [feed] → connection. Source: kite.md §1.1 and §1.8.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

import structlog
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import State

from ticker_service.simulator.connection import Connection
from ticker_service.simulator.envelope import JSON, KiteError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from websockets.asyncio.server import Server

    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.market import Changes, Market
    from ticker_service.simulator.sessions import Session, Sessions

log = structlog.get_logger(__name__)

CONNECTIONS_MAX: Final = 3
"""Per api_key, shared by all its users."""
MESSAGE_BYTES_MAX: Final = 256 * 1024
"""Ten times a subscription of 3,000 tokens; a longer message closes the socket with 1009."""
CLOSE_S: Final = 1.0
OPEN_S: Final = 10.0
QUERY_FIELDS_MAX: Final = 20
_REASONS: Final = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}


class Feed:
    """All sockets of the exchange."""

    def __init__(self, market: Market, sessions: Sessions, clock: Clock) -> None:
        self._market = market
        self._sessions = sessions
        self._clock = clock
        self._admitted: dict[ServerConnection, Session] = {}
        self._connections: dict[int, Connection] = {}
        self._opened = 0
        # Refused and broken handshakes are a client's business, not lines on our standard error.
        self._wire_log = logging.getLogger("ticker_service.simulator.feed.wire")
        self._wire_log.setLevel(logging.CRITICAL)

    def listen(self, listening: socket.socket) -> AbstractAsyncContextManager[Server]:
        """Return the server, to be entered as a context."""
        return serve(
            self._handle,
            sock=listening,
            process_request=self._admit,
            compression=None,
            # Kite's clients judge by inbound frames; nobody has to answer a ping of ours.
            ping_interval=None,
            open_timeout=OPEN_S,
            close_timeout=CLOSE_S,
            max_size=MESSAGE_BYTES_MAX,
            server_header=None,
            logger=self._wire_log,
        )

    def connections(self) -> Iterator[Connection]:
        """Yield the open sockets, oldest first."""
        yield from tuple(self._connections.values())

    def publish(self, changes: Changes) -> None:
        """Hand the market's changes to every socket."""
        for connection in self._connections.values():
            connection.note(changes)

    def broadcast_text(self, kind: str, data: object, *, user_id: str | None = None) -> int:
        """Send a text frame to every socket, or to those of one user; return how many."""
        reached = [
            each for each in self.connections() if user_id in {None, each.session.user.user_id}
        ]
        for connection in reached:
            connection.send_text(kind, data)
        return len(reached)

    def wake(self) -> None:
        """Let every socket look whether its session still lives."""
        for connection in self.connections():
            connection.wake()

    def abort(self) -> None:
        """Cut every socket, so that stopping waits for no client."""
        for connection in self.connections():
            connection.abort()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        try:
            api_key, access_token = _credentials(request.path)
            session = self._sessions.authorised(api_key, access_token)
            self._admitted = {
                each: its for each, its in self._admitted.items() if each.state is not State.CLOSED
            }
            open_count = sum(its.api_key == session.api_key for its in self._admitted.values())
            if open_count >= CONNECTIONS_MAX:
                raise KiteError.throttled()
        except KiteError as error:
            return _refusal(error)
        self._admitted[connection] = session
        return None

    async def _handle(self, socket: ServerConnection) -> None:
        session = self._admitted.get(socket)
        if session is None:
            return  # It was gone again before its turn came, and has lost its place.
        self._opened += 1
        number = self._opened
        connection = Connection(socket, session, number=number, market=self._market)
        self._connections[number] = connection
        try:
            await connection.serve(self._sessions, self._clock)
        except Exception:
            log.exception("simulator_socket_failed", connection=number)
            raise
        finally:
            del self._connections[number]
            self._admitted.pop(socket, None)


def _credentials(target: str) -> tuple[str, str]:
    parts = urlsplit(target)
    if parts.path not in {"", "/"}:
        raise KiteError.general(404, "Route not found")
    try:
        query = dict(
            parse_qsl(
                parts.query,
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=QUERY_FIELDS_MAX,
            )
        )
        return query["api_key"], query["access_token"]
    except (ValueError, KeyError):
        raise KiteError.input("Missing `api_key` or `access_token`.") from None


def _refusal(error: KiteError) -> Response:
    body = error.body()
    headers = Headers()
    headers["Content-Type"] = JSON
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    return Response(error.status_code, _REASONS[error.status_code], headers, body)
