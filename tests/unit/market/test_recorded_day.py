"""A recorded day comes out of the path as it did when it was recorded.

tests/data/days/README.md says where it is from.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from kiteconnect import KiteTicker

from ticker_service.assembly import open_recordings
from ticker_service.market import tape
from ticker_service.market.replay import Replay, ReplayOptions, ReplaySummary
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryPublisher

DAYS: Final = Path(__file__).resolve().parents[2] / "data" / "days"
TAPE: Final = DAYS / "2026-11-21.tape"
GOLDEN: Final = DAYS / "2026-11-21.golden.json"
PREFIX: Final = "golden:"
TOLERANCE: Final = 1e-9
"""Another processor may differ in the last digits of a volatility."""
Body = dict[str, Any]


async def replayed() -> tuple[list[Body], Body, ReplaySummary]:
    """Return the messages of a replay, the last snapshot, and what it came to."""
    publisher = MemoryPublisher()
    surroundings = Surroundings(
        clock=SystemClock(),
        chance=random.Random(1),  # noqa: S311 - jitter, not a secret
        telemetry=Telemetry(),
    )
    async with open_recordings([TAPE]) as recordings:
        options = ReplayOptions(channel_prefix=PREFIX)
        summary = await Replay(recordings, publisher, options, surroundings=surroundings).run()
    bodies = [json.loads(raw) for _, raw in publisher.messages]
    return bodies, json.loads(publisher.values[f"{PREFIX}snapshot:NIFTY"]), summary


def golden_of(bodies: list[Body], snapshot: Body, summary: ReplaySummary) -> Body:
    """Return what is compared: every kind's count, all gaps, bars and rows, by column."""
    kinds = Counter(body["kind"] for body in bodies)
    batches = [body for body in bodies if body["kind"] == "batch"]
    names = list(batches[0]["columns"])
    return {
        "kinds": dict(sorted(kinds.items())),
        "frames": summary.frames,
        "gaps": [
            {name: body[name] for name in ("from_us", "to_us", "reason")}
            for body in bodies
            if body["kind"] == "gap"
        ],
        "rows": {
            name: [value for body in batches for value in body["columns"][name]]
            for name in names
            if name.split("_")[-1] not in {"2", "3", "4", "5"}
        },
        "bars": [body["columns"] for body in bodies if body["kind"] == "bars"],
        "snapshot": snapshot["columns"],
    }


@pytest.fixture(scope="module")
def day() -> tuple[list[Body], Body, ReplaySummary]:
    return asyncio.run(replayed())


def test_a_recorded_day_gives_the_columns_it_gave_then(
    day: tuple[list[Body], Body, ReplaySummary],
) -> None:
    assert_same(golden_of(*day), json.loads(GOLDEN.read_bytes()), "day")


def test_a_recorded_day_gives_the_same_bytes_each_time(
    day: tuple[list[Body], Body, ReplaySummary],
) -> None:
    *_, first = day
    *_, again = asyncio.run(replayed())
    assert again.sha256 == first.sha256
    assert (again.messages, again.losses, again.damaged_bytes) == (first.messages, 0, 0)


def test_the_last_rows_of_a_recorded_day_are_what_the_official_parser_reads_in_its_frames(
    day: tuple[list[Body], Body, ReplaySummary],
) -> None:
    """The golden columns are ours; the frames have a second reader."""
    bodies, *_ = day
    parser, last = KiteTicker("api_key", "access_token"), {}
    for frame in asyncio.run(frames()):
        for tick in parser._parse_binary(frame):
            levels = [tick["depth"][side][0] for side in ("buy", "sell")] if "depth" in tick else []
            is_crossed = len(levels) > 1 and levels[0]["price"] > levels[1]["price"] > 0
            if not is_crossed:
                last[tick["instrument_token"]] = tick
    latest: dict[int, Body] = {}
    for columns in (body["columns"] for body in bodies if body["kind"] == "batch"):
        for row in zip(*columns.values(), strict=True):
            named = dict(zip(columns, row, strict=True))
            latest[named["instrument_token"]] = named
    assert latest.keys() == last.keys()
    for token, tick in last.items():
        row = latest[token]
        assert row["ltp"] == tick["last_price"]
        assert row["volume"] == tick.get("volume_traded")
        assert row["oi"] == tick.get("oi")
        if "depth" in tick:
            for side, name in (("buy", "bid"), ("sell", "ask")):
                assert (row[name] or 0.0) == tick["depth"][side][0]["price"]


async def frames() -> list[bytes]:
    """Return the frames with ticks of the recording, in order."""
    async with open_recordings([TAPE]) as (recording,):
        steps = [step for step in recording.tape.steps() if step.name == tape.FLUSH]
    return [frame.payload for step in steps for frame in step.frames if len(frame.payload) > 2]


def assert_same(found: object, golden: object, where: str) -> None:
    """Compare like with like; numbers to the last digits but a few."""
    if isinstance(golden, dict):
        assert isinstance(found, dict)
        assert list(found) == list(golden), where
        for name, value in golden.items():
            assert_same(found[name], value, f"{where}.{name}")
    elif isinstance(golden, list):
        assert isinstance(found, list)
        assert len(found) == len(golden), where
        for number, value in enumerate(golden):
            assert_same(found[number], value, f"{where}[{number}]")
    elif isinstance(golden, float) and isinstance(found, float):
        assert np.isclose(found, golden, rtol=TOLERANCE, atol=1e-12), (where, found, golden)
    else:
        assert found == golden, where


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_of(*asyncio.run(replayed())), separators=(",", ":")) + "\n")
