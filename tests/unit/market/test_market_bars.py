"""Bars of ticks: whose trade belongs where, what is late, what is missing, and what the truth is."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_exchange import NOW_NS, nifty_universe, ticks_of

from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.config import BarsConfig, ValidationConfig
from ticker_service.domain import universe
from ticker_service.domain.bar import BAR_SECONDS, bar_seconds
from ticker_service.domain.session import ist_date
from ticker_service.domain.tick import Mode
from ticker_service.errors import ConfigurationError
from ticker_service.market import decode, validate
from ticker_service.market.bar_wire import BarAnnouncer
from ticker_service.market.bars import Bars, FinishedBars
from ticker_service.market.streams import Doubt, Marks, Streams
from ticker_service.ports import Frame
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

CHOSEN = nifty_universe([24_000.0])
OPTION, OTHER = np.flatnonzero(CHOSEN.is_option)[:2].tolist()
SPOT = CHOSEN.spot_row[0]
SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
DAY_NS = 24 * 3_600 * SECOND_NS
START_NS = NOW_NS // MINUTE_NS * MINUTE_NS
GRACE_MS = 2_000
Bar = dict[str, Any]


class Desk:
    """Bars of one interval; times are seconds after a full minute."""

    def __init__(self, interval: str = "1m") -> None:
        self.streams = Streams(CHOSEN)
        self.streams.subscribe(np.arange(len(CHOSEN)), at_ns=START_NS - DAY_NS)
        config = BarsConfig(intervals=(interval,), grace_ms=GRACE_MS)
        self.bars = Bars(CHOSEN, config, self.streams, now_ns=START_NS)

    def ticks(self, *ticks: tuple[int, float, float, int], row: int = OPTION, **more: Any) -> None:
        """Take ticks of one row in one flush: (stamp s, last trade s, price, volume)."""
        stamps, trades, prices, volumes = zip(*ticks, strict=True)
        built = ticks_of(CHOSEN, [row] * len(ticks), ltp=list(prices), volume=list(volumes))
        built.exchange_ts_ns[:] = [START_NS + int(s * SECOND_NS) for s in stamps]
        built.last_trade_ts_ns[:] = [START_NS + int(s * SECOND_NS) for s in trades]
        built.received_at_ns[:] = built.exchange_ts_ns
        is_cached, doubt = more.pop("is_cached", False), more.pop("doubt", Doubt.NONE)
        for name, values in more.items():
            getattr(built, name)[:] = values
        marks = Marks.none(len(built))
        marks.is_cached[:] = is_cached
        marks.doubt[:] = doubt
        self.bars.take(np.array([row] * len(built), np.intp), built, marks)

    def kept(self, at: int, price: float, volume: int, row: int = OPTION, **more: Any) -> None:
        """Take what Kite had kept: where a bar starts from."""
        self.ticks((at, at, price, volume), row=row, is_cached=True, **more)

    def close(self, at_s: float) -> list[Bar]:
        finished = self.bars.close(START_NS + int(at_s * SECOND_NS))
        return [bar for one in finished for bar in as_dicts(one)]


def as_dicts(one: FinishedBars) -> list[Bar]:
    names = ("open", "high", "low", "close", "volume", "oi", "ticks", "is_partial")
    return [
        {
            "row": int(row),
            "start_s": (one.start_ns - START_NS) // SECOND_NS,
            **{name: getattr(one, name)[place].item() for name in names},
        }
        for place, row in enumerate(one.rows)
    ]


def ohlcv(bar: Bar) -> tuple[float, float, float, float, int]:
    return bar["open"], bar["high"], bar["low"], bar["close"], bar["volume"]


def test_no_price_of_a_doubtful_tick_is_in_a_bar_and_no_volume_is_lost_by_that() -> None:
    desk = Desk()
    desk.kept(-1, 100.0, 1_000)
    desk.ticks((1, 1, 100.0, 1_010))
    desk.ticks((2, 2, 999.99, 1_020), doubt=Doubt.OFF_PRICE_STEP)
    desk.bars.miss(np.array([OPTION], np.intp), from_ns=START_NS, to_ns=START_NS + 2 * SECOND_NS)
    desk.ticks((3, 3, 101.0, 1_030))
    (bar,) = desk.close(70)
    assert (bar["high"], bar["close"], bar["volume"]) == (101.0, 101.0, 30)
    assert bar["is_partial"]


def test_a_bar_is_what_was_traded_in_its_interval() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    for at, price, volume in ((1, 11.0, 110), (20, 14.0, 115), (40, 9.0, 130), (59, 12.0, 131)):
        desk.ticks((at, at, price, volume))
    (bar,) = desk.close(62.0)
    assert ohlcv(bar) == (11.0, 14.0, 9.0, 12.0, 31)
    assert (bar["start_s"], bar["ticks"], bar["is_partial"]) == (0, 4, False)


def test_a_bar_is_final_a_grace_after_its_end_and_not_before() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((30, 30, 11.0, 110))
    assert desk.close(61.999) == []
    assert len(desk.close(62.0)) == 1
    assert desk.close(63.0) == []


def test_an_interval_without_a_trade_has_no_bar() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((130, 130, 11.0, 110))
    assert [bar["start_s"] for bar in desk.close(300.0)] == [120]


def test_a_tick_without_a_new_trade_moves_no_price() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((1, 1, 11.0, 110))
    desk.ticks((5, 1, 11.0, 110), (30, 1, 11.0, 110))
    (bar,) = desk.close(62.0)
    assert (bar["ticks"], bar["volume"]) == (1, 10)


def test_a_trade_belongs_to_the_interval_of_its_own_stamp() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((30, 30, 11.0, 110))
    desk.ticks((60, 59, 12.0, 115))  # traded before the minute was over, told after it
    desk.ticks((61, 61, 13.0, 120))
    assert [ohlcv(bar) for bar in desk.close(62.0)] == [(11.0, 12.0, 11.0, 12.0, 15)]
    assert [ohlcv(bar) for bar in desk.close(122.0)] == [(13.0, 13.0, 13.0, 13.0, 5)]


def test_a_trade_that_comes_after_the_grace_is_counted_and_changes_nothing() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((30, 30, 11.0, 110))
    desk.close(62.0)
    desk.ticks((63, 58, 99.0, 115))
    desk.ticks((70, 70, 12.0, 120))
    (bar,) = desk.close(122.0)
    assert ohlcv(bar) == (12.0, 12.0, 12.0, 12.0, 5)
    assert desk.bars.tables[0].late_ticks.tolist() == [1]


def test_volume_between_two_snapshots_is_not_lost() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((10, 10, 11.0, 105))
    desk.ticks((50, 50, 11.0, 905))
    assert desk.close(62.0)[0]["volume"] == 805


def test_an_extreme_of_the_day_between_two_snapshots_is_taken_over() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100, high=12.0, low=9.0)
    desk.ticks((10, 10, 11.0, 105), high=12.0, low=9.0)
    desk.ticks((20, 20, 11.0, 115), high=15.0, low=8.0)
    (bar,) = desk.close(62.0)
    assert ohlcv(bar) == (11.0, 15.0, 8.0, 11.0, 15)


def test_an_extreme_that_may_be_of_the_bar_before_is_left_alone() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100, high=12.0, low=9.0)
    desk.ticks((20, 20, 11.0, 115), high=15.0, low=8.0)
    (bar,) = desk.close(62.0)
    assert ohlcv(bar) == (11.0, 11.0, 11.0, 11.0, 15)


def test_the_first_tick_of_a_new_day_counts_from_zero() -> None:
    desk = Desk()
    desk.streams.subscribed_ns[:] = START_NS - 2 * DAY_NS
    desk.kept(-86_400, 10.0, 50_000)
    desk.ticks((10, 10, 11.0, 70))
    assert desk.close(62.0)[0]["volume"] == 70


def test_the_first_tick_of_all_is_where_volume_starts_from() -> None:
    desk = Desk()
    desk.ticks((10, 10, 11.0, 50_000))
    desk.ticks((20, 20, 12.0, 50_010))
    (bar,) = desk.close(62.0)
    assert ohlcv(bar) == (12.0, 12.0, 12.0, 12.0, 10)


def test_a_volume_that_falls_within_a_day_counts_for_nothing() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((10, 10, 11.0, 110))
    desk.ticks((20, 20, 12.0, 90))
    desk.ticks((30, 30, 13.0, 95))
    (bar,) = desk.close(62.0)
    assert ohlcv(bar) == (11.0, 13.0, 11.0, 13.0, 15)


def test_what_kite_had_kept_is_no_trade() -> None:
    desk = Desk()
    desk.kept(10, 10.0, 100)
    assert desk.close(62.0) == []


def test_an_index_has_bars_of_its_values_and_no_volume() -> None:
    desk = Desk()
    for at, value in ((1, 24_000.0), (30, 24_010.0), (59, 23_990.0)):
        desk.ticks((at, -START_NS // SECOND_NS, value, -1), row=SPOT)
    (bar,) = desk.close(62.0)
    assert ohlcv(bar) == (24_000.0, 24_010.0, 23_990.0, 23_990.0, -1)


def test_ltp_mode_makes_bars_by_the_time_of_receipt() -> None:
    desk = Desk("1s")
    ticks = ticks_of(CHOSEN, [OPTION] * 2, ltp=[10.0, 11.0], mode=Mode.LTP)
    ticks.received_at_ns[:] = [START_NS + SECOND_NS // 2, START_NS + SECOND_NS]
    desk.bars.take(np.array([OPTION] * 2), ticks, Marks.none(2))
    bars = desk.close(10.0)
    assert [(bar["start_s"], bar["close"], bar["volume"]) for bar in bars] == [
        (0, 10.0, -1),
        (1, 11.0, -1),
    ]


def test_open_interest_is_that_of_the_last_tick_of_the_bar_or_the_last_known() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100, oi=900)
    desk.ticks((10, 10, 11.0, 110), oi=1_000)
    desk.ticks((50, 10, 11.0, 110), oi=1_200)
    assert desk.close(62.0)[0]["oi"] == 1_200
    desk.ticks((70, 70, 11.0, 120), oi=-1)
    assert desk.close(122.0)[0]["oi"] == 1_200


def test_the_closing_volatility_is_the_last_one_of_the_bar() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    for at, volatility in ((10, 0.1), (59, 0.2), (61, 0.3)):
        desk.ticks((at, at, 11.0, 100 + at))
        ticks = ticks_of(CHOSEN, [OPTION], ltp=11.0)
        ticks.exchange_ts_ns[:] = START_NS + at * SECOND_NS
        desk.bars.take_volatility(np.array([OPTION]), ticks, np.array([volatility]))
    (one,) = desk.bars.close(START_NS + 62 * SECOND_NS)
    assert one.implied_volatility.tolist() == [0.2]


def test_a_bar_whose_instrument_was_subscribed_in_its_midst_is_partial() -> None:
    desk = Desk()
    desk.streams.subscribe(np.array([OPTION]), at_ns=START_NS + 30 * SECOND_NS)
    for row in (OPTION, OTHER):
        desk.kept(-5, 10.0, 100, row=row)
        desk.ticks((40, 40, 11.0, 110), (70, 70, 11.0, 120), row=row)
    bars = {(bar["row"], bar["start_s"]): bar["is_partial"] for bar in desk.close(122.0)}
    assert bars == {
        (OPTION, 0): True,
        (OPTION, 60): False,
        (OTHER, 0): False,
        (OTHER, 60): False,
    }


def test_a_gap_makes_the_open_bars_it_touches_partial() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((10, 10, 11.0, 110))
    desk.bars.gap(np.array([OPTION]), from_ns=START_NS + 20 * SECOND_NS, to_ns=START_NS + 30)
    desk.bars.gap(
        np.array([OPTION]), from_ns=START_NS + 20 * SECOND_NS, to_ns=START_NS + 30 * SECOND_NS
    )
    desk.ticks((70, 70, 11.0, 120))
    assert [bar["is_partial"] for bar in desk.close(122.0)] == [True, False]


def test_a_bar_that_ends_while_its_feed_is_lost_is_partial() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((10, 10, 11.0, 110))
    desk.bars.lose(np.array([OPTION]))
    assert [bar["is_partial"] for bar in desk.close(62.0)] == [True]


def test_a_forgotten_row_ends_with_a_partial_bar_and_starts_anew() -> None:
    desk = Desk()
    desk.kept(-5, 10.0, 100)
    desk.ticks((10, 10, 11.0, 110))
    desk.bars.forget(np.array([OPTION]))
    desk.ticks((20, 20, 12.0, 90_000))
    (bar,) = desk.close(62.0)
    assert (ohlcv(bar), bar["is_partial"]) == ((11.0, 11.0, 11.0, 11.0, 10), True)


def test_a_stall_is_caught_up_bar_by_bar_from_one_flush() -> None:
    desk = Desk("1s")
    desk.kept(-5, 10.0, 100)
    desk.ticks(*((at, at, 10.0 + at, 100 + at) for at in range(1, 200)))
    bars = desk.close(300.0)
    assert [bar["start_s"] for bar in bars] == list(range(1, 200))
    assert {bar["volume"] for bar in bars} == {1}
    assert [bar["close"] for bar in bars] == [10.0 + at for at in range(1, 200)]


def test_a_night_without_a_tick_costs_nothing() -> None:
    desk = Desk("1s")
    desk.kept(-5, 10.0, 100)
    desk.ticks((1, 1, 11.0, 110))
    assert len(desk.close(16 * 3_600.0)) == 1
    desk.ticks((57_601, 57_601, 12.0, 120))
    assert [bar["start_s"] for bar in desk.close(57_610.0)] == [57_601]


def test_without_an_interval_nothing_is_kept() -> None:
    bars = Bars(CHOSEN, BarsConfig(), Streams(CHOSEN), now_ns=START_NS)
    bars.take(np.array([OPTION]), ticks_of(CHOSEN, [OPTION], ltp=5.0), Marks.none(1))
    assert bars.close(START_NS + DAY_NS) == []


def test_an_interval_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'2m' must be one of 1s, 5s"):
        bar_seconds("2m")


def by_hand(
    ticks: Sequence[tuple[int, int, int, int]], length_s: int
) -> list[tuple[int, int, float, float, float, float, int]]:
    """Make bars tick by tick in plain Python: (row, stamp s, price, volume grown)."""
    bars: dict[tuple[int, int], list[float]] = {}
    for row, at_s, price, grown in ticks:
        if not grown:
            continue
        start = at_s // length_s * length_s
        bar = bars.setdefault((row, start), [price, price, price, price, 0])
        bar[1], bar[2], bar[3] = max(bar[1], price), min(bar[2], price), price
        bar[4] += grown
    return sorted((row, start, *bar) for (row, start), bar in bars.items())  # type: ignore[misc]


arrivals = st.lists(
    st.tuples(
        st.sampled_from([OPTION, OTHER]), st.integers(0, 3), st.integers(1, 50), st.integers(0, 3)
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200)
@given(arrivals, st.integers(1, 20), st.sampled_from(["1s", "5s", "1m"]))
def test_bars_are_those_made_by_hand_however_the_ticks_are_cut_into_flushes(
    arrived: list[tuple[int, int, int, int]], size: int, interval: str
) -> None:
    desk = Desk(interval)
    volume = {OPTION: 1_000, OTHER: 1_000}
    for row in volume:
        desk.kept(-5, 10.0, 1_000, row=row)
    at_s, ticks = 0, []
    for row, wait_s, price, grown in arrived:
        at_s += wait_s
        ticks.append((row, at_s, price, grown))
    got: list[Bar] = []
    for start in range(0, len(ticks), size):
        part = ticks[start : start + size]
        built = ticks_of(CHOSEN, [row for row, *_ in part], ltp=[float(t[2]) for t in part])
        volumes = []
        for row, _, _, grown in part:
            volume[row] += grown
            volumes.append(volume[row])
        built.volume[:] = volumes
        built.exchange_ts_ns[:] = [START_NS + t[1] * SECOND_NS for t in part]
        built.last_trade_ts_ns[:] = built.exchange_ts_ns
        built.received_at_ns[:] = built.exchange_ts_ns
        rows = np.array([row for row, *_ in part], np.intp)
        desk.bars.take(rows, built, Marks.none(len(part)))
        got += desk.close(part[-1][1])
    got += desk.close(at_s + 1_000.0)
    found = sorted((bar["row"], bar["start_s"], *ohlcv(bar)) for bar in got)
    assert found == by_hand(ticks, BAR_SECONDS[interval])
    assert desk.bars.tables[0].late_ticks.sum() == 0


def test_bars_are_the_candles_of_the_simulated_exchange() -> None:
    begin_ns = START_NS - 10 * SECOND_NS
    market = Market(
        SimulatorOptions(seed=11, strikes_each_side=4, rate_per_s=600.0), now_ns=begin_ns
    )
    listed = market.catalogue.instrument_token
    chosen = universe.select(
        parse_dump(market.catalogue.dump(market.last_price_inr).decode()),
        underlyings=("NIFTY",),
        instruments=("NSE:RELIANCE",),
        expiries_max=2,
        today=ist_date(begin_ns),
    )
    rows_of_market = np.array([market.catalogue.row_by_token[t] for t in chosen.instrument_token])
    streams = Streams(chosen)
    streams.subscribe(np.arange(len(chosen)), at_ns=begin_ns - DAY_NS)
    bars = Bars(chosen, BarsConfig(intervals=("1m",)), streams, now_ns=begin_ns)
    wanted = np.ones(len(chosen), np.bool_)
    is_ours = np.isin(listed, chosen.instrument_token)

    def receive(rows: np.ndarray, at_ns: int) -> None:
        modes = np.full(len(rows), Mode.FULL, np.uint8)
        frames = [Frame(at_ns, payload) for payload in market.packets.frames(rows, modes)]
        decoded = decode.frames(frames)
        accepted = validate.plausible(
            decoded.ticks, chosen, streams, wanted=wanted, limits=ValidationConfig()
        )
        assert accepted.rejected == {}
        streams.take(
            accepted.rows,
            accepted.ticks.received_at_ns,
            progress=accepted.progress,
            marks=accepted.marks,
        )
        bars.take(accepted.rows, accepted.ticks, accepted.marks)

    receive(np.flatnonzero(is_ours), begin_ns)
    finished: list[FinishedBars] = []
    for step in range(1, 140 * 20):
        now_ns = begin_ns + step * SECOND_NS // 20
        changed = market.step(now_ns).rows
        receive(changed[is_ours[changed]], now_ns)
        finished += bars.close(now_ns)
    made = {
        (int(row), one.start_ns // SECOND_NS): place
        for one in finished
        if one.start_ns >= START_NS
        for place, row in enumerate(one.rows)
    }
    assert len({start for _, start in made}) == 2
    compared = 0
    for row, row_of_market in enumerate(rows_of_market.tolist()):
        for start_ns in (START_NS, START_NS + MINUTE_NS):
            start_s = start_ns // SECOND_NS
            truth = market.candles.candles(row_of_market, from_s=start_s, to_s=start_s, length_s=60)
            (one,) = [one for one in finished if one.start_ns == start_ns]
            place = made.get((row, start_s))
            assert (place is not None) == bool(truth)
            if place is None:
                continue
            scale = float(market.catalogue.price_scale[row_of_market])
            (candle,) = truth
            prices = [candle.open_raw, candle.high_raw, candle.low_raw, candle.close_raw]
            got = [getattr(one, name)[place] for name in ("open", "high", "low", "close")]
            assert [round(price * scale) for price in got] == prices
            if chosen.instruments.is_index()[row]:
                assert one.volume[place] == -1
            else:
                assert one.volume[place] == candle.volume
                assert max(int(one.oi[place]), 0) == candle.oi
            assert not one.is_partial[place]
            compared += 1
    assert compared > 50


def messages(sent: Any) -> list[Bar]:
    return [json.loads(raw) for _, raw in sent.messages]


def test_every_channel_of_bars_has_a_numbering_of_its_own() -> None:
    announcer = BarAnnouncer(CHOSEN, ("1s", "1m"), channel_prefix="ticker:v1:", epoch=7)
    desk = Desk("1m")
    desk.kept(-5, 10.0, 100)
    desk.ticks((10, 10, 11.0, 110), (70, 70, 12.0, 120))
    finished = desk.bars.close(START_NS + 122 * SECOND_NS)
    sent = announcer.bars(finished, now_ns=NOW_NS)
    assert [channel for channel, _ in sent.messages] == ["ticker:v1:bars:NIFTY:1m"] * 2
    assert [(m["kind"], m["interval"], m["epoch"], m["seq"]) for m in messages(sent)] == [
        ("bars", "1m", 7, 1),
        ("bars", "1m", 7, 2),
    ]
    gap = {"from_us": 1, "to_us": 2, "reason": "silent", "instruments": [3]}
    told = messages(announcer.gap(0, gap, now_ns=NOW_NS))
    assert [(m["kind"], m["interval"], m["seq"]) for m in told] == [
        ("gap", "1s", 1),
        ("gap", "1m", 3),
    ]
    (beat,) = messages(announcer.heartbeat(0, "up", desk.bars, now_ns=NOW_NS))
    assert (beat["kind"], beat["seq"]) == ("heartbeat", 3)
    assert beat["closed_until_us"] == (START_NS + 120 * SECOND_NS) // 1_000
    assert beat["late_ticks"] == 0


def test_a_message_of_bars_says_everything_a_chart_needs() -> None:
    announcer = BarAnnouncer(CHOSEN, ("1m",), channel_prefix="ticker:v1:", epoch=7)
    desk = Desk("1m")
    for row in (OPTION, SPOT):
        desk.kept(-5, 10.0, -1 if row == SPOT else 100, row=row)
    desk.ticks((10, 10, 11.0, 110), oi=650)
    desk.ticks((10, -START_NS // SECOND_NS, 24_000.0, -1), row=SPOT)
    sent = announcer.bars(desk.bars.close(START_NS + 62 * SECOND_NS), now_ns=NOW_NS)
    (body,) = messages(sent)
    assert (body["start_us"], body["end_us"]) == (
        START_NS // 1_000,
        (START_NS + MINUTE_NS) // 1_000,
    )
    by_token = dict(
        zip(
            body["columns"]["instrument_token"],
            zip(*body["columns"].values(), strict=True),
            strict=True,
        )
    )
    option = dict(zip(body["columns"], by_token[int(CHOSEN.instrument_token[OPTION])], strict=True))
    assert option == {
        "instrument_token": int(CHOSEN.instrument_token[OPTION]),
        "open": 11.0,
        "high": 11.0,
        "low": 11.0,
        "close": 11.0,
        "volume": 10,
        "oi": 650,
        "implied_volatility": None,
        "ticks": 1,
        "is_partial": False,
    }
    index = dict(zip(body["columns"], by_token[int(CHOSEN.instrument_token[SPOT])], strict=True))
    assert (index["volume"], index["oi"]) == (None, None)
    ((key, value, lifetime_ms),) = sent.values
    assert (key, lifetime_ms) == ("ticker:v1:bar:NIFTY:1m", 180_000)
    assert json.loads(value)["columns"] == body["columns"]
    assert all(math.isfinite(price) for price in body["columns"]["open"])
