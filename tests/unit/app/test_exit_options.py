"""What ``exit`` and ``flatten`` say of the key they made up, and of what is not known yet."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.http.faults import answer_of
from ticker_service.errors import JournalUnavailable, OrderRefused

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT = ["exit", "--account", "MAIN", "--all", "--token", "t"]
FLATTEN = ["flatten", "all", "--yes-flatten", "all", "--token", "t"]
IN_DOUBT = answer_of(JournalUnavailable("the connection is gone"))
REFUSED = answer_of(OrderRefused("KILL_SWITCH", "somebody stopped it"))


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Let a door answer so; return what it was asked."""

    def answers(status: int, answer: object) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def answered(request: httpx.Request) -> httpx.Response:
            asked.append(orjson.loads(request.content))
            return httpx.Response(status, json=answer)

        transport = httpx.MockTransport(answered)
        client = functools.partial(httpx.AsyncClient, transport=transport)
        monkeypatch.setattr(httpx, "AsyncClient", client)
        return asked

    return answers


@pytest.mark.parametrize("words", [EXIT, FLATTEN], ids=["exit", "flatten"])
@pytest.mark.parametrize("key", ["", "mine"])
def test_the_key_of_a_request_in_doubt_is_named(door: Any, words: list[str], key: str) -> None:
    asked = door(*IN_DOUBT)
    ran = CliRunner().invoke(cli, [*words, *(["--key", key] if key else [])])
    assert ran.exit_code == 1
    used = asked[0]["client_order_id"]
    assert key in {"", used}
    assert f"to repeat this very request: --key {used}" in ran.stderr
    assert "JOURNAL_UNAVAILABLE: " in ran.stderr


@pytest.mark.parametrize("words", [EXIT, FLATTEN], ids=["exit", "flatten"])
def test_a_request_that_was_refused_is_not_to_be_repeated(door: Any, words: list[str]) -> None:
    door(*REFUSED)
    ran = CliRunner().invoke(cli, words)
    assert ran.exit_code == 1
    assert "repeat" not in ran.stderr
    assert "KILL_SWITCH: " in ran.stderr


def test_flatten_says_what_is_unknown_apart_from_what_was_not_begun(door: Any) -> None:
    def account(name: str, error: dict[str, Any]) -> dict[str, Any]:
        return {
            "account": name,
            "client_order_id": f"mine.{name}",
            "exit": None,
            "error": error,
        }

    door(
        202,
        {
            "kill_switch": {"level": "REDUCE_ONLY", "scope": "all"},
            "is_on_disk": True,
            "accounts": [account("MAIN", IN_DOUBT[1]), account("SPARE", REFUSED[1])],
        },
    )
    ran = CliRunner().invoke(cli, [*FLATTEN, "--key", "mine"])
    assert ran.exit_code == 1
    _, main, spare = ran.stdout.splitlines()
    assert main.startswith("MAIN mine.MAIN: UNKNOWN whether it was begun: JOURNAL_UNAVAILABLE: ")
    assert spare.startswith("SPARE mine.SPARE: NOT BEGUN: KILL_SWITCH: ")
    assert "to repeat this very request: --key mine\n" in ran.stderr


@pytest.mark.parametrize(
    ("state", "code", "held", "words"),
    [
        ("RUNNING", None, {}, "RUNNING; the positions are being read"),
        ("RUNNING", None, {"NSE:INFY:MIS": 4}, "began with NSE:INFY:MIS 4; filled 0 in 0 orders"),
        ("DONE", None, {}, "DONE; began with nothing; filled 0 in 0 orders"),
        ("ESCALATED", "KILL_SWITCH", {}, "ESCALATED (KILL_SWITCH: why)"),
    ],
)
def test_nothing_is_said_of_positions_that_were_not_read(
    door: Any, state: str, code: str | None, held: dict[str, int], words: str
) -> None:
    told = {"exit": {}, "account": "MAIN", "client_order_id": "x", "state": state, "code": code}
    told |= {"reason": code and "why", "held_before": held, "report": {}, "orders": []}
    door(202, told)
    ran = CliRunner().invoke(cli, [*EXIT, "--no-wait"])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.rstrip().endswith(words)
