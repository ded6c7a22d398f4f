"""``ticker-service desk …``: what may need a person, with its evidence, and deciding it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from app import desk_text
from app.jobs import run_job
from app.rest_door import URL, Json, Token, Url, ask
from ticker_service.domain.dead_letter import WHY_CHARACTERS_MAX
from ticker_service.errors import OrderRefused
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DESK: Final = "/desk"
ID_CHARACTERS_MIN: Final = 6
desk_cli = typer.Typer(
    name="desk",
    help="What may need a person: orders in doubt, undecided, failed; and deciding it.",
)
_Name = Annotated[
    str, typer.Argument(metavar="ORDER", help="Its name, or its task's id or the beginning of it.")
]
_Why = Annotated[str, typer.Option(help="Kept in the journal with your token's name.")]
_Force = Annotated[bool, typer.Option("--force", help="Overrule what speaks against it.")]
_Account = Annotated[
    str | None, typer.Option(help="Only this account; all of your token's if left out.")
]


@desk_cli.callback(invoke_without_command=True)
def letters(
    context: typer.Context,
    account: _Account = None,
    as_json: Json = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """List what may need a person, what is in doubt first. Needs a token with scope desk."""
    if context.invoked_subcommand is not None:
        return

    async def job() -> int:
        found = await _letters(url, token, account)
        _print(found, lambda: desk_text.letters(found, now_ns=SystemClock().now_ns()), as_json)
        return 0

    raise typer.Exit(run_job(job()))


@desk_cli.command()
def show(
    order: _Name,
    as_json: Json = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Explain one: what was asked, each send, what the books showed, who decided what."""
    _about(order, url, token, lambda task_id: _show(url, token, task_id, as_json=as_json))


@desk_cli.command()
def adopt(
    order: _Name,
    order_id: Annotated[str, typer.Argument(help="The broker's id of the order it is.")],
    why: _Why,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Say which of the broker's orders it is; the book is read to check it."""
    body: dict[str, object] = {"order_id": order_id, "why": _checked(why)}
    _about(order, url, token, lambda task_id: _decide(url, token, f"/{task_id}/adopt", body))


@desk_cli.command("not-placed")
def not_placed(
    order: _Name, why: _Why, force: _Force = False, url: Url = URL, token: Token = ""
) -> None:
    """Say that it is not at the broker. Yours is the responsibility: look at Kite first."""
    body = {"why": _checked(why), "force": force}
    _about(order, url, token, lambda task_id: _decide(url, token, f"/{task_id}/not-placed", body))


@desk_cli.command()
def resend(
    order: _Name,
    why: _Why,
    new: Annotated[
        str, typer.Option("--as", help="Name of the new order; the desk proposes one if not.")
    ] = "",
    force: _Force = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Ask for the same once more, as a new order; repeating this does not make another one."""
    why = _checked(why)

    async def again(task_id: str) -> int:
        old = await ask(url, token, f"{DESK}/{task_id}", expects="actions")
        known = old["resent_as"]
        name = new or (known["client_order_id"] if known else old["resend_name"])
        body = {"client_order_id": name, "why": why, "force": force}
        return await _decide(url, token, f"/{task_id}/resend", body)

    _about(order, url, token, again)


@desk_cli.command()
def close(
    order: _Name,
    state: Annotated[str, typer.Argument(help="How it ended: filled, cancelled or rejected.")],
    why: _Why,
    filled: Annotated[int, typer.Option(help="Units that were filled in all.")] = 0,
    price: Annotated[
        str, typer.Option(help="Their average price, in rupees; only with --filled.")
    ] = "",
    force: _Force = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Say how an order ended whose day is over, as the broker's papers of that day have it."""
    body: dict[str, object] = {
        "state": state.upper(),
        "filled_quantity": filled,
        "average_price": price or None,
        "why": _checked(why),
        "force": force,
    }
    _about(order, url, token, lambda task_id: _decide(url, token, f"/{task_id}/close", body))


@desk_cli.command("adopt-orphan")
def adopt_orphan(
    order_id: Annotated[str, typer.Argument(help="The broker's id of the orphan.")],
    account: Annotated[str, typer.Option(help="Whose it is.")],
    why: _Why,
    name: Annotated[
        str, typer.Option("--as", help="Your name for it from now on; `orphan-` and its id if not.")
    ] = "",
    url: Url = URL,
    token: Token = "",
) -> None:
    """Take an order that the journal has lost into it, as yours; the last one ends the halt."""
    body: dict[str, object] = {
        "account": account,
        "order_id": order_id,
        "client_order_id": name or f"orphan-{order_id}",
        "why": _checked(why),
    }
    raise typer.Exit(run_job(_decide(url, token, "/orphans", body)))


def _about(
    order: str, url: str, token: str, work: Callable[[str], Coroutine[Any, Any, int]]
) -> None:
    async def job() -> int:
        return await work(await _task_id(order, url, token))

    raise typer.Exit(run_job(job()))


async def _task_id(order: str, url: str, token: str) -> str:
    """Return the id of the task that a person means.

    Raises:
        OrderRefused: None, or more than one.
    """
    if len(order) == len("00000000-0000-0000-0000-000000000000") and order.count("-") == 4:  # noqa: PLR2004 - a UUID's
        return order
    tasks = [each["task"] for each in (await _letters(url, token, None))["letters"]]
    found = [each for each in tasks if each["client_order_id"] == order]
    if not found and len(order) >= ID_CHARACTERS_MIN:
        found = [each for each in tasks if each["task_id"].startswith(order)]
    # A change and a cancel have the name of their order.
    found = [each for each in found if each["kind"] == "PLACE"] or found
    if len(found) == 1:
        return str(found[0]["task_id"])
    rule = "is not on the desk; its task_id finds any order, see `ticker-service order status`"
    if found:
        ids = ", ".join(each["task_id"] for each in found)
        rule = f"is the name of {len(found)}; say which by its task: {ids}"
    raise OrderRefused("UNKNOWN_TASK", rule, field="order", value=order)


async def _letters(url: str, token: str, account: str | None) -> dict[str, Any]:
    query = {} if account is None else {"account": account}
    return await ask(url, token, DESK, expects="letters", query=query)


async def _show(url: str, token: str, task_id: str, *, as_json: bool) -> int:
    found = await ask(url, token, f"{DESK}/{task_id}", expects="actions")
    _print(found, lambda: desk_text.case(found, now_ns=SystemClock().now_ns()), as_json)
    return 0


async def _decide(url: str, token: str, path: str, body: dict[str, object]) -> int:
    task = await ask(url, token, DESK + path, expects="task_id", body=body)
    print(desk_text.decided(task))  # noqa: T201 - the answer
    return 0


def _print(answer: dict[str, Any], text: Callable[[], str], as_json: bool) -> None:  # noqa: FBT001 - as typer has it
    print(orjson.dumps(answer).decode() if as_json else text())  # noqa: T201 - the answer


def _checked(why: str) -> str:
    if not why.strip() or len(why) > WHY_CHARACTERS_MAX:
        raise typer.BadParameter(
            f"must say why in 1 to {WHY_CHARACTERS_MAX} characters", param_hint="--why"
        )
    return why
