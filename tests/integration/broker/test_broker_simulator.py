"""The gateway against the simulated exchange, whose ledger knows what was really received."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from asking import LONG_S, ORDER, SHORT_S, in_s, play
from running import Exchange, exchange

from ticker_service.adapters.kite_broker import KiteBroker
from ticker_service.config import KiteConfig
from ticker_service.domain.order import OrderChange, OrderRequest, TaskKind, Variety
from ticker_service.orders import classify
from ticker_service.orders.classify import Outcome
from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

STILL = SimulatorOptions(seed=7, rate_per_s=0.0, enforce_rate_limits=False)


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    """A market that stands still, shared by the tests of this file; each has its own tag."""
    with exchange(STILL) as running:
        yield running


def gateway(market: Exchange) -> KiteBroker:
    config = KiteConfig(
        rest_root=market.rest_root,
        ws_root="",
        api_key=market.api_key,
        access_token=market.access_token,
    )
    return KiteBroker(config, user_id=market.user_id, clock=SystemClock())


def asked(market: Exchange, route: str) -> Any:
    key = f"token {market.api_key}:{market.access_token}"
    answer = httpx.get(market.rest_root + route, headers={"Authorization": key}, trust_env=False)
    return answer.raise_for_status().json(parse_float=Decimal)["data"]


def resting_order(market: Exchange) -> OrderRequest:
    """Return an order deep in the book, which fills nothing."""
    depth = asked(market, "/quote?i=NSE:INFY")["NSE:INFY"]["depth"]
    price = depth["buy"][4]["price"]
    return dataclasses.replace(ORDER, tradingsymbol="INFY", quantity=1, price=price)


def received(market: Exchange, tag: str) -> int:
    entries = asked(market, "/sim/ledger")["entries"]
    return sum(entry["kind"] == "received" and entry["tag"] == tag for entry in entries)


def test_an_order_goes_through_its_life(market: Exchange) -> None:
    order = resting_order(market)
    assert order.price is not None

    async def scene(broker: KiteBroker) -> None:
        deadline_ns = in_s(LONG_S)
        placed = await broker.place(order, tag="T0LIFE", deadline_ns=deadline_ns)
        order_id = classify.judge(TaskKind.PLACE, placed).order_id
        (row,) = [row for row in await broker.orders() if row.order_id == order_id]
        assert (row.tags, row.price, row.user_id) == (("T0LIFE",), order.price, market.user_id)
        change = OrderChange(quantity=2)
        changed = await broker.modify(order_id, Variety.REGULAR, change, deadline_ns=deadline_ns)
        assert classify.judge(TaskKind.MODIFY, changed).outcome is Outcome.ACKED
        gone = await broker.cancel(order_id, Variety.REGULAR, deadline_ns=deadline_ns)
        assert classify.judge(TaskKind.CANCEL, gone).outcome is Outcome.ACKED
        states = await broker.order_history(order_id)
        assert (states[-1].status, states[-1].quantity) == ("CANCELLED", 2)
        again = await broker.cancel(order_id, Variety.REGULAR, deadline_ns=deadline_ns)
        assert classify.judge(TaskKind.CANCEL, again).outcome is Outcome.REJECTED
        assert (await broker.profile())["user_id"] == market.user_id
        await broker.trades()
        await broker.positions()
        await broker.margins()

    play(gateway(market), scene)


FAULTS: list[tuple[str, dict[str, object], Outcome]] = [
    ("accept_then_timeout", {}, Outcome.AMBIGUOUS),
    ("accept_then_5xx", {"status_code": 502, "body": "json"}, Outcome.AMBIGUOUS),
    ("accept_then_5xx", {"status_code": 504, "body": "html"}, Outcome.AMBIGUOUS),
    ("accept_then_400_timeout", {"delay_ms": 0}, Outcome.AMBIGUOUS),
    ("accept_then_reset", {}, Outcome.AMBIGUOUS),
    ("garbage_200", {"body": "garbage"}, Outcome.AMBIGUOUS),
    ("garbage_200", {"body": "no_order_id"}, Outcome.AMBIGUOUS),
    ("dribble", {"interval_ms": 50}, Outcome.AMBIGUOUS),
    ("redirect_307", {}, Outcome.AMBIGUOUS),
    ("reject_5xx_before_accept", {}, Outcome.AMBIGUOUS),
    ("http_429", {}, Outcome.THROTTLED),
]
NEVER_ACCEPTED = {"reject_5xx_before_accept", "http_429"}


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=lambda it: f"{FAULTS[it][0]}-{it}")
def test_a_broken_answer_is_judged_as_the_ledger_knows_it(market: Exchange, number: int) -> None:
    fault, fields, outcome = FAULTS[number]
    order, tag = resting_order(market), f"T0FAULT{number}"
    market.fault(fault=fault, count=1, method="place", **fields)

    async def scene(broker: KiteBroker) -> None:
        reply = await broker.place(order, tag=tag, deadline_ns=in_s(2 * SHORT_S))
        assert classify.judge(TaskKind.PLACE, reply).outcome is outcome
        in_book = [row for row in await broker.orders() if tag in row.tags]
        assert len(in_book) == (0 if fault in NEVER_ACCEPTED else 1)

    play(gateway(market), scene)
    assert received(market, tag) == 1


def test_a_token_the_exchange_does_not_know_is_refused_for_certain(market: Exchange) -> None:
    config = KiteConfig(
        rest_root=market.rest_root, ws_root="", api_key=market.api_key, access_token="stale"
    )
    broker = KiteBroker(config, user_id=market.user_id, clock=SystemClock())
    order = resting_order(market)
    reply = play(broker, lambda it: it.place(order, tag="T0STALE", deadline_ns=in_s(LONG_S)))
    assert classify.judge(TaskKind.PLACE, reply).outcome is Outcome.REJECTED_AUTH
