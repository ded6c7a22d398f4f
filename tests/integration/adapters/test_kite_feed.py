"""The Kite feed on real sockets: against the simulator, and against a server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from kite_stand_in import (
    HEARTBEAT,
    NIFTY,
    KiteStandIn,
    answering,
    frame,
    ltp,
    nothing,
    raw_server,
)
from running import CountingSimulator, log_in

from ticker_service.accounts.breaker import Breaker, BreakerRules
from ticker_service.accounts.token_watch import FixedToken, TokenWatch, WatchedLogins
from ticker_service.accounts.tokens import AccessToken, MemoryTokens
from ticker_service.adapters import kite_feed
from ticker_service.adapters.kite_feed import KiteFeed
from ticker_service.config import FeedAccountConfig, KiteConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerState
from ticker_service.domain.order import Account
from ticker_service.domain.session import token_expires_ns
from ticker_service.domain.tick import Mode
from ticker_service.errors import ConfigurationError
from ticker_service.ports import FeedDown, FeedEvent, FeedLogin, FeedText, FeedUp, Frame
from ticker_service.runtime.clock import ManualClock, SystemClock
from ticker_service.runtime.pacing import Backoff
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from websockets.asyncio.server import ServerConnection

    from ticker_service.ports import AccessTokenSource, ConnectGate

RELIANCE = 738561
TOKEN = "stand-in"
ACCOUNT = Account("MAIN")
EVENING_NS = 1_795_262_400 * NS_PER_S
"""2026-11-21 17:30 IST."""
DEADLINE_S = 9.0
SOON = Backoff(delay_s_min=0.01, delay_s_max=0.05)


class Sink:
    """Keeps frames and events in their order, and wakes who waits for one."""

    def __init__(self) -> None:
        self.items: list[Frame | FeedEvent] = []
        self._news = asyncio.Event()

    def put_frame(self, frame: Frame) -> None:
        self.items.append(frame)
        self._news.set()

    def put_event(self, event: FeedEvent) -> None:
        self.items.append(event)
        self._news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    def ups(self) -> list[FeedUp]:
        return [item for item in self.items if isinstance(item, FeedUp)]

    def downs(self) -> list[FeedDown]:
        return [item for item in self.items if isinstance(item, FeedDown)]

    def texts(self) -> list[FeedText]:
        return [item for item in self.items if isinstance(item, FeedText)]

    def payloads(self, since: int = 0) -> list[bytes]:
        return [item.payload for item in self.items[since:] if isinstance(item, Frame)]

    def lengths(self, since: int = 0) -> dict[int, int]:
        """Return the length of each token's latest packet, which tells its mode."""
        lengths = {}
        for payload in self.payloads(since):
            for packet in packets(payload):
                lengths[struct.unpack_from(">I", packet)[0]] = len(packet)
        return lengths


class AlwaysLate(random.Random):
    """Jitter at its largest, so that each wait is the backoff's ceiling."""

    def random(self) -> float:
        return 1.0


def packets(payload: bytes) -> Iterable[bytes]:
    at = 2
    while at < len(payload):
        (length,) = struct.unpack_from(">H", payload, at)
        yield payload[at + 2 : at + 2 + length]
        at += 2 + length


def feed_of(
    ws_root: str,
    *,
    api_key: str = "key",
    access_token: str = TOKEN,
    tokens: AccessTokenSource | None = None,
    gate: ConnectGate | None = None,
) -> KiteFeed:
    config = KiteConfig(
        rest_root="http://127.0.0.1:1", ws_root=ws_root, api_key=api_key, access_token=""
    )
    return KiteFeed(
        config,
        tokens=tokens or FixedToken(access_token),
        clock=SystemClock(),
        chance=AlwaysLate(),
        gate=gate,
    )


@contextlib.asynccontextmanager
async def running(feed: KiteFeed) -> AsyncIterator[Sink]:
    """Run the feed for the length of the block; afterwards none of its tasks is left."""
    sink = Sink()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(feed.run(sink))
        yield sink
        task.cancel()


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def stage() -> None:
        await scene()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(stage())


def play_at_exchange(
    scene: Callable[[CountingSimulator, KiteFeed], Awaitable[None]], **options: object
) -> None:
    async def stage() -> None:
        chosen = {"seed": 7, "rate_per_s": 20_000.0, "enforce_rate_limits": False, **options}
        async with CountingSimulator(SimulatorOptions(**chosen)) as simulator:  # type: ignore[arg-type]
            banner = simulator.banner()
            token = await asyncio.to_thread(log_in, simulator, "AB1234")
            feed = feed_of(
                str(banner["ws_root"]), api_key=str(banner["api_key"]), access_token=token
            )
            await scene(simulator, feed)

    asyncio.run(stage())


@pytest.fixture
def reconnects_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kite_feed, "RECONNECT", SOON)


def modes_of(simulator: CountingSimulator) -> dict[int, Mode]:
    """Return an index, a share and an option in a mode each."""
    catalogue = simulator.market.catalogue
    option = int(catalogue.instrument_token[-10])
    return {NIFTY: Mode.FULL, RELIANCE: Mode.QUOTE, option: Mode.LTP}


def lengths_of(modes: dict[int, Mode]) -> dict[int, int]:
    length = {Mode.LTP: 8, Mode.QUOTE: 44, Mode.FULL: 184}
    return {token: 32 if token == NIFTY else length[mode] for token, mode in modes.items()}


def test_each_instrument_arrives_in_the_mode_it_is_wanted_in() -> None:
    async def scene(simulator: CountingSimulator, feed: KiteFeed) -> None:
        modes = modes_of(simulator)
        feed.want(modes)
        async with running(feed) as sink:
            await sink.until(lambda: sink.ups() and sink.lengths() == lengths_of(modes))
            assert [up.connection for up in sink.ups()] == [0]
            assert feed.connection_of(NIFTY) == 0
            assert feed.connection_of(1) is None
            assert sink.downs() == []

    play_at_exchange(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_a_killed_socket_is_announced_and_everything_resumes_in_the_same_modes() -> None:
    async def scene(simulator: CountingSimulator, feed: KiteFeed) -> None:
        modes = modes_of(simulator)
        feed.want(modes)
        async with running(feed) as sink:
            await sink.until(lambda: sink.lengths() == lengths_of(modes))
            last_before = next(
                item for item in reversed(sink.items) if isinstance(item, Frame)
            ).received_at_ns
            simulator.feed.abort()
            await sink.until(sink.downs)
            down_at = len(sink.items)
            (down,) = sink.downs()
            assert (down.connection, down.login_required) == (0, False)
            assert down.reason == "closed_abruptly"
            assert last_before <= down.last_frame_ns <= down.at_ns

            await sink.until(lambda: sink.lengths(down_at) == lengths_of(modes))
            assert len(sink.ups()) == 2
            assert simulator.upgrades == 2

    play_at_exchange(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_a_connection_that_is_to_be_renewed_is_closed_and_subscribed_anew() -> None:
    async def scene(simulator: CountingSimulator, feed: KiteFeed) -> None:
        modes = modes_of(simulator)
        feed.want(modes)
        feed.renew(0)  # not open yet: nothing to close
        async with running(feed) as sink:
            await sink.until(sink.ups)
            feed.renew(0)
            await sink.until(sink.downs)
            down_at = len(sink.items)
            assert [down.reason for down in sink.downs()] == ["closed_abruptly"]
            await sink.until(lambda: sink.lengths(down_at) == lengths_of(modes))
            assert len(sink.ups()) == 2

    play_at_exchange(scene)


def test_a_muted_socket_lives_on_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    # Heartbeats come once a second: two of them last longer than the patience without them.
    monkeypatch.setattr(kite_feed, "SILENCE_S_MAX", 1.7)

    async def scene(simulator: CountingSimulator, feed: KiteFeed) -> None:
        feed.want(modes_of(simulator))
        async with running(feed) as sink:
            await sink.until(lambda: sink.lengths() and sink.ups())
            for connection in simulator.feed.connections():
                connection.mute_until(None)
            muted_at = len(sink.items)
            await sink.until(lambda: sink.payloads(muted_at).count(HEARTBEAT) >= 3)
            assert sink.downs() == []
            assert simulator.upgrades == 1

    play_at_exchange(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_a_server_that_says_nothing_is_declared_silent_and_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kite_feed.SILENCE_S_MAX == 5.0
    monkeypatch.setattr(kite_feed, "SILENCE_S_MAX", 0.3)

    async def scene() -> None:
        async with KiteStandIn(converse=nothing) as kite:
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(lambda: len(sink.downs()) == 2)
                down = sink.downs()[0]
                assert down.reason == "silent"
                assert down.at_ns - down.last_frame_ns >= 0.3 * NS_PER_S
                assert len(kite.upgrades_at_s) >= 2

    play(scene)


def test_a_refused_token_is_reported_once_and_not_tried_again() -> None:
    async def scene() -> None:
        async with KiteStandIn(answer=lambda _: 403) as kite:
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.downs)
                # What is wanted changes all the time; that is no reason to try again either.
                feed.want({RELIANCE: Mode.FULL})
                async with KiteStandIn() as other, running(other_feed := feed_of(other.url)) as up:
                    other_feed.want({NIFTY: Mode.FULL})
                    await up.until(lambda: len(up.payloads()) >= 3)
                (down,) = sink.downs()
                assert (down.reason, down.login_required) == ("http_403", True)
                assert len(kite.upgrades_at_s) == 1

    play(scene)


def test_a_refused_token_is_followed_by_the_next_one_as_soon_as_it_is_there() -> None:
    async def scene() -> None:
        logins = Logins()
        await logins.log_in("dead")
        asked: list[str] = []

        def answer(number: int) -> int | None:
            asked.append(kite.paths[number])
            return None if "access_token=good" in kite.paths[number] else 403

        async with KiteStandIn(answer=answer) as kite:
            feed = feed_of(kite.url, tokens=logins.source)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.downs)
                await logins.log_in("dead")
                await logins.log_in("dead-too")
                await sink.until(lambda: len(sink.downs()) == 2)
                # Back to one that was refused: no reason to try it.
                await logins.log_in("dead")
                await logins.log_in("good")
                await sink.until(sink.ups)
        assert [down.login_required for down in sink.downs()[:2]] == [True, True]
        assert [path.split("access_token=")[1] for path in asked] == ["dead", "dead-too", "good"]

    play(scene)


def test_at_six_in_the_morning_the_feed_waits_for_a_login_without_asking_the_broker() -> None:
    async def scene() -> None:
        logins = Logins()
        await logins.log_in("yesterday")
        async with KiteStandIn() as kite:
            feed = feed_of(kite.url, tokens=logins.source)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.ups)
                await logins.pass_six()
                await kite.sockets[-1].close()
                await sink.until(lambda: len(sink.downs()) == 2)
                down = sink.downs()[-1]
                assert (down.reason, down.login_required) == ("no_access_token", True)
                assert len(kite.paths) == 1
                await logins.log_in("today")
                await sink.until(lambda: len(sink.ups()) == 2)
                assert "access_token=today" in kite.paths[-1]

    play(scene)


class Logins:
    """An account whose logins serve the feed, at a time that the test sets."""

    def __init__(self) -> None:
        self.clock = ManualClock(EVENING_NS)
        self.tokens = MemoryTokens(self.clock)
        self.watch = TokenWatch([ACCOUNT], self.tokens, given={}, clock=self.clock)
        self.source = WatchedLogins(
            self.watch,
            [FeedAccountConfig(account=ACCOUNT, api_key="key")],
            given=FeedLogin(access_token=""),
        )

    async def log_in(self, value: str) -> None:
        token = AccessToken(
            account=ACCOUNT, user_id="AB1234", value=value, issued_at_ns=self.clock.now_ns()
        )
        await self.tokens.put(token)
        await self.watch.look(lambda _: None)

    async def pass_six(self) -> None:
        self.clock.advance(token_expires_ns(self.clock.now_ns()) - self.clock.now_ns())
        await self.watch.look(lambda _: None)


def test_a_token_that_ends_while_connected_is_reported_as_a_login() -> None:
    async def scene(simulator: CountingSimulator, feed: KiteFeed) -> None:
        feed.want({NIFTY: Mode.FULL})
        async with running(feed) as sink:
            await sink.until(lambda: sink.lengths() and sink.ups())
            simulator._sessions.expire_user("AB1234")
            simulator.feed.wake()
            await sink.until(lambda: len(sink.downs()) == 2)
            assert [down.reason for down in sink.downs()] == ["closed_1008", "http_403"]
            assert [down.login_required for down in sink.downs()] == [False, True]

    play_at_exchange(scene)


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_a_refusal_that_may_pass_is_tried_again_after_growing_waits(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kite_feed, "RECONNECT", Backoff(delay_s_min=0.05, delay_s_max=0.2))

    async def scene() -> None:
        async with KiteStandIn(answer=lambda n: status if n < 4 else None) as kite:
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.ups)
                assert [down.reason for down in sink.downs()] == [f"http_{status}"] * 4
                assert not any(down.login_required for down in sink.downs())
                at = kite.upgrades_at_s
                waits = [later - sooner for sooner, later in itertools.pairwise(at)]
                # The jitter is at its largest, so a wait is never shorter than the ceiling.
                for wait_s, ceiling_s in zip(waits, (0.1, 0.2, 0.2, 0.2), strict=True):
                    assert wait_s >= ceiling_s - 0.01

    play(scene)


def test_a_change_of_what_is_wanted_sends_only_the_difference() -> None:
    async def scene() -> None:
        async with KiteStandIn() as kite:
            feed = feed_of(kite.url)
            feed.want({1: Mode.FULL, 2: Mode.FULL, 3: Mode.LTP})
            async with running(feed) as sink:
                await sink.until(sink.ups)
                await kite.until(lambda: len(kite.requests[0]) == 3)
                assert kite.requests[0] == [
                    {"a": "subscribe", "v": [1, 2, 3]},
                    {"a": "mode", "v": ["full", [1, 2]]},
                    {"a": "mode", "v": ["ltp", [3]]},
                ]
                feed.want({2: Mode.FULL, 3: Mode.LTP, 1: Mode.FULL})
                feed.want({2: Mode.QUOTE, 3: Mode.LTP, 4: Mode.FULL})
                await kite.until(lambda: len(kite.requests[0]) == 7)
                assert kite.requests[0][3:] == [
                    {"a": "unsubscribe", "v": [1]},
                    {"a": "subscribe", "v": [4]},
                    {"a": "mode", "v": ["quote", [2]]},
                    {"a": "mode", "v": ["full", [4]]},
                ]
                assert len(sink.ups()) == 1

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_what_changed_while_disconnected_is_what_is_asked_for_after_it() -> None:
    async def scene() -> None:
        async with KiteStandIn() as kite:
            feed = feed_of(kite.url)
            feed.want({1: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.ups)
                kite.sockets[0].transport.abort()
                feed.want({2: Mode.QUOTE})
                await sink.until(lambda: len(sink.ups()) == 2)
                await kite.until(lambda: len(kite.requests) == 2 and len(kite.requests[1]) == 2)
                assert kite.requests[1] == [
                    {"a": "subscribe", "v": [2]},
                    {"a": "mode", "v": ["quote", [2]]},
                ]

    play(scene)


def test_large_subscriptions_are_asked_for_in_bounded_messages() -> None:
    async def scene() -> None:
        async with KiteStandIn() as kite:
            feed = feed_of(kite.url)
            feed.want(dict.fromkeys(range(1, 3_001), Mode.FULL))
            async with running(feed) as sink:
                await sink.until(sink.ups)
                await kite.until(lambda: len(kite.requests[0]) == 12)
                sizes = {
                    len(request["v"] if request["a"] == "subscribe" else request["v"][1])
                    for request in kite.requests[0]
                }
                assert sizes == {500}

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_beyond_three_thousand_instruments_connections_share_and_fail_apart() -> None:
    async def scene(simulator: CountingSimulator, feed: KiteFeed) -> None:
        tokens = simulator.market.catalogue.instrument_token.tolist()
        assert len(tokens) > 6_000
        feed.want(dict.fromkeys(tokens, Mode.LTP))
        async with running(feed) as sink:
            await sink.until(lambda: len(sink.ups()) == 3 and len(sink.lengths()) == len(tokens))
            carried = [len(each.subscription) for each in simulator.feed.connections()]
            assert sum(carried) == len(tokens)
            assert max(carried) <= 3_000

            killed = next(each for each in simulator.feed.connections())
            killed.abort()
            await sink.until(lambda: len(sink.ups()) == 4)
            (down,) = sink.downs()
            assert sink.ups()[-1].connection == down.connection
            assert simulator.upgrades == 4
            lost = [token for token in tokens if feed.connection_of(token) == down.connection]
            assert len(lost) in carried

    play_at_exchange(scene, strikes_each_side=180, rate_per_s=100.0)


def test_a_token_stays_on_its_connection_while_others_come_and_go() -> None:
    feed = feed_of("ws://127.0.0.1:1")
    feed.want(dict.fromkeys(range(6_000), Mode.LTP))
    before = {token: feed.connection_of(token) for token in range(1_000, 6_000)}

    feed.want(dict.fromkeys(range(1_000, 7_000), Mode.LTP))

    assert {token: feed.connection_of(token) for token in range(1_000, 6_000)} == before
    assert {feed.connection_of(token) for token in range(6_000, 7_000)} == {0}


def test_more_instruments_than_one_key_carries_are_refused() -> None:
    feed = feed_of("ws://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="9001 instruments wanted"):
        feed.want(dict.fromkeys(range(9_001), Mode.LTP))


def test_text_messages_become_events_whatever_they_say() -> None:
    texts = [
        ('{"type":"order","data":{"order_id":"1"}}', "order", {"order_id": "1"}),
        ('{"type":"error","data":"no such token"}', "error", "no such token"),
        ('{"type":"message","data":"closing early"}', "message", "closing early"),
        ('{"type":"instruments_meta","data":{"count":1}}', "unknown", {"count": 1}),
        ('{"type":7}', "unreadable", None),
        ("[1,2]", "unreadable", None),
        ("null", "unreadable", None),
        ("", "unreadable", ""),
        ("not json", "unreadable", "not json"),
        ("[" * 100_000, "unreadable", "[" * 200),
        ('{"type":"order"}', "order", None),
    ]

    async def scene() -> None:
        async with KiteStandIn() as kite:
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.ups)
                good = frame(ltp(NIFTY, 2_500_000))
                await kite.broadcast(*(text for text, _, _ in texts), good)
                await sink.until(lambda: good in sink.payloads())
                got = [(event.kind, event.data) for event in sink.texts()]
                assert got == [(kind, data) for _, kind, data in texts]
                assert {event.connection for event in sink.texts()} == {0}
                assert sink.downs() == []

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
@pytest.mark.parametrize(
    ("junk", "is_cut"),
    [
        pytest.param(b"\x82\x7f" + struct.pack(">Q", (4 << 20) + 1), True, id="too large a frame"),
        pytest.param(b"\x81\x02\xc3\x28", True, id="text that is not UTF-8"),
        pytest.param(b"\x83\x00", True, id="reserved opcode"),
        pytest.param(b"\x82\x81\x00\x00\x00\x00\x00", True, id="masked by a server"),
        pytest.param(b"\xc2\x00", True, id="compressed though not agreed"),
        pytest.param(b"\x02\x01\x00" + b"\x82\x01\x00", True, id="fragments that never end"),
        pytest.param(b"\x88\x02\x03\xe9", True, id="close 1001"),
        pytest.param(b"\x89\x04ping", False, id="ping"),
    ],
)
def test_a_broken_stream_costs_that_connection_and_no_more(junk: bytes, is_cut: bool) -> None:  # noqa: FBT001
    async def scene() -> None:
        async with KiteStandIn() as kite:
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.ups)
                kite.sockets[0].transport.write(junk)
                if is_cut:
                    await sink.until(lambda: len(sink.ups()) == 2)
                good = frame(ltp(NIFTY, 2_500_000))
                await kite.broadcast(good)
                await sink.until(lambda: good in sink.payloads())
                assert len(sink.downs()) == int(is_cut)

    play(scene)


def test_the_largest_frame_allowed_arrives_whole() -> None:
    async def scene() -> None:
        async with KiteStandIn() as kite:
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.ups)
                largest = bytes(kite_feed.FRAME_BYTES_MAX)
                await kite.broadcast(largest)
                await sink.until(lambda: largest in sink.payloads())
                assert sink.downs() == []

    play(scene)


FOLLOWS_REDIRECTS = "websockets follows redirects, and a Location it cannot parse is a ValueError"
ACCEPT_NOTHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
)


@pytest.mark.usefixtures("reconnects_soon")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="hangs up"),
        pytest.param(b"\xff" * 10_000, id="noise"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", id="an ordinary page"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", id="a lying length"
        ),
        pytest.param(b"HTTP/1.1 500 " + b"x" * 100_000, id="endless line"),
        pytest.param(b"HTTP/1.1 101 Y\r\n" + b"a: b\r\n" * 5_000 + b"\r\n", id="too many headers"),
        pytest.param(ACCEPT_NOTHING + b"\r\n", id="no key"),
        pytest.param(ACCEPT_NOTHING + b"Sec-WebSocket-Accept: wrong\r\n\r\n", id="wrong key"),
        pytest.param(b"HTTP/1.1 999 ?\r\n\r\n", id="unknown status"),
        pytest.param(b"HTTP/1.1 \xd9\xa3\xd9\xa3\xd9\xa3 x\r\n\r\n", id="status in other digits"),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: ws://[bad\r\n\r\n",
            id="redirect to nowhere",
        ),
        pytest.param(b"HTTP/1.1 302 Found\r\n\r\n", id="redirect without a place"),
        pytest.param(
            b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunks"
        ),
    ],
)
def test_a_hostile_answer_to_the_upgrade_is_a_failed_attempt_like_any_other(answer: bytes) -> None:
    async def scene() -> None:
        async with raw_server(answering(answer)) as port:
            feed = feed_of(f"ws://127.0.0.1:{port}")
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(lambda: len(sink.downs()) == 2)
                assert sink.ups() == []
                assert not any(down.login_required for down in sink.downs())

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_a_redirect_leads_the_feed_nowhere() -> None:
    async def scene() -> None:
        async with KiteStandIn() as elsewhere, KiteStandIn(answer=lambda _: 302) as kite:
            kite.headers["Location"] = elsewhere.url
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(lambda: sink.ups() or len(sink.downs()) == 2)
                assert elsewhere.upgrades_at_s == []
                assert {down.reason for down in sink.downs()} == {"http_302"}

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_an_upgrade_that_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kite_feed, "CONNECT_S_MAX", 0.1)

    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            feed = feed_of(f"ws://127.0.0.1:{listening.getsockname()[1]}")
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(lambda: len(sink.downs()) == 2)
                assert {down.reason for down in sink.downs()} == {"connect_timeout"}

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_a_broker_that_is_not_there_is_tried_until_it_is() -> None:
    async def scene() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"ws://127.0.0.1:{probe.getsockname()[1]}"
        feed = feed_of(url)
        feed.want({NIFTY: Mode.FULL})
        async with running(feed) as sink:
            await sink.until(lambda: len(sink.downs()) == 3)
            assert {down.reason for down in sink.downs()} == {
                "connect_failed: ConnectionRefusedError"
            }

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_connections_leave_a_broker_alone_that_fails_and_then_one_of_them_tries() -> None:
    """Three connections fail twice together; in the pause nobody tries, after it one does first."""
    open_s = 0.5
    breaker = Breaker(
        "feed",
        rules=BreakerRules(failures_max=6, open_s=open_s),
        clock=SystemClock(),
    )
    everything = dict.fromkeys(range(1, 3 * 3_000 + 1), Mode.LTP)

    async def scene() -> None:
        async with KiteStandIn(answer=lambda n: 503 if n < 6 else None) as kite:
            feed = feed_of(kite.url, gate=breaker)
            feed.want(everything)
            async with running(feed) as sink:
                await sink.until(lambda: len(sink.ups()) == 3)
            at = kite.upgrades_at_s
            assert len(at) == 9
            # Which is how long nobody tried; nobody else may before the probe has its answer.
            assert at[6] - at[5] >= open_s - 0.01
            assert breaker.state is BreakerState.CLOSED

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
@pytest.mark.parametrize("status", [400, 403, 429])
def test_an_answer_that_speaks_of_us_is_no_failure_of_the_broker(status: int) -> None:
    breaker = Breaker("feed", rules=BreakerRules(failures_max=1), clock=SystemClock())

    async def scene() -> None:
        async with KiteStandIn(answer=lambda _: status) as kite:
            feed = feed_of(kite.url, gate=breaker)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(sink.downs)
            assert breaker.state is BreakerState.CLOSED

    play(scene)


async def crowd(feed: KiteFeed, sink: Sink, kite: KiteStandIn, *, within_s: float) -> None:
    """Change what is wanted until the feed gives the connection up or the time is over."""
    flips = itertools.cycle([Mode.FULL, Mode.QUOTE])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not sink.downs():
                feed.want(dict.fromkeys(range(1 << 30, (1 << 30) + 3_000), next(flips)))
                await asyncio.sleep(0.002)  # the pace of asking, not a wait for anything
    # Whatever is stuck behind full buffers comes free now, so that the scene can end.
    for connection in kite.sockets:
        connection.transport.abort()


@pytest.mark.usefixtures("reconnects_soon")
def test_a_server_that_reads_nothing_but_stays_alive_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kite_feed, "SEND_S_MAX", 0.2)

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        while True:
            await connection.send(HEARTBEAT)
            await asyncio.sleep(0.05)

    async def scene() -> None:
        async with KiteStandIn(converse=deaf, receive_buffer_bytes=4_096) as kite:
            feed = feed_of(kite.url)
            async with running(feed) as sink:
                feed.want({NIFTY: Mode.FULL})
                await sink.until(sink.payloads)
                await crowd(feed, sink, kite, within_s=3.0)
                downs = sink.downs()
            assert downs

    play(scene)


@pytest.mark.usefixtures("reconnects_soon")
def test_a_silent_server_is_left_even_with_a_full_send_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kite_feed, "SILENCE_S_MAX", 1.0)
    monkeypatch.setattr(kite_feed, "CLOSE_S_MAX", 0.2)

    async def deaf_and_mute(connection: ServerConnection) -> None:
        await connection.send(HEARTBEAT)
        connection.transport.pause_reading()
        await asyncio.Event().wait()

    async def scene() -> None:
        async with KiteStandIn(converse=deaf_and_mute, receive_buffer_bytes=4_096) as kite:
            feed = feed_of(kite.url)
            async with running(feed) as sink:
                feed.want({NIFTY: Mode.FULL})
                await sink.until(sink.payloads)
                await crowd(feed, sink, kite, within_s=3.0)
                downs = sink.downs()
            assert [down.reason for down in downs] == ["silent"]

    play(scene)


def test_what_is_poured_in_while_the_subscription_is_on_its_way_stays_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kite_feed, "FRAMES_UNREAD_MAX", 64)
    released = asyncio.Event()
    request = kite_feed._Connection._request

    async def late(self: Any, *arguments: Any) -> bool:
        await released.wait()
        return await request(self, *arguments)

    monkeypatch.setattr(kite_feed._Connection, "_request", late)
    frame, frames_max = bytes(1 << 18), 1_000
    sent = 0

    async def pouring(connection: ServerConnection) -> None:
        nonlocal sent
        with contextlib.suppress(TimeoutError):
            while sent < frames_max:
                async with asyncio.timeout(0.5):
                    await connection.send(frame)
                sent += 1
        released.set()
        await asyncio.Event().wait()

    async def scene() -> None:
        async with KiteStandIn(converse=pouring) as kite:
            feed = feed_of(kite.url)
            feed.want({NIFTY: Mode.FULL})
            async with running(feed) as sink:
                await sink.until(lambda: sink.ups() and len(sink.payloads()) >= sent)
                assert isinstance(sink.items[0], FeedUp)
                # 64 wait in the library, the rest in the buffers of two sockets.
                assert sent < frames_max // 4

    play(scene)
