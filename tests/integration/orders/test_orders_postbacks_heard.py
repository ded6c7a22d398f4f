"""Postbacks from the exchange to the daemon, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from order_house import POSTBACK_WORD, new_name
from running import eventually

if TYPE_CHECKING:
    from order_house import House


def test_a_fill_whose_update_is_lost_is_told_by_postback(home: House) -> None:
    door = f"{home.rest_url}/v1/postback/{POSTBACK_WORD}"
    postbacks = home.exchange.simulator.postbacks
    before = home.daemon.metric('postbacks{outcome="taken"}')
    postbacks.url = door
    home.exchange.fault(fault="drop_updates", seconds=20)
    try:
        key = new_name()
        at_market = {"order_type": "MARKET", "price": None, "market_protection": "5"}
        with home.caller() as caller:
            caller.place(key, home.order(product="MIS", **at_market))
            caller.reaches(key, "FILLED")
        assert eventually(lambda: home.daemon.metric('postbacks{outcome="taken"}') > before)
        assert eventually(lambda: postbacks.sent > 0)
        assert postbacks.lost == 0
    finally:
        postbacks.url = ""
        httpx.delete(f"{home.exchange.rest_root}/sim/faults", trust_env=False)


def test_a_postback_of_nobody_is_refused_and_counted(home: House) -> None:
    door = f"{home.rest_url}/v1/postback/{POSTBACK_WORD}"
    before = home.daemon.metric('postbacks{outcome="refused"}')
    said = {"order_id": "1", "order_timestamp": "1", "user_id": "AB1234", "checksum": "0" * 64}
    assert httpx.post(door, json=said, trust_env=False).status_code == 403
    assert home.daemon.metric('postbacks{outcome="refused"}') == before + 1
