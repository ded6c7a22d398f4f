"""`keep` runs any program for the length of a block."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest
from kept_processes import DEADLINE_S, watched

from app.kept import Child, EmbeddedServerError, KeepOptions, keep
from ticker_service.errors import ConfigurationError

SLEEP = ("sleep", "1000")
STUBBORN = ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done")


def output_of(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode()


def test_the_program_runs_inside_the_block_and_not_after() -> None:
    async def use() -> Child:
        async with keep(SLEEP) as child:
            assert child.returncode is None
            os.kill(child.pid, 0)
        return child

    child = asyncio.run(use())
    assert child.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_the_programs_status_is_passed_on() -> None:
    async def use() -> int:
        async with keep(["sh", "-c", "exit 7"]) as child, asyncio.timeout(DEADLINE_S):
            return await child.wait()

    assert asyncio.run(use()) == 7


def test_output_goes_where_it_is_told_and_the_environment_is_the_given_one() -> None:
    async def use() -> None:
        async with (
            keep(["/usr/bin/env"], env={"ONLY": "this"}, stdout=log) as child,
            asyncio.timeout(DEADLINE_S),
        ):
            await child.wait()

    with tempfile.TemporaryFile() as log:
        asyncio.run(use())
        # Python in the keeper turns a C locale into C.UTF-8.
        assert set(output_of(log).split()) - {"LC_CTYPE=C.UTF-8"} == {"ONLY=this"}


def test_standard_input_carries_what_must_not_be_an_argument() -> None:
    async def use() -> None:
        options = KeepOptions(stdin=b"secret")
        async with keep(["cat"], stdout=log, options=options) as child, asyncio.timeout(DEADLINE_S):
            await child.wait()

    with tempfile.TemporaryFile() as log:
        asyncio.run(use())
        assert output_of(log) == "secret"


def test_more_input_than_a_pipe_surely_holds_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="bytes=4097 limit_bytes=4096"):
        KeepOptions(stdin=b"x" * 4097)


def test_a_program_that_does_not_exist_is_an_error_and_the_directory_goes() -> None:
    directory = Path(tempfile.mkdtemp(prefix="ticker-test-"))

    async def use() -> None:
        async with keep(["/nowhere/program"], directory=directory):
            pytest.fail("there is no such program")

    with pytest.raises(EmbeddedServerError, match="/nowhere/program: No such file or directory"):
        asyncio.run(use())
    assert not directory.exists()


def test_a_keeper_that_cannot_be_started_leaves_no_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="ticker-test-"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    async def use() -> None:
        async with keep(SLEEP, directory=directory):
            pytest.fail("there is no such interpreter")

    with pytest.raises(FileNotFoundError):
        asyncio.run(use())
    assert not directory.exists()


def test_a_directory_that_others_share_is_refused_and_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").touch()

    async def use() -> None:
        async with keep(SLEEP, directory=tmp_path):
            pytest.fail("the directory is not private")

    with pytest.raises(EmbeddedServerError, match="mode 0700"):
        asyncio.run(use())
    assert (tmp_path / "theirs").exists()


def test_a_program_that_ignores_the_stop_signal_is_killed_after_the_grace_time() -> None:
    async def use() -> Child:
        async with keep(STUBBORN, stdout=write, options=KeepOptions(grace_s=0.1)) as child:
            assert await asyncio.to_thread(os.read, read, 3) == b"up\n"
        return child

    read, write = os.pipe()
    try:
        assert asyncio.run(use()).returncode == 128 + signal.SIGKILL
    finally:
        os.close(read)
        os.close(write)


def test_an_error_in_the_block_ends_the_program_and_goes_on() -> None:
    children: list[Child] = []

    async def use() -> None:
        async with keep(SLEEP) as child:
            children.append(child)
            raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(use())
    assert children[0].returncode == 128 + signal.SIGTERM


def test_cancellation_in_the_block_ends_the_program() -> None:
    children: list[Child] = []

    async def use() -> None:
        async with keep(SLEEP) as child:
            children.append(child)
            async with asyncio.timeout(0):
                await child.wait()

    with pytest.raises(TimeoutError):
        asyncio.run(use())
    assert children[0].returncode == 128 + signal.SIGTERM


def test_a_block_cancelled_again_while_it_stops_leaves_the_rest_to_the_keeper() -> None:
    directory = Path(tempfile.mkdtemp(prefix="ticker-test-"))
    children: list[Child] = []

    async def use() -> None:
        async with asyncio.timeout(None) as impatience:
            options = KeepOptions(grace_s=0.1)
            async with keep(STUBBORN, directory=directory, stdout=write, options=options) as child:
                children.append(child)
                assert await asyncio.to_thread(os.read, read, 3) == b"up\n"
                impatience.reschedule(asyncio.get_running_loop().time())

    read, write = os.pipe()
    try:
        with pytest.raises(TimeoutError):
            asyncio.run(use())
        with watched(children[0].keeper_pid) as keeper:
            assert keeper.has_ended()
        children[0]._process.wait()
    finally:
        os.close(read)
        os.close(write)
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(children[0].pid, 0)


def test_no_other_child_of_the_owner_holds_the_keepers_lifeline() -> None:
    async def use() -> int:
        # The other is started while the first one's lifeline is open, and outlives the first.
        async with keep(SLEEP) as one, keep(SLEEP) as other, asyncio.timeout(DEADLINE_S):
            one.terminate()
            status = await one.wait()
            assert other.returncode is None
            return status

    assert asyncio.run(use()) == 128 + signal.SIGTERM
