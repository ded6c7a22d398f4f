"""A WebSocket server that behaves as a test tells it, where a broker would be."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from socket import SO_RCVBUF, SOL_SOCKET
from socket import socket as Socket  # noqa: N812 - a connection is called socket here
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from websockets.http11 import Request, Response

HEARTBEAT: Final = b"\x00"
HEARTBEAT_S: Final = 0.2
NIFTY: Final = 256265


class KiteStandIn:
    """Accepts connections, keeps what clients ask for, and lets the test speak.

    Args:
        answer: Called for every upgrade with its number, counted from 0; returns the status code of
            a refusal, or None to accept.
        converse: Serves an accepted connection instead of sending heartbeats.
        receive_buffer_bytes: How much the system keeps of what is not read; 0 leaves it its way.
    """

    def __init__(
        self,
        *,
        answer: Callable[[int], int | None] = lambda _: None,
        converse: Callable[[ServerConnection], Awaitable[None]] | None = None,
        receive_buffer_bytes: int = 0,
    ) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        """What each connection has sent, by connection."""
        self.sockets: list[ServerConnection] = []
        self.upgrades_at_s: list[float] = []
        self.paths: list[str] = []
        """What each upgrade asked for, the query with it."""
        self.headers: dict[str, str] = {}
        """What a refusal also says."""
        self._answer = answer
        self._converse = converse or _heartbeats
        self._receive_buffer_bytes = receive_buffer_bytes
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        listening = Socket()
        if self._receive_buffer_bytes:
            listening.setsockopt(SOL_SOCKET, SO_RCVBUF, self._receive_buffer_bytes)
        listening.bind(("127.0.0.1", 0))
        self._server = await serve(
            self._handle,
            sock=listening,
            process_request=self._admit,
            compression=None,
            ping_interval=None,
            close_timeout=0.2,
            max_size=None,
        )
        self.url = f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for socket in self.sockets:
            socket.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something has been asked for that makes the condition true."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    def broadcast(self, *messages: str | bytes) -> Awaitable[None]:
        """Send to the newest connection."""

        async def send() -> None:
            for message in messages:
                await self.sockets[-1].send(message)

        return send()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        status = self._answer(len(self.upgrades_at_s))
        self.upgrades_at_s.append(asyncio.get_running_loop().time())
        self._news.set()
        if status is None:
            return None
        refusal = connection.respond(status, "refused by the test\n")
        refusal.headers.update(self.headers)
        return refusal

    async def _handle(self, socket: ServerConnection) -> None:
        asked: list[dict[str, Any]] = []
        self.requests.append(asked)
        self.sockets.append(socket)
        self._news.set()
        async with asyncio.TaskGroup() as tasks:
            talking = tasks.create_task(self._talk(socket))
            with contextlib.suppress(ConnectionClosed):
                async for message in socket:
                    asked.append(orjson.loads(message))
                    self._news.set()
            talking.cancel()

    async def _talk(self, socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._converse(socket)


async def _heartbeats(socket: ServerConnection) -> None:
    while True:
        await socket.send(HEARTBEAT)
        await asyncio.sleep(HEARTBEAT_S)


async def nothing(_: ServerConnection) -> None:
    """Say nothing at all, and stay."""
    await asyncio.Event().wait()


def frame(*packets: bytes) -> bytes:
    """Return packets as one binary message."""
    return struct.pack(">H", len(packets)) + b"".join(
        struct.pack(">H", len(packet)) + packet for packet in packets
    )


def ltp(instrument_token: int, paise: int) -> bytes:
    """Return the smallest packet: a token and its last price."""
    return struct.pack(">II", instrument_token, paise)


@contextlib.asynccontextmanager
async def raw_server(
    respond: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Serve bytes of the test's choice on the port handed out; no connection outlives the block."""
    serving: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await respond(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)


def answering(
    answer: bytes, *, then_hang: bool = False
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return a handler for ``raw_server`` that reads one request and answers with these bytes."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if not then_hang:
            # Closed in order, so that the answer is not lost behind a reset.
            writer.write_eof()
        await reader.read()

    return respond
