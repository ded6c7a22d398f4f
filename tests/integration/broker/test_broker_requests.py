"""What leaves for the broker: which bytes, along which way, on which connection."""

from __future__ import annotations

import dataclasses
import logging
import sys
import warnings
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest
from asking import LONG_S, ORDER, TAG, TOKEN, broker_at, in_s, place_once, play
from hostile_broker import ACKED, HostileBroker, always, http, reset, success, then_close

from ticker_service.adapters.kite_broker import BrokerOptions
from ticker_service.adapters.kite_session import IDLE_NS_MAX, Egress
from ticker_service.domain.order import (
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    Side,
    TaskKind,
    Variety,
)
from ticker_service.errors import ConfigurationError, LoginRequired
from ticker_service.orders import classify
from ticker_service.orders.classify import Outcome
from ticker_service.ports import Withheld
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from hostile_broker import Identity, Received

    from ticker_service.adapters.kite_broker import KiteBroker
    from ticker_service.ports import Reply

NOTHING, PERHAPS = Withheld.NOTHING_LEFT, Withheld.MAY_HAVE_LEFT


def is_acked(reply: Reply) -> bool:
    return classify.judge(TaskKind.PLACE, reply).outcome is Outcome.ACKED


def form(received: Received) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(received.body).items()}


class ShiftedClock(SystemClock):
    """The machine's clock, moved forward at will."""

    shift_ns = 0

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + self.shift_ns


def test_an_order_leaves_with_its_exact_prices_and_its_tag() -> None:
    with HostileBroker(always(ACKED)) as broker:
        assert is_acked(place_once(broker_at(broker.root)))
    (received,) = broker.requests
    assert (received.method, received.target) == ("POST", "/orders/regular")
    assert received.headers["authorization"] == f"token key:{TOKEN}"
    assert received.headers["x-kite-version"] == "3"
    assert form(received) == {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "M&M",
        "transaction_type": "BUY",
        "order_type": "LIMIT",
        "product": "MIS",
        "quantity": "7",
        "validity": "DAY",
        "price": "3021.10",
        "tag": TAG,
    }


def test_the_id_of_a_registered_strategy_goes_with_every_new_order() -> None:
    options = BrokerOptions(algo_id="ALGO-17")
    with HostileBroker(always(ACKED)) as broker:
        assert is_acked(place_once(broker_at(broker.root, options=options)))
    (received,) = broker.requests
    assert form(received)["algo_id"] == "ALGO-17"


def test_a_stop_order_leaves_with_all_it_says() -> None:
    order = OrderRequest(
        exchange="CDS",
        tradingsymbol="USDINR",
        transaction_type=Side.SELL,
        order_type=OrderType.SL_M,
        product=Product.NRML,
        quantity=1,
        variety=Variety.AMO,
        trigger_price=Decimal("83.0025"),
        market_protection=Decimal(-1),
    )
    with HostileBroker(always(ACKED)) as broker:
        play(broker_at(broker.root), lambda it: it.place(order, tag=TAG, deadline_ns=in_s(LONG_S)))
    (received,) = broker.requests
    assert received.target == "/orders/amo"
    sent = form(received)
    assert (sent["trigger_price"], sent["market_protection"]) == ("83.0025", "-1")
    assert "price" not in sent


def test_a_change_and_a_cancel_name_the_order_they_are_for() -> None:
    async def scene(broker: KiteBroker) -> None:
        change = OrderChange(quantity=5, price=Decimal("1E+3"))
        deadline_ns = in_s(LONG_S)
        await broker.modify("2501", Variety.REGULAR, change, deadline_ns=deadline_ns)
        await broker.cancel("2502", Variety.CO, deadline_ns=deadline_ns)

    with HostileBroker(always(ACKED)) as broker:
        play(broker_at(broker.root), scene)
    change, cancel = broker.requests
    assert (change.method, change.target) == ("PUT", "/orders/regular/2501")
    assert (form(change)["quantity"], form(change)["price"]) == ("5", "1000")
    assert (cancel.method, cancel.target) == ("DELETE", "/orders/co/2502")


def test_what_goes_to_a_second_leg_names_its_first() -> None:
    async def scene(broker: KiteBroker) -> Reply:
        deadline_ns = in_s(LONG_S)
        change = OrderChange(trigger_price=Decimal("98.05"))
        await broker.modify(
            "2502", Variety.CO, change, parent_order_id="2501", deadline_ns=deadline_ns
        )
        await broker.cancel("2502", Variety.CO, parent_order_id="2501", deadline_ns=deadline_ns)
        return await broker.cancel(
            "2502", Variety.CO, parent_order_id="2501&x=1", deadline_ns=deadline_ns
        )

    with HostileBroker(always(ACKED)) as broker:
        refused = play(broker_at(broker.root), scene)
    change, leaving = broker.requests
    assert (change.method, change.target) == ("PUT", "/orders/co/2502")
    assert (form(change)["parent_order_id"], form(change)["trigger_price"]) == ("2501", "98.05")
    assert leaving.target == "/orders/co/2502?parent_order_id=2501"
    assert refused.withheld is NOTHING


def test_an_iceberg_goes_out_with_its_legs() -> None:
    order = dataclasses.replace(
        ORDER, variety=Variety.ICEBERG, quantity=150, iceberg_legs=2, iceberg_quantity=75
    )
    with HostileBroker(always(ACKED)) as broker:
        play(broker_at(broker.root), lambda it: it.place(order, tag=TAG, deadline_ns=in_s(LONG_S)))
    (received,) = broker.requests
    sent = form(received)
    assert received.target == "/orders/iceberg"
    assert (sent["iceberg_legs"], sent["iceberg_quantity"], sent["quantity"]) == ("2", "75", "150")


def test_a_route_prefix_goes_before_orders_and_books() -> None:
    async def scene(broker: KiteBroker) -> None:
        await broker.place(ORDER, tag=TAG, deadline_ns=in_s(LONG_S))
        await broker.orders()

    def answer(connection: socket.socket, received: Received) -> None:
        connection.sendall(ACKED if received.method == "POST" else success([]))

    with HostileBroker(answer) as broker:
        play(broker_at(broker.root, route_prefix="/oms"), scene)
    assert [it.target for it in broker.requests] == ["/oms/orders/regular", "/oms/orders"]


@pytest.mark.parametrize(
    ("root", "route_prefix"),
    [
        ("https://sandbox.example/oms", ""),
        ("https://sandbox.example", "oms"),
        ("https://sandbox.example", "/oms/"),
        ("https://sandbox.example", "//elsewhere.example"),
    ],
)
def test_a_base_path_that_would_be_dropped_is_refused(root: str, route_prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        broker_at(root, route_prefix=route_prefix)


@pytest.mark.parametrize("evil", ["t\r\nX-Evil: 1", "t\nX-Evil: 1", "t\x00", "तोकन"])
def test_a_token_that_would_be_more_than_a_header_stays_here(evil: str) -> None:
    with HostileBroker(always(ACKED)) as broker:
        reply = place_once(broker_at(broker.root, access_token=lambda: evil))
        assert all("x-evil" not in it.headers for it in broker.requests)
        assert broker.requests == []
    assert reply.withheld is NOTHING
    assert "Evil" not in reply.failure


@pytest.mark.parametrize("order_id", ["", "..", "1/../../session/token", "1?x=2", "1\r\n", "१२"])
def test_an_order_id_that_would_be_another_path_stays_here(order_id: str) -> None:
    async def scene(broker: KiteBroker) -> tuple[Reply, Reply]:
        deadline_ns = in_s(LONG_S)
        return (
            await broker.cancel(order_id, Variety.REGULAR, deadline_ns=deadline_ns),
            await broker.modify(
                order_id, Variety.REGULAR, OrderChange(quantity=1), deadline_ns=deadline_ns
            ),
        )

    with HostileBroker(always(ACKED)) as broker:
        replies = play(broker_at(broker.root), scene)
        assert broker.requests == []
    assert [reply.withheld for reply in replies] == [NOTHING, NOTHING]


def test_a_field_cannot_become_a_second_field() -> None:
    order = OrderRequest(
        exchange="NSE",
        tradingsymbol="A&quantity=900\r\nX-Evil: 1",
        transaction_type=Side.BUY,
        order_type=OrderType.MARKET,
        product=Product.CNC,
        quantity=1,
    )
    with HostileBroker(always(ACKED)) as broker:
        play(broker_at(broker.root), lambda it: it.place(order, tag=TAG, deadline_ns=in_s(LONG_S)))
    (received,) = broker.requests
    assert form(received)["quantity"] == "1"
    assert form(received)["tradingsymbol"] == order.tradingsymbol


def test_the_environment_decides_neither_the_way_nor_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    with HostileBroker(always(ACKED)) as trap, HostileBroker(always(ACKED)) as broker:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, trap.root)
            monkeypatch.setenv(name.upper(), trap.root)
        monkeypatch.setenv("NETRC", str(netrc))
        assert is_acked(place_once(broker_at(broker.root)))
        assert trap.requests == []
        assert broker.requests[0].headers["authorization"] == f"token key:{TOKEN}"


def test_a_configured_proxy_is_the_way() -> None:
    with HostileBroker(always(ACKED)) as proxy:
        egress = Egress(proxy=proxy.root)
        assert is_acked(place_once(broker_at("http://broker.invalid", egress=egress)))
    assert [it.target for it in proxy.requests] == ["http://broker.invalid/orders/regular"]


def test_nothing_leaves_when_the_proxy_opens_no_tunnel() -> None:
    with HostileBroker(then_close(http(502, "no", content_type="text/plain"))) as proxy:
        egress = Egress(proxy=proxy.root)
        reply = place_once(broker_at("https://broker.invalid", egress=egress))
    assert [it.method for it in proxy.requests] == ["CONNECT"]
    assert reply.withheld is NOTHING


def test_a_tunnel_is_verified_to_its_end(own_identity: Identity) -> None:
    def tunnel(connection: socket.socket, _: Received) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with own_identity.context.wrap_socket(connection, server_side=True) as inside:
            request = b""
            while TAG.encode() not in request:
                request += inside.recv(1 << 16)
            inside.sendall(ACKED)

    egress = {"ca_certificates": own_identity.certificate}
    with HostileBroker(tunnel) as proxy:
        trusted = Egress(proxy=proxy.root, **egress)
        assert is_acked(place_once(broker_at("https://127.0.0.1", egress=trusted)))
        untrusted = Egress(proxy=proxy.root)
        reply = place_once(broker_at("https://127.0.0.1", egress=untrusted))
    assert reply.withheld is NOTHING


@pytest.mark.parametrize("proxy", ["https://proxy.example", "socks5://proxy.example", "proxy:80"])
def test_a_proxy_that_would_escape_the_deadline_is_refused(proxy: str) -> None:
    with pytest.raises(ConfigurationError):
        Egress(proxy=proxy)


def test_a_proxy_s_password_is_not_shown() -> None:
    assert "hunter2" not in repr(Egress(proxy="http://me:hunter2@proxy.example"))  # allow-secret


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one loopback address only")
def test_the_registered_address_is_the_source() -> None:
    with HostileBroker(always(ACKED)) as broker:
        egress = Egress(source_address="127.0.0.2")
        assert is_acked(place_once(broker_at(broker.root, egress=egress)))
    assert [it.peer for it in broker.requests] == ["127.0.0.2"]


def test_nothing_leaves_from_an_address_that_is_not_ours() -> None:
    with HostileBroker(always(ACKED)) as broker:
        reply = place_once(broker_at(broker.root, egress=Egress(source_address="192.0.2.1")))
        assert broker.requests == []
    assert reply.withheld is NOTHING


async def place_twice(broker: KiteBroker) -> tuple[Reply, Reply]:
    first = await broker.place(ORDER, tag=TAG, deadline_ns=in_s(LONG_S))
    return first, await broker.place(ORDER, tag=TAG, deadline_ns=in_s(LONG_S))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_is_used_again(scheme: str, own_identity: Identity) -> None:
    tls = own_identity.context if scheme == "https" else None
    egress = Egress(ca_certificates=own_identity.certificate)
    with HostileBroker(always(ACKED), tls=tls) as broker:
        assert all(map(is_acked, play(broker_at(broker.root, egress=egress), place_twice)))
    assert [it.connection for it in broker.requests] == [0, 0]


def test_a_connection_that_rested_long_is_opened_anew() -> None:
    clock = ShiftedClock()

    async def scene(broker: KiteBroker) -> None:
        for _ in range(2):
            assert is_acked(await broker.place(ORDER, tag=TAG, deadline_ns=in_s(LONG_S, clock)))
            clock.shift_ns += IDLE_NS_MAX

    with HostileBroker(always(ACKED)) as broker:
        play(broker_at(broker.root, clock=clock), scene)
    assert [it.connection for it in broker.requests] == [0, 1]


def test_a_connection_that_the_broker_closed_costs_no_order() -> None:
    # The end of the first connection is here before the answer is read to its end.
    with HostileBroker(then_close(ACKED)) as broker:
        assert all(map(is_acked, play(broker_at(broker.root), place_twice)))
    assert [it.connection for it in broker.requests] == [0, 1]


def test_a_connection_that_closes_under_the_order_is_not_tried_again() -> None:
    def answer(connection: socket.socket, received: Received) -> None:
        if len(broker.requests) == 1:
            connection.sendall(ACKED)
        else:
            reset(connection, received)

    with HostileBroker(answer) as broker:
        first, second = play(broker_at(broker.root), place_twice)
    assert is_acked(first)
    assert second.withheld is PERHAPS
    assert [it.connection for it in broker.requests] == [0, 0]


@pytest.mark.parametrize("method", ["modify", "cancel", "orders"])
def test_not_even_what_may_be_repeated_is_repeated_here(method: str) -> None:
    async def scene(broker: KiteBroker) -> object:
        deadline_ns = in_s(LONG_S)
        if method == "cancel":
            return await broker.cancel("1", Variety.REGULAR, deadline_ns=deadline_ns)
        if method == "modify":
            change = OrderChange(quantity=1)
            return await broker.modify("1", Variety.REGULAR, change, deadline_ns=deadline_ns)
        with pytest.raises(Exception, match="no answer to orders"):
            await broker.orders()
        return None

    with HostileBroker(reset) as broker:
        play(broker_at(broker.root), scene)
        assert len(broker.requests) == 1


def test_every_request_carries_the_token_of_its_moment() -> None:
    tokens = iter(["morning", "noon"])
    with HostileBroker(always(ACKED)) as broker:
        play(broker_at(broker.root, access_token=lambda: next(tokens)), place_twice)
    assert [it.headers["authorization"] for it in broker.requests] == [
        "token key:morning",
        "token key:noon",
    ]


def test_without_a_token_nothing_leaves_and_reads_ask_for_a_login() -> None:
    async def scene(broker: KiteBroker) -> Reply:
        with pytest.raises(LoginRequired):
            await broker.orders()
        return await broker.place(ORDER, tag=TAG, deadline_ns=in_s(LONG_S))

    with HostileBroker(always(ACKED)) as broker:
        reply = play(broker_at(broker.root, access_token=lambda: ""), scene)
        assert broker.requests == []
    assert reply.withheld is NOTHING


def test_no_log_of_any_library_shows_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with HostileBroker(always(ACKED)) as broker:
        place_once(broker_at(broker.root))
    assert TOKEN not in caplog.text


def test_making_a_broker_silences_no_warnings() -> None:
    before = list(warnings.filters)
    broker = broker_at("https://broker.example")
    assert list(warnings.filters) == before
    play(broker, lambda it: it.close())


def test_no_cookie_is_kept() -> None:
    with HostileBroker(always(http(200, "{}", headers="Set-Cookie: a=b\r\n"))) as broker:
        play(broker_at(broker.root), place_twice)
    assert all("cookie" not in it.headers for it in broker.requests)
