"""``ticker-service risk …``: the limits, what of them is in use, and what a loss has stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import httpx
import typer

from app.jobs import run_job, whoever
from app.rest_door import URL, Token, Url, ask
from ticker_service.domain.risk import RISK_LIMITS, RiskTable
from ticker_service.domain.session import from_instant_ns
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

risk_cli = typer.Typer(
    name="risk", help="Limits of the risk gate, and what a loss has stopped.", no_args_is_help=True
)
ANSWER_S_MAX: Final = 3.0
_Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; ticker-service.toml if left out. The environment wins."),
]
_AccountName = Annotated[str, typer.Argument(help="The account, as the settings name it.")]


@risk_cli.command()
def limits(config: _Config = None) -> None:
    """Print every limit there is, with its default and what the settings say for everybody."""

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - other verbs start faster without it

        table = settings.risk_limits(config)
        print(f"limits of the settings, version {table.version}")  # noqa: T201 - the answer
        for row in RISK_LIMITS:
            said = table.everywhere.get(row.name, row.default)
            mark = "*" if row.name in table.everywhere else " "
            print(f"{mark} {row.name:<26} {_plain(said):<14} {row.kind}: {row.told}")  # noqa: T201 - likewise
        _print_narrower(table)
        return 0

    raise typer.Exit(run_job(job()))


@risk_cli.command()
def show(account: _AccountName, config: _Config = None) -> None:
    """Print the limits in force in the running daemon, what is in use, and the newest denials."""

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - as above

        url = settings.kill_place(config).health_url
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S_MAX) as http:
                answer = (await http.get(f"{url}/debug/risk")).raise_for_status()
                found = {each["account"]: each for each in answer.json()["accounts"]}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            print(f"no daemon answers at {url}: {error}")  # noqa: T201 - the answer
            return 1
        if account not in found:
            print(f"account={account!r}: must be one of {sorted(found)}")  # noqa: T201 - likewise
            return 1
        _print_account(found[account])
        return 0

    raise typer.Exit(run_job(job()))


@risk_cli.command()
def history(
    account: _AccountName,
    limit: Annotated[int, typer.Option(help="So many of each.")] = 20,
    config: _Config = None,
) -> None:
    """Print from the journal which limits were in force since when, and what was denied."""

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - as above
        from ticker_service import assembly  # noqa: PLC0415 - as above

        half = settings.load_accounts(config, journal=True).accounts_config()
        versions, denials = await assembly.risk_history(half, account, limit=limit)
        for newer, older in zip(versions, [*versions[1:], None], strict=True):
            print(f"{_when(newer.at_ns)} version {newer.version} came into force")  # noqa: T201 - the answer
            before = {} if older is None else _flat(older.said)
            now = _flat(newer.said)
            for name in sorted(before.keys() | now.keys()):
                if before.get(name) != now.get(name):
                    was, then = before.get(name, "unset"), now.get(name, "unset")
                    print(f"  {name}: {was} -> {then}")  # noqa: T201 - likewise
        for each in denials:
            told = f"{each.client_order_id} of {each.principal}: {each.code}: {each.rule}"
            numbers = ", ".join(f"{name}={value}" for name, value in each.numbers.items())
            print(f"{_when(each.at_ns)} denied {told} [{numbers}] version {each.version}")  # noqa: T201 - likewise
        return 0

    raise typer.Exit(run_job(job()))


@risk_cli.command()
def reload(url: Url = URL, token: Token = "") -> None:
    """Let the running daemon read the limits again from its settings; faulty ones change nothing.

    Needs a token with scope admin for all accounts.
    """

    async def job() -> int:
        found = await ask(url, token, "/risk/reload", expects="version", body={})
        if found["has_changed"]:
            print(f"version {found['before']} -> {found['version']}: in force")  # noqa: T201 - the answer
        else:
            print(f"version {found['version']}: unchanged")  # noqa: T201 - likewise
        return 0

    raise typer.Exit(run_job(job()))


@risk_cli.command()
def lift(account: _AccountName, config: _Config = None) -> None:
    """Let an account go on that a loss has stopped; it is not stopped so again on the same day."""

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - as above
        from ticker_service import assembly  # noqa: PLC0415 - as above

        store = assembly.kill_file(settings.kill_place(config).file)
        half = settings.load_accounts(config, journal=True).accounts_config()
        lifted = await assembly.lift_losses(
            store, account, half, by_whom=whoever(), clock=SystemClock()
        )
        for each in lifted:
            print(f"{each}: lifted")  # noqa: T201 - the answer
        if not lifted:
            print(f"account {account}: no loss has stopped it")  # noqa: T201 - likewise
        return 0

    raise typer.Exit(run_job(job()))


def _print_narrower(table: RiskTable) -> None:
    for what, tables in (("group", table.groups), ("account", table.accounts)):
        for name, words in tables.items():
            for limit, value in words.items():
                print(f"* {what} {name}: {limit} = {_plain(value)}")  # noqa: T201 - the answer


def _print_account(shown: dict[str, Any]) -> None:
    print(f"account {shown['account']}: limits of version {shown['version']}")  # noqa: T201 - the answer
    for name, value in shown["limits"].items():
        if value not in (None, False, [], {}):
            print(f"  {name:<26} {value}")  # noqa: T201 - likewise
    use = shown["in_use"]
    print(  # noqa: T201 - likewise
        f"open: {use['open_inr']} rupees in {use['open_quantity']}, "
        f"{use['unpriced_quantity']} of them without a price"
    )
    for each in use["open"]:
        print(  # noqa: T201 - likewise
            f"  {each['side']:<4} {each['quantity']:>8} {each['exchange']}:{each['tradingsymbol']} "
            f"{each['product']} {each['value_inr']} rupees"
        )
    day = use["day"]
    if day is not None:
        print(f"day: {day['result_inr']} rupees, best {day['best_inr']}, {day['age_s']} s old")  # noqa: T201 - likewise
    for latch in shown["latches"]:
        print(f"STOPPED: {latch}")  # noqa: T201 - likewise
    for each in shown["denials"]:
        print(f"denied {each['at']}: {each['client_order_id']}: {each['message']}")  # noqa: T201 - likewise


def _flat(said: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return a table's limits by their whole names, such as ``accounts.MAIN.order_lots_max``."""
    found: dict[str, Any] = {}
    for name, value in said.items():
        if isinstance(value, dict) and (where or name in {"accounts", "groups"}):
            found |= _flat(value, f"{where}{name}.")
        else:
            found[where + name] = value
    return found


def _when(at_ns: int) -> str:
    return from_instant_ns(at_ns).strftime("%Y-%m-%d %H:%M:%S IST")


def _plain(value: object) -> str:
    if value is None or value is False or value in ((), {}):
        return "off"
    return f"{value}"
