"""What is typed wrong at a command line ends it at once, with one line that says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app import cli

ROOT = Path(__file__).resolve().parents[3]
PLACE = ["order", "place", "k", "--account", "A", "--symbol", "NSE:INFY", "--quantity", "1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--seconds", "-1"], "--seconds: '-1': Input should be greater than or equal to"),
        (["demo", "--seconds", "x"], "--seconds: 'x': Input should be a valid number"),
        (["demo", "--nope"], "No such option: --nope"),
        (["nope"], "No such command 'nope'"),
        (["tail"], "Missing argument 'books'"),
        (["run", "--config", "/nonexistent"], "/nonexistent: there is no such settings file"),
        (["record", "--config", "/nonexistent"], "/nonexistent: there is no such settings file"),
        (["replay", "/nonexistent"], "/nonexistent: No such file or directory"),
        (["replay", "/nonexistent", "--speed", "0"], "--speed: '0': must be a number above 0"),
        (["replay", "/nonexistent", "--warm-up", "-1"], "--warm-up: '-1': Input should be"),
        (["simulate", "--instruments", "-5"], "instruments_min=-5 must be 0 to"),
        (["simulate", "--rate", "nan"], "--rate: 'nan': Input should be greater than or equal to"),
        (["greeks", "--call", "--put"], "give a file of candles, or either --forward or --spot"),
        (["token", "create", "me", "--account", "A", "--hours", "99"], "--hours: '99': Input"),
        ([*PLACE, "--side", "HOLD"], "--side: 'HOLD' is not one of 'buy', 'sell'"),
        ([*PLACE[:-1], "0", "--side", "BUY"], "--quantity: '0': Input should be greater than"),
        (
            [*PLACE, "--side", "BUY", "--type", "STOP"],
            "--type: 'STOP' is not one of 'market', 'limit', 'sl', 'sl-m'",
        ),
    ],
    ids=str,
)
def test_a_command_names_what_was_typed_wrong_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["ticker-service", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code
    assert line.startswith("ticker-service: ")
    assert said in line


def test_a_group_without_a_command_shows_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ticker-service", "order"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code
    assert "Usage: ticker-service order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fuzz.py", "decode", "--seconds", "-1"], "--seconds: '-1': must be a whole number"),
        (["fuzz.py", "nope"], "invalid choice: 'nope'"),
        (["soak.py", "--minutes", "0"], "--minutes: '0': must be a number above 0"),
        (["soak.py", "--minutes", "nan"], "--minutes: 'nan': must be a number above 0"),
        (["crash.py", "--runs", "0"], "--runs: '0': must be a whole number from 1 on"),
        (["chaos.py", "--cycles", "x"], "--cycles: 'x': must be a whole number from 1 on"),
        (["simulate.py", "--seeds", "-1"], "--seeds: '-1': must be a whole number from 1 on"),
        (["benchmarks/__main__.py", "--runs", "0"], "--runs: '0': must be a whole number"),
        (["benchmarks/__main__.py", "nope"], "unknown suites ['nope']"),
    ],
    ids=str,
)
def test_a_script_refuses_what_it_cannot_do_before_it_begins(
    arguments: list[str], said: str
) -> None:
    script, *rest = arguments
    module = "scripts." + script.removesuffix(".py").replace("/", ".")
    ran = subprocess.run(
        [sys.executable, "-m", module, *rest],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert said in ran.stderr.splitlines()[-1]
