"""A feed whose own login brings no connection that lives goes on with the next account's.

At virtual time, with a broker in the place of the library's connector: whole minutes of silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import virtual_time

from ticker_service.adapters import kite_feed
from ticker_service.adapters.kite_feed import FAILOVER_AFTER_S, HELD_S, KiteFeed
from ticker_service.config import KiteConfig
from ticker_service.domain.tick import Mode
from ticker_service.ports import FeedEvent, FeedLogin, FeedUp, Frame

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

TOKEN = 256265
HEARTBEAT = b"\x00"


class Logins:
    """The main account's login and a spare one's. Port ``AccessTokenSource``."""

    def candidates(self) -> Sequence[FeedLogin]:
        return [FeedLogin(access_token=each, account=each) for each in ("MAIN", "SPARE")]

    async def other_than(self, refused: Container[str]) -> FeedLogin:
        raise NotImplementedError


@dataclass
class Sink:
    """Keeps what the feed says. Port ``FeedSink``."""

    ups: list[FeedUp] = field(default_factory=list)

    def put_frame(self, frame: Frame) -> None:
        """Take a frame."""

    def put_event(self, event: FeedEvent) -> None:
        if isinstance(event, FeedUp):
            self.ups.append(event)


class Broker:
    """Opens a connection for the spare login at once; subclasses say what it does for the other."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    async def connect(self, url: str, **_: object) -> Socket:
        account = parse_qs(urlsplit(url).query)["access_token"][0]
        self.tried.append(account)
        return Socket(heartbeats=10**6) if account == "SPARE" else await self.main()

    async def main(self) -> Socket:
        raise NotImplementedError


class Socket:
    """A connection that brings some heartbeats, one a second, and then nothing."""

    def __init__(self, *, heartbeats: int) -> None:
        self._left = heartbeats
        self.transport = SimpleNamespace(abort=lambda: None)

    async def send(self, message: str) -> None:
        """Take a subscription."""

    async def close(self) -> None:
        """End."""

    async def recv(self) -> bytes:
        await asyncio.sleep(1.0 if self._left else 10**6)
        self._left -= 1
        return HEARTBEAT


class Unreachable(Broker):
    """What is sent to it is lost on the way: nothing comes back, not even a refusal."""

    async def main(self) -> Socket:
        await asyncio.sleep(10**6)
        raise AssertionError("nobody waits so long")


class Mute(Broker):
    """Opens the connection and never sends a byte on it."""

    async def main(self) -> Socket:
        return Socket(heartbeats=0)


class Faltering(Broker):
    """Opens the connection and soon falls silent on it, after it had held."""

    async def main(self) -> Socket:
        return Socket(heartbeats=int(HELD_S) + 2)


def served(broker: Broker, monkeypatch: pytest.MonkeyPatch, *, for_s: float) -> Sink:
    """Run a feed of one instrument against a broker for a while."""
    monkeypatch.setattr(kite_feed, "_Connect", broker.connect)
    sink = Sink()

    async def play() -> None:
        feed = KiteFeed(
            KiteConfig(
                rest_root="http://127.0.0.1",
                ws_root="ws://127.0.0.1",
                api_key="key",
                access_token="",
            ),
            tokens=Logins(),
            clock=virtual_time.LoopClock(),
            chance=random.Random(1),  # noqa: S311 - jitter
        )
        feed.want({TOKEN: Mode.FULL})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await feed.run(sink)

    virtual_time.run(play())
    return sink


@pytest.mark.parametrize("broker", [Unreachable(), Mute()], ids=["unreachable", "mute"])
def test_a_login_that_brings_no_byte_is_left_for_the_next_account_s(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limit is looked at when an attempt ends, which takes ten seconds, and they pause between.
    sink = served(broker, monkeypatch, for_s=FAILOVER_AFTER_S + 15.0)
    assert broker.tried[0] == "MAIN"
    assert broker.tried[-1] == "SPARE"
    assert sink.ups[-1].account == "SPARE"
    assert sink.ups[-1].is_failover


def test_a_login_whose_connections_hold_for_a_while_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Faltering()
    sink = served(broker, monkeypatch, for_s=300.0)
    assert len(broker.tried) > 1
    assert set(broker.tried) == {"MAIN"}
    assert not any(up.is_failover for up in sink.ups)
