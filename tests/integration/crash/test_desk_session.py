"""A session at the dead-letter desk, from a shell, as a person has it at night."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import httpx
from crash_parts import TOKEN_SECRET, door, limit_order, place_frame
from running import eventually
from typer.testing import CliRunner

from app.desk_cli import desk_cli
from app.security.tokens import Scope, TokenIssuer
from ticker_service.domain.tag import tag_of
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from crash_parts import Daemon, World


def desk(own: World, daemon: Daemon, *words: str) -> tuple[int, str]:
    """Type a command of ``ticker-service desk``; return its status and what it says."""
    token = TokenIssuer(TOKEN_SECRET.encode()).mint(
        "night-desk",
        scopes=[Scope.DESK],
        accounts=[own.account],
        lifetime_s=600,
        now_ns=SystemClock().now_ns(),
    )
    told = {"TICKER_ORDERS_URL": daemon.facts()["orders_ws_url"], "TICKER_ORDERS_TOKEN": token}
    ran = CliRunner().invoke(desk_cli, words, env=told | {"COLUMNS": "80"})
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.exit_code, ran.output


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
