"""The scale of a wire price follows from the low byte of the token."""

from __future__ import annotations

import numpy as np
import pytest

from ticker_service.domain.segment import (
    KNOWN_SEGMENTS,
    PRICE_SCALES,
    Segment,
    segment_of,
    unnamed_segments,
)


@pytest.mark.parametrize(
    ("segment", "scale"),
    [
        (Segment.NSE, 100),
        (Segment.NFO, 100),
        (Segment.CDS, 10_000_000),
        (Segment.BSE, 100),
        (Segment.BFO, 100),
        (Segment.BCD, 10_000),
        (Segment.MCX, 100),
        (Segment.MCXSX, 100),
        (Segment.INDICES, 100),
        (Segment.NCO, 10_000),
    ],
)
def test_each_segment_has_the_scale_of_the_official_clients(segment: Segment, scale: int) -> None:
    assert PRICE_SCALES[segment] == scale


def test_a_segment_nobody_named_is_scaled_like_paise() -> None:
    unknown = [code for code in range(256) if code not in KNOWN_SEGMENTS]
    assert set(PRICE_SCALES[unknown].tolist()) == {100.0}


def test_segments_without_a_name_are_counted_and_those_with_one_are_not() -> None:
    tokens = np.array([1 << 8 | 1, 2 << 8 | 10, 3 << 8 | 10, 4 << 8 | 254], np.uint32)
    assert unnamed_segments(tokens) == {10: 2, 254: 1}
    assert unnamed_segments(tokens[:1]) == {}


def test_the_scales_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        PRICE_SCALES[3] = 100.0


@pytest.mark.parametrize(("token", "segment"), [(256_265, 9), (408_065, 1), (31_132_428, 12)])
def test_the_segment_is_the_low_byte_of_real_tokens(token: int, segment: int) -> None:
    assert segment_of(token) == segment


def test_the_segment_of_a_token_may_be_one_without_a_name() -> None:
    assert segment_of(7 << 8 | 0xFE) == 0xFE
