"""The demo's cast: Redis, the simulator and the daemon, each started, logged in and listened to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson

from app.console.demo_names import Names, clear_keys, names_of_this_run
from app.console.demo_orders import Door
from app.embedded import postgres_or_embedded, redis_or_embedded
from app.kept import Child, keep
from app.security.tokens import LIFETIME_S_DEFAULT, Scope, TokenIssuer
from app.settings import PREFIX
from ticker_service.assembly import migrate_journal
from ticker_service.errors import BrokerUnavailable, TickerServiceError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

BOOKS: Final = ("NIFTY", "BANKNIFTY", "SENSEX")
HTTP_S_MAX: Final = 5.0
SERVERS: Final = frozenset({"REDIS_URL", "DATABASE_URL"})
LINE_BYTES_MAX: Final = 1 << 16
LOG_LINES_KEPT: Final = 4
LOG_LINES_HELD: Final = 1_000


class DemoFailed(TickerServiceError):  # noqa: N818 - says what happened
    """A part of the demo did not start or ended too early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What runs, and where it listens; ``facts`` is what the demo tells a program about it."""

    redis_url: str
    database_url: str
    names: Names
    door: Door
    health_url: str
    rest_root: str
    daemon: Child
    simulator: Child
    facts: dict[str, object]


async def start(stack: contextlib.AsyncExitStack, relay: Relay, seed: int) -> Parts:
    """Start everything, each part for as long as ``stack`` is open.

    Raises:
        TickerServiceError: A part did not start; the message says which and why.
    """
    given_redis, given_database = os.environ.get("REDIS_URL"), os.environ.get("DATABASE_URL")
    names = names_of_this_run(
        is_redis_shared=bool(given_redis), is_database_shared=bool(given_database)
    )
    redis_url = await stack.enter_async_context(redis_or_embedded(given_redis))
    if given_redis:
        # Pushed before the daemon starts, so that it has ended when this runs.
        stack.push_async_callback(clear_keys, redis_url, names, BOOKS)
    database_url = await stack.enter_async_context(postgres_or_embedded(given_database))
    await migrate_journal(database_url)
    simulator, banner = await start_part(
        stack, relay, "simulator", ["simulate", "--seed", str(seed)], {}
    )
    access_token = await login(banner)
    token_secret = secrets.token_urlsafe(48)
    account = {
        "user_id": banner["users"][0]["user_id"],
        "api_key": banner["api_key"],
        "api_secret": banner["api_secret"],
        "access_token": access_token,
    }
    environment = {
        "KITE_REST_ROOT": banner["rest_root"],
        "KITE_WS_ROOT": banner["ws_root"],
        "KITE_API_KEY": banner["api_key"],
        "KITE_ACCESS_TOKEN": access_token,
        "REDIS_URL": redis_url,
        "CHANNEL_PREFIX": names.channel_prefix,
        "UNDERLYINGS": ",".join(BOOKS),
        "MARKET_HOURS": "always",
        "HEALTH_PORT": "0",
        "DATABASE_URL": database_url,
        "ACCOUNTS": orjson.dumps({names.account: account}).decode(),
        "ORDERS_PORT": "0",
        "TOKEN_SECRET": token_secret,
        # What stops this machine's own daemon is not meant for the demo.
        "KILL_SWITCH_FILE": f"{tempfile.gettempdir()}/demo-{os.getpid()}-{names.run}.json",
    }
    daemon, started = await start_part(
        stack, relay, "daemon", ["run", "--config", os.devnull], environment
    )
    orders_token = TokenIssuer(token_secret.encode()).mint(
        "demo",
        scopes=[*Scope],
        accounts=[names.account],
        lifetime_s=LIFETIME_S_DEFAULT,
        now_ns=SystemClock().now_ns(),
    )
    facts: dict[str, object] = {
        "pid": os.getpid(),
        "redis_url": redis_url,
        "channel_prefix": names.channel_prefix,
        "health_url": started["health_url"],
        "database_url": database_url,
        "orders_ws_url": started["orders_ws_url"],
        "orders_token": orders_token,
        "orders_account": names.account,
        **{name: banner[name] for name in ("rest_root", "ws_root", "login_url")},
        "daemon_pid": started["pid"],
        "simulator_pid": simulator.pid,
    }
    return Parts(
        redis_url=redis_url,
        database_url=database_url,
        names=names,
        door=Door(
            url=started["orders_ws_url"], token=orders_token, account=names.account, run=names.run
        ),
        health_url=started["health_url"],
        rest_root=banner["rest_root"],
        daemon=daemon,
        simulator=simulator,
        facts=facts,
    )


async def start_part(
    stack: contextlib.AsyncExitStack,
    relay: Relay,
    name: str,
    arguments: list[str],
    settings: Mapping[str, Any],
) -> tuple[Child, dict[str, Any]]:
    """Start one of our own commands; return it and the JSON it begins its output with."""
    # Whatever the user has set for a daemon of their own is not meant for this one.
    env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX) and k not in SERVERS}
    env |= {PREFIX + key: str(value) for key, value in settings.items()}
    output, errors = _Lines(), _Lines()
    try:
        child = await stack.enter_async_context(
            keep(
                [sys.executable, "-P", "-m", "app.cli", *arguments],
                env=env,
                stdout=output.write_end,
                stderr=errors.write_end,
            )
        )
    finally:
        output.close_write_end()
        errors.close_write_end()
    await stack.enter_async_context(relay.following(errors, name))
    line = await stack.enter_async_context(_first_line(output))
    if not line:
        await child.wait()
        said = " ".join(relay.recent) or f"exit status {child.returncode}"
        raise DemoFailed(f"the {name} did not start: {said}")
    banner: dict[str, Any] = orjson.loads(line)
    return child, banner


async def login(banner: Mapping[str, Any], user_id: str = "") -> str:
    """Log in as a person in a browser would, and exchange the request token (kite.md §3.1).

    It is the first of the simulator's users unless another is named.
    """
    api_key, user_id = banner["api_key"], user_id or banner["users"][0]["user_id"]
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as client:
        try:
            redirect = await client.get(
                banner["login_url"], params={"v": "3", "api_key": api_key, "user_id": user_id}
            )
            query = parse_qs(urlsplit(redirect.headers["location"]).query)
            request_token = query["request_token"][0]
            material = f"{api_key}{request_token}{banner['api_secret']}"
            answer = await client.post(
                f"{banner['rest_root']}/session/token",
                data={
                    "api_key": api_key,
                    "request_token": request_token,
                    "checksum": hashlib.sha256(material.encode()).hexdigest(),
                },
            )
            token: str = answer.raise_for_status().json()["data"]["access_token"]
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise BrokerUnavailable(f"login at the simulator failed: {error!r}") from error
    return token


class _Lines:
    """A pipe for a child's output, read line by line."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self._is_write_end_open = True

    def close_write_end(self) -> None:
        if self._is_write_end_open:
            os.close(self.write_end)
            self._is_write_end_open = False

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[asyncio.StreamReader]:
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._read_end, "rb", 0)
        )
        try:
            yield reader
        finally:
            transport.close()


@contextlib.asynccontextmanager
async def _first_line(lines: _Lines) -> AsyncIterator[bytes]:
    """Give the first line of an output and keep the pipe open for the length of the block."""
    async with lines.reading() as reader:
        yield await reader.readline()


class Relay:
    """The children's logs: kept for the screen, or passed on once the first line is out."""

    def __init__(self, *, is_open: bool) -> None:
        self.recent: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self.warnings: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._passes_on = is_open
        self._is_open = False
        self._held: deque[bytes] = deque(maxlen=LOG_LINES_HELD)

    def open(self) -> None:
        """Pass on from now, what was held first."""
        self._is_open = True
        while self._held:
            self._take(self._held.popleft())

    @contextlib.asynccontextmanager
    async def following(self, lines: _Lines, name: str) -> AsyncIterator[None]:
        """Follow one child's log for the length of the block."""
        async with lines.reading() as reader, asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._follow(reader), name=f"log-{name}")
            try:
                yield
            finally:
                task.cancel()

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # longer than any line of ours: the reader has dropped it
            if not line:
                return
            self.recent.append(line.decode(errors="replace").strip())
            self.warnings.extend(_as_warning(line))
            self._take(line)

    def _take(self, line: bytes) -> None:
        if not self._passes_on:
            return
        if self._is_open:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
        else:
            self._held.append(line)


def _as_warning(line: bytes) -> list[str]:
    """Return a log line as a person reads it, if it is one that matters to them."""
    try:
        event = orjson.loads(line)
        level, name = event.pop("level"), event.pop("event")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return []
    if level not in {"warning", "error", "critical"}:
        return []
    event.pop("timestamp", None)
    facts = " ".join(f"{key}={value}" for key, value in event.items())
    return [f"{level}: {name} {facts}"]
