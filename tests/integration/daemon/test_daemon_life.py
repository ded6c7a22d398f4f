"""`ticker-service run` as a process: how it starts, what it says of itself, how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import orjson
import pytest
from kite_stand_in import KiteStandIn, answering, nothing, raw_server
from running import (
    Beside,
    Daemon,
    Exchange,
    assert_gap_free,
    daemon,
    environment,
    eventually,
    is_kind,
    program,
    subscriber,
)

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from app.embedded import EmbeddedRedis

STOP_S_MAX = 6.0


@pytest.fixture
def settings(lively_exchange: Exchange, redis_url: str, prefix: str) -> dict[str, object]:
    return lively_exchange.settings(redis_url=redis_url, channel_prefix=prefix)


def test_the_first_line_is_json_and_the_only_one_on_standard_output(
    settings: dict[str, object],
) -> None:
    with daemon(settings) as running:
        assert running.first_line["pid"] == running.program.pid
        assert running.first_line["books"] == ["NIFTY"]
        assert running.first_line["health_url"].startswith("http://127.0.0.1:")
        assert running.first_line["epoch"] > 0
        running.becomes_ready()
        running.program.signal(signal.SIGTERM)
        assert running.program.wait(STOP_S_MAX) == 0
        assert len(running.program.out.lines()) == 1
        for line in running.program.err.lines():
            assert {"event", "level", "timestamp"} <= orjson.loads(line).keys()


def test_the_log_says_at_which_address_its_health_is(settings: dict[str, object]) -> None:
    with daemon(settings) as running:
        line = running.program.err.wait_for(lambda line: "daemon_started" in line)
        assert orjson.loads(line)["health_url"] == running.health_url


def test_it_is_alive_at_once_and_ready_when_ticks_flow(settings: dict[str, object]) -> None:
    with (
        Beside(lambda: KiteStandIn(converse=nothing)) as silent,
        daemon(settings | {"kite_ws_root": silent.part.url}) as running,
    ):
        # The exchange sends not a byte, so there is nothing to be ready with.
        silent.call(lambda: silent.part.until(lambda: silent.part.requests))
        assert running.get("/health/live").json() == {"status": "live"}
        answer = running.ready()
        assert answer.status_code == 503
        assert answer.json()["status"] == "not_ready"
        assert answer.json()["frame_age_ms"] is None

    with daemon(settings) as running:
        body = running.becomes_ready()
        assert body["status"] == "ready"
        assert (body["feed"], body["connections"]) == ("up", {"0": "up"})
        assert body["books"] == ["NIFTY"]
        assert body["epoch"] == running.epoch
        assert body["frame_age_ms"] < 5_000


def test_metrics_count_what_came_in_and_went_out(settings: dict[str, object]) -> None:
    with daemon(settings) as running:
        assert eventually(lambda: running.metric('ticks_published_total{book="NIFTY"}') > 50)
        answer = running.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        metrics = running.metrics()
        assert metrics["feed_packets_total"] >= metrics['ticks_published_total{book="NIFTY"}']
        assert metrics["feed_connections_up"] == 1.0
        assert metrics["batches_published_total"] > 0
        assert metrics["publish_failures_total"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_drains_says_stopped_and_leaves_nothing(
    number: signal.Signals,
    settings: dict[str, object],
    lively_exchange: Exchange,
    redis_client: redis.Redis,
    redis_url: str,
    prefix: str,
) -> None:
    # Another daemon, of other tests, may hang on the same server.
    others = {client["id"] for client in redis_client.client_list()}
    with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings) as running:
        running.becomes_ready()
        port = int(running.health_url.rsplit(":", 1)[1])
        running.program.signal(number)
        last = book.until(is_kind("status", state="stopped"))
        assert last["epoch"] == running.epoch
        assert running.program.wait(STOP_S_MAX) == 0
        assert_gap_free(book.seen)
        assert eventually(lambda: lively_exchange.connections() == [])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        left = [client for client in redis_client.client_list() if client["id"] not in others]
        assert not [client for client in left if "ticker-service" in client["name"]]


def test_a_stop_signal_ends_it_even_while_redis_does_not_answer(
    lively_exchange: Exchange, own_redis: EmbeddedRedis
) -> None:
    with daemon(lively_exchange.settings(redis_url=own_redis.url)) as running:
        running.becomes_ready()
        os.kill(own_redis.child.pid, signal.SIGSTOP)
        try:
            assert eventually(lambda: running.metric("publish_failures_total") >= 1)
            running.program.signal(signal.SIGTERM)
            assert running.program.wait(STOP_S_MAX) == 0
            assert "drain_timed_out" in running.program.err.text()
        finally:
            os.kill(own_redis.child.pid, signal.SIGCONT)


def test_an_interrupt_during_a_slow_start_ends_it_without_a_traceback(
    settings: dict[str, object],
) -> None:
    asked = []

    async def never(reader: object, writer: object) -> None:
        del writer
        asked.append(await reader.readuntil(b"\r\n\r\n"))  # type: ignore[attr-defined]
        await reader.read()  # type: ignore[attr-defined]

    with Beside(lambda: raw_server(never)) as stuck:
        env = environment(
            settings | {"kite_rest_root": f"http://127.0.0.1:{stuck.part}", "health_port": 0}
        )
        with program("run", "--config", os.devnull, env=env) as running:
            assert eventually(lambda: asked)
            running.signal(signal.SIGINT)
            assert running.wait(STOP_S_MAX) == 130
            assert "Traceback" not in running.err.text()


def test_requests_in_flight_do_not_hold_the_end_up(settings: dict[str, object]) -> None:
    with daemon(settings) as running, contextlib.ExitStack() as idle:
        port = int(running.health_url.rsplit(":", 1)[1])
        for _ in range(5):
            connection = idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        running.program.signal(signal.SIGTERM)
        assert running.program.wait(STOP_S_MAX) == 0


def refused(
    arguments: tuple[str, ...], env: dict[str, str], *secrets: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end; whatever it says is words of ours, without a secret."""
    with program(*arguments, env=env) as running:
        status = running.wait()
        out, err = running.out.text(), running.err.text()
    assert status != 0
    assert out == ""
    assert err != ""
    assert "Traceback" not in err
    for secret in secrets:
        assert secret not in err
    return subprocess.CompletedProcess(arguments, status, out, err)


CANARY = "canary-2f6c"


def test_all_missing_settings_are_named_at_once() -> None:
    ended = refused(("run", "--config", os.devnull), environment())
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert len(lines) == 3
    for name in ("KITE_API_KEY", "KITE_ACCESS_TOKEN", "REDIS_URL"):
        assert any(f"TICKER_SERVICE_{name}" in line and "required" in line for line in lines)


def test_all_wrong_settings_are_named_at_once_with_their_rule(tmp_path: Path) -> None:
    env = environment(
        {
            "kite_api_key": "",
            "kite_access_token": "  ",
            "redis_url": f"http://:{CANARY}@127.0.0.1",
            "kite_rest_root": "http://api.kite.trade",
            "kite_ws_root": "ftp://x",
            "strikes_each_side": "-1",
            "mode": "everything",
            "flush_interval_ms": "soon",
            "health_port": "70000",
            "undrlyings": "NIFTY",
        }
    )
    ended = refused(("run", "--config", os.devnull), env, CANARY)
    assert ended.returncode == 2
    for name in (
        "KITE_API_KEY",
        "KITE_ACCESS_TOKEN",
        "REDIS_URL",
        "KITE_REST_ROOT",
        "KITE_WS_ROOT",
        "STRIKES_EACH_SIDE",
        "MODE",
        "FLUSH_INTERVAL_MS",
        "HEALTH_PORT",
        "UNDRLYINGS",
    ):
        assert sum(f"TICKER_SERVICE_{name}" in line for line in ended.stderr.splitlines()) >= 1
    assert "did you mean TICKER_SERVICE_UNDERLYINGS?" in ended.stderr


@pytest.mark.parametrize(
    ("wrong", "said", "status"),
    [
        pytest.param({"redis_url": f"redis://:{CANARY}@127.0.0.1:1/0"}, "Redis", 1, id="no redis"),
        pytest.param({"kite_rest_root": "http://127.0.0.1:1"}, "no instruments", 1, id="no broker"),
        pytest.param({"underlyings": "NIFTY,NIFTEE"}, "NIFTEE", 1, id="unknown underlying"),
        pytest.param({"instruments": "NSE:NOSUCH"}, "NSE:NOSUCH", 1, id="unknown instrument"),
        pytest.param({"underlyings": "", "instruments": ""}, "nothing to subscribe", 2, id="none"),
        pytest.param(
            {"flush_interval_ms": 900, "conflate_after_ms": 100}, "must be below", 2, id="relation"
        ),
        pytest.param({"health_host": "203.0.113.1"}, "cannot listen", 2, id="foreign address"),
        pytest.param({"health_host": "no such host"}, "cannot listen", 2, id="no such host"),
        pytest.param(
            {"kite_access_token": f'{CANARY}"\x01', "kite_ws_parameters": "{broken"},
            "kite_ws_parameters",
            2,
            id="broken json",
        ),
    ],
)
def test_what_keeps_it_from_starting_is_one_clear_line(
    wrong: dict[str, object], said: str, status: int, settings: dict[str, object]
) -> None:
    token = str(settings["kite_access_token"])
    env = environment({"health_port": 0, **settings, **wrong})
    ended = refused(("run", "--config", os.devnull), env, CANARY, token)
    assert ended.returncode == status
    assert len(ended.stderr.splitlines()) == 1
    assert said in ended.stderr


def test_a_taken_health_port_is_a_clear_refusal(settings: dict[str, object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = refused(
            ("run", "--config", os.devnull), environment(settings | {"health_port": port})
        )
    assert ended.returncode == 2
    assert "cannot listen" in ended.stderr
    assert str(port) in ended.stderr
    assert "Address already in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("underlyings = [", "bad.toml"),
        ("underlyings = 'NIFTY'\nunderlyings = 'SENSEX'", "bad.toml"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "bad.toml"),
        ("undrlyings = ['NIFTY']", "did you mean underlyings?"),
        ("strikes_each_side = 'many'", "STRIKES_EACH_SIDE"),
        (f"kite_access_token = ['{CANARY}']", "KITE_ACCESS_TOKEN"),
        (f"redis_url = 'http://:{CANARY}@127.0.0.1'", "REDIS_URL"),
    ],
)
def test_a_bad_settings_file_is_named_with_its_fault(
    text: str, said: str, settings: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text, encoding="latin-1")
    given = {"kite_access_token", "redis_url"} if CANARY in text else set()
    env = environment({name: v for name, v in settings.items() if name not in given})
    if "strikes" in text:
        env.pop("TICKER_SERVICE_STRIKES_EACH_SIDE")
    ended = refused(("run", "--config", str(file)), env, CANARY)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_a_broker_that_answers_nonsense_is_one_clear_line(settings: dict[str, object]) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>"
    with Beside(lambda: raw_server(answering(page))) as broken:
        env = environment(
            settings | {"kite_rest_root": f"http://127.0.0.1:{broken.part}", "health_port": 0}
        )
        ended = refused(("run", "--config", os.devnull), env)
    assert ended.returncode == 1
    assert "lacks columns" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"redis_url": f"redis://:{CANARY}/x@127.0.0.1:6379/0"}, id="unquoted slash"),
        pytest.param({"redis_url": "redis://127.0.0.1:port/0"}, id="redis port"),
        pytest.param({"redis_url": "redis://127.0.0.1:70000/0"}, id="redis port range"),
        pytest.param({"redis_url": "redis://127.0.0.1/0?socket_timeout=x"}, id="redis option"),
        pytest.param({"kite_rest_root": "http://127.0.0.1:port"}, id="rest port"),
        pytest.param({"kite_rest_root": "http://127.0.0.1:70000"}, id="rest port range"),
        pytest.param({"kite_rest_root": "ws://127.0.0.1:1"}, id="rest scheme"),
        pytest.param({"kite_ws_root": "ws://127.0.0.1:70000"}, id="ws port range"),
        pytest.param({"kite_ws_root": "http://127.0.0.1:1"}, id="ws scheme"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_start(
    wrong: dict[str, object], settings: dict[str, object]
) -> None:
    env = environment({"health_port": 0, **settings, **wrong})
    with program("run", "--config", os.devnull, env=env) as running:
        eventually(lambda: running.process.poll() is not None)
        status = running.process.poll()
        err = running.err.text()
    assert status == 2
    assert "Traceback" not in err
    assert CANARY not in err
    assert len(err.splitlines()) == 1


def fill(fifo: Path) -> None:
    """Write into a pipe until it takes no more."""
    writing = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"." * select.PIPE_BUF)
    os.close(writing)


@pytest.mark.parametrize("reader", ["gone", "stalled"])
def test_whoever_reads_the_log_and_stops_does_not_stop_the_daemon(
    lively_exchange: Exchange, redis_url: str, prefix: str, tmp_path: Path, reader: str
) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    into_fifo = ("sh", "-c", 'exec 2>"$0"; exec "$@"', str(fifo))
    env = environment(
        {
            "health_port": 0,
            **lively_exchange.settings(redis_url=redis_url, channel_prefix=prefix),
        }
    )
    with (
        subscriber(redis_url, f"{prefix}ticks:NIFTY") as book,
        program(
            *("run", "--config", os.devnull),
            env=env,
            command=(*into_fifo, sys.executable, "-m", "app.cli"),
        ) as started,
        httpx.Client(trust_env=False, timeout=20.0) as http,
    ):
        running = Daemon(started, http)
        running.becomes_ready()
        if reader == "gone":
            os.close(reading)
        else:
            fill(fifo)
        lively_exchange.fault(fault="kill_sockets")  # which is logged
        book.until(is_kind("gap"))
        book.until(is_kind("batch"))
        assert running.metric("log_lines_dropped") > 0
        running.becomes_ready()
        started.signal(signal.SIGTERM)
        assert started.wait() == 0
    if reader == "stalled":
        os.close(reading)
