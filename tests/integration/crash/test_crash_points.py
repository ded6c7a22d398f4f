"""Kill -9 at every named point, whatever the broker answers: the campaign with one run each.

`./scripts/crash` plays the same runs by the hundred; docs/crash-proof.md has its numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import crash_verdict as verdict
import httpx
import pytest
from crash_parts import door, limit_order, place_frame
from crash_run import AT_RANDOM, BEHAVIOURS, POINTS, Case, play
from running import eventually

if TYPE_CHECKING:
    from crash_parts import Lane, Servers, World


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("point", [*POINTS, AT_RANDOM])
def test_a_killed_daemon_neither_doubles_nor_loses_an_order(
    point: str, behaviour: str, shared: Servers, one_lane: Lane
) -> None:
    report = play(Case(point=point, behaviour=behaviour, seed=24, number=0), shared, one_lane)

    assert not report.violations, report.log


@pytest.mark.parametrize("point", [point for point in POINTS if point != "C5"])
def test_the_daemon_dies_at_the_point_it_is_told(point: str, own: World) -> None:
    daemon = own.start(kill_at=point)

    if daemon.opens(own.account):
        with door(own, daemon) as calls:
            calls.say(place_frame("k", own.account, limit_order("BUY", 1, "1.00")))

    assert daemon.wait() == -9


def test_the_point_is_refused_where_the_broker_may_be_real(own: World) -> None:
    daemon = own.start(kill_at="C3", kite_rest_root="https://broker.example.com")

    assert daemon.wait() == 2
    assert "KILL_AT" in daemon.log()


def test_the_verdict_sees_an_order_that_was_placed_twice(own: World) -> None:
    daemon = own.start()
    assert daemon.opens(own.account)
    body = limit_order("BUY", 1, f"{own.quote()['last_price'] * 0.9:.0f}.00")
    with door(own, daemon) as calls:
        assert calls.ask(place_frame("k", own.account, body))["op"] == "ack"
    assert eventually(lambda: not verdict.unsettled(own))
    daemon.kill()
    assert verdict.never_twice(own) == []

    _post_behind_its_back(own, {**body, "tag": own.attempts()[0]["tag"]})
    _post_behind_its_back(own, {**body, "tag": "foreign"})

    found = " ".join(verdict.never_twice(own))
    assert "was posted 2 times" in found
    assert "became the orders" in found
    assert "without an intent" in found


def _post_behind_its_back(own: World, form: dict[str, object]) -> None:
    key = own.lane.banner["api_key"]
    httpx.post(
        f"{own.lane.rest_root}/orders/regular",
        data={name: str(value) for name, value in form.items()} | {"validity": "DAY"},
        headers={"Authorization": f"token {key}:{own.access_token}"},
        trust_env=False,
    ).raise_for_status()
