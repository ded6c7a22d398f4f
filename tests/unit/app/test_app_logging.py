"""One line per event on standard error, and no secret in it."""

from __future__ import annotations

import json
import logging
from pathlib import PurePosixPath
from typing import Any

import pytest
import structlog

from app.logging import SILENCED, configure

SECRET = "must-not-be-seen"


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Any:
    def logged(event: str, **facts: object) -> dict[str, Any]:
        configure("info", "json")
        structlog.get_logger().info(event, **facts)
        line: dict[str, Any] = json.loads(capsys.readouterr().err)
        return line

    return logged


def test_an_event_is_one_line_of_json_with_its_facts(logged: Any) -> None:
    line = logged("feed_up", connection=2)
    del line["timestamp"]
    assert line == {"event": "feed_up", "level": "info", "connection": 2}


def test_an_event_says_when_it_was_in_utc(logged: Any) -> None:
    assert logged("feed_up")["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "key",
    [
        "access_token",
        "request_token",
        "enctoken",
        "api_secret",
        "password",
        "Authorization",
        "TOKEN",
    ],
)
def test_a_value_whose_key_speaks_of_a_secret_is_hidden(logged: Any, key: str) -> None:
    line = logged("logged_in", **{key: SECRET})
    assert line[key] == "(hidden)"


@pytest.mark.parametrize("key", ["instrument_token", "tokens", "symbol"])
def test_a_value_that_only_sounds_secret_is_shown(logged: Any, key: str) -> None:
    assert logged("subscribed", **{key: 256_265})[key] == 256_265


@pytest.mark.parametrize(
    "address",
    [
        *("http://127.0.0.1:9108", "http://[::1]:9108/metrics", "ws://h:1/v1 of me@example.com"),
        *("redis://h:6379/0", "http://127.0.0.1:1,http://127.0.0.1:2"),
    ],
)
def test_a_port_is_no_password(logged: Any, address: str) -> None:
    assert logged("daemon_started", health_url=address)["health_url"] == address


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"redis://:{SECRET}@h:1/0", "redis://:(hidden)@h:1/0"),  # allow-secret
        (f"http://me:{SECRET}@h:1", "http://me:(hidden)@h:1"),  # allow-secret
        (f"redis://:a@{SECRET}@h", "redis://:(hidden)@h"),  # allow-secret
        (f"redis://:{SECRET}/x@h:1", "redis://:(hidden)@h:1"),  # allow-secret
        (f"http://h:9108,redis://:{SECRET}@h", "http://h:9108,redis://:(hidden)@h"),  # allow-secret
        (f"wss://h:443/?api_key=k&access_token={SECRET}", "wss://h:443/?api_key=(hidden)&"),
    ],
)
def test_a_credential_in_an_address_is_hidden(logged: Any, address: str, shown: str) -> None:
    line = logged("connected", address=f"to {address} now")
    assert line["address"].startswith(f"to {shown}")
    assert SECRET not in line["address"]


def test_what_json_does_not_know_is_written_as_text(logged: Any) -> None:
    assert logged("started", directory=PurePosixPath("/run/x"))["directory"] == "/run/x"


def test_an_event_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", "json")
    structlog.get_logger().info("feed_up")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("library", SILENCED)
def test_a_library_that_logs_addresses_is_silenced(
    library: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("debug", "json")
    logging.getLogger(library).warning("wss://ws.kite.trade?access_token=%s", SECRET)
    assert SECRET not in capsys.readouterr().err


def test_events_for_the_eye_hide_secrets_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "console")
    structlog.get_logger().info("logged_in", access_token=SECRET)
    text = capsys.readouterr().err
    assert "logged_in" in text
    assert SECRET not in text


def test_what_a_library_says_is_an_event_too_with_its_secrets_hidden(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("info", "json")
    logging.getLogger("psycopg").warning("connecting to %s", f"postgresql://me:{SECRET}@db/x")
    said = capsys.readouterr().err
    line = json.loads(said)
    assert (line["event"], line["library"], line["level"]) == ("library_says", "psycopg", "warning")
    assert line["words"].startswith("connecting to postgresql://me:")
    assert SECRET not in said
