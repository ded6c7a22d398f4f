"""A connection that owes the server something has a limited time, however slowly it pays."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI, Request, WebSocket

from app.http import listener, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LIMIT_S = 0.5
DEADLINE_S = 20.0
HEAD = b"GET /here HTTP/1.1\r\nHost: x\r\n"
BODY = b"POST /there HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"
UPGRADE = (
    b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def application(done: asyncio.Event) -> FastAPI:
    app = FastAPI()

    @app.get("/here")
    async def here() -> str:
        return "here"

    @app.post("/there")
    async def there(request: Request) -> int:
        return len(await request.body())

    @app.get("/later")
    async def later() -> str:
        await done.wait()
        return "later"

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await done.wait()
        await websocket.send_text("still here")

    return app


@contextlib.asynccontextmanager
async def serving(done: asyncio.Event) -> AsyncIterator[int]:
    bound = listener.listen("127.0.0.1", 0)
    server = listener.Server(application(done), bound)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.run_until_stopped())
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        yield bound.getsockname()[1]
        server.stop()
        await running
    bound.close()


def play(scene: Callable[[int, asyncio.Event], Awaitable[None]]) -> None:
    async def stage() -> None:
        done = asyncio.Event()
        async with serving(done) as port:
            await scene(port, done)

    asyncio.run(stage())


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "OWING_S_MAX", LIMIT_S)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has ended the connection; return whether it said anything."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65_536):
            said += part
    return bool(said)


@pytest.mark.parametrize(
    ("first", "drip"),
    [(b"", b""), (b"", b"G"), (HEAD, b"A"), (BODY, b""), (BODY, b"x")],
    ids=["silent", "a dripping line", "a dripping head", "no body", "a dripping body"],
)
def test_what_is_owed_is_owed_within_the_limit_however_it_drips(first: bytes, drip: bytes) -> None:
    async def scene(port: int, _: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)

        async def dripping() -> None:
            while drip:
                await asyncio.sleep(LIMIT_S / 10)
                writer.write(drip)

        async with asyncio.TaskGroup() as tasks:
            drops = tasks.create_task(dripping())
            began_s = asyncio.get_running_loop().time()
            assert not await ended(reader)
            assert asyncio.get_running_loop().time() - began_s >= LIMIT_S * 0.9
            drops.cancel()
        writer.close()

    play(scene)


def test_who_waits_for_an_answer_is_not_cut_off_for_those_who_owe() -> None:
    async def scene(port: int, done: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /later HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for theirs, _ in crowd:
            await ended(theirs)
        await asyncio.sleep(2 * LIMIT_S)
        done.set()
        assert b'"later"' in await reader.read()
        for _, other in (*crowd, (reader, writer)):
            other.close()

    play(scene)


def test_a_websocket_has_limits_of_its_own() -> None:
    async def scene(port: int, done: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE)
        assert b"101 Switching" in await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3 * LIMIT_S)
        done.set()
        assert b"still here" in await reader.readexactly(12)
        writer.close()

    play(scene)


def test_a_kept_connection_serves_request_after_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "OWING_S_MAX", 3.0)

    async def scene(port: int, _: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(8):
            writer.write(HEAD + b"\r\n")
            answer = await reader.readuntil(b'"here"')
            assert answer.startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.5)
        writer.close()

    play(scene)
