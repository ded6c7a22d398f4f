"""What the simulated prices promise."""

from __future__ import annotations

import datetime as dt
from typing import Final

import numpy as np
import pytest

from ticker_service.constants import NS_PER_S
from ticker_service.domain import session
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.domain.tick import Mode
from ticker_service.pricing import PricingKernel
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.smile import volatility_per_year

STEP_NS: Final = NS_PER_S // 20


def _run(market: Market, now_ns: int, steps: int) -> None:
    for number in range(1, steps + 1):
        market.step(now_ns + number * STEP_NS)


def _everything(market: Market) -> bytes:
    rows = np.arange(len(market.catalogue))
    mode = np.full(len(rows), Mode.FULL, np.uint8)
    return b"".join(market.packets.frames(rows, mode))


def _tradable(market: Market) -> slice:
    return slice(market.catalogue.index_count, None)


def test_the_same_seed_and_instants_give_the_same_bytes(
    options: SimulatorOptions, now_ns: int
) -> None:
    first, second = Market(options, now_ns=now_ns), Market(options, now_ns=now_ns)

    _run(first, now_ns, 50)
    _run(second, now_ns, 50)

    assert _everything(first) == _everything(second)


def test_another_seed_gives_another_market(market: Market, now_ns: int) -> None:
    other = Market(SimulatorOptions(seed=8), now_ns=now_ns)

    assert _everything(other) != _everything(market)


def test_the_underlyings_path_depends_on_seed_and_step_alone(now_ns: int) -> None:
    quiet = Market(SimulatorOptions(seed=7, rate_per_s=0.0), now_ns=now_ns)
    busy = Market(SimulatorOptions(seed=7, rate_per_s=9_000.0), now_ns=now_ns)

    _run(quiet, now_ns, 5)
    quiet.underlyings.step()
    _run(busy, now_ns + NS_PER_S, 6)

    assert quiet.underlyings.price_inr == pytest.approx(busy.underlyings.price_inr, rel=1e-12)


def test_quotes_are_on_the_price_step_with_the_bid_below_the_ask(
    market: Market, now_ns: int
) -> None:
    _run(market, now_ns, 100)
    board, tradable = market.board, _tradable(market)
    step = market.catalogue.price_step_raw[tradable, None]

    assert np.all(board.bid_raw[tradable] % step == 0)
    assert np.all(board.ask_raw[tradable] % step == 0)
    assert np.all(board.bid_raw[tradable, 0] < board.ask_raw[tradable, 0])
    assert np.all(board.ask_raw[tradable, 0] >= step[:, 0])


def test_depth_falls_away_from_the_best_and_an_empty_bid_level_is_all_zero(
    market: Market, now_ns: int
) -> None:
    _run(market, now_ns, 100)
    board, tradable = market.board, _tradable(market)
    bid, ask = board.bid_raw[tradable], board.ask_raw[tradable]
    empty = bid == 0

    assert np.any(empty)
    assert np.all((np.diff(bid, axis=1) < 0) | empty[:, 1:])
    assert np.all(np.diff(ask, axis=1) > 0)
    assert np.all(board.bid_quantity[tradable][empty] == 0)
    assert np.all(board.bid_orders[tradable][empty] == 0)
    assert np.all(board.bid_quantity[tradable][~empty] > 0)
    assert np.all(board.ask_quantity[tradable] > 0)


def test_the_last_price_stays_within_the_days_range_and_volume_only_grows(
    market: Market, now_ns: int
) -> None:
    board = market.board
    volume = board.volume.copy()
    for number in range(100):
        market.step(now_ns + number * STEP_NS)
        assert np.all(board.volume >= volume)
        volume = board.volume.copy()

    assert np.all(board.low_raw <= board.ltp_raw)
    assert np.all(board.ltp_raw <= board.high_raw)
    assert np.all((board.low_raw <= board.open_raw) & (board.open_raw <= board.high_raw))


def test_open_interest_belongs_to_derivatives_and_stays_in_its_range(
    market: Market, now_ns: int
) -> None:
    _run(market, now_ns, 100)
    board, is_derivative = market.board, market.catalogue.is_derivative

    assert np.all(board.oi[~is_derivative] == 0)
    assert np.all(board.oi[is_derivative] > 0)
    assert np.all((board.oi_day_low <= board.oi) & (board.oi <= board.oi_day_high))


def test_an_index_has_neither_volume_nor_depth(market: Market, now_ns: int) -> None:
    _run(market, now_ns, 50)
    index = slice(None, market.catalogue.index_count)

    assert not market.board.volume[index].any()
    assert not market.board.bid_raw[index].any()
    assert not market.board.last_trade_s[index].any()


def test_quantities_are_whole_lots(market: Market, now_ns: int) -> None:
    _run(market, now_ns, 50)
    lots = market.catalogue.lot_size

    assert np.all(market.board.last_quantity % lots == 0)
    assert np.all(market.board.bid_quantity % lots[:, None] == 0)
    assert np.all(market.board.oi % lots == 0)


def test_options_are_quoted_round_black_76_on_the_true_forward_and_smile(now_ns: int) -> None:
    market = Market(SimulatorOptions(seed=7, rate_per_s=100_000.0), now_ns=now_ns)
    at_ns = now_ns + STEP_NS
    market.step(at_ns)
    listed, state, board = market.catalogue, market.underlyings, market.board
    rows = np.flatnonzero(listed.is_option)
    curve, strike = listed.curve[rows], listed.strike_inr[rows]
    expiry_ns = np.array([each.expiry_ns for each in listed.curves])[curve]
    forward = state.forward_inr[curve]

    price = PricingKernel(len(rows)).evaluate(
        volatility_per_year(state.smile[:, curve], forward, strike),
        forward,
        strike,
        years_to_expiry(at_ns, expiry_ns),
        0.0,
        listed.is_call[rows],
    )[0]

    assert np.all(board.bid_raw[rows, 0] / 100 <= price)
    assert np.all(price <= board.ask_raw[rows, 0] / 100 + 1e-9)


def test_spreads_widen_away_from_the_money(now_ns: int) -> None:
    market = Market(SimulatorOptions(seed=7, rate_per_s=100_000.0), now_ns=now_ns)
    market.step(now_ns + STEP_NS)
    listed, board = market.catalogue, market.board
    calls = np.flatnonzero((listed.curve == 0) & listed.is_call)
    moneyness = np.log(listed.strike_inr[calls] / market.underlyings.forward_inr[0])
    spread = board.ask_raw[calls, 0] - board.bid_raw[calls, 0]

    assert spread[moneyness < -0.05].mean() > 2 * spread[np.abs(moneyness) < 0.01].mean()


def _odd(now_ns: int, **ratios: float) -> Market:
    options = SimulatorOptions(seed=7, rate_per_s=20_000.0, **ratios)  # type: ignore[arg-type]
    return Market(options, now_ns=now_ns)


def test_a_share_of_the_option_quotes_is_crossed_on_the_price_step(now_ns: int) -> None:
    market = _odd(now_ns, crossed_quote_ratio=0.2)
    board, listed = market.board, market.catalogue
    quoted = board.bid_raw[:, 0] > 0
    crossed = quoted & (board.bid_raw[:, 0] > board.ask_raw[:, 0])

    assert 0.15 < crossed[listed.is_option & quoted].mean() < 0.25
    assert not crossed[~listed.is_option].any()
    assert np.all(board.bid_raw[crossed] % listed.price_step_raw[crossed, None] == 0)
    assert np.all((np.diff(board.bid_raw[crossed], axis=1) < 0) | (board.bid_raw[crossed, 1:] == 0))


def test_a_share_of_the_option_quotes_lacks_either_side_whole(now_ns: int) -> None:
    market = _odd(now_ns, one_sided_quote_ratio=0.3)
    board, is_option = market.board, market.catalogue.is_option
    lacks_bid, lacks_ask = (column[:, 0] == 0 for column in (board.bid_raw, board.ask_raw))

    assert 0.25 < (lacks_bid | lacks_ask)[is_option].mean() < 0.55
    assert 0.05 < lacks_ask[is_option].mean() < 0.2
    assert not (lacks_bid & lacks_ask)[is_option].any()
    assert not board.ask_quantity[lacks_ask].any()
    assert not board.sell_quantity[lacks_ask].any()
    assert np.all(board.ltp_raw > 0)


def test_a_trade_beside_a_one_sided_quote_happens_at_the_side_that_is_there(now_ns: int) -> None:
    market = _odd(now_ns, one_sided_quote_ratio=1.0)
    for number in range(20):
        market.step(now_ns + number * STEP_NS)

    assert np.all(market.board.ltp_raw > 0)
    assert np.all(market.board.low_raw > 0)


def test_a_dead_strike_shows_yesterday_s_trade_and_never_changes(now_ns: int) -> None:
    market = _odd(now_ns, dead_strike_ratio=0.25)
    board, is_option = market.board, market.catalogue.is_option
    dead = np.flatnonzero(board.last_trade_s == now_ns // NS_PER_S - 86_400)
    before = market.packets.frames(dead, np.full(len(dead), Mode.FULL, np.uint8))
    kept = b"".join(before)
    changed = np.concatenate([market.step(now_ns + n * STEP_NS).rows for n in range(50)])

    assert 0.2 < len(dead) / np.count_nonzero(is_option) < 0.3
    assert is_option[dead].all()
    assert not np.isin(dead, changed).any()
    after = market.packets.frames(dead, np.full(len(dead), Mode.FULL, np.uint8))
    assert b"".join(after) == kept
    assert not board.bid_raw[dead].any()
    assert not board.ask_raw[dead].any()


def test_odd_quotes_leave_underlyings_and_smiles_as_they_are(now_ns: int) -> None:
    plain, odd = _odd(now_ns), _odd(now_ns, crossed_quote_ratio=0.3, one_sided_quote_ratio=0.3)
    _run(plain, now_ns, 10)
    _run(odd, now_ns, 10)

    assert np.array_equal(plain.underlyings.forward_inr, odd.underlyings.forward_inr)
    assert np.array_equal(plain.underlyings.smile, odd.underlyings.smile)


def test_an_expired_contract_is_quoted_until_its_last_trade_and_no_longer() -> None:
    tuesday = session.instant_ns(dt.datetime(2026, 11, 17, 15, 29, tzinfo=session.IST))
    options = SimulatorOptions(seed=7, rate_per_s=100_000.0, nearest_expiry_days_min=0)
    market = Market(options, now_ns=tuesday)
    expiring = market.catalogue.last_trade_ns == market.catalogue.last_trade_ns.min()

    def quoted(minutes: int) -> bool:
        changes = market.step(tuesday + minutes * 60 * NS_PER_S)
        return bool(expiring[changes.rows].any())

    assert np.count_nonzero(expiring) == 2 * 81
    assert [quoted(minutes) for minutes in (0, 2, 11, 12)] == [True, True, True, False]


def test_no_single_interest_rate_reproduces_the_forwards(market: Market, now_ns: int) -> None:
    state = market.underlyings
    years = state.years_to_expiry(now_ns)
    spot = np.array([state.price_inr[each.underlying] for each in market.catalogue.curves])

    rate = np.log(state.forward_inr / spot) / years

    assert rate.max() - rate.min() > 0.02


def test_forward_basis_and_volatility_drift(market: Market, now_ns: int) -> None:
    state = market.underlyings
    basis = state.forward_inr[0] / state.price_inr[0]
    level = state.smile[0].copy()

    _run(market, now_ns, 200)

    assert state.forward_inr[0] / state.price_inr[0] != basis
    assert np.all(state.smile[0] != level)
    assert state.smile[0] == pytest.approx(level, rel=0.2)


def test_near_options_of_the_nearest_expiry_change_once_or_twice_a_second(
    market: Market, now_ns: int
) -> None:
    seconds = 20
    changes = np.zeros(len(market.catalogue))
    for number in range(seconds * 20):
        changes[market.step(now_ns + number * STEP_NS).rows] += 1
    listed = market.catalogue
    distance = np.abs(
        np.log(np.maximum(listed.strike_inr, 1.0) / market.underlyings.forward_inr[0])
    )
    near = (listed.curve == 0) & listed.is_option & (distance < 0.005)

    assert 1.0 <= changes[near].mean() / seconds <= 2.0
    assert changes.sum() / seconds == pytest.approx(2_000, rel=0.1)


def test_an_at_the_money_option_moves_visibly_within_seconds(market: Market, now_ns: int) -> None:
    listed = market.catalogue
    distance = np.abs(listed.strike_inr - market.underlyings.forward_inr[0])
    row = int(np.argmin(np.where((listed.curve == 0) & listed.is_call, distance, np.inf)))
    seen = set()
    for number in range(20 * 20):
        market.step(now_ns + number * STEP_NS)
        seen.add(int(market.board.ltp_raw[row]))

    assert len(seen) > 10


def test_a_market_with_rate_zero_stands_still(now_ns: int) -> None:
    market = Market(SimulatorOptions(seed=7, rate_per_s=0.0), now_ns=now_ns)
    before = _everything(market)

    changes = market.step(now_ns + STEP_NS)

    assert len(changes.rows) == 0
    assert _everything(market) == before
