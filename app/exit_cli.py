"""``ticker-service exit …`` and ``flatten``: close positions from a shell."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from app.jobs import run_job
from app.rest_door import (
    URL,
    Json,
    Token,
    Url,
    ask,
    named_when_in_doubt,
    say_how_to_repeat,
)
from ticker_service.domain.exit import WITHIN_S
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXITS: Final = "/exits"
LOOK_S: Final = 1.0
ENDED: Final = frozenset({"DONE", "ESCALATED"})
_Key = Annotated[
    str, typer.Option(help="Your own name for it; the same again is the same exit. Made up if not.")
]
_Protection = Annotated[str, typer.Option(help="Percent round the last price; -1: Kite's band.")]
_Limit = Annotated[
    bool, typer.Option("--limit", help="Send LIMIT at the end of that band, no MARKET at all.")
]
_Within = Annotated[int, typer.Option(help="Seconds after which a person has to look.")]
_Wait = Annotated[bool, typer.Option(help="Wait until it has ended.")]


def exit_positions(
    account: Annotated[str, typer.Option(help="Whose positions.")],
    symbol: Annotated[str, typer.Option(help="EXCHANGE:TRADINGSYMBOL; or give --all.")] = "",
    product: Annotated[
        str, typer.Option(help="CNC, NRML, MIS or MTF; every one if left out.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every position.")] = False,
    cancel_resting: Annotated[
        bool, typer.Option("--cancel-resting", help="Cancel whatever else rests on them.")
    ] = False,
    market_protection: _Protection = "-1",
    limit: _Limit = False,
    within_s: _Within = WITHIN_S,
    key: _Key = "",
    wait: _Wait = True,
    as_json: Json = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Close a position, or all of an account. Exit status 0 only when the broker says flat."""
    exchange, _, tradingsymbol = symbol.partition(":")
    if bool(symbol) == everything or (symbol and not tradingsymbol):
        raise typer.BadParameter("give --symbol EXCHANGE:TRADINGSYMBOL, or --all")
    key = key or f"exit-{secrets.token_hex(4)}"
    body: dict[str, object] = {
        "client_order_id": key,
        "account": account,
        "market_protection": market_protection,
        "cancel_resting": cancel_resting,
        "within_s": within_s,
    }
    body |= {"all": True} if everything else {}
    body |= {"order_type": "LIMIT"} if limit else {}
    named = {"exchange": exchange, "tradingsymbol": tradingsymbol, "product": product.upper()}
    body |= {name: value for name, value in named.items() if value}

    async def job() -> int:
        with named_when_in_doubt(f"--key {key}"):
            begun = await ask(url, token, EXITS, expects="exit", body=body)
        _print(begun, as_json=as_json)
        if not wait:
            return 0
        return await _follow(begun, url, token, as_json=as_json)

    raise typer.Exit(run_job(job()))


def flatten(
    account: Annotated[str, typer.Argument(help="Its name, or `all`.")],
    yes_flatten: Annotated[
        str, typer.Option("--yes-flatten", metavar="ACCOUNT", help="The same name, for scripts.")
    ] = "",
    why: Annotated[str, typer.Option(help="For whoever releases the switch.")] = "",
    market_protection: _Protection = "-1",
    limit: _Limit = False,
    within_s: _Within = WITHIN_S,
    key: _Key = "",
    wait: _Wait = True,
    as_json: Json = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Let nothing new open, cancel what is open, and close every position; asks first.

    Needs a token with scope admin. The switch REDUCE_ONLY stands until `kill off` releases it. Exit
    status 0 only when the broker says flat.
    """
    confirmed = yes_flatten or typer.prompt(
        f"This cancels every order and closes every position of {account}. Type its name", err=True
    )

    async def job() -> int:
        if confirmed != account:
            raise ConfigurationError(
                f"Condition failed: {confirmed[:64]!r} is not {account!r}; nothing was done"
            )
        named = key or f"flatten-{secrets.token_hex(4)}"
        body = {
            "client_order_id": named,
            "account": account,
            "confirm": confirmed,
            "why": why,
            "market_protection": market_protection,
            "within_s": within_s,
        }
        body |= {"order_type": "LIMIT"} if limit else {}
        with named_when_in_doubt(f"--key {named}"):
            begun = await ask(url, token, "/flatten", expects="accounts", body=body)
        switch = begun["kill_switch"]
        _say(f"{switch['level']} on {switch['scope']}: nothing new opens until it is released")
        status = 0
        if any(_is_in_doubt(each) for each in begun["accounts"]):
            say_how_to_repeat(f"--key {named}")
        for each in begun["accounts"]:
            if each["error"] is not None:
                _say(_not_begun(each))
                status = 1
                continue
            _print(each["exit"], as_json=as_json)
            if wait:
                status |= await _follow(each["exit"], url, token, as_json=as_json)
        return status

    raise typer.Exit(run_job(job()))


def _is_in_doubt(each: Mapping[str, Any]) -> bool:
    """Return whether nobody can say if the exit of a flattened account was begun."""
    from ticker_service.client.order_client import IN_DOUBT  # noqa: PLC0415 - starts faster

    return each["error"] is not None and each["error"]["code"] in IN_DOUBT


def _not_begun(each: Mapping[str, Any]) -> str:
    told = "UNKNOWN whether it was begun" if _is_in_doubt(each) else "NOT BEGUN"
    return f"{each['account']} {each['client_order_id']}: {told}: {each['error']['message']}"


async def _follow(begun: Mapping[str, Any], url: str, token: str, *, as_json: bool) -> int:
    """Print an exit whenever it goes on; return the exit status of its end."""
    shown = begun
    while shown["state"] not in ENDED:
        await asyncio.sleep(LOOK_S)
        path = f"{EXITS}/{begun['client_order_id']}"
        now = await ask(url, token, path, expects="exit")
        if _line(now) != _line(shown):
            _print(now, as_json=as_json)
        shown = now
    return 0 if shown["state"] == "DONE" else 1


def _print(shown: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        _say(orjson.dumps(dict(shown)).decode())
        return
    _say(_line(shown))
    for name, each in shown["report"].items():
        told = f"  {name}: held {each['held']}, filled {each['filled']} in {each['orders']} orders"
        told += f", {each['changes']} changes"
        told += f", rests {each['rests']}" if each["rests"] else ""
        told += f", by LIMIT at {each['limit']}" if each.get("limit") else ""
        _say(told + (f", refused: {each['refused']}" if each["refused"] else ""))


def _line(shown: Mapping[str, Any]) -> str:
    told = f"{shown['account']} {shown['client_order_id']}: {shown['state']}"
    told += f" ({shown['code']}: {shown['reason']})" if shown["code"] else ""
    held = ", ".join(f"{name} {held}" for name, held in shown["held_before"].items())
    if not held and shown["state"] not in ENDED:
        return f"{told}; the positions are being read"
    if not held and shown["state"] != "DONE":
        return told  # it may have ended before they were read
    filled = sum(order["filled_quantity"] for order in shown["orders"])
    orders = len(shown["orders"])
    return f"{told}; began with {held or 'nothing'}; filled {filled} in {orders} orders"


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the answer
