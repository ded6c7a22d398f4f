"""What the keeper is told, and what it refuses before anything is started."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from app import keeper


def test_the_program_is_everything_after_the_first_separator() -> None:
    options = keeper._parse(["--grace-s", "2", "--", "program", "--flag", "--", "rest"])
    assert options.command == ["program", "--flag", "--", "rest"]
    assert options.grace_s == 2.0


def test_without_options_the_defaults_are_the_documented_ones() -> None:
    options = keeper._parse(["--", "program"])
    assert options.directory is None
    assert options.owner is None
    assert options.user is None
    assert options.grace_s == keeper.GRACE_S
    assert options.input_bytes == 0
    assert options.stop_signal is signal.SIGTERM


def test_every_option_is_understood() -> None:
    identity = ["--user", "70:71", "--owner", "1"]
    ending = ["--directory", "/d", "--stop-signal", "SIGINT"]
    options = keeper._parse([*identity, *ending, "--input-bytes", "4096", "--", "program"])
    assert options.directory == Path("/d")
    assert options.user == (70, 71)
    assert options.stop_signal is signal.SIGINT
    assert options.input_bytes == 4096
    assert options.owner == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["program"],
        ["--"],
        ["--unknown", "--", "program"],
        ["--direct", "/d", "--", "program"],
        ["--user", "postgres", "--", "program"],
        ["--stop-signal", "SIGNONE", "--", "program"],
        ["--input-bytes", "4097", "--", "program"],
        ["--input-bytes", "-1", "--", "program"],
        ["--grace-s", "soon", "--", "program"],
    ],
)
def test_what_is_not_understood_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        keeper._parse(arguments)
    assert refused.value.code == 2
    assert "keeper: error:" in capsys.readouterr().err


def test_a_private_directory_of_ours_may_be_removed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    keeper.check_private(tmp_path, user=None)
    keeper.check_private(tmp_path, user=(os.geteuid() + 1, 0))


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o704, 0o777])
def test_a_directory_open_to_others_may_not(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(keeper.NotStarted, match="mode 0700"):
        keeper.check_private(tmp_path, user=None)


def test_a_file_may_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o600)
    with pytest.raises(keeper.NotStarted, match="is to be a directory"):
        keeper.check_private(file, user=None)


def test_a_directory_of_another_user_may_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with pytest.raises(keeper.NotStarted, match=f"uid={stranger - 1}"):
        keeper.check_private(tmp_path, user=None)
