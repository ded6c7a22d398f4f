"""Order events and notices on Redis are what ``docs/asyncapi.json`` says."""

from __future__ import annotations

import uuid

from asyncapi_document import faults, unseen
from order_house import house, new_name
from running import is_kind, subscriber


def test_order_events_and_notices_of_a_running_daemon_are_as_the_document_says(
    redis_url: str,
) -> None:
    prefix = f"test-{uuid.uuid4().hex}:"
    with (
        subscriber(redis_url, f"{prefix}orders:MAIN") as orders,
        subscriber(redis_url, f"{prefix}events") as notices,
        house(redis_url, prefix) as home,
    ):
        key = new_name()
        with home.caller() as caller:
            assert caller.place(key, home.order()).status_code == 202
            caller.reaches(key, "WORKING")
        orders.until(lambda event: event["client_order_id"] == key and event["state"] == "WORKING")
        notices.until(is_kind("account", account="MAIN", state="open"))
    assert [faults("order_event", event) for event in orders.seen] == [[]] * len(orders.seen)
    assert unseen("order_event", orders.seen) == set()
    for notice in notices.seen:
        assert faults(f"notice_{notice['kind']}", notice) == []
    told = [notice for notice in notices.seen if notice["kind"] == "account"]
    # A halt is what these two are for, and none came.
    assert unseen("notice_account", told) == {"code", "until_us"}
