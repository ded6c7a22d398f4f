"""A halted account, seen from outside: refusals, health, metrics, notices, the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from order_house import House, new_name
from running import DEADLINE_S, ROOT, environment, eventually, subscriber

if TYPE_CHECKING:
    from collections.abc import Callable


def shell(home: House, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments, "--config", os.devnull],
        cwd=ROOT,
        env=environment(home.settings),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


def is_notice(**facts: object) -> Callable[[dict[str, Any]], bool]:
    return lambda notice: all(notice.get(name) == value for name, value in facts.items())


def test_a_wrong_address_halts_the_account_until_somebody_resumes_it(home: House) -> None:
    key, later = new_name(), new_name()
    halted = is_notice(kind="account", account="SPARE", state="halted", code="WRONG_IP")
    resumed = is_notice(kind="account", account="SPARE", state="resumed", code="WRONG_IP")
    gauge = 'account_halted{account="SPARE",code="WRONG_IP"}'
    channel = f"{home.settings['channel_prefix']}events"
    with (
        home.caller(accounts="all") as caller,
        subscriber(str(home.settings["redis_url"]), channel) as events,
    ):
        resting = new_name()
        caller.place(resting, home.order(), account="SPARE")
        caller.reaches(resting, "WORKING")
        looked = _way_out(home, "SPARE")
        assert (looked["verdict"], looked["address"]) == ("registered", "127.0.0.1")
        assert home.daemon.metric('egress_registered{account="SPARE"}') == 1.0
        home.exchange.fault(
            fault="refuse_4xx",
            user_id="CD5678",
            method="place",
            count=1,
            status_code=403,
            error_type="PermissionException",
            message="Orders are not allowed from this IP",
        )

        caller.place(key, home.order(), account="SPARE")

        rejected = caller.reaches(key, "REJECTED")
        assert rejected["code"] == "WRONG_IP"
        told = events.until(halted)
        assert told["until_us"] is None
        # The refusal has the way out looked at again.
        before_us = looked["checked_at_us"]
        assert eventually(lambda: _way_out(home, "SPARE")["checked_at_us"] > before_us, pace_s=0.5)
        refused = caller.place(later, home.order(), account="SPARE")
        assert refused.status_code == 503
        assert refused.json()["code"] == "ACCOUNT_HALTED"
        assert "account resume SPARE" in refused.json()["rule"]
        body = home.daemon.ready().json()
        assert body["accounts"] == {"MAIN": "open", "SPARE": "halted"}
        (halt,) = body["halts"]
        assert (halt["account"], halt["code"], halt["until_us"]) == ("SPARE", "WRONG_IP", None)
        assert home.daemon.metric(gauge) == 1.0
        gone = caller.ask("DELETE", f"/{resting}", params={"request_id": f"{resting}-c"})
        assert gone.status_code == 202
        caller.reaches(resting, "CANCELLED")

        assert "SPARE WRONG_IP" in shell(home, "account", "halts").stdout
        examined = shell(home, "doctor")
        assert examined.returncode == 1
        assert "FAULT halts" in examined.stdout
        assert shell(home, "account", "resume", "SPARE").stdout == "SPARE WRONG_IP: lifted\n"

        events.until(resumed)
        assert shell(home, "account", "resume", "SPARE").stdout == "SPARE: was not halted\n"
        assert eventually(lambda: home.daemon.metric(gauge) == 0.0)
        caller.place(later, home.order(), account="SPARE")
        caller.reaches(later, "WORKING")
        assert home.daemon.ready().json()["halts"] == []


def _way_out(home: House, account: str) -> dict[str, Any]:
    looks: list[dict[str, Any]] = home.daemon.ready().json()["egress"]
    return next(look for look in looks if look["account"] == account)


def test_the_metrics_show_every_queue_of_every_account(home: House) -> None:
    samples = home.daemon.metrics()
    for account in ("MAIN", "SPARE"):
        for lane in ("orders", "cancels", "reads"):
            assert f'broker_requests_waiting{{account="{account}",lane="{lane}"}}' in samples
            assert f'broker_requests_refused_total{{account="{account}",lane="{lane}"}}' in samples
        for lane in ("place", "cancel"):
            assert f'order_sends_waiting{{account="{account}",lane="{lane}"}}' in samples


def test_resuming_an_account_that_is_not_configured_is_refused(home: House) -> None:
    ran = shell(home, "account", "resume", "NOBODY")
    assert ran.returncode == 2
    assert "NOBODY" in ran.stderr
