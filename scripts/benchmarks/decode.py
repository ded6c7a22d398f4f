"""Suite ``decode``: our decoder against the parser of Kite's official client, on the same frames.

Frames that wait together are decoded together, as the inbox hands them on. Here 1,200 packets wait,
which is what 60,000 a second bring in the daemon's flush interval of 20 ms, in frames of 1, 10 or
100; of frames with a thousand packets one waits. The peer parses frame by frame, as it must.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from kiteconnect import KiteTicker

from scripts.benchmarks import frames
from scripts.benchmarks.measure import (
    Disagreement,
    Options,
    Result,
    compared,
    interleaved,
    repeated,
)
from ticker_service.constants import NS_PER_S
from ticker_service.domain.tick import NOT_CARRIED, Mode, Ticks
from ticker_service.market import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.ports import Frame

FRAME_PACKETS: Final = (1, 10, 100, 1_000)
WAITING_PACKETS: Final = 1_200
BATCHES: Final = 5
"""What was received a moment ago is in the cache; a hundred batches would not be."""
BATCHES_QUICK: Final = 2
MIXED_GOAL: Final = 25.0
FULL_GOAL: Final = 50.0
KINDS: Final = (("decode", frames.MIXED, MIXED_GOAL), ("decode_full", frames.FULL, FULL_GOAL))


def run(options: Options) -> list[Result]:
    """Check, measure and return the comparisons."""
    return [
        _compared(f"{name}_{size}", modes, size, goal, options)
        for name, modes, goal in KINDS
        for size in FRAME_PACKETS
    ]


def _compared(
    name: str, modes: frames.Share, frame_packets: int, goal: float, options: Options
) -> Result:
    count = BATCHES_QUICK if options.is_quick else BATCHES
    frame_count = WAITING_PACKETS // frame_packets
    packet_count = frame_count * frame_packets
    waiting = frames.batches(
        modes, frame_packets=frame_packets, batch_packets=packet_count, count=count
    )
    parser = KiteTicker("api_key", "access_token")
    for batch in waiting:
        check(decode.frames(batch).ticks, _parsed(parser, batch))

    # A consumer has done with a batch before the next one comes; so it is dropped here.
    def ours() -> None:
        for batch in waiting:
            decode.frames(batch)

    def theirs() -> None:
        for batch in waiting:
            _parsed(parser, batch)

    turns = interleaved({"ours": repeated(ours), "peer": repeated(theirs)}, runs=options.runs)
    return compared(
        name,
        turns["ours"],
        turns["peer"],
        items=count * packet_count,
        unit="packets/s",
        against="kiteconnect's KiteTicker._parse_binary",
        ratio_goal=goal,
        more={"frames_waiting": frame_count},
    )


def _parsed(parser: KiteTicker, batch: Sequence[Frame]) -> list[list[dict[str, Any]]]:
    return [parser._parse_binary(frame.payload) for frame in batch]  # noqa: SLF001 - no other door


def check(ours: Ticks, theirs: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Hold every number of the official parser to ours.

    Raises:
        Disagreement: One differs, or one is missing.
    """
    ticks = [tick for frame in theirs for tick in frame]
    if len(ticks) != len(ours):
        raise Disagreement(f"{len(ticks)} ticks, ours {len(ours)}")
    for row, tick in enumerate(ticks):
        for name, value in _facts_of(tick).items():
            own = _own(ours, name, row)
            if own != value:
                raise Disagreement(f"tick={row} {name}: {value!r}, ours {own!r}")


_NUMBERS: Final = {
    "instrument_token": "instrument_token",
    "last_price": "ltp",
    "last_traded_quantity": "last_quantity",
    "average_traded_price": "average_price",
    "volume_traded": "volume",
    "total_buy_quantity": "buy_quantity",
    "total_sell_quantity": "sell_quantity",
    "oi": "oi",
    "oi_day_high": "oi_day_high",
    "oi_day_low": "oi_day_low",
}
_TIMES: Final = {
    "exchange_timestamp": "exchange_ts_ns",
    "last_trade_time": "last_trade_ts_ns",
}


def _facts_of(tick: dict[str, Any]) -> dict[str, float]:
    """Return the parser's numbers under our names; depth as ``bid_price.0``."""
    facts = {"mode": float(Mode[tick["mode"].upper()])}
    facts |= {own: tick[name] for name, own in _NUMBERS.items() if name in tick}
    facts |= dict(tick.get("ohlc", {}))
    # Whole seconds; its local times lead back to the instant that was on the wire.
    facts |= {
        own: tick[name].timestamp() * NS_PER_S for name, own in _TIMES.items() if name in tick
    }
    for side, own in (("buy", "bid"), ("sell", "ask")):
        for level, entry in enumerate(tick.get("depth", {}).get(side, ())):
            facts |= {f"{own}_{name}.{level}": value for name, value in entry.items()}
    return facts


def _own(ticks: Ticks, name: str, row: int) -> float:
    """Return our number; what we call missing is a zero of the parser's."""
    column, _, level = name.partition(".")
    values = getattr(ticks, column)
    value = float(values[int(level), row] if level else values[row])
    is_missing = math.isnan(value) or (value == NOT_CARRIED)
    return 0.0 if is_missing else value
