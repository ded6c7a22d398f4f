"""Proof that it is Kite's order API: the unmodified official Python clients trade on it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

import kiteconnect.exceptions as kite_errors
import pytest
from kiteconnect import KiteConnect

from ticker_service.constants import NS_PER_S
from ticker_service.runtime.clock import ManualClock, SystemClock
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import KiteTickerProcess, RunningSimulator

AT_ONCE = SimulatorOptions(seed=7, rate_per_s=0.0, enforce_rate_limits=False, order_state_ms=0)
ORDER_FIELDS = {
    *("account_id", "placed_by", "order_id", "exchange_order_id", "parent_order_id", "status"),
    *("status_message", "status_message_raw", "order_timestamp", "exchange_update_timestamp"),
    *("exchange_timestamp", "variety", "modified", "exchange", "tradingsymbol"),
    *("instrument_token", "order_type", "transaction_type", "validity", "validity_ttl", "product"),
    *("quantity", "disclosed_quantity", "price", "trigger_price", "average_price"),
    *("filled_quantity", "pending_quantity", "cancelled_quantity", "market_protection", "meta"),
    *("auction_number", "tag", "tags", "guid"),
}
TRADE_FIELDS = {
    *("trade_id", "order_id", "exchange_order_id", "exchange", "tradingsymbol"),
    *("instrument_token", "product", "average_price", "quantity", "transaction_type"),
    *("fill_timestamp", "order_timestamp", "exchange_timestamp"),
}
POSITION_FIELDS = {
    *("tradingsymbol", "exchange", "instrument_token", "product", "quantity", "multiplier"),
    *("overnight_quantity", "average_price", "close_price", "last_price", "value", "pnl", "m2m"),
    *("unrealised", "realised", "buy_quantity", "buy_price", "buy_value", "buy_m2m"),
    *("sell_quantity", "sell_price", "sell_value", "sell_m2m", "day_buy_quantity"),
    *("day_buy_price", "day_buy_value", "day_sell_quantity", "day_sell_price", "day_sell_value"),
}
HOLDING_FIELDS = {
    *("tradingsymbol", "exchange", "instrument_token", "isin", "product", "price", "quantity"),
    *("used_quantity", "t1_quantity", "realised_quantity", "authorised_quantity"),
    *("authorised_date", "opening_quantity", "collateral_quantity", "collateral_type"),
    *("discrepancy", "average_price", "last_price", "close_price", "pnl", "day_change"),
    "day_change_percentage",
}


class Desk:
    """The official client, logged in, and prices that fill or rest for certain."""

    def __init__(self, running: RunningSimulator, access_token: str) -> None:
        self.running = running
        self.client = KiteConnect(api_key=running.options.api_key, root=running.rest_root)
        self.client.set_access_token(access_token)
        depth = self.client.quote("NSE:INFY")["NSE:INFY"]["depth"]
        self.best_ask: float = depth["sell"][0]["price"]
        self.resting: float = depth["buy"][4]["price"]

    def place(self, **changed: Any) -> str:
        fields = {
            "variety": "regular",
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "quantity": 1,
            "product": "MIS",
            "order_type": "LIMIT",
            "price": self.resting,
        }
        order_id: str = self.client.place_order(**{**fields, **changed})
        return order_id

    def last(self, order_id: str) -> dict[str, Any]:
        row: dict[str, Any] = self.client.order_history(order_id)[-1]
        return row


@pytest.fixture
def desk(serve: Callable[..., RunningSimulator], log_in: Callable[..., str]) -> Iterator[Desk]:
    with serve(AT_ONCE) as running:
        yield Desk(running, log_in(running.simulator))


def test_an_order_is_placed_and_read_back_with_all_its_fields(desk: Desk) -> None:
    order_id = desk.place(tag="first", quantity=3)

    (row,) = desk.client.orders()

    assert row.keys() == ORDER_FIELDS
    assert order_id == row["order_id"]
    assert (row["status"], row["tag"], row["tags"], row["meta"]) == ("OPEN", "first", ["first"], {})
    assert (row["quantity"], row["pending_quantity"]) == (3, 3)
    assert isinstance(row["order_timestamp"], dt.datetime)
    assert isinstance(row["exchange_timestamp"], dt.datetime)


def test_the_history_tells_every_state_in_order(desk: Desk) -> None:
    order_id = desk.place()
    assert desk.client.modify_order("regular", order_id, quantity=2) == order_id
    assert desk.client.cancel_order("regular", order_id) == order_id

    history = desk.client.order_history(order_id)

    assert [row["status"] for row in history] == [
        *("PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN"),
        *("MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED", "OPEN"),
        *("CANCEL PENDING", "CANCELLED"),
    ]
    assert (history[-1]["cancelled_quantity"], history[-1]["modified"]) == (2, True)


def test_a_cover_order_has_a_second_leg_by_which_it_exits(desk: Desk) -> None:
    first = desk.place(variety="co", price=desk.best_ask, trigger_price=desk.resting - 20)
    (second,) = [row for row in desk.client.orders() if row["parent_order_id"] == first]
    assert (second["status"], second["transaction_type"]) == ("TRIGGER PENDING", "SELL")

    lower = desk.resting - 21
    desk.client.modify_order("co", second["order_id"], first, trigger_price=lower)
    assert desk.last(second["order_id"])["trigger_price"] == lower
    with pytest.raises(kite_errors.InputException, match="parent_order_id"):
        desk.client.exit_order("co", second["order_id"])
    desk.client.exit_order("co", second["order_id"], first)

    assert desk.last(second["order_id"])["status"] == "COMPLETE"
    (position,) = desk.client.positions()["net"]
    assert (position["quantity"], position["product"]) == (0, "CO")


def test_the_legs_of_an_iceberg_are_orders_of_their_own(desk: Desk) -> None:
    first = desk.place(
        variety="iceberg", quantity=6, iceberg_legs=3, iceberg_quantity=2, tag="ice",
        price=desk.best_ask,
    )  # fmt: skip
    rows = desk.client.orders()

    assert rows[0]["order_id"] == first
    assert [row["meta"]["iceberg"]["leg"] for row in rows] == [1, 2, 3]
    assert {(row["status"], row["quantity"], row["tag"]) for row in rows} == {
        ("COMPLETE", 2, "ice")
    }


@pytest.mark.parametrize("is_list", [False, True])
def test_a_sliced_order_may_not_tell_of_every_slice(
    serve: Callable[..., RunningSimulator], log_in: Callable[..., str], *, is_list: bool
) -> None:
    options = dataclasses.replace(
        AT_ONCE, is_slice_list=is_list, freeze_quantities=(("NIFTY", 65),)
    )
    with serve(options) as running:
        desk = Desk(running, log_in(running.simulator))
        dump = desk.client.instruments("NFO")
        symbol = next(row for row in dump if row["name"] == "NIFTY" and row["segment"] == "NFO-FUT")
        name, lot = symbol["tradingsymbol"], symbol["lot_size"]
        (ltp,) = [each["last_price"] for each in desk.client.ltp(f"NFO:{name}").values()]
        for fault in ("omit_slice", "refuse_slice"):
            running.simulator.faults.arm({"fault": fault, "count": 1}, None)
        answer = desk.client.place_autoslice_order(
            "regular", "NFO", name, "BUY", 4 * lot, "NRML", "LIMIT", price=round(ltp), tag="cut"
        )
        rows = [row for row in desk.client.orders() if row["tag"] == "cut"]

    children = answer[1:] if is_list else answer["children"]
    first = answer[0] if is_list else answer
    assert first["order_id"] == rows[0]["order_id"]
    refused = [each["error"]["error_type"] for each in children if "error" in each]
    assert refused == ["MarginException"]
    told = {first["order_id"], *(each["order_id"] for each in children if "order_id" in each)}
    assert len(rows) == 3
    assert len({row["order_id"] for row in rows} - told) == 1


def test_fills_are_in_the_trade_books_and_the_position(desk: Desk) -> None:
    order_id = desk.place(price=desk.best_ask, quantity=4)

    (trade,) = desk.client.order_trades(order_id)
    positions = desk.client.positions()

    assert desk.client.trades() == [trade]
    assert trade.keys() == TRADE_FIELDS
    assert (trade["average_price"], trade["quantity"]) == (desk.best_ask, 4)
    assert isinstance(trade["fill_timestamp"], dt.datetime)
    assert desk.last(order_id)["average_price"] == desk.best_ask
    assert positions["net"] == positions["day"]
    assert positions["net"][0].keys() == POSITION_FIELDS
    assert (positions["net"][0]["quantity"], positions["net"][0]["product"]) == (4, "MIS")


def test_a_protected_market_order_is_filled_as_a_limit(desk: Desk) -> None:
    order_id = desk.place(order_type="MARKET", price=None, market_protection=-1, validity="IOC")

    row = desk.last(order_id)

    assert (row["status"], row["order_type"], row["market_protection"]) == ("COMPLETE", "LIMIT", 0)


def test_a_stop_waits_for_its_trigger(desk: Desk) -> None:
    order_id = desk.place(
        order_type="SL-M", price=None, trigger_price=desk.best_ask + 10, market_protection=2
    )

    assert desk.last(order_id)["status"] == "TRIGGER PENDING"


def test_holdings_and_margins_have_kites_fields(desk: Desk) -> None:
    holdings, margins = desk.client.holdings(), desk.client.margins()

    assert all(row.keys() >= HOLDING_FIELDS for row in holdings)
    assert margins.keys() == {"equity", "commodity"}
    assert margins["equity"] == desk.client.margins("equity")
    assert margins["equity"]["available"].keys() == {
        *("adhoc_margin", "cash", "opening_balance", "live_balance", "collateral"),
        "intraday_payin",
    }
    assert margins["equity"]["utilised"].keys() >= {
        *("debits", "exposure", "m2m_realised", "m2m_unrealised", "option_premium", "payout"),
        *("span", "holding_sales", "turnover", "liquid_collateral", "stock_collateral"),
        "delivery",
    }
    desk.place(price=desk.best_ask, quantity=5, product="CNC")
    assert desk.client.margins("equity")["net"] == pytest.approx(
        margins["equity"]["net"] - 5 * desk.best_ask
    )


def asked(desk: Desk, **changed: Any) -> dict[str, Any]:
    return {
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "variety": "regular",
        "product": "CNC",
        "order_type": "LIMIT",
        "quantity": 5,
        "price": desk.best_ask,
        "trigger_price": 0,
        **changed,
    }


def test_the_margin_of_each_order_is_told_with_kites_fields_and_is_what_it_then_takes(
    desk: Desk,
) -> None:
    before = desk.client.margins("equity")["net"]
    market = asked(desk, product="MIS", order_type="MARKET", price=0, variety="amo")

    paid, intraday = desk.client.order_margins([asked(desk), market])

    assert (
        paid.keys()
        == intraday.keys()
        == {
            *("type", "tradingsymbol", "exchange", "span", "exposure", "option_premium"),
            *("additional", "bo", "cash", "var", "pnl", "total"),
        }
    )
    assert (paid["tradingsymbol"], paid["total"]) == ("INFY", pytest.approx(5 * desk.best_ask))
    assert 0 < intraday["total"] < paid["total"] / 2
    assert desk.client.orders() == []
    desk.place(price=desk.best_ask, quantity=5, product="CNC")
    assert desk.client.margins("equity")["net"] == pytest.approx(before - paid["total"])


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        (
            lambda desk: desk.client.order_margins([asked(desk, tradingsymbol="NOSUCH")]),
            kite_errors.InputException,
            400,
        ),
        (
            lambda desk: desk.client.order_margins([asked(desk, quantity=True)]),
            kite_errors.InputException,
            400,
        ),
        (lambda desk: desk.client.order_margins({}), kite_errors.InputException, 400),
        (lambda desk: desk.place(tradingsymbol="NOSUCH"), kite_errors.InputException, 400),
        (lambda desk: desk.place(price=1234.56), kite_errors.InputException, 400),
        (
            lambda desk: desk.place(order_type="MARKET", price=None),
            kite_errors.InputException,
            400,
        ),
        (lambda desk: desk.place(variety="co"), kite_errors.InputException, 400),
        (lambda desk: desk.client.margins("gold"), kite_errors.InputException, 400),
        # The official client has no class for the next two.
        (
            lambda desk: desk.place(quantity=50_000, product="CNC"),
            kite_errors.GeneralException,
            400,
        ),
        (
            lambda desk: desk.place(transaction_type="SELL", quantity=51, product="CNC"),
            kite_errors.GeneralException,
            400,
        ),
        (
            lambda desk: desk.client.order_history("100000000000000"),
            kite_errors.GeneralException,
            404,
        ),
        (
            lambda desk: desk.client.cancel_order("regular", "100000000000000"),
            kite_errors.GeneralException,
            404,
        ),
        (
            lambda desk: desk.client.cancel_order("regular", desk.place(price=desk.best_ask)),
            kite_errors.InputException,
            400,
        ),
    ],
)
def test_refusals_surface_as_the_official_clients_exceptions(
    desk: Desk, call: Callable[[Desk], object], error: type[Exception], code: int
) -> None:
    with pytest.raises(error) as caught:
        call(desk)

    assert type(caught.value) is error
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_a_refused_order_is_in_no_book_but_in_the_ledger(desk: Desk) -> None:
    with pytest.raises(kite_errors.InputException):
        desk.place(price=1234.56, tag="refused")

    assert desk.client.orders() == []
    entries = [e for e in desk.running.simulator.ledger.after() if e["tag"] == "refused"]
    assert [entry["kind"] for entry in entries] == ["received", "refused", "answered"]
    assert entries[0]["fields"]["price"] == "1234.56"  # type: ignore[index]
    assert entries[2]["status_code"] == 400


def test_a_rejection_by_the_exchange_is_a_row_with_its_reason(desk: Desk) -> None:
    desk.running.simulator.faults.arm(
        {"fault": "reject_at_exchange", "count": 1, "message": "17070 : Price out of range"}, None
    )

    row = desk.last(desk.place())

    assert (row["status"], row["status_message"]) == ("REJECTED", "17070 : Price out of range")
    assert row["exchange_order_id"] is None


def test_users_see_their_own_orders_only(desk: Desk, log_in: Callable[..., str]) -> None:
    order_id = desk.place()
    other = Desk(desk.running, log_in(desk.running.simulator, "CD5678"))

    assert other.client.orders() == other.client.trades() == []
    with pytest.raises(kite_errors.GeneralException, match="Couldn't find that `order_id`"):
        other.client.cancel_order("regular", order_id)


def test_the_eleventh_order_request_of_a_second_is_throttled(
    serve: Callable[..., RunningSimulator], log_in: Callable[..., str]
) -> None:
    clock = ManualClock(SystemClock().now_ns())
    with serve(SimulatorOptions(seed=7, rate_per_s=0.0), clock) as running:
        desk = Desk(running, log_in(running.simulator))
        for _ in range(10):
            desk.place()

        with pytest.raises(kite_errors.NetworkException, match="Too many requests") as caught:
            desk.place()
        running.call(lambda: clock.advance(NS_PER_S))
        desk.place()

    assert caught.value.code == 429


def test_the_official_ticker_gets_the_order_updates_of_its_user(
    desk: Desk,
    log_in: Callable[..., str],
    start_ticker: Callable[..., KiteTickerProcess],
) -> None:
    token = desk.client.access_token
    ticker = start_ticker(desk.running, token, {"full": [408065]})
    ticker.await_event("connect")
    other = Desk(desk.running, log_in(desk.running.simulator, "CD5678"))
    other.place(price=other.best_ask)
    resting = desk.place(tag="T1")
    desk.client.modify_order("regular", resting, quantity=2)
    desk.client.cancel_order("regular", resting)

    modified = ticker.await_event("order")["data"]
    cancelled = ticker.await_event("order")["data"]

    assert [each["status"] for each in (modified, cancelled)] == ["UPDATE", "CANCELLED"]
    assert {each["order_id"] for each in (modified, cancelled)} == {resting}
    assert cancelled.keys() == ORDER_FIELDS | {
        *("user_id", "unfilled_quantity", "app_id", "checksum"),
    }
    assert (cancelled["checksum"], cancelled["tag"]) == ("", "T1")
