"""A program under a keeper ends with its owner, and says how it ended. No servers here."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kept_processes import DEADLINE_S, kept, watched

if TYPE_CHECKING:
    import subprocess

# Says that it is there, then sleeps for good.
SLEEPER = ("sh", "-c", "echo $$; exec sleep 1000")
STUBBORN = ("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1000; done")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such signal")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end_of_file(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    (directory / "nested").mkdir()
    (directory / "nested" / "data").write_text("rows")
    return directory


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)],
)
def test_the_programs_own_end_is_passed_on_and_the_directory_goes(
    script: str, status: int, private: Path
) -> None:
    with kept("sh", "-c", script, options=("--directory", str(private))) as keeper:
        assert keeper.wait(DEADLINE_S) == status
    assert not private.exists()


def test_end_of_file_stops_the_program(private: Path) -> None:
    with kept(*SLEEPER, options=("--directory", str(private))) as keeper:
        with watched(int(first_line(keeper))) as program:
            end_of_file(keeper)
            assert program.has_ended()
        assert keeper.wait(DEADLINE_S) == 128 + signal.SIGTERM
    assert not private.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_program(number: signal.Signals, private: Path) -> None:
    with kept(*SLEEPER, options=("--directory", str(private))) as keeper:
        with watched(int(first_line(keeper))) as program:
            keeper.send_signal(number)
            assert program.has_ended()
        assert keeper.wait(DEADLINE_S) == 128 + signal.SIGTERM
    assert not private.exists()


def test_a_program_that_ignores_the_stop_signal_is_killed_with_its_group(private: Path) -> None:
    options = ("--directory", str(private), "--grace-s", "0.1")
    with kept(*STUBBORN, options=options) as keeper:
        with watched(int(first_line(keeper))) as program:
            end_of_file(keeper)
            assert program.has_ended()
        assert keeper.wait(DEADLINE_S) == 128 + signal.SIGKILL
    assert not private.exists()


def test_a_program_may_be_stopped_with_another_signal() -> None:
    # PostgreSQL waits for its clients on SIGTERM and leaves at once on SIGINT.
    with kept(*SLEEPER, options=("--stop-signal", "SIGUSR1")) as keeper:
        first_line(keeper)
        end_of_file(keeper)
        assert keeper.wait(DEADLINE_S) == 128 + signal.SIGUSR1


def test_a_program_that_tidies_up_within_the_grace_time_is_left_to_do_so() -> None:
    tidy = "trap 'echo tidied; exit 3' TERM; echo up; while :; do sleep 0.01; done"
    with kept("sh", "-c", tidy) as keeper:
        assert first_line(keeper) == "up"
        end_of_file(keeper)
        assert keeper.wait(DEADLINE_S) == 3
        assert first_line(keeper) == "tidied"


@needs_linux
def test_kill_9_of_the_keeper_kills_the_program() -> None:
    with kept(*SLEEPER) as keeper, watched(int(first_line(keeper))) as program:
        keeper.kill()
        assert program.has_ended()


@needs_linux
def test_descendants_that_left_the_group_do_not_outlive_the_program() -> None:
    daemon = "setsid sh -c 'echo $$; exec sleep 1000' & wait"
    with kept("sh", "-c", daemon) as keeper, watched(int(first_line(keeper))) as descendant:
        end_of_file(keeper)
        assert keeper.wait(DEADLINE_S) == 128 + signal.SIGTERM
        assert descendant.has_ended(within_s=0)


def test_background_children_do_not_outlive_a_program_that_ends_by_itself(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with (
        kept("sh", "-c", 'sleep 1000 & echo $!; read line < "$0"', str(gate)) as keeper,
        watched(int(first_line(keeper))) as background,
    ):
        gate.write_text("go\n")
        assert keeper.wait(DEADLINE_S) == 0
        assert background.has_ended()


def test_the_first_bytes_reach_the_program_and_nothing_else_does() -> None:
    with kept("cat", options=("--input-bytes", "6")) as keeper:
        assert keeper.stdin is not None
        keeper.stdin.write("secret")
        keeper.stdin.flush()
        assert keeper.wait(DEADLINE_S) == 0
        assert keeper.stdout is not None
        assert keeper.stdout.read() == "secret"


def test_without_input_the_program_reads_an_empty_file() -> None:
    with kept("cat") as keeper:
        assert keeper.wait(DEADLINE_S) == 0


def test_an_owner_that_ends_before_the_input_is_complete_starts_nothing(private: Path) -> None:
    options = ("--input-bytes", "6", "--directory", str(private))
    with kept("touch", str(private.parent / "ran"), options=options) as keeper:
        end_of_file(keeper)
        assert keeper.wait(DEADLINE_S) == 125
    assert not private.exists()
    assert not (private.parent / "ran").exists()


def test_a_program_that_does_not_exist_is_named(private: Path) -> None:
    with kept("/nowhere/program", options=("--directory", str(private))) as keeper:
        assert keeper.wait(DEADLINE_S) == 127
        assert keeper.stderr is not None
        assert keeper.stderr.read() == (
            "keeper: cannot run /nowhere/program: No such file or directory\n"
        )
    assert not private.exists()


def test_the_report_is_the_programs_pid_and_closes_with_the_keeper() -> None:
    read, write = os.pipe()
    with kept(*SLEEPER, options=("--report-fd", str(write)), pass_fds=(write,)) as keeper:
        os.close(write)
        with open(read) as report:  # noqa: PTH123 - a descriptor, not a path
            assert report.readline().strip() == first_line(keeper)
            end_of_file(keeper)
            assert report.read() == ""
        keeper.wait(DEADLINE_S)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_share_is_refused_and_kept(private: Path, mode: int) -> None:
    private.chmod(mode)
    with kept("true", options=("--directory", str(private))) as keeper:
        assert keeper.wait(DEADLINE_S) == 125
    assert (private / "nested" / "data").exists()


def test_a_link_to_a_directory_is_refused_and_its_target_kept(private: Path) -> None:
    link = private.parent / "link"
    link.symlink_to(private)
    with kept("true", options=("--directory", str(link))) as keeper:
        assert keeper.wait(DEADLINE_S) == 125
    assert (private / "nested" / "data").exists()


@needs_root
def test_root_hands_program_and_directory_to_another_user() -> None:
    # Beside pytest's own directories, which only root can enter.
    private = Path(tempfile.mkdtemp(prefix="ticker-test-"))
    options = ("--directory", str(private), "--user", "65534:65533")
    script = 'id -u; id -g; id -G; touch "$0/ours" && echo written'
    with kept("sh", "-c", script, str(private), options=options) as keeper:
        assert keeper.wait(DEADLINE_S) == 0
        assert keeper.stdout is not None
        assert keeper.stdout.read().split() == ["65534", "65533", "65533", "written"]
    assert not private.exists()


@needs_root
@needs_linux
def test_kill_9_of_roots_keeper_kills_the_program_of_another_user() -> None:
    # The kernel forgets the parent-death signal at a change of user, so the order matters.
    with (
        kept(*SLEEPER, options=("--user", "65534:65534")) as keeper,
        watched(int(first_line(keeper))) as program,
    ):
        keeper.kill()
        assert program.has_ended()


@needs_linux
def test_the_program_starts_with_the_systems_own_signal_handling() -> None:
    with kept("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status") as keeper:
        assert keeper.wait(DEADLINE_S) == 0
        assert keeper.stdout is not None
        masks = dict(line.split(":\t") for line in keeper.stdout.read().splitlines())
    assert {name: int(mask, 16) for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}
