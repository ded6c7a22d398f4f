"""What was done at the broker and not through the daemon: shown, compared, told. Simulated broker."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
from asyncapi_document import faults
from order_house import USERS, House, house, new_name
from running import eventually, subscriber

from ticker_service.domain.tag import tag_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def home(redis_url: str) -> Iterator[House]:
    """A daemon of this module's own: what is done elsewhere stays with its accounts."""
    with house(redis_url, f"elsewhere-{uuid.uuid4().hex[:8]}:") as running:
        yield running


def order_elsewhere(home: House, account: str, **changed: object) -> str:
    """Place an order as the broker's own app does; return its id."""
    token = orjson.loads(str(home.settings["accounts"]))[account]["access_token"]
    answer = httpx.post(
        f"{home.exchange.rest_root}/orders/regular",
        data={**home.order(), "validity": "DAY", **changed},
        headers={"Authorization": f"token {home.exchange.api_key}:{token}"},
        trust_env=False,
    )
    order_id: str = answer.raise_for_status().json()["data"]["order_id"]
    return order_id


def external(home: House, account: str, order_id: str) -> dict[str, Any]:
    """Wait until an order is shown as placed elsewhere, and return it as it is shown."""

    def shown() -> dict[str, Any]:
        with home.caller(accounts="all") as caller:
            query = {"account": account, "external": "true"}
            answer = caller.ask("GET", params=query).raise_for_status().json()
        return next((each for each in answer["external"] if each["order_id"] == order_id), {})

    found = eventually(shown)
    assert found, f"{order_id} is not shown"
    return found


def compared_anew(home: House, account: str) -> None:
    """Wait until the account's books have been compared again."""
    age = f'books_compared_age_s{{account="{account}"}}'
    before = home.daemon.metric(age)
    assert before >= 0.0
    assert eventually(lambda: home.daemon.metric(age) < before or home.daemon.metric(age) < 0.5)


def across(home: House) -> str:
    """Return a price at which an order to buy is filled at once."""
    key = f"token {home.exchange.api_key}:{home.exchange.access_token}"
    quote = httpx.get(
        f"{home.exchange.rest_root}/quote?i=NSE:INFY",
        headers={"Authorization": key},
        trust_env=False,
    ).json()["data"]["NSE:INFY"]
    return f"{quote['depth']['sell'][0]['price']:.2f}"


def test_an_order_placed_elsewhere_is_shown_as_external_to_who_may_see_the_account(
    home: House,
) -> None:
    order_id = order_elsewhere(home, "MAIN", tag="app")
    with home.caller(accounts=["MAIN"]) as caller, home.caller(accounts=["SPARE"]) as stranger:
        own = new_name()
        caller.place(own, home.order())
        ours = caller.reaches(own, "WORKING")["order_id"]

        found = external(home, "MAIN", order_id)

        assert found["account"] == "MAIN"
        assert (found["orphan"], found["tags"]) == (False, ["app"])
        assert (found["status"], found["tradingsymbol"], found["price"]) == (
            "OPEN",
            "INFY",
            home.price,
        )
        listed = caller.ask("GET", params={"external": "true"}).json()
        assert ours not in [each["order_id"] for each in listed["external"]]
        assert "external" not in caller.ask("GET").json()
        others = stranger.ask("GET", params={"external": "true"}).json()["external"]
        assert {each["account"] for each in others} <= {"SPARE"}
        query = {"account": "MAIN", "external": "true"}
        assert stranger.ask("GET", params=query).status_code == 404
        assert home.daemon.metric('orders_external{account="MAIN"}') >= 1.0


def test_fills_of_ours_and_of_others_explain_the_positions(home: House) -> None:
    price = across(home)
    order_elsewhere(home, "MAIN", price=price, quantity=2)
    with home.caller() as caller:
        own = new_name()
        caller.place(own, home.order(price=price))
        caller.reaches(own, "FILLED")

    for _ in range(3):
        compared_anew(home, "MAIN")

    for what in ("fills", "price", "position", "product"):
        assert home.daemon.metric(f'books_differ{{account="MAIN",what="{what}"}}') == 0.0


def test_a_position_that_nothing_explains_is_told_and_so_is_its_end(home: House) -> None:
    price = across(home)
    order_id = order_elsewhere(home, "MAIN", price=price)
    external(home, "MAIN", order_id)
    held = home.exchange.simulator.exchange.account(USERS["MAIN"]).positions
    position = next(iter(held.values()))
    gauge = 'books_differ{account="MAIN",what="position"}'
    channel = f"{home.settings['channel_prefix']}events"
    with subscriber(str(home.settings["redis_url"]), channel) as notices:
        position.buy_quantity += 10

        told = notices.until(lambda each: each["kind"] == "books")

        assert faults("notice_books", told) == []
        assert (told["account"], told["what"], told["state"], told["left"]) == (
            "MAIN",
            "position",
            "differ",
            1,
        )
        assert home.daemon.metric(gauge) == 1.0
        with home.caller() as caller:  # it is an alarm, not a halt
            own = new_name()
            assert caller.place(own, home.order()).status_code == 202

        position.buy_quantity -= 10
        again = notices.until(lambda each: each["kind"] == "books" and each["state"] == "agree")
        assert again["left"] == 0
        assert eventually(lambda: home.daemon.metric(gauge) == 0.0)


def test_an_order_with_our_tag_that_the_journal_lost_is_shown_as_orphan_and_halts(
    home: House,
) -> None:
    order_id = order_elsewhere(home, "SPARE", tag=tag_of("T0", uuid.uuid4(), 1))

    assert external(home, "SPARE", order_id)["orphan"] is True
    assert eventually(lambda: home.daemon.ready().json()["accounts"]["SPARE"] == "halted")
    assert [halt["code"] for halt in home.daemon.ready().json()["halts"]] == ["ORPHAN_ORDER"]
