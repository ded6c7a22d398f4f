"""Candles with volatility and Greeks: what is joined, what is not, and what each row says."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from option_day import EXPIRY_NS, MINUTE_NS, OPENS_NS, option_day, take

from ticker_service.domain.expiry_clock import expiry_instants
from ticker_service.domain.session import IST, instant_ns
from ticker_service.errors import CandleError
from ticker_service.history import (
    CandleInterval,
    CandlePrice,
    CandlePricing,
    ForwardSource,
    Leg,
    OptionCandles,
    UnderlyingCandles,
    candle_greeks,
    forwards,
)
from ticker_service.pricing import PriceStatus, PricingKernel, parity_forward

NAN = float("nan")
OWN_LEGS = CandlePricing(other_leg=False)


def spot_at(start_ns: list[int], price: list[float]) -> UnderlyingCandles:
    return UnderlyingCandles(start_ns=np.array(start_ns), price=np.array(price))


def one_option(**changes: object) -> OptionCandles:
    columns: dict[str, object] = {
        "start_ns": np.array([OPENS_NS]),
        "price": np.array([120.0]),
        "strike": np.array([25_000.0]),
        "is_call": np.array([True]),
        "expiry_ns": np.array([EXPIRY_NS]),
        "forward": np.array([25_000.0]),
    }
    return OptionCandles(**(columns | changes))  # type: ignore[arg-type]


def test_a_day_of_candles_gives_back_the_volatilities_it_was_priced_with() -> None:
    day = option_day(minutes=60, strikes=41)

    priced = candle_greeks(day.options)

    is_ok = priced.iv_status == PriceStatus.OK
    # A price is known to half a step, and the forward to what rounding makes of its legs.
    doubt = (0.025 + 0.06) / priced.vega / 100.0
    assert is_ok.mean() > 0.5
    assert (np.abs(priced.implied_volatility - day.volatility)[is_ok] <= doubt[is_ok]).all()
    assert (priced.forward_source == ForwardSource.PARITY).all()
    assert np.abs(priced.forward - day.forward).max() <= 0.06


def test_own_volatilities_are_the_kernels_to_the_last_bit() -> None:
    options = option_day().options

    priced = candle_greeks(options)

    solved, _ = PricingKernel(1_000).solve(
        options.price, priced.forward, options.strike, priced.years, 0.0, options.is_call
    )
    np.testing.assert_array_equal(priced.own_implied_volatility, solved[0])


def test_rows_keep_their_place_however_the_contracts_are_laid_out() -> None:
    options = option_day(minutes=7).options
    by_contract = np.lexsort((options.start_ns, options.is_call, options.strike))

    minute_by_minute = candle_greeks(options)
    contract_by_contract = candle_greeks(take(options, by_contract))

    for name, column in contract_by_contract.columns().items():
        np.testing.assert_array_equal(column, minute_by_minute.columns()[name][by_contract], name)


def test_a_minute_without_legs_has_no_forward_and_borrows_none_from_its_neighbours() -> None:
    day = option_day(minutes=3, strikes=11)
    second = day.options.start_ns == OPENS_NS + MINUTE_NS
    lone_call = second & day.options.is_call & (day.options.strike == 25_000.0)
    options = take(day.options, ~second | lone_call)

    priced = candle_greeks(options)

    alone = options.start_ns == OPENS_NS + MINUTE_NS
    assert alone.sum() == 1
    assert priced.iv_status[alone].tolist() == [PriceStatus.NO_FORWARD]
    assert np.isnan(priced.implied_volatility[alone]).all()
    assert np.isnan(priced.forward[alone]).all()
    assert (priced.iv_status[~alone] == PriceStatus.OK).all()


def test_an_underlying_of_another_minute_is_not_used() -> None:
    options = one_option(forward=None)

    late = candle_greeks(options, spot_at([OPENS_NS + MINUTE_NS], [25_000.0]))
    same = candle_greeks(options, spot_at([OPENS_NS], [25_000.0]))

    assert late.iv_status.tolist() == [PriceStatus.NO_FORWARD]
    assert same.forward_source.tolist() == [ForwardSource.SPOT_CARRY]


@pytest.mark.parametrize("seed", range(20))
def test_every_moments_forward_is_what_the_live_path_would_have_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    day = option_day(minutes=4, strikes=9, seed=seed)
    noisy = replace(day.options, price=day.options.price + rng.uniform(-3.0, 3.0, len(day.forward)))
    noisy.price[rng.random(len(day.forward)) < 0.2] = NAN
    spots = [24_900.0, NAN, 25_120.0, NAN]
    underlying = spot_at([OPENS_NS + minute * MINUTE_NS for minute in range(4)], spots)

    priced = candle_greeks(noisy, underlying)

    compared = 0
    for minute, spot in enumerate(spots):
        now = noisy.start_ns == OPENS_NS + minute * MINUTE_NS
        of_calls, of_puts = now & noisy.is_call, now & ~noisy.is_call
        live = parity_forward(
            noisy.strike[of_calls],
            noisy.price[of_calls],
            noisy.price[of_puts],
            np.zeros(9),
            guess=spot,
        )
        if live.strikes_used >= 3:
            compared += 1
            np.testing.assert_allclose(priced.forward[now], live.forward, rtol=1e-15)
            np.testing.assert_allclose(priced.forward_dispersion[now], live.dispersion, atol=1e-9)
            assert set(priced.forward_strikes[now].tolist()) == {live.strikes_used}
    assert compared >= 2


def test_chains_of_any_length_are_asked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    day = option_day(minutes=6, strikes=21)
    # Minute by minute fewer strikes, so that no two chains have the same length.
    minute = (day.options.start_ns - OPENS_NS) // MINUTE_NS
    options = take(day.options, np.abs(day.options.strike - 25_000.0) <= 500.0 - 80.0 * minute)
    at_once = candle_greeks(options)

    monkeypatch.setattr(forwards, "TABLE_CELLS_MAX", 30)
    one_by_one = candle_greeks(options)

    assert len(np.unique(np.bincount(minute))) == 1
    assert len(set(at_once.forward.tolist())) == 6
    np.testing.assert_array_equal(one_by_one.forward, at_once.forward)
    np.testing.assert_array_equal(one_by_one.forward_strikes, at_once.forward_strikes)


def test_the_forward_is_given_or_by_parity_or_the_future_or_the_spot_in_this_order() -> None:
    day = option_day(minutes=1, strikes=5)
    start = [OPENS_NS]
    both = UnderlyingCandles(
        start_ns=np.array([OPENS_NS, OPENS_NS]),
        price=np.array([24_900.0, 24_950.0]),
        expiry_ns=np.array([0, EXPIRY_NS]),
    )
    one_leg = take(day.options, day.options.is_call)
    given = replace(one_leg, forward=np.full(5, 24_960.0))

    sources = [
        candle_greeks(*tables).forward_source[0]
        for tables in (
            (given, both),
            (day.options, both),
            (one_leg, both),
            (one_leg, spot_at(start, [24_900.0])),
            (one_leg, None),
        )
    ]

    assert sources == [
        ForwardSource.GIVEN,
        ForwardSource.PARITY,
        ForwardSource.FUTURE,
        ForwardSource.SPOT_CARRY,
        ForwardSource.NONE,
    ]


def test_the_future_of_another_expiry_is_no_forward() -> None:
    far = UnderlyingCandles(
        start_ns=np.array([OPENS_NS]),
        price=np.array([25_100.0]),
        expiry_ns=np.array([EXPIRY_NS + 7 * 86_400 * 10**9]),
    )

    priced = candle_greeks(one_option(forward=None), far)

    assert priced.iv_status.tolist() == [PriceStatus.NO_FORWARD]


def test_one_strike_is_an_anecdote_used_last_and_marked() -> None:
    day = option_day(minutes=1, strikes=1)

    alone = candle_greeks(day.options)
    with_spot = candle_greeks(day.options, spot_at([OPENS_NS], [25_000.0]))

    assert alone.forward_source.tolist() == [ForwardSource.PARITY] * 2
    assert alone.forward_strikes.tolist() == [1, 1]
    assert alone.iv_status.tolist() == [PriceStatus.UNRELIABLE] * 2
    assert with_spot.forward_source.tolist() == [ForwardSource.SPOT_CARRY] * 2
    assert with_spot.iv_status.tolist() == [PriceStatus.UNRELIABLE] * 2
    assert not np.isnan(alone.delta).any()


def test_a_spot_is_carried_to_its_forward_at_the_rate() -> None:
    priced = candle_greeks(
        one_option(forward=None),
        spot_at([OPENS_NS], [25_000.0]),
        assumed=CandlePricing(rate=0.065),
    )

    assert priced.forward[0] == pytest.approx(25_000.0 * math.exp(0.065 * priced.years[0]))


def test_an_in_the_money_row_speaks_with_the_volatility_of_the_other_leg() -> None:
    day = option_day(minutes=1, strikes=21)
    is_deep_call = day.options.is_call & (day.options.strike == 24_600.0)
    spoiled = replace(day.options, price=day.options.price - 40.0 * is_deep_call)
    row = int(np.flatnonzero(is_deep_call)[0])

    borrowed = candle_greeks(spoiled)
    own = candle_greeks(spoiled, assumed=OWN_LEGS)

    assert borrowed.iv_leg[row] == Leg.OTHER
    assert borrowed.implied_volatility[row] == pytest.approx(day.volatility[row], abs=2e-4)
    assert 0.5 < borrowed.delta[row] < 1.0
    assert own.iv_leg.tolist() == [Leg.OWN] * len(day.forward)
    assert own.iv_status[row] == PriceStatus.BELOW_INTRINSIC


@pytest.mark.parametrize("given_leg", [True, False])
def test_a_volatility_of_another_forward_is_not_borrowed(given_leg: bool) -> None:  # noqa: FBT001
    """One leg is on the caller's forward, the other on parity: their volatilities do not agree."""
    day = option_day(minutes=1, strikes=21)
    given = np.full(len(day.options), NAN)
    given[day.options.is_call == given_leg] = day.forward[0] + 40.0
    mixed = replace(day.options, forward=given)

    priced = candle_greeks(mixed)

    assert set(priced.iv_leg.tolist()) == {Leg.OWN}
    np.testing.assert_array_equal(priced.implied_volatility, priced.own_implied_volatility)


def test_legs_given_the_same_forward_still_borrow() -> None:
    day = option_day(minutes=1, strikes=21)

    priced = candle_greeks(replace(day.options, forward=day.forward))

    assert set(priced.iv_leg.tolist()) == {Leg.OWN, Leg.OTHER}


@pytest.mark.parametrize("bad", [-5.0, 0.0, float("inf"), float("-inf")])
def test_a_given_forward_that_is_none_is_not_replaced_by_another(bad: float) -> None:
    day = option_day(minutes=1, strikes=5)
    given = np.full(10, NAN)
    given[3] = bad

    priced = candle_greeks(replace(day.options, forward=given))

    assert priced.iv_status[3] == PriceStatus.BAD_INPUT
    assert priced.forward_source[3] == ForwardSource.GIVEN
    assert np.isnan(priced.implied_volatility[3])
    others = np.arange(10) != 3
    assert (priced.iv_status[others] == PriceStatus.OK).all()


def test_a_close_is_priced_at_the_end_of_its_candle_and_an_open_at_its_start() -> None:
    hour = CandlePricing(interval=CandleInterval.SIXTY_MINUTES)
    opens = CandlePricing(price=CandlePrice.OPEN)

    assert candle_greeks(one_option()).priced_at_ns[0] == OPENS_NS + MINUTE_NS
    assert candle_greeks(one_option(), assumed=hour).priced_at_ns[0] == OPENS_NS + 60 * MINUTE_NS
    assert candle_greeks(one_option(), assumed=opens).priced_at_ns[0] == OPENS_NS


def test_the_last_minute_has_a_close_that_is_expired_and_an_open_that_is_not() -> None:
    last = one_option(start_ns=np.array([EXPIRY_NS - MINUTE_NS]))
    one_before = one_option(start_ns=np.array([EXPIRY_NS - 2 * MINUTE_NS]))

    assert candle_greeks(last).iv_status.tolist() == [PriceStatus.EXPIRED]
    assert candle_greeks(one_before).iv_status.tolist() == [PriceStatus.OK]
    of_open = candle_greeks(last, assumed=CandlePricing(price=CandlePrice.OPEN))
    assert of_open.iv_status.tolist() == [PriceStatus.OK]
    assert of_open.years[0] == 60.0 / (365 * 86_400)


def test_the_last_candle_of_a_day_ends_when_trading_does() -> None:
    last_hour_ns = OPENS_NS + 6 * 60 * MINUTE_NS  # from 15:15; derivatives trade until 15:40
    hour = CandlePricing(interval=CandleInterval.SIXTY_MINUTES)

    priced = candle_greeks(one_option(start_ns=np.array([last_hour_ns])), assumed=hour)

    assert priced.priced_at_ns[0] == last_hour_ns + 25 * MINUTE_NS


def test_a_day_has_its_close_at_the_end_of_trading_and_no_open() -> None:
    midnight_ns = OPENS_NS - (9 * 60 + 15) * MINUTE_NS
    day = one_option(start_ns=np.array([midnight_ns]))

    priced = candle_greeks(day, assumed=CandlePricing(interval=CandleInterval.DAY))

    assert priced.priced_at_ns[0] == midnight_ns + (15 * 60 + 40) * MINUTE_NS
    opens = CandlePricing(interval=CandleInterval.DAY, price=CandlePrice.OPEN)
    with pytest.raises(CandleError, match="opens of day candles have no instant"):
        candle_greeks(day, assumed=opens)


@pytest.mark.parametrize("segment", ["CDS-OPT", "BCD-OPT"])
@pytest.mark.parametrize(
    ("interval", "day", "begins", "ends"),
    [
        (CandleInterval.DAY, 20, "00:00", "17:00"),
        (CandleInterval.SIXTY_MINUTES, 20, "12:00", "13:00"),
        (CandleInterval.SIXTY_MINUTES, 20, "16:30", "17:00"),
        # The last day, which ends when the reference rate is fixed.
        (CandleInterval.DAY, 24, "00:00", "12:30"),
        (CandleInterval.SIXTY_MINUTES, 24, "12:00", "12:30"),
    ],
)
def test_a_currencys_day_ends_at_17_00_and_its_last_one_at_12_30(
    segment: str, interval: CandleInterval, day: int, begins: str, ends: str
) -> None:
    def at_ns(time: str) -> int:
        date = dt.date(2026, 11, day)
        return instant_ns(dt.datetime.combine(date, dt.time.fromisoformat(time), tzinfo=IST))

    expiry_ns = expiry_instants(segment, "USDINR", dt.date(2026, 11, 24)).variance_ends_ns
    option = one_option(
        start_ns=np.array([at_ns(begins)]),
        price=np.array([0.30]),
        strike=np.array([84.5]),
        expiry_ns=np.array([expiry_ns]),
        forward=np.array([84.5]),
    )

    assumed = CandlePricing(interval=interval, segment=segment, price_step_inr=0.0025)
    priced = candle_greeks(option, assumed=assumed)

    assert priced.priced_at_ns.tolist() == [at_ns(ends)]
    status = PriceStatus.OK if day == 20 else PriceStatus.EXPIRED
    assert priced.iv_status.tolist() == [status]


def test_contracts_of_one_day_end_it_each_at_its_own_time() -> None:
    """One expires today at 12:30, the other next week."""
    noon = dt.datetime(2026, 11, 24, 12, 0, tzinfo=IST)
    expiry_ns = np.array(
        [
            expiry_instants("CDS-OPT", "USDINR", dt.date(2026, *date)).variance_ends_ns
            for date in ((11, 24), (12, 1))
        ]
    )
    options = OptionCandles(
        start_ns=np.full(2, instant_ns(noon)),
        price=np.array([0.30, 0.30]),
        strike=np.array([84.5, 84.5]),
        is_call=np.array([True, True]),
        expiry_ns=expiry_ns,
        forward=np.array([84.5, 84.5]),
    )
    hour = CandlePricing(interval=CandleInterval.SIXTY_MINUTES, segment="CDS-OPT")

    priced = candle_greeks(options, assumed=hour)

    minutes = (priced.priced_at_ns - instant_ns(noon)) // MINUTE_NS
    assert minutes.tolist() == [30, 60]


def test_a_candle_of_a_night_is_not_cut_short() -> None:
    night_ns = OPENS_NS + 10 * 60 * MINUTE_NS

    priced = candle_greeks(one_option(start_ns=np.array([night_ns])))

    assert priced.priced_at_ns[0] == night_ns + MINUTE_NS


def test_a_candle_without_a_trade_is_stale_and_does_not_speak_for_the_forward() -> None:
    day = option_day(minutes=1, strikes=5)
    volume = np.full(10, 75.0)
    volume[0] = 0.0

    priced = candle_greeks(replace(day.options, volume=volume))

    assert priced.forward_strikes[0] == 4
    # The row itself is an in-the-money call: its strike's put speaks for it.
    assert (priced.iv_status[0], priced.iv_leg[0]) == (PriceStatus.OK, Leg.OTHER)
    own = candle_greeks(replace(day.options, volume=volume), assumed=OWN_LEGS)
    assert own.iv_status[0] == PriceStatus.STALE
    assert np.isfinite(own.implied_volatility[0])


def test_a_candle_whose_volume_is_not_known_is_taken_as_traded() -> None:
    options = option_day(minutes=1, strikes=5).options
    volume = np.full(10, 75.0)
    volume[:2] = NAN

    priced = candle_greeks(replace(options, volume=volume), assumed=OWN_LEGS)

    assert set(priced.forward_strikes.tolist()) == {5}
    assert priced.iv_status.tolist() == [PriceStatus.OK] * 10


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"price": NAN}, PriceStatus.NO_PRICE),
        ({"price": 0.0}, PriceStatus.NO_PRICE),
        ({"price": -3.0}, PriceStatus.NO_PRICE),
        ({"price": float("inf")}, PriceStatus.BAD_INPUT),
        ({"strike": NAN}, PriceStatus.BAD_INPUT),
        ({"strike": -25_000.0}, PriceStatus.BAD_INPUT),
        ({"strike": 20_000.0}, PriceStatus.BELOW_INTRINSIC),
        ({"price": 26_000.0}, PriceStatus.ABOVE_BOUND),
        ({"forward": NAN}, PriceStatus.NO_FORWARD),
        ({"forward": -1.0}, PriceStatus.BAD_INPUT),
        ({"expiry_ns": OPENS_NS - 1}, PriceStatus.EXPIRED),
        ({"price": 0.001, "strike": 30_000.0}, PriceStatus.UNRELIABLE),
    ],
)
def test_a_bad_row_says_why_and_does_not_touch_its_neighbours(
    change: dict[str, float], expected: PriceStatus
) -> None:
    good = one_option()
    bad = one_option(**{name: np.array([value]) for name, value in change.items()})
    both = OptionCandles(
        start_ns=np.array([OPENS_NS, OPENS_NS + MINUTE_NS]),
        price=np.concatenate([good.price, bad.price]),
        strike=np.concatenate([good.strike, bad.strike]),
        is_call=np.array([True, True]),
        expiry_ns=np.concatenate([good.expiry_ns, bad.expiry_ns]),
        forward=np.concatenate([good.forward, bad.forward]),  # type: ignore[arg-type]
    )

    priced = candle_greeks(both)

    assert priced.iv_status.tolist() == [PriceStatus.OK, expected]
    assert np.isnan(priced.delta[1]) == (expected is not PriceStatus.UNRELIABLE)
    assert priced.delta[0] == candle_greeks(good).delta[0]


def test_two_underlyings_with_one_expiry_and_one_strike_are_two_markets() -> None:
    nifty, other = option_day(minutes=1), option_day(minutes=1, level=25_200.0)
    rows = len(nifty.options)
    together = OptionCandles(
        **{
            name: np.concatenate([getattr(nifty.options, name), getattr(other.options, name)])
            for name in ("start_ns", "price", "strike", "is_call", "expiry_ns")
        },
        underlying=np.repeat([0, 1], rows),
    )

    priced = candle_greeks(together)

    for part, day in ((slice(rows), nifty), (slice(rows, None), other)):
        alone = candle_greeks(day.options)
        np.testing.assert_array_equal(priced.implied_volatility[part], alone.implied_volatility)
        np.testing.assert_array_equal(priced.forward[part], alone.forward)


@pytest.mark.parametrize(
    ("order", "words"), [([0, 1, 1, 2], "the same as"), ([0, 2, 1, 3], "earlier than")]
)
def test_stamps_of_a_contract_that_do_not_ascend_are_refused_by_row(
    order: list[int], words: str
) -> None:
    options = take(option_day(minutes=4, strikes=1).options, np.array([0, 2, 4, 6])[order])

    with pytest.raises(
        CandleError, match=f"column timestamp, row 3: is {words} in row 2"
    ) as caught:
        candle_greeks(options)

    assert (caught.value.column, caught.value.row) == ("timestamp", 2)


def test_an_underlyings_repeated_stamp_is_refused_by_row() -> None:
    twice = spot_at([OPENS_NS, OPENS_NS], [25_000.0, 25_001.0])

    with pytest.raises(CandleError, match="underlying candles, column timestamp, row 2: is the"):
        candle_greeks(one_option(), twice)


def test_columns_of_different_length_are_refused_by_name() -> None:
    with pytest.raises(CandleError, match="option candles, column strike: has the shape"):
        candle_greeks(one_option(strike=np.array([1.0, 2.0])))


def test_no_rows_are_no_rows() -> None:
    none = take(option_day().options, np.array([], np.intp))

    priced = candle_greeks(none, spot_at([], []))

    assert [len(column) for column in priced.columns().values()] == [0] * 16


def test_what_is_written_has_words_for_codes() -> None:
    priced = candle_greeks(
        replace(option_day(minutes=1, strikes=3).options, price=np.array([NAN] + 5 * [50.0]))
    )

    columns = priced.columns()

    assert columns["price_source"].tolist() == ["none"] + 5 * ["close"]
    assert set(columns["forward_source"].tolist()) == {"parity"}
    assert set(columns["iv_leg"].tolist()) <= {"own", "other"}
    assert set(columns["iv_status"].tolist()) <= {status.name for status in PriceStatus}


ANY_NUMBER = st.floats(width=64) | st.floats(0.05, 60_000.0) | st.sampled_from([0.0, NAN])
ANY_INSTANT = st.integers(-(2**63), 2**63 - 1) | st.integers(OPENS_NS, EXPIRY_NS)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.tuples(ANY_INSTANT, ANY_NUMBER, ANY_NUMBER, st.booleans(), ANY_INSTANT, ANY_NUMBER),
        max_size=8,
        unique_by=lambda row: row[0],
    ).map(sorted),
    spot=ANY_NUMBER,
    interval=st.sampled_from(CandleInterval),
    rate=st.floats(-1.0, 1.0),
)
def test_any_candles_are_priced_or_say_why_not(
    rows: list[tuple[int, float, float, bool, int, float]],
    spot: float,
    interval: CandleInterval,
    rate: float,
) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * 6
    options = OptionCandles(
        start_ns=np.array(columns[0], np.int64),
        price=np.array(columns[1], np.float64),
        strike=np.array(columns[2], np.float64),
        is_call=np.array(columns[3], np.bool_),
        expiry_ns=np.array(columns[4], np.int64),
        forward=np.array(columns[5], np.float64),
    )
    underlying = UnderlyingCandles(start_ns=options.start_ns, price=np.full(len(options), spot))

    priced = candle_greeks(options, underlying, assumed=CandlePricing(interval=interval, rate=rate))

    is_valued = np.isin(
        priced.iv_status, [PriceStatus.OK, PriceStatus.STALE, PriceStatus.UNRELIABLE]
    )
    for column in (priced.implied_volatility, priced.delta, priced.gamma, priced.vega):
        np.testing.assert_array_equal(np.isfinite(column), is_valued)
