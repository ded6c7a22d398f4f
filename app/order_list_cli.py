"""``ticker-service order list`` and ``order changes``: what was asked, how it stands.

Over REST, where lists are; the address is that of the other order verbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from app.jobs import run_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

ROWS_MAX: Final = 500
"""The most that the door gives at once."""
ANSWER_S_MAX: Final = 10.0
SOCKET_PATH: Final = "/ws"
"""What the address of the order door ends with; without it, it is the REST door's."""
URL: Final = "ws://127.0.0.1:8780/v1/orders/ws"
_Url = Annotated[str, typer.Option(envvar="TICKER_ORDERS_URL", help="The daemon's order door.")]
_Token = Annotated[
    str, typer.Option(envvar="TICKER_ORDERS_TOKEN", help="From `ticker-service token create`.")
]
_Limit = Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="So many, the newest.")]
_Json = Annotated[bool, typer.Option("--json", help="One line of JSON instead.")]


def list_orders(
    account: Annotated[
        str | None, typer.Option(help="Only this account; all of yours if left out.")
    ] = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only what has not ended: unsent, in doubt, at rest.")
    ] = False,
    limit: _Limit = 50,
    as_json: _Json = False,
    url: _Url = URL,
    token: _Token = "",
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
    as_json: _Json = False,
    url: _Url = URL,
    token: _Token = "",
) -> None:
    """List the changes and cancels of an order, newest first, with how each ended.

    ACKED is a change's good end: the broker took it. The order itself shows what it did.
    """
    from urllib.parse import quote  # noqa: PLC0415 - other verbs start faster without it

    path = f"/{quote(client_order_id, safe='')}/changes"
    _show(url, token, path, {"limit": str(limit)}, as_json=as_json)


def _show(url: str, token: str, path: str, query: Mapping[str, str], *, as_json: bool) -> None:
    async def job() -> int:
        answer = await _ask(url, token, path, query)
        if as_json:
            print(orjson.dumps(answer).decode())  # noqa: T201 - the answer
        else:
            from rich.console import Console  # noqa: PLC0415 - as above

            Console().print(_table(answer["orders"]))
        return 0

    raise typer.Exit(run_job(job()))


async def _ask(url: str, token: str, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Ask the REST door.

    Raises:
        OrderError: It said no.
        OrderDoorClosed: It is not there, or what is there is none.
    """
    import httpx  # noqa: PLC0415 - as above

    from ticker_service.client import OrderDoorClosed, OrderError  # noqa: PLC0415 - as above

    if not token:
        raise OrderDoorClosed(
            "Condition failed: there is no token; set TICKER_ORDERS_TOKEN, or pass one, from "
            "`ticker-service token create`"
        )
    if not (token.isascii() and token.isprintable()):
        raise OrderDoorClosed("Condition failed: the token is no word that a header can hold")
    root = url.removesuffix(SOCKET_PATH)
    for socket_scheme, scheme in (("ws://", "http://"), ("wss://", "https://")):
        if root.startswith(socket_scheme):
            root = scheme + root.removeprefix(socket_scheme)
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S_MAX) as http:
            answered = await http.get(
                root + path, params=dict(query), headers={"Authorization": f"Bearer {token}"}
            )
        answer = answered.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise OrderDoorClosed(f"no order door at {url}: {error!r}") from error
    if not isinstance(answer, dict) or (answered.is_success and "orders" not in answer):
        raise OrderDoorClosed(f"no order door at {url}: it answers something else")
    if not answered.is_success:
        raise OrderError(answer)
    return answer


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
