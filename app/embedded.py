"""Start real servers as child processes of our own, for the demo and the tests.

Each runs under a keeper (:mod:`app.kept`), so that whatever ends the owner also ends the server and
removes its private directory: a Redis-protocol server (:mod:`app.valkey_program`) and PostgreSQL
(:mod:`app.postgres_programs`), in the same three steps: private directory, keep, readiness.

A deployment names its own servers in ``REDIS_URL`` and ``DATABASE_URL`` and starts nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

import psycopg
import redis.asyncio
from psycopg import sql
from psycopg.conninfo import make_conninfo
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from app import postgres_programs, valkey_program
from app.kept import Child, EmbeddedServerError, KeepOptions, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psycopg.rows import TupleRow

_Server = TypeVar("_Server")

LOOPBACK: Final = "127.0.0.1"
# Valkey takes about 0.1 s, PostgreSQL 0.6 s; what takes this long is a machine that swaps.
START_S: Final = 60.0
READY_POLL_S: Final = 0.005
# Each try is lost only to a process that took the port within the last moment.
PORT_TRIES_MAX: Final = 20
LOG_TAIL_LINES: Final = 10
LOG_TAIL_BYTES: Final = 16_384
# The address of a Unix socket is limited to 104 bytes on macOS; a name within is short.
DIRECTORY_BYTES_MAX: Final = 80
ROLE: Final = "ticker_service"
DATABASE: Final = "ticker_service"
POSTGRES_GRACE_S: Final = 10.0
# PostgreSQL's last word when it cannot listen on the only address it was given.
PORT_TAKEN: Final = "could not create any TCP/IP sockets"
# What a server needs of our environment; the rest may hold secrets of other programs.
SERVER_ENVIRONMENT: Final = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedRedis:
    """A running Redis-protocol server of ours.

    Attributes:
        url: Address with password, as ``REDIS_URL`` would hold it.
        port: TCP port on 127.0.0.1.
        directory: Private directory, gone with the server.
        child: The server process and its keeper.
    """

    url: str = field(repr=False)
    port: int
    directory: Path
    child: Child


@contextlib.asynccontextmanager
async def embedded_redis() -> AsyncIterator[EmbeddedRedis]:
    """Run a private, empty Redis-protocol server for the length of the block.

    It listens on 127.0.0.1 only, wants a random password, writes nothing to disk and is gone,
    with its directory, when the block or this process ends in whatever way.

    Raises:
        ConfigurationError: The server's binary is not installed.
        EmbeddedServerError: The server did not become ready; its last log lines are included.
    """
    binary = valkey_program.find()
    password = secrets.token_urlsafe(32)
    # The log has no name, so there is nothing to remove; we read it when the start fails.
    with tempfile.TemporaryFile() as log:
        directory = _private_directory("ticker-redis-", user=None)
        unix_socket = directory / "valkey.sock"
        configuration = valkey_program.configuration(
            password=password, directory=directory, unix_socket=unix_socket
        )
        async with keep(
            [binary, "-"],
            directory=directory,
            env=_server_environment(),
            stdout=log,
            stderr=log,
            options=KeepOptions(stdin=configuration.encode()),
        ) as child:
            try:
                async with asyncio.timeout(START_S):
                    port = await _open_port(child, unix_socket, password)
            except (TimeoutError, RedisError) as error:
                raise EmbeddedServerError(
                    f"the embedded Redis server did not become ready: {error!r}"
                    f" status={child.returncode} limit_s={START_S}\n"
                    + _tail(log).replace(password, "***")
                ) from error
            yield EmbeddedRedis(
                url=f"redis://:{password}@{LOOPBACK}:{port}/0",
                port=port,
                directory=directory,
                child=child,
            )


@contextlib.contextmanager
def embedded_redis_process() -> Iterator[EmbeddedRedis]:
    """Run :func:`embedded_redis` from code without an event loop, such as a pytest fixture.

    The server does not need the loop to run: between start and stop nothing turns it.
    """
    with _without_event_loop(embedded_redis()) as server:
        yield server


@contextlib.asynccontextmanager
async def redis_or_embedded(url: str | None) -> AsyncIterator[str]:
    """Hand out the address of the Redis to use: the given one, else that of an embedded server."""
    if url:
        yield url
        return
    async with embedded_redis() as server:
        yield server.url


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A running PostgreSQL of ours.

    Attributes:
        url: Address with password, as ``DATABASE_URL`` would hold it. Its role is what a
            deployment's would be: owner of the database, no superuser; it may create others.
        port: TCP port on 127.0.0.1.
        directory: Private directory with all data, gone with the server.
        child: The server process and its keeper.
    """

    url: str = field(repr=False)
    port: int
    directory: Path
    child: Child


class _PortTaken(Exception):  # noqa: N818 - a reason to try another
    """Another process took the port between our look at it and the server's start."""


@contextlib.asynccontextmanager
async def embedded_postgres(*, durable: bool = True) -> AsyncIterator[EmbeddedPostgres]:
    """Run a private PostgreSQL with an empty database for the length of the block.

    It listens on 127.0.0.1 only, wants a random password, and is gone with all its data when the
    block or this process ends in whatever way. Started by root it runs as ``nobody``.

    Args:
        durable: Commits survive a power cut, as in a deployment. Without, the disk is not waited
            for; commits still survive the end of any process but the machine's.

    Raises:
        ConfigurationError: The server's binaries are not installed.
        EmbeddedServerError: The server did not become ready; its last log lines are included.
    """
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(PORT_TRIES_MAX):
            with contextlib.suppress(_PortTaken):
                server = await stack.enter_async_context(_postgres(_free_port(), durable=durable))
                break
        else:
            raise EmbeddedServerError(f"found no free port on {LOOPBACK} tries={PORT_TRIES_MAX}")
        yield server


@contextlib.contextmanager
def embedded_postgres_process(*, durable: bool = True) -> Iterator[EmbeddedPostgres]:
    """Run :func:`embedded_postgres` from code without an event loop, such as a pytest fixture."""
    with _without_event_loop(embedded_postgres(durable=durable)) as server:
        yield server


@contextlib.asynccontextmanager
async def postgres_or_embedded(url: str | None) -> AsyncIterator[str]:
    """Hand out the address of the database to use: the given one, else that of an embedded one."""
    if url:
        yield url
        return
    async with embedded_postgres() as server:
        yield server.url


async def _open_port(child: Child, unix_socket: Path, password: str) -> int:
    """Wait until our server answers, let it listen on a free port, and return the port.

    Until here it listens on a socket in its private directory only. So whoever answers there is
    our server, the password reaches nobody else, and a port that another process takes first is
    an error reply and a next try instead of a dead server or a stranger's.
    """
    async with _client(password, unix_socket=unix_socket) as client:
        await _answering(client, child)
        for _ in range(PORT_TRIES_MAX):
            port = _free_port()
            try:
                await client.config_set("port", port)
            except ResponseError:
                continue
            break
        else:
            raise EmbeddedServerError(f"found no free port on {LOOPBACK} tries={PORT_TRIES_MAX}")
    async with _client(password, port=port) as client:
        await _answering(client, child)
    return port


def _client(
    password: str, *, unix_socket: Path | None = None, port: int = 0
) -> redis.asyncio.Redis:
    return redis.asyncio.Redis(
        host=LOOPBACK,
        port=port,
        unix_socket_path=None if unix_socket is None else str(unix_socket),
        password=password,
        # No retries: `_answering` paces itself and sees a server that has died at once.
        retry=Retry(NoBackoff(), 0),
    )


async def _answering(client: redis.asyncio.Redis, child: Child) -> None:
    while True:
        try:
            await client.ping()
        except RedisConnectionError:
            if child.returncode is not None:
                raise
            await asyncio.sleep(READY_POLL_S)
        else:
            return


@contextlib.asynccontextmanager
async def _postgres(port: int, *, durable: bool) -> AsyncIterator[EmbeddedPostgres]:
    user = postgres_programs.server_user()
    password = secrets.token_urlsafe(32)
    with tempfile.TemporaryFile() as log:
        directory = _private_directory("ticker-postgres-", user=user)
        try:
            command = postgres_programs.command(directory, user, password, port, durable=durable)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        async with keep(
            command,
            directory=directory,
            # A C locale also keeps macOS from starting threads in the server, which it refuses.
            env=_server_environment() | {"TZ": "UTC", "LC_ALL": "C"},
            stdout=log,
            stderr=log,
            options=KeepOptions(stop_signal=signal.SIGINT, grace_s=POSTGRES_GRACE_S, user=user),
        ) as child:
            try:
                async with asyncio.timeout(START_S):
                    url = await _ready_database(child, directory, password, port)
            except (TimeoutError, psycopg.Error) as error:
                words = _tail(log).replace(password, "***")
                if child.returncode is not None and PORT_TAKEN in words:
                    raise _PortTaken from error
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL did not become ready: {error!r}"
                    f" status={child.returncode} limit_s={START_S}\n{words}"
                ) from error
            postgres_programs.release_shared_memory(directory)
            yield EmbeddedPostgres(url=url, port=port, directory=directory, child=child)


async def _ready_database(child: Child, directory: Path, password: str, port: int) -> str:
    """Wait for our server, make role and database, and return the address that leads there.

    First through the socket in the private directory: who answers there is our server. A server
    that could not take its port has ended, and over TCP, too, SCRAM makes it prove itself.
    """
    own = make_conninfo(
        host=str(directory),
        port=port,
        user=postgres_programs.SUPERUSER,
        password=password,
        dbname="postgres",
    )
    async with await _connected(child, own) as connection:
        verifier = connection.pgconn.encrypt_password(
            password.encode(), ROLE.encode(), b"scram-sha-256"
        )
        for statement in (
            sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(
                sql.Identifier(ROLE), sql.Literal(verifier.decode())
            ),
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(DATABASE), sql.Identifier(ROLE)
            ),
            # From here on nobody reads the log, and it must not grow.
            sql.SQL("ALTER SYSTEM SET log_min_messages = 'panic'"),
            sql.SQL("SELECT pg_reload_conf()"),
        ):
            await connection.execute(statement)
    url = f"postgresql://{ROLE}:{password}@{LOOPBACK}:{port}/{DATABASE}"
    strict = make_conninfo(url, require_auth="scram-sha-256", sslmode="disable")
    async with await _connected(child, strict):
        return url


async def _connected(child: Child, conninfo: str) -> psycopg.AsyncConnection[TupleRow]:
    while True:
        try:
            return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        except psycopg.OperationalError:
            if child.returncode is not None:
                raise
            await asyncio.sleep(READY_POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _private_directory(prefix: str, *, user: tuple[int, int] | None) -> Path:
    """Make a directory only we can enter, its name short enough for a Unix socket.

    It may be handed to ``user``, who can reach it.
    """
    place = Path(tempfile.gettempdir())
    if not postgres_programs.may_enter(place, user):
        place = Path("/tmp")  # noqa: S108 - the directory made in it is private
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    if len(os.fsencode(directory)) <= DIRECTORY_BYTES_MAX:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))


def _server_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in SERVER_ENVIRONMENT if name in os.environ}


@contextlib.contextmanager
def _without_event_loop(
    server: contextlib.AbstractAsyncContextManager[_Server],
) -> Iterator[_Server]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        block = contextlib.AsyncExitStack()
        running = runner.run(block.enter_async_context(server))
        try:
            yield running
        finally:
            runner.run(block.aclose())


def _tail(log: IO[bytes]) -> str:
    """Return the end of the log, the reason among it."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - LOG_TAIL_BYTES))
    lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])
