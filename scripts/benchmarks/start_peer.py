"""A user's own program from nothing to its first tick: the peer of the suite ``start``.

``KiteConnect.instruments()`` makes a dict of every line of the dump; the chains that are wanted are
picked out of them; ``KiteTicker`` subscribes what its socket carries; the first tick goes out. Its
price and Greeks are spared it.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import redis
from kiteconnect import KiteConnect, KiteTicker

# What a user's program loads to price with, whether the first tick needs it or not.
from scripts.benchmarks import path_peer
from ticker_service.simulator.listing import EQUITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

UNDERLYINGS: Final = ("NIFTY", "BANKNIFTY", "SENSEX")
SHARES: Final = 20
TOKENS_MAX: Final = 3_000
TICK_S_MAX: Final = 60.0
PREFIX: Final = "peer:start:"
PAGE_BYTES: Final = 4_096
BYTES_PER_MB: Final = 1e6


def main() -> None:
    """Read where to go from standard input; say what was found when the first tick is out."""
    way = orjson.loads(sys.stdin.buffer.readline())
    names = {*UNDERLYINGS, *(symbol for symbol, *_ in EQUITIES[:SHARES])}
    listed = KiteConnect(way["api_key"], root=way["rest_root"]).instruments()
    chosen = [each for each in listed if each["name"] in names]
    wanted = {each["instrument_token"]: each for each in chosen}
    client = redis.Redis.from_url(way["redis_url"])
    is_out = threading.Event()
    tokens = list(wanted)[:TOKENS_MAX]
    ticker = KiteTicker(way["api_key"], way["access_token"], root=way["ws_root"])

    def connected(socket: KiteTicker, _: object) -> None:
        socket.subscribe(tokens)
        socket.set_mode(socket.MODE_FULL, tokens)

    def ticked(_: KiteTicker, ticks: Sequence[dict[str, Any]]) -> None:
        for tick in ticks:
            message = orjson.dumps(tick, option=orjson.OPT_SERIALIZE_NUMPY)
            client.publish(f"{PREFIX}{tick['instrument_token']}", message)
            is_out.set()

    ticker.on_connect, ticker.on_ticks = connected, ticked
    ticker.connect(threaded=True)
    if not is_out.wait(TICK_S_MAX):
        raise SystemExit("no tick")
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    found = {
        "universe": len(wanted),
        "resident_mb": pages * PAGE_BYTES / BYTES_PER_MB,
        "prices_with": path_peer.implied_volatility.__module__,
    }
    sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
