"""Candles hold every trade, in the intervals of India's clock."""

from __future__ import annotations

import numpy as np

from ticker_service.simulator.candles import BYTES_MAX, Candle, CandleHistory

NINE_FIFTEEN_S = 1_795_146_300
"""Friday 20 November 2026, 09:15 IST."""


def trade(
    history: CandleHistory, at_s: float, price: int, quantity: int, *, row: int = 0, oi: int = 0
) -> None:
    history.record(
        np.array([row]),
        np.array([price]),
        np.array([quantity]),
        np.array([oi]),
        at_ns=int((NINE_FIFTEEN_S + at_s) * 10**9),
    )


def candles(history: CandleHistory, *, minutes: int = 1, row: int = 0) -> list[Candle]:
    return history.candles(row, from_s=0, to_s=1 << 40, length_s=60 * minutes)


def test_a_candle_is_first_highest_lowest_last_and_sum() -> None:
    history = CandleHistory(2)
    for at_s, price, quantity in ((0, 50, 5), (10, 70, 1), (20, 40, 2), (59.9, 60, 3)):
        trade(history, at_s, price, quantity, oi=quantity)
    (candle,) = candles(history)
    assert candle == Candle(
        start_s=NINE_FIFTEEN_S,
        open_raw=50,
        high_raw=70,
        low_raw=40,
        close_raw=60,
        volume=11,
        oi=3,
        trades=4,
    )


def test_a_minute_without_a_trade_has_no_candle() -> None:
    history = CandleHistory(1)
    trade(history, 0, 50, 5)
    trade(history, 130, 51, 5)
    assert [candle.start_s - NINE_FIFTEEN_S for candle in candles(history)] == [0, 120]


def test_longer_candles_begin_at_a_quarter_past_nine() -> None:
    history = CandleHistory(1)
    for minute in (0, 9, 10, 29, 30, 61):
        trade(history, 60 * minute, 50 + minute, 1)
    starts = {
        minutes: [(c.start_s - NINE_FIFTEEN_S) // 60 for c in candles(history, minutes=minutes)]
        for minutes in (10, 30, 60)
    }
    assert starts == {10: [0, 10, 20, 30, 60], 30: [0, 30, 60], 60: [0, 60]}
    (hour, _) = candles(history, minutes=60)
    assert (hour.open_raw, hour.close_raw, hour.volume, hour.trades) == (50, 80, 5, 5)


def test_a_day_begins_at_midnight_in_india() -> None:
    history = CandleHistory(1)
    trade(history, 0, 50, 1)
    (day,) = candles(history, minutes=24 * 60)
    assert day.start_s == NINE_FIFTEEN_S - (9 * 60 + 15) * 60


def test_the_window_is_one_of_starts_and_includes_both_ends() -> None:
    history = CandleHistory(1)
    for minute in range(5):
        trade(history, 60 * minute, 50, 1)
    found = history.candles(0, from_s=NINE_FIFTEEN_S + 60, to_s=NINE_FIFTEEN_S + 180, length_s=60)
    assert [(c.start_s - NINE_FIFTEEN_S) // 60 for c in found] == [1, 2, 3]


def test_the_oldest_minutes_give_way_and_memory_is_bounded() -> None:
    history = CandleHistory(40_000)
    assert history.minutes_max * 40_000 * 7 * 8 <= BYTES_MAX
    for minute in range(history.minutes_max + 3):
        trade(history, 60 * minute, 50, 1, row=7)
    kept = candles(history, row=7)
    assert len(kept) == history.minutes_max
    assert kept[0].start_s == NINE_FIFTEEN_S + 3 * 60


def test_rows_do_not_mix() -> None:
    history = CandleHistory(2)
    trade(history, 0, 50, 1, row=0)
    trade(history, 1, 99, 2, row=1)
    assert [c.open_raw for c in candles(history, row=1)] == [99]
    assert [c.volume for c in candles(history, row=0)] == [1]
