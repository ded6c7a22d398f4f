"""What the demo counts as success, and what it calls itself on others' servers."""

from __future__ import annotations

import asyncio
import math
import os
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pytest
import virtual_time

from app.console import demo_orders, demo_score
from app.console.demo_names import names_of_this_run
from app.console.demo_score import Score, compare, count
from ticker_service.client import Message, OrderClient
from ticker_service.client.order_client import OrderError

if TYPE_CHECKING:
    from collections.abc import Mapping


def batch(*rows: tuple[str | None, float | None, float | None], is_repriced: bool) -> Message:
    """A batch of rows given as status, volatility and vega."""
    columns = {
        "iv_status": [row[0] for row in rows],
        "implied_volatility": [row[1] for row in rows],
        "vega": [row[2] for row in rows],
        "instrument_token": list(range(1, len(rows) + 1)),
        "received_at_us": [1_000_000] * len(rows),
        "is_repriced": [is_repriced] * len(rows),
    }
    return Message("batch", "NIFTY", {"columns": columns})


@pytest.mark.parametrize("is_repriced", [False, True])
def test_a_row_that_is_ok_without_a_value_is_counted(*, is_repriced: bool) -> None:
    seen = Score()
    rows = [("OK", 0.1, 5.0), ("OK", None, 5.0), ("OK", 0.1, math.nan), ("CROSSED", None, None)]
    count(batch(*rows, is_repriced=is_repriced), seen, 1_000_001)
    assert (seen.options_priced, seen.unvalued) == (3, 2)


class StandInTruth:
    """Every option's true volatility is 0.1."""

    def __init__(self, _: object) -> None:
        pass

    def volatility(self, token: Any, _: Any) -> Any:
        return np.full(len(token), 0.1)


@pytest.fixture
def _truth(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def __init__(self, **_: object) -> None:
            pass

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def get(self, *_: object, **__: object) -> Any:
            answer = SimpleNamespace(content=b'{"data": []}')
            answer.raise_for_status = lambda: answer
            return answer

    monkeypatch.setattr(demo_score, "Truth", StandInTruth)
    monkeypatch.setattr("httpx.AsyncClient", Client)


def compared(*rows: tuple[str | None, float | None, float | None]) -> Score:
    seen = Score()
    count(batch(*rows, is_repriced=False), seen, 1_000_001)
    asyncio.run(compare(cast("Any", SimpleNamespace(rest_root="")), seen))
    return seen


@pytest.mark.usefixtures("_truth")
def test_a_missing_volatility_does_not_hide_a_wrong_one() -> None:
    seen = compared(("OK", None, 5.0), ("OK", 0.15, 5.0), ("OK", 0.1, None))
    assert seen.iv_error_max == pytest.approx(0.05)
    assert (seen.iv_compared, seen.unvalued) == (1, 2)


@pytest.mark.usefixtures("_truth")
@pytest.mark.parametrize("row", [("OK", None, 5.0), ("CROSSED", None, None)])
def test_nothing_to_compare_is_no_obstacle(row: tuple[str, None, float | None]) -> None:
    assert compared(row).iv_compared == 0


def test_on_servers_of_its_own_a_demo_uses_the_usual_names() -> None:
    names = names_of_this_run(is_redis_shared=False, is_database_shared=False)
    assert (names.channel_prefix, names.account) == ("ticker:v1:", "DEMO")
    assert names.tail_options() == ""


def test_on_servers_of_others_a_demo_uses_names_of_its_own() -> None:
    names = names_of_this_run(is_redis_shared=True, is_database_shared=True)
    assert re.fullmatch(rf"demo-{os.getpid()}-[0-9a-f]{{4}}:v1:", names.channel_prefix)
    assert re.fullmatch(r"DEMO-[0-9a-f]{4}", names.account)
    assert names.tail_options() == f" --channel-prefix {names.channel_prefix}"


class NotOpenYet(OrderClient):
    """A door whose account opens after two requests."""

    def __init__(self) -> None:
        super().__init__("ws://127.0.0.1:1", "")
        self.asked: list[str] = []

    async def place(
        self, client_order_id: str, account: str, order: Mapping[str, object]
    ) -> dict[str, Any]:
        self.asked.append(client_order_id)
        if len(self.asked) <= 2:
            raise OrderError({"code": "ACCOUNT_NOT_OPEN", "message": "not yet"})
        return {"state": "RECEIVED", "account": account, "order": order}


def test_an_order_that_comes_before_the_account_is_open_is_repeated_under_its_key() -> None:
    client, trades = NotOpenYet(), demo_orders.Trades()
    door = demo_orders.Door(url="", token="", account="DEMO", run="1")
    order = {"transaction_type": "BUY", "quantity": 1, "tradingsymbol": "INFY", "price": "1.00"}
    virtual_time.run(demo_orders._place(client, door, "k", order, trades))
    assert client.asked == ["k", "k", "k"]
    assert trades.states == {"k": "RECEIVED"}
