"""The usual path as a process that keeps up as well as it can: the peer of the suite ``live``.

A user's ``kiteconnect``, ``vollib``, ``orjson`` and ``redis-py`` carry a sixth of these ticks, so
that what is not dropped grows older and older. This peer is written as well as that stack allows:
threads read the sockets and stamp the frames; when the worker comes back for more, it takes the
newest packet of every instrument and lets the rest go. Forwards are given to it.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
import orjson
from websockets.sync.client import connect

from scripts.benchmarks.path_peer import UsualPath
from scripts.benchmarks.service import UNDERLYINGS
from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.domain import universe as universes
from ticker_service.domain.session import ist_date
from ticker_service.ports import Frame
from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe

CONNECTIONS: Final = 3
HTTP_S_MAX: Final = 30.0
EXPIRIES: Final = 3
WAITING_FRAMES_MAX: Final = 4_000
PREFIX: Final = "peer:ticks:"
COUNT_BYTES: Final = 2
LENGTH_BYTES: Final = 2
TOKEN_BYTES: Final = 4


def main() -> None:
    """Read where to go from standard input, say so once ticks go out, and go on until killed."""
    way = orjson.loads(sys.stdin.buffer.readline())
    clock = SystemClock()
    with httpx.Client(trust_env=False, timeout=HTTP_S_MAX, base_url=way["rest_root"]) as http:
        dump = http.get("/instruments").raise_for_status().text
        truth = Truth(http.get("/sim/truth").raise_for_status().json()["data"])
    universe = universes.select(
        parse_dump(dump),
        underlyings=UNDERLYINGS,
        instruments=(),
        expiries_max=EXPIRIES,
        today=ist_date(clock.now_ns()),
    )
    usual = UsualPath(universe, way["redis_url"], prefix=PREFIX)
    forwards = _forwards(universe, truth)
    waiting: deque[Frame] = deque(maxlen=WAITING_FRAMES_MAX)
    has_news = threading.Event()
    address = f"{way['ws_root']}?api_key={way['api_key']}&access_token={way['access_token']}"
    for number in range(CONNECTIONS):
        tokens = universe.instrument_token[number::CONNECTIONS].tolist()
        threading.Thread(
            target=_read, args=(address, tokens, waiting, has_news, clock), daemon=True
        ).start()
    has_published = False
    while True:
        has_news.wait()
        has_news.clear()
        ticks = usual.publish(list(newest(_taken(waiting))), forwards)
        if ticks and not has_published:
            has_published = True
            sys.stdout.write('"publishing"\n')
            sys.stdout.flush()


def newest(frames: Sequence[Frame]) -> Iterator[Frame]:
    """Yield frames with the newest packet of each instrument, the newest first."""
    seen: set[bytes] = set()
    for frame in reversed(frames):
        packets = []
        for packet in _packets(frame.payload):
            token = packet[LENGTH_BYTES : LENGTH_BYTES + TOKEN_BYTES]
            if token not in seen:
                seen.add(token)
                packets.append(packet)
        if packets:
            payload = struct.pack(">H", len(packets)) + b"".join(packets)
            yield Frame(frame.received_at_ns, payload)


def _packets(payload: bytes) -> Iterator[bytes]:
    """Yield the packets of a frame, each with its length in front."""
    at = COUNT_BYTES
    while at + LENGTH_BYTES <= len(payload):
        end = at + LENGTH_BYTES + (payload[at] << 8 | payload[at + 1])
        yield payload[at:end]
        at = end


def _taken(waiting: deque[Frame]) -> list[Frame]:
    taken = []
    while waiting:
        taken.append(waiting.popleft())
    return taken


def _read(
    address: str,
    tokens: Sequence[int],
    waiting: deque[Frame],
    has_news: threading.Event,
    clock: SystemClock,
) -> None:
    with connect(address, compression=None, max_size=None, proxy=None) as socket:
        socket.send(orjson.dumps({"a": "subscribe", "v": tokens}).decode())
        socket.send(orjson.dumps({"a": "mode", "v": ["full", tokens]}).decode())
        for payload in socket:
            if isinstance(payload, bytes) and len(payload) > COUNT_BYTES:
                waiting.append(Frame(clock.now_ns(), payload))
                has_news.set()


def _forwards(universe: Universe, truth: Truth) -> NDArray[Any]:
    first = [int(np.flatnonzero(one.call_row >= 0)[0]) for one in universe.expiries]
    rows = [one.call_row[place] for one, place in zip(universe.expiries, first, strict=True)]
    tokens = universe.instrument_token[rows]
    return truth.forward(tokens, np.full(len(tokens), truth.until_us))


if __name__ == "__main__":
    main()
