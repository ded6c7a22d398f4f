"""What a crash is played with: servers, daemons that can be killed, callers, and the two records.

The records are the simulator's ledger, what really reached the broker, and the journal's own
tables. Servers are shared by many runs; every run has a database, a user at the broker, an account
and a Redis prefix of its own, so that runs neither see each other nor need clearing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import psycopg
import redis
from psycopg.rows import dict_row
from running import DEADLINE_S, ROOT, Beside, environment, eventually
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from app.embedded import EmbeddedPostgres, embedded_postgres_process, embedded_redis_process
from app.fresh_databases import fresh_database, template_database
from app.security.tokens import Scope, TokenIssuer
from ticker_service.assembly import migrate_journal
from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator import Simulator, SimulatorOptions
from ticker_service.simulator.options import SimulatedUser

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SHARE: Final = ("NSE", "INFY")
PRINCIPAL: Final = "caller"
START_S: Final = 300.0
"""Until a daemon has a process; the nursery imports first, on a machine that may be crowded."""
TOKEN_SECRET: Final = "the stand-in of a secret, thirty-two bytes"  # allow-secret
USERS_MAX: Final = 1_200
PAGE: Final = 500

SCALED: Final[dict[str, object]] = {
    "order_deadline_s": 8.0,
    "order_send_window_s": 0.6,
    "order_request_s": 0.5,
    "order_settle_after_s": 0.8,
    "order_settle_spacing_s": 0.15,
    "order_book_poll_s": 0.3,
    "flush_interval_ms": 200,
    "reprice_ms": 5_000,
    "snapshot_ms": 1_000,
}
"""A tenth of the defaults or less. What each must outlast keeps its place: an answer is waited for
shorter than an unknown order is given to surface, which is shorter than an order's life. Ticks go
out more seldom, as they are not what is judged."""

PATIENT: Final[dict[str, object]] = {"order_request_s": 4.0, "order_settle_after_s": 5.0}
"""For daemons whose broker's answer is meant to be on its way while something else happens."""


@functools.cache
def http() -> httpx.Client:
    """Return the one client; it keeps no connection, as who listens at a port changes here."""
    return httpx.Client(
        trust_env=False, timeout=15.0, limits=httpx.Limits(max_keepalive_connections=0)
    )


class Nursery:
    """Starts daemons from `crash_nursery` and hears how they end.

    Attributes:
        cpu_s: Processor time that all those used that have ended.
    """

    def __init__(self, directory: Path) -> None:
        self.cpu_s = 0.0
        self._directory = directory
        self._numbers = itertools.count(1)
        self._asking = threading.Lock()
        # By number: who has stopped waiting for a daemon must not leave it to the next one to ask.
        self._pids: dict[int, queue.Queue[int]] = {}
        self._ends: dict[int, queue.Queue[int]] = {}
        here = Path(__file__).parent
        self._process = subprocess.Popen(
            [sys.executable, str(here / "crash_nursery.py")],
            cwd=ROOT,
            env=environment(PYTHONPATH=str(ROOT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(
        self, settings: Mapping[str, object], *, at_point: str = "", is_afresh: bool = False
    ) -> Daemon:
        """Start a daemon with these settings; it may die at any moment.

        At the point that ``kill_at`` names it may ``stall`` or ``stop`` instead. It starts as it
        would under a service manager if ``is_afresh``; then there is no such point.
        """
        number = next(self._numbers)
        out, err = (self._directory / f"{number}.{name}" for name in ("out", "err"))
        out.touch()
        request = {
            "number": number,
            "env": environment(settings),
            "out": str(out),
            "err": str(err),
            "at_point": at_point,
            "afresh": is_afresh,
        }
        self._pids[number], self._ends[number] = queue.Queue(), queue.Queue()
        with self._asking:
            stdin = self._process.stdin
            assert stdin is not None
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        try:
            pid = self._pids[number].get(block=START_S > 0.0, timeout=START_S or None)
        except queue.Empty:
            raise AssertionError(f"no daemon was started within {START_S:.0f} s") from None
        return Daemon(pid, out, err, self._ends[number])

    def close(self) -> None:
        """End every daemon that still runs."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is self._process.stdin and pipe is not None:
                pipe.close()
        self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            told = json.loads(line)
            if "status" in told:
                self.cpu_s += told["cpu_s"]
                self._ends[told["number"]].put(told["status"])
            else:
                self._pids[told["number"]].put(told["pid"])


class Daemon:
    """One ``ticker-service run``."""

    def __init__(self, pid: int, out: Path, err: Path, end: queue.Queue[int]) -> None:
        self.pid = pid
        self._out = out
        self._err = err
        self._end = end
        self._status: int | None = None
        self._facts: dict[str, Any] = {}

    def wait(self, within_s: float = DEADLINE_S) -> int | None:
        """Return how it ended, None while it runs when the time is over."""
        if self._status is None:
            with contextlib.suppress(queue.Empty):
                self._status = self._end.get(block=within_s > 0.0, timeout=within_s or None)
        return self._status

    def is_running(self) -> bool:
        return self.wait(0.0) is None

    def signal(self, number: signal.Signals) -> None:
        # It may die by itself between the question and the signal.
        with contextlib.suppress(ProcessLookupError):
            if self.is_running():
                os.kill(self.pid, number)

    def kill(self) -> int | None:
        """Kill -9 and wait."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def log(self) -> str:
        return self._err.read_text(errors="replace") if self._err.exists() else ""

    def printed(self) -> str:
        return self._out.read_text(errors="replace")

    def facts(self) -> dict[str, Any]:
        """Return the first line of output, waiting for it.

        Raises:
            DaemonGone: It ended before.
        """
        if not self._facts:
            eventually(lambda: self._out.read_bytes().endswith(b"\n") or not self.is_running())
            if not self._out.read_bytes():
                raise DaemonGone(f"status={self.wait(0.001)}: {self.log()[-2000:]}")
            self._facts = orjson.loads(self._out.read_bytes().splitlines()[0])
        return self._facts

    def desk_state(self, account: str) -> str:
        """Return how the account's desk stands, empty when the daemon does not answer."""
        try:
            url = f"{self.facts()['health_url']}/health/ready"
            answer = http().get(url)
        except (httpx.HTTPError, DaemonGone):
            return ""
        return str(answer.json()["accounts"].get(account, ""))

    def opens(self, account: str, *, within_s: float = DEADLINE_S) -> bool:
        """Wait until the account takes orders; False when the daemon ended instead."""
        eventually(lambda: self._is_open(account) or not self.is_running(), within_s=within_s)
        return self._is_open(account)

    def _is_open(self, account: str) -> bool:
        # The log says when to ask: the answers cost a daemon that starts a tenth of its time.
        return "account_open" in self.log() and self.desk_state(account) == "open"


class DaemonGone(Exception):  # noqa: N818 - says what happened
    """The daemon ended, or closed the door."""


class DoorBusy(Exception):  # noqa: N818 - says what happened
    """The daemon asks this caller to come again a little later."""


@dataclass(slots=True, kw_only=True)
class Lane:
    """A simulated broker for the runs of one worker, which follow one another."""

    beside: Beside
    banner: dict[str, Any]
    users: Iterator[str]

    @property
    def rest_root(self) -> str:
        return str(self.banner["rest_root"])

    def fault(self, **fields: object) -> None:
        http().post(f"{self.rest_root}/sim/faults", json=fields).raise_for_status()

    def lift_faults(self) -> None:
        http().delete(f"{self.rest_root}/sim/faults").raise_for_status()


@contextlib.contextmanager
def lane(seed: int) -> Iterator[Lane]:
    """Run a simulator with a user for every run."""
    users = tuple(
        SimulatedUser(user_id=f"CR{n:04d}", user_name=f"Caller {n}", email="caller@example.com")
        for n in range(USERS_MAX)
    )
    options = SimulatorOptions(
        seed=seed,
        users=users,
        rate_per_s=300.0,
        strikes_each_side=2,
        enforce_rate_limits=False,
    )
    with Beside(lambda: Simulator(options, clock=SystemClock())) as beside:
        names = iter([each.user_id for each in users])
        yield Lane(beside=beside, banner=beside.part.banner(), users=names)


@dataclass(slots=True, kw_only=True)
class Servers:
    """What all runs share."""

    nursery: Nursery
    template_url: str
    redis_url: str
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


@contextlib.contextmanager
def servers(*, durable: bool = False) -> Iterator[Servers]:
    """Run PostgreSQL, a Redis-protocol server and the nursery for the length of the block."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-")))
        postgres = stack.enter_context(embedded_postgres_process(durable=durable))
        redis_server = stack.enter_context(embedded_redis_process())
        template = stack.enter_context(template_database(postgres.url, migrated))
        nursery = Nursery(directory)
        stack.callback(nursery.close)
        yield Servers(nursery=nursery, template_url=template, redis_url=redis_server.url)


def migrated(url: str) -> None:
    asyncio.run(migrate_journal(url))


@dataclass(slots=True, kw_only=True)
class World:
    """One run's own: a database, an account, a user at the broker, a Redis prefix."""

    servers: Servers
    lane: Lane
    database_url: str
    redis_url: str
    account: str
    user_id: str
    prefix: str
    access_token: str
    ledger_from: int
    is_durable: bool = False
    daemons: list[Daemon] = field(default_factory=list)
    connection: psycopg.Connection[dict[str, Any]] | None = None

    @property
    def bearer(self) -> str:
        """A token of the one caller."""
        return TokenIssuer(TOKEN_SECRET.encode()).mint(
            PRINCIPAL,
            scopes=[Scope.ORDERS_READ, Scope.ORDERS_WRITE],
            accounts=[self.account],
            lifetime_s=3_600,
            now_ns=SystemClock().now_ns(),
        )

    def start(self, *, at_point: str = "", is_afresh: bool = False, **more: object) -> Daemon:
        """Start a daemon for this account; see :meth:`Nursery.start`."""
        banner = self.lane.banner
        account = {
            "user_id": self.user_id,
            "api_key": banner["api_key"],
            "api_secret": banner["api_secret"],
            "access_token": self.access_token,
        }
        settings: dict[str, object] = {
            "kite_rest_root": banner["rest_root"],
            "kite_ws_root": banner["ws_root"],
            "kite_api_key": banner["api_key"],
            "kite_access_token": self.access_token,
            "redis_url": self.redis_url,
            "channel_prefix": self.prefix,
            "underlyings": "NIFTY",
            "expiries": 1,
            "strikes_each_side": 1,
            "health_port": 0,
            "orders_port": 0,
            "database_url": self.database_url,
            "accounts": orjson.dumps({self.account: account}).decode(),
            "token_secret": TOKEN_SECRET,
            "journal_may_be_volatile": str(not self.is_durable).lower(),
            **SCALED,
        }
        daemon = self.servers.nursery.start(settings | more, at_point=at_point, is_afresh=is_afresh)
        self.daemons.append(daemon)
        return daemon

    # --- the broker's side ----------------------------------------------------------------------

    def strike(self, fault: str, **fields: object) -> None:
        """Arm a fault for this run's user."""
        self.lane.fault(fault=fault, user_id=self.user_id, **fields)

    def ledger(self) -> list[dict[str, Any]]:
        """Return what reached the broker for this run's user, oldest first."""
        url = f"{self.lane.rest_root}/sim/ledger"
        answer = http().get(url, params={"after": self.ledger_from})
        entries: list[dict[str, Any]] = answer.json()["data"]["entries"]
        return [each for each in entries if each["user_id"] == self.user_id]

    def book(self) -> dict[str, dict[str, Any]]:
        """Return the broker's order book by order id."""
        rows = self._ask("/orders")
        return {row["order_id"]: row for row in rows}

    def quote(self, share: tuple[str, str] = SHARE) -> dict[str, Any]:
        """Return the quote of a share."""
        name = ":".join(share)
        found: dict[str, Any] = self._ask("/quote", i=name)[name]
        return found

    def _ask(self, path: str, **params: str) -> Any:
        key = self.lane.banner["api_key"]
        answer = http().get(
            self.lane.rest_root + path,
            params=params,
            headers={"Authorization": f"token {key}:{self.access_token}"},
        )
        return answer.raise_for_status().json()["data"]

    # --- the journal's side ---------------------------------------------------------------------

    def rows(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Ask the journal's tables, over a connection that is made anew when it was lost."""
        try:
            return self._journal().execute(statement, parameters).fetchall()
        except psycopg.OperationalError:
            return self._journal().execute(statement, parameters).fetchall()

    def _journal(self) -> psycopg.Connection[dict[str, Any]]:
        if self.connection is None or self.connection.closed:
            self.connection = psycopg.connect(
                self.database_url, row_factory=dict_row, autocommit=True
            )
        return self.connection

    def tasks(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM order_task WHERE account = %s", self.account)

    def attempts(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM order_attempt WHERE account = %s", self.account)

    def last_seq(self) -> int:
        found = self.rows("SELECT last_seq FROM account_sequence WHERE account = %s", self.account)
        return int(found[0]["last_seq"]) if found else 0

    def everything(self) -> dict[str, Any]:
        """Return journal and ledger as they are, for whoever has to find out what happened."""
        tables = ("order_task", "order_attempt", "order_event", "account_writer")
        return {
            **{name: self.rows(f"SELECT * FROM {name}") for name in tables},  # noqa: S608 - ours
            "ledger": self.ledger(),
        }

    # --- what subscribers get -------------------------------------------------------------------

    def stream(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the account's stream on Redis: ids and events."""
        with redis.Redis.from_url(self.redis_url) as client:
            entries = client.xrange(f"{self.prefix}orderlog:{self.account}")
        return [(number.decode(), orjson.loads(told[b"event"])) for number, told in entries]

    def rest_events(self, daemon: Daemon) -> list[dict[str, Any]]:
        """Return the account's events as REST tells them, from the first on."""
        events: list[dict[str, Any]] = []
        while True:
            after = events[-1]["account_seq"] if events else 0
            answer = self.rest(
                daemon, "GET", "/events", account=self.account, after=after, limit=PAGE
            )
            page = answer.raise_for_status().json()["events"]
            if not page:
                return events
            events += page

    def rest(
        self, daemon: Daemon, method: str, path: str = "", body: object = None, **params: object
    ) -> httpx.Response:
        """Make one request of the caller's at the REST door."""
        root = daemon.facts()["orders_ws_url"].replace("ws://", "http://").removesuffix("/ws")
        return http().request(
            method,
            root + path,
            json=body,
            params={name: str(value) for name, value in params.items()},
            headers={"Authorization": f"Bearer {self.bearer}"},
        )


@contextlib.contextmanager
def world(shared: Servers, one_lane: Lane, **own: Any) -> Iterator[World]:
    """Make what one run has to itself."""
    number = next(shared.numbers)
    user_id = next(one_lane.users)
    with contextlib.ExitStack() as stack:
        database_url = own.pop("database_url", None)
        if database_url is None:
            database_url = stack.enter_context(_database(shared.template_url))
        made = World(
            servers=shared,
            lane=one_lane,
            database_url=database_url,
            redis_url=own.pop("redis_url", shared.redis_url),
            account=f"A{number}",
            user_id=user_id,
            prefix=f"crash-{os.getpid()}-{number}:",
            access_token=log_in(one_lane, user_id),
            ledger_from=one_lane.beside.part.ledger.last_number,
            **own,
        )
        try:
            yield made
        finally:
            for daemon in made.daemons:
                daemon.kill()
            if made.connection is not None:
                made.connection.close()
        with redis.Redis.from_url(made.redis_url) as client:
            client.delete(f"{made.prefix}orderlog:{made.account}")


@contextlib.contextmanager
def _database(template_url: str) -> Iterator[str]:
    """Make a copy of the template; one that is being vacuumed at the end goes with the server."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(fresh_database(template_url))
        yield url
        # The owner of a database may not end the server's own process that cleans it up.
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            stack.close()


@contextlib.contextmanager
def own_postgres() -> Iterator[tuple[EmbeddedPostgres, str]]:
    """Run a server for one test alone, to be stopped; return it and a migrated database."""
    with embedded_postgres_process(durable=False) as server:
        migrated(server.url)
        yield server, server.url


class Door:
    """A caller's socket at the daemon; frames out, answers by ``request_id`` as they come."""

    def __init__(self, world: World, daemon: Daemon) -> None:
        self._open = contextlib.ExitStack()
        try:
            self._socket: ClientConnection = self._open.enter_context(
                connect(
                    daemon.facts()["orders_ws_url"],
                    additional_headers={"Authorization": f"Bearer {world.bearer}"},
                    compression=None,
                    proxy=None,
                    open_timeout=DEADLINE_S,
                    close_timeout=1.0,
                )
            )
            hello = orjson.loads(self._socket.recv(DEADLINE_S))
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            self.close()
            raise DaemonGone(str(error)) from error
        if hello["op"] == "error":
            self.close()
            assert hello["code"] == "TOO_MANY_REQUESTS", hello
            raise DoorBusy(hello["message"])
        self.answers: dict[str, dict[str, Any]] = {}

    def say(self, frame: Mapping[str, object]) -> None:
        """Send one frame; that the daemon has gone is noticed when answers are waited for."""
        with contextlib.suppress(ConnectionClosed):
            self._socket.send(orjson.dumps(frame).decode())

    def hear(self, wanted: Sequence[str], *, within_s: float = DEADLINE_S) -> bool:
        """Take answers until all wanted are there; False when the socket closed before."""
        deadline = time.monotonic() + within_s
        while not set(wanted) <= self.answers.keys():
            try:
                raw = self._socket.recv(max(deadline - time.monotonic(), 0.001))
            except (ConnectionClosed, TimeoutError):
                return False
            message = orjson.loads(raw)
            if message["op"] in {"ack", "error"}:
                self.answers[message["request_id"]] = message
        return True

    def ask(self, frame: Mapping[str, object]) -> dict[str, Any]:
        """Send one frame and return its answer.

        Raises:
            DaemonGone: None came.
        """
        key = str(frame.get("request_id") or frame["client_order_id"])
        self.answers.pop(key, None)
        self.say(frame)
        if not self.hear([key]):
            raise DaemonGone(f"no answer to {key}")
        return self.answers[key]

    def close(self) -> None:
        self._open.close()


@contextlib.contextmanager
def door(world: World, daemon: Daemon) -> Iterator[Door]:
    """Open a socket for the length of the block."""
    opened = Door(world, daemon)
    try:
        yield opened
    finally:
        opened.close()


def place_frame(key: str, account: str, body: Mapping[str, object]) -> dict[str, object]:
    return {"op": "place", "client_order_id": key, "account": account, "order": dict(body)}


def cancel_frame(key: str) -> dict[str, object]:
    return {"op": "cancel", "client_order_id": key, "request_id": f"{key}-cancel"}


def limit_order(
    side: str, quantity: int, price: str, share: tuple[str, str] = SHARE
) -> dict[str, object]:
    exchange, tradingsymbol = share
    return {
        "exchange": exchange,
        "tradingsymbol": tradingsymbol,
        "transaction_type": side,
        "order_type": "LIMIT",
        "product": "MIS",
        "quantity": quantity,
        "price": price,
    }


def log_in(one_lane: Lane, user_id: str) -> str:
    """Log in as a browser and a server would; return the access token."""
    banner = one_lane.banner
    query = {"v": "3", "api_key": banner["api_key"], "user_id": user_id}
    redirect = http().get(banner["login_url"], params=query).headers["location"]
    (request_token,) = parse_qs(urlsplit(redirect).query)["request_token"]
    text = banner["api_key"] + request_token + banner["api_secret"]
    answer = http().post(
        banner["rest_root"] + "/session/token",
        data={
            "api_key": banner["api_key"],
            "request_token": request_token,
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
        },
    )
    return str(answer.json()["data"]["access_token"])
