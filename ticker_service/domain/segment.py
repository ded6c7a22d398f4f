"""What the low byte of an instrument token says: the segment and the scale of its wire prices.

Source: kite.md §1.6. A token is ``exchange_token << 8 | segment``; indices are not tradable.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Segment(IntEnum):
    """Segment codes in the low byte of a token."""

    NSE = 1
    NFO = 2
    CDS = 3
    BSE = 4
    BFO = 5
    BCD = 6
    MCX = 7
    MCXSX = 8
    INDICES = 9
    NCO = 12


PRICE_SCALE_DEFAULT: Final = 100
_PRICE_SCALE_ELSEWHERE: Final = {
    Segment.CDS: 10_000_000,
    # Kite's page says 10^7 for "currencies", its clients say 10^4 for this one (kite.md §1.6).
    Segment.BCD: 10_000,
    Segment.NCO: 10_000,
}


def _price_scales() -> NDArray[np.float64]:
    scales = np.full(256, float(PRICE_SCALE_DEFAULT))
    for segment, scale in _PRICE_SCALE_ELSEWHERE.items():
        scales[segment] = scale
    scales.flags.writeable = False
    return scales


PRICE_SCALES: Final = _price_scales()
"""Wire units per rupee by segment code, shape ``(256,)``: ``raw / PRICE_SCALES[token & 0xFF]``."""

KNOWN_SEGMENTS: Final = frozenset(int(segment) for segment in Segment)


def segment_of(instrument_token: int) -> int:
    """Return the segment code of a token, which may be one that ``Segment`` does not name."""
    return instrument_token & 0xFF


def unnamed_segments(instrument_token: NDArray[np.uint32]) -> dict[int, int]:
    """Return how many tokens there are of each segment that ``Segment`` does not name."""
    codes, counts = np.unique(instrument_token & np.uint32(0xFF), return_counts=True)
    found = zip(codes.tolist(), counts.tolist(), strict=True)
    return {code: count for code, count in found if code not in KNOWN_SEGMENTS}
