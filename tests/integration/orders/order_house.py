"""The daemon with its order doors, on a real database, a real Redis and a simulated broker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import orjson
import pytest
from running import DEADLINE_S, Daemon, Exchange, daemon, eventually, exchange, log_in
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from app.embedded import embedded_postgres_process
from app.fresh_databases import fresh_database, template_database
from app.security.tokens import Scope, TokenIssuer
from ticker_service.adapters.postgres_migrate import migrate
from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SECRET: Final = "stand-in-secret-of-thirty-two-bytes!"  # allow-secret
NO_MARKET: Final = "SBIN"
"""A share in which the exchange takes no MARKET order."""
STILL: Final = SimulatorOptions(
    seed=7, rate_per_s=0.0, enforce_rate_limits=False, no_market=(f"NSE:{NO_MARKET}",)
)
POSTBACK_WORD: Final = "a-word-of-the-tests-that-nobody-guesses"
ALLOWED_PACE_S: Final = 0.1
"""So often a caller may ask for an order and have half of its 20 requests a second left."""
USERS: Final = {"MAIN": "AB1234", "SPARE": "CD5678"}
BOTH: Final = (Scope.ORDERS_READ, Scope.ORDERS_WRITE)
_numbers = itertools.count(1)


def new_name(kind: str = "k") -> str:
    return f"{kind}-{next(_numbers)}"


@contextlib.contextmanager
def migrated_database() -> Iterator[str]:
    """Yield a fresh migrated database on a server of its own."""
    with (
        embedded_postgres_process(durable=False) as server,
        template_database(server.url, lambda url: asyncio.run(migrate(url))) as template,
        fresh_database(template) as url,
    ):
        yield url


@dataclass
class House:
    """A running daemon and everything a caller of it needs."""

    daemon: Daemon
    exchange: Exchange
    settings: dict[str, object]
    price: str

    @property
    def ws_url(self) -> str:
        url: str = self.daemon.first_line["orders_ws_url"]
        return url

    @property
    def rest_url(self) -> str:
        return self.ws_url.replace("ws://", "http://").removesuffix("/v1/orders/ws")

    def token(self, principal: str, **claims: Any) -> str:
        """Mint a token; on MAIN alone and good for reading and writing unless told."""
        values = {"scopes": BOTH, "accounts": ["MAIN"], "lifetime_s": 600} | claims
        return TokenIssuer(SECRET.encode()).mint(principal, now_ns=SystemClock().now_ns(), **values)

    def caller(self, principal: str = "", **claims: Any) -> Caller:
        """Return a REST caller with an allowance of its own."""
        return Caller(self.rest_url, self.token(principal or new_name("caller"), **claims))

    def talk(self, principal: str = "", **claims: Any) -> Talk:
        """Return an authenticated WebSocket with an allowance of its own."""
        return Talk(self.ws_url, self.token(principal or new_name("caller"), **claims))

    def order(self, **changed: object) -> dict[str, object]:
        """Return an order that rests: far below the market of a share."""
        order: dict[str, object] = {
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "order_type": "LIMIT",
            "product": "CNC",
            "quantity": 1,
            "price": self.price,
        }
        return {name: value for name, value in (order | changed).items() if value is not None}

    def offered(self, tradingsymbol: str) -> str:
        """Return what an NSE share is offered at."""
        row = depth_of(self.exchange, tradingsymbol)
        return str(row["sell"][0]["price"])

    def broker_rows(self) -> list[dict[str, Any]]:
        """Return the orders that the exchange has, of the main user."""
        key = f"token {self.exchange.api_key}:{self.exchange.access_token}"
        answer = httpx.get(
            f"{self.exchange.rest_root}/orders", headers={"Authorization": key}, trust_env=False
        )
        rows: list[dict[str, Any]] = answer.raise_for_status().json(parse_float=Decimal)["data"]
        return rows


class Caller:
    """Somebody at the REST door."""

    def __init__(self, url: str, token: str) -> None:
        self.token = token
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            trust_env=False,
            timeout=DEADLINE_S,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str = "", **more: Any) -> httpx.Response:
        return self._http.request(method, f"/v1/orders{path}", **more)

    def at(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask at a door beside that of orders, such as ``/exits``."""
        return self._in_turn(lambda: self._http.request(method, f"/v1{path}", **more), is_any=True)

    def release(self, scope: str) -> list[dict[str, Any]]:
        """Release the kill switches of a scope."""
        answer = self._in_turn(lambda: self.kill("DELETE", params={"scope": scope}))
        released: list[dict[str, Any]] = answer.json()["released"]
        return released

    def kill(self, method: str, **more: Any) -> httpx.Response:
        """Ask at the door for kill switches."""
        return self._http.request(method, "/v1/kill-switch", **more)

    def place(self, key: str, order: Mapping[str, object], **more: object) -> httpx.Response:
        body = {"client_order_id": key, "account": "MAIN", "order": order, **more}
        return self.ask("POST", json=body)

    def events(self, account: str, *, after: int) -> list[dict[str, Any]]:
        """Return one page of an account's events."""
        query: dict[str, str | int] = {"account": account, "after": after, "limit": 500}
        answer = self.ask("GET", "/events", params=query)
        events: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
        return events

    def status(self, key: str) -> dict[str, Any]:
        """Return an order as it stands, asking again while that is too often."""
        answer: dict[str, Any] = self._in_turn(lambda: self.ask("GET", f"/{key}")).json()
        return answer

    def changes(self, key: str) -> list[dict[str, Any]]:
        """Return an order's changes and cancels, the newest first."""
        answer = self._in_turn(lambda: self.ask("GET", f"/{key}/changes"))
        found: list[dict[str, Any]] = answer.json()["orders"]
        return found

    @staticmethod
    def _in_turn(ask: Callable[[], httpx.Response], *, is_any: bool = False) -> httpx.Response:
        """Ask again for as long as the allowance is used up; a refusal is an answer if ``is_any``."""
        refused = 429
        given = eventually(
            lambda: answer if (answer := ask()).status_code != refused else None, pace_s=0.1
        )
        assert given is not None
        return given if is_any else given.raise_for_status()

    def reaches(self, key: str, *states: str) -> dict[str, Any]:
        """Wait until an order is in one of the states."""
        found = eventually(
            lambda: task if (task := self.status(key))["state"] in states else None,
            pace_s=ALLOWED_PACE_S,
        )
        assert found, self.status(key)
        return found


class Talk:
    """Somebody at the WebSocket door."""

    def __init__(self, url: str, token: str | None, *, in_header: bool = True) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token and in_header else {}
        self._stack = contextlib.ExitStack()
        self.socket: ClientConnection = self._stack.enter_context(
            connect(url, additional_headers=headers, compression=None, proxy=None, max_size=None)
        )
        self.events: list[dict[str, Any]] = []
        if token and not in_header:
            self.say(op="auth", token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self) -> None:
        """Be gone without a word."""
        self.socket.socket.shutdown(socket.SHUT_RDWR)

    def say(self, **frame: object) -> None:
        self.socket.send(orjson.dumps(frame).decode())

    def hear(self) -> dict[str, Any]:
        """Return the next frame."""
        message: dict[str, Any] = orjson.loads(self.socket.recv(DEADLINE_S))
        return message

    def reply(self) -> dict[str, Any]:
        """Return the next frame that is no event; events are kept."""
        while (message := self.hear())["op"] == "event":
            self.events.append(message)
        return message

    def ask(self, **frame: object) -> dict[str, Any]:
        self.say(**frame)
        return self.reply()

    def event(self, is_it: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the first event, kept or still to come, that is the one."""
        seen = 0
        while True:
            for message in self.events[seen:]:
                if is_it(message):
                    return message
            seen = len(self.events)
            message = self.hear()
            if message["op"] == "event":
                self.events.append(message)

    def _read_on(self) -> None:
        while True:
            self.socket.recv(DEADLINE_S)

    def closed(self) -> tuple[int, str]:
        """Wait for the close, and return its code and reason."""
        with pytest.raises(ConnectionClosed) as closed:
            self._read_on()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, closed.value.rcvd.reason


@contextlib.contextmanager
def house(
    redis_url: str,
    prefix: str,
    *,
    options: SimulatorOptions = STILL,
    config: str | os.PathLike[str] = os.devnull,
    **settings: object,
) -> Iterator[House]:
    """Run a daemon with two accounts for the length of the block, and wait until they are open."""
    with (
        migrated_database() as database_url,
        exchange(options) as market,
        tempfile.TemporaryDirectory() as folder,
    ):
        accounts = {
            name: {
                "user_id": user,
                "api_key": market.api_key,
                "api_secret": market.banner["api_secret"],
                "access_token": (
                    market.access_token
                    if user == market.user_id
                    else log_in(market.simulator, user)
                ),
                "registered_addresses": ["127.0.0.1"],
            }
            for name, user in USERS.items()
        }
        chosen = {
            **market.settings(),
            "redis_url": redis_url,
            "channel_prefix": prefix,
            "database_url": database_url,
            "journal_may_be_volatile": True,
            "accounts": orjson.dumps(accounts).decode(),
            "token_secret": SECRET,
            "orders_port": 0,
            "kill_switch_file": f"{folder}/kill-switch.json",
            "postback_word": POSTBACK_WORD,
            "egress_probe_url": f"{market.rest_root}/sim/address",
            "order_book_poll_s": 0.3,
            "order_request_s": 2.0,
            "order_settle_after_s": 2.5,
            "order_settle_spacing_s": 0.2,
            **settings,
        }
        with daemon(chosen, config=config) as running:
            price = str(depth_of(market, "INFY")["buy"][4]["price"])
            made = House(running, market, chosen, price)
            with made.caller(accounts="all") as caller:
                assert eventually(lambda: _is_open(caller)), running.program.err.text()
            yield made


def depth_of(market: Exchange, tradingsymbol: str) -> dict[str, Any]:
    """Return the book of an NSE share."""
    key, name = f"token {market.api_key}:{market.access_token}", f"NSE:{tradingsymbol}"
    answer = httpx.get(
        f"{market.rest_root}/quote?i={name}", headers={"Authorization": key}, trust_env=False
    )
    depth: dict[str, Any] = answer.json(parse_float=Decimal)["data"][name]["depth"]
    return depth


def _is_open(caller: Caller) -> bool:
    """Return whether both accounts take orders: a cancel of nothing is then an unknown order."""
    states = [
        caller.ask(
            "POST",
            json={"client_order_id": new_name("probe"), "account": name, "order": _PROBE},
        ).status_code
        for name in USERS
    ]
    return states == [202, 202]


_PROBE: Final = {
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "order_type": "LIMIT",
    "product": "CNC",
    "quantity": 1,
    "price": "1",
}
