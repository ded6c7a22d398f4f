"""The command line from outside: help, wrong use, and `tail`."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import inspect
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import pytest
import redis
from running import LIVELY, ROOT, Daemon, daemon, environment, eventually, exchange, program

from app.simulate_cli import simulate
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from running import Exchange

VERBS = ("demo", "greeks", "run", "simulate", "tail")


def ended(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with program(*arguments, env=environment(**env)) as running:
        status = running.wait()
        return subprocess.CompletedProcess(
            arguments, status, running.out.text(), running.err.text()
        )


def test_help_lists_every_verb() -> None:
    answer = ended("--help")
    assert answer.returncode == 0
    assert answer.stderr == ""
    for verb in VERBS:
        assert verb in answer.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    answer = ended(verb, "--help", COLUMNS="100")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"{verb} [OPTIONS]" in answer.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("run", "--nonsense"),
        ("run", "extra"),
        ("demo", "--seconds", "soon"),
        ("demo", "--seconds", "0"),
        ("demo", "--seed", "-1"),
        ("tail",),
        ("tail", "NIFTY", "--seconds", "-1"),
        ("simulate", "--rest-port", "99999"),
        ("simulate", "--rate", "-1"),
    ],
)
def test_wrong_use_is_status_2_and_one_line(arguments: tuple[str, ...]) -> None:
    answer = ended(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("ticker-service: ")


@pytest.mark.parametrize(
    "arguments", [("simulate", "--rate", "nan"), ("simulate", "--rate", "inf")]
)
def test_numbers_that_are_none_are_refused(arguments: tuple[str, ...]) -> None:
    answer = ended(*arguments)
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) >= 1
    assert "Traceback" not in answer.stderr


@pytest.fixture(scope="module")
def published(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Daemon]]:
    """A daemon on a prefix of its own."""
    prefix = f"{tmp_path_factory.mktemp('prefix').name}-{id(redis_url)}:"
    with exchange(LIVELY) as running_exchange:
        settings = running_exchange.settings(redis_url=redis_url, channel_prefix=prefix)
        with daemon(settings) as running:
            running.becomes_ready()
            yield prefix, running


def test_tail_prints_every_message_as_a_line_of_json(
    published: tuple[str, Daemon], redis_url: str
) -> None:
    prefix, running = published
    answer = ended(
        "tail", "NIFTY", "--json", "--seconds", "2", "--channel-prefix", prefix, REDIS_URL=redis_url
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    messages = [orjson.loads(line) for line in answer.stdout.splitlines()]
    assert messages[0]["kind"] == "snapshot"
    assert {"batch", "heartbeat"} <= {message["kind"] for message in messages}
    assert {(message["book"], message["epoch"]) for message in messages} == {
        ("NIFTY", running.epoch)
    }


def test_tail_draws_the_chain_as_a_table(published: tuple[str, Daemon], redis_url: str) -> None:
    prefix, _ = published
    answer = ended(
        *("tail", "NIFTY", "--seconds", "2", "--channel-prefix", prefix, "--redis-url", redis_url),
        COLUMNS="200",
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    for word in ("NIFTY", "forward", "expiry", "strike", "delta", "iv %"):
        assert word in answer.stdout


def test_tail_shows_where_ticks_spend_their_time(
    published: tuple[str, Daemon], redis_url: str
) -> None:
    prefix, _ = published
    arguments = ("tail", "NIFTY", "--latency", "--seconds", "3", "--channel-prefix", prefix)
    answer = ended(*arguments, "--json", REDIS_URL=redis_url)
    assert (answer.returncode, answer.stderr) == (0, "")
    latest = orjson.loads(answer.stdout.splitlines()[-1])
    assert (latest["kind"], latest["book"]) == ("latency", "NIFTY")
    assert latest["rows"] > 0
    for stage in ("upstream", "ours", "delivery"):
        figures = latest[stage]
        assert 0.0 <= figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    answer = ended(*arguments, REDIS_URL=redis_url, COLUMNS="120")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "upstream" in answer.stdout


def test_the_doctor_tells_how_the_daemon_does_that_runs_here(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(redis_url=redis_url, channel_prefix=prefix)
    with daemon(settings) as running:
        running.becomes_ready()
        port = running.health_url.rsplit(":", 1)[1]
        env = environment({**settings, "health_port": port})
        with program("doctor", "--config", os.devnull, env=env) as doctor:
            assert doctor.wait() == 0
            told = [line for line in doctor.out.lines() if line.startswith("- ")]
    assert any("daemon: ready; feed up, market open" in line for line in told), told
    for stage in ("upstream", "decoded", "priced", "published", "ours"):
        assert any(line.split()[1] == stage for line in told), told


def test_tail_ends_like_any_filter_when_its_reader_goes_away(
    published: tuple[str, Daemon], redis_url: str
) -> None:
    prefix, _ = published
    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", "tail", "NIFTY", "--json", "--channel-prefix", prefix],
        cwd=ROOT,
        env=environment(REDIS_URL=redis_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(10.0) in {0, -signal.SIGPIPE}
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_tail_stops_at_control_c(published: tuple[str, Daemon], redis_url: str) -> None:
    prefix, _ = published
    with program(
        "tail", "NIFTY", "--json", "--channel-prefix", prefix, env=environment(REDIS_URL=redis_url)
    ) as running:
        running.out.wait_for(lambda _: True)
        running.signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.err.text() == ""


@pytest.mark.parametrize(
    "url",
    [
        "redis://:canary-77@127.0.0.1:1/0",  # allow-secret
        *("nonsense", "http://x", "redis://h:99999", "redis://h:abc", "redis://h/0?canary-77=1"),
        "redis://:canary-77/x@127.0.0.1:1/0",  # allow-secret
    ],
)
def test_tail_of_a_server_that_is_not_there_is_one_line(url: str) -> None:
    answer = ended("tail", "NIFTY", "--json", REDIS_URL=url)
    assert answer.returncode in {1, 2}
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert "canary-77" not in answer.stderr


@pytest.mark.parametrize(
    "more", [(), ("--json",), ("--json", "--seconds", "9"), ("--seconds", "1")]
)
def test_tail_of_a_book_that_nobody_publishes_says_so(
    redis_url: str, prefix: str, more: tuple[str, ...]
) -> None:
    answer = ended("tail", "nosuch", *more, "--channel-prefix", prefix, REDIS_URL=redis_url)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1
    assert "nothing was published for nosuch" in answer.stderr
    assert "NOSUCH?" in answer.stderr
    assert answer.stdout.strip() == ""


def test_tail_says_when_the_publisher_has_gone_silent(
    redis_client: redis.Redis, redis_url: str, prefix: str
) -> None:
    body: dict[str, object] = {"v": 1, "book": "NIFTY", "epoch": 1, "seq": 1}
    snapshot = orjson.dumps(body | {"kind": "snapshot", "columns": {"instrument_token": []}})
    redis_client.set(f"{prefix}snapshot:NIFTY", snapshot, ex=60)
    arguments = ("tail", "NIFTY", "--json", "--channel-prefix", prefix)
    with program(*arguments, env=environment(REDIS_URL=redis_url)) as running:
        heartbeat = orjson.dumps(body | {"kind": "heartbeat"})
        assert eventually(lambda: redis_client.publish(f"{prefix}ticks:NIFTY", heartbeat))
        said = orjson.loads(running.out.wait_for(lambda line: "silent" in line))
    assert (said["kind"], said["book"]) == ("silent", "NIFTY")
    assert 3.0 <= said["silent_s"] < 6.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--host", "300.1.2.3"), "300.1.2.3"),
        (("--rest-port", "5000", "--ws-port", "5000"), "ws_port"),
        (("--nearest-expiry-days", "999999"), "nearest_expiry_days_min=999999"),
        (("--redirect-url", "http://[bad"), "redirect_url="),
        (("--strikes-each-side", "0"), "strikes_each_side=0"),
        (("--order-state-ms", "-1"), "order_state_ms=-1.0"),
        (("--freeze", "NIFTY"), "freeze='NIFTY'"),
        (("--freeze", "NIFTY=0"), "freeze_quantities="),
        (("--user", "A B"), "users="),
        (("--user", "AB1234", "--user", "AB1234"), "each once"),
    ],
)
def test_simulate_refuses_what_cannot_be_in_one_line(
    arguments: tuple[str, ...], named: str
) -> None:
    answer = ended("simulate", *arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert len(answer.stderr.splitlines()) == 1
    assert named in answer.stderr


def test_simulate_says_when_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = ended("simulate", "--ws-port", str(port))
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.splitlines() == [
        f"ticker-service: cannot listen on '127.0.0.1' port {port}: Address already in use"
    ]


def test_run_embedded_prints_where_its_redis_is_and_does_not_log_it(
    lively_exchange: Exchange, prefix: str
) -> None:
    settings = lively_exchange.settings(channel_prefix=prefix, health_port=0)
    with program("run", "--embedded", "--config", os.devnull, env=environment(settings)) as running:
        started = orjson.loads(running.out.wait_for(lambda _: True))
        with redis.Redis.from_url(started["redis_url"]) as client:
            assert client.ping()
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        logged = [orjson.loads(line) for line in running.err.lines()]
        (line,) = (each for each in logged if each["event"] == "daemon_started")
        assert "redis_url" not in line
        assert line["health_url"] == started["health_url"]


def test_simulate_takes_every_option_of_the_simulator() -> None:
    flags = (
        *("--seed", "3", "--host", "127.0.0.1", "--rest-port", "0", "--ws-port", "0"),
        *("--rate", "0", "--steps-per-s", "5", "--strikes-each-side", "2"),
        *("--nearest-expiry-days", "2", "--user", "ZZ0001:Zoya Zed", "--user", "YY0002"),
        *("--api-key", "mykey", "--api-secret", "mysecret", "--redirect-url", "http://desk/in"),
        *("--cash-inr", "1000", "--order-state-ms", "0", "--freeze", "NIFTY=65"),
        *("--rate-limits", "--orders-per-day", "1", "--order-cooldown-s", "60"),
        *("--truth-history-s", "60", "--crossed-quotes", "0", "--one-sided-quotes", "0"),
        *("--dead-strikes", "0"),
    )
    with (
        program("simulate", *flags) as running,
        httpx.Client(trust_env=False, follow_redirects=False) as http,
    ):
        banner = orjson.loads(running.out.wait_for(lambda _: True))
        assert (banner["api_key"], banner["api_secret"]) == ("mykey", "mysecret")
        users = [(user["user_id"], user["user_name"]) for user in banner["users"]]
        assert users == [("ZZ0001", "Zoya Zed"), ("YY0002", "YY0002")]
        query = {"v": "3", "api_key": "mykey", "user_id": "ZZ0001"}
        where = http.get(banner["login_url"], params=query).headers["location"]
        assert where.startswith("http://desk/in?")
        (request_token,) = parse_qs(urlsplit(where).query)["request_token"]
        checksum = hashlib.sha256(f"mykey{request_token}mysecret".encode()).hexdigest()
        session = {"api_key": "mykey", "request_token": request_token, "checksum": checksum}
        answer = http.post(f"{banner['rest_root']}/session/token", data=session)
        token = answer.json()["data"]["access_token"]
        http.headers["Authorization"] = f"token mykey:{token}"
        dump = list(
            csv.DictReader(http.get(f"{banner['rest_root']}/instruments").text.splitlines())
        )
        options = [row for row in dump if row["name"] == "NIFTY" and row["instrument_type"] == "CE"]
        by_expiry = Counter(row["expiry"] for row in options)
        assert set(by_expiry.values()) == {5}
        margins = http.get(f"{banner['rest_root']}/user/margins/equity").json()["data"]
        assert margins["net"] == 1_000
        order = {
            "exchange": "NFO",
            "tradingsymbol": options[0]["tradingsymbol"],
            "price": "1",
            "transaction_type": "BUY",
            "order_type": "LIMIT",
            "product": "NRML",
        }
        place = f"{banner['rest_root']}/orders/regular"
        frozen = http.post(place, data={**order, "quantity": "130"})
        assert (frozen.status_code, "freeze" in frozen.json()["message"].lower()) == (400, True)
        used_up = http.post(place, data={**order, "quantity": "65"})
        assert "Maximum allowed order requests" in used_up.json()["message"]


def test_every_option_of_the_simulator_has_a_flag_with_a_word_of_help() -> None:
    flags = {parameter.name for parameter in inspect.signature(simulate).parameters.values()}
    renamed = {
        "rate_per_s": "rate",
        "instruments_min": "instruments",
        "nearest_expiry_days_min": "nearest_expiry_days",
        "users": "user",
        "enforce_rate_limits": "rate_limits",
        "orders_per_day_max": "orders_per_day",
        "orders_per_minute_max": "orders_per_minute",
        "orders_per_second_max": "orders_per_second",
        "modifications_max": "modifications",
        "is_slice_list": "slice_list",
        "freeze_quantities": "freeze",
        "crossed_quote_ratio": "crossed_quotes",
        "one_sided_quote_ratio": "one_sided_quotes",
        "dead_strike_ratio": "dead_strikes",
    }
    names = [field.name for field in dataclasses.fields(SimulatorOptions)]
    assert flags == {renamed.get(name, name) for name in names}


def test_simulate_says_where_it_is_and_stops_on_sigterm() -> None:
    with program("simulate", "--seed", "3") as running:
        banner = orjson.loads(running.out.wait_for(lambda _: True))
        assert {"rest_root", "ws_root", "login_url", "api_key", "api_secret", "users"} <= set(
            banner
        )
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert running.out.lines() == [orjson.dumps(banner).decode()]
        assert running.err.text() == ""


def test_greeks_of_a_file_can_be_cut_short_by_its_reader() -> None:
    command = f"{sys.executable} -m app.cli greeks tests/data/history/options.csv | head -n 2"
    answer = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    header, row = answer.stdout.splitlines()
    assert header.startswith("timestamp,")
    assert row.startswith("2026-11-20T09:15:00+0530,NIFTY26NOV24850CE,")
    assert "Traceback" not in answer.stderr
