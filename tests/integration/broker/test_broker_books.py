"""Reading the broker's books: whole and ours, or not at all."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from asking import USER, broker_at, play
from hostile_broker import HostileBroker, always, error, http, success, then_close

from ticker_service.domain.order import OrderRequest, OrderType, Product, Side
from ticker_service.errors import BrokerUnavailable, LoginRequired

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from hostile_broker import Received

    from ticker_service.adapters.kite_broker import KiteBroker
    from ticker_service.domain.order import BrokerOrder
    from ticker_service.domain.risk_input import OrderMargin

ROW: dict[str, Any] = {
    "account_id": USER,
    "placed_by": USER,
    "order_id": "250101000000001",
    "exchange_order_id": None,
    "parent_order_id": None,
    "status": "OPEN",
    "status_message": None,
    "order_timestamp": "2026-11-20 10:00:00",
    "exchange_update_timestamp": None,
    "variety": "regular",
    "exchange": "NSE",
    "tradingsymbol": "M&M",
    "order_type": "LIMIT",
    "transaction_type": "BUY",
    "product": "MIS",
    "quantity": 7,
    "price": 3021.1,
    "trigger_price": 0,
    "average_price": 0,
    "filled_quantity": 0,
    "tag": "T0ABCDEFGHJKMNPQRSTV",
    "tags": ["T0ABCDEFGHJKMNPQRSTV", "mktp:2.00"],
}


def book_of(response: bytes) -> Sequence[BrokerOrder]:
    with HostileBroker(always(response)) as server:
        return play(broker_at(server.root), lambda it: it.orders())


def test_a_book_is_read_exactly() -> None:
    exact = json.dumps(ROW).replace("3021.1,", "3021.10000000000000000001,")
    (order,) = book_of(http(200, f'{{"status":"success","data":[{exact}]}}'))
    assert order.price == Decimal("3021.10000000000000000001")
    assert order.tags == ("T0ABCDEFGHJKMNPQRSTV", "mktp:2.00")
    assert order.order_timestamp == "2026-11-20 10:00:00"
    assert order.user_id == USER


def test_an_empty_book_is_a_book() -> None:
    assert list(book_of(success([]))) == []


def test_a_history_is_asked_for_by_the_order() -> None:
    async def scene(broker: KiteBroker) -> Sequence[BrokerOrder]:
        return await broker.order_history("250101000000001")

    rows = [{**ROW, "status": status} for status in ("PUT ORDER REQ RECEIVED", "OPEN")]
    with HostileBroker(always(success(rows))) as server:
        states = play(broker_at(server.root), scene)
    assert [it.status for it in states] == ["PUT ORDER REQ RECEIVED", "OPEN"]
    assert server.requests[0].target == "/orders/250101000000001"


NO_BOOKS = {
    "html": http(200, "<html></html>", content_type="text/html"),
    "cut_short": then_close(http(200, '{"status":"success","data":[', length=900)),
    "no_json": http(200, '{"status":"success","data":['),
    "null": success(None),
    "object": success({}),
    "row_of_another_user": success([ROW, {**ROW, "account_id": "ZZ9999"}]),
    "row_without_id": success([{**ROW, "order_id": None}]),
    "row_without_status": success([{key: ROW[key] for key in ROW if key != "status"}]),
    "row_no_object": success([ROW, "row"]),
    "error": error(200, "GeneralException"),
    "500": error(500, "GeneralException"),
    "503": error(503, "NetworkException"),
    "429": error(429, "NetworkException", "Too many requests"),
    "302": http(302, success([]), headers="Location: /orders\r\n"),
    "not_a_number": http(200, '{"status":"success","data":[{"order_id":"1","price":NaN}]}'),
}


@pytest.mark.parametrize("kind", NO_BOOKS)
def test_anything_but_a_whole_book_of_ours_is_no_book(kind: str) -> None:
    response = NO_BOOKS[kind]
    answer = always(response) if isinstance(response, bytes) else response
    with HostileBroker(answer) as server, pytest.raises(BrokerUnavailable):
        play(broker_at(server.root), lambda it: it.orders())


def test_a_refused_token_asks_for_a_login() -> None:
    refusal = error(403, "TokenException", "Incorrect `api_key` or `access_token`.")
    with pytest.raises(LoginRequired):
        book_of(refusal)


def test_who_we_are_and_what_we_have_are_read_as_kite_shows_them() -> None:
    async def scene(broker: KiteBroker) -> None:
        answers = [await broker.profile(), await broker.margins()]
        assert answers == [{"a": Decimal("1.50")}] * 2
        for read in (broker.positions, broker.trades, broker.holdings):
            with pytest.raises(BrokerUnavailable):
                await read()

    with HostileBroker(always(http(200, '{"status":"success","data":{"a":1.50}}'))) as server:
        play(broker_at(server.root), scene)
    targets = [it.target for it in server.requests]
    assert targets == [
        "/user/profile",
        "/user/margins",
        "/portfolio/positions",
        "/trades",
        "/portfolio/holdings",
    ]


MARGIN: dict[str, Any] = {"exchange": "NSE", "tradingsymbol": "INFY", "total": 1498.5}
FUNDS: dict[str, Any] = {
    "equity": {"enabled": True, "net": 9, "available": {"cash": 8, "live_balance": -7.25}},
    "commodity": {"enabled": False, "net": 6, "available": {"cash": 5, "live_balance": 4}},
}
ORDER = OrderRequest(
    exchange="NSE",
    tradingsymbol="INFY",
    transaction_type=Side.BUY,
    order_type=OrderType.LIMIT,
    product=Product.CNC,
    quantity=1,
    price=Decimal("1498.05"),
)


def margin_of(
    told: object, funds: object, order: OrderRequest = ORDER
) -> tuple[OrderMargin, list[Received]]:
    def answer(connection: socket.socket, request: Received) -> None:
        data = told if request.target == "/margins/orders" else funds
        always(success(data))(connection, request)

    with HostileBroker(answer) as server:
        return play(broker_at(server.root), lambda it: it.order_margin(order)), server.requests


def test_an_orders_margin_is_kites_total_and_what_is_free_the_live_balance() -> None:
    margin, (asked, _) = margin_of([MARGIN], FUNDS)
    assert (margin.total_inr, margin.available_inr) == (Decimal("1498.5"), Decimal("-7.25"))
    assert asked.method == "POST"
    assert json.loads(asked.body) == [
        {
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "variety": "regular",
            "product": "CNC",
            "order_type": "LIMIT",
            "quantity": 1,
            "price": 1498.05,
            "trigger_price": 0,
        }
    ]


@pytest.mark.parametrize(
    ("told", "funds"),
    [
        ([], FUNDS),
        ({}, FUNDS),
        ([None], FUNDS),
        ([MARGIN, MARGIN], FUNDS),
        ([{**MARGIN, "tradingsymbol": "TCS"}], FUNDS),
        ([{**MARGIN, "total": None}], FUNDS),
        ([{**MARGIN, "total": "1498.5"}], FUNDS),
        ([{**MARGIN, "total": True}], FUNDS),
        ([MARGIN], []),
        ([MARGIN], {"commodity": FUNDS["equity"]}),
        ([MARGIN], {"equity": FUNDS["commodity"]}),
        ([MARGIN], {"equity": {**FUNDS["equity"], "available": {"cash": 8}}}),
        ([MARGIN], {"equity": {**FUNDS["equity"], "available": None}}),
    ],
)
def test_a_margin_or_a_balance_that_is_not_whole_is_none(told: object, funds: object) -> None:
    with pytest.raises(BrokerUnavailable):
        margin_of(told, funds)


def test_a_commodity_order_draws_on_the_commodity_segment() -> None:
    crude = dataclasses.replace(ORDER, exchange="MCX", tradingsymbol="CRUDEOIL26DECFUT")
    told = [{**MARGIN, "exchange": "MCX", "tradingsymbol": crude.tradingsymbol}]
    enabled = {**FUNDS["commodity"], "enabled": True}
    assert margin_of(told, {**FUNDS, "commodity": enabled}, crude)[0].available_inr == Decimal(4)
    with pytest.raises(BrokerUnavailable):
        margin_of(told, FUNDS, crude)


def test_an_update_is_an_order_of_ours_or_nothing() -> None:
    broker = broker_at("https://broker.example")

    async def scene(_: KiteBroker) -> None:
        update = broker.order_update({**ROW, "user_id": USER, "status": "UPDATE"})
        assert update is not None
        assert (update.status, update.price) == ("UPDATE", Decimal("3021.1"))
        for foreign in (None, [], {}, "x", {**ROW, "account_id": "ZZ9999"}, {"order_id": 5}):
            assert broker.order_update(foreign) is None

    play(broker, scene)
