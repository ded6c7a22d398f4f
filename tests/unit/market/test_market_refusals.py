"""What was refused can be looked at afterwards, however much it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_exchange import NIFTY_TOKEN, NOW_NS, nifty_universe
from wire_packets import frame_of, full_packet, index_full_packet, ltp_packet

from ticker_service.config import ValidationConfig
from ticker_service.market import decode, validate
from ticker_service.market.refusals import (
    LOG_INTERVAL_NS,
    MEANINGS,
    SAMPLE_INTERVAL_NS,
    SAMPLES_PER_REASON_MAX,
    Refusals,
)
from ticker_service.market.streams import Doubt, Streams
from ticker_service.ports import Frame

CHOSEN = nifty_universe([24_000.0])
CALL = int(CHOSEN.instrument_token[np.flatnonzero(CHOSEN.is_option)[0]])
WANTED = np.ones(len(CHOSEN), np.bool_)


class Desk:
    """The steps up to the refusals."""

    def __init__(self, limits: ValidationConfig | None = None) -> None:
        self.limits = limits or ValidationConfig()
        self.refusals = Refusals(CHOSEN)
        self.streams = Streams(CHOSEN)
        self.now_ns = NOW_NS

    def receive(self, *frames: Frame) -> None:
        decoded = decode.frames(frames)
        accepted = validate.plausible(
            decoded.ticks, CHOSEN, self.streams, wanted=WANTED, limits=self.limits
        )
        self.refusals.take(decoded, accepted, now_ns=self.now_ns)

    def of(self, reason: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(json.dumps(self.refusals.report()))[reason]
        return found


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_refused_tick_is_kept_with_every_value_and_its_symbol(desk: Desk) -> None:
    desk.receive(frame_of(full_packet(CALL, -500, volume=7, bids=[(65, 495, 1)]), at_ns=NOW_NS))
    kept = desk.of("impossible_price")
    assert kept["count"] == 1
    (sample,) = kept["samples"]  # type: ignore[misc]
    assert sample["tradingsymbol"].startswith("NIFTY")
    assert (sample["instrument_token"], sample["ltp"], sample["volume"]) == (CALL, -5.0, 7)
    assert (sample["mode"], sample["high"]) == ("full", None)
    assert sample["bid_price"] == [4.95, None, None, None, None]


def test_a_stranger_s_tick_is_kept_without_a_symbol(desk: Desk) -> None:
    desk.receive(frame_of(ltp_packet(4_242, 100), at_ns=NOW_NS))
    (sample,) = desk.of("unknown_token")["samples"]  # type: ignore[misc]
    assert (sample["tradingsymbol"], sample["instrument_token"]) == (None, 4_242)


def test_bytes_that_could_not_be_read_are_kept_as_hex_and_never_whole(desk: Desk) -> None:
    desk.receive(Frame(NOW_NS, b"\xff\xff" + b"\x01" * 100_000))
    (sample,) = desk.of("malformed_frame")["samples"]  # type: ignore[misc]
    assert sample["head"].startswith("ffff 0101")
    assert len(sample["head"].replace(" ", "")) == 2 * decode.EXAMPLE_BYTES_MAX


def test_a_packet_of_unknown_length_shows_its_length_and_beginning(desk: Desk) -> None:
    desk.receive(frame_of(ltp_packet(NIFTY_TOKEN, 1), b"\xab" * 45, ltp_packet(NIFTY_TOKEN, 1)))
    (sample,) = desk.of("unknown_length")["samples"]  # type: ignore[misc]
    assert sample["head"].replace(" ", "") == "002d" + "ab" * 45


@pytest.mark.parametrize("publishes_doubtful", [False, True])
def test_a_doubtful_tick_is_kept_whether_it_is_published_or_not(
    monkeypatch: pytest.MonkeyPatch,
    publishes_doubtful: bool,  # noqa: FBT001 - a case
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        "ticker_service.market.refusals.log.warning", lambda event, **_: said.append(event)
    )
    desk = Desk(ValidationConfig(publishes_doubtful=publishes_doubtful))
    crossed = full_packet(CALL, 500, bids=[(65, 510, 1)], asks=[(65, 490, 1)])
    desk.receive(frame_of(crossed, at_ns=NOW_NS))
    assert desk.of("crossed_depth")["count"] == 1
    assert len(desk.of("crossed_depth")["samples"]) == 1  # type: ignore[arg-type]
    assert said == ([] if publishes_doubtful else ["packets_rejected"])


def test_a_flood_of_one_reason_is_sampled_and_leaves_the_others_theirs(desk: Desk) -> None:
    desk.receive(frame_of(full_packet(CALL, -500), at_ns=NOW_NS))
    for _ in range(100):
        desk.now_ns += SAMPLE_INTERVAL_NS // 2
        desk.receive(frame_of(*[ltp_packet(4_242, 100)] * 50, at_ns=NOW_NS))
    flood = desk.of("unknown_token")
    assert flood["count"] == 5_000
    assert len(flood["samples"]) == SAMPLES_PER_REASON_MAX  # type: ignore[arg-type]
    newest = [sample["at_us"] for sample in flood["samples"]]  # type: ignore[attr-defined]
    assert (np.diff(newest) * 1_000 >= SAMPLE_INTERVAL_NS).all()
    assert len(desk.of("impossible_price")["samples"]) == 1  # type: ignore[arg-type]


def test_a_flood_is_a_line_in_the_log_now_and_then(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, object]] = []
    monkeypatch.setattr(
        "ticker_service.market.refusals.log.warning",
        lambda event, **facts: said.append({"event": event, **facts}),
    )
    for _ in range(21):
        desk.receive(frame_of(ltp_packet(4_242, 100), ltp_packet(4_242, 100), at_ns=NOW_NS))
        desk.now_ns += LOG_INTERVAL_NS // 10
    assert [line["count"] for line in said] == [2, 20, 20]


def test_good_ticks_leave_nothing(desk: Desk) -> None:
    desk.receive(frame_of(index_full_packet(NIFTY_TOKEN, 2_400_000, (0, 0, 0, 0), 0)))
    assert {kept["count"] for kept in desk.refusals.report().values()} == {0}


def test_every_reason_and_doubt_has_its_meaning_before_it_happens(desk: Desk) -> None:
    assert set(desk.refusals.report()) == set(MEANINGS)
    assert set(validate.REASONS) <= set(MEANINGS)
    assert {doubt.name.lower() for doubt in Doubt if doubt} <= set(MEANINGS)
