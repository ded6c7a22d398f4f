"""The price that speaks for an option: a sane mid, else the last trade, else nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exchange import NOW_NS, nifty_universe, option_row, ticks_of

from ticker_service.domain.tick import Mode
from ticker_service.market import quotes
from ticker_service.market.quotes import PriceSource, Quotes
from ticker_service.pricing import PriceStatus

CHOSEN = nifty_universe()
CALL = option_row(CHOSEN, 0, 24_000.0, "CE")
MINUTE_NS = 60 * 10**9
NAN = float("nan")


def choose(**columns: float) -> Quotes:
    ticks = ticks_of(CHOSEN, [CALL], **columns)
    traded_ns = np.where(ticks.last_trade_ts_ns > 0, ticks.last_trade_ts_ns, ticks.received_at_ns)
    return quotes.choose(ticks, np.array([0.05]), traded_ns=traded_ns, price_age_ns_max=MINUTE_NS)


def summary(chosen: Quotes) -> tuple[PriceStatus, PriceSource]:
    return PriceStatus(int(chosen.status[0])), PriceSource(int(chosen.source[0]))


def test_a_tight_quote_speaks_by_its_mid() -> None:
    chosen = choose(bid_price=100.0, ask_price=101.0, ltp=90.0)
    assert summary(chosen) == (PriceStatus.OK, PriceSource.MID)
    assert (chosen.price[0], chosen.mid[0], chosen.half_spread[0]) == (100.5, 100.5, 0.5)


def test_a_locked_quote_is_sane() -> None:
    assert choose(bid_price=100.0, ask_price=100.0).price[0] == 100.0


@pytest.mark.parametrize(
    ("bid", "ask", "is_sane"),
    [
        (60.0, 100.0, True),  # half of the mid exactly
        (59.0, 100.0, False),
        (0.05, 0.55, True),  # ten steps
        (0.6, 1.1, True),  # ten steps, whose difference is a little more in binary
        (0.05, 0.6, False),
        (0.05, 40.0, False),
    ],
)
def test_a_spread_is_sane_by_its_share_of_the_mid_or_its_steps(
    bid: float, ask: float, *, is_sane: bool
) -> None:
    assert bool(choose(bid_price=bid, ask_price=ask).mid[0] > 0) is is_sane


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        pytest.param({}, PriceStatus.NO_PRICE, id="nothing"),
        pytest.param({"bid_price": 100.0}, PriceStatus.ONE_SIDED, id="bid-only"),
        pytest.param({"ask_price": 100.0}, PriceStatus.ONE_SIDED, id="ask-only"),
        pytest.param({"bid_price": 101.0, "ask_price": 100.0}, PriceStatus.CROSSED, id="crossed"),
        pytest.param({"bid_price": 0.05, "ask_price": 40.0}, PriceStatus.NO_PRICE, id="too-wide"),
    ],
)
def test_without_a_sane_quote_or_a_trade_there_is_no_price_but_a_reason(
    columns: dict[str, float], status: PriceStatus
) -> None:
    chosen = choose(**columns)
    assert summary(chosen) == (status, PriceSource.NONE)
    assert np.isnan([chosen.price[0], chosen.mid[0], chosen.half_spread[0]]).all()


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        pytest.param({}, PriceStatus.UNRELIABLE, id="no-quote"),
        pytest.param({"bid_price": 98.0}, PriceStatus.ONE_SIDED, id="one-sided"),
        pytest.param({"bid_price": 101.0, "ask_price": 98.0}, PriceStatus.CROSSED, id="crossed"),
        pytest.param(
            {"bid_price": 50.0, "ask_price": 190.0}, PriceStatus.UNRELIABLE, id="too-wide"
        ),
    ],
)
def test_the_last_trade_serves_where_the_quote_cannot_and_the_status_says_why(
    columns: dict[str, float], status: PriceStatus
) -> None:
    chosen = choose(ltp=99.0, last_trade_ts_ns=NOW_NS - MINUTE_NS, **columns)
    assert summary(chosen) == (status, PriceSource.LTP)
    assert chosen.price[0] == 99.0


@pytest.mark.parametrize("mode", [Mode.LTP, Mode.QUOTE])
def test_in_a_mode_without_depth_the_last_trade_is_all_there_is(mode: Mode) -> None:
    assert summary(choose(ltp=99.0, mode=int(mode))) == (PriceStatus.OK, PriceSource.LTP)


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        pytest.param({"bid_price": 100.0}, PriceStatus.ONE_SIDED, id="bid-above"),
        pytest.param({"ask_price": 90.0}, PriceStatus.ONE_SIDED, id="ask-below"),
        pytest.param({"bid_price": 101.0, "ask_price": 100.0}, PriceStatus.CROSSED, id="crossed"),
        pytest.param({"bid_price": 0.05, "ask_price": 40.0}, PriceStatus.NO_PRICE, id="too-wide"),
    ],
)
def test_a_last_trade_that_the_book_contradicts_does_not_speak(
    columns: dict[str, float], status: PriceStatus
) -> None:
    chosen = choose(ltp=99.0, last_trade_ts_ns=NOW_NS - MINUTE_NS, **columns)
    assert summary(chosen) == (status, PriceSource.NONE)


def test_a_quote_for_no_quantity_is_nobody_s() -> None:
    chosen = choose(bid_price=98.0, ask_price=100.0, bid_quantity=0, ask_quantity=0)
    assert summary(chosen) == (PriceStatus.NO_PRICE, PriceSource.NONE)


def test_a_last_trade_never_votes_in_the_parity() -> None:
    assert np.isnan(choose(ltp=99.0).mid[0])


def test_an_old_trade_is_used_and_called_stale() -> None:
    chosen = choose(ltp=99.0, last_trade_ts_ns=NOW_NS - MINUTE_NS - 1)
    assert summary(chosen) == (PriceStatus.STALE, PriceSource.LTP)
    assert chosen.price[0] == 99.0


def test_a_trade_whose_time_nobody_knows_is_never_called_good() -> None:
    ticks = ticks_of(CHOSEN, [CALL], ltp=99.0, mode=int(Mode.QUOTE))
    unknown_ns = np.zeros(1, np.int64)
    chosen = quotes.choose(
        ticks, np.array([0.05]), traded_ns=unknown_ns, price_age_ns_max=MINUTE_NS
    )
    assert summary(chosen) == (PriceStatus.STALE, PriceSource.LTP)


def test_an_old_trade_does_not_spoil_a_fresh_quote() -> None:
    chosen = choose(bid_price=100.0, ask_price=101.0, ltp=90.0, last_trade_ts_ns=1)
    assert summary(chosen) == (PriceStatus.OK, PriceSource.MID)


def test_a_quote_the_server_kept_from_earlier_is_stale_although_it_came_just_now() -> None:
    old = NOW_NS - MINUTE_NS - 1
    chosen = choose(bid_price=100.0, ask_price=101.0, exchange_ts_ns=old)
    assert summary(chosen) == (PriceStatus.STALE, PriceSource.MID)


def test_a_quote_the_server_kept_from_earlier_never_votes_in_the_parity() -> None:
    old = NOW_NS - MINUTE_NS - 1
    assert np.isnan(choose(bid_price=100.0, ask_price=101.0, exchange_ts_ns=old).mid[0])


def test_a_trade_of_a_packet_kept_from_earlier_is_stale_too() -> None:
    assert summary(choose(ltp=99.0, exchange_ts_ns=1))[0] == PriceStatus.STALE


def test_a_trade_stamped_ahead_of_our_clock_is_fresh() -> None:
    assert summary(choose(ltp=99.0, last_trade_ts_ns=NOW_NS + 10**9))[0] != PriceStatus.STALE


maybe_price = st.one_of(st.just(NAN), st.floats(0.05, 1e6))


@given(maybe_price, maybe_price, maybe_price, st.sampled_from(Mode))
def test_a_price_has_a_source_and_only_a_mid_or_a_lone_trade_is_called_good(
    bid: float, ask: float, ltp: float, mode: Mode
) -> None:
    chosen = choose(bid_price=bid, ask_price=ask, ltp=ltp, mode=int(mode))
    status, source = summary(chosen)
    assert bool(chosen.price[0] > 0.0) == (source is not PriceSource.NONE)
    assert np.isnan(chosen.price[0]) == (source is PriceSource.NONE)
    if status is PriceStatus.OK:
        assert source is PriceSource.MID or mode < Mode.FULL
    if source is PriceSource.MID:
        assert status is PriceStatus.OK
    if status is PriceStatus.NO_PRICE:
        assert source is PriceSource.NONE
