"""A login while the daemon runs: feed and orders take the new token by themselves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson
from order_house import SECRET, House, migrated_database, new_name
from running import (
    DEADLINE_S,
    LIVELY,
    ROOT,
    Daemon,
    Exchange,
    assert_gap_free,
    daemon,
    environment,
    eventually,
    exchange,
    is_kind,
    log_in,
    subscriber,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ON_THEIR_WAY_MAX: Final = 4
"""So many orders of an account are sent at the same time."""
PASSPHRASE: Final = "stand-in passphrase for tests"  # allow-secret


@dataclass
class Home:
    """A daemon that starts without any token, and what a person does about that."""

    daemon: Daemon
    exchange: Exchange
    settings: dict[str, object]

    def log_in(self) -> None:
        """Go through the broker's page, and hand what it leads to to `ticker-service login`."""
        banner = self.exchange.banner
        query = {"v": "3", "api_key": banner["api_key"], "user_id": self.exchange.user_id}
        with httpx.Client(trust_env=False) as http:
            where = str(http.get(banner["login_url"], params=query).headers["location"])
        ran = subprocess.run(
            [sys.executable, "-m", "app.cli", "login", "MAIN", "--config", os.devnull],
            cwd=ROOT,
            env=environment(self.settings),
            input=where + "\n",
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr

    def stands(self, feed: str, account: str) -> dict[str, Any]:
        """Wait until feed and account are in these states; return what health says."""

        def answer() -> dict[str, Any] | None:
            body: dict[str, Any] = self.daemon.ready().json()
            found = (body["feed"], body["accounts"]["MAIN"])
            return body if found == (feed, account) else None

        body = eventually(answer)
        assert body, (self.daemon.ready().json(), self.daemon.program.err.text()[-3000:])
        return body


@contextlib.contextmanager
def home_without_token(
    redis_url: str, prefix: str, folder: Path, **settings: object
) -> Iterator[Home]:
    with migrated_database() as database_url, exchange(LIVELY) as market:
        account = {
            "user_id": market.user_id,
            "api_key": market.api_key,
            "api_secret": market.banner["api_secret"],
        }
        chosen = {
            **market.settings(),
            "redis_url": redis_url,
            "channel_prefix": prefix,
            "heartbeat_ms": 100,
            "snapshot_ms": 100,
            "database_url": database_url,
            "journal_may_be_volatile": True,
            "accounts": orjson.dumps({"MAIN": account}).decode(),
            "token_folder": folder,
            "token_passphrase": PASSPHRASE,
            "token_secret": SECRET,
            "orders_port": 0,
            "order_book_poll_s": 0.3,
            **settings,
        }
        del chosen["kite_access_token"]
        with daemon(chosen) as running:
            yield Home(running, market, chosen)


def test_feed_and_orders_come_up_with_every_login_and_never_retry_a_dead_token(
    redis_url: str, prefix: str, tmp_path: Path
) -> None:
    with (
        subscriber(redis_url, f"{prefix}ticks:NIFTY") as book,
        subscriber(redis_url, f"{prefix}events") as notices,
        home_without_token(redis_url, prefix, tmp_path / "tokens") as home,
    ):
        house = House(home.daemon, home.exchange, home.settings, price="1")
        simulator = home.exchange.simulator
        home.stands("login_required", "login_required")
        book.until(is_kind("status", state="login_required"))
        notices.until(is_kind("account", account="MAIN", state="login_required"))
        assert simulator.upgrades == 0

        home.log_in()

        home.stands("up", "open")
        home.daemon.becomes_ready()
        book.until(is_kind("status", state="feed_up"))
        assert simulator.upgrades == 1
        key = log_in(simulator, home.exchange.user_id)
        quote = httpx.get(
            f"{home.exchange.rest_root}/quote?i=NSE:INFY",
            headers={"Authorization": f"token {home.exchange.api_key}:{key}"},
            trust_env=False,
        ).json()["data"]["NSE:INFY"]
        house.price = str(quote["depth"]["buy"][4]["price"])
        first, refused, second = new_name(), new_name(), new_name()
        with house.caller() as caller:
            caller.place(first, house.order())
            caller.reaches(first, "WORKING", "FILLED")

            home.exchange.fault(fault="expire_tokens", user_id=home.exchange.user_id)

            book.until(is_kind("status", state="login_required"))
            home.stands("login_required", "login_required")
            notices.until(is_kind("account", account="MAIN", state="login_required"))
            for _ in range(30):
                beat = book.until(is_kind("heartbeat"))
            assert beat["feed"] == "login_required"
            assert simulator.upgrades == 2
            answer = caller.place(refused, house.order())
            assert (answer.status_code, answer.json()["code"]) == (503, "ACCOUNT_NOT_OPEN")
            assert "login_required" in answer.json()["rule"]

            home.log_in()

            # The first gap was that of the start; this one is followed by what came up with it.
            book.until(is_kind("status", state="feed_up"))
            book.until(is_kind("batch"))
            notices.until(is_kind("token", account="MAIN", state="changed"))
            home.stands("up", "open")
            assert simulator.upgrades == 3
            caller.place(second, house.order())
            caller.reaches(second, "WORKING", "FILLED")
        assert {message["epoch"] for message in book.seen} == {home.daemon.epoch}
        assert_gap_free(book.seen)
        assert PASSPHRASE not in home.daemon.program.err.text()


def test_what_waits_when_the_token_dies_goes_out_once_after_the_login(
    redis_url: str, prefix: str, tmp_path: Path
) -> None:
    """Fault F20: one order rests, some are on their way, some wait; then the token is worth nothing.

    What the broker sees of the dead token is what was on its way together, and nothing after that.
    """
    # One a second: however slow the machine is, most of them wait when the token dies.
    settings = {"order_deadline_s": 120, "limits": '{"orders_per_second": 2}'}
    with home_without_token(redis_url, prefix, tmp_path / "tokens", **settings) as home:
        home.stands("login_required", "login_required")
        home.log_in()
        home.stands("up", "open")
        house = House(home.daemon, home.exchange, home.settings, price="1")
        simulator = home.exchange.simulator
        key = log_in(simulator, home.exchange.user_id)
        quote = httpx.get(
            f"{home.exchange.rest_root}/quote?i=NSE:INFY",
            headers={"Authorization": f"token {home.exchange.api_key}:{key}"},
            trust_env=False,
        ).json()["data"]["NSE:INFY"]
        house.price = str(quote["depth"]["buy"][4]["price"])
        resting, waiting = new_name(), [new_name() for _ in range(12)]
        with house.caller("desk") as caller, house.talk("desk") as talk:
            assert talk.reply()["op"] == "ack"
            caller.place(resting, house.order())
            caller.reaches(resting, "WORKING", "FILLED")
            for each in waiting:
                talk.say(op="place", client_order_id=each, account="MAIN", order=house.order())
            assert [talk.reply()["op"] for _ in waiting] == ["ack"] * len(waiting)

            home.exchange.fault(fault="expire_tokens", user_id=home.exchange.user_id)

            home.stands("login_required", "login_required")
            before = refused_for_the_token(home)
            states = {caller.status(each)["state"] for each in waiting}
            assert states <= {"RECEIVED", "READY", "SENDING", "ACKED", "WORKING", "FILLED"}
            assert "READY" in states
            withdrawn = next(k for k in reversed(waiting) if caller.status(k)["state"] == "READY")
            caller.ask("DELETE", f"/{withdrawn}", params={"request_id": new_name()})
            caller.reaches(withdrawn, "CANCELLED_LOCAL")
            # A second of ticks later nobody has tried the dead token again.
            with subscriber(redis_url, f"{prefix}ticks:NIFTY") as book:
                for _ in range(10):
                    book.until(is_kind("heartbeat"))
            assert refused_for_the_token(home) == before <= ON_THEIR_WAY_MAX

            home.log_in()

            home.stands("up", "open")
            for each in waiting:
                if each != withdrawn:
                    caller.reaches(each, "WORKING", "FILLED")
        sent = [entry for entry in ledger(home) if entry["kind"] == "accepted"]
        tags = [entry["tag"] for entry in sent if entry["method"] == "place"]
        assert len(tags) == len(set(tags)) == len(waiting)  # the first, and all but the withdrawn


def ledger(home: Home) -> list[dict[str, Any]]:
    answer = httpx.get(f"{home.exchange.rest_root}/sim/ledger", trust_env=False).json()["data"]
    entries: list[dict[str, Any]] = answer["entries"]
    return entries


def refused_for_the_token(home: Home) -> int:
    """Return how many orders came with a token that is worth nothing."""
    return sum(
        entry["kind"] == "received" and entry["user_id"] is None and entry["method"] == "place"
        for entry in ledger(home)
    )
