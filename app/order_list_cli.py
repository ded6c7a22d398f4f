"""``ticker-service order list`` and ``order changes``: what was asked, how it stands.

Over REST, where lists are; the address is that of the other order verbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from app.jobs import run_job
from app.rest_door import ORDERS, URL, Json, Token, Url, ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

ROWS_MAX: Final = 500
"""The most that the door gives at once."""
_Limit = Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="So many, the newest.")]


def list_orders(
    account: Annotated[
        str | None, typer.Option(help="Only this account; all of yours if left out.")
    ] = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only what has not ended: unsent, in doubt, at rest.")
    ] = False,
    limit: _Limit = 50,
    as_json: Json = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """List your newest instructions, newest first, with how each stands."""
    query: dict[str, str] = {"limit": str(limit)}
    if only_open:
        query["open"] = "true"
    if account is not None:
        query["account"] = account
    _show(url, token, "", query, as_json=as_json)


def changes(
    client_order_id: Annotated[str, typer.Argument(help="Your own name for the order.")],
    limit: _Limit = 50,
    as_json: Json = False,
    url: Url = URL,
    token: Token = "",
) -> None:
    """List the changes and cancels of an order or a job, newest first, with how each ended.

    ACKED is a change's good end: the broker took it. The order itself shows what it did.
    """
    from urllib.parse import quote  # noqa: PLC0415 - other verbs start faster without it

    path = f"/{quote(client_order_id, safe='')}/changes"
    _show(url, token, path, {"limit": str(limit)}, as_json=as_json)


def _show(url: str, token: str, path: str, query: Mapping[str, str], *, as_json: bool) -> None:
    async def job() -> int:
        answer = await ask(url, token, ORDERS + path, expects="orders", query=query)
        if as_json:
            print(orjson.dumps(answer).decode())  # noqa: T201 - the answer
        else:
            from rich.console import Console  # noqa: PLC0415 - as above

            Console().print(_table(answer["orders"]))
        return 0

    raise typer.Exit(run_job(job()))


def _table(tasks: list[dict[str, Any]]) -> Table:
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table("asked (IST)", "order", "what", "account", "state", "filled", "why")
    for task in tasks:
        # As text: a name in brackets is no markup.
        table.add_row(*(Text(word) for word in _words(task)))
    return table


def _words(task: Mapping[str, Any]) -> tuple[str, ...]:
    from ticker_service.constants import NS_PER_US  # noqa: PLC0415 - as above
    from ticker_service.domain.session import from_instant_ns  # noqa: PLC0415 - as above

    asked = from_instant_ns(task["created_at_us"] * NS_PER_US)
    filled, price = task["filled_quantity"], task["average_price"]
    why = ": ".join(word for word in (task["code"], task["reason"]) if word)
    return (
        f"{asked:%m-%d %H:%M:%S}",
        task["client_order_id"],
        f"{task['kind']} {_asked(task['order'])}".rstrip(),
        task["account"],
        task["state"],
        f"{filled} at {price}" if filled and price else str(filled or ""),
        why,
    )


def _asked(order: Mapping[str, str]) -> str:
    """Return what an instruction asks for in one line."""
    names = ("transaction_type", "quantity", "tradingsymbol", "order_type", "price")
    words = [order[name] for name in names if name in order]
    if "trigger_price" in order:
        words.append(f"trigger {order['trigger_price']}")
    return " ".join(words)
