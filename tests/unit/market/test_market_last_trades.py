"""When an instrument last traded, told by what its packets show and not by when they come."""

from __future__ import annotations

import numpy as np
import pytest
from small_exchange import NOW_NS, nifty_universe, ticks_of

from ticker_service.domain.tick import Mode
from ticker_service.market.last_trades import UNKNOWN_NS, LastTrades

CHOSEN = nifty_universe()
SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS


class Tape:
    """Ticks of a few rows, a second apart, taken in flushes of any size."""

    def __init__(self) -> None:
        self.trades = LastTrades(len(CHOSEN))
        self.awaits_news = np.zeros(len(CHOSEN), np.bool_)
        self.at_ns = NOW_NS

    def take(self, *ticks: tuple[int, float, int], mode: Mode = Mode.QUOTE) -> list[int]:
        """Take (row, ltp, volume) in one flush; return each one's instant."""
        rows = [row for row, _, _ in ticks]
        at_ns = self.at_ns + SECOND_NS * np.arange(1, len(ticks) + 1)
        self.at_ns = int(at_ns[-1])
        columns = {
            "ltp": [ltp for _, ltp, _ in ticks],
            "volume": [volume for _, _, volume in ticks],
            "mode": int(mode),
            "received_at_ns": at_ns,
        }
        self.trades.take(
            np.array(rows, np.intp),
            ticks_of(CHOSEN, rows, **columns),
            awaits_news=self.awaits_news,
        )
        return at_ns.tolist()

    def traded_ns(self, row: int) -> int:
        return int(self.trades.at_ns[row])


def test_what_traded_before_the_first_packet_has_no_known_time() -> None:
    tape = Tape()
    tape.take((1, 99.0, 500))
    tape.take((1, 99.0, 500))
    assert tape.traded_ns(1) == UNKNOWN_NS


def test_a_trade_is_as_old_as_the_packet_whose_volume_had_grown() -> None:
    tape = Tape()
    tape.take((1, 99.0, 500))
    (grown_ns,) = tape.take((1, 99.0, 575))
    tape.take((1, 99.0, 575))
    assert tape.traded_ns(1) == grown_ns


def test_without_a_volume_it_is_as_old_as_the_price_s_last_change() -> None:
    tape = Tape()
    tape.take((1, 99.0, -1), mode=Mode.LTP)
    (moved_ns,) = tape.take((1, 99.05, -1), mode=Mode.LTP)
    tape.take((1, 99.05, -1), mode=Mode.LTP)
    assert tape.traded_ns(1) == moved_ns


def test_packets_of_one_flush_are_compared_with_each_other_in_their_order() -> None:
    tape = Tape()
    tape.take((1, 99.0, 500), (2, 50.0, 10))
    at_ns = tape.take((2, 50.0, 10), (1, 99.0, 575), (2, 50.0, 20), (1, 99.0, 575), (1, 99.0, 575))
    assert (tape.traded_ns(1), tape.traded_ns(2)) == (at_ns[1], at_ns[2])


def test_the_volume_of_a_new_day_begins_at_zero() -> None:
    tape = Tape()
    tape.take((1, 99.0, 500))
    tape.at_ns += DAY_NS
    tape.take((1, 99.0, 0))
    before = tape.traded_ns(1)
    (first_ns,) = tape.take((1, 99.0, 75))
    assert (before, tape.traded_ns(1)) == (UNKNOWN_NS, first_ns)


@pytest.mark.parametrize(("volume", "is_known"), [(575, True), (650, False)])
def test_a_trade_while_nobody_listened_has_no_known_time(volume: int, *, is_known: bool) -> None:
    tape = Tape()
    tape.take((1, 99.0, 500))
    (grown_ns,) = tape.take((1, 99.0, 575))
    tape.awaits_news[1] = True
    tape.take((1, 99.0, volume))
    assert tape.traded_ns(1) == (grown_ns if is_known else UNKNOWN_NS)


def test_what_was_forgotten_begins_anew() -> None:
    tape = Tape()
    tape.take((1, 99.0, 500))
    tape.take((1, 99.0, 575))
    tape.trades.forget(np.array([1]))
    tape.take((1, 99.0, 650))
    assert tape.traded_ns(1) == UNKNOWN_NS
