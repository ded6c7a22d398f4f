"""The risk gate of a running daemon: at the doors, in the shell, and changed while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from order_house import STILL, House, house, new_name
from running import DEADLINE_S, ROOT, environment, eventually

from app.security.tokens import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Prices have to be of now, so the market trades.
LIVELY = dataclasses.replace(STILL, rate_per_s=1_000.0)
LIMITS = """
[risk]
reference_age_s_max = 10
price_collar_percent = 20
circuit_limits = true
sell_only_holdings = true

[risk.accounts.MAIN]
open_value_inr_max = {value}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("risk") / "settings.toml"


@pytest.fixture(scope="module")
def limited(redis_url: str, config: Path) -> Iterator[House]:
    config.write_text("")
    with house(redis_url, f"test-{uuid.uuid4().hex}:", options=LIVELY, config=config) as home:
        before = shown(home)["version"]
        config.write_text(LIMITS.format(value=10_000_000))
        home.daemon.program.signal(signal.SIGHUP)
        assert eventually(lambda: shown(home)["version"] != before)
        yield home


def shell(home: House, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    port = int(home.daemon.health_url.rpartition(":")[2])
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments, "--config", os.fspath(config)],
        cwd=ROOT,
        env=environment(home.settings | {"health_port": port}),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


def shown(home: House) -> dict[str, Any]:
    with home.caller() as caller:
        answer = httpx.get(
            f"{home.rest_url}/v1/risk",
            headers={"Authorization": f"Bearer {caller.token}"},
            trust_env=False,
        )
    (main,) = answer.raise_for_status().json()["accounts"]
    return dict(main)


def test_an_order_within_the_limits_is_taken_and_its_event_says_by_what(limited: House) -> None:
    with limited.caller() as caller:
        key = new_name()
        resting = f"{Decimal(limited.price) * Decimal('0.9'):.0f}.00"
        taken = caller.place(key, limited.order(price=resting))
        assert taken.status_code == 202, taken.text
        caller.reaches(key, "WORKING")
        events = caller.events("MAIN", after=0)
        (first,) = [
            each for each in events if (each["client_order_id"], each["event"]) == (key, "received")
        ]
        risk = first["data"]["risk"]
        assert risk["limits"] == shown(limited)["version"]
        assert risk["reference_source"] == "quote"
        assert Decimal(str(risk["reference_inr"])) > 0


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"price": "1.00"}, "RISK_CIRCUIT", "order.price"),
        ({"transaction_type": "SELL", "quantity": 6_000}, "RISK_HOLDINGS", "order.quantity"),
        ({"quantity": 9_000}, "RISK_OPEN_VALUE", "order"),
    ],
    ids=["circuit", "holdings", "open value"],
)
def test_a_denial_says_field_value_and_limit_and_is_counted_and_listed(
    limited: House, changes: dict[str, object], code: str, field: str
) -> None:
    key, gauge = new_name(), f'risk_denials_total{{account="MAIN",rule="{code}"}}'
    before = limited.daemon.metric(gauge)
    with limited.caller() as caller:
        refused = caller.place(key, limited.order(**changes))
        assert (refused.status_code, refused.json()["code"]) == (422, code), refused.text
        assert refused.json()["field"] == field
        assert caller.ask("GET", f"/{key}").status_code == 404
    (listed,) = [each for each in shown(limited)["denials"] if each["client_order_id"] == key]
    assert (listed["code"], listed["version"]) == (code, shown(limited)["version"])
    assert limited.daemon.metric(gauge) == before + 1.0


def test_limits_that_change_are_in_force_after_sighup_and_faulty_ones_are_not(
    limited: House, config: Path
) -> None:
    before = shown(limited)["version"]
    config.write_text(LIMITS.format(value=1))
    limited.daemon.program.signal(signal.SIGHUP)
    assert eventually(lambda: shown(limited)["version"] != before)
    with limited.caller() as caller:
        refused = caller.place(new_name(), limited.order())
        assert refused.json()["code"] == "RISK_OPEN_VALUE", refused.text

    lower = shown(limited)["version"]
    config.write_text(LIMITS.format(value='"much"'))
    limited.daemon.program.signal(signal.SIGHUP)
    assert limited.daemon.program.err.wait_for(lambda line: "risk_limits_not_read" in line)
    assert shown(limited)["version"] == lower

    config.write_text(LIMITS.format(value=10_000_000))
    limited.daemon.program.signal(signal.SIGHUP)
    assert eventually(lambda: shown(limited)["version"] == before)


@contextlib.contextmanager
def reloading(home: House) -> Iterator[Callable[[], httpx.Response]]:
    """Yield what asks the daemon to read its limits again, as a caller who may."""
    principal = new_name("operator")
    token = home.token(principal, scopes=(*Scope,), accounts="all")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=home.rest_url, headers=headers, trust_env=False) as http:
        yield lambda: http.post("/v1/risk/reload")


def test_limits_are_read_again_when_the_door_is_asked_and_faulty_ones_change_nothing(
    limited: House, config: Path
) -> None:
    before = shown(limited)["version"]
    with reloading(limited) as reload:
        assert reload().json() == {"version": before, "before": before, "has_changed": False}
        config.write_text(LIMITS.format(value=7_000_000))
        try:
            changed = reload().raise_for_status().json()
            now = shown(limited)
            assert changed == {"version": now["version"], "before": before, "has_changed": True}
            assert now["limits"]["open_value_inr_max"] == "7000000"
            assert limited.daemon.program.err.wait_for(
                lambda line: "risk_limits_read" in line and now["version"] in line
            )
            config.write_text(LIMITS.format(value='"much"') + "order_lots_max = 0\nlot = 1\n")
            refused = reload()
            assert (refused.status_code, refused.json()["code"]) == (422, "RISK_LIMITS")
            told = refused.json()
            assert (told["field"], told["value"]) == ("accounts.MAIN.open_value_inr_max", "much")
            assert told["rule"].startswith("must be a number of rupees above 0")
            assert "accounts.MAIN.order_lots_max=0: must be" in told["rule"]
            assert "accounts.MAIN.lot: is no limit" in told["rule"]
            config.write_text("[risk.accounts.MIAN]\norder_lots_max = 1\n")
            assert reload().json()["rule"] == "is not declared: MAIN, SPARE may be named"
            for lost in (lambda: config.write_text("[risk\n"), config.unlink, config.touch):
                lost()
                assert (reload().status_code, reload().json()["code"]) == (422, "RISK_LIMITS")
            assert shown(limited)["version"] == now["version"]
        finally:
            config.write_text(LIMITS.format(value=10_000_000))
            reload().raise_for_status()
        assert shown(limited)["version"] == before


def test_the_shell_has_limits_read_again_and_says_which_are_in_force(limited: House) -> None:
    token = limited.token(new_name("operator"), scopes=(*Scope,), accounts="all")
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "risk", "reload", "--url", limited.ws_url],
        cwd=ROOT,
        env=environment({}) | {"TICKER_ORDERS_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.stdout == f"version {shown(limited)['version']}: unchanged\n", done.stderr
    assert done.returncode == 0


def test_an_order_goes_if_the_broker_has_the_margin_for_it_and_is_denied_with_the_numbers(
    limited: House, config: Path
) -> None:
    config.write_text(
        LIMITS.format(value=10_000_000) + "\n[risk.accounts.SPARE]\nbroker_margin = true\n"
    )
    price = (Decimal(limited.price) * Decimal("0.9")).quantize(Decimal(1))
    order = limited.order(price=f"{price}.00", product="CNC")
    cash_inr = Decimal(LIVELY.cash_inr)
    too_many = int(cash_inr / price) + 1
    with (
        reloading(limited) as reload,
        limited.caller(accounts=["SPARE"], scopes=(*Scope,)) as caller,
    ):
        assert reload().json()["has_changed"]
        try:
            lacks, has = new_name("margin"), new_name("margin")
            refused = caller.place(lacks, order | {"quantity": too_many}, account="SPARE")
            assert (refused.status_code, refused.json()["code"]) == (422, "RISK_MARGIN")
            (account,) = caller.at("GET", "/risk").json()["accounts"]
            (denial,) = [each for each in account["denials"] if each["client_order_id"] == lacks]
            assert Decimal(denial["numbers"]["margin_inr"]) == price * too_many
            available_inr = Decimal(denial["numbers"]["available_inr"])
            assert 0 < available_inr <= cash_inr
            assert f"free margin of {available_inr:f} rupees" in refused.json()["rule"]
            assert caller.ask("GET", f"/{lacks}").status_code == 404

            assert caller.place(has, order, account="SPARE").status_code == 202
            caller.reaches(has, "WORKING")
            (first,) = [
                each
                for each in caller.events("SPARE", after=0)
                if (each["client_order_id"], each["event"]) == (has, "received")
            ]
            assert Decimal(first["data"]["risk"]["margin_inr"]) == price
            assert 0 < Decimal(first["data"]["risk"]["available_inr"]) <= cash_inr
            caller.ask("DELETE", f"/{has}", params={"request_id": new_name()}).raise_for_status()
            caller.reaches(has, "CANCELLED")
        finally:
            config.write_text(LIMITS.format(value=10_000_000))
            assert reload().json()["has_changed"]


def test_the_shell_lists_limits_shows_their_use_and_lifts_nothing_where_nothing_stands(
    limited: House, config: Path
) -> None:
    listed = shell(limited, config, "risk", "limits")
    assert listed.returncode == 0, listed.stderr
    assert "* price_collar_percent       20" in listed.stdout
    assert "* account MAIN: open_value_inr_max = 10000000" in listed.stdout
    told = shell(limited, config, "risk", "show", "MAIN")
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"limits of version {shown(limited)['version']}" in told.stdout
    assert "open: " in told.stdout
    with limited.caller() as caller:
        assert caller.place(new_name("slip"), limited.order(price="1.00")).status_code == 422
    journalled = eventually(
        lambda: (
            said
            if "slip-" in (said := shell(limited, config, "risk", "history", "MAIN").stdout)
            else ""
        )
    )
    assert "RISK_CIRCUIT: must be within the day's circuit limits" in journalled
    assert "  price_collar_percent: unset -> 20" in journalled
    assert f"version {shown(limited)['version']} came into force" in journalled
    lifted = shell(limited, config, "risk", "lift", "MAIN")
    assert (lifted.returncode, lifted.stdout) == (0, "account MAIN: no loss has stopped it\n")
    wrong = shell(limited, config, "risk", "show", "NOBODY")
    assert wrong.returncode == 1


def test_who_may_not_use_an_account_sees_no_limits_of_it_and_lifts_nothing(limited: House) -> None:
    token = limited.token(new_name("caller"), accounts=["SPARE"])
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=limited.rest_url, headers=headers, trust_env=False) as http:
        (spare,) = http.get("/v1/risk").json()["accounts"]
        assert spare["account"] == "SPARE"
        assert http.get("/v1/risk", params={"account": "MAIN"}).status_code == 404
        assert http.delete("/v1/risk/latch", params={"account": "SPARE"}).status_code == 403
        assert http.post("/v1/risk/reload").status_code == 403
    some = limited.token(new_name("caller"), scopes=(*Scope,), accounts=["SPARE"])
    headers = {"Authorization": f"Bearer {some}"}
    with httpx.Client(base_url=limited.rest_url, headers=headers, trust_env=False) as http:
        refused = http.post("/v1/risk/reload")
        assert (refused.status_code, refused.json()["field"]) == (403, "accounts")
    admin = limited.token(new_name("caller"), scopes=(*Scope,), accounts="all")
    headers = {"Authorization": f"Bearer {admin}"}
    with httpx.Client(base_url=limited.rest_url, headers=headers, trust_env=False) as http:
        answer = http.delete("/v1/risk/latch", params={"account": "SPARE"})
        assert (answer.status_code, answer.json()) == (200, {"lifted": []})
