"""`ticker-service demo`: one command that shows everything and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
import redis
from running import ROOT, Program, descendants, environment, eventually, program, watched

from app.embedded import embedded_postgres_process

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORTED = {
    "ticks_received",
    "ticks_published",
    "batches",
    "iv_error_max",
    "gaps",
    "options_priced",
    "orders",
    "latency_ms",
    "redis_url",
    "database_url",
    "missing",
}
SECONDS = "8"
"""Long enough for an order to be filled on a machine that has more to do."""
ANNOUNCED = {"pid", "redis_url", "channel_prefix", "health_url", "rest_root", "ws_root"}
pytestmark = pytest.mark.slow
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass(frozen=True, kw_only=True)
class Surrounded:
    """A private temporary directory and a mark in the environment of everything started here."""

    directory: Path
    mark: str

    def env(self, **more: str) -> dict[str, str]:
        return environment(TMPDIR=str(self.directory), DEMO_TEST_MARK=self.mark, **more)

    def marked_processes(self) -> set[int]:
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            # Processes end while we look, and others' environments are closed to us.
            with contextlib.suppress(OSError):
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.add(int(process.name))
        return found

    def assert_nothing_is_left(self) -> None:
        assert eventually(lambda: not self.marked_processes())
        assert eventually(lambda: not list(self.directory.iterdir()))


@pytest.fixture
def private() -> Iterator[Surrounded]:
    # Short, because the names of Unix sockets within are limited.
    directory = Path(tempfile.mkdtemp(prefix="demo-"))
    yield Surrounded(directory=directory, mark=uuid.uuid4().hex)
    shutil.rmtree(directory)


def facts_of(running: Program) -> dict[str, Any]:
    facts: dict[str, Any] = orjson.loads(running.err.wait_for(lambda _: True))
    return facts


def published_by(facts: dict[str, Any]) -> float:
    lines = httpx.get(f"{facts['health_url']}/metrics", trust_env=False).text.splitlines()
    samples = [line for line in lines if line.startswith("ticks_published_total")]
    return sum(float(sample.rsplit(" ", 1)[1]) for sample in samples)


def assert_good_report(running: Program) -> dict[str, Any]:
    (line,) = running.out.lines()
    report: dict[str, Any] = orjson.loads(line)
    assert report.keys() >= REPORTED
    assert report["ticks_received"] >= report["ticks_published"] > 0
    assert report["batches"] > 0
    assert report["options_priced"] > 0
    assert report["gaps"] == 0
    assert 0.0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    return report


def assert_ended_well(running: Program) -> dict[str, Any]:
    """Check status and report of a demo that had its time."""
    status = running.wait()
    report = assert_good_report(running)
    assert (status, report["missing"]) == (0, []), running.err.text()
    return report


def test_json_mode_prints_one_line_and_announces_itself_first(private: Surrounded) -> None:
    with program("demo", "--seconds", SECONDS, "--json", env=private.env()) as running:
        facts = facts_of(running)
        assert facts.keys() >= ANNOUNCED
        assert facts["pid"] == running.pid
        assert httpx.get(f"{facts['health_url']}/health/live", trust_env=False).is_success
        assert httpx.get(f"{facts['rest_root']}/instruments", trust_env=False).is_success
        with redis.Redis.from_url(facts["redis_url"]) as client:
            assert client.ping()
        report = assert_ended_well(running)
        assert report["redis_url"] == facts["redis_url"]
        for line in running.err.lines():
            assert isinstance(orjson.loads(line), dict)
    private.assert_nothing_is_left()


def test_without_json_it_shows_the_chain_and_sums_up(private: Surrounded) -> None:
    env = private.env(COLUMNS="200", LINES="60")
    with program("demo", "--seconds", "6", env=env) as running:
        assert running.wait() in {0, 1}
        for word in ("NIFTY", "strike", "forward", "latency p50", "tail NIFTY"):
            assert word in running.out.text()
    private.assert_nothing_is_left()


@needs_linux
@pytest.mark.parametrize("moment", ["at once", "while it starts", "while it runs"])
def test_kill_9_leaves_no_process_and_no_file(moment: str, private: Surrounded) -> None:
    with program("demo", "--json", env=private.env()) as running:
        if moment == "while it starts":
            assert eventually(lambda: len(descendants(running.pid)) >= 3)
        elif moment == "while it runs":
            facts_of(running)
            assert len(descendants(running.pid)) >= 6
        with watched(descendants(running.pid)) as processes:
            os.kill(running.pid, signal.SIGKILL)
            assert running.process.wait() == -signal.SIGKILL
            assert all(process.has_ended() for process in processes)
    private.assert_nothing_is_left()


@needs_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_its_report_and_leaves_nothing(
    number: signal.Signals, private: Surrounded
) -> None:
    with program("demo", "--json", env=private.env()) as running:
        facts = facts_of(running)
        # The first tick of each instrument is one that the broker had kept, and prices nothing.
        assert eventually(lambda: published_by(facts) > 5_000)
        with watched(descendants(running.pid)) as processes:
            # The whole group, as a terminal does.
            os.killpg(running.pid, number)
            # Early in its life it may not have an order filled yet, and says so by status 1.
            assert running.wait() in {0, 1}, running.err.text()
            assert all(process.has_ended() for process in processes)
        assert_good_report(running)
        assert "Traceback" not in running.err.text()
    private.assert_nothing_is_left()


@needs_linux
def test_an_interrupt_while_it_starts_ends_it_soon_and_leaves_nothing(private: Surrounded) -> None:
    with program("demo", "--json", env=private.env()) as running:
        assert eventually(lambda: len(descendants(running.pid)) >= 3)
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait() in {0, 1, 130}
        assert "Traceback" not in running.err.text()
        assert len(running.out.lines()) <= 1
    private.assert_nothing_is_left()


def test_two_stand_side_by_side(private: Surrounded) -> None:
    arguments = ("demo", "--seconds", SECONDS, "--json")
    with (
        program(*arguments, env=private.env()) as one,
        program(*arguments, env=private.env()) as other,
    ):
        reports = [assert_ended_well(running) for running in (one, other)]
        assert reports[0]["redis_url"] != reports[1]["redis_url"]
    private.assert_nothing_is_left()


def test_a_given_redis_is_used_under_a_name_of_its_own_and_left_as_it_was(
    private: Surrounded, own_redis: Any
) -> None:
    env = private.env(REDIS_URL=own_redis.url)
    with program("demo", "--seconds", SECONDS, "--json", env=env) as running:
        facts = facts_of(running)
        assert facts["redis_url"] == own_redis.url
        assert re.fullmatch(rf"demo-{running.pid}-[0-9a-f]{{4}}:v1:", facts["channel_prefix"])
        with redis.Redis.from_url(own_redis.url) as client:
            client.set("theirs", "1")
            assert eventually(lambda: client.get(f"{facts['channel_prefix']}snapshot:NIFTY"))
            assert assert_ended_well(running)["redis_url"] == own_redis.url
            assert client.keys() == [b"theirs"]
    private.assert_nothing_is_left()


def test_two_share_given_servers_and_do_not_meet(private: Surrounded, own_redis: Any) -> None:
    with embedded_postgres_process() as database:
        env = private.env(REDIS_URL=own_redis.url, DATABASE_URL=database.url)
        arguments = ("demo", "--seconds", "8", "--json")
        with program(*arguments, env=env) as one, program(*arguments, env=env) as other:
            facts = [facts_of(running) for running in (one, other)]
            for name in ("channel_prefix", "orders_account"):
                assert facts[0][name] != facts[1][name]
            assert re.fullmatch("DEMO-[0-9a-f]{4}", facts[0]["orders_account"])
            for running in (one, other):
                report = assert_ended_well(running)
                assert report["orders"]["FILLED"] > 0
        with redis.Redis.from_url(own_redis.url) as client:
            assert client.keys() == []
    private.assert_nothing_is_left()


def test_a_given_redis_that_is_not_there_is_one_clear_line(private: Surrounded) -> None:
    env = private.env(REDIS_URL="redis://:canary-31@127.0.0.1:1/0")  # allow-secret
    with program("demo", "--seconds", "3", "--json", env=env) as running:
        assert running.wait() == 1
        assert running.out.text() == ""
        assert "Traceback" not in running.err.text()
        assert "canary-31" not in running.err.text()
        assert len(running.err.lines()) == 1
    private.assert_nothing_is_left()


def test_settings_meant_for_a_daemon_of_the_users_own_do_not_disturb_it(
    private: Surrounded,
) -> None:
    env = private.env(
        TICKER_SERVICE_UNDERLYINGS="NOSUCH",
        TICKER_SERVICE_UNHEARD_OF="1",
        TICKER_SERVICE_REDIS_URL="redis://127.0.0.1:1/0",
        TICKER_SERVICE_KITE_ACCESS_TOKEN="theirs",
        HTTP_PROXY="http://127.0.0.1:1",
        ALL_PROXY="http://127.0.0.1:1",
    )
    with program("demo", "--seconds", SECONDS, "--json", env=env) as running:
        assert_ended_well(running)
    private.assert_nothing_is_left()


def test_what_lies_in_the_working_directory_is_not_imported(
    private: Surrounded, tmp_path: Path
) -> None:
    # A folder `app` is what every second web project has.
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('imported from the cwd')")
    (tmp_path / "ticker-service.toml").write_text("nonsense = [")
    command = (str(Path(sys.executable).parent / "ticker-service"),)
    # As a user who installed it would: nothing of the checkout on the path but the package itself.
    env = private.env(PYTHONPATH=str(ROOT))
    with program(
        "demo", "--seconds", SECONDS, "--json", env=env, cwd=tmp_path, command=command
    ) as running:
        assert_ended_well(running)
