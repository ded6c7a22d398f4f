"""Cover orders, icebergs and slices at the simulated broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from order_stage import ASHA, STATE_MS, OrderStage, form, statuses

from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.options import SimulatorOptions

if TYPE_CHECKING:
    from ticker_service.runtime.clock import ManualClock
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.order import Order

COVER = {"variety": "co", "product": "MIS", "trigger_price": "98.00"}
ICEBERG = {"variety": "iceberg", "iceberg_legs": 3, "iceberg_quantity": 4, "quantity": 12}


def _position(stage: OrderStage) -> int:
    positions = stage.exchange.account(ASHA).positions.values()
    return sum(each.quantity for each in positions)


def _covered(stage: OrderStage, **changed: object) -> tuple[Order, Order]:
    """Return a filled cover order and its second leg at rest."""
    first = stage.rest(**{**COVER, "price": "100.05", "quantity": 3, **changed})
    stage.wait()
    second = first.second_leg
    assert second is not None
    return first, second


def _legs(stage: OrderStage) -> list[Order]:
    return list(stage.exchange.account(ASHA).orders.values())


def test_the_second_leg_of_a_cover_order_waits_at_its_trigger(stage: OrderStage) -> None:
    first, second = _covered(stage)
    row = second.history[-1]

    assert (first.status, row["status"]) == ("COMPLETE", "TRIGGER PENDING")
    assert (row["parent_order_id"], row["transaction_type"]) == (first.order_id, "SELL")
    assert (row["variety"], row["product"], row["quantity"]) == ("co", "CO", 3)
    assert (row["trigger_price"], row["tag"]) == (98.0, None)


def test_the_second_leg_closes_the_position_when_the_market_comes_to_it(stage: OrderStage) -> None:
    _, second = _covered(stage)
    stage.quote(ltp=98_00, bid=(97_95, 97_90, 97_85, 97_80, 97_75))

    assert second.status == "COMPLETE"
    assert _position(stage) == 0


def test_a_cover_order_that_is_filled_in_parts_has_one_stop_that_grows(stage: OrderStage) -> None:
    first, second = _covered(stage, quantity=15)
    assert (first.filled_quantity, second.terms.quantity) == (10, 10)

    stage.quote()

    assert first.status == "COMPLETE"
    assert first.second_leg is second
    assert second.history[-1]["quantity"] == 15


def test_an_unfilled_cover_order_is_cancelled_and_leaves_nothing(stage: OrderStage) -> None:
    first = stage.rest(**COVER)
    stage.exchange.cancel(first)
    stage.wait()

    assert first.status == "CANCELLED"
    assert _legs(stage) == [first]


def test_the_exit_of_a_cover_order_closes_the_position_at_once(stage: OrderStage) -> None:
    _, second = _covered(stage)
    stage.exchange.close_cover(second)
    stage.wait()

    assert second.status == "COMPLETE"
    assert _position(stage) == 0
    with pytest.raises(KiteError, match="cannot be exited"):
        stage.exchange.close_cover(second)


def test_the_trigger_of_a_cover_order_can_be_moved_in_either_leg(stage: OrderStage) -> None:
    waiting = stage.rest(**COVER)
    stage.modify(waiting, trigger_price="97.00")
    stage.wait()
    assert waiting.history[-1]["trigger_price"] == 97.0

    _, second = _covered(stage)
    stage.modify(second, trigger_price="98.50")
    stage.wait()
    assert (second.status, second.history[-1]["trigger_price"]) == ("TRIGGER PENDING", 98.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"product": "CNC"}, "Invalid `product`"),
        ({"validity": "IOC"}, "`validity`"),
        ({"order_type": "SL", "trigger_price": "100.50", "price": "101"}, "Invalid `order_type`"),
        ({"trigger_price": None}, "trigger_price"),
        ({"trigger_price": "100.50"}, "lower than the last traded price"),
    ],
)
def test_a_cover_order_that_protects_nothing_is_refused(
    stage: OrderStage, changed: dict[str, object], message: str
) -> None:
    fields = {**COVER, **changed}
    fields.pop("variety")
    with pytest.raises(KiteError, match=message):
        stage.rules.placed("co", form(**fields))


def test_the_second_leg_bears_the_tag_where_it_is_told_to(
    market: Market, clock: ManualClock
) -> None:
    options = SimulatorOptions(seed=7, order_state_ms=STATE_MS, tags_on_legs=True)
    _, second = _covered(OrderStage(market, clock, options), tag="T1")

    assert second.history[-1]["tags"] == ["T1"]


def test_the_legs_of_an_iceberg_follow_one_another(stage: OrderStage) -> None:
    stage.rest(**ICEBERG, price="100.05", tag="T1")
    stage.wait()
    stage.wait()

    first, second, third = _legs(stage)
    assert [each.status for each in (first, second)] == ["COMPLETE", "COMPLETE"]
    # The best level had ten shares.
    assert (third.status, third.filled_quantity) == ("OPEN", 2)
    assert [each.history[-1]["meta"]["iceberg"]["leg"] for each in _legs(stage)] == [1, 2, 3]  # type: ignore[index]  # a row of JSON
    assert third.history[-1]["meta"] == {
        "iceberg": {
            "leg": 3,
            "legs": 3,
            "leg_quantity": 4,
            "total_quantity": 12,
            "remaining_quantity": 0,
        }
    }
    assert {each.history[-1]["tag"] for each in _legs(stage)} == {"T1"}
    assert third.history[-1]["parent_order_id"] is None
    stage.quote()
    stage.wait()
    assert [each.status for each in _legs(stage)] == ["COMPLETE"] * 3


def test_a_cancelled_leg_is_the_last_one(stage: OrderStage) -> None:
    leg = stage.rest(**ICEBERG)
    stage.exchange.cancel(leg)
    stage.wait(states=9)

    assert statuses(leg)[-1] == "CANCELLED"
    assert _legs(stage) == [leg]


def test_a_leg_that_the_funds_no_longer_bear_is_rejected(
    market: Market, clock: ManualClock
) -> None:
    options = SimulatorOptions(seed=7, order_state_ms=STATE_MS, cash_inr=600)
    stage = OrderStage(market, clock, options)
    stage.rest(**ICEBERG, price="100.05")
    stage.wait()

    first, second = _legs(stage)
    assert (first.status, second.status) == ("COMPLETE", "REJECTED")
    assert "Insufficient funds" in str(second.status_message)


@pytest.mark.parametrize(
    "changed",
    [
        {"iceberg_legs": 1, "iceberg_quantity": 12},
        {"iceberg_legs": 51, "iceberg_quantity": 1, "quantity": 51},
        {"iceberg_quantity": 5},
        {"iceberg_quantity": None},
        {"iceberg_legs": "x"},
    ],
)
def test_an_iceberg_whose_legs_do_not_come_out_is_refused(
    stage: OrderStage, changed: dict[str, object]
) -> None:
    fields = {**ICEBERG, **changed}
    fields.pop("variety")
    with pytest.raises(KiteError, match="iceberg_"):
        stage.rules.placed("iceberg", form(**fields))


def test_slices_are_cut_at_the_freeze_quantity_and_at_most_ten(stage: OrderStage) -> None:
    catalogue = stage.market.catalogue
    symbol = next(
        each.tradingsymbol
        for each in catalogue.instruments
        if each.segment == "NFO-FUT" and each.name == "NIFTY"
    )
    row = catalogue.row_by_key[f"NFO:{symbol}"]
    lot = int(catalogue.lot_size[row])
    ltp = stage.market.board.ltp_raw[row] / int(catalogue.price_scale[row])
    wanted = form(
        exchange="NFO", tradingsymbol=symbol, product="NRML", price=round(ltp), autoslice="true"
    )
    largest = 1_800 // lot * lot
    parts = stage.rules.sliced("regular", {**wanted, "quantity": str(largest * 2 + lot)})
    assert [each.quantity for each in parts] == [largest, largest, lot]
    with pytest.raises(KiteError, match="Maximum 10 slices"):
        stage.rules.sliced("regular", {**wanted, "quantity": str(largest * 11)})


def test_an_order_takes_as_many_changes_as_the_simulator_is_told(
    market: Market, clock: ManualClock
) -> None:
    options = SimulatorOptions(seed=7, order_state_ms=STATE_MS, modifications_max=1)
    stage = OrderStage(market, clock, options)
    order = stage.rest()
    stage.modify(order, price="98.00")
    stage.wait()
    with pytest.raises(KiteError, match="Maximum allowed order modifications exceeded"):
        stage.modify(order, price="97.00")


def test_every_further_leg_is_told_of(stage: OrderStage) -> None:
    told: list[str] = []
    stage.exchange.on_leg = told.append
    stage.rest(**ICEBERG, price="100.05")
    stage.wait(states=6)
    assert told == [ASHA, ASHA]
