"""A subscriber as a process: how old each row is when its message has come.

Started by the suite ``live``. Reads messages as they come and looks into them only for what it
needs, ``received_at_us``: what a consumer does with its rows is not what is measured. Understands
ours (columns) and the peer's (one object per tick).
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson
import redis

from ticker_service.constants import NS_PER_MS, NS_PER_S, NS_PER_US
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from numpy.typing import NDArray

POLL_S: Final = 0.5
NUMBERS: Final = re.compile(rb'"received_at_us":\[?([0-9]+(?:,[0-9]+)*)')
REPRICED: Final = b'"is_repriced":[true'
QUANTILES: Final = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9}


def main() -> None:
    """Listen to a pattern of channels of a Redis for so many seconds, and print what was found."""
    url, pattern, seconds = sys.argv[1:]
    clock = SystemClock()
    ages_us: list[NDArray[np.int64]] = []
    messages = 0
    with redis.Redis.from_url(url) as client, client.pubsub() as pubsub:
        pubsub.psubscribe(pattern)
        pubsub.get_message(timeout=POLL_S)
        sys.stdout.write('"listening"\n')
        sys.stdout.flush()
        until_ns = clock.monotonic_ns() + int(float(seconds) * NS_PER_S)
        while clock.monotonic_ns() < until_ns:
            message = pubsub.get_message(timeout=POLL_S)
            now_us = clock.now_ns() // NS_PER_US
            if message is None or message["type"] != "pmessage":
                continue
            messages += 1
            ages_us.append(now_us - received_at_us(message["data"]))
    age_ms = np.concatenate(ages_us) * (NS_PER_US / NS_PER_MS) if ages_us else np.empty(0)
    found: dict[str, float] = {
        "rows_per_s": len(age_ms) / float(seconds),
        "messages_per_s": messages / float(seconds),
    }
    if len(age_ms):
        found |= {name: float(np.percentile(age_ms, at)) for name, at in QUANTILES.items()}
    sys.stdout.buffer.write(orjson.dumps(found) + b"\n")


def received_at_us(message: bytes) -> NDArray[np.int64]:
    """Return when each tick of a message was received; none for what is no news.

    Rows that go out again because a forward moved had no packet, so nothing was received.
    """
    found = NUMBERS.search(message)
    if found is None or REPRICED in message:
        return np.empty(0, np.int64)
    return np.array(orjson.loads(b"[" + found[1] + b"]"), np.int64)


if __name__ == "__main__":
    main()
