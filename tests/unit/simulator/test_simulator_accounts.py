"""Positions, holdings and margins: exact arithmetic on what was traded."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_stage import ASHA, OrderStage

from ticker_service.simulator import margins, positions
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.order import Product, Side, Trade
from ticker_service.simulator.positions import Position

if TYPE_CHECKING:
    from ticker_service.runtime.clock import ManualClock
    from ticker_service.simulator.market import Market

CASH = 10_000_000


def _trade(side: Side, quantity: int, price_raw: int) -> Trade:
    return Trade(
        trade_id="1", order_id="1", exchange_order_id="1", row=0, side=side, product=Product.MIS,
        price_raw=price_raw, quantity=quantity, ordered_ns=0, at_ns=0,
    )  # fmt: skip


def _position(stage: OrderStage, product: str = "MIS") -> dict[str, Any]:
    held = stage.exchange.account(ASHA).positions[stage.row, Product(product)]
    return positions.position_row(stage.market, held)


def _equity(stage: OrderStage) -> dict[str, Any]:
    return margins.segment_row(stage.market, stage.exchange.account(ASHA), "equity")


def _future(stage: OrderStage, segment: str) -> tuple[int, dict[str, object]]:
    catalogue = stage.market.catalogue
    row = next(at for at, each in enumerate(catalogue.instruments) if each.segment == segment)
    instrument = catalogue.instruments[row]
    fields = {
        "exchange": instrument.exchange,
        "tradingsymbol": instrument.tradingsymbol,
        "quantity": instrument.lot_size,
        "product": "NRML",
        "order_type": "MARKET",
        "market_protection": 5,
        "price": None,
    }
    return row, fields


def test_a_position_opens_averages_closes_and_turns(stage: OrderStage) -> None:
    held = Position(row=stage.row, product=Product.MIS)
    for trade in (_trade(Side.BUY, 10, 100_00), _trade(Side.BUY, 30, 104_00)):
        held.add(trade)
    assert (held.quantity, held.average_raw, held.realised_raw) == (40, 103_00, 0)

    held.add(_trade(Side.SELL, 15, 105_00))
    assert (held.quantity, held.average_raw, held.realised_raw) == (25, 103_00, 15 * 2_00)

    held.add(_trade(Side.SELL, 35, 101_00))
    assert (held.quantity, held.average_raw) == (-10, 101_00)
    assert held.realised_raw == 15 * 2_00 - 25 * 2_00


def test_a_short_position_gains_when_bought_back_lower(stage: OrderStage) -> None:
    held = Position(row=stage.row, product=Product.MIS)
    held.add(_trade(Side.SELL, 10, 100_00))
    held.add(_trade(Side.BUY, 10, 99_00))

    assert (held.quantity, held.average_raw, held.realised_raw) == (0, 0, 10 * 1_00)


@given(
    st.lists(
        st.tuples(st.sampled_from(Side), st.integers(1, 50), st.integers(1, 10_000)), max_size=20
    ),
    st.integers(1, 10_000),
)
def test_realised_and_unrealised_profit_add_up_to_all_of_it(
    fills: list[tuple[Side, int, int]], last: int
) -> None:
    held = Position(row=0, product=Product.MIS)
    for side, quantity, price in fills:
        held.add(_trade(side, quantity, price))

    total = held.sell_value_raw - held.buy_value_raw + held.quantity * last
    unrealised = held.quantity * last - Fraction(held.open_value_raw)

    assert float(Fraction(held.realised_raw) + unrealised) == pytest.approx(total, abs=1e-9)


def test_a_position_row_states_both_sides_in_rupees(stage: OrderStage) -> None:
    stage.rest(product="MIS", quantity=12, price="100.10")
    stage.quote(ltp=101_00)
    stage.rest(product="MIS", quantity=2, transaction_type="SELL", price="99.95")

    row = _position(stage)

    bought, sold = 10 * 100.05 + 2 * 100.10, 2 * 99.95
    assert (row["quantity"], row["buy_quantity"], row["sell_quantity"]) == (10, 12, 2)
    assert row["buy_value"] == row["day_buy_value"] == pytest.approx(bought)
    assert row["buy_price"] == pytest.approx(bought / 12, abs=1e-6)
    assert row["average_price"] == pytest.approx(bought / 12, abs=1e-6)
    assert row["value"] == pytest.approx(sold - bought)
    assert row["pnl"] == pytest.approx(sold - bought + 10 * 101.0)
    assert row["pnl"] == pytest.approx(row["realised"] + row["unrealised"])


def test_a_currency_lot_counts_a_thousand_units_in_money(stage: OrderStage) -> None:
    row, fields = _future(stage, "CDS-FUT")
    order = stage.rest(**fields)

    held = stage.exchange.account(ASHA).positions[row, Product.NRML]
    shown = positions.position_row(stage.market, held)

    assert (shown["quantity"], shown["multiplier"]) == (1, 1_000)
    price = Decimal(order.trades[0].price_raw) / 10_000_000
    assert shown["buy_value"] == float(price * 1_000)


def test_delivery_is_paid_in_full_and_intraday_blocks_a_fifth(stage: OrderStage) -> None:
    stage.rest(quantity=10, price="100.05")
    stage.rest(quantity=10, price="100.10", product="MIS")

    equity = _equity(stage)

    assert equity["utilised"]["delivery"] == 1_000.5
    assert equity["utilised"]["span"] == 200.2
    assert equity["net"] == equity["available"]["live_balance"] == CASH - 1_200.7


def test_a_resting_order_blocks_what_it_needs_until_it_is_cancelled(stage: OrderStage) -> None:
    order = stage.rest(quantity=100, price="99.00")
    assert _equity(stage)["utilised"]["exposure"] == 9_900.0

    stage.exchange.cancel(order)
    stage.wait()

    assert _equity(stage)["net"] == CASH


def test_bought_options_cost_their_premium_and_sold_ones_block_margin(stage: OrderStage) -> None:
    row, fields = _future(stage, "NFO-OPT")
    catalogue = stage.market.catalogue
    row = next(
        at
        for at, each in enumerate(catalogue.instruments)
        if each.segment == "NFO-OPT" and stage.market.last_price_inr[at] > 100
    )
    instrument = catalogue.instruments[row]
    fields |= {"tradingsymbol": instrument.tradingsymbol, "quantity": instrument.lot_size}
    bought = stage.rest(**fields)
    premium = float(positions.inr(stage.market, row, bought.filled_value_raw))
    assert bought.status == "COMPLETE"
    assert _equity(stage)["utilised"]["option_premium"] == pytest.approx(premium)
    assert _equity(stage)["utilised"]["span"] == 0

    closed = stage.rest(**{**fields, "transaction_type": "SELL"})
    short = stage.rest(**{**fields, "transaction_type": "SELL"})

    assert closed.status == short.status == "COMPLETE"
    blocked = instrument.strike_inr * instrument.lot_size * 0.12
    assert _equity(stage)["utilised"]["span"] == pytest.approx(blocked)


def test_a_future_blocks_a_share_of_its_value_and_pays_its_profit_out(stage: OrderStage) -> None:
    row, fields = _future(stage, "NFO-FUT")
    bought = stage.rest(**fields)
    value = float(positions.inr(stage.market, row, bought.filled_value_raw))
    assert _equity(stage)["utilised"]["span"] == pytest.approx(value * 0.12, abs=0.01)

    sold = stage.rest(**{**fields, "transaction_type": "SELL"})

    proceeds = float(positions.inr(stage.market, row, sold.filled_value_raw))
    assert _equity(stage)["utilised"]["span"] == 0
    assert _equity(stage)["net"] == pytest.approx(CASH + proceeds - value, abs=0.01)


def test_an_order_beyond_the_funds_is_refused_with_the_amounts(
    market: Market, clock: ManualClock
) -> None:
    stage = OrderStage(market, clock, SimulatorOptions(seed=7, cash_inr=1_000))
    stage.place(quantity=5, price="99.00")

    with pytest.raises(KiteError) as caught:
        stage.place(quantity=6, price="99.00")

    assert (caught.value.status_code, caught.value.error_type) == (400, "MarginException")
    assert caught.value.message == (
        "Insufficient funds. Required margin is 594.00 but available margin is 505.00. "
        "Check the orderbook for open orders."
    )
    assert len(stage.exchange.account(ASHA).orders) == 1


def test_a_change_is_weighed_without_what_the_order_blocks_already(
    market: Market, clock: ManualClock
) -> None:
    stage = OrderStage(market, clock, SimulatorOptions(seed=7, cash_inr=1_000, order_state_ms=10))
    order = stage.rest(quantity=9, price="99.00")

    stage.modify(order, quantity=10)
    with pytest.raises(KiteError, match="Insufficient funds"):
        stage.modify(order, quantity=11)


def test_shares_are_sold_from_holdings_and_no_more_than_those(stage: OrderStage) -> None:
    stage.rest(transaction_type="SELL", quantity=45, price="101.00")
    with pytest.raises(KiteError, match="Insufficient stock holding in INFY") as caught:
        stage.place(transaction_type="SELL", quantity=6, price="101.00")
    assert caught.value.error_type == "HoldingException"

    sold = stage.rest(transaction_type="SELL", quantity=5, price="99.95")

    account = stage.exchange.account(ASHA)
    (held,) = [each for each in account.holdings if each.row == stage.row]
    row = positions.holding_row(stage.market, held, used_quantity=account.used_quantity(stage.row))
    assert sold.status == "COMPLETE"
    assert (row["quantity"], row["used_quantity"], row["opening_quantity"]) == (45, 5, 50)


def test_the_commodity_segment_is_there_and_empty(stage: OrderStage) -> None:
    row = margins.segment_row(stage.market, stage.exchange.account(ASHA), "commodity")

    assert (row["enabled"], row["net"]) == (True, 0.0)
