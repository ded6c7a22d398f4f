"""Options of the order and account commands that no order, journal or system can mean."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
from typer.testing import CliRunner

from app import jobs, settings
from app.order_cli import order_cli
from ticker_service import client
from ticker_service.client import OrderClient, OrderDoorClosed
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

HUGE = str(2**63)
PLACE = ["place", "k", "--account", "MAIN", "--symbol", "NSE:INFY", "--side", "BUY"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*PLACE, "--quantity", HUGE],
        ["modify", "k", "--quantity", HUGE],
        ["watch", "MAIN", "--after", HUGE],
    ],
    ids=["place", "modify", "watch"],
)
def test_a_number_that_no_journal_holds_is_refused_by_its_option(arguments: list[str]) -> None:
    ran = CliRunner().invoke(order_cli, arguments)
    assert ran.exit_code == 2
    assert isinstance(ran.exception, SystemExit)


def test_a_symbol_without_its_exchange_is_refused_by_its_option() -> None:
    wrong = [part.replace("NSE:INFY", "INFY") for part in PLACE]
    ran = CliRunner().invoke(order_cli, [*wrong, "--quantity", "1"])
    assert ran.exit_code == 2
    assert "EXCHANGE:TRADINGSYMBOL" in ran.output


@pytest.mark.parametrize("verb", ["cancel", "modify"])
def test_a_made_up_key_is_told_when_no_answer_comes(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    asked: list[str] = []

    class Mute(OrderClient):
        """A client that the daemon takes and never answers."""

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            return

        async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
            asked.append(request["request_id"])
            raise OrderDoorClosed("no reply within 10 s")

    monkeypatch.setattr(client, "OrderClient", Mute)
    ran = CliRunner().invoke(order_cli, [verb, "k"])
    assert ran.exit_code == 1
    assert f"--request-id {asked[0]}" in ran.stderr
    assert "no reply" in ran.stderr


class Heard(OrderClient):
    """A client that keeps what it is asked for, and answers nothing of interest."""

    asked: ClassVar[list[dict[str, Any]]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request["order"])
        return {}


def test_the_options_of_an_order_and_its_change_are_kites_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "OrderClient", Heard)
    placed = [*PLACE, "--quantity", "2", "--type", "sl", "--price", "99.50", "--product", "CNC"]
    placed += ["--trigger-price", "99.00", "--variety", "AMO", "--validity", "ttl"]
    placed += ["--validity-ttl", "5", "--disclosed-quantity", "1", "--auction-number", "22"]
    changed = ["modify", "k", "--type", "market", "--market-protection", "-1"]
    changed += ["--validity", "ioc", "--disclosed-quantity", "0"]
    for arguments in (placed, changed):
        ran = CliRunner().invoke(order_cli, arguments)
        assert ran.exit_code == 0, ran.output
    assert Heard.asked == [
        {
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "order_type": "SL",
            "product": "CNC",
            "quantity": 2,
            "price": "99.50",
            "trigger_price": "99.00",
            "variety": "amo",
            "validity": "TTL",
            "validity_ttl": 5,
            "disclosed_quantity": 1,
            "auction_number": "22",
        },
        {
            "order_type": "MARKET",
            "market_protection": "-1",
            "validity": "IOC",
            "disclosed_quantity": 0,
        },
    ]


@pytest.mark.parametrize("option", [["--variety", "bo"], ["--validity", "GTC"]])
def test_a_word_that_is_no_choice_is_refused_by_its_option(option: list[str]) -> None:
    ran = CliRunner().invoke(order_cli, [*PLACE, "--quantity", "1", *option])
    assert ran.exit_code == 2
    assert option[1] in ran.output


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_who_has_no_name_resumes_an_account_by_number(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def nameless() -> str:
        raise error("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert jobs.whoever() == f"uid-{os.getuid()}"


def test_a_settings_file_that_is_no_utf8_is_one_clear_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TICKER_SERVICE_TOKEN_SECRET", raising=False)
    file = tmp_path / "latin.toml"
    file.write_bytes(b'token_secret = "caf\xe9"\n')
    for read in (settings.load, settings.token_secret):
        with pytest.raises(ConfigurationError, match=r"latin\.toml.*utf-8"):
            read(file)
