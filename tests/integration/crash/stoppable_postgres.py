"""A PostgreSQL that can be stopped and started again on its data, at the same address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psycopg
from running import Beside, descendants, eventually

from app import postgres_programs
from app.kept import KeepOptions, keep
from ticker_service.assembly import migrate_journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.kept import Child

GRACE_S: Final = 10.0


class StoppablePostgres:
    """A durable server; use :func:`stoppable_postgres`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._user = postgres_programs.server_user()
        if self._user is not None:
            os.chown(directory, *self._user)
        port = _free_port()
        password = secrets.token_urlsafe(16)
        self.url = (
            f"postgresql://{postgres_programs.SUPERUSER}:{password}@127.0.0.1:{port}/postgres"
        )
        self._first: list[str] = postgres_programs.command(
            directory, self._user, password, port, durable=True
        )
        # Of "make the data && become the server" the last step is the server alone.
        become = self._first[-1].rpartition(" && ")[2]
        self._again = [*self._first[:-1], f"cd {directory} && {become}"]
        self._running: contextlib.ExitStack | None = None
        self._child: Child | None = None

    def become_copy_of(self, primary: StoppablePostgres, directory: Path, url: str) -> None:
        """Take the data of a server that is stopped, to follow it by way of an address of it."""
        port = _free_port()
        self.directory, self._user = directory, primary._user
        self.url = (
            urlsplit(primary.url)
            ._replace(netloc=f"{urlsplit(primary.url).netloc.rpartition(':')[0]}:{port}")
            .geturl()
        )
        self._running, self._child, self._first = None, None, []
        shutil.copytree(primary.directory, directory, dirs_exist_ok=True, symlinks=True)
        # The copy runs the first server's programs; only data and socket are its own.
        data = directory / "data"
        self._again = [
            *primary._again[:-1],
            primary._again[-1].replace(f"-D {primary.directory}/data", f"-D {data}"),
        ]
        with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            settings.write(
                f"port = {port}\nunix_socket_directories = '{directory}'\n"
                f"primary_conninfo = '{url}'\n"
            )
        (data / "standby.signal").touch()
        if self._user is not None:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, *self._user, follow_symlinks=False)

    def start(self) -> None:
        """Start the server, on an empty database at first, and wait until it answers."""
        command, self._first = self._first or self._again, []
        options = KeepOptions(stop_signal=signal.SIGINT, grace_s=GRACE_S, user=self._user)
        environment = {"PATH": os.environ["PATH"], "TZ": "UTC", "LC_ALL": "C"}
        self._running = contextlib.ExitStack()
        beside = self._running.enter_context(
            Beside(lambda: keep(command, env=environment, options=options))
        )
        self._child = beside.part
        assert eventually(self._answers), "the server does not answer"

    def stop_at_once(self) -> None:
        """Shut down as in an emergency: nobody is asked to finish, the log is replayed later."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGQUIT)
        self.close()

    def let_no_file_grow(self) -> None:
        """Let every further write to a file fail, as on a disk without room; until it is closed.

        Only the server's own user may do that, who may be unable to run our Python.
        """
        assert self._child is not None
        uid, gid = self._user or (None, None)
        for pid in (self._child.pid, *descendants(self._child.pid)):
            subprocess.run(
                ["prlimit", "--fsize=0", "--pid", str(pid)], user=uid, group=gid, check=False
            )

    def promote(self) -> None:
        """Make a standby a server of its own."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def has_all_of(self, primary: StoppablePostgres) -> bool:
        """Return whether a standby has replayed what its primary has written by now."""
        with (
            psycopg.connect(primary.url, autocommit=True) as asked,
            psycopg.connect(self.url, autocommit=True) as standby,
        ):
            written = asked.execute("SELECT pg_current_wal_lsn()").fetchone()
            assert written is not None
            found = standby.execute(
                "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (str(written[0]),)
            ).fetchone()
        return bool(found and found[0])

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let every process of the server stand still for the length of the block."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP)  # first, so that it starts no more of them
        stopped = [self._child.pid, *descendants(self._child.pid)]
        for pid in stopped[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server, if it still runs, and wait until it has."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def stoppable_postgres() -> Iterator[StoppablePostgres]:
    """Run a server with a migrated database for the length of the block."""
    # Short, for the Unix socket in it; and where the server's own user may go.
    directory = Path(tempfile.mkdtemp(prefix="stoppable-", dir="/tmp"))
    server = StoppablePostgres(directory)
    try:
        server.start()
        asyncio.run(migrate_journal(server.url))
        yield server
    finally:
        server.close()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def standby_of(primary: StoppablePostgres, *, by_way_of: str) -> Iterator[StoppablePostgres]:
    """Run a standby that streams from a server, by an address of it, for the length of the block.

    The server is stopped for the copy, and started again.
    """
    directory = Path(tempfile.mkdtemp(prefix="standby-", dir="/tmp"))
    standby = StoppablePostgres.__new__(StoppablePostgres)
    try:
        primary.close()
        standby.become_copy_of(primary, directory, by_way_of)
        primary.start()
        standby.start()
        yield standby
    finally:
        standby.close()
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
