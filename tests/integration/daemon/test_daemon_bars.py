"""Bars on Redis, from a real exchange over a real socket, against what the exchange says was traded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from running import (
    DEADLINE_S,
    Exchange,
    assert_gap_free,
    daemon,
    eventually,
    exchange,
    is_kind,
    subscriber,
)

from ticker_service.client import BarReader, Message
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from ticker_service.simulator.candles import Candle

CALM = SimulatorOptions(seed=7, rate_per_s=150.0, strikes_each_side=5, enforce_rate_limits=False)
EXACT_RATIO_MIN = 0.7


def rows_of(message: dict[str, Any]) -> dict[int, dict[str, Any]]:
    columns = message["columns"]
    return {
        token: dict(zip(columns, values, strict=True))
        for token, values in zip(
            columns["instrument_token"], zip(*columns.values(), strict=True), strict=True
        )
    }


def truth_of(running: Exchange, token: int, start_s: int) -> tuple[Candle, float]:
    market = running.simulator.market
    row = market.catalogue.row_by_token[token]

    def asked() -> Candle:
        (candle,) = market.candles.candles(row, from_s=start_s, to_s=start_s, length_s=60)
        return candle

    return running.call(asked), float(market.catalogue.price_scale[row])


@pytest.mark.slow
def test_a_minute_of_bars_is_the_exchange_s_own_candles(
    redis_url: str, redis_client: redis.Redis, prefix: str
) -> None:
    with exchange(CALM) as calm:
        settings = calm.settings(redis_url=redis_url, channel_prefix=prefix, bars="1m")
        with (
            subscriber(redis_url, f"{prefix}bars:NIFTY:1m") as book,
            daemon(settings) as running,
        ):
            running.becomes_ready()
            whole = book.until(
                lambda m: m["kind"] == "bars" and not all(m["columns"]["is_partial"]),
                within_s=150.0,
            )
            newest = orjson.loads(redis_client.get(f"{prefix}bar:NIFTY:1m"))
            assert (newest["kind"], newest["seq"]) == ("bar", whole["seq"])
            assert newest["columns"] == whole["columns"]
        assert_gap_free(book.seen)
        exact = compared = 0
        for token, bar in rows_of(whole).items():
            if bar["is_partial"]:
                continue
            candle, scale = truth_of(calm, token, whole["start_us"] // 1_000_000)
            compared += 1
            if bar["ticks"] != candle.trades:
                # The machine was busy and a packet held two trades: nothing can have been made up.
                assert bar["low"] >= candle.low_raw / scale
                assert bar["high"] <= candle.high_raw / scale
                continue
            exact += 1
            raw = [round(bar[name] * scale) for name in ("open", "high", "low", "close")]
            truth = [candle.open_raw, candle.high_raw, candle.low_raw, candle.close_raw]
            assert raw == truth
            assert (bar["volume"] or 0) == candle.volume
        assert compared > 10
        assert exact >= EXACT_RATIO_MIN * compared


def test_bars_of_a_second_are_numbered_and_say_what_they_lack(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, bars="1s,1m", heartbeat_ms=100, snapshot_ms=100
    )
    with subscriber(redis_url, f"{prefix}bars:NIFTY:1s") as book, daemon(settings) as running:
        running.becomes_ready()
        book.until(is_kind("heartbeat", feed="up"))
        whole = book.until(lambda m: m["kind"] == "bars" and not any(m["columns"]["is_partial"]))
        assert whole["end_us"] - whole["start_us"] == 1_000_000
        rows = rows_of(whole)
        assert any(bar["implied_volatility"] for bar in rows.values())
        assert all(bar["low"] <= bar["close"] <= bar["high"] for bar in rows.values())

        lively_exchange.fault(fault="kill_sockets")
        gap = book.until(is_kind("gap"))
        assert gap["reason"] == "closed_abruptly"
        partial = book.until(lambda m: m["kind"] == "bars" and any(m["columns"]["is_partial"]))
        assert partial["start_us"] <= gap["to_us"]
        book.until(
            lambda m: (
                m["kind"] == "bars"
                and m["start_us"] > gap["to_us"]
                and not any(m["columns"]["is_partial"])
            )
        )
        beat = book.until(is_kind("heartbeat"))
        assert beat["closed_until_us"] >= book.seen[-2].get("end_us", 0)
        assert eventually(lambda: running.metric("bars_published_total") > 0)
    assert_gap_free(book.seen)


def test_a_bar_reader_yields_each_finished_bar_once(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    async def read(until: Callable[[list[Message]], bool]) -> tuple[list[Message], int]:
        seen: list[Message] = []
        async with BarReader(redis_url, ["NIFTY"], "1s", channel_prefix=prefix) as reader:
            async with asyncio.timeout(DEADLINE_S):
                async for message in reader:
                    seen.append(message)
                    if until(seen):
                        break
            newest = await reader.newest("NIFTY")
            assert newest is not None
            assert newest.body["start_us"] >= bars_of(seen)[-1].body["start_us"]
            return seen, reader.missed + reader.unreadable

    settings = lively_exchange.settings(
        redis_url=redis_url, channel_prefix=prefix, bars="1s", heartbeat_ms=100, snapshot_ms=100
    )
    with daemon(settings) as running:
        running.becomes_ready()
        seen, lost = asyncio.run(read(lambda seen: len(bars_of(seen)) == 3))
    starts = [message.body["start_us"] for message in bars_of(seen)]
    assert starts == sorted(set(starts))
    assert len(bars_of(seen)[0].to_numpy()["close"]) == bars_of(seen)[0].body["n"]
    assert not lost


def bars_of(seen: list[Message]) -> list[Message]:
    return [message for message in seen if message.kind == "bars"]
