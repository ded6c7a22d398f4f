"""The fault panel: what it breaks, for whom, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ticker_service.constants import NS_PER_S
from ticker_service.runtime.clock import ManualClock, SystemClock
from ticker_service.simulator import Simulator, SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NIFTY = 256265
RELIANCE = 738561
BUSY = SimulatorOptions(seed=7, rate_per_s=20_000.0, enforce_rate_limits=False)


class Stage:
    """A busy simulator, two users with a socket each, and the panel."""

    def __init__(self, simulator: Simulator, http: httpx.AsyncClient) -> None:
        self.simulator = simulator
        self.http = http
        self.tokens: dict[str, str] = {}
        self.sockets: dict[str, ClientConnection] = {}

    async def fault(self, **fields: object) -> httpx.Response:
        return await self.http.post("/sim/faults", json=fields)

    async def active(self) -> dict[str, Any]:
        answer = await self.http.get("/sim/faults")
        data: dict[str, Any] = answer.json()["data"]
        return data

    async def profile(self, user_id: str) -> httpx.Response:
        key = f"token {self.simulator.options.api_key}:{self.tokens[user_id]}"
        return await self.http.get("/user/profile", headers={"Authorization": key})


def _play(
    log_in: Callable[..., str],
    feed_url: Callable[[Simulator, str], str],
    scene: Callable[[Stage], Awaitable[None]],
    clock: ManualClock | None = None,
) -> None:
    async def play() -> None:
        async with Simulator(BUSY, clock=clock) as simulator, asyncio.timeout(30):
            root = str(simulator.banner()["rest_root"])
            async with httpx.AsyncClient(base_url=root, trust_env=False) as http:
                stage = Stage(simulator, http)
                for user_id in ("AB1234", "CD5678"):
                    token = await asyncio.to_thread(log_in, simulator, user_id)
                    stage.tokens[user_id] = token
                    stage.sockets[user_id] = await connect(feed_url(simulator, token))
                    await stage.sockets[user_id].send(
                        json.dumps({"a": "mode", "v": ["full", [NIFTY, RELIANCE]]})
                    )
                    await _ticks(stage.sockets[user_id])
                await scene(stage)
                for ws in stage.sockets.values():
                    # A closing handshake would first read what the scene left unread.
                    ws.transport.abort()

    asyncio.run(play())


async def _ticks(ws: ClientConnection) -> None:
    while len(await ws.recv()) == 1:
        pass


async def _silence(ws: ClientConnection) -> None:
    """Return once a heartbeat has come: it says that nothing else did for a second."""
    while len(await ws.recv()) != 1:
        pass


async def _until_closed(ws: ClientConnection) -> ConnectionClosed:
    try:
        while True:
            await ws.recv()
    except ConnectionClosed as closed:
        return closed


def test_a_killed_socket_ends_without_a_close_frame_and_others_live(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(stage: Stage) -> None:
        answer = await stage.fault(fault="kill_sockets", user_id="AB1234")
        assert answer.json()["data"] == {"fault": "kill_sockets", "connections": 1}
        assert (await _until_closed(stage.sockets["AB1234"])).rcvd is None
        await _ticks(stage.sockets["CD5678"])
        assert (await stage.profile("AB1234")).status_code == 200

    _play(log_in, feed_url, scene)


def test_what_was_sent_last_is_on_record_byte_for_byte(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(stage: Stage) -> None:
        ws = stage.sockets["AB1234"]
        for frame in (
            {"a": "mode", "v": ["ltp", [RELIANCE]]},
            {"a": "mode", "v": ["full", [NIFTY]]},
        ):
            await ws.send(json.dumps(frame))
        received: dict[str, bytes] = {}
        while not (
            set(received) == {str(NIFTY), str(RELIANCE)} and len(received[str(RELIANCE)]) == 8
        ):
            received |= _packets(await ws.recv())
        await stage.fault(fault="mute_sockets")
        while len(frame := await ws.recv()) != 1:
            received |= _packets(frame)
        answer = await stage.http.get("/sim/sent")
        of_user = {each["user_id"]: each for each in answer.json()["data"]["connections"]}
        packets = of_user["AB1234"]["packets"]
        assert {token: base64.b64decode(packet) for token, packet in packets.items()} == received
        number = of_user["CD5678"]["connection"]
        one = (await stage.http.get("/sim/sent", params={"connection": number})).json()["data"]
        assert [each["connection"] for each in one["connections"]] == [number]

    _play(log_in, feed_url, scene)


def _packets(frame: str | bytes) -> dict[str, bytes]:
    """Return the packets of a binary frame by token."""
    assert isinstance(frame, bytes)
    packets, at = {}, 2
    while at < len(frame):
        length = int.from_bytes(frame[at : at + 2], "big")
        packet = frame[at + 2 : at + 2 + length]
        packets[str(int.from_bytes(packet[:4], "big"))] = packet
        at += 2 + length
    return packets


def test_one_socket_is_chosen_by_its_number(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(stage: Stage) -> None:
        numbers = {
            each["user_id"]: each["connection"] for each in (await stage.active())["connections"]
        }
        await stage.fault(fault="kill_sockets", connection=numbers["CD5678"])
        assert (await _until_closed(stage.sockets["CD5678"])).rcvd is None
        await _ticks(stage.sockets["AB1234"])

    _play(log_in, feed_url, scene)


def test_a_muted_socket_gets_heartbeats_only_until_it_is_unmuted(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(stage: Stage) -> None:
        ws = stage.sockets["AB1234"]
        await stage.fault(fault="mute_sockets", user_id="AB1234")
        await _silence(ws)
        (muted,) = (await stage.active())["faults"]
        assert (muted["user_id"], muted["seconds_left"]) == ("AB1234", None)
        await _ticks(stage.sockets["CD5678"])
        await stage.fault(fault="unmute_sockets")
        await _ticks(ws)
        assert (await stage.active())["faults"] == []

    _play(log_in, feed_url, scene)


def test_a_mute_with_seconds_lifts_itself(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    clock = ManualClock(SystemClock().now_ns())

    async def scene(stage: Stage) -> None:
        ws = stage.sockets["AB1234"]
        await stage.fault(fault="mute_sockets", user_id="AB1234", seconds=30)
        await _silence(ws)
        assert (await stage.active())["faults"][0]["seconds_left"] == 30.0
        clock.advance(30 * NS_PER_S)
        await _ticks(ws)

    _play(log_in, feed_url, scene, clock)


def test_an_expired_user_is_shut_out_everywhere_until_the_next_login(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(stage: Stage) -> None:
        answer = await stage.fault(fault="expire_tokens", user_id="AB1234")
        assert answer.json()["data"] == {"fault": "expire_tokens", "tokens": 1, "connections": 1}
        await _until_closed(stage.sockets["AB1234"])
        refused = await stage.profile("AB1234")
        assert (refused.status_code, refused.json()["error_type"]) == (403, "TokenException")
        with pytest.raises(InvalidStatus) as upgrade:
            await connect(feed_url(stage.simulator, stage.tokens["AB1234"]))
        assert upgrade.value.response.status_code == 403
        await _ticks(stage.sockets["CD5678"])
        token = await asyncio.to_thread(log_in, stage.simulator, "AB1234")
        async with connect(feed_url(stage.simulator, token)) as ws:
            assert await ws.recv() is not None

    _play(log_in, feed_url, scene)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"fault": "burn"},
        {"fault": ["kill_sockets"]},
        {"fault": "kill_sockets", "user_id": "ZZ0000"},
        {"fault": "kill_sockets", "user_id": 5},
        {"fault": "kill_sockets", "connection": "1"},
        {"fault": "kill_sockets", "connection": True},
        {"fault": "kill_sockets", "seconds": 5},
        {"fault": "mute_sockets", "seconds": 0},
        {"fault": "mute_sockets", "seconds": -1},
        {"fault": "mute_sockets", "seconds": "5"},
        {"fault": "mute_sockets", "seconds": True},
        {"fault": "mute_sockets", "seconds": 1e300},
        {"fault": "expire_tokens"},
        {"fault": "expire_tokens", "user_id": ""},
    ],
)
def test_an_unknown_or_unclear_fault_is_refused_and_breaks_nothing(
    log_in: Callable[..., str],
    feed_url: Callable[[Simulator, str], str],
    fields: dict[str, object],
) -> None:
    async def scene(stage: Stage) -> None:
        answer = await stage.fault(**fields)
        assert (answer.status_code, answer.json()["error_type"]) == (400, "InputException")
        assert (await stage.active())["faults"] == []
        for ws in stage.sockets.values():
            await _ticks(ws)

    _play(log_in, feed_url, scene)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 10_000])
@pytest.mark.parametrize("path", ["/sim/faults", "/sim/message"])
def test_a_body_that_is_no_json_object_is_refused(
    log_in: Callable[..., str],
    feed_url: Callable[[Simulator, str], str],
    path: str,
    body: bytes,
) -> None:
    async def scene(stage: Stage) -> None:
        answer = await stage.http.post(path, content=body)
        assert (answer.status_code, answer.json()["error_type"]) == (400, "InputException")

    _play(log_in, feed_url, scene)
