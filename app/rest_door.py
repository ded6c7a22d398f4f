"""Ask the daemon's REST door from the command line; the address is that of the order verbs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ANSWER_S_MAX: Final = 10.0
SOCKET_PATH: Final = "/ws"
"""What the address of the order door ends with; without it, it is the REST door's."""
ORDERS: Final = "/orders"
URL: Final = "ws://127.0.0.1:8780/v1/orders/ws"
Url = Annotated[str, typer.Option(envvar="TICKER_ORDERS_URL", help="The daemon's order door.")]
Token = Annotated[
    str, typer.Option(envvar="TICKER_ORDERS_TOKEN", help="From `ticker-service token create`.")
]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON instead.")]


async def ask(
    url: str,
    token: str,
    path: str,
    *,
    expects: str,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Ask once: GET, or POST where there is a body.

    Args:
        url: The order door, ``ws://…/v1/orders/ws`` or ``http://…/v1/orders``.
        token: Bearer token.
        path: Beside the orders, such as ``/desk``; or theirs, ``/orders…``.
        expects: What an answer of this door has; what lacks it is another program's.
        query: Parameters.
        body: What to POST.

    Raises:
        OrderInDoubt: It cannot say whether it took the request.
        OrderError: It said no.
        OrderDoorClosed: It is not there, or what is there is none.
    """
    import httpx  # noqa: PLC0415 - other verbs start faster without it

    from ticker_service.client import OrderDoorClosed  # noqa: PLC0415 - as above
    from ticker_service.client.order_client import error_of  # noqa: PLC0415 - as above

    if not token:
        raise OrderDoorClosed(
            "Condition failed: there is no token; set TICKER_ORDERS_TOKEN, or pass one, from "
            "`ticker-service token create`"
        )
    if not (token.isascii() and token.isprintable()):
        raise OrderDoorClosed("Condition failed: the token is no word that a header can hold")
    root = url.removesuffix(SOCKET_PATH).removesuffix(ORDERS)
    for socket_scheme, scheme in (("ws://", "http://"), ("wss://", "https://")):
        if root.startswith(socket_scheme):
            root = scheme + root.removeprefix(socket_scheme)
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S_MAX) as http:
            answered = await http.request(
                "GET" if body is None else "POST",
                root + path,
                params=dict(query or {}),
                headers=headers,
                json=None if body is None else dict(body),
            )
        answer = answered.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise OrderDoorClosed(f"no order door at {url}: {error!r}") from error
    if not isinstance(answer, dict) or (answered.is_success and expects not in answer):
        raise OrderDoorClosed(f"no order door at {url}: it answers something else")
    if not answered.is_success:
        raise error_of(answer)
    return answer


@contextlib.contextmanager
def named_when_in_doubt(option: str) -> Iterator[None]:
    """Name the key of a request that has no answer, for whoever did not choose it.

    Args:
        option: As it is given back, such as ``--key flatten-1``; empty for none.
    """
    from ticker_service.client import OrderDoorClosed, OrderInDoubt  # noqa: PLC0415 - as above

    try:
        yield
    except (OrderDoorClosed, OrderInDoubt, asyncio.CancelledError):
        if option:
            say_how_to_repeat(option)
        raise


def say_how_to_repeat(option: str) -> None:
    """Tell whoever types how the very same request is made once more."""
    repeat = f"ticker-service: to repeat this very request: {option}"
    print(repeat, file=sys.stderr)  # noqa: T201 - the user's terminal
