"""Daemons killed again and again on one account: a short run of `./scripts/chaos`, and its verdict."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import chaos_loop
import crash_records
import httpx
import pytest
from crash_parts import door, limit_order, place_frame
from exactly_once import (
    Records,
    Told,
    doubled,
    stops_close_no_more_than_was_opened,
    violations,
)
from running import eventually

if TYPE_CHECKING:
    from crash_parts import Lane, Servers, World


def test_an_account_whose_daemons_are_killed_again_and_again_loses_and_doubles_nothing(
    shared: Servers, one_lane: Lane
) -> None:
    chance = random.Random("kept/0")  # noqa: S311 - to be repeated

    chapter = chaos_loop.play(chance, shared, one_lane, cycles=6)

    assert not chapter.violations, chapter.log
    figures = chaos_loop.totals([chapter])
    assert (figures["cycles"], figures["doubled"], figures["lost"]) == (6, 0, 0)
    assert figures["unknown_left"] == 0
    assert sum(figures["kills_per_point"].values()) == 6
    assert chaos_loop.is_proof(figures)
    kept = chaos_loop.Chapter.from_json(chapter.to_json())
    assert chaos_loop.totals([kept]) == figures


@pytest.mark.parametrize("broken", ["doubled", "lost", "unknown_left", "violations"])
def test_a_run_that_broke_a_promise_is_no_proof(broken: str) -> None:
    whole = figures_of(reached=60, in_mid_send=10)
    assert chaos_loop.is_proof(whole)

    assert not chaos_loop.is_proof(whole | {broken: 1})


def test_a_run_whose_kills_hit_nothing_is_no_proof() -> None:
    assert not chaos_loop.is_proof(figures_of(reached=60, in_mid_send=9))
    assert not chaos_loop.is_proof(figures_of(reached=49, in_mid_send=10))
    assert not chaos_loop.is_proof(chaos_loop.totals([]))


def figures_of(*, reached: int, in_mid_send: int) -> dict[str, Any]:
    kills = Counter({"C4": in_mid_send, "idle": 100 - in_mid_send})
    return chaos_loop.totals(
        [chaos_loop.Chapter(cycles=100, orders=100, reached=reached, kills=kills)]
    )


def test_the_verdict_names_what_was_done_behind_the_journal_s_back(own: World) -> None:
    daemon = own.start()
    assert daemon.opens(own.account)
    body = limit_order("BUY", 1, f"{own.quote()['last_price'] * 0.9:.0f}.00")
    with door(own, daemon) as calls:
        answer = calls.ask(place_frame("k", own.account, body))
    said = crash_records.says(body)
    told = [Told(principal="caller", request_id="k", body=said, task_id=answer["task_id"])]
    # The daemon's own events may still be on their way to Redis.
    assert eventually(lambda: not violations(crash_records.read(own, told, daemon)))

    records = crash_records.read(own, told, daemon)
    key = own.lane.banner["api_key"]
    for tag in (records.attempts[0].tag, "foreign"):
        httpx.post(
            f"{own.lane.rest_root}/orders/regular",
            data={name: str(value) for name, value in body.items()} | {"tag": tag},
            headers={"Authorization": f"token {key}:{own.access_token}"},
            trust_env=False,
        ).raise_for_status()
    daemon.kill()
    # What was acknowledged and is not in the journal: as after a commit that was not durable.
    told.append(Told(principal="caller", request_id="other", body=said, task_id="gone"))

    found = " ".join(violations(crash_records.read(own, told)))
    assert "became the orders" in found
    assert "was posted 2 times" in found
    assert "without an intent" in found
    assert "I3: other was acknowledged" in found


def accepted(order_id: str, **changed: Any) -> dict[str, Any]:
    """Return the ledger's entry of an order that was placed, by a caller or by the exchange."""
    values: dict[str, Any] = {"tag": "T1", "parent_order_id": None, "leg": 1, "legs": 1}
    return {"kind": "accepted", "method": "place", "order_id": order_id, **values, **changed}


def shown(order_id: str, status: str, filled: int) -> dict[str, Any]:
    return {
        "kind": "status",
        "order_id": order_id,
        "status": status,
        "filled_quantity": filled,
    }


def traded(order_id: str, quantity: int, price: float, tag: str = "T1") -> dict[str, Any]:
    told = {"order_id": order_id, "tag": tag, "quantity": quantity, "average_price": price}
    return {"kind": "trade", **told}


@pytest.mark.parametrize(
    ("second", "state", "filled"),
    [
        ([shown("2", "COMPLETE", 5)], "FILLED", 10),
        ([shown("2", "CANCELLED", 2)], "CANCELLED", 7),
        ([shown("2", "REJECTED", 0)], "CANCELLED", 5),
        ([shown("2", "OPEN", 0)], "PARTIAL", 5),
    ],
)
def test_the_legs_of_an_iceberg_are_judged_as_one_order(
    second: list[dict[str, Any]], state: str, filled: int
) -> None:
    first = [accepted("1", legs=2), shown("1", "OPEN", 0), traded("1", 5, 100.0)]
    between = [*first, shown("1", "COMPLETE", 5)]
    (order,) = crash_records.orders(between).values()
    assert (order.state, order.filled_quantity) == ("PARTIAL", 5)

    (order,) = crash_records.orders([*between, accepted("2", leg=2, legs=2), *second]).values()

    assert (order.order_id, order.state, order.filled_quantity) == ("1", state, filled)


def test_the_stop_of_a_cover_order_is_no_second_order_and_closes_no_more_than_was_opened() -> None:
    stop = accepted("2", tag="T1", parent_order_id="1")
    entries = [accepted("1"), shown("1", "COMPLETE", 5), stop, shown("2", "TRIGGER PENDING", 0)]
    records = Records(orders=crash_records.orders(entries))
    assert (doubled(records), stops_close_no_more_than_was_opened(records)) == ([], [])

    records = Records(orders=crash_records.orders([*entries, shown("2", "COMPLETE", 6)]))
    assert "6 were closed of 1, and 5 opened" in stops_close_no_more_than_was_opened(records)[0]
    records = Records(orders=crash_records.orders([*entries, accepted("3")]))
    assert "became the orders ['1', '3']" in doubled(records)[0]


def test_a_position_that_an_exit_flips_is_seen_at_the_trade_that_does() -> None:
    def posted(tag: str, side: str, symbol: str = "TCS") -> dict[str, Any]:
        fields = {"tradingsymbol": symbol, "transaction_type": side}
        return {"kind": "received", "method": "place", "tag": tag, "fields": fields}

    posts = [posted("B", "BUY"), posted("S", "SELL"), posted("O", "SELL", "INFY")]
    trades = [("B", 5), ("O", 9), ("S", 3), ("S", 3), ("B", 1)]
    entries = [*posts, *(traded(tag, n, 100.0, tag) for tag, n in trades)]

    assert crash_records.net_after_each_trade(entries, "TCS") == [5, 2, -1, 0]
