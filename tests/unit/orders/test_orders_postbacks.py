"""Postbacks of the broker: heard, checked, and never believed."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import orjson
import pytest
from virtual_time import run

from ticker_service.domain.order import Account
from ticker_service.errors import OrderRefused
from ticker_service.orders.postbacks import SEEN_MAX, Postbacks

MAIN, SPARE = Account("MAIN"), Account("SPARE")
SECRET = "stand-in-secret"  # allow-secret


class Heard:
    """A receiver with two accounts, and whose books it asked for."""

    def __init__(self) -> None:
        self.asked: list[Account] = []
        secrets = {"AB1234": (MAIN, SECRET), "CD5678": (SPARE, "another")}
        want = {name: lambda name=name: self.asked.append(name) for name in (MAIN, SPARE)}
        self.postbacks = Postbacks(secrets, want)  # type: ignore[arg-type]  # a default binds it

    def take(self, said: object) -> None:
        self.postbacks.take(orjson.dumps(said), said)

    async def for_s(self, seconds: float, *said: object) -> None:
        """Run for so long, having taken these."""
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.postbacks.run())
            await asyncio.sleep(0)
            for each in said:
                self.take(each)
            await asyncio.sleep(seconds)
            running.cancel()


def postback(**changed: Any) -> dict[str, Any]:
    said = {
        "order_id": "261121000100001",
        "order_timestamp": "2026-11-21 10:15:00",
        "user_id": "AB1234",
        "status": "COMPLETE",
        "filled_quantity": 75,
        **changed,
    }
    text = f"{said['order_id']}{said['order_timestamp']}{SECRET}"
    return {"checksum": hashlib.sha256(text.encode()).hexdigest(), **said}


def test_a_postback_has_the_book_of_its_account_read() -> None:
    heard = Heard()
    run(heard.for_s(5, postback()))
    assert heard.asked == [MAIN]
    assert heard.postbacks.taken == {MAIN: 1, SPARE: 0}


def test_however_many_come_the_book_is_read_once_a_second() -> None:
    heard = Heard()
    run(heard.for_s(5, *(postback(filled_quantity=filled) for filled in range(500))))
    assert heard.asked == [MAIN]


def test_one_that_comes_again_is_taken_and_does_nothing() -> None:
    heard = Heard()
    run(heard.for_s(5, *[postback()] * 101))
    assert heard.asked == [MAIN]
    assert heard.postbacks.repeated == 100


def test_what_is_remembered_is_bounded() -> None:
    heard = Heard()
    for filled in range(SEEN_MAX + 50):
        heard.take(postback(filled_quantity=filled))
    assert len(heard.postbacks._seen) == SEEN_MAX


@pytest.mark.parametrize(
    "said",
    [
        postback() | {"checksum": "0" * 64},
        postback() | {"order_id": "261121000100002"},
        postback() | {"order_timestamp": "2026-11-21 10:15:01"},
        postback(user_id="CD5678"),
        postback(user_id="NOBODY"),
        postback() | {"checksum": ""},
        postback() | {"checksum": None},
        postback() | {"order_id": 261121000100001},
        postback() | {"order_id": "x" * 65},
        postback() | {"order_id": "\ud800"},
        postback() | {"checksum": "é" * 32},
        {"checksum": "0" * 64},
        [],
        "x",
        None,
    ],
)
def test_one_that_is_not_the_brokers_is_refused_and_nothing_is_read(said: object) -> None:
    heard = Heard()
    with pytest.raises(OrderRefused):
        heard.postbacks.take(b"", said)
    run(heard.for_s(5))
    assert heard.asked == []
    assert heard.postbacks.refused == 1


def test_no_secret_is_shown() -> None:
    assert SECRET not in repr(Heard().postbacks)
