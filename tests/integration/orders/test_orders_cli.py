"""The command line of the order half: one clear line and a status, and no secret in either."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import pytest
from order_house import SECRET, Caller, House, new_name
from running import DEADLINE_S, ROOT, environment, eventually, program

from app.embedded import embedded_postgres_process
from app.fresh_databases import fresh_database, template_database
from app.security.tokens import TokenVerifier
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PASSPHRASE = "a passphrase nobody types"  # allow-secret


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


def run(*arguments: str, env: Mapping[str, str] | None = None, given: str = "") -> Ran:
    """Run one command to its end; whatever it says holds no secret and no traceback."""
    chosen = dict(environment() if env is None else env)
    ran = subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env=chosen,
        input=given,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert "Traceback" not in said, said
    for secret in (SECRET, PASSPHRASE):
        assert secret not in said
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def refused(ran: Ran, *words: str) -> None:
    """Check that a command ended with a fault and one line that says it."""
    assert ran.status != 0
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    for word in words:
        assert word in ran.err, ran.err


def env_of(home: House, **more: object) -> dict[str, str]:
    return environment({**home.settings, **more})


# --- token create ---------------------------------------------------------------------------------


def test_a_token_is_made_that_the_doors_take(home: House) -> None:
    made = run("token", "create", "desk-1", "--account", "MAIN", "--hours", "1", env=env_of(home))
    assert made.status == 0, made.err
    principal = TokenVerifier(SECRET.encode()).verify(made.out.strip(), SystemClock().now_ns())
    assert (principal.subject, principal.accounts) == ("desk-1", frozenset({"MAIN"}))
    assert principal.scopes == {"orders:read", "orders:write"}
    headers = {"Authorization": f"Bearer {made.out.strip()}"}
    answer = httpx.get(f"{home.rest_url}/v1/orders", headers=headers, trust_env=False)
    assert answer.status_code == 200


def test_without_a_secret_no_token_is_made(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    create = ("token", "create", "me", "--account", "MAIN", "--config")
    refused(run(*create, str(empty)), "TOKEN_SECRET")
    refused(run(*create, str(tmp_path / "typo.toml")), "typo.toml", "no such settings file")


def test_a_subject_that_cannot_be_one_is_refused(home: House) -> None:
    refused(run("token", "create", "a b", "--account", "MAIN", env=env_of(home)), "sub")


# --- order ----------------------------------------------------------------------------------------


@pytest.fixture
def shell(home: House) -> dict[str, str]:
    """The environment of somebody who orders from a shell."""
    return environment(
        {}, TICKER_ORDERS_URL=home.ws_url, TICKER_ORDERS_TOKEN=home.token(new_name("caller"))
    )


def told(ran: Ran) -> dict[str, Any]:
    assert ran.status == 0, ran.err
    answer: dict[str, Any] = orjson.loads(ran.out)
    return answer


def test_an_order_is_placed_changed_cancelled_and_asked_for(
    home: House, shell: dict[str, str]
) -> None:
    key = new_name()
    what = ["--account", "MAIN", "--symbol", "NSE:INFY", "--side", "buy", "--quantity", "1"]
    what += ["--product", "cnc", "--price", home.price]
    placed = told(run("order", "place", key, *what, env=shell))
    again = told(run("order", "place", key, *what, env=shell))
    assert placed["task_id"] == again["task_id"]
    assert told(run("order", "modify", key, "--quantity", "2", env=shell))["kind"] == "MODIFY"
    assert told(run("order", "cancel", key, env=shell))["kind"] == "CANCEL"
    assert told(run("order", "status", key, env=shell))["client_order_id"] == key


def test_what_is_open_is_listed_and_how_each_change_of_an_order_ended(
    home: House, shell: dict[str, str]
) -> None:
    key, token = new_name(), shell["TICKER_ORDERS_TOKEN"]
    with Caller(home.rest_url, token) as caller:
        caller.place(key, home.order())
        caller.reaches(key, "WORKING")
        open_tasks = told(run("order", "list", "--open", "--json", env=shell))["orders"]
        assert [task["client_order_id"] for task in open_tasks] == [key]
        told(run("order", "cancel", key, "--request-id", f"{key}-c", env=shell))
        caller.reaches(key, "CANCELLED")
    (cancel,) = told(run("order", "changes", key, "--json", env=shell))["orders"]
    assert (cancel["request_id"], cancel["kind"], cancel["state"]) == (
        f"{key}-c",
        "CANCEL",
        "ACKED",
    )
    everything = run("order", "list", "--account", "MAIN", "--limit", "2", env=shell)
    assert everything.status == 0
    for word in ("CANCELLED", "INFY", "MAIN"):
        assert word in everything.out
    assert told(run("order", "list", "--open", "--json", env=shell)) == {"orders": []}


def test_a_cover_order_is_placed_and_exited_from_the_shell(
    home: House, shell: dict[str, str]
) -> None:
    key = new_name()
    stop = f"{float(home.price) * 0.95:.1f}"
    what = ["--account", "MAIN", "--symbol", "NSE:INFY", "--side", "BUY", "--quantity", "1"]
    what += ["--variety", "co", "--type", "MARKET", "--market-protection", "5", "--product", "MIS"]
    told(run("order", "place", key, *what, "--trigger-price", stop, env=shell))
    with Caller(home.rest_url, shell["TICKER_ORDERS_TOKEN"]) as caller:
        caller.reaches(key, "FILLED")
        told(run("order", "exit", key, "--request-id", f"{key}-x", env=shell))
        assert eventually(lambda: caller.changes(key)[0]["state"] == "ACKED", pace_s=0.5)
    parts = ["--variety", "iceberg", "--iceberg-legs", "2", "--iceberg-quantity", "2"]
    refused(
        run("order", "place", new_name(), *what[:-6], *parts, "--price", home.price, env=shell),
        "iceberg_quantity",
    )


def test_a_list_that_cannot_be_had_is_one_line(home: House, shell: dict[str, str]) -> None:
    refused(run("order", "changes", "nobodys", env=shell), "must be one of your orders")
    refused(run("order", "list", "--account", "NOBODYS", env=shell), "must be an account of yours")
    refused(run("order", "list", env=shell | {"TICKER_ORDERS_TOKEN": ""}), "no token")
    refused(run("order", "list", env=shell | {"TICKER_ORDERS_URL": "nonsense"}), "no order door")


def test_a_refused_order_is_one_line_with_its_field(home: House, shell: dict[str, str]) -> None:
    what = ["--account", "MAIN", "--symbol", "NASDAQ:X", "--side", "BUY", "--quantity", "1"]
    refused(run("order", "place", "k", *what, "--price", "1", env=shell), "exchange", "NASDAQ")
    refused(run("order", "status", "nobodys", env=shell), "UNKNOWN_ORDER")


def test_events_are_followed_a_line_each(home: House, shell: dict[str, str]) -> None:
    with program("order", "watch", "MAIN", "--after", "0", env=shell) as watching:
        first = orjson.loads(watching.out.wait_for(lambda _: True))
        assert (first["op"], first["account_seq"]) == ("event", 1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ws://127.0.0.1:1/v1/orders/ws", "no order door"),
        ("nonsense", "no order door"),
        ("http://127.0.0.1:1/", "no order door"),
    ],
)
@pytest.mark.parametrize("verb", ["status", "watch"])
def test_a_door_that_is_not_there_is_one_line(verb: str, url: str, words: str) -> None:
    refused(run("order", verb, "k", "--url", url, "--token", "t"), words)


@pytest.mark.parametrize("verb", ["status", "watch"])
@pytest.mark.parametrize("token", ["", "a.b.c", "schlüssel"])
def test_a_token_that_is_not_good_is_one_line(home: House, verb: str, token: str) -> None:
    refused(run("order", verb, "MAIN", "--url", home.ws_url, "--token", token))


def test_who_follows_hears_when_the_token_ends(home: House) -> None:
    short = home.token(new_name("caller"), lifetime_s=8)  # a busy machine takes seconds to start
    ran = run("order", "watch", "MAIN", "--url", home.ws_url, "--token", short)
    refused(ran, "token expired")


# --- migrate --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_url() -> Iterator[str]:
    """The address of a database without any table."""
    with (
        embedded_postgres_process(durable=False) as server,
        template_database(server.url, lambda _: None) as template,
        fresh_database(template) as url,
    ):
        yield url


def test_a_database_is_migrated_once(empty_url: str) -> None:
    env = environment({}, DATABASE_URL=empty_url)
    first, second = run("migrate", env=env), run("migrate", env=env)
    assert (first.status, second.status) == (0, 0)
    assert "0001_pre_order_journal" in first.out
    assert (second.out, second.err) == ("", "0 migrations applied\n")


def test_a_database_that_is_not_there_is_one_line() -> None:
    url = "postgresql://somebody:hidden-word@127.0.0.1:1/none"  # allow-secret
    ran = run("migrate", env=environment({}, DATABASE_URL=url))
    refused(ran)
    assert "hidden-word" not in ran.err


def test_without_an_address_nothing_is_migrated(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    refused(run("migrate", "--config", str(empty)), "DATABASE_URL")


# --- doctor ---------------------------------------------------------------------------------------

NOWHERE = "127.0.0.1:1"


def test_the_doctor_finds_nothing_wrong_with_what_runs(home: House) -> None:
    ran = run("doctor", env=env_of(home))
    assert ran.status == 0, ran.out
    # What is no check, such as how the daemon does, begins with a dash.
    lines = [line for line in ran.out.splitlines() if not line.startswith("- ")]
    assert all(line.startswith("ok ") for line in lines), lines
    names = [line.split()[1].rstrip(":") for line in lines]
    assert names == [
        "redis",
        "instruments",
        "clock",
        "database",
        "account",
        "account",
        "way",
        "way",
        "halts",
        "journal",
    ]


@pytest.mark.parametrize(
    ("settings", "name", "advice"),
    [
        ({"redis_url": f"redis://{NOWHERE}/0"}, "redis", "REDIS_URL"),
        ({"underlyings": "NOSUCHNAME"}, "instruments", "Kite's dump"),
        ({"kite_rest_root": f"http://{NOWHERE}"}, "instruments", "kite_rest_root"),
        ({"kite_rest_root": f"http://{NOWHERE}"}, "clock", "kite_rest_root"),
        ({"kite_rest_root": f"http://{NOWHERE}"}, "account MAIN", "kite_rest_root"),
        ({"database_url": f"postgresql://x@{NOWHERE}/x"}, "database", "start PostgreSQL"),
        ({"journal_may_be_volatile": False}, "database", "keeps what it confirms"),
    ],
    ids=["redis", "names", "broker", "broker's clock", "no answer", "database", "durability"],
)
def test_the_doctor_names_each_fault_and_what_to_do(
    home: House, settings: dict[str, object], name: str, advice: str
) -> None:
    ran = run("doctor", env=env_of(home, **settings))
    assert ran.status == 1
    lines = ran.out.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith(f"FAULT {name}:")]
    assert lines[at + 1].strip().startswith("->")
    assert advice in lines[at + 1]


def test_the_doctor_says_that_orders_leave_from_an_address_nobody_registered(home: House) -> None:
    accounts: dict[str, Any] = orjson.loads(str(home.settings["accounts"]))
    accounts["MAIN"]["registered_addresses"] = ["203.0.113.7"]
    ran = run("doctor", env=env_of(home, accounts=orjson.dumps(accounts).decode()))
    assert ran.status == 1
    assert "FAULT way out MAIN: orders leave from 127.0.0.1, registered is 203.0.113.7" in ran.out
    assert "ok    way out SPARE: orders leave from 127.0.0.1, which is registered" in ran.out
    silent = run("doctor", env=env_of(home, egress_probe_url=f"http://{NOWHERE}"))
    assert "FAULT way out MAIN: no answer from" in silent.out


def test_the_doctor_asks_for_a_login_where_the_broker_refuses_the_token(home: House) -> None:
    accounts: dict[str, Any] = orjson.loads(str(home.settings["accounts"]))
    accounts["SPARE"]["access_token"] = "stale-and-hidden"
    del accounts["MAIN"]["access_token"]
    ran = run("doctor", env=env_of(home, accounts=orjson.dumps(accounts).decode()))
    assert ran.status == 1
    assert "stale-and-hidden" not in ran.out + ran.err
    for name in ("MAIN", "SPARE"):
        assert f"FAULT account {name}:" in ran.out
        assert f"ticker-service login {name}" in ran.out


def test_the_doctor_says_that_there_is_a_migration_to_make(home: House) -> None:
    with (
        embedded_postgres_process(durable=False) as server,
        template_database(server.url, lambda _: None) as template,
        fresh_database(template) as url,
    ):
        ran = run("doctor", env=env_of(home, database_url=url))
    assert ran.status == 1
    assert "0001_pre_order_journal" in ran.out
    assert "ticker-service migrate" in ran.out


def test_the_doctor_tells_a_wrong_clock_from_a_broker_that_does_not_answer(home: House) -> None:
    class Yesterday(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", "Fri, 20 Nov 2020 04:00:00 GMT")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Yesterday) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            root = f"http://127.0.0.1:{server.server_port}"
            ran = run("doctor", env=env_of(home, kite_rest_root=root))
        finally:
            server.shutdown()
            serving.join()
    lines = ran.out.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith("FAULT clock:")]
    assert "synchronise" in lines[at + 1]


def test_the_doctor_leaves_out_what_only_the_database_could_say(home: House) -> None:
    url = f"postgresql://x@{NOWHERE}/x"
    ran = run("doctor", env=env_of(home, database_url=url))
    assert "FAULT halts" not in ran.out
    assert "-     halts: they are in the database" in ran.out


@pytest.mark.parametrize("broken", ["open to others", "no token file", "another passphrase"])
def test_the_doctor_says_of_a_token_that_is_not_read_what_is_wrong_with_it(
    home: House, vault: dict[str, str], broken: str
) -> None:
    assert run("login", "SPARE", "--redirect", redirect(home, "CD5678"), env=vault).status == 0
    folder = Path(vault["TICKER_SERVICE_TOKEN_FOLDER"])
    word = {
        "open to others": "chmod 0700",
        "no token file": "remove it",
        "another passphrase": "restore the passphrase",
    }[broken]
    if broken == "open to others":
        folder.chmod(0o777)
    elif broken == "no token file":
        next(folder.iterdir()).write_text("x")
    else:
        vault |= {"TICKER_SERVICE_TOKEN_PASSPHRASE": "another passphrase than before"}
    lines = run("doctor", env=vault).out.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith("FAULT account SPARE:")]
    assert word in lines[at]
    assert str(folder) in lines[at + 1]
    assert "`ticker-service login" not in lines[at + 1]


def test_the_doctor_sees_that_a_token_is_another_user_s(home: House, vault: dict[str, str]) -> None:
    assert run("login", "SPARE", "--redirect", redirect(home, "CD5678"), env=vault).status == 0
    accounts = orjson.loads(vault["TICKER_SERVICE_ACCOUNTS"])
    accounts["SPARE"]["user_id"] = "EF9012"
    ran = run("doctor", env=vault | {"TICKER_SERVICE_ACCOUNTS": orjson.dumps(accounts).decode()})
    (line,) = [line for line in ran.out.splitlines() if line.startswith("FAULT account SPARE:")]
    assert "CD5678" in line
    assert "EF9012" in line


def test_without_a_passphrase_the_doctor_asks_for_it_before_the_login(
    vault: dict[str, str],
) -> None:
    bare = {name: v for name, v in vault.items() if not name.endswith("TOKEN_PASSPHRASE")}
    assert "set TICKER_SERVICE_TOKEN_PASSPHRASE, then run" in run("doctor", env=bare).out


def test_the_doctor_does_not_begin_with_wrong_settings(home: House) -> None:
    refused(run("doctor", env=env_of(home, flush_interval_ms=-1)), "FLUSH_INTERVAL_MS")


# --- login ----------------------------------------------------------------------------------------


def redirect(home: House, user_id: str) -> str:
    """Log in at the broker's page, and return where it sends the browser."""
    banner = home.exchange.banner
    query = {"v": "3", "api_key": banner["api_key"], "user_id": user_id}
    with httpx.Client(trust_env=False) as http:
        return str(http.get(banner["login_url"], params=query).headers["location"])


@pytest.fixture
def vault(home: House, tmp_path: Path) -> dict[str, str]:
    """The settings of a desk that keeps its tokens in an encrypted folder."""
    accounts: dict[str, Any] = orjson.loads(str(home.settings["accounts"]))
    for each in accounts.values():
        del each["access_token"]
    return env_of(
        home,
        accounts=orjson.dumps(accounts).decode(),
        token_folder=tmp_path / "tokens",
        token_passphrase=PASSPHRASE,
    )


def test_a_login_leaves_a_token_that_only_its_owner_reads_and_the_broker_takes(
    home: House, vault: dict[str, str]
) -> None:
    ran = run("login", "SPARE", env=vault, given=redirect(home, "CD5678") + "\n")
    assert ran.status == 0, ran.err
    assert "CD5678" in ran.out
    folder = vault["TICKER_SERVICE_TOKEN_FOLDER"]
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]  # noqa: PTH118
    assert files
    assert {stat.S_IMODE(os.stat(each).st_mode) for each in files} == {0o600}  # noqa: PTH116
    checked = run("doctor", env=vault)
    assert "ok    account SPARE" in checked.out
    assert "FAULT account MAIN" in checked.out


def test_a_login_as_another_user_is_refused_and_leaves_nothing(
    home: House, vault: dict[str, str]
) -> None:
    ran = run("login", "SPARE", "--redirect", redirect(home, "EF9012"), env=vault)
    refused(ran, "EF9012")
    folder = vault["TICKER_SERVICE_TOKEN_FOLDER"]
    assert not [name for _, _, names in os.walk(folder) for name in names]


@pytest.mark.parametrize("pasted", ["nonsense", "http://x/?request_token=", "http://x/?a=b"])
def test_a_login_with_what_is_no_redirect_is_one_line(vault: dict[str, str], pasted: str) -> None:
    refused(run("login", "SPARE", "--redirect", pasted, env=vault))


def test_a_request_token_is_good_once(home: House, vault: dict[str, str]) -> None:
    where = redirect(home, "CD5678")
    assert parse_qs(urlsplit(where).query)["request_token"]
    assert run("login", "SPARE", "--redirect", where, env=vault).status == 0
    refused(run("login", "SPARE", "--redirect", where, env=vault))


def test_a_login_needs_a_known_account_and_a_passphrase(home: House, vault: dict[str, str]) -> None:
    refused(run("login", "NOBODY", "--redirect", "x", env=vault), "NOBODY")
    bare = {name: v for name, v in vault.items() if not name.endswith("TOKEN_PASSPHRASE")}
    refused(run("login", "SPARE", "--redirect", "x", env=bare), "token_passphrase")
    refused(run("login", "NOBODY", "--redirect", "x", env=bare), "NOBODY")


def test_a_login_and_a_look_at_halts_need_no_more_than_the_accounts(
    home: House, vault: dict[str, str]
) -> None:
    used = ("ACCOUNTS", "KITE_REST_ROOT", "TOKEN_FOLDER", "TOKEN_PASSPHRASE", "DATABASE_URL")
    settings = {name: vault[f"TICKER_SERVICE_{name}"] for name in used}
    journal = settings.pop("DATABASE_URL")
    ran = run("login", "SPARE", "--redirect", redirect(home, "CD5678"), env=environment(settings))
    assert ran.status == 0, ran.err
    refused(run("account", "halts", env=environment(settings)), "DATABASE_URL")
    more = {"database_url": journal, "journal_may_be_volatile": True}
    ran = run("account", "halts", env=environment({**settings, **more}))
    assert (ran.status, ran.out) == (0, "no halts\n")
    refused(run("login", "SPARE", env=environment({})), "ACCOUNTS", "none is configured")


def test_a_fault_within_an_account_is_named_by_its_place() -> None:
    env = environment({"accounts": '{"MAIN": {"user_id": "AB1234", "api_key": "x", "secret": 1}}'})
    ran = run("login", "MAIN", "--redirect", "x", env=env)
    assert ran.status == 2
    assert "accounts.MAIN.api_secret: is required" in ran.err
    assert "accounts.MAIN.secret: is not a setting" in ran.err


def test_a_scope_that_nobody_knows_is_no_token(home: House) -> None:
    ran = run("token", "create", "me", "--account", "MAIN", "--scope", "orders", env=env_of(home))
    refused(ran, "orders:read, orders:write")
