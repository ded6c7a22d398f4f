"""No secret of the order half is in what a daemon says, whatever happens to its orders."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import crash_verdict as verdict
import pytest
from crash_parts import TOKEN_SECRET, door, http, limit_order, place_frame
from running import eventually

if TYPE_CHECKING:
    from crash_parts import Daemon, World

PATHS = ("/health/live", "/health/ready", "/metrics")


def listener_says(daemon: Daemon) -> str:
    root = daemon.facts()["health_url"]
    return "\n".join(http().get(root + path).text for path in PATHS)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_daemon_that_trades_in_every_trouble_says_no_secret(own: World, log_format: str) -> None:
    secrets = {
        "the app's secret": own.lane.banner["api_secret"],
        "the access token": own.access_token,
        "the doors' secret": TOKEN_SECRET,
        "a caller's token": own.bearer,
        "the database's password": urlsplit(own.database_url).password,
        "the password of Redis": urlsplit(own.redis_url).password,
    }
    assert all(secrets.values())
    daemon = own.start(log_level="debug", log_format=log_format)
    assert daemon.opens(own.account)
    body = limit_order("BUY", 1, f"{own.quote()['last_price'] * 1.02:.0f}.00")
    with door(own, daemon) as calls:
        calls.ask(place_frame("plain", own.account, body))
        own.strike("accept_then_5xx")
        calls.ask(place_frame("in doubt", own.account, body))
        calls.ask(place_frame("plain", own.account, body | {"quantity": 2}))
        assert eventually(lambda: not verdict.unsettled(own)), verdict.unsettled(own)
    root = daemon.facts()["orders_ws_url"].replace("ws://", "http://").removesuffix("/ws")
    refused = http().get(root, headers={"Authorization": f"Bearer {own.bearer}x"})
    own.lane.fault(fault="expire_tokens", user_id=own.user_id)
    assert eventually(lambda: "login_required" in daemon.log())
    said = listener_says(daemon) + refused.text
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    said += daemon.log() + daemon.printed()

    for word in ("order_sent", "login_required", "account_open"):
        assert word in said
    assert [name for name, secret in secrets.items() if secret in said] == []
