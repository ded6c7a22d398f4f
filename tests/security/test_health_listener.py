"""The health listener: it answers what it is for, and nothing sent to it ends the daemon."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from running import DEADLINE_S, Daemon, daemon, exchange

from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = SimulatorOptions(seed=7, rate_per_s=0.0, enforce_rate_limits=False)


@pytest.fixture(scope="module")
def running(redis_url: str) -> Iterator[Daemon]:
    """One daemon for all of this module: none of it may end it."""
    with exchange(QUIET) as quiet:
        settings = quiet.settings(redis_url=redis_url, channel_prefix="health-listener:")
        with daemon(settings) as started:
            started.becomes_ready()
            yield started


@pytest.fixture(autouse=True)
def _alive_afterwards(running: Daemon) -> Iterator[None]:
    yield
    answer = httpx.get(f"{running.health_url}/health/live", trust_env=False)
    assert answer.status_code == 200
    assert running.program.is_running()


def connect(running: Daemon) -> socket.socket:
    parts = urlsplit(running.health_url)
    assert parts.hostname == "127.0.0.1"
    connection = socket.create_connection((parts.hostname, parts.port or 0), timeout=DEADLINE_S)
    connection.settimeout(DEADLINE_S)
    return connection


@pytest.mark.parametrize(
    "path",
    ["/", "/health", "/health/live/", "/nope", "/docs", "/redoc", "/../etc/passwd", "/%00", "//x"],
)
def test_an_unknown_path_is_404(running: Daemon, path: str) -> None:
    answer = httpx.get(running.health_url + path, trust_env=False, follow_redirects=False)
    assert (
        answer.status_code in {307, 404} if path.endswith("/live/") else answer.status_code == 404
    )


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/debug/refusals"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed_here(running: Daemon, method: str, path: str) -> None:
    answer = httpx.request(method, running.health_url + path, trust_env=False, content=b"x")
    assert answer.status_code == 405


def test_answers_are_not_cached_and_do_not_say_what_serves_them(running: Daemon) -> None:
    answer = running.get("/health/live")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"\r\n\r\n", id="nothing"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100, id="TLS"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="unknown version"),
        pytest.param(b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n", id="a long path"),
        pytest.param(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 1_000_000 + b"\r\n\r\n",
            id="a long header",
        ),
        pytest.param(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
            id="many headers",
        ),
        pytest.param(
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx" * 2,
            id="a lying length",
        ),
        pytest.param(
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            id="broken chunks",
        ),
        pytest.param(
            b"GET /health/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            id="an upgrade",
        ),
        pytest.param(b"GET /\xff\xfe HTTP/1.1\r\nHost: \x00\r\n\r\n", id="bytes"),
    ],
)
def test_a_malformed_request_is_answered_or_hung_up_on(
    running: Daemon, request_bytes: bytes
) -> None:
    said_before = len(running.program.err.lines())
    # The server may hang up before it has read all of it.
    with connect(running) as raw, contextlib.suppress(OSError):
        raw.sendall(request_bytes)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(65_536):
            pass
    assert running.get("/health/live").status_code == 200
    # Whoever reaches the port must not be able to fill the log.
    said = running.program.err.lines()[said_before:]
    assert [line for line in said if '"level":"info"' not in line] == []


OWED = {
    "nothing": b"",
    "half a head": b"GET /health/live HTTP/1.1\r\n",
    "half a body": b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
    "the next request": b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("owed", OWED.values(), ids=OWED)
def test_a_crowd_that_keeps_the_server_waiting_keeps_nobody_else_out(
    running: Daemon, owed: bytes
) -> None:
    with contextlib.ExitStack() as crowd:
        for _ in range(200):
            idle = crowd.enter_context(connect(running))
            with contextlib.suppress(OSError):  # cut off already
                idle.sendall(owed)
        for path in ("/health/live", "/health/ready", "/metrics") * 5:
            # On a connection of its own: one that was kept may have been cut off with the crowd.
            assert httpx.get(running.health_url + path, trust_env=False).status_code == 200
        with connect(running) as another:
            another.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert another.recv(65_536).startswith(b"HTTP/1.1 200")


def test_requests_one_after_another_on_one_connection_are_all_answered(running: Daemon) -> None:
    with connect(running) as raw:
        raw.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        received = b""
        while received.count(b'{"status":"live"}') < 50:
            part = raw.recv(65_536)
            assert part
            received += part
