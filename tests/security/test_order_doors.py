"""Nothing at the order doors works without the right token, and nothing is told about others (I14)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson
import pytest
from running import DEADLINE_S, Beside
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from app.doors import Doors, application
from app.http import listener
from app.security.limits import ConnectionCaps, ConnectionRegister
from app.security.tokens import Scope, TokenIssuer, TokenVerifier
from ticker_service.accounts.breakers import Breakers
from ticker_service.accounts.halts import Halts
from ticker_service.accounts.kill_switches import KillSwitches
from ticker_service.accounts.limits import OrderLimits
from ticker_service.config import OrdersConfig
from ticker_service.domain.order import Account
from ticker_service.errors import JournalUnavailable
from ticker_service.orders.desk import AccountDesk
from ticker_service.orders.execute import Executor
from ticker_service.orders.front import FrontDesk
from ticker_service.orders.standing import DeskState
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.crash_points import never
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryJournal, MemoryKillStore, ScriptedBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from websockets.sync.client import ClientConnection

SECRET: Final = b"stand-in-secret-of-thirty-two-bytes!"  # allow-secret
OTHER_SECRET: Final = b"another-secret-that-is-not-the-doors"  # allow-secret
MINE, THEIRS = Account("MINE"), Account("THEIRS")
ORDER: Final = {
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "order_type": "LIMIT",
    "product": "CNC",
    "quantity": 1,
    "price": "100.05",
}
CLOCK: Final = SystemClock()
SWITCHES: Final = KillSwitches(MemoryKillStore())
_numbers = itertools.count(1)


class House:
    """Two accounts in memory behind real doors on loopback."""

    def __init__(self, journal: MemoryJournal, doors: Doors, url: str) -> None:
        self.journal = journal
        self.doors = doors
        self.url = url

    def ask(self, token: str | None, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.request(
            method, self.url + path, headers=headers, json=body, trust_env=False, timeout=DEADLINE_S
        )


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    journal, config = MemoryJournal(), OrdersConfig()
    chance = random.Random(1)  # noqa: S311 - jitter
    surroundings = Surroundings(clock=CLOCK, chance=chance, telemetry=Telemetry())
    desks = {name: _desk(name, journal, config, surroundings) for name in (MINE, THEIRS)}
    doors = Doors(
        front=FrontDesk(desks, journal, config, CLOCK, switches=SWITCHES),
        verifier=TokenVerifier(SECRET),
        clock=CLOCK,
        reach=never,
    )
    bound = listener.listen("127.0.0.1", 0)
    server = listener.Server(application(doors), bound, sockets_max=100)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(desk.run()) for desk in desks.values()]
        serving = tasks.create_task(server.run_until_stopped())
        while not (  # noqa: ASYNC110 - neither tells
            server.started and all(desk.state is DeskState.OPEN for desk in desks.values())
        ):
            await asyncio.sleep(0.01)
        yield House(journal, doors, listener.url_of(bound))
        server.stop()
        await serving
        for task in running:
            task.cancel()


def _desk(
    name: Account, journal: MemoryJournal, config: OrdersConfig, surroundings: Surroundings
) -> AccountDesk:
    broker = ScriptedBroker(CLOCK)
    executor = Executor(
        journal=journal,
        gateway=broker,
        breakers=Breakers(name, clock=CLOCK),
        limits=OrderLimits(name, CLOCK),
        halts=Halts(name, clock=CLOCK),
        switches=SWITCHES,
        config=config,
        surroundings=surroundings,
        reach=never,
    )
    return AccountDesk(
        name,
        journal=journal,
        gateway=broker,
        executor=executor,
        sinks={},
        config=config,
        surroundings=surroundings,
        reach=never,
    )


@pytest.fixture(scope="module")
def doors() -> Iterator[House]:
    """The doors, with one order of somebody else's on their account."""
    with Beside(house) as beside:
        running: House = beside.part
        other = token("other", accounts=[THEIRS])
        body = {"client_order_id": "theirs", "account": THEIRS, "order": ORDER}
        assert running.ask(other, "POST", "/v1/orders", body).status_code == 202
        yield running


def token(subject: str, *, secret: bytes = SECRET, **claims: Any) -> str:
    values = {
        "scopes": [Scope.ORDERS_READ, Scope.ORDERS_WRITE],
        "accounts": [MINE],
        "lifetime_s": 600,
        "now_ns": CLOCK.now_ns(),
    } | claims
    # A caller's allowance of requests is its own: each test is another caller.
    name = subject if subject == "other" else f"{subject}-{next(_numbers)}"
    return TokenIssuer(secret).mint(name, **values)


PLACE = {"client_order_id": "k", "account": MINE, "order": ORDER}
CHANGE = {"request_id": "m", "order": {"quantity": 2}}
WRITES: Final = [
    ("POST", "/v1/orders", PLACE),
    ("PUT", "/v1/orders/theirs", CHANGE),
    ("DELETE", "/v1/orders/theirs?request_id=c", None),
]
READS: Final = [
    ("GET", "/v1/orders", None),
    ("GET", f"/v1/orders?account={MINE}", None),
    ("GET", "/v1/orders/theirs", None),
    ("GET", "/v1/orders/theirs/changes", None),
    ("GET", f"/v1/orders/events?account={MINE}", None),
]
DECIDES: Final = [
    ("GET", "/v1/desk", None),
    ("GET", f"/v1/desk/{uuid.UUID(int=1)}", None),
    ("POST", f"/v1/desk/{uuid.UUID(int=1)}/adopt", {"order_id": "1", "why": "w"}),
    ("POST", f"/v1/desk/{uuid.UUID(int=1)}/not-placed", {"why": "w"}),
    ("POST", f"/v1/desk/{uuid.UUID(int=1)}/resend", {"client_order_id": "n", "why": "w"}),
    ("POST", f"/v1/desk/{uuid.UUID(int=1)}/close", {"state": "CANCELLED", "why": "w"}),
]
ROUTES: Final = [*WRITES, *READS, *DECIDES]
ids = [f"{method} {path}" for method, path, _ in ROUTES]


def hours_ago(count: int) -> int:
    return CLOCK.now_ns() - count * 3_600 * 10**9


def test_a_request_whose_commit_was_not_confirmed_is_not_called_undone(doors: House) -> None:
    me = token("me")
    body = {"client_order_id": "lost", "account": MINE, "order": ORDER}
    lost: list[str] = []

    async def lose(name: str) -> None:
        if name == "admit" and not lost:
            lost.append(name)
            raise JournalUnavailable("the confirmation was lost")

    doors.journal.after = lose
    answer = doors.ask(me, "POST", "/v1/orders", body)
    assert (answer.status_code, answer.json()["code"]) == (503, "JOURNAL_UNAVAILABLE")
    assert "nothing was done" not in answer.text
    assert "the same key" in answer.json()["message"]
    again = doors.ask(me, "POST", "/v1/orders", body)
    assert again.status_code == 200
    assert len([t for t in doors.journal.tasks.values() if t.client_order_id == "lost"]) == 1


def test_a_crowd_that_does_not_say_who_it_is_keeps_nobody_out_who_does(doors: House) -> None:
    url = doors.url.replace("http://", "ws://") + "/v1/orders/ws"
    with contextlib.ExitStack() as crowd:
        for _ in range(110):
            with contextlib.suppress(ConnectionClosed, InvalidHandshake):
                crowd.enter_context(connect(url, proxy=None, close_timeout=0.1))
        headers = {"Authorization": f"Bearer {token('me')}"}
        with connect(url, additional_headers=headers, proxy=None) as mine:
            assert '"authenticated"' in str(mine.recv(DEADLINE_S))


def test_who_finds_all_places_taken_is_told_so_and_to_try_later(
    doors: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors.doors, "connections", ConnectionRegister(ConnectionCaps(total_max=1)))
    with socket_of(doors) as first, socket_of(doors) as second:
        assert orjson.loads(first.recv(DEADLINE_S))["op"] == "ack"
        assert orjson.loads(second.recv(DEADLINE_S))["code"] == "TOO_MANY_CONNECTIONS"
        with pytest.raises(ConnectionClosed) as closed:
            second.recv(DEADLINE_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, "TOO_MANY_CONNECTIONS")
        assert ask(first, op="ping")["op"] == "pong"


BAD_TOKENS: Final = {
    "none": (lambda: None, "TOKEN_INVALID"),
    "garbage": (lambda: "a.b.c", "TOKEN_INVALID"),
    "another secret": (lambda: token("me", secret=OTHER_SECRET), "TOKEN_INVALID"),
    "expired": (lambda: token("me", now_ns=hours_ago(2)), "TOKEN_EXPIRED"),
    "too early": (lambda: token("me", now_ns=hours_ago(-2)), "TOKEN_NOT_YET_VALID"),
    "too long": (lambda: "a" * 5_000, "TOKEN_INVALID"),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=ids)
def test_no_route_opens_to_a_token_that_is_not_good(
    doors: House, method: str, path: str, body: object, kind: str
) -> None:
    make, code = BAD_TOKENS[kind]
    made = make()
    count = len(doors.journal.tasks)
    answer = doors.ask(made, method, path, body)
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert made is None or made not in answer.text
    assert len(doors.journal.tasks) == count


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_what_somebody_without_a_token_brings_is_not_even_read(
    doors: House, content: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    url = f"{doors.url}/v1/orders"
    answer = httpx.post(url, headers=headers, content=content, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN_INVALID")


@pytest.mark.parametrize("header", ["", "Basic abc", "Bearer", "bearer ,"])
@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=ids)
def test_no_route_opens_to_a_header_without_a_token(
    doors: House, method: str, path: str, body: object, header: str
) -> None:
    answer = httpx.request(
        method, doors.url + path, headers={"Authorization": header}, json=body, trust_env=False
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=ids)
@pytest.mark.parametrize("scopes", [[], [Scope.ADMIN], [Scope.PORTFOLIO_READ, Scope.MARKET_READ]])
def test_no_route_opens_to_another_scope(
    doors: House, method: str, path: str, body: object, scopes: list[Scope]
) -> None:
    answer = doors.ask(token("me", scopes=scopes), method, path, body)
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=ids[: len(WRITES)])
def test_who_may_only_read_changes_nothing(
    doors: House, method: str, path: str, body: object
) -> None:
    reader = token("reader", scopes=[Scope.ORDERS_READ])
    count = len(doors.journal.tasks)
    assert doors.ask(reader, method, path, body).status_code == 403
    assert len(doors.journal.tasks) == count


@pytest.mark.parametrize(
    ("method", "path", "body"), READS, ids=ids[len(WRITES) : len(WRITES) + len(READS)]
)
def test_who_may_only_write_reads_nothing(
    doors: House, method: str, path: str, body: object
) -> None:
    writer = token("writer", scopes=[Scope.ORDERS_WRITE])
    assert doors.ask(writer, method, path, body).status_code == 403


@pytest.mark.parametrize(("method", "path", "body"), DECIDES, ids=ids[-len(DECIDES) :])
def test_who_may_trade_does_not_thereby_decide_at_the_desk(
    doors: House, method: str, path: str, body: object
) -> None:
    assert doors.ask(token("trader"), method, path, body).status_code == 403
    both = token("both", scopes=[Scope.ORDERS_READ, Scope.ORDERS_WRITE, Scope.ADMIN])
    assert doors.ask(both, method, path, body).status_code == 403


def test_the_desk_of_one_account_does_not_show_or_decide_another_s(doors: House) -> None:
    clerk = token("clerk", scopes=[Scope.DESK])
    assert doors.ask(clerk, "GET", "/v1/desk").json() == {"letters": [], "orphans": []}
    answer = doors.ask(clerk, "GET", f"/v1/desk?account={THEIRS}")
    assert (answer.status_code, answer.json()["code"]) == (404, "UNKNOWN_ACCOUNT")
    (theirs,) = [t for t in doors.journal.tasks.values() if t.client_order_id == "theirs"]
    for task_id in (theirs.task_id, uuid.UUID(int=1)):
        answer = doors.ask(clerk, "GET", f"/v1/desk/{task_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "UNKNOWN_TASK")
        body = {"why": "mine", "force": True}
        answer = doors.ask(clerk, "POST", f"/v1/desk/{task_id}/not-placed", body)
        assert (answer.status_code, answer.json()["code"]) == (404, "UNKNOWN_TASK")
    answer = doors.ask(clerk, "GET", "/v1/desk/none")
    assert (answer.status_code, answer.json()["field"]) == (422, "task_id")


@pytest.mark.parametrize("why", ["", "  ", "x" * 501, 7, None])
def test_a_decision_without_a_reason_is_none(doors: House, why: object) -> None:
    clerk = token("clerk", scopes=[Scope.DESK])
    path = f"/v1/desk/{uuid.UUID(int=1)}/not-placed"
    answer = doors.ask(clerk, "POST", path, {"why": why})
    assert (answer.status_code, answer.json()["field"]) == (422, "why")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/orders/NAME", None),
        ("GET", "/v1/orders/NAME/changes", None),
        ("PUT", "/v1/orders/NAME", CHANGE),
        ("DELETE", "/v1/orders/NAME?request_id=c", None),
    ],
)
@pytest.mark.parametrize(
    ("who", "accounts"),
    [("me", [MINE]), ("me", [MINE, THEIRS]), ("me", "all"), ("other", [MINE])],
    ids=["another", "another on the account", "another on all", "its owner without the account"],
)
def test_an_order_of_others_looks_like_one_that_is_not_there(
    doors: House, method: str, path: str, body: object, who: str, accounts: Any
) -> None:
    mine = token(who, accounts=accounts)
    answers = [
        doors.ask(mine, method, path.replace("NAME", name), body) for name in ("theirs", "nobodys")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].text.replace("theirs", "nobodys") == answers[1].text
    assert answers[0].headers.keys() == answers[1].headers.keys()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/orders", {**PLACE, "account": "ACCOUNT"}),
        ("GET", "/v1/orders?account=ACCOUNT", None),
        ("GET", "/v1/orders/events?account=ACCOUNT", None),
    ],
)
def test_an_account_of_others_looks_like_one_that_is_not_there(
    doors: House, method: str, path: str, body: dict[str, object] | None
) -> None:
    answers = []
    for name in (THEIRS, "NOBODYS"):
        named = orjson.loads(orjson.dumps(body).replace(b"ACCOUNT", name.encode()))
        answers.append(doors.ask(token("me"), method, path.replace("ACCOUNT", name), named))
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].text.replace(THEIRS, "NOBODYS") == answers[1].text


def test_a_list_of_orders_holds_no_one_else_s(doors: House) -> None:
    for accounts in ([MINE, THEIRS], "all"):
        answer = doors.ask(token("me", accounts=accounts), "GET", "/v1/orders")
        assert answer.json() == {"orders": []}
        answer = doors.ask(token("me", accounts=accounts), "GET", "/v1/orders?open=true")
        assert answer.json() == {"orders": []}


def test_an_order_s_owner_is_the_token_s_whatever_the_body_says(doors: House) -> None:
    body = {**PLACE, "client_order_id": "mine", "principal": "other"}
    assert doors.ask(token("me"), "POST", "/v1/orders", body).status_code == 422


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/metrics", "/health", "/v1", "/v1/admin"])
def test_the_doors_lead_to_orders_and_nowhere_else(doors: House, path: str) -> None:
    assert doors.ask(token("me"), "GET", path).status_code == 404


def test_no_other_site_s_page_is_let_in(doors: House) -> None:
    answer = httpx.options(
        f"{doors.url}/v1/orders",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        trust_env=False,
    )
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("kind", [kind for kind in BAD_TOKENS if kind != "none"])
@pytest.mark.parametrize("in_header", [True, False], ids=["header", "frame"])
def test_no_socket_opens_to_a_token_that_is_not_good(
    doors: House,
    kind: str,
    in_header: bool,  # noqa: FBT001
) -> None:
    make, code = BAD_TOKENS[kind]
    made = str(make())
    headers = {"Authorization": f"Bearer {made}"} if in_header else {}
    url = doors.url.replace("http://", "ws://") + "/v1/orders/ws"
    with connect(url, additional_headers=headers, compression=None, proxy=None) as talking:
        if not in_header:
            talking.send(orjson.dumps({"op": "auth", "token": made}).decode())
        refused = orjson.loads(talking.recv(DEADLINE_S))
        assert (refused["op"], refused["code"]) == ("error", code)
        with pytest.raises(ConnectionClosed) as closed:
            talking.recv(DEADLINE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
    assert made not in closed.value.rcvd.reason


def test_what_is_asked_before_a_token_has_no_effect(doors: House) -> None:
    url = doors.url.replace("http://", "ws://") + "/v1/orders/ws"
    count = len(doors.journal.tasks)
    with connect(url, compression=None, proxy=None) as talking:
        with contextlib.suppress(ConnectionClosed):  # it may be shut before the last of them
            for _ in range(3):
                talking.send(orjson.dumps({"op": "place", **PLACE}).decode())
            talking.recv(DEADLINE_S)
        with pytest.raises(ConnectionClosed, match="4401"):
            talking.recv(DEADLINE_S)
    assert len(doors.journal.tasks) == count


DETAIL: Final = "detail-that-is-ours-alone"


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError(DETAIL)


def failures(logged: list[Any]) -> int:
    return sum(line["event"] == "order_door_failed" for line in logged)


def test_a_fault_of_ours_is_answered_logged_once_and_tells_no_detail(
    doors: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors.journal, "task_of_order", broken)
    with capture_logs() as logged:
        answer = doors.ask(token("me"), "GET", "/v1/orders/k")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert answer.headers["Cache-Control"] == "no-store"
    assert DETAIL not in answer.text
    assert failures(logged) == 1


def test_a_fault_of_ours_on_a_socket_is_answered_and_the_socket_goes_on(
    doors: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors.journal, "task_of_order", broken)
    with socket_of(doors) as talking, capture_logs() as logged:
        talking.recv(DEADLINE_S)
        refused = ask(talking, op="status", client_order_id="k", request_id="s")
        assert (refused["op"], refused["code"], refused["request_id"]) == ("error", "INTERNAL", "s")
        assert DETAIL not in str(refused)
        assert failures(logged) == 1
        assert ask(talking, op="ping")["op"] == "pong"


def test_a_fault_of_ours_while_following_closes_that_socket_alone(
    doors: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket_of(doors) as talking, socket_of(doors) as other, capture_logs() as logged:
        talking.recv(DEADLINE_S)
        other.recv(DEADLINE_S)
        monkeypatch.setattr(doors.journal, "events_after", broken)
        ask(talking, op="subscribe", after={MINE: None})
        with pytest.raises(ConnectionClosed) as closed:
            talking.recv(DEADLINE_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "INTERNAL")
        assert failures(logged) == 1
        assert ask(other, op="ping")["op"] == "pong"


def socket_of(doors: House) -> ClientConnection:
    """Return a socket whose token is in its header."""
    url = doors.url.replace("http://", "ws://") + "/v1/orders/ws"
    headers = {"Authorization": f"Bearer {token('me')}"}
    return connect(url, additional_headers=headers, compression=None, proxy=None)


def ask(talking: ClientConnection, **frame: object) -> dict[str, Any]:
    talking.send(orjson.dumps(frame).decode())
    answer: dict[str, Any] = orjson.loads(talking.recv(DEADLINE_S))
    return answer
