"""A socket that stops taking events is closed, never left open and silent."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson
import virtual_time
from starlette.websockets import WebSocketState

from app.ws import orders as door
from ticker_service.domain.order import Account, OrderEvent
from ticker_service.domain.order_state import TaskState
from ticker_service.runtime.bell import Bell

if TYPE_CHECKING:
    import pytest

EVENT = OrderEvent(
    event_id=uuid.UUID(int=1),
    account=Account("MAIN"),
    account_seq=1,
    task_id=uuid.UUID(int=7),
    version=1,
    event="acked",
    event_version=1,
    at_ns=1,
    principal="desk",
    client_order_id="c-1",
    state=TaskState.ACKED,
    data={},
)


class SlowSocket:
    """A caller that subscribes, sends nothing more, and takes no event."""

    headers = {"authorization": "Bearer x"}  # noqa: RUF012 - never changed
    client_state = WebSocketState.CONNECTED

    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []
        self._frames = [orjson.dumps({"op": "subscribe", "after": {"MAIN": 0}}).decode()]

    async def accept(self) -> None:
        pass

    async def receive_text(self) -> str:
        if not self._frames:
            await asyncio.Event().wait()
        return self._frames.pop()

    async def send_text(self, text: str) -> None:
        if orjson.loads(text)["op"] == "event":
            await asyncio.Event().wait()

    async def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


class Front:
    def news_of(self, *_: object) -> asyncio.Event:
        return Bell().listen()

    async def last_seq(self, *_: object) -> int:
        return 1

    async def events(self, *_: object, **__: object) -> list[OrderEvent]:
        return [EVENT]


def test_a_caller_that_takes_no_events_is_closed_and_told_to_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "SEND_S_MAX", 3.0)
    socket = SlowSocket()
    caller = SimpleNamespace(principal="desk", expires_at_ns=3_600 * 10**9, may_use=lambda _: True)
    doors: Any = SimpleNamespace(
        clock=SimpleNamespace(now_ns=lambda: 0),
        front=Front(),
        knows=lambda _: True,
        caller_of=lambda _: caller,
        connections=SimpleNamespace(
            enter=lambda **_: SimpleNamespace(name=lambda _: True, release=lambda: None)
        ),
        reach=lambda _: None,
        count=lambda _: None,
        demand=lambda *_: None,
    )

    async def play() -> None:
        async with asyncio.timeout(60.0):
            await door.serve(socket, doors)  # type: ignore[arg-type]

    virtual_time.run(play())
    ((code, reason),) = socket.closed
    assert code == door.TRY_LATER
    assert "subscribe again" in reason
