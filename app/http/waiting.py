"""Connections that keep the server waiting: bounded in number and in time.

uvicorn answers 503 to everybody once so many connections are open, and counts those that never say
anything. Whoever can reach the port could hold them all open with a few packets. So a connection
that owes us something, the rest of a request or a first one, has a limited time for it however
slowly its bytes drip in, and when too many are owing the oldest of them is cut off. A request that
has come in whole is nobody's debt and is never cut off to make room.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

OWING_S_MAX: Final = 10.0
"""For a whole head, and again for a whole body: a local or a trading network needs milliseconds."""
TAKING_S_MAX: Final = 30.0
"""For taking an answer; one that is not read would hold its connection for ever."""


class WaitingRoom:
    """The connections of one server that owe it something, oldest first."""

    def __init__(self, *, owing_max: int) -> None:
        self._owing_max = owing_max
        self._owing: dict[WaitingProtocol, None] = {}

    def enter(self, connection: WaitingProtocol) -> None:
        """Take a connection in, and cut the oldest off if that is one too many."""
        self._owing[connection] = None
        if len(self._owing) > self._owing_max:
            oldest = next(iter(self._owing))
            oldest.cut_off()

    def leave(self, connection: WaitingProtocol) -> None:
        """Let one go that owes nothing any more."""
        self._owing.pop(connection, None)


class WaitingProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a waiting room."""

    room: WaitingRoom

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._phase: tuple[int, object] | None = None
        self._heads = 0
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._settle()

    def data_received(self, data: bytes) -> None:
        """Read on; only the end of what was owed stops the clock, not a byte more of it."""
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._heads += 1
        self._settle()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over to what has limits of its own."""
        self._forget()
        super().handle_websocket_upgrade(event)
        self._phase = _OVER

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._forget()
        self._phase = _OVER
        super().connection_lost(exc)

    def cut_off(self) -> None:
        """End the connection without a word; its owner may come again."""
        self._forget()
        self._phase = _OVER
        self.transport.abort()

    def _settle(self) -> None:
        """See what is owed now; the same debt as before keeps its old limit."""
        phase = (self._heads, self.conn.their_state)
        if self._phase is _OVER or phase == self._phase:
            return
        self._forget()
        self._phase = phase
        is_owing = self.conn.their_state in {h11.IDLE, h11.SEND_BODY}
        limit_s = OWING_S_MAX if is_owing else TAKING_S_MAX
        self._limit = self.loop.call_later(limit_s, self.cut_off)
        if is_owing:
            self.room.enter(self)

    def _forget(self) -> None:
        self.room.leave(self)
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


_OVER: Final = (-1, None)


def protocol_of(room: WaitingRoom) -> type[WaitingProtocol]:
    """Return the protocol of a server with this waiting room."""
    return type("RoomedProtocol", (WaitingProtocol,), {"room": room})
