"""Nobody but the broker is heard at the postback door, and nothing it is told is believed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from running import DEADLINE_S, Beside

from app.doors import Doors, application
from app.http import listener
from app.http.postback import RATE
from app.security.tokens import TokenVerifier
from ticker_service.accounts.kill_switches import KillSwitches
from ticker_service.config import OrdersConfig
from ticker_service.domain.order import Account
from ticker_service.orders.front import FrontDesk
from ticker_service.orders.postbacks import Postbacks
from ticker_service.runtime.clock import ManualClock, SystemClock
from ticker_service.runtime.crash_points import never
from ticker_service.testing import MemoryJournal, MemoryKillStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

WORD: Final = "a-word-of-the-tests-that-nobody-guesses"
SECRET: Final = "stand-in-api-secret"  # allow-secret
MAIN: Final = Account("MAIN")


class House:
    """The doors with a postback route, and how often a book was asked for."""

    def __init__(self, url: str, postbacks: Postbacks) -> None:
        self.url = url
        self.postbacks = postbacks

    def post(self, path: str = WORD, **request: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/postback/{path}", trust_env=False, timeout=DEADLINE_S, **request
        )


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    # Time stands still here: no allowance grows again, however slow the machine.
    clock = ManualClock(SystemClock().now_ns())
    postbacks = Postbacks({"AB1234": (MAIN, SECRET)}, {MAIN: lambda: None})
    front = FrontDesk(
        {}, MemoryJournal(), OrdersConfig(), clock, switches=KillSwitches(MemoryKillStore())
    )
    doors = Doors(
        front=front,
        verifier=TokenVerifier(b"stand-in-secret-of-thirty-two-bytes!"),  # allow-secret
        clock=clock,
        reach=never,
        postbacks=postbacks,
        postback_word=WORD,
    )
    assert WORD not in repr(doors)
    bound = listener.listen("127.0.0.1", 0)
    server = listener.Server(application(doors), bound, sockets_max=100)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.run_until_stopped())
        while not server.started:  # noqa: ASYNC110 - it does not tell
            await asyncio.sleep(0.01)
        yield House(listener.url_of(bound), postbacks)
        server.stop()
        await serving


@pytest.fixture
def door() -> Iterator[House]:
    with Beside(house) as beside:
        yield beside.part


def signed(**changed: Any) -> bytes:
    said = {"order_id": "1", "order_timestamp": "2026-11-21 10:15:00", "user_id": "AB1234"}
    said |= changed
    text = f"{said['order_id']}{said['order_timestamp']}{SECRET}"
    return json.dumps({**said, "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
def test_the_broker_is_heard_whatever_it_calls_its_body(
    door: House, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert door.post(content=signed(), headers=headers).json() == {"status": "taken"}
    assert door.post(content=signed(), headers=headers).status_code == 200
    assert door.postbacks.repeated == 1


def test_who_does_not_know_the_word_finds_no_door(door: House) -> None:
    for path in (WORD[:-1], WORD.upper(), "x", "%00", "%ff", f"{WORD}/x"):
        assert door.post(path, content=signed()).status_code == 404
    get = httpx.get(f"{door.url}/v1/postback/{WORD}", trust_env=False)
    assert get.status_code == 405
    document = httpx.get(f"{door.url}/openapi.json", trust_env=False).text
    assert "postback" not in document
    assert door.postbacks.refused == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b"\xff", 422),
        (b"[" * 10_000, 422),
        (b'{"order_id": "1", "order_id": "2"}', 422),
        (b'{"order_id": "\\ud800", "order_timestamp": "1", "checksum": "1", "user_id": "1"}', 403),
        (signed().replace(b"10:15:00", b"10:15:01"), 403),
        (signed(user_id="CD5678"), 403),
        (b" " * 16_385, 413),
    ],
)
def test_anything_else_is_refused_and_tells_nothing(door: House, body: bytes, status: int) -> None:
    answer = door.post(content=body)
    assert answer.status_code == status
    assert SECRET not in answer.text
    assert WORD not in answer.text
    assert door.postbacks.taken == {MAIN: 0}


def test_a_body_without_a_length_is_not_read(door: House) -> None:
    def parts() -> Iterator[bytes]:
        yield signed()

    assert door.post(content=parts()).status_code == 411


def test_a_flood_is_turned_away(door: House) -> None:
    with httpx.Client(trust_env=False, timeout=DEADLINE_S) as http:
        url = f"{door.url}/v1/postback/{WORD}"
        codes = [http.post(url, content=b"{}").status_code for _ in range(RATE.burst + 5)]
    assert codes == [422] * RATE.burst + [429] * 5


def test_without_a_word_there_is_no_such_route() -> None:
    doors = Doors(
        front=FrontDesk(
            {},
            MemoryJournal(),
            OrdersConfig(),
            SystemClock(),
            switches=KillSwitches(MemoryKillStore()),
        ),
        verifier=TokenVerifier(b"stand-in-secret-of-thirty-two-bytes!"),  # allow-secret
        clock=SystemClock(),
        reach=never,
    )
    paths = [getattr(route, "path", "") for route in application(doors).routes]
    assert not any("postback" in path for path in paths)
