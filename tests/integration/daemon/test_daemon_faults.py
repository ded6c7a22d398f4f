"""The daemon while the broker or Redis misbehaves: what its subscribers are told, and that it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from running import (
    Daemon,
    Exchange,
    assert_gap_free,
    daemon,
    eventually,
    exchange,
    is_kind,
    subscriber,
)

from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.embedded import EmbeddedRedis

MIB = 1 << 20


@contextlib.contextmanager
def stopped(server: EmbeddedRedis) -> Iterator[None]:
    """Let the server do nothing for the length of the block, its connections staying open."""
    os.kill(server.child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.child.pid, signal.SIGCONT)


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1_024


def rows_of(message: dict[str, Any]) -> int:
    return int(message["n"]) if message["kind"] == "batch" else 0


def test_a_killed_socket_is_told_with_its_gap_and_ticks_resume(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, heartbeat_ms=100, snapshot_ms=100
    )
    with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings) as running:
        running.becomes_ready()
        before = book.until(is_kind("batch"))
        lively_exchange.fault(fault="kill_sockets")

        down = book.until(is_kind("status", state="feed_down"))
        assert down["reason"] == "closed_abruptly"
        # Half a second at least until the first attempt: the channel is not silent meanwhile.
        beat = book.until(is_kind("heartbeat"))
        # What is called stale for it may go out in between.
        assert (beat["feed"], beat["seq"]) == ("down", book.seen[-2]["seq"])

        gap = book.until(is_kind("gap"))
        assert gap["reason"] == "closed_abruptly"
        assert before["published_at_us"] - 1_000_000 < gap["from_us"] < gap["to_us"]
        assert gap["from_us"] <= down["published_at_us"] <= gap["to_us"]
        subscribed = running.ready().json()["subscribed"]
        assert len(gap["instruments"]) == len(set(gap["instruments"])) == subscribed
        up = book.until(is_kind("status", state="feed_up"))
        assert up["seq"] == gap["seq"] + 1

        # Every instrument is there again: the exchange sends the cached tick of each at once.
        missing = set(gap["instruments"])
        while missing:
            batch = book.until(is_kind("batch"))
            missing -= set(batch["columns"]["instrument_token"])
        assert running.ready().json()["feed"] == "up"
        assert running.metric('gaps_announced_total{reason="closed_abruptly"}') == 1
        assert_gap_free(book.seen)
        assert {message["epoch"] for message in book.seen} == {running.epoch}
        assert lively_exchange.simulator.upgrades == 2


def test_several_failed_attempts_are_one_outage_and_one_gap(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(redis_url=redis_url, channel_prefix=prefix)
    with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings) as running:
        running.becomes_ready()
        lively_exchange.simulator.refusals += [503]
        lively_exchange.fault(fault="kill_sockets")
        down = book.until(is_kind("status", state="feed_down"))
        gap = book.until(is_kind("gap"))
        book.until(is_kind("status", state="feed_up"))
        book.until(is_kind("batch"))
        assert lively_exchange.simulator.refusals == []
        assert gap["reason"] == down["reason"] == "closed_abruptly"
        states = [m["state"] for m in book.seen if m["kind"] == "status"]
        assert states == ["feed_up", "feed_down", "feed_up"]
        assert_gap_free(book.seen)


def test_an_expired_token_asks_for_a_login_and_hammers_nobody(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, heartbeat_ms=100, snapshot_ms=100
    )
    with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings) as running:
        running.becomes_ready()
        assert lively_exchange.simulator.upgrades == 1
        lively_exchange.fault(fault="expire_tokens", user_id=lively_exchange.user_id)
        status = book.until(is_kind("status", state="login_required"))
        assert status["reason"] == "http_403"

        # Thirty heartbeats are three seconds: a loop without patience would show by then.
        for _ in range(30):
            beat = book.until(is_kind("heartbeat"))
        assert beat["feed"] == "login_required"
        assert lively_exchange.simulator.upgrades == 2
        answer = running.ready()
        assert (answer.status_code, answer.json()["feed"]) == (503, "login_required")
        assert running.get("/health/live").status_code == 200
        assert_gap_free(book.seen)
        running.program.signal(signal.SIGTERM)
        assert running.program.wait() == 0


def test_redis_away_for_a_while_costs_a_subscriber_that_stayed_nothing(
    lively_exchange: Exchange, own_redis: EmbeddedRedis
) -> None:
    settings = lively_exchange.settings(redis_url=own_redis.url)
    with (
        subscriber(own_redis.url, "ticker:v1:ticks:NIFTY") as book,
        daemon(settings) as running,
    ):
        running.becomes_ready()
        book.until(is_kind("batch"))
        with stopped(own_redis):
            assert eventually(lambda: running.metric("publish_failures_total") >= 1)
            # The feed goes on into the inbox, and health says that nothing goes out.
            waiting = running.ready().json()["inbox_bytes"]
            assert eventually(lambda: running.ready().json()["inbox_bytes"] > waiting)
            assert running.get("/health/live").status_code == 200

        failed_at_us = book.seen[-1]["published_at_us"]
        book.until(
            lambda m: m["kind"] == "batch" and m["published_at_us"] > failed_at_us + 2_000_000
        )
        book.until(is_kind("heartbeat"))
        assert_gap_free(book.seen)
        assert [m for m in book.seen if m["kind"] == "gap"] == []
        assert {m["state"] for m in book.seen if m["kind"] == "status"} == {"feed_up"}
        assert eventually(lambda: running.ready().status_code == 200)
        assert lively_exchange.simulator.upgrades == 1
        assert "publish_recovered" in running.program.err.text()
        # What waited too long was merged to the newest tick of each instrument, and says so.
        assert running.metric("ticks_conflated_total") > 0


def test_health_turns_away_traffic_while_redis_is_away(
    lively_exchange: Exchange, own_redis: EmbeddedRedis
) -> None:
    with daemon(lively_exchange.settings(redis_url=own_redis.url)) as running:
        running.becomes_ready()
        with stopped(own_redis):
            assert eventually(lambda: running.ready().status_code == 503, within_s=8.0)
        assert eventually(lambda: running.ready().status_code == 200)


def test_the_metric_of_the_inbox_says_what_waits(
    lively_exchange: Exchange, own_redis: EmbeddedRedis
) -> None:
    with daemon(lively_exchange.settings(redis_url=own_redis.url)) as running:
        running.becomes_ready()
        with stopped(own_redis):
            assert eventually(lambda: running.ready().json()["inbox_bytes"] > 1_000)
            assert eventually(lambda: running.metric("inbox_bytes") > 0)


def test_a_backlog_beyond_its_limit_is_bounded_and_told_as_a_gap(own_redis: EmbeddedRedis) -> None:
    options = SimulatorOptions(seed=7, rate_per_s=20_000.0, enforce_rate_limits=False)
    with exchange(options) as running_exchange:
        settings = running_exchange.settings(
            redis_url=own_redis.url,
            backlog_bytes_max=MIB,
            flush_bytes_max=MIB // 2,
            expiries=3,
            strikes_each_side=20,
        )
        with (
            subscriber(own_redis.url, "ticker:v1:ticks:NIFTY") as book,
            daemon(settings) as running,
        ):
            running.becomes_ready(subscribed_min=200)
            memory = resident_bytes(running.program.pid)
            with stopped(own_redis):
                peak = _watch_the_inbox_fill(running)
            gap = book.until(is_kind("gap"))
            batch = book.until(is_kind("batch"))

            assert peak <= MIB
            assert gap["reason"] == "overflow"
            # One dropped frame is an interval of no length.
            assert gap["from_us"] <= gap["to_us"]
            assert batch["seq"] == gap["seq"] + 1
            assert running.metric("inbox_frames_dropped_total") > 0
            assert resident_bytes(running.program.pid) - memory < 64 * MIB
            assert_gap_free(book.seen)


def _watch_the_inbox_fill(running: Daemon) -> int:
    """Return the most that was seen to wait, once the oldest of it must have been dropped."""
    seen = [0]

    def has_overflown() -> bool:
        seen.append(running.ready().json()["inbox_bytes"])
        # Nothing leaves while Redis stands still: what is less than before was dropped.
        return seen[-2] > MIB - 65_536 and seen[-1] < seen[-2]

    assert eventually(has_overflown), seen[-10:]
    return max(seen)


def test_heartbeats_without_data_are_told_apart_from_a_quiet_market(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, heartbeat_ms=100, snapshot_ms=100
    )
    with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings) as running:
        running.becomes_ready()
        book.until(lambda m: m["kind"] == "batch" and not m["columns"]["is_cached"][0])
        # Long enough that the instruments' usual rates are known.
        assert eventually(lambda: running.metric('ticks_published_total{book="NIFTY"}') > 500)
        lively_exchange.fault(fault="mute_sockets")

        silent = book.until(is_kind("status", state="feed_silent"))
        beat = book.until(is_kind("heartbeat"))
        assert (beat["feed"], beat["market"], beat["seq"]) == ("silent", "open", silent["seq"])
        assert running.ready().json()["reason"] == "feed silent"
        assert running.metric("feed_connections_silent") == 1

        lively_exchange.fault(fault="unmute_sockets")
        gap = book.until(is_kind("gap", reason="heartbeats_only"))
        assert gap["from_us"] < silent["published_at_us"] - 4_000_000
        assert book.until(is_kind("status", state="feed_up"))["seq"] == gap["seq"] + 1
        book.until(is_kind("batch"))
        running.becomes_ready()
    assert_gap_free(book.seen)


def test_a_silence_that_lasts_is_ended_by_a_new_connection(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, heartbeat_ms=100, snapshot_ms=100
    )
    with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings) as running:
        running.becomes_ready()
        assert eventually(lambda: running.metric('ticks_published_total{book="NIFTY"}') > 500)
        lively_exchange.fault(fault="mute_sockets")
        silent = book.until(is_kind("status", state="feed_silent"))
        down = book.until(is_kind("status", state="feed_down"), within_s=60.0)
        assert down["reason"] == "closed_abruptly"
        gap = book.until(is_kind("gap"))
        assert gap["reason"] == "heartbeats_only"
        assert gap["from_us"] < silent["published_at_us"] - 4_000_000
        book.until(is_kind("status", state="feed_up"))
        running.becomes_ready()
    assert_gap_free(book.seen)
