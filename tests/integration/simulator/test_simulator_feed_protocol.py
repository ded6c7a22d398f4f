"""The WebSocket root, spoken to by a client that is not Kite's."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ticker_service.constants import NS_PER_S, SECONDS_PER_DAY
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import ManualClock, SystemClock
from ticker_service.simulator import Simulator, SimulatorOptions, connection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conftest import RunningSimulator

NIFTY = 256265
RELIANCE = 738561
PATIENCE_S = 10.0
STILL = SimulatorOptions(seed=7, rate_per_s=0.0, enforce_rate_limits=False)


def _run(
    options: SimulatorOptions,
    scene: Callable[[Simulator], Awaitable[None]],
    clock: ManualClock | None = None,
) -> None:
    async def play() -> None:
        async with Simulator(options, clock=clock) as simulator, asyncio.timeout(3 * PATIENCE_S):
            await scene(simulator)

    asyncio.run(play())


async def _next_text(ws: ClientConnection) -> dict[str, Any]:
    async for frame in ws:
        if isinstance(frame, str):
            return json.loads(frame)
    raise AssertionError("the socket closed without a text")


async def _next_ticks(ws: ClientConnection) -> dict[int, bytes]:
    async for frame in ws:
        if isinstance(frame, bytes) and len(frame) > 1:
            return _packets(frame)
    raise AssertionError("the socket closed without ticks")


def _packets(frame: bytes) -> dict[int, bytes]:
    packets, at = {}, 2
    for _ in range(struct.unpack_from(">H", frame)[0]):
        (length,) = struct.unpack_from(">H", frame, at)
        packet = frame[at + 2 : at + 2 + length]
        packets[struct.unpack_from(">I", packet)[0]] = packet
        at += 2 + length
    assert at == len(frame)
    return packets


async def _drain(ws: ClientConnection) -> None:
    while True:
        await ws.recv()


async def _ask(ws: ClientConnection, action: str, value: object) -> None:
    await ws.send(json.dumps({"a": action, "v": value}))


async def _login(simulator: Simulator, log_in: Callable[..., str], *users: str) -> str:
    return await asyncio.to_thread(log_in, simulator, *users)


def test_a_subscription_is_answered_at_once_with_the_cached_tick(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            await _ask(ws, "subscribe", [NIFTY, RELIANCE])
            ticks = await _next_ticks(ws)
            assert {token: len(packet) for token, packet in ticks.items()} == {
                NIFTY: 28,
                RELIANCE: 44,
            }
            await _ask(ws, "mode", ["full", [RELIANCE]])
            assert {len(each) for each in (await _next_ticks(ws)).values()} == {184}

    _run(STILL, scene)


def test_without_news_there_is_a_one_byte_heartbeat(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            frames = [await ws.recv() for _ in range(3)]
            assert [len(frame) for frame in frames] == [1, 1, 1]

    _run(STILL, scene)


def test_only_subscribed_rows_come_and_only_when_they_change(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            await _ask(ws, "mode", ["ltp", [NIFTY]])
            seen = [struct.unpack(">II", (await _next_ticks(ws))[NIFTY]) for _ in range(5)]
            assert all(before != after for before, after in itertools.pairwise(seen))

    _run(SimulatorOptions(seed=7, rate_per_s=20_000.0, enforce_rate_limits=False), scene)


def test_an_unsubscribed_token_falls_silent(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            await _ask(ws, "subscribe", [NIFTY, RELIANCE])
            await _ask(ws, "unsubscribe", [NIFTY])
            await _ask(ws, "no such action", [])
            await _next_text(ws)  # The server has worked through all three requests.
            for _ in range(10):
                assert set(await _next_ticks(ws)) == {RELIANCE}

    _run(SimulatorOptions(seed=7, rate_per_s=20_000.0, enforce_rate_limits=False), scene)


@pytest.mark.parametrize(
    "frame", ["junk", "[]", '{"a":"x","v":[]}', '{"a":"mode","v":["x",[1]]}', b"\x00\x01", ""]
)
def test_a_bad_request_is_answered_with_an_error_text_and_the_socket_lives(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str], frame: str | bytes
) -> None:
    async def scene(simulator: Simulator) -> None:
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            await ws.send(frame)
            answer = await _next_text(ws)
            assert answer["type"] == "error"
            assert isinstance(answer["data"], str)
            await _ask(ws, "subscribe", [NIFTY])
            assert await _next_ticks(ws)

    _run(STILL, scene)


def test_tokens_beyond_three_thousand_are_refused_in_words(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    options = SimulatorOptions(
        seed=7, rate_per_s=0.0, strikes_each_side=100, enforce_rate_limits=False
    )

    async def scene(simulator: Simulator) -> None:
        tokens = simulator.market.catalogue.instrument_token.tolist()
        assert len(tokens) > 3_100
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            await _ask(ws, "subscribe", tokens)
            assert "3000" in (await _next_text(ws))["data"]
            got: dict[int, bytes] = {}
            while len(got) < 3_000:
                got |= await _next_ticks(ws)
            assert len(got) == 3_000

    _run(options, scene)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("api_key={key}&access_token=wrong", 403),
        ("api_key=wrong&access_token={token}", 403),
        ("api_key=&access_token=", 403),
        ("api_key={key}", 400),
        ("access_token={token}", 400),
        ("", 400),
        ("api_key={key}&access_token=%ff", 400),
        ("nonsense", 400),
    ],
)
def test_an_upgrade_without_a_live_session_is_refused(
    log_in: Callable[..., str], query: str, status: int
) -> None:
    async def scene(simulator: Simulator) -> None:
        token = await _login(simulator, log_in)
        text = query.format(key=simulator.options.api_key, token=token)
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{simulator.banner()['ws_root']}/?{text}")
        response = refused.value.response
        assert response.status_code == status
        assert json.loads(response.body)["status"] == "error"

    _run(STILL, scene)


def test_a_fourth_connection_of_an_application_is_refused_until_one_leaves(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        mine = feed_url(simulator, await _login(simulator, log_in))
        theirs = feed_url(simulator, await _login(simulator, log_in, "CD5678"))
        async with connect(mine), connect(mine):
            async with connect(theirs):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(theirs)
                assert refused.value.response.status_code == 429
            async with connect(theirs) as ws:
                assert await ws.recv() is not None

    _run(STILL, scene)


def test_handshakes_that_never_finish_hold_no_place(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        url = feed_url(simulator, await _login(simulator, log_in))
        parts = urlsplit(url)
        for _ in range(5):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            request = f"GET /?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n"
            writer.write(request.encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        async with connect(url), connect(url), connect(url) as ws:
            assert await ws.recv() is not None

    _run(STILL, scene)


def test_no_compression_is_agreed_even_when_offered(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        url = feed_url(simulator, await _login(simulator, log_in))
        async with connect(url, compression="deflate") as ws:
            assert ws.response is not None
            assert "Sec-WebSocket-Extensions" not in ws.response.headers

    _run(STILL, scene)


def test_a_huge_message_closes_that_socket_with_1009_and_no_other(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        url = feed_url(simulator, await _login(simulator, log_in))
        async with connect(url) as big, connect(url) as other:
            await big.send("x" * 1_000_000)
            with pytest.raises(ConnectionClosed) as closed:
                await _next_text(big)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
            await _ask(other, "subscribe", [NIFTY])
            assert await _next_ticks(other)

    _run(STILL, scene)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x00\x00\x00",
        b"\xff" * 64,
        b"\x81\x05hello",  # A client's frame without a mask.
        b"\x83\x80\x00\x00\x00\x00",  # A reserved opcode.
        b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81\x82\x00\x00\x00\x00\xc3\x28",  # Text that is not UTF-8.
    ],
)
def test_malformed_frames_end_that_socket_and_no_other(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str], junk: bytes
) -> None:
    async def scene(simulator: Simulator) -> None:
        url = feed_url(simulator, await _login(simulator, log_in))
        async with connect(url) as broken, connect(url) as other:
            broken.transport.write(junk)
            with pytest.raises(ConnectionClosed):
                await _drain(broken)
            await _ask(other, "subscribe", [NIFTY])
            assert await _next_ticks(other)

    _run(STILL, scene)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_whatever_is_no_upgrade_does_not_disturb_the_server(
    log_in: Callable[..., str],
    feed_url: Callable[[Simulator, str], str],
    request_bytes: bytes,
) -> None:
    async def scene(simulator: Simulator) -> None:
        url = feed_url(simulator, await _login(simulator, log_in))
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request_bytes)
        writer.write_eof()
        answer = await reader.read()
        assert b" 101 " not in answer
        writer.close()
        await writer.wait_closed()
        async with connect(url) as ws:
            assert await ws.recv() is not None

    _run(STILL, scene)


def test_a_reader_that_stops_reading_holds_no_queue_and_hinders_nobody(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        tokens = simulator.market.catalogue.instrument_token.tolist()
        url = feed_url(simulator, await _login(simulator, log_in))
        async with connect(url) as slow, connect(url) as quick:
            await _ask(slow, "mode", ["full", tokens])
            await _next_ticks(slow)
            slow.transport.pause_reading()
            await _ask(quick, "mode", ["full", tokens])
            for _ in range(300):
                simulator.step()
                await _next_ticks(quick)
            waiting = [each.transport.get_write_buffer_size() for each in simulator.feed._admitted]
            assert max(waiting) < 500_000
            slow.transport.resume_reading()
            assert await _next_ticks(slow)
            # A closing handshake would first read all that waits.
            slow.transport.abort()
            quick.transport.abort()

    _run(SimulatorOptions(seed=7, rate_per_s=40_000.0, enforce_rate_limits=False), scene)


def test_a_reader_that_takes_nothing_for_too_long_is_cut_off(
    log_in: Callable[..., str],
    feed_url: Callable[[Simulator, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "STALLED_S", 0.2)

    async def scene(simulator: Simulator) -> None:
        tokens = simulator.market.catalogue.instrument_token.tolist()
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            await _ask(ws, "mode", ["full", tokens])
            await _next_ticks(ws)
            ws.transport.pause_reading()
            (server_side,) = simulator.feed._admitted
            await server_side.wait_closed()
            assert list(simulator.feed.connections()) == []

    _run(SimulatorOptions(seed=7, rate_per_s=40_000.0, enforce_rate_limits=False), scene)


def test_texts_that_pile_up_beyond_the_limit_cut_the_socket_off(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        async with connect(feed_url(simulator, await _login(simulator, log_in))) as ws:
            await ws.recv()
            (open_socket,) = simulator.feed.connections()
            open_socket.mute_until(None)
            for number in range(connection.TEXTS_MAX + 1):
                simulator.feed.broadcast_text("message", str(number))
            with pytest.raises(ConnectionClosed) as closed:
                await _drain(ws)
            assert closed.value.rcvd is None

    _run(STILL, scene)


def test_a_port_that_is_taken_is_refused_at_start() -> None:
    async def play() -> None:
        async with Simulator(STILL) as simulator:
            port = urlsplit(str(simulator.banner()["ws_root"])).port
            taken = SimulatorOptions(seed=7, ws_port=port or 0)
            with pytest.raises(ConfigurationError, match="in use"):
                await Simulator(taken).__aenter__()

    asyncio.run(play())


def test_a_broker_message_reaches_every_socket_or_one_users(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def scene(simulator: Simulator) -> None:
        mine = feed_url(simulator, await _login(simulator, log_in))
        theirs = feed_url(simulator, await _login(simulator, log_in, "CD5678"))
        panel = f"{simulator.banner()['rest_root']}/sim/message"
        async with (
            httpx.AsyncClient(trust_env=False) as http,
            connect(mine) as first,
            connect(theirs) as second,
        ):
            one = await http.post(panel, json={"message": "to one", "user_id": "CD5678"})
            both = await http.post(panel, json={"message": "to all"})
            assert one.json()["data"] == {"connections": 1}
            assert both.json()["data"] == {"connections": 2}
            assert await _next_text(first) == {"type": "message", "data": "to all"}
            assert await _next_text(second) == {"type": "message", "data": "to one"}

    _run(STILL, scene)


def test_open_sockets_close_when_the_token_dies_in_the_morning(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    clock = ManualClock(SystemClock().now_ns())

    async def scene(simulator: Simulator) -> None:
        url = feed_url(simulator, await _login(simulator, log_in))
        async with connect(url) as ws:
            await ws.recv()
            clock.advance(SECONDS_PER_DAY * NS_PER_S)
            with pytest.raises(ConnectionClosed) as closed:
                await _drain(ws)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
            with pytest.raises(InvalidStatus) as refused:
                await connect(url)
            assert refused.value.response.status_code == 403

    _run(STILL, scene, clock)


def test_stopping_closes_every_socket_and_leaves_no_task(
    log_in: Callable[..., str], feed_url: Callable[[Simulator, str], str]
) -> None:
    async def play() -> None:
        async with Simulator(STILL) as simulator:
            banner = simulator.banner()
            url = feed_url(simulator, await _login(simulator, log_in))
            ws = await connect(url)
            await ws.recv()
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for root in (banner["rest_root"], banner["ws_root"]):
            parts = urlsplit(str(root))
            with socket.socket() as probe:
                assert probe.connect_ex((parts.hostname, parts.port)) != 0

    asyncio.run(play())


def test_an_error_inside_the_block_stops_the_simulator_and_comes_out_bare() -> None:
    async def play() -> None:
        async with Simulator(STILL):
            raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        asyncio.run(play())


def test_an_error_of_the_market_stops_the_simulator_and_surfaces() -> None:
    async def play() -> None:
        async with Simulator(SimulatorOptions(seed=7)) as simulator:
            simulator.market = None  # type: ignore[assignment] - any bug will do
            await simulator.serve_forever()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(play())
    assert raised.group_contains(AttributeError)


def test_the_same_seed_opens_the_same_market(serve: Callable[..., RunningSimulator]) -> None:
    with serve(STILL) as one, serve(STILL) as other:
        opening = [
            running.simulator.market.underlyings.price_inr.tolist() for running in (one, other)
        ]

        assert one.rest_root != other.rest_root
        assert opening[0] == opening[1]
