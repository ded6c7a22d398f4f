"""Whatever comes over the feed's socket, the daemon counts it and goes on."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from kite_stand_in import NIFTY, KiteStandIn, frame, ltp
from running import LIVELY, Beside, Daemon, Subscriber, daemon, eventually, exchange, subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB: Final = 1 << 20
LENGTHS: Final = (8, 28, 32, 44, 184)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A daemon fed by the test, and a subscriber of what it publishes."""

    running: Daemon
    kite: Beside
    book: Subscriber
    tokens: list[int]
    prices: Iterator[int]

    def send(self, *messages: str | bytes) -> None:
        self.kite.call(lambda: self.kite.part.broadcast(*messages))

    def assert_it_goes_on(self) -> None:
        """Check that a good tick still comes out priced as it went in."""
        paise = next(self.prices)
        self.send(frame(ltp(NIFTY, paise)))
        self.book.until(
            lambda m: m["kind"] == "batch" and paise / 100 in m["columns"]["ltp"], within_s=5.0
        )
        assert self.running.program.is_running()
        assert eventually(lambda: self.running.ready().status_code == 200)

    def rejected(self, reason: str) -> float:
        return self.running.metric(f'feed_packets_rejected_total{{reason="{reason}"}}')


@contextlib.contextmanager
def fed_by_the_test(redis_url: str) -> Iterator[Stage]:
    """Run a daemon whose feed is the test, under a channel prefix of its own."""
    prefix = f"test-{uuid.uuid4().hex}:"
    with exchange(LIVELY) as lively, Beside(KiteStandIn) as kite:
        settings = lively.settings(
            redis_url=redis_url, channel_prefix=prefix, kite_ws_root=kite.part.url
        )
        with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings) as running:
            kite.call(lambda: kite.part.until(lambda: kite.part.requests and kite.part.requests[0]))
            (subscribe,) = (r for r in kite.part.requests[0][:1])
            stage = Stage(
                running=running,
                kite=kite,
                book=book,
                tokens=subscribe["v"],
                prices=itertools.count(2_400_001, 10),
            )
            stage.assert_it_goes_on()
            yield stage


@pytest.fixture(scope="module")
def stage(redis_url: str) -> Iterator[Stage]:
    """One daemon for all of it: what any message does to it meets every later test."""
    with fed_by_the_test(redis_url) as stage:
        yield stage


@pytest.fixture
def fresh_stage(redis_url: str) -> Iterator[Stage]:
    """A daemon that has received nothing yet, and waits little before it connects again."""
    with fed_by_the_test(redis_url) as stage:
        yield stage


def random_frames(seed: int) -> list[bytes]:
    chance = random.Random(seed)  # noqa: S311 - a fixed sequence
    return [chance.randbytes(chance.randrange(600)) for _ in range(500)]


def framed(*parts: tuple[int, bytes], count: int | None = None) -> bytes:
    """Return a container whose counts and lengths are the test's own."""
    body = b"".join(struct.pack(">H", length) + packet for length, packet in parts)
    return struct.pack(">H", len(parts) if count is None else count) + body


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        pytest.param(lambda: random_frames(1), "malformed_frame", id="random bytes"),
        pytest.param(
            lambda: [b"", b"\x00", b"\x00\x00", b"\x00\x01"], "malformed_frame", id="short"
        ),
        pytest.param(
            lambda: [framed((8, ltp(NIFTY, 1)), count=65_535)],
            "malformed_frame",
            id="too many said",
        ),
        pytest.param(
            lambda: [framed((8, ltp(NIFTY, 1)), (8, ltp(NIFTY, 1)), count=1)],
            "malformed_frame",
            id="too few said",
        ),
        pytest.param(
            lambda: [framed((65_535, b"x"))], "malformed_frame", id="length beyond the end"
        ),
        pytest.param(lambda: [framed((0, b""), (0, b""))], "unknown_length", id="empty packets"),
        pytest.param(lambda: [framed((45, bytes(45)))], "unknown_length", id="unknown layout"),
        pytest.param(lambda: [b"\xff" * (4 * MIB)], "malformed_frame", id="four megabytes"),
        pytest.param(
            lambda: [frame(*[ltp(7, 100)] * 65_535)] * 3, "unknown_token", id="a flood of strangers"
        ),
        pytest.param(lambda: [frame(ltp(NIFTY, 0))], "impossible_price", id="no price"),
        pytest.param(
            lambda: [frame(struct.pack(">Ii", NIFTY, -5))], "impossible_price", id="below zero"
        ),
        pytest.param(
            lambda: [frame(struct.pack(">8I", NIFTY, *[2_500_000] * 6, 0xFFFFFFFF))],
            "future_time",
            id="from the next century",
        ),
    ],
)
def test_frames_that_lie_are_counted_and_passed_over(
    stage: Stage, hostile: Callable[[], list[bytes]], reason: str
) -> None:
    before = stage.rejected(reason)
    stage.send(*hostile())
    assert eventually(lambda: stage.rejected(reason) > before)
    stage.assert_it_goes_on()


def test_what_was_refused_can_be_looked_at_on_the_loopback_listener(fresh_stage: Stage) -> None:
    fresh_stage.send(frame(ltp(7, 100)), b"\xff\xff\xff\xff")
    fresh_stage.assert_it_goes_on()
    refused = fresh_stage.running.get("/debug/refusals").json()
    assert refused["unknown_token"]["samples"][0]["instrument_token"] == 7
    assert refused["malformed_frame"]["samples"][0]["head"] == "ffff ffff"
    assert refused["time_back"] == {
        "meaning": "stamped before a tick of the instrument that was already accepted",
        "count": 0,
        "samples": [],
    }


def test_any_content_of_known_instruments_is_survived(fresh_stage: Stage) -> None:
    chance = random.Random(2)  # noqa: S311 - a fixed sequence
    packets = []
    for _ in range(5_000):
        token = chance.choice(fresh_stage.tokens)
        length = chance.choice(LENGTHS)
        # Half of the values are extreme, where arithmetic overflows.
        body = b"".join(
            struct.pack(">I", chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
            if chance.random() < 0.5
            else chance.randbytes(4)
            for _ in range(length // 4 - 1)
        )
        packets.append(struct.pack(">I", token) + body)
    fresh_stage.send(*(frame(*packets[start : start + 100]) for start in range(0, 5_000, 100)))
    fresh_stage.assert_it_goes_on()
    assert fresh_stage.running.metric("feed_packets_total") >= 5_000


def nested(depth: int) -> str:
    return '{"type":"message","data":' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{" * 100_000, id="unfinished"),
        pytest.param("[" * 1_000 + "]" * 1_000, id="deep but no message"),
        pytest.param(nested(300), id="deep"),
        pytest.param(
            nested(1_000),
            id="as deep as the parser goes",
        ),
        pytest.param(nested(100_000), id="deeper"),
        pytest.param('{"type":"message","data":"' + "x" * (3 * MIB) + '"}', id="huge"),
        pytest.param(
            '{"type":"error","data":"\\u0000\\u001b[31m\\n{\\"event\\":\\"x\\"}"}', id="escapes"
        ),
        pytest.param('{"type":"\\u202e","data":null}', id="strange type"),
        pytest.param('{"type":"message","data":1e400}', id="number without end"),
        pytest.param('{"type":"order","data":[1,2,3]}', id="order of another shape"),
    ],
)
def test_texts_that_hurt_are_counted_and_passed_over(stage: Stage, text: str) -> None:
    def texts() -> float:
        metrics = stage.running.metrics()
        return sum(v for name, v in metrics.items() if name.startswith("feed_texts_total"))

    before = texts()
    stage.send(text)
    stage.assert_it_goes_on()
    assert texts() == before + 1
    # One line of JSON at most, bounded, whatever was in it.
    assert all(len(line) < 5_000 for line in stage.running.program.err.lines())


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"\x81\x02\xc3\x28", id="not UTF-8"),
        pytest.param(b"\x82\x7f" + struct.pack(">Q", 1 << 62), id="a frame of exabytes"),
        pytest.param(b"\x82\x7f" + struct.pack(">Q", 4 * MIB + 1), id="beyond four megabytes"),
        pytest.param(b"\xff" * 1_000, id="noise"),
        pytest.param(b"\x88\x7d" + b"x" * 125, id="a close with nonsense"),
    ],
)
def test_a_stream_that_breaks_the_protocol_is_left_and_opened_again(
    fresh_stage: Stage, junk: bytes
) -> None:
    fresh_stage.kite.call(lambda: fresh_stage.kite.part.sockets[-1].transport.write(junk))
    fresh_stage.book.until(lambda m: m["kind"] == "status" and m["state"] == "feed_down")
    fresh_stage.book.until(lambda m: m["kind"] == "status" and m["state"] == "feed_up")
    fresh_stage.assert_it_goes_on()
