"""Smiles are published when asked for, book by book in turn, and never otherwise."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import Any

import virtual_time
from small_exchange import EXPIRIES, NOW_NS, chain, choose, index, nifty
from virtual_time import LoopClock

from ticker_service.config import EngineConfig, KiteConfig, PublishConfig, SubscriptionConfig
from ticker_service.engine import Engine
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryPublisher, ScriptedFeed

ROWS = [*nifty([24_000.0, 24_100.0], EXPIRIES[:1]), index(5, "NIFTY BANK"), index(6, "INDIA VIX")]
ROWS += chain(500, "BANKNIFTY", EXPIRIES[0], [52_000.0])
CHOSEN = choose(ROWS, "NIFTY", "BANKNIFTY", instruments=["NSE:INDIA VIX"])


def smiles(publish: PublishConfig, *, seconds: float) -> list[dict[str, Any]]:
    """Run an engine for so long and return the smiles that it published."""

    async def scene() -> MemoryPublisher:
        publisher, stop = MemoryPublisher(), asyncio.Event()
        engine = Engine(
            CHOSEN,
            EngineConfig(
                kite=KiteConfig(rest_root="-", ws_root="-", api_key="-", access_token="-"),
                redis_url="-",
                subscription=SubscriptionConfig(underlyings=("NIFTY", "BANKNIFTY")),
                publish=publish,
            ),
            feed=ScriptedFeed(),
            publisher=publisher,
            surroundings=Surroundings(
                clock=LoopClock(NOW_NS),
                chance=random.Random(7),  # noqa: S311 - jitter, not a secret
                telemetry=Telemetry(),
            ),
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(engine.run(stop))
            await asyncio.sleep(seconds)
            stop.set()
        return publisher

    bodies = [json.loads(raw) for _, raw in virtual_time.run(scene()).messages]
    return [body for body in bodies if body["kind"] == "smile"]


def test_nobody_who_did_not_ask_gets_smiles() -> None:
    assert smiles(PublishConfig(), seconds=5.0) == []


def test_books_with_options_take_turns_and_each_has_its_period() -> None:
    found = smiles(PublishConfig(smile_ms=1_000), seconds=4.9)

    books = [body["book"] for body in found]
    assert books[:4] == ["BANKNIFTY", "NIFTY", "BANKNIFTY", "NIFTY"]
    times = [body["published_at_us"] for body in found]
    apart = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert apart == {500_000}
    assert len(found) == 10


def test_a_smile_without_quotes_says_so() -> None:
    first = smiles(PublishConfig(smile_ms=1_000), seconds=0.1)[0]

    assert first["columns"]["smile_status"] == ["NO_FORWARD"]
    assert first["columns"]["atm_volatility"] == [None]
