"""A kill switch works, and lasts, with the database and Redis gone (I12)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import orjson
from crash_parts import Daemon, Lane, Servers, door, limit_order, place_frame, world
from running import DEADLINE_S, ROOT, environment, eventually
from stoppable_postgres import stoppable_postgres

from app.embedded import embedded_redis_process
from ticker_service.adapters.kill_file import KillFile
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path


def kill(daemon: Daemon, file: Path, *arguments: str, **settings: object) -> tuple[int, str]:
    """Type a command of ``ticker-service kill``; return its status and what it says."""
    port = daemon.facts()["health_url"].rpartition(":")[2]
    ran = subprocess.run(
        [sys.executable, "-m", "app.cli", "kill", *arguments, "--config", os.devnull],
        cwd=ROOT,
        env=environment({"health_port": port, "kill_switch_file": file, **settings}),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_it_stops_and_cancels_with_every_server_down_and_still_stops_after_a_kill(
    shared: Servers, one_lane: Lane, tmp_path: Path
) -> None:
    file = tmp_path / "kill-switch.json"
    with (
        stoppable_postgres() as postgres,
        contextlib.ExitStack() as redis_runs,
        world(shared, one_lane, database_url=postgres.url, is_durable=True) as own,
    ):
        settings = {
            "redis_url": redis_runs.enter_context(embedded_redis_process()).url,
            "kill_switch_file": file,
        }
        daemon = own.start(**settings)
        assert daemon.opens(own.account), daemon.log()
        resting = limit_order("BUY", 1, f"{own.quote()['last_price'] * 0.9:.0f}.00")
        with door(own, daemon) as caller:
            assert caller.ask(place_frame("resting", own.account, resting))["op"] == "ack"
            assert eventually(lambda: [t["state"] for t in own.tasks()] == ["WORKING"])
        postgres.stop_at_once()
        redis_runs.close()

        status, said = kill(daemon, file, "on", "all", "--level", "cancel_all", "--why", "enough")

        assert status == 0, said
        assert "in force" in said
        (order_id,) = own.book()
        assert eventually(lambda: own.book()[order_id]["status"] == "CANCELLED"), daemon.log()
        daemon.kill()
        postgres.start()
        after = own.start(**settings | {"redis_url": shared.redis_url})
        assert after.opens(own.account), after.log()
        with door(own, after) as caller:
            answer = caller.ask(place_frame("new", own.account, resting))
            assert answer["code"] == "KILL_SWITCH"
            assert "enough" in answer["rule"]
            assert eventually(lambda: [t["state"] for t in own.tasks()] == ["CANCELLED"])
            assert len(own.book()) == 1

            status, said = kill(after, file, "off", "all")

            # In the file alone: the journal has it too, and this shell did not say where that is.
            assert (status, "STILL IN FORCE" in said) == (1, True), said
            assert caller.ask(place_frame("new", own.account, resting))["code"] == "KILL_SWITCH"
            account = {"user_id": own.user_id, "api_key": "key", "api_secret": "secret"}

            status, said = kill(
                after,
                file,
                "off",
                "all",
                database_url=postgres.url,
                accounts=orjson.dumps({own.account: account}).decode(),
            )

            assert (status, "released" in said) == (0, True), said
            found = eventually(
                lambda: caller.ask(place_frame("later", own.account, resting))["op"] == "ack"
            )
            assert found


def test_a_switch_that_no_daemon_has_seen_is_told_as_such(
    shared: Servers, one_lane: Lane, tmp_path: Path
) -> None:
    with world(shared, one_lane) as own:
        daemon = own.start(kill_switch_file=tmp_path / "its.json")
        assert daemon.opens(own.account), daemon.log()
        status, said = kill(daemon, tmp_path / "another.json", "on", "all")
        assert status == 1
        assert "NOT IN FORCE" in said
        daemon.kill()
        status, said = kill(daemon, tmp_path / "its.json", "on", "all")
        assert status == 1
        assert "no daemon answers" in said


def test_a_groups_switch_outlives_a_kill_in_the_journal_alone(
    shared: Servers, one_lane: Lane, tmp_path: Path
) -> None:
    file = tmp_path / "kill-switch.json"
    with world(shared, one_lane) as own:
        scope = "group:PAIR"  # a group that is not known stops every account
        daemon = own.start(kill_switch_file=file)
        assert daemon.opens(own.account), daemon.log()
        thrown = KillSwitch(
            switch_id=uuid.uuid4(),
            scope=KillScope.of(scope),
            level=KillLevel.HALT_NEW,
            why="enough",
            by_whom="me",
            since_ns=SystemClock().now_ns(),
        )
        KillFile(file).throw(thrown)
        assert eventually(lambda: own.rows("SELECT scope FROM kill_switch") == [{"scope": scope}])
        daemon.kill()
        file.unlink()

        after = own.start(kill_switch_file=file)

        assert after.opens(own.account), after.log()
        with door(own, after) as caller:
            answer = caller.ask(place_frame("new", own.account, limit_order("BUY", 1, "1.00")))
        assert (answer["code"], f"on {scope} by" in answer["rule"]) == ("KILL_SWITCH", True)
        assert own.book() == {}
