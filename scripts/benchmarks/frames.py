"""Frames as the feed receives them: packets of a simulated market, packed as a suite wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_S
from ticker_service.domain.tick import Mode
from ticker_service.ports import Frame
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


SEED: Final = 20_260_901
STRIKES_EACH_SIDE: Final = 160
"""Three underlyings with three expiries each: nearly three thousand instruments, as one connection
of Kite's carries."""
STEPS: Final = 40
"""Steps of the market between two batches, so that prices differ."""
OPENS_AT_NS: Final = 1_790_000_000 * NS_PER_S
"""21 September 2026, a Monday, in Indian trading hours."""
COUNT_BYTES: Final = 2

MIXED: Final = ((Mode.LTP, 1.0), (Mode.QUOTE, 1.0), (Mode.FULL, 1.0))
FULL: Final = ((Mode.QUOTE, 0.03), (Mode.FULL, 0.97))

Share = tuple[tuple[Mode, float], ...]


def market() -> Market:
    """Return the market whose packets are used; the same for the same seed."""
    options = SimulatorOptions(seed=SEED, strikes_each_side=STRIKES_EACH_SIDE)
    return Market(options, now_ns=OPENS_AT_NS)


def batches(
    modes: Share, *, frame_packets: int, batch_packets: int, count: int
) -> list[list[Frame]]:
    """Return what waits at ``count`` flushes.

    Args:
        modes: Modes with their shares, in random order within a frame.
        frame_packets: Packets of a frame.
        batch_packets: Packets that wait together, a multiple of ``frame_packets``.
        count: How many batches.
    """
    source, rng = market(), np.random.default_rng(SEED)
    return [
        [
            Frame(received_at_ns=at_ns, payload=payload)
            for payload in _payloads(source, modes, frame_packets, batch_packets, rng)
        ]
        for at_ns in _instants(source, count)
    ]


def _instants(source: Market, count: int) -> Iterator[int]:
    for number in range(count):
        at_ns = OPENS_AT_NS + (number + 1) * NS_PER_S
        for _ in range(STEPS):
            source.step(at_ns)
        yield at_ns


def _payloads(
    source: Market,
    modes: Share,
    frame_packets: int,
    batch_packets: int,
    rng: np.random.Generator,
) -> Iterator[bytes]:
    rows = rng.choice(len(source.catalogue), batch_packets, replace=False)
    shares = np.array([share for _, share in modes])
    mode = rng.choice([each for each, _ in modes], batch_packets, p=shares / shares.sum())
    packets = [_framed(source, row, its) for row, its in zip(rows, mode, strict=True)]
    for start in range(0, batch_packets, frame_packets):
        yield payload_of(packets[start : start + frame_packets])


def payload_of(packets: Sequence[bytes]) -> bytes:
    """Join packets, each with its length in front, to one message."""
    return len(packets).to_bytes(COUNT_BYTES, "big") + b"".join(packets)


def _framed(source: Market, row: np.intp, mode: np.uint8) -> bytes:
    (frame,) = source.packets.frames(np.array([row]), np.array([mode], np.uint8))
    return frame[COUNT_BYTES:]
