"""What the daemon prices, and what it must not pass off as priced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import numpy as np
from kite_stand_in import KiteStandIn
from running import Beside, Exchange, daemon, subscriber

from ticker_service.domain.tick import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SMILE_POINTS_MIN = 10
VOLATILITY_POINT = 0.01


def frames_of(exchange: Exchange, tokens: Iterable[int], mode: Mode) -> list[bytes]:
    """Return the exchange's present packets of some instruments in one mode."""

    def encoded() -> list[bytes]:
        market = exchange.simulator.market
        rows = np.array(sorted(market.catalogue.row_by_token[token] for token in tokens))
        return list(market.packets.frames(rows, np.full(len(rows), mode, np.uint8)))

    return exchange.call(encoded)


def test_a_quote_that_overtakes_the_request_for_depth_is_not_priced_as_if_it_had_depth(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    # Kite answers `subscribe` at once with the cached tick in quote mode; `mode` comes after it.
    with Beside(KiteStandIn) as kite:
        stand_in = kite.part
        settings = lively_exchange.settings(
            redis_url=redis_url, channel_prefix=prefix, kite_ws_root=stand_in.url, mode="full"
        )

        def subscribed() -> list[list[int]]:
            asked = stand_in.requests[0] if stand_in.requests else []
            return [request["v"] for request in asked if request["a"] == "subscribe"]

        with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings):
            kite.call(lambda: stand_in.until(lambda: len(subscribed()) == 1))
            underlyings = frames_of(lively_exchange, subscribed()[0], Mode.FULL)
            kite.call(lambda: stand_in.broadcast(*underlyings))
            kite.call(lambda: stand_in.until(lambda: len(subscribed()) == 2))
            options = subscribed()[1]
            for mode in (Mode.QUOTE, Mode.FULL):
                packets = frames_of(lively_exchange, options, mode)
                kite.call(lambda packets=packets: stand_in.broadcast(*packets))

            missing = set(options)
            while missing:
                batch = book.until(lambda m: m["kind"] == "batch")["columns"]
                for token, mode in zip(batch["instrument_token"], batch["mode"], strict=True):
                    if mode == "full":
                        missing.discard(token)
            passed_off = {
                columns["instrument_token"][row]
                for columns in (m["columns"] for m in book.seen if m["kind"] == "batch")
                for row, mode in enumerate(columns["mode"])
                if mode == "quote" and columns["iv_status"][row] == "OK"
            }
            assert passed_off == set()


def test_the_smile_is_the_one_the_exchange_priced_with(
    lively_exchange: Exchange, redis_url: str, prefix: str
) -> None:
    settings = lively_exchange.settings(
        redis_url=redis_url,
        channel_prefix=prefix,
        expiries=2,
        strikes_each_side=12,
        smile_ms=200,
    )

    def is_drawn(message: dict[str, Any]) -> bool:
        if message["kind"] != "smile":
            return False
        return min(message["columns"]["points"]) >= SMILE_POINTS_MIN

    with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book, daemon(settings):
        smile = book.until(is_drawn)
        numbered = [m["seq"] for m in book.seen if m["kind"] != "heartbeat"]
    truth = httpx.get(f"{lively_exchange.rest_root}/sim/truth", trust_env=False).json()["data"]

    columns, at_us = smile["columns"], smile["published_at_us"]
    assert numbered == list(range(1, len(numbered) + 1))
    assert columns["smile_status"] == ["OK", "OK"]
    step = int(np.searchsorted(truth["at_us"], at_us, side="right")) - 1
    for row, expiry in enumerate(columns["expiry"]):
        [curve] = [
            place
            for place, each in enumerate(truth["expiries"])
            if (each["underlying"], each["expiry"]) == ("NIFTY", expiry)
        ]
        level, slope = truth["level"][step][curve], truth["slope"][step][curve]
        # Quotes are up to seconds old and on the price step; a tenth of a point is their noise.
        assert abs(columns["atm_volatility"][row] - level) < 0.1 * VOLATILITY_POINT
        assert abs(columns["skew"][row] - slope) < 0.2
        assert columns["fit_error"][row] < 0.2 * VOLATILITY_POINT
        assert columns["butterfly_ok"][row] is not None
