"""Secrets are in no output, no answer and no argument, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from running import (
    Daemon,
    Exchange,
    daemon,
    descendants,
    environment,
    eventually,
    is_kind,
    program,
    subscriber,
)

if TYPE_CHECKING:
    from app.embedded import EmbeddedRedis


def password_of(url: str) -> str:
    return url.split(":")[2].split("@", maxsplit=1)[0]


def everything_said_by(running: Daemon) -> str:
    """Return all output, and all that its listener answers."""
    answers = [running.get(path).text for path in ("/health/live", "/health/ready", "/metrics")]
    return "\n".join([running.program.out.text(), running.program.err.text(), *answers])


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_daemon_in_every_trouble_says_no_secret(
    lively_exchange: Exchange, own_redis: EmbeddedRedis, log_format: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=own_redis.url, log_level="debug", log_format=log_format, heartbeat_ms=500
    )
    secrets = [
        lively_exchange.access_token,
        lively_exchange.banner["api_secret"],
        password_of(own_redis.url),
    ]
    with (
        subscriber(own_redis.url, "ticker:v1:ticks:NIFTY") as book,
        daemon(settings) as running,
    ):
        running.becomes_ready()
        lively_exchange.simulator.refusals += [429]
        lively_exchange.fault(fault="kill_sockets")
        book.until(is_kind("gap"))
        # The broker repeats the token to us, as an error of its own might.
        lively_exchange.call(
            lambda: lively_exchange.simulator.feed.broadcast_text("message", "told apart")
        )
        assert eventually(lambda: "told apart" in running.program.err.text())
        os.kill(own_redis.child.pid, signal.SIGSTOP)
        try:
            assert eventually(lambda: running.metric("publish_failures_total") >= 1)
        finally:
            os.kill(own_redis.child.pid, signal.SIGCONT)
        lively_exchange.fault(fault="expire_tokens", user_id=lively_exchange.user_id)
        book.until(is_kind("status", state="login_required"))
        said = everything_said_by(running)
        running.program.signal(signal.SIGTERM)
        assert running.program.wait() == 0
        said += running.program.err.text()
        said += orjson.dumps(book.seen).decode()
        for word in ("daemon_started", "login_required", "publish_failed"):
            assert word in said
        for secret in secrets:
            assert secret not in said


@pytest.mark.parametrize(
    ("wrong", "secret"),
    [
        ({"redis_url": "redis://:canary-41@127.0.0.1:1/0"}, "canary-41"),  # allow-secret
        ({"redis_url": "rediss://:canary-41@127.0.0.1:1/0"}, "canary-41"),  # allow-secret
        ({"redis_url": "unix://:canary-41@/nowhere/socket"}, "canary-41"),  # allow-secret
        ({"redis_url": "canary-41"}, "canary-41"),
        ({"redis_url": "redis://[canary-41"}, "canary-41"),
        ({"kite_access_token": "canary-41", "kite_rest_root": "http://127.0.0.1:1"}, "canary-41"),
        ({"kite_access_token": "canary-41", "strikes_each_side": "x"}, "canary-41"),
        ({"kite_api_key": "", "kite_access_token": "canary-41"}, "canary-41"),
        ({"kite_acces_token": "canary-41"}, "canary-41"),
        ({"api_secret": "canary-41"}, "canary-41"),
        ({"kite_ws_parameters": '{"enctoken": "canary-41"'}, "canary-41"),
        pytest.param(
            {"kite_ws_parameters": '{"enctoken": ["canary-41"]}'},
            "canary-41",
        ),
        pytest.param(
            {"redis_url": "redis://:canary-41/x@127.0.0.1:1/0"},
            "canary-41",
        ),
    ],
)
def test_bad_settings_are_refused_without_the_secrets_among_them(
    lively_exchange: Exchange, redis_url: str, wrong: dict[str, object], secret: str
) -> None:
    settings = lively_exchange.settings(redis_url=redis_url, health_port=0)
    env = environment(settings | wrong)
    with program("run", "--config", os.devnull, env=env) as running:
        assert running.wait() != 0
        said = running.out.text() + running.err.text()
    assert said
    assert secret not in said
    assert password_of(redis_url) not in said
    assert lively_exchange.access_token not in said or wrong.get("kite_access_token") is None


def test_a_secret_in_the_settings_file_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "ticker-service.toml"
    file.write_text(
        "kite_access_token = 5\nkite_api_secret = 'canary-43'\nredis_url = ['canary-43']\n"
        "kite_api_key = {secret = 'canary-43'}\n"
    )
    with program("run", "--config", str(file), env=environment()) as running:
        assert running.wait() == 2
        assert "canary-43" not in running.err.text()
        assert "Traceback" not in running.err.text()


def test_a_wrong_password_is_told_without_it(
    lively_exchange: Exchange, own_redis: EmbeddedRedis
) -> None:
    wrong = own_redis.url.replace(password_of(own_redis.url), "canary-42")
    env = environment(lively_exchange.settings(redis_url=wrong, health_port=0))
    with program("run", "--config", os.devnull, env=env) as running:
        assert running.wait() == 1
        assert "Redis does not answer" in running.err.text()
        assert "canary-42" not in running.err.text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_demo_puts_no_secret_into_an_argument_and_no_token_into_its_output() -> None:
    with program("demo", "--json", env=environment()) as running:
        facts = orjson.loads(running.err.wait_for(lambda _: True))
        secrets = {password_of(facts["redis_url"])}
        processes = descendants(running.pid) | {running.pid}
        token = ""
        for pid in processes:
            with contextlib.suppress(OSError):
                for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    name, _, value = variable.decode().partition("=")
                    if name == "TICKER_SERVICE_KITE_ACCESS_TOKEN":
                        token = value
        assert token
        for pid in processes:
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
                for secret in secrets | {token}:
                    assert secret not in arguments
        running.signal(signal.SIGTERM)
        running.wait()
        assert token not in running.err.text() + running.out.text()
        assert "api_secret" not in running.err.text() + running.out.text()
