"""Risk limits are read again from settings; what faulty or lost ones say changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app import settings
from app.risk_file import RiskFile
from ticker_service.errors import OrderRefused
from ticker_service.orders.risk_tables import RiskTables

TEN = "[risk]\norder_quantity_max = 10\n"
NAMED = frozenset({"MAIN", "SPARE"})
PAIR = frozenset({"PAIR"})


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(settings.PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def started(said: str | None, file: Path | None = None) -> RiskFile:
    """Return the limits of a daemon that started with a settings file, or with none."""
    if said is not None:
        (file or settings.FILE).write_text(said)
    table = settings.risk_limits(file, accounts=NAMED, groups=PAIR)
    return RiskFile(
        RiskTables(table),
        file,
        accounts=NAMED,
        groups=PAIR,
        had_settings=settings.has_settings(file),
    )


def refusal(limits: RiskFile) -> OrderRefused:
    before = limits.tables.current
    with pytest.raises(OrderRefused) as caught:
        limits.read_again("SIGHUP")
    assert limits.tables.current is before
    return caught.value


@pytest.mark.parametrize("file", [None, Path("own.toml")], ids=["by default", "named"])
def test_limits_stay_in_force_when_their_settings_file_is_gone(file: Path | None) -> None:
    limits = started(TEN, file)
    (file or settings.FILE).unlink()
    assert str(file or settings.FILE) in refusal(limits).rule


@pytest.mark.parametrize("left", ["", "\n", "# order_quantity_max = 10\n"])
def test_limits_stay_in_force_when_nothing_is_left_in_their_settings_file(left: str) -> None:
    limits = started(TEN)
    settings.FILE.write_text(left)
    assert "has no setting in it" in refusal(limits).rule


def test_a_file_that_came_after_the_start_and_went_again_takes_no_limits_along() -> None:
    limits = started(None)
    settings.FILE.write_text(TEN)
    assert limits.read_again("SIGHUP")["has_changed"]
    settings.FILE.unlink()
    assert "ticker-service.toml" in refusal(limits).rule


def test_a_settings_file_without_limits_that_is_gone_is_told() -> None:
    limits = started('log_level = "info"\n')
    settings.FILE.unlink()
    assert "ticker-service.toml" in refusal(limits).rule


def test_a_settings_file_with_other_settings_and_no_limits_lifts_them() -> None:
    limits = started(TEN)
    settings.FILE.write_text('log_level = "info"\n')
    assert limits.read_again("SIGHUP")["has_changed"]
    assert not limits.tables.current.everywhere


@pytest.mark.parametrize("said", [None, ""], ids=["no file", "an empty file"])
def test_a_daemon_that_never_had_a_setting_in_a_file_misses_none(said: str | None) -> None:
    assert not started(said).read_again("SIGHUP")["has_changed"]


def test_limits_of_the_environment_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKER_SERVICE_RISK", '{"order_quantity_max": 10}')
    assert not started(None).read_again("SIGHUP")["has_changed"]


@pytest.mark.parametrize(
    ("where", "name", "rule"),
    [
        ("accounts", "MIAN", "is not declared: MAIN, SPARE may be named"),
        ("groups", "MAIN", "is not declared: PAIR may be named"),
    ],
)
def test_limits_of_a_name_that_no_account_or_group_of_the_daemon_has_change_nothing(
    where: str, name: str, rule: str
) -> None:
    limits = started(TEN)
    settings.FILE.write_text(f"[risk.{where}.{name}]\norder_quantity_max = 11\n")
    refused = refusal(limits)
    assert (refused.field, refused.value, refused.rule) == (where, name, rule)
