"""Settings are checked whole before anything starts, and every fault is named at once."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from app import settings
from ticker_service.config import Encoding
from ticker_service.domain.tick import Mode
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "kept-out-of-every-message"
REDIS_URL = "redis://:hunter2@127.0.0.1:6379/0"  # allow-secret
GOOD = {
    "TICKER_SERVICE_KITE_API_KEY": "abcd",
    "TICKER_SERVICE_KITE_ACCESS_TOKEN": TOKEN,
    "TICKER_SERVICE_REDIS_URL": REDIS_URL,
}
Load = "Callable[..., settings.Settings]"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Return a loader whose environment and file are what a test says, and nothing else."""
    for name in list(os.environ):
        if name.upper().startswith(settings.PREFIX) or name.upper() == "REDIS_URL":
            monkeypatch.delenv(name)

    def load(
        environment: dict[str, str] | None = None, *, toml: str = "", **overrides: object
    ) -> settings.Settings:
        for name, value in (GOOD if environment is None else environment).items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "ticker-service.toml"
        file.write_text(toml)
        return settings.load(file, **overrides)

    return load


def faults(load: Load, environment: dict[str, str], toml: str = "") -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(environment, toml=toml).engine_config()
    return str(caught.value)


def with_fault(load: Load, name: str, value: str) -> str:
    return faults(load, GOOD | {f"TICKER_SERVICE_{name}": value})


def test_the_least_an_operator_sets_is_enough(load: Load) -> None:
    assert load().engine_config().subscription.underlyings == ("NIFTY",)


def test_every_fault_is_named_at_once(load: Load) -> None:
    text = faults(
        load,
        {
            "TICKER_SERVICE_MODE": "everything",
            "TICKER_SERVICE_EXPIRIES": "0",
            "TICKER_SERVICE_STRIKES_EACH_SIDE": "many",
        },
    )
    named = {line.split(" ", 1)[0] for line in text.splitlines()}
    names = {"KITE_API_KEY", "KITE_ACCESS_TOKEN", "REDIS_URL"}
    names |= {"MODE", "EXPIRIES", "STRIKES_EACH_SIDE"}
    assert named == {f"TICKER_SERVICE_{name}" for name in names}


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("MODE", "everything", "'ltp', 'quote' or 'full'"),
        ("EXPIRIES", "0", "greater than or equal to 1"),
        ("STRIKES_EACH_SIDE", "501", "less than or equal to 500"),
        ("FLUSH_INTERVAL_MS", "fast", "valid integer"),
        ("HEALTH_PORT", "70000", "less than or equal to 65535"),
        ("RATE", "6.5", "less than or equal to 0.5"),
        ("RATE", "nan", "than or equal"),
        ("DEPTH", "perhaps", "boolean"),
        ("KITE_REST_ROOT", "api.kite.trade", "https:// address"),
        ("KITE_WS_ROOT", "ftp://ws.kite.trade", "wss:// address"),
        ("KITE_REST_ROOT", "http://api.kite.trade", "encrypted"),
        ("KITE_WS_ROOT", "ws://10.0.0.7:9000", "encrypted"),
        ("REDIS_URL", "http://127.0.0.1", "redis://, rediss:// or unix://"),
        ("KITE_ACCESS_TOKEN", "  ", "is required"),
        ("KITE_API_KEY", "", "at least 1 character"),
        ("CHANNEL_PREFIX", "", "at least 1 character"),
        ("LOG_LEVEL", "loud", "'debug'"),
        ("ENCODINGS", "json,protobuf", "'json' or 'arrow'"),
        ("ENCODINGS", " , ", "at least 1 item"),
        ("MARKET_HOURS", "sometimes", "'exchange' or 'always'"),
        ("MARKET_HOLIDAYS", "26.1.2027", "must be like 2027-01-26"),
        ("MARKET_SESSIONS", "2026-11-08", "must be like 2026-11-08 13:45-14:45"),
        ("TICK_AGE_MS_MAX", "10", "greater than or equal to 5000"),
    ],
)
def test_a_fault_names_the_variable_and_the_rule(
    load: Load, name: str, value: str, rule: str
) -> None:
    text = with_fault(load, name, value)
    assert text.startswith(f"TICKER_SERVICE_{name} ")
    assert rule in text
    assert len(text.splitlines()) == 1


def test_encodings_are_named_with_commas(load: Load) -> None:
    loaded = load(GOOD | {"TICKER_SERVICE_ENCODINGS": "arrow, json"})
    assert loaded.engine_config().publish.encodings == (Encoding.ARROW, Encoding.JSON)


def test_an_encoding_named_twice_is_a_fault(load: Load) -> None:
    text = with_fault(load, "ENCODINGS", "json,json")
    assert text == "TICKER_SERVICE_ENCODINGS: names an encoding twice"


def test_arrow_without_pyarrow_is_a_fault(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", {}.get)
    text = with_fault(load, "ENCODINGS", "arrow")
    assert text == ("TICKER_SERVICE_ENCODINGS: arrow needs pyarrow: install ticker-service[arrow]")


def test_a_fault_shows_the_value_that_is_wrong(load: Load) -> None:
    assert "'everything'" in with_fault(load, "MODE", "everything")


def test_a_secret_that_is_wrong_is_not_shown(load: Load) -> None:
    value = "http://:hunter2@127.0.0.1"  # allow-secret
    text = with_fault(load, "REDIS_URL", value)
    assert "(secret)" in text
    assert value not in text


def test_an_account_of_the_same_app_serves_the_feed_and_needs_no_token_in_the_settings(
    load: Load,
) -> None:
    account = {"user_id": "AB1234", "api_secret": "stand-in"}
    accounts = {
        "OTHER": {**account, "user_id": "CD5678", "api_key": "another"},
        "MAIN": {**account, "api_key": GOOD["TICKER_SERVICE_KITE_API_KEY"]},
    }
    orders = {
        "TICKER_SERVICE_DATABASE_URL": "postgresql://127.0.0.1/ticker",
        "TICKER_SERVICE_TOKEN_SECRET": "stand-in-secret-of-thirty-two-bytes!",  # allow-secret
    }
    good = {name: GOOD[name] for name in GOOD if not name.endswith("ACCESS_TOKEN")} | orders
    loaded = load(good | {"TICKER_SERVICE_ACCOUNTS": json.dumps(accounts)})
    assert [each.account for each in loaded.engine_config().feed_accounts] == ["MAIN"]
    spare = load(
        good
        | {"TICKER_SERVICE_ACCOUNTS": json.dumps(accounts), "TICKER_SERVICE_FEED_ACCOUNTS": "OTHER"}
    )
    found = spare.engine_config().feed_accounts
    assert [(each.account, each.api_key) for each in found][1] == ("OTHER", "another")
    text = faults(
        load,
        good
        | {
            "TICKER_SERVICE_ACCOUNTS": json.dumps(accounts),
            "TICKER_SERVICE_FEED_ACCOUNTS": "NOBODY",
        },
    )
    assert "FEED_ACCOUNTS: ['NOBODY']: must be of accounts=" in text
    twice = {**accounts, "AGAIN": {**accounts["MAIN"], "api_key": "a third"}}
    text = faults(load, good | {"TICKER_SERVICE_ACCOUNTS": json.dumps(twice)})
    assert "a user_id belongs to one account only" in text
    del accounts["MAIN"]
    text = faults(load, good | {"TICKER_SERVICE_ACCOUNTS": json.dumps(accounts)})
    assert text.startswith("TICKER_SERVICE_KITE_ACCESS_TOKEN ")


def test_a_fault_elsewhere_shows_no_secret(load: Load) -> None:
    text = faults(load, GOOD | {"TICKER_SERVICE_MODE": "x", "TICKER_SERVICE_RATE": "x"})
    assert TOKEN not in text
    assert "hunter2" not in text


def test_settings_and_configuration_show_no_secret(load: Load) -> None:
    loaded = load()
    shown = f"{loaded!r} {loaded} {loaded.engine_config()!r}"
    assert TOKEN not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("STRIKE_EACH_SIDE", "STRIKES_EACH_SIDE"),
        ("UNDERLYING", "UNDERLYINGS"),
        ("REDIS", "REDIS_URL"),
    ],
)
def test_a_typo_in_a_variable_is_a_fault_that_says_what_was_meant(
    load: Load, typo: str, meant: str
) -> None:
    text = faults(load, GOOD | {f"TICKER_SERVICE_{typo}": "1"})
    assert text == f"TICKER_SERVICE_{typo}: is not a setting; did you mean TICKER_SERVICE_{meant}?"


def test_a_typo_in_the_file_is_a_fault_that_says_what_was_meant(load: Load) -> None:
    text = faults(load, GOOD, toml="strike_each_side = 5\n")
    assert "strike_each_side" in text
    assert "did you mean strikes_each_side?" in text


def test_variables_of_other_programs_are_none_of_our_business(load: Load) -> None:
    load(GOOD | {"OTHER_SERVICE_STRIKE_EACH_SIDE": "1"})


@pytest.mark.parametrize("value", ["NIFTY,BANKNIFTY", " NIFTY , BANKNIFTY ,", "NIFTY,,BANKNIFTY"])
def test_names_are_separated_by_commas(load: Load, value: str) -> None:
    loaded = load(GOOD | {"TICKER_SERVICE_UNDERLYINGS": value})
    assert loaded.underlyings == ("NIFTY", "BANKNIFTY")


def test_names_in_the_file_are_a_list(load: Load) -> None:
    assert load(toml='underlyings = ["M&M", "NIFTY"]\n').underlyings == ("M&M", "NIFTY")


@pytest.mark.parametrize(
    "root", ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9"]
)
def test_a_plain_address_is_fine_on_loopback(load: Load, root: str) -> None:
    assert load(GOOD | {"TICKER_SERVICE_KITE_REST_ROOT": root}).kite_rest_root == root


def test_a_slash_at_the_end_of_a_root_is_dropped(load: Load) -> None:
    loaded = load(GOOD | {"TICKER_SERVICE_KITE_REST_ROOT": "https://api.kite.trade/"})
    assert loaded.kite_rest_root == "https://api.kite.trade"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"ORDER_REQUEST_S": "20", "ORDER_SETTLE_AFTER_S": "24.9"},
            ("ORDER_SETTLE_AFTER_S", "at least 1.25", "order_request_s=20"),
        ),
        (
            {"FLUSH_INTERVAL_MS": "600", "CONFLATE_AFTER_MS": "500"},
            ("flush_interval_ms=600", "conflate_after_ms=500"),
        ),
        (
            {"FLUSH_BYTES_MAX": "2000000", "BACKLOG_BYTES_MAX": "1048576"},
            ("flush_bytes_max=2000000", "backlog_bytes_max=1048576"),
        ),
        (
            {"SNAPSHOT_MS": "1000", "HEARTBEAT_MS": "500"},
            ("snapshot_ms=1000", "heartbeat_ms=500"),
        ),
        ({"SMILE_MS": "50"}, ("TICKER_SERVICE_SMILE_MS", "'50'", "must be 0 or at least 200")),
        ({"UNDERLYINGS": "", "INSTRUMENTS": ""}, ("underlyings", "instruments")),
    ],
)
def test_numbers_that_contradict_each_other_are_both_named(
    load: Load, environment: dict[str, str], words: tuple[str, ...]
) -> None:
    prefixed = {f"TICKER_SERVICE_{name}": value for name, value in environment.items()}
    text = faults(load, GOOD | prefixed)
    assert all(word in text for word in words)


def test_all_contradictions_are_named_at_once(load: Load) -> None:
    prefixed = {
        "TICKER_SERVICE_FLUSH_INTERVAL_MS": "600",
        "TICKER_SERVICE_SNAPSHOT_MS": "1000",
        "TICKER_SERVICE_HEARTBEAT_MS": "500",
    }
    assert len(faults(load, GOOD | prefixed).splitlines()) == 2


def test_a_file_that_is_no_toml_is_a_fault_and_no_traceback(load: Load) -> None:
    assert "ticker-service.toml" in faults(load, GOOD, toml="mode = full\n")


def test_a_setting_that_wants_json_and_gets_none_is_a_fault(load: Load) -> None:
    text = with_fault(load, "KITE_WS_PARAMETERS", "user_id=AB1234")
    assert "kite_ws_parameters" in text.lower()


def test_without_a_file_at_its_usual_place_there_is_none(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert settings.load().mode == "full"


def test_a_named_file_that_is_not_there_is_a_fault(load: Load, tmp_path: Path) -> None:
    load()
    for file, why in ((tmp_path / "typo.toml", "no such settings file"), (tmp_path, "a folder")):
        for read in (settings.load, settings.database_url, settings.token_secret):
            with pytest.raises(ConfigurationError, match=why) as refused:
                read(file)
            assert str(file) in str(refused.value)


def test_the_file_is_read(load: Load) -> None:
    assert load(toml="strikes_each_side = 7\n").strikes_each_side == 7


def test_the_environment_beats_the_file(load: Load) -> None:
    loaded = load(GOOD | {"TICKER_SERVICE_MODE": "ltp"}, toml='mode = "quote"\n')
    assert loaded.mode == "ltp"


def test_an_override_beats_the_environment(load: Load) -> None:
    assert load(GOOD | {"TICKER_SERVICE_MODE": "ltp"}, mode="quote").mode == "quote"


def test_the_redis_address_is_read_as_hosting_platforms_set_it(load: Load) -> None:
    environment = {name: GOOD[name] for name in GOOD if not name.endswith("REDIS_URL")}
    loaded = load(environment | {"REDIS_URL": "rediss://elsewhere:6380/1"})
    assert loaded.redis_url.get_secret_value() == "rediss://elsewhere:6380/1"


def test_our_own_redis_address_beats_the_platform_s(load: Load) -> None:
    loaded = load(GOOD | {"REDIS_URL": "rediss://elsewhere:6380/1"})
    assert loaded.redis_url.get_secret_value() == REDIS_URL


def test_the_redis_address_may_stand_in_the_file(load: Load) -> None:
    environment = {name: GOOD[name] for name in GOOD if not name.endswith("REDIS_URL")}
    loaded = load(environment, toml='redis_url = "unix:///run/redis.sock"\n')
    assert loaded.redis_url.get_secret_value() == "unix:///run/redis.sock"


def test_settings_become_the_engine_s_configuration(load: Load) -> None:
    config = load(
        GOOD
        | {
            "TICKER_SERVICE_MODE": "quote",
            "TICKER_SERVICE_EXPIRIES": "2",
            "TICKER_SERVICE_STRIKES_EACH_SIDE": "5",
            "TICKER_SERVICE_INSTRUMENTS": "NSE:SBIN",
            "TICKER_SERVICE_DEPTH": "true",
            "TICKER_SERVICE_RATE": "0.065",
            "TICKER_SERVICE_REPRICE_MS": "100",
            "TICKER_SERVICE_SMILE_MS": "2000",
            "TICKER_SERVICE_CONFLATE_AFTER_MS": "900",
            "TICKER_SERVICE_KITE_ROUTE_PREFIX": "/oms",
            "TICKER_SERVICE_KITE_WS_PARAMETERS": '{"user_id": "AB1234"}',
        }
    ).engine_config()
    assert config.kite.access_token == TOKEN
    assert config.kite.extra_parameters == (("user_id", "AB1234"),)
    assert (config.kite.route_prefix, config.redis_url) == ("/oms", REDIS_URL)
    wanted = config.subscription
    assert (wanted.mode, wanted.expiries_max, wanted.strikes_each_side) == (Mode.QUOTE, 2, 5)
    assert wanted.instruments == ("NSE:SBIN",)
    assert (config.publish.depth, config.publish.reprice_ms) == (True, 100)
    assert config.publish.smile_ms == 2_000
    assert (config.pricing.rate, config.flush.conflate_after_ms) == (0.065, 900)


def test_the_spaces_round_a_pasted_token_are_dropped(load: Load) -> None:
    loaded = load(GOOD | {"TICKER_SERVICE_KITE_ACCESS_TOKEN": f" {TOKEN}\n"})
    assert loaded.engine_config().kite.access_token == TOKEN


def test_the_calendar_is_what_the_operator_adds(load: Load) -> None:
    hours = (
        load(
            GOOD
            | {
                "TICKER_SERVICE_MARKET_HOLIDAYS": "2027-01-26, MCX:2027-03-22",
                "TICKER_SERVICE_MARKET_SESSIONS": "2026-11-08 13:45-14:45",
            }
        )
        .engine_config()
        .hours
    )
    assert hours.holidays == ("2027-01-26", "MCX:2027-03-22")
    assert hours.sessions == ("2026-11-08 13:45-14:45",)
    assert not hours.is_always_open


def test_nothing_is_recorded_unless_it_is_asked_for(load: Load) -> None:
    assert load().record_config() is None


def test_recordings_go_where_systemd_keeps_the_service_s_things(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/ticker-service:/var/lib/other")
    wanted = load(record=True).record_config()
    assert wanted is not None
    assert str(wanted.folder) == "/var/lib/ticker-service/record"


def test_without_systemd_recordings_go_below_the_current_folder(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    wanted = load(record=True).record_config()
    assert wanted is not None
    assert str(wanted.folder) == "record"


@pytest.mark.parametrize("is_installed", [False, True])
def test_columns_are_recorded_if_pyarrow_is_there_unless_said_otherwise(
    load: Load, monkeypatch: pytest.MonkeyPatch, *, is_installed: bool
) -> None:
    spec = object() if is_installed else None
    monkeypatch.setattr(settings, "find_spec", lambda _: spec)
    decided = [load(record=True, **more).record_config() for more in ({}, {"record_columns": True})]
    assert [each.columns for each in decided if each is not None] == [is_installed, True]


def test_recording_alone_needs_no_redis_and_has_no_orders(load: Load) -> None:
    environment = {name: value for name, value in GOOD.items() if "REDIS" not in name}
    alone = load(
        environment, kind=settings.RecordingSettings, record=True, redis_url="", accounts={}
    )
    assert alone.engine_config().redis_url == ""
    assert alone.order_half_config() is None
    assert alone.record_config() is not None


def test_the_daemon_does_not_run_without_redis(load: Load) -> None:
    assert "must begin with redis://" in with_fault(load, "REDIS_URL", "")


def test_a_limit_that_is_none_is_a_fault_that_names_those_there_are(load: Load) -> None:
    text = with_fault(load, "LIMITS", '{"orders_per_hour": 5}')
    assert "orders_per_hour: is no limit" in text
    assert "orders_per_minute" in text


def test_a_rule_that_is_none_is_a_fault_that_names_those_there_are(load: Load) -> None:
    text = with_fault(load, "ORDER_RULES", '{"no_ioc": false}')
    assert "no_ioc: is no rule" in text
    assert "no_ioc_on_mcx" in text


def test_a_freeze_quantity_below_nothing_is_a_fault(load: Load) -> None:
    assert "-1" in with_fault(load, "FREEZE_QUANTITIES", '{"NIFTY": -1}')


def with_groups(load: Load, **groups: object) -> settings.Settings:
    """Load settings of two accounts and some groups."""
    account = {"api_secret": "stand-in", "api_key": "one"}
    accounts = {
        "MAIN": {**account, "user_id": "AB1234"},
        "SPARE": {**account, "user_id": "CD5678"},
    }
    return load(
        GOOD
        | {
            "TICKER_SERVICE_DATABASE_URL": "postgresql://127.0.0.1/ticker",
            "TICKER_SERVICE_TOKEN_SECRET": "stand-in-secret-of-thirty-two-bytes!",  # allow-secret
            "TICKER_SERVICE_ACCOUNTS": json.dumps(accounts),
            "TICKER_SERVICE_GROUPS": json.dumps(groups),
        }
    )


def test_a_group_declares_its_accounts_and_what_allows_it(load: Load) -> None:
    pair = {"accounts": ["MAIN", "SPARE"], "basis": "one_owner"}
    loaded = with_groups(load, PAIR=pair, WIDE={**pair, "policy": "round_robin"}).accounts_config()
    first, second = loaded.groups
    assert (first.name, first.members, first.policy) == ("PAIR", ("MAIN", "SPARE"), "first_able")
    assert (second.policy, second.basis, second.moves_on_margin) == (
        "round_robin",
        "one_owner",
        False,
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"basis": None}, "groups.PAIR.basis"),
        ({"basis": "friends"}, "groups.PAIR.basis"),
        ({"policy": "random"}, "groups.PAIR.policy"),
        ({"accounts": ["MAIN"]}, "groups.PAIR.accounts"),
        ({"accounts": ["MAIN", "OTHER"]}, "PAIR.accounts: ['OTHER'] must be of the accounts"),
        ({"accounts": ["MAIN", "MAIN"]}, "names an account twice"),
        ({"members": []}, "groups.PAIR.members: is not a setting"),
    ],
)
def test_a_group_that_could_not_be_meant_is_refused(
    load: Load, changed: dict[str, object], told: str
) -> None:
    pair = {"accounts": ["MAIN", "SPARE"], "basis": "one_owner"} | changed
    with pytest.raises(ConfigurationError) as caught:
        with_groups(load, PAIR={name: value for name, value in pair.items() if value is not None})
    assert told in str(caught.value)


def test_a_group_has_a_name_of_its_own(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="SPARE: is the name of an account"):
        with_groups(load, SPARE={"accounts": ["MAIN", "SPARE"], "basis": "one_owner"})


ACCOUNT = '{"user_id": "AB1234", "api_key": "abcd", "api_secret": "stand-in"}'  # allow-secret


@pytest.mark.parametrize(
    ("risk", "fault"),
    [
        ("accounts.MIAN", "accounts='MIAN': is not declared: MAIN may be named"),
        ("groups.PIAR", "groups='PIAR': is not declared: none may be named"),
    ],
)
def test_limits_of_an_account_or_group_that_is_not_declared_are_a_fault_at_the_start_and_in_the_shell(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, risk: str, fault: str
) -> None:
    monkeypatch.setenv("TICKER_SERVICE_ACCOUNTS", f'{{"MAIN": {ACCOUNT}}}')
    toml = f"[risk.{risk}]\norder_quantity_max = 10\n"
    assert fault in faults(load, GOOD, toml)
    with pytest.raises(ConfigurationError, match=fault):
        settings.risk_limits(tmp_path / "ticker-service.toml")
