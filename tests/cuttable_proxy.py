"""A TCP proxy before a server, to stop it, freeze it, or lose requests and answers on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing import Self

LOOPBACK: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536


class CuttableProxy:
    """Stands before the server of a URL until the block ends.

    Attributes:
        url: The server's URL by way of the proxy.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._lose_answer_to: bytes | None = None
        self.answer_lost = asyncio.Event()
        self._stop_before: bytes | None = None
        self.stopped = asyncio.Event()
        self._halve: bytes | None = None
        self.halved = asyncio.Event()

    @property
    def url(self) -> str:
        user, at, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{user}{at}{LOOPBACK}:{self._port}").geturl()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._serving:
            await asyncio.wait(self._serving)

    async def start(self) -> None:
        """Let connections through, at the same port as before."""
        self._flows.set()
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut every connection and refuse new ones, as a server that is down."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._flows.set()

    def freeze(self) -> None:
        """Pass on nothing more, without closing anything, as a server that stands still."""
        self._flows.clear()

    def thaw(self) -> None:
        """Pass on again."""
        self._flows.set()

    def lose_answer_to(self, request: bytes) -> None:
        """Pass on the next request that holds these bytes, and cut instead of its answer."""
        self._lose_answer_to = request

    def stop_before(self, request: bytes) -> None:
        """Be down as soon as a request comes that holds these bytes, without passing it on."""
        self._stop_before = request
        self.stopped.clear()

    def lead_to(self, url: str) -> None:
        """Take new connections to another server; those there are stay where they are."""
        self._target = urlsplit(url)

    def halve(self, request: bytes) -> None:
        """Pass on half of the next request that holds these bytes, and nothing more after it."""
        self._halve = request
        self.halved.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        host, port = self._target.hostname, self._target.port
        server_reader, server_writer = await asyncio.open_connection(host, port)
        ends = {writer, server_writer}
        self._writers |= ends
        cut = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._pass(reader, server_writer, cut, is_request=True))
                down = group.create_task(self._pass(server_reader, writer, cut, is_request=False))
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                up.cancel()
                down.cancel()
        finally:
            for end in ends:
                end.transport.abort()
            self._writers -= ends

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cut: asyncio.Event,
        *,
        is_request: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                if is_request and self._stop_before and self._stop_before in chunk:
                    self._stop_before = None
                    await self.stop()
                    self.stopped.set()
                    return
                if is_request and self._halve and self._halve in chunk:
                    self._halve = None
                    writer.write(chunk[: len(chunk) // 2])
                    await writer.drain()
                    self.halved.set()
                    while await reader.read(CHUNK_BYTES):
                        pass  # until whoever sends it has gone
                    return
                if is_request and self._lose_answer_to and self._lose_answer_to in chunk:
                    self._lose_answer_to = None
                    cut.set()
                elif not is_request and cut.is_set():
                    # The server has answered, so it has committed; nobody will hear of it.
                    self.answer_lost.set()
                    return
                writer.write(chunk)
                await writer.drain()
