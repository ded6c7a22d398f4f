"""What the daemon prices, and what it must not pass off as priced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from kite_stand_in import KiteStandIn
from running import Beside, Exchange, daemon, subscriber

from ticker_service.domain.tick import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable


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
