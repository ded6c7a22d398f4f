"""What becomes of an order: its states in order, its fills, and the races between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from order_stage import ASHA, STATE_MS, OrderStage, form, statuses

from ticker_service.constants import NS_PER_MS, NS_PER_S, SECONDS_PER_DAY
from ticker_service.runtime.clock import ManualClock
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.ledger import EntryKind
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.order import Handling

if TYPE_CHECKING:
    from ticker_service.simulator.order import Order

PLACED = ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING"]
MODIFIED = ["MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED"]
CALL = "NFO-OPT"
AMO_KEPT = "AMO REQ RECEIVED"


def _option_form(stage: OrderStage, **changed: object) -> dict[str, str]:
    catalogue = stage.market.catalogue
    row = next(
        row
        for row, each in enumerate(catalogue.instruments)
        if each.segment == CALL and stage.market.last_price_inr[row] > 100
    )
    instrument = catalogue.instruments[row]
    fields = {
        "exchange": "NFO",
        "tradingsymbol": instrument.tradingsymbol,
        "quantity": instrument.lot_size,
        "product": "NRML",
        "price": f"{stage.market.last_price_inr[row]:.2f}",
    }
    return form(**{**fields, **changed})


def test_an_order_passes_through_kites_states_one_at_a_time(stage: OrderStage) -> None:
    order = stage.place()
    seen = [order.status]

    for _ in range(4):
        stage.wait(states=1)
        seen.append(order.status)

    assert seen == [*PLACED, "OPEN", "OPEN"]
    assert statuses(order) == [*PLACED, "OPEN"]


def test_a_clock_that_jumps_skips_no_state(stage: OrderStage) -> None:
    order = stage.rest(price="100.05")

    assert statuses(order) == [*PLACED, "OPEN", "COMPLETE"]


def test_the_exchange_gives_its_order_id_only_when_it_has_the_order(stage: OrderStage) -> None:
    order = stage.rest()

    assert [row["exchange_order_id"] is None for row in order.history] == [True, True, True, False]
    assert order.order_id.startswith("261121")
    assert len(order.order_id) == 15


def test_without_interim_time_the_order_is_settled_before_the_answer(
    market: Market, clock: ManualClock
) -> None:
    stage = OrderStage(market, clock, SimulatorOptions(seed=7, order_state_ms=0))

    assert stage.place(price="100.05").status == "COMPLETE"


def test_a_marketable_order_takes_each_level_at_its_own_price(stage: OrderStage) -> None:
    order = stage.rest(quantity=25, price="100.20")

    assert [(trade.price_raw, trade.quantity) for trade in order.trades] == [
        (100_05, 10),
        (100_10, 10),
        (100_15, 5),
    ]
    assert order.history[-1]["average_price"] == pytest.approx(
        (100.05 * 10 + 100.1 * 10 + 100.15 * 5) / 25
    )
    assert order.status == "COMPLETE"


def test_what_the_quotes_do_not_offer_rests_at_the_limit(stage: OrderStage) -> None:
    order = stage.rest(quantity=25, price="100.10")

    row = order.history[-1]
    assert (order.status, row["filled_quantity"], row["pending_quantity"]) == ("OPEN", 20, 5)
    assert stage.update_statuses() == ["UPDATE", "UPDATE"]


def test_quotes_that_were_taken_are_not_taken_twice(stage: OrderStage) -> None:
    stage.rest(quantity=10, price="100.05")
    second = stage.rest(quantity=10, price="100.10", product="MIS")

    assert [(trade.price_raw, trade.quantity) for trade in second.trades] == [(100_10, 10)]


def test_new_quotes_can_be_taken_again(stage: OrderStage) -> None:
    stage.rest(quantity=10, price="100.05")
    stage.quote()

    assert stage.rest(quantity=10, price="100.05").status == "COMPLETE"


def test_a_resting_order_fills_at_its_own_price_when_the_quotes_reach_it(stage: OrderStage) -> None:
    order = stage.rest(price="99.00", quantity=3)
    stage.move_ask(99_05)
    assert order.status == "OPEN"

    stage.move_ask(98_90)

    assert (order.status, order.trades[0].price_raw) == ("COMPLETE", 99_00)


def test_better_prices_and_then_older_orders_are_filled_first(stage: OrderStage) -> None:
    older = stage.rest(price="99.00", quantity=6)
    younger = stage.rest(price="99.00", quantity=6)
    better = stage.rest(price="99.05", quantity=6)

    stage.quote(ask=(99_00, 99_90, 99_95, 100_00, 100_05))

    assert [each.filled_quantity for each in (better, older, younger)] == [6, 4, 0]


def test_a_market_order_is_a_limit_at_its_band_and_its_remainder_stays_open(
    stage: OrderStage,
) -> None:
    order = stage.rest(order_type="MARKET", price=None, market_protection="0.1", quantity=25)

    row = order.history[-1]
    assert (row["order_type"], row["price"], row["market_protection"]) == ("LIMIT", 100.1, 0)
    assert (order.status, order.filled_quantity) == ("OPEN", 20)
    assert row["tags"] == ["mktp:0.10"]


def test_what_an_ioc_order_does_not_get_at_once_is_cancelled(stage: OrderStage) -> None:
    order = stage.rest(validity="IOC", quantity=25, price="100.05")

    row = order.history[-1]
    assert statuses(order)[-2:] == ["OPEN", "CANCELLED"]
    assert (row["filled_quantity"], row["cancelled_quantity"], row["pending_quantity"]) == (
        10,
        15,
        0,
    )


def test_an_order_with_a_lifetime_is_cancelled_at_its_end(stage: OrderStage) -> None:
    order = stage.rest(validity="TTL", validity_ttl=2)
    kept = stage.rest(validity="TTL", validity_ttl=2)
    stage.modify(kept, validity="DAY")
    stage.clock.advance(2 * 60 * NS_PER_S)
    stage.exchange.advance()

    assert statuses(order)[-2:] == ["OPEN", "CANCELLED"]
    assert kept.status == "OPEN"
    assert (order.history[-1]["validity"], order.history[-1]["validity_ttl"]) == ("TTL", 2)


def test_an_after_market_order_waits_for_its_session(stage: OrderStage) -> None:
    order = stage.rest(variety="amo", price="100.05")
    assert (order.status, order.route, order.exchange_order_id) == (AMO_KEPT, "amo", None)

    stage.modify(order, price="100.10")
    stage.wait()
    assert order.status == AMO_KEPT

    stage.clock.advance(5 * NS_PER_S)
    stage.exchange.advance()
    assert (order.status, order.route) == ("COMPLETE", "regular")
    assert statuses(order) == [
        *[*PLACED[:2], AMO_KEPT, *MODIFIED, AMO_KEPT],
        *["OPEN PENDING", "OPEN", "COMPLETE"],
    ]
    assert order.history[-1]["variety"] == "amo"


def test_a_session_that_begins_during_a_change_takes_the_changed_order(stage: OrderStage) -> None:
    order = stage.rest(variety="amo")
    stage.clock.advance(5 * NS_PER_S - 2 * STATE_MS * NS_PER_MS)
    stage.modify(order, price="98.00")
    stage.wait(states=5)

    assert statuses(order)[-5:] == [*MODIFIED, "OPEN PENDING", "OPEN"]
    assert order.history[-1]["price"] == 98.0


def test_an_after_market_order_can_be_cancelled_before_its_session(stage: OrderStage) -> None:
    order = stage.rest(variety="amo")
    stage.exchange.cancel(order)
    stage.clock.advance(60 * NS_PER_S)
    stage.exchange.advance()

    assert statuses(order)[-3:] == [AMO_KEPT, "CANCEL PENDING", "CANCELLED"]


def test_a_stop_waits_for_its_trigger_and_then_trades_as_a_limit(stage: OrderStage) -> None:
    order = stage.rest(order_type="SL", trigger_price="101", price="101.10")
    stage.quote(ltp=100_95)
    assert order.status == "TRIGGER PENDING"

    stage.quote(ltp=101_00)

    assert statuses(order) == [*PLACED, "TRIGGER PENDING", "OPEN", "COMPLETE"]
    assert stage.update_statuses() == ["UPDATE", "COMPLETE"]
    assert order.trades[0].price_raw == 100_05


def test_a_stop_without_a_limit_gets_one_from_its_band_when_triggered(stage: OrderStage) -> None:
    order = stage.rest(
        order_type="SL-M", trigger_price="99", price=None, market_protection=1, transaction_type="SELL",
        product="MIS", quantity=12,
    )  # fmt: skip
    assert order.history[-1]["order_type"] == "SL-M"

    stage.quote(ltp=99_00, bid=(98_95, 98_00, 97_95, 97_90, 97_85))

    row = order.history[-1]
    assert (row["order_type"], row["price"]) == ("LIMIT", 98.05)
    assert (order.status, order.filled_quantity) == ("OPEN", 10)


def test_a_triggered_stop_can_still_be_moved(stage: OrderStage) -> None:
    order = stage.rest(order_type="SL", trigger_price="101", price="101.10", quantity=5)
    stage.move_ask(102_00, ltp=101_05)
    assert order.status == "OPEN"

    stage.modify(order, price="102.05")
    stage.wait()

    assert order.status == "COMPLETE"


def test_a_change_passes_through_kites_states_and_takes_effect_after_them(
    stage: OrderStage,
) -> None:
    order = stage.rest()
    stage.modify(order, price="98.50", quantity=4)
    stage.wait(states=1)
    assert (order.status, order.history[-1]["price"]) == ("MODIFY PENDING", 99.0)

    stage.wait(states=1)

    assert statuses(order) == [*PLACED, "OPEN", *MODIFIED, "OPEN"]
    row = order.history[-1]
    assert (row["price"], row["quantity"], row["modified"]) == (98.5, 4, True)
    assert stage.update_statuses() == ["UPDATE"]


def test_a_change_to_a_marketable_price_trades(stage: OrderStage) -> None:
    order = stage.rest()
    stage.modify(order, price="100.05")
    stage.wait()

    assert order.status == "COMPLETE"


def test_changes_and_cancellations_are_accepted_in_interim_states_and_wait_their_turn(
    stage: OrderStage,
) -> None:
    order = stage.place()
    stage.modify(order, price="98.50")
    stage.exchange.cancel(order)
    stage.wait(states=6)

    assert statuses(order) == [*PLACED, "OPEN", *MODIFIED, "OPEN", "CANCEL PENDING", "CANCELLED"]
    assert order.history[-1]["cancelled_quantity"] == 1
    assert stage.update_statuses() == ["UPDATE", "CANCELLED"]


def test_a_fill_during_a_pending_cancellation_wins(stage: OrderStage) -> None:
    order = stage.rest()
    stage.exchange.cancel(order)
    assert order.status == "CANCEL PENDING"

    stage.move_ask(98_90)
    stage.wait()

    assert statuses(order)[-2:] == ["CANCEL PENDING", "COMPLETE"]


def test_a_partly_filled_order_is_cancelled_with_what_it_has(stage: OrderStage) -> None:
    order = stage.rest(quantity=25, price="100.05")
    stage.exchange.cancel(order)
    stage.wait(states=1)

    row = order.history[-1]
    assert (order.status, row["filled_quantity"], row["cancelled_quantity"]) == (
        "CANCELLED",
        10,
        15,
    )


def test_fills_that_overtake_a_smaller_quantity_leave_the_order_as_it_was(
    stage: OrderStage,
) -> None:
    order = stage.rest(quantity=20)
    stage.modify(order, quantity=8)
    stage.quote(ask=(98_90, 99_90, 99_95, 100_00, 100_05))
    stage.wait()

    row = order.history[-1]
    assert (order.status, row["quantity"], row["filled_quantity"]) == ("OPEN", 20, 10)
    assert "MODIFIED" not in statuses(order)


@pytest.mark.parametrize("ended", ["COMPLETE", "CANCELLED", "REJECTED"])
def test_an_order_that_has_ended_can_be_neither_changed_nor_cancelled(
    stage: OrderStage, ended: str
) -> None:
    order = _ended(stage, ended)

    with pytest.raises(KiteError, match=r"Order cannot be cancelled as it is being processed"):
        stage.exchange.cancel(order)
    with pytest.raises(KiteError, match=r"Order cannot be modified as it is being processed"):
        stage.exchange.modify(order, order.asked)


def _ended(stage: OrderStage, status: str) -> Order:
    if status == "COMPLETE":
        order = stage.rest(price="100.05")
    elif status == "CANCELLED":
        order = stage.rest(validity="IOC")
    else:
        terms = stage.rules.placed("regular", form())
        order = stage.exchange.place(ASHA, terms, Handling(refusal="no"))
        stage.wait()
    assert order.status == status
    return order


def test_the_twenty_sixth_change_of_an_order_is_refused(stage: OrderStage) -> None:
    order = stage.rest()
    for change in range(25):
        stage.modify(order, quantity=change + 2)

    with pytest.raises(KiteError, match="Maximum allowed order modifications exceeded") as caught:
        stage.modify(order, price="98.00")

    assert (caught.value.status_code, caught.value.error_type) == (400, "NetworkException")


def test_an_option_price_out_of_the_execution_range_is_rejected_in_the_book(
    stage: OrderStage,
) -> None:
    fields = _option_form(stage)
    far = f"{float(fields['price']) * 0.5 // 1:.2f}"
    order = stage.exchange.place(ASHA, stage.rules.placed("regular", {**fields, "price": far}))
    stage.wait()

    assert statuses(order) == [*PLACED, "REJECTED"]
    assert order.history[-1]["status_message"] == (
        "16283 : The order price is out of the current execution range"
    )
    assert stage.update_statuses() == ["REJECTED"]


def test_mere_placement_sends_no_update(stage: OrderStage) -> None:
    stage.rest()

    assert stage.updates == []


def test_an_update_is_the_orders_row_for_its_user_with_a_blank_checksum(stage: OrderStage) -> None:
    order = stage.rest(price="100.05", tag="mine")

    ((user_id, data),) = stage.updates
    assert user_id == data["user_id"] == ASHA
    assert data.items() >= order.history[-1].items()
    assert (data["checksum"], data["unfilled_quantity"]) == ("", 0)


def test_a_slow_start_keeps_the_order_out_of_everything_until_then(stage: OrderStage) -> None:
    terms = stage.rules.placed("regular", form(price="100.05"))
    order = stage.exchange.place(ASHA, terms, Handling(start_after_ns=NS_PER_S))
    with pytest.raises(KiteError, match="Couldn't find that `order_id`"):
        stage.exchange.order(ASHA, order.order_id)

    stage.clock.advance(NS_PER_S)

    assert stage.exchange.order(ASHA, order.order_id).status == "PUT ORDER REQ RECEIVED"


def test_an_order_belongs_to_its_user_alone(stage: OrderStage) -> None:
    order = stage.rest()

    with pytest.raises(KiteError, match="Couldn't find that `order_id`"):
        stage.exchange.order("CD5678", order.order_id)


def test_the_ledger_tells_every_state_and_trade(stage: OrderStage) -> None:
    stage.rest(price="100.05", tag="mine")

    assert stage.ledger_facts(EntryKind.STATUS, "status", "tag") == [
        *[(status, "mine") for status in PLACED],
        ("OPEN", "mine"),
        ("COMPLETE", "mine"),
    ]
    assert stage.ledger_facts(EntryKind.TRADE, "average_price", "quantity") == [(100.05, 1)]


def test_a_new_day_begins_with_empty_books(stage: OrderStage) -> None:
    stage.rest()
    stage.clock.advance(SECONDS_PER_DAY * NS_PER_S)

    account = stage.exchange.account(ASHA)

    assert not account.orders
    assert stage.rest(price="100.05").order_id.startswith("261122")


def test_the_same_calls_at_the_same_instants_have_the_same_outcome(now_ns: int) -> None:
    def play() -> list[object]:
        options = SimulatorOptions(seed=7, order_state_ms=10)
        clock = ManualClock(now_ns)
        stage = OrderStage(Market(options, now_ns=now_ns), clock, options)
        first = stage.place(quantity=25, price="100.10", tag="A")
        stage.place("CD5678", order_type="MARKET", price=None, market_protection=-1, product="MIS")
        stage.wait()
        stage.exchange.cancel(first)
        stage.wait()
        return [*stage.ledger.after(), *stage.updates]

    assert play() == play()
