"""What the live benchmark's listener reads from messages, and what its peer lets go."""

from __future__ import annotations

import struct

import orjson
import pytest

from scripts.benchmarks import live_listener, live_peer
from scripts.benchmarks.measure import Result
from ticker_service.ports import Frame


def packet(token: int, price: int) -> bytes:
    return struct.pack(">HII", 8, token, price)


def frame(at_ns: int, *packets: bytes) -> Frame:
    return Frame(at_ns, struct.pack(">H", len(packets)) + b"".join(packets))


def batch(*, is_repriced: bool = False, **columns: object) -> bytes:
    columns = {**columns, "is_repriced": [is_repriced]}
    return orjson.dumps({"v": 1, "kind": "batch", "columns": columns})


def test_the_receive_times_of_a_batch_and_of_a_single_tick_are_read() -> None:
    times = live_listener.received_at_us
    assert times(batch(received_at_us=[17, 18], ltp=[1.0, 2.0])).tolist() == [17, 18]
    assert times(orjson.dumps({"received_at_us": 19, "ltp": 1.0})).tolist() == [19]
    assert times(orjson.dumps({"ltp": 1.0, "received_at_us": 20})).tolist() == [20]


def test_what_had_no_packet_has_no_receive_time() -> None:
    assert not len(live_listener.received_at_us(batch(received_at_us=[17], is_repriced=True)))
    assert not len(live_listener.received_at_us(b'{"kind":"heartbeat"}'))


def test_the_peer_takes_the_newest_packet_of_each_instrument() -> None:
    frames = [
        frame(1, packet(7, 100), packet(8, 200)),
        frame(2, packet(7, 101)),
        frame(3, packet(9, 300)),
    ]
    assert list(live_peer.newest(frames)) == [
        frame(3, packet(9, 300)),
        frame(2, packet(7, 101)),
        frame(1, packet(8, 200)),
    ]


@pytest.mark.parametrize(("share", "is_met"), [(0.34, True), (0.36, False)])
def test_a_promise_is_kept_when_nothing_exceeds_its_limit(share: float, *, is_met: bool) -> None:
    result = Result(
        name="live_5ms",
        ours=80.0,
        peer=1.0,
        unit="1/s",
        against="x",
        ours_goal=66.0,
        more={"cpu_share": share},
        at_most={"cpu_share": 0.35},
    )
    assert result.is_met is is_met
