"""A session at the dead-letter desk, from a shell, as a person has it at night."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import httpx
from crash_parts import door, limit_order, place_frame
from desk_shell import desk
from running import eventually

from ticker_service.domain.tag import tag_of

if TYPE_CHECKING:
    from crash_parts import World


def state(own: World, key: str) -> str:
    found = own.rows("SELECT state FROM order_task WHERE client_order_id = %s", key)
    return str(found[0]["state"]) if found else ""


def test_a_person_sees_what_is_lost_and_decides_it_from_a_shell(own: World) -> None:
    daemon = own.start(order_settle_after_s=3, order_deadline_s=60)
    assert daemon.opens(own.account), daemon.log()
    price = f"{own.quote()['last_price'] * 0.9:.0f}.00"
    with door(own, daemon) as calls:
        own.strike("refuse_4xx", method="place", count=1)
        calls.ask(place_frame("entry", own.account, limit_order("BUY", 2, price)))
        assert eventually(lambda: state(own, "entry") == "REJECTED")
        own.strike("reject_5xx_before_accept", method="place", count=1)
        calls.ask(place_frame("hedge", own.account, limit_order("BUY", 3, price)))
        assert eventually(lambda: state(own, "hedge") == "UNKNOWN")
        by_hand = placed_by_hand(own, 3, price)
        assert eventually(lambda: state(own, "hedge") == "MANUAL"), state(own, "hedge")

        status, said = desk(own, daemon)
        assert (status, "1 undecided, 1 failed today" in said) == (0, True), said
        assert max(map(len, said.splitlines())) <= 80
        status, said = desk(own, daemon, "show", "hedge")
        assert (status, by_hand in said, "nobody has decided" in said) == (0, True, True), said
        status, said = desk(own, daemon, "not-placed", "hedge", "--why", "no idea")
        assert (status, "BOOK_SPEAKS_AGAINST" in said) == (1, True), said
        status, said = desk(own, daemon, "adopt", "hedge", by_hand, "--why", "Kite shows it")
        assert (status, "hedge on" in said, by_hand in said) == (0, True, True), said
        for _ in range(2):
            status, said = desk(own, daemon, "resend", "entry", "--why", "margin is there")
            assert (status, "entry-again on" in said) == (0, True), said
        assert eventually(lambda: state(own, "entry-again") == "WORKING")
        status, said = desk(own, daemon, "show", "entry")
        assert "resent as  entry-again, which is WORKING" in said
        assert "night-desk: sent again, instead of entry" in said
        assert "why: margin is there" in said

        orphan = placed_by_hand(own, 4, price, tag=tag_of("T0", uuid.uuid4(), 1))
        assert eventually(lambda: daemon.desk_state(own.account) == "halted")
        status, said = desk(own, daemon)
        assert (status, f"ORPHAN  {orphan}" in said) == (0, True), said
        verb = ["adopt-orphan", orphan, "--account", own.account]
        status, said = desk(own, daemon, *verb, "--why", "restored last night's copy")
        assert (status, f"orphan-{orphan} on" in said) == (0, True), said
        assert eventually(lambda: daemon.desk_state(own.account) == "open")
        status, said = desk(own, daemon)
        assert (status, "0 undecided, 1 failed today, 0 orphaned" in said) == (0, True), said
    assert len(own.book()) == 3


def test_a_leg_of_a_basket_is_sent_again_under_the_name_that_the_desk_proposes(own: World) -> None:
    daemon = own.start()
    assert daemon.opens(own.account), daemon.log()
    price = f"{own.quote()['last_price'] * 1.05:.0f}.00"
    legs = [{"order": limit_order("BUY", quantity, price)} for quantity in (1, 2)]
    basket = {"op": "basket", "client_order_id": "k", "account": own.account, "legs": legs}
    own.strike("refuse_4xx", method="place", count=2)
    with door(own, daemon) as calls:
        calls.ask(basket)
    assert eventually(lambda: state(own, "k~1") == state(own, "k~2") == "REJECTED")

    status, said = desk(own, daemon)
    assert (status, "resend (as k.1-again)" in said) == (0, True), said
    status, said = desk(own, daemon, "show", "k~1")
    assert (status, "--as k.1-again --why" in said) == (0, True), said
    for _ in range(2):
        status, said = desk(own, daemon, "resend", "k~1", "--why", "margin is there")
        assert (status, "k.1-again on" in said) == (0, True), said
    assert eventually(lambda: state(own, "k.1-again") == "FILLED")
    assert len(own.book()) == 1


def placed_by_hand(own: World, quantity: int, price: str, **more: str) -> str:
    """Place an order at the broker beside the daemon; return its id."""
    order = {name: str(each) for name, each in limit_order("BUY", quantity, price).items()}
    key = f"token {own.lane.banner['api_key']}:{own.access_token}"
    answer = httpx.post(
        f"{own.lane.rest_root}/orders/regular",
        data=order | more,
        headers={"Authorization": key},
        trust_env=False,
    )
    order_id: str = answer.raise_for_status().json()["data"]["order_id"]
    return order_id
