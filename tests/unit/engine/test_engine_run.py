"""The engine between a scripted feed and a publisher in memory, at virtual time."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from small_exchange import (
    NIFTY_TOKEN,
    NOW_NS,
    choose,
    nifty,
    nifty_universe,
    option_row,
    share,
)
from structlog.testing import capture_logs
from virtual_time import LoopClock
from wire_packets import frame_of, full_packet, index_full_packet, ltp_packet, payload_of

from ticker_service.config import EngineConfig, FlushConfig, KiteConfig, SubscriptionConfig
from ticker_service.engine import Engine
from ticker_service.errors import PublishError
from ticker_service.ports import FeedDown, FeedText, FeedUp, Frame
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryPublisher, ScriptedFeed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ticker_service.domain.universe import Universe
    from ticker_service.ports import FeedEvent, OrderUpdates, Outgoing

CHOSEN = nifty_universe()
SPOT_RAW = 2_401_000
MS = 1_000_000
SECOND_NS = 10**9
Body = dict[str, Any]


class AmbiguousPublisher(MemoryPublisher):
    """Delivers, and then says now and then that it does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.unsure = 0

    async def send(self, outgoing: Outgoing) -> None:
        await super().send(outgoing)
        if self.unsure and outgoing.messages:
            self.unsure -= 1
            raise PublishError("the answer got lost")


class Stage:
    """An engine with everything round it; must be made inside the running loop."""

    def __init__(
        self,
        flush: FlushConfig | None = None,
        start_ns: int = NOW_NS,
        chosen: Universe = CHOSEN,
        orders: OrderUpdates | None = None,
        earlier_ns: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.clock = LoopClock(start_ns)
        self.feed = ScriptedFeed()
        self.publisher = AmbiguousPublisher()
        self.telemetry = Telemetry()
        self.stop = asyncio.Event()
        self.engine = Engine(
            chosen,
            EngineConfig(
                kite=KiteConfig(rest_root="-", ws_root="-", api_key="-", access_token="-"),
                redis_url="-",
                subscription=SubscriptionConfig(underlyings=("NIFTY",), strikes_each_side=2),
                flush=flush or FlushConfig(),
            ),
            feed=self.feed,
            publisher=self.publisher,
            surroundings=Surroundings(
                clock=self.clock,
                chance=random.Random(7),  # noqa: S311 - jitter, not a secret
                telemetry=self.telemetry,
            ),
            orders=orders,
            earlier_ns=earlier_ns,
        )

    async def pass_s(self, seconds: float) -> None:
        """Let virtual time pass; nobody waits for it."""
        await asyncio.sleep(seconds)

    async def receive(self, *items: bytes | FeedEvent) -> None:
        """Receive packets, one a frame, and events, and give the path its interval."""
        stamped = [
            frame_of(item, at_ns=self.clock.now_ns()) if isinstance(item, bytes) else item
            for item in items
        ]
        await self.feed.receive(*stamped)
        await self.pass_s(0.05)

    async def come_up(self) -> None:
        await self.receive(FeedUp(connection=0, at_ns=self.clock.now_ns()))

    async def go_down(self, *, silent_s: float = 0.0, login_required: bool = False) -> None:
        now_ns = self.clock.now_ns()
        last_ns = now_ns - int(silent_s * SECOND_NS)
        await self.receive(
            FeedDown(
                connection=0,
                at_ns=now_ns,
                last_frame_ns=last_ns,
                reason="silent",
                login_required=login_required,
            )
        )

    async def spot(self, raw: int = SPOT_RAW) -> None:
        await self.receive(index_full_packet(NIFTY_TOKEN, raw, (0, 0, 0, 0), 0))

    async def chain(self, spot_raw: int = SPOT_RAW) -> None:
        """Let all options of the first expiry quote round a forward equal to the spot."""
        packets = []
        for strike in CHOSEN.expiries[0].strike.tolist():
            gap = spot_raw - int(strike * 100)
            for kind, value in (("CE", max(gap, 0)), ("PE", max(-gap, 0))):
                price = value + 10_000
                token = int(CHOSEN.instrument_token[option_row(CHOSEN, 0, strike, kind)])
                level = [(65, price - 5, 1)], [(65, price + 5, 1)]
                packets.append(full_packet(token, price, bids=level[0], asks=level[1]))
        await self.receive(*packets)

    def bodies(self, *kinds: str) -> list[Body]:
        found = [json.loads(raw) for _, raw in self.publisher.messages]
        return [body for body in found if not kinds or body["kind"] in kinds]

    def numbered(self) -> list[Body]:
        return self.bodies("batch", "gap", "status")

    def snapshot(self) -> Body:
        body: Body = json.loads(self.publisher.values["ticker:v1:snapshot:NIFTY"])
        return body

    def wanted_options(self) -> set[int]:
        options = set(CHOSEN.instrument_token[CHOSEN.is_option].tolist())
        return options & set(self.feed.wanted)

    def metric(self, name: str, **labels: str) -> float:
        value = self.telemetry._registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


def play(
    script: Callable[[Stage], Awaitable[None]],
    *,
    flush: FlushConfig | None = None,
    start_ns: int = NOW_NS,
    chosen: Universe = CHOSEN,
    orders: OrderUpdates | None = None,
    earlier_ns: Mapping[int, int] = MappingProxyType({}),
) -> Stage:
    """Run the engine through a script, then stop it."""

    async def scene() -> Stage:
        stage = Stage(flush, start_ns, chosen, orders, earlier_ns)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stage.engine.run(stage.stop))
            await script(stage)
            stage.stop.set()
        return stage

    return virtual_time.run(scene())


def token_of(strike: float, kind: str = "CE") -> int:
    return int(CHOSEN.instrument_token[option_row(CHOSEN, 0, strike, kind)])


def test_a_segment_whose_scale_nobody_knows_is_said_once_at_the_start() -> None:
    foreign = [share(number, f"GIFT{number}") for number in (901, 902)]
    foreign = [{**row, "instrument_token": number << 8 | 10} for number, row in enumerate(foreign)]
    named = [f"NSE:{row['tradingsymbol']}" for row in foreign]

    async def script(stage: Stage) -> None:
        await stage.pass_s(60.0)

    with capture_logs() as logs:
        play(script, chosen=choose([*nifty(), *foreign], "NIFTY", instruments=named))
        play(script)

    said = [entry for entry in logs if entry["event"] == "segment_unknown"]
    assert [(entry["segment"], entry["instruments"]) for entry in said] == [(10, 2)]


def test_a_frame_becomes_a_batch_of_its_book() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot()
        (batch,) = stage.bodies("batch")
        assert (batch["book"], batch["seq"], batch["n"]) == ("NIFTY", 1, 1)
        assert batch["columns"]["ltp"] == [24_010.0]

    play(script)


def test_what_the_underlying_and_its_futures_do_is_wanted_from_the_start() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_s(0.01)
        assert set(stage.feed.wanted) == set(CHOSEN.instrument_token[~CHOSEN.is_option].tolist())

    play(script)


def test_the_first_price_opens_the_window_at_once() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_s(0.2)
        await stage.spot()
        strikes = {23_800.0, 23_900.0, 24_000.0, 24_100.0, 24_200.0}
        assert {token_of(strike) for strike in strikes} <= stage.wanted_options()
        assert len(stage.wanted_options()) == 2 * 5 * 3

    play(script)


def test_a_frame_that_cannot_be_read_is_counted_and_the_path_goes_on() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed.receive(Frame(stage.clock.now_ns(), b"\xff\xff\xff\xff\xff"))
        await stage.spot()
        assert stage.metric("feed_packets_rejected_total", reason="malformed_frame") == 1
        assert len(stage.bodies("batch")) == 1

    play(script)


def test_a_tick_that_is_not_ours_is_not_published() -> None:
    async def script(stage: Stage) -> None:
        await stage.receive(ltp_packet(4_242, 100))
        assert stage.bodies("batch") == []
        assert stage.metric("feed_packets_rejected_total", reason="unknown_token") == 1

    play(script)


def test_a_heartbeat_comes_every_second_while_nothing_else_does() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_s(5.5)
        times = [body["published_at_us"] for body in stage.bodies("heartbeat")]
        assert np.diff(times).tolist() == [1_000_000] * 5
        assert stage.numbered() == []

    play(script)


def test_heartbeats_repeat_the_seq_and_tell_the_feed_s_state() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_s(0.5)
        await stage.come_up()
        await stage.pass_s(1.0)
        seen = [(body["seq"], body["feed"]) for body in stage.bodies("heartbeat")]
        assert seen == [(0, "connecting"), (1, "up")]

    play(script)


def test_a_feed_that_comes_up_is_a_status_and_no_gap() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        (status,) = stage.numbered()
        assert (status["kind"], status["state"]) == ("status", "feed_up")

    play(script)


def test_a_feed_that_goes_down_is_a_status_with_the_reason() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.go_down()
        status = stage.bodies("status")[-1]
        assert (status["state"], status["reason"]) == ("feed_down", "silent")

    play(script)


def test_an_outage_is_told_as_a_gap_from_the_last_frame_to_the_return() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.spot()
        await stage.pass_s(10.0)
        last_us = stage.clock.now_ns() // 1_000 - 5_000_000
        await stage.go_down(silent_s=5.0)
        await stage.pass_s(3.0)
        up_us = stage.clock.now_ns() // 1_000
        await stage.come_up()
        (gap,) = stage.bodies("gap")
        assert (gap["from_us"], gap["to_us"], gap["reason"]) == (last_us, up_us, "silent")
        assert set(gap["instruments"]) == set(stage.feed.wanted)

    play(script)


def test_what_lies_between_two_runs_is_told_once_before_the_first_tick() -> None:
    ended_ns = NOW_NS - 90 * SECOND_NS

    async def script(stage: Stage) -> None:
        await stage.pass_s(2.0)
        assert stage.bodies("gap") == []  # it is not over before there is a feed
        await stage.come_up()
        await stage.spot()
        await stage.go_down(silent_s=0.5)
        await stage.come_up()
        restart, outage = stage.bodies("gap")
        assert (restart["reason"], restart["from_us"]) == ("restart", ended_ns // 1_000)
        assert restart["to_us"] == (NOW_NS + 2 * SECOND_NS) // 1_000
        assert restart["instruments"] == CHOSEN.instrument_token.tolist()
        assert restart["seq"] < stage.bodies("batch")[0]["seq"]
        assert outage["reason"] == "silent"

    play(script, earlier_ns={0: ended_ns})


def test_the_gap_is_told_before_the_feed_is_called_up() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.go_down()
        await stage.come_up()
        kinds = [body.get("state", body["kind"]) for body in stage.numbered()]
        assert kinds == ["feed_up", "feed_down", "gap", "feed_up"]

    play(script)


def test_several_failed_attempts_are_one_outage() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        first_us = stage.clock.now_ns() // 1_000
        for _ in range(3):
            await stage.go_down()
            await stage.pass_s(1.0)
        await stage.come_up()
        states = [body["state"] for body in stage.bodies("status")]
        assert states == ["feed_up", "feed_down", "feed_up"]
        assert [gap["from_us"] for gap in stage.bodies("gap")] == [first_us]

    play(script)


def test_a_second_outage_is_a_gap_of_its_own() -> None:
    async def script(stage: Stage) -> None:
        for _ in range(3):
            await stage.come_up()
            await stage.go_down()
            await stage.pass_s(1.0)
        froms = [gap["from_us"] for gap in stage.bodies("gap")]
        assert len(froms) == 2
        assert froms[0] < froms[1]

    play(script)


def test_ticks_before_an_event_are_published_before_it() -> None:
    async def script(stage: Stage) -> None:
        now_ns = stage.clock.now_ns()
        spot = frame_of(index_full_packet(NIFTY_TOKEN, SPOT_RAW, (0, 0, 0, 0), 0), at_ns=now_ns)
        down = FeedDown(connection=0, at_ns=now_ns, last_frame_ns=now_ns, reason="closed")
        await stage.receive(FeedUp(connection=0, at_ns=now_ns))
        await stage.feed.receive(spot, down, spot)
        await stage.pass_s(0.05)
        kinds = [body["kind"] for body in stage.numbered()]
        assert kinds == ["status", "batch", "status", "batch"]

    play(script)


def test_a_feed_that_another_account_takes_over_says_so_in_gap_and_status() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.spot()
        now_ns = stage.clock.now_ns()
        await stage.receive(
            FeedDown(connection=0, at_ns=now_ns, last_frame_ns=now_ns, reason="http_403")
        )
        await stage.pass_s(1.0)
        up_ns = stage.clock.now_ns()
        await stage.receive(FeedUp(connection=0, at_ns=up_ns, account="SPARE", is_failover=True))
        (gap,) = stage.bodies("gap")
        assert (gap["reason"], gap["from_us"]) == ("failover", now_ns // 1_000)
        assert gap["to_us"] == up_ns // 1_000
        assert "another account" in stage.bodies("status")[-1]["reason"]
        assert "SPARE" not in str(stage.bodies("status"))

    play(script)


def test_a_refused_token_is_a_status_of_its_own() -> None:
    async def script(stage: Stage) -> None:
        await stage.go_down(login_required=True)
        assert stage.bodies("status")[-1]["state"] == "login_required"
        assert stage.engine.health().feed == "login_required"

    play(script)


def test_texts_of_the_broker_are_counted_and_published_nowhere() -> None:
    async def script(stage: Stage) -> None:
        await stage.receive(FeedText(connection=0, at_ns=1, kind="order", data={"id": 1}))
        assert stage.metric("feed_texts_total", kind="order") == 1
        assert stage.numbered() == []

    play(script)


class Told:
    """Who trades: keeps what it is told, in order."""

    def __init__(self) -> None:
        self.what: list[object] = []

    def take_update(self, data: object) -> None:
        self.what.append(data)

    def feed_came_back(self) -> None:
        self.what.append("back")


def order_text(number: int) -> FeedText:
    return FeedText(connection=0, at_ns=1, kind="order", data=number)


def test_an_overflow_of_ticks_while_redis_hangs_drops_and_delays_no_order_update() -> None:
    told = Told()

    async def script(stage: Stage) -> None:
        await stage.spot()
        stage.publisher.is_down = True
        await stage.spot()
        for number in range(400):
            await stage.spot()
            await stage.feed.receive(order_text(number))
            assert told.what[-1] == number
        assert stage.metric("inbox_frames_dropped_total") > 0
        assert told.what == list(range(400))
        assert stage.metric("feed_texts_total", kind="order") == 400
        stage.publisher.is_down = False
        await stage.pass_s(2.0)

    play(script, flush=FlushConfig(bytes_max=1_024, backlog_bytes_max=20_000), orders=told)


def test_who_trades_is_told_at_once_that_the_feed_came_back_while_redis_hangs() -> None:
    told = Told()

    async def script(stage: Stage) -> None:
        await stage.come_up()
        stage.publisher.is_down = True
        await stage.spot()
        await stage.go_down()
        await stage.come_up()
        assert told.what == ["back", "back"]
        stage.publisher.is_down = False
        await stage.pass_s(2.0)
        states = [body["state"] for body in stage.bodies("status")]
        assert states.count("feed_up") == 2

    play(script, orders=told)


def test_a_message_that_was_not_confirmed_is_sent_again_with_the_same_bytes() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_s(0.1)
        stage.publisher.unsure = 2
        await stage.spot()
        await stage.pass_s(0.5)
        batches = [raw for _, raw in stage.publisher.messages if b'"kind":"batch"' in raw]
        assert len(batches) == 3
        assert len(set(batches)) == 1

    play(script)


def test_numbers_stay_gap_free_through_an_outage_of_redis() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        stage.publisher.is_down = True
        for raw in range(SPOT_RAW, SPOT_RAW + 50):
            await stage.spot(raw)
        stage.publisher.is_down = False
        await stage.pass_s(2.0)
        await stage.spot(SPOT_RAW + 100)
        assert [body["seq"] for body in stage.numbered()] == list(
            range(1, len(stage.numbered()) + 1)
        )
        assert stage.bodies("batch")[-1]["columns"]["ltp"] == [24_011.0]

    play(script)


def test_a_backlog_is_merged_to_each_instrument_s_newest_tick() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot(SPOT_RAW)
        stage.publisher.is_down = True
        await stage.spot(SPOT_RAW + 1)
        for raw in range(SPOT_RAW + 2, SPOT_RAW + 30):
            await stage.spot(raw)
        stage.publisher.is_down = False
        await stage.pass_s(2.0)
        prices = [body["columns"]["ltp"] for body in stage.bodies("batch")]
        assert prices == [[24_010.0], [24_010.01], [24_010.29]]
        assert stage.metric("ticks_conflated_total") == 27

    play(script)


def test_a_large_backlog_goes_out_in_portions_so_that_its_columns_fit_in_memory() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot(SPOT_RAW)
        stage.publisher.is_down = True
        for raw in range(SPOT_RAW + 1, SPOT_RAW + 601):
            await stage.spot(raw)
        stage.publisher.is_down = False
        await stage.pass_s(2.0)
        prices = [body["columns"]["ltp"][-1] for body in stage.bodies("batch")]
        assert prices == sorted(prices)
        assert prices[-1] == 24_016.0
        # The first, the one that could not be sent, and 600 frames of 36 bytes by 8 KiB.
        assert len(prices) == 2 + 3
        assert stage.metric("ticks_conflated_total") == 601 - len(prices)

    play(script, flush=FlushConfig(bytes_max=1_024))


def test_ticks_that_waited_for_nothing_are_not_merged() -> None:
    async def script(stage: Stage) -> None:
        now_ns = stage.clock.now_ns()
        packets = [index_full_packet(NIFTY_TOKEN, SPOT_RAW + n, (0, 0, 0, 0), 0) for n in range(3)]
        await stage.spot()
        await stage.feed.receive(*(frame_of(packet, at_ns=now_ns) for packet in packets))
        await stage.pass_s(0.05)
        assert stage.bodies("batch")[-1]["columns"]["ltp"] == [24_010.0, 24_010.01, 24_010.02]

    play(script)


def test_frames_that_found_no_room_are_told_as_a_gap() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot()
        stage.publisher.is_down = True
        await stage.spot()
        for _ in range(400):
            await stage.spot()
        stage.publisher.is_down = False
        await stage.pass_s(2.0)
        (gap,) = stage.bodies("gap")
        assert gap["reason"] == "overflow"
        assert NOW_NS // 1_000 < gap["from_us"] < gap["to_us"]
        assert set(gap["instruments"]) == set(stage.feed.wanted)
        assert stage.metric("inbox_frames_dropped_total") > 0

    play(script, flush=FlushConfig(bytes_max=1_024, backlog_bytes_max=20_000))


def test_stopping_publishes_what_waits_and_then_says_so() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot(SPOT_RAW)
        packet = index_full_packet(NIFTY_TOKEN, SPOT_RAW + 5, (0, 0, 0, 0), 0)
        await stage.feed.receive(frame_of(packet, at_ns=stage.clock.now_ns()))

    last_two = play(script).numbered()[-2:]
    assert last_two[0]["columns"]["ltp"] == [24_010.05]
    assert (last_two[1]["kind"], last_two[1]["state"]) == ("status", "stopped")


def test_stopping_gives_the_publisher_s_connection_back() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_s(0.1)

    assert play(script).publisher.is_closed


def test_stopping_does_not_wait_for_a_redis_that_is_gone() -> None:
    async def scene() -> float:
        stage = Stage()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stage.engine.run(stage.stop))
            await stage.pass_s(1.0)
            stage.publisher.is_down = True
            await stage.spot()
            stage.stop.set()
            began_ns = stage.clock.monotonic_ns()
        assert stage.publisher.is_closed
        return (stage.clock.monotonic_ns() - began_ns) / SECOND_NS

    assert virtual_time.run(scene()) <= 3.1


def test_a_feed_that_breaks_ends_the_run_and_closes_the_publisher() -> None:
    async def scene() -> bool:
        stage = Stage()

        async def broken(_: object) -> None:
            raise OSError("a fault nobody wrote for")

        stage.feed.run = broken  # type: ignore[method-assign,assignment]
        with pytest.raises(ExceptionGroup):
            await stage.engine.run(stage.stop)
        return stage.publisher.is_closed

    assert virtual_time.run(scene())


def test_a_window_that_moves_drops_the_old_strikes_and_what_was_known_of_them() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot()
        await stage.chain()
        old = token_of(24_000.0)
        await stage.pass_s(0.6)
        assert old in stage.snapshot()["columns"]["instrument_token"]
        await stage.spot(SPOT_RAW + 50_000)
        await stage.pass_s(2.0)
        assert old not in stage.feed.wanted
        assert token_of(24_500.0) in stage.feed.wanted
        assert old not in stage.snapshot()["columns"]["instrument_token"]

    play(script)


def test_a_tick_of_a_strike_that_was_dropped_meanwhile_is_not_published() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot()
        await stage.receive(ltp_packet(token_of(24_800.0), 100))
        assert stage.metric("feed_packets_rejected_total", reason="not_subscribed") == 1
        assert len(stage.bodies("batch")) == 1

    play(script)


def test_options_go_out_with_volatility_and_greeks() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot()
        await stage.chain()  # without a stamp the first is what Kite had kept
        await stage.chain()
        await stage.pass_s(0.6)
        columns = stage.snapshot()["columns"]
        place = columns["instrument_token"].index(token_of(24_000.0))
        assert columns["iv_status"][place] == "OK"
        assert columns["forward"][place] == pytest.approx(24_010.0, abs=0.01)
        assert 0.4 < columns["delta"][place] < 0.6

    play(script)


def test_a_forward_that_moves_sends_the_options_again_marked_as_repriced() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot()
        call, level = token_of(24_000.0), (65, 10_000, 1)
        await stage.receive(full_packet(call, 10_000, bids=[level], asks=[level]))
        await stage.spot(SPOT_RAW + 1_000)
        await stage.pass_s(0.5)
        columns = stage.bodies("batch")[-1]["columns"]
        assert (columns["instrument_token"], columns["is_repriced"]) == ([call], [True])
        assert columns["forward"] == [24_020.0]

    play(script)


def test_a_still_market_is_not_repriced() -> None:
    async def script(stage: Stage) -> None:
        await stage.spot()
        await stage.chain()
        await stage.pass_s(0.5)
        before = len(stage.bodies("batch"))
        await stage.pass_s(3.0)
        assert len(stage.bodies("batch")) == before

    play(script)


def test_an_option_that_came_before_the_forward_goes_out_again_priced() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.receive(index_full_packet(NIFTY_TOKEN, SPOT_RAW, (0, 0, 0, 0), 1))
        call = token_of(24_000.0)
        level = (65, 10_000, 1)
        for _ in range(2):  # without a stamp the first is what Kite had kept
            await stage.receive(full_packet(call, 10_000, bids=[level], asks=[level]))
        first = stage.bodies("batch")[-1]["columns"]
        await stage.spot()
        await stage.pass_s(0.5)
        last = stage.bodies("batch")[-1]["columns"]
        assert first["iv_status"] == ["NO_FORWARD"]
        # Spot and carry alone make a forward; what rests on it is told to be doubtful.
        assert (last["instrument_token"], last["iv_status"]) == ([call], ["UNRELIABLE"])

    play(script)


def test_the_snapshot_is_true_for_the_seq_sent_last() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.spot()
        await stage.pass_s(0.6)
        body = stage.snapshot()
        assert (body["seq"], body["columns"]["ltp"]) == (2, [24_010.0])
        assert body["epoch"] == stage.engine.epoch

    play(script)


def test_what_the_tokens_stand_for_is_there_from_the_start() -> None:
    async def script(stage: Stage) -> None:
        await stage.pass_s(0.1)
        body = json.loads(stage.publisher.values["ticker:v1:instruments:NIFTY"])
        assert body["n"] == len(CHOSEN)

    play(script)


def test_the_engine_is_ready_while_frames_come() -> None:
    async def script(stage: Stage) -> None:
        was_ready = stage.engine.health().is_ready
        await stage.come_up()
        await stage.spot()
        health = stage.engine.health()
        assert (was_ready, health.is_ready, health.feed) == (False, True, "up")
        assert health.subscribed == len(stage.feed.wanted)

    play(script)


def test_the_engine_is_not_ready_when_no_frame_has_come_for_long() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.spot()
        await stage.pass_s(6.0)
        assert not stage.engine.health().is_ready

    play(script)


def test_a_later_run_has_a_larger_epoch() -> None:
    async def epochs() -> list[int]:
        first = Stage().engine.epoch
        await asyncio.sleep(0.001)
        return [first, Stage().engine.epoch]

    first, second = virtual_time.run(epochs())
    assert first < second


actions = st.lists(
    st.sampled_from(
        ["spot", "chain", "up", "down", "garbage", "redis_down", "redis_up", "unsure", "wait"]
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(actions)
def test_whatever_happens_the_numbers_of_a_book_have_no_gap_and_no_two_meanings(
    names: list[str],
) -> None:
    async def script(stage: Stage) -> None:
        for step, name in enumerate(names):
            match name:
                case "spot":
                    await stage.spot(SPOT_RAW + 1_000 * step)
                case "chain":
                    await stage.chain(SPOT_RAW + 1_000 * step)
                case "up":
                    await stage.come_up()
                case "down":
                    await stage.go_down()
                case "garbage":
                    await stage.feed.receive(Frame(stage.clock.now_ns(), b"\x00\x05\x00\x07abc"))
                case "redis_down" | "redis_up":
                    stage.publisher.is_down = name == "redis_down"
                case "unsure":
                    stage.publisher.unsure += 1
                case _:
                    await stage.pass_s(1.3)
        stage.publisher.is_down = False
        await stage.pass_s(2.0)

    stage = play(script)
    numbered = [
        (json.loads(raw)["seq"], raw)
        for _, raw in stage.publisher.messages
        if b'"kind":"heartbeat"' not in raw
    ]
    distinct = [seq for seq, _ in itertools.groupby(numbered)]
    assert [seq for seq, _ in distinct] == list(range(1, len(distinct) + 1))


def stamped_spot(stage: Stage, *, ago_s: int) -> bytes:
    stamp = stage.clock.now_ns() // SECOND_NS - ago_s
    return index_full_packet(NIFTY_TOKEN, SPOT_RAW, (0, 0, 0, 0), stamp)


def test_the_tick_kite_had_kept_is_marked_in_batches_and_in_the_snapshot() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.receive(stamped_spot(stage, ago_s=3_600))
        await stage.pass_s(0.6)
        assert stage.snapshot()["columns"]["is_cached"] == [True]
        await stage.receive(stamped_spot(stage, ago_s=0))
        await stage.pass_s(0.6)
        marked = [batch["columns"]["is_cached"] for batch in stage.bodies("batch")]
        assert marked == [[True], [False]]
        assert stage.snapshot()["columns"]["is_cached"] == [False]

    play(script)


def test_after_a_reconnect_what_comes_first_may_be_kept_again() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.pass_s(5.0)
        before = stamped_spot(stage, ago_s=0)
        await stage.receive(before)
        await stage.go_down()
        await stage.pass_s(5.0)
        await stage.come_up()
        await stage.receive(before)
        marked = [batch["columns"]["is_cached"] for batch in stage.bodies("batch")]
        assert marked == [[False], [True]]

    play(script)


def test_the_age_of_a_row_is_told_against_its_instrument_s_own_rate() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        for _ in range(120):
            await stage.receive(stamped_spot(stage, ago_s=0))
            await stage.pass_s(0.45)
        await stage.pass_s(5.0)
        (ratio,) = stage.snapshot()["columns"]["staleness_ratio"]
        assert 9.0 < ratio < 11.5

    play(script)


def test_an_older_tick_is_not_put_over_a_newer_one() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.pass_s(5.0)
        await stage.receive(stamped_spot(stage, ago_s=0))
        await stage.receive(stamped_spot(stage, ago_s=2))
        assert len(stage.bodies("batch")) == 1
        assert stage.metric("feed_packets_rejected_total", reason="time_back") == 1
        await stage.pass_s(1.0)
        assert stage.bodies("heartbeat")[-1]["rejected"] == 1
        assert stage.engine.refusals()["time_back"]["count"] == 1

    play(script)


def saturday_ns() -> int:
    return NOW_NS + 24 * 3_600 * SECOND_NS


async def tick_for(stage: Stage, seconds: int) -> None:
    """Let the underlying tick once a second."""
    for _ in range(seconds):
        await stage.receive(stamped_spot(stage, ago_s=0))
        await stage.pass_s(0.95)


async def beat_for(stage: Stage, seconds: int) -> None:
    """Let the connection send its heartbeats and nothing else."""
    for _ in range(seconds):
        await stage.feed.receive(Frame(stage.clock.now_ns(), b"\x00"))
        await stage.pass_s(1.0)


def test_heartbeats_without_ticks_are_a_state_of_their_own() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        await beat_for(stage, 30)
        status = stage.bodies("status")[-1]
        assert status["state"] == "feed_silent"
        assert status["reason"].startswith("no tick for 2")
        assert stage.bodies("heartbeat")[-1]["feed"] == "silent"
        assert stage.engine.health().reason == "feed silent"
        assert stage.engine.health().connections == {0: "silent"}
        assert stage.metric("feed_connections_silent") == 1
        assert stage.metric("feed_connections_up") == 0

    play(script)


def test_a_silence_is_noticed_although_the_wall_clock_was_set_back() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        stage.clock.set_by(-600.0)
        await beat_for(stage, 30)
        assert stage.bodies("status")[-1]["state"] == "feed_silent"

    play(script)


def test_a_silence_ends_with_a_gap_before_the_tick_that_ends_it() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        last_us = stage.bodies("batch")[-1]["columns"]["received_at_us"][0]
        await beat_for(stage, 25)
        await stage.receive(stamped_spot(stage, ago_s=0))
        told = [body.get("state", body["kind"]) for body in stage.numbered()[-4:]]
        assert told == ["feed_silent", "gap", "feed_up", "batch"]
        (gap,) = stage.bodies("gap")
        (until_us,) = stage.bodies("batch")[-1]["columns"]["received_at_us"]
        assert (gap["from_us"], gap["to_us"], gap["reason"]) == (
            last_us,
            until_us,
            "heartbeats_only",
        )
        assert set(gap["instruments"]) == set(stage.feed.wanted)
        assert stage.engine.health().is_ready

    play(script)


def test_a_connection_that_stays_silent_is_opened_anew_and_the_gap_begins_with_its_last_tick() -> (
    None
):
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        last_us = stage.bodies("batch")[-1]["columns"]["received_at_us"][0]
        await beat_for(stage, 45)
        assert stage.feed.renewed == []
        await beat_for(stage, 30)
        assert stage.feed.renewed == [0]
        await stage.go_down()
        await stage.come_up()
        (gap,) = stage.bodies("gap")
        assert (gap["from_us"], gap["reason"]) == (last_us, "heartbeats_only")
        states = [body["state"] for body in stage.bodies("status")]
        assert states == ["feed_up", "feed_silent", "feed_down", "feed_up"]

    play(script)


KEPT = "kept"
REFUSED = "refused"
MALFORMED = "malformed"


@pytest.mark.parametrize("what", [KEPT, REFUSED, MALFORMED])
def test_a_silence_goes_on_through_what_brings_no_news_until_a_tick_comes(
    what: str,
) -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        await beat_for(stage, 25)
        published = len(stage.bodies("batch"))
        hour_ago = stage.clock.now_ns() // SECOND_NS - 3_600
        frames = {
            KEPT: payload_of(full_packet(token_of(24_000.0), 10_000, times=(hour_ago, hour_ago))),
            REFUSED: payload_of(stamped_spot(stage, ago_s=3_600)),
            MALFORMED: b"\xff\xff\xff\xff\xff",
        }
        for _ in range(9):
            await stage.feed.receive(Frame(stage.clock.now_ns(), frames[what]))
            await beat_for(stage, 4)
        assert [body["state"] for body in stage.bodies("status")] == ["feed_up", "feed_silent"]
        assert stage.bodies("gap") == []
        assert len(stage.bodies("batch")) == published + (9 if what == KEPT else 0)
        # Nor does it put off the new connection.
        assert stage.feed.renewed == [0]
        await stage.receive(stamped_spot(stage, ago_s=0))
        assert [body["state"] for body in stage.bodies("status")][-1] == "feed_up"
        assert len(stage.bodies("gap")) == 1

    play(script)


def test_a_feed_is_not_called_silent_for_what_waited_until_redis_was_back() -> None:
    """What was received while nothing could be sent is not yet seen, and no silence of the feed."""

    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        stage.publisher.is_down = True
        await tick_for(stage, 60)
        stage.publisher.is_down = False
        await tick_for(stage, 5)
        assert [body["state"] for body in stage.bodies("status")] == ["feed_up"]
        assert stage.bodies("gap") == []
        # One that falls silent meanwhile is called so once what it had sent is out.
        stage.publisher.is_down = True
        await tick_for(stage, 10)
        await beat_for(stage, 30)
        stage.publisher.is_down = False
        await beat_for(stage, 5)
        assert [body["state"] for body in stage.bodies("status")] == ["feed_up", "feed_silent"]

    play(script)


def test_prices_are_called_stale_while_their_connection_is_silent() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        await stage.chain()  # without a stamp the first is what Kite had kept
        await stage.chain()
        await stage.pass_s(0.6)
        assert "OK" in stage.snapshot()["columns"]["iv_status"]
        await beat_for(stage, 30)
        assert "OK" not in stage.snapshot()["columns"]["iv_status"]

    play(script)


def test_a_quiet_market_is_up_and_a_closed_one_is_not_silent() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        await beat_for(stage, 15)
        assert stage.bodies("heartbeat")[-1]["feed"] == "up"
        assert stage.bodies("heartbeat")[-1]["market"] == "open"

    play(script)


def test_on_a_day_without_trading_silence_says_nothing() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await tick_for(stage, 60)
        await beat_for(stage, 600)
        assert [body["state"] for body in stage.bodies("status")] == ["market_closed", "feed_up"]
        assert stage.bodies("heartbeat")[-1]["feed"] == "up"
        assert stage.bodies("heartbeat")[-1]["market"] == "closed"

    play(script, start_ns=saturday_ns())


def test_the_end_of_the_session_is_told_and_ends_a_silence() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.spot()
        for _ in range(60):
            await stage.chain()
            await stage.pass_s(0.95)
        await beat_for(stage, 5 * 60)
        states = [body["state"] for body in stage.bodies("status")]
        assert states == ["feed_up", "feed_silent", "session_end", "feed_up"]
        assert len(stage.bodies("gap")) == 1
        assert stage.bodies("heartbeat")[-1]["market"] == "closed"

    # Friday 15:36:30: the derivatives go on until 15:40, the index has ended.
    play(script, start_ns=NOW_NS + (4 * 3_600 + 36 * 60 + 30) * SECOND_NS)


def test_the_opening_of_the_market_is_told() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.pass_s(30.0)
        states = [body["state"] for body in stage.bodies("status")]
        assert states == ["market_closed", "feed_up", "market_open"]

    play(script, start_ns=NOW_NS - (105 * 60 + 20) * SECOND_NS)


def test_the_ledger_tells_upstream_and_ours_apart_for_every_row() -> None:
    async def script(stage: Stage) -> None:
        await stage.come_up()
        await stage.pass_s(10.0)
        await stage.receive(stamped_spot(stage, ago_s=3_600))  # kept by Kite: says nothing
        for _ in range(5):
            await stage.receive(stamped_spot(stage, ago_s=2))
        counts = {
            name: stage.metric("tick_latency_ms_count", stage=name)
            for name in ("upstream", "decoded", "priced", "published", "ours")
        }
        assert counts == {"upstream": 5, "decoded": 6, "priced": 6, "published": 6, "ours": 6}
        upstream_ms = stage.metric("tick_latency_ms_sum", stage="upstream") / 5
        assert 2_000 <= upstream_ms < 3_000
        parts = ("decoded", "priced", "published")
        whole = stage.metric("tick_latency_ms_sum", stage="ours")
        assert whole == sum(stage.metric("tick_latency_ms_sum", stage=part) for part in parts)

    play(script)
