"""``ticker-service order …`` and ``token …``: the order doors from a shell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from app.jobs import run_job
from app.rest_door import URL, Token, Url, named_when_in_doubt
from ticker_service.domain.order import OrderType, Product, Side, Validity, Variety
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.client import OrderClient

order_cli = typer.Typer(
    name="order", help="Place, change, cancel and follow orders.", no_args_is_help=True
)
token_cli = typer.Typer(
    name="token", help="Tokens that open the order doors.", no_args_is_help=True
)

INTEGER_MAX: Final = 2**63 - 1
"""The largest number that the journal and the wire hold."""
_Id = Annotated[str, typer.Argument(help="Your own name for the order.")]
_Price = Annotated[str | None, typer.Option(help="Rupees.")]


@token_cli.command()
def create(
    subject: Annotated[str, typer.Argument(help="Who will use it.")],
    account: Annotated[list[str], typer.Option(help="May be repeated; `all` for every one.")],
    scope: Annotated[list[str] | None, typer.Option(help="Default: read and write orders.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24.0, help="How long it is good.")] = 12.0,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; ticker-service.toml if left out.")
    ] = None,
) -> None:
    """Mint a token and print it; whoever has it can trade."""

    async def job() -> int:
        from app import settings  # noqa: PLC0415 - other verbs start faster without it
        from app.security.tokens import Scope, TokenIssuer  # noqa: PLC0415 - likewise

        unknown = sorted(set(scope or ()) - set(Scope))
        if unknown:
            known = ", ".join(Scope)
            raise ConfigurationError(f"Condition failed: scope={unknown}: must be of {known}")
        issuer = TokenIssuer(settings.token_secret(config))
        token = issuer.mint(
            subject,
            scopes=scope or [Scope.ORDERS_READ, Scope.ORDERS_WRITE],
            accounts="all" if account == ["all"] else account,
            lifetime_s=int(hours * 3_600),
            now_ns=SystemClock().now_ns(),
        )
        print(token)  # noqa: T201 - the answer
        return 0

    raise typer.Exit(run_job(job()))


@order_cli.command()
def place(
    client_order_id: _Id,
    symbol: Annotated[str, typer.Option(help="As EXCHANGE:TRADINGSYMBOL.")],
    side: Annotated[Side, typer.Option(case_sensitive=False, help="BUY or SELL.")],
    quantity: Annotated[int, typer.Option(min=1, max=INTEGER_MAX, help="Units.")],
    order_type: Annotated[
        OrderType, typer.Option("--type", case_sensitive=False, help="LIMIT, MARKET, SL, SL-M.")
    ] = OrderType.LIMIT,
    product: Annotated[
        Product, typer.Option(case_sensitive=False, help="CNC, NRML, MIS, MTF.")
    ] = Product.NRML,
    price: _Price = None,
    trigger_price: _Price = None,
    market_protection: Annotated[str | None, typer.Option(help="Percent; -1: Kite's.")] = None,
    validity: Annotated[
        Validity, typer.Option(case_sensitive=False, help="DAY, IOC or TTL.")
    ] = Validity.DAY,
    validity_ttl: Annotated[
        int | None, typer.Option(min=1, max=INTEGER_MAX, help="Minutes, with validity TTL.")
    ] = None,
    variety: Annotated[
        Variety, typer.Option(case_sensitive=False, help="regular, amo, auction, co, iceberg.")
    ] = Variety.REGULAR,
    disclosed_quantity: Annotated[
        int | None, typer.Option(min=0, max=INTEGER_MAX, help="Units to show; shares only.")
    ] = None,
    auction_number: Annotated[
        str | None, typer.Option(help="Of the auction, with variety auction.")
    ] = None,
    iceberg_legs: Annotated[
        int | None, typer.Option(min=1, max=INTEGER_MAX, help="Legs, with variety iceberg.")
    ] = None,
    iceberg_quantity: Annotated[
        int | None, typer.Option(min=1, max=INTEGER_MAX, help="Units of each leg, likewise.")
    ] = None,
    slice_it: Annotated[
        bool, typer.Option("--slice", help="Cut it if it is above the freeze quantity.")
    ] = False,
    account: Annotated[str | None, typer.Option(help="Account to trade on.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Group instead, one of whose accounts takes it.")
    ] = None,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Journal a new order and print it; it is sent behind this. Repeating it is safe."""
    if (account is None) is (group is None):
        raise typer.BadParameter("give either --account or --group")
    exchange, _, tradingsymbol = symbol.partition(":")
    if not tradingsymbol:
        raise typer.BadParameter(f"{symbol!r} must be EXCHANGE:TRADINGSYMBOL, such as NSE:INFY")
    order: dict[str, object] = {
        "exchange": exchange,
        "tradingsymbol": tradingsymbol,
        "transaction_type": side.value,
        "order_type": order_type.value,
        "product": product.value,
        "quantity": quantity,
        "validity": validity.value,
        "price": price,
        "trigger_price": trigger_price,
        "market_protection": market_protection,
        "validity_ttl": validity_ttl,
        "variety": variety.value,
        "disclosed_quantity": disclosed_quantity,
        "auction_number": auction_number,
        "iceberg_legs": iceberg_legs,
        "iceberg_quantity": iceberg_quantity,
    }
    given = {name: value for name, value in order.items() if value is not None}
    _ask(
        url,
        token,
        lambda client: client.place(
            client_order_id, account, given, group=group, is_to_be_sliced=slice_it
        ),
    )


@order_cli.command()
def basket(
    file: Annotated[
        typer.FileText,
        typer.Argument(help="JSON: client_order_id, account, legs, mode, buys_first; - for stdin."),
    ],
    url: Url = URL,
    token: Token = "",
) -> None:
    """Journal a basket of orders and print it; they are sent behind this. Repeating it is safe."""
    from app.http import exact_json  # noqa: PLC0415 - other verbs start faster without it
    from app.http.schemas import BasketRequest  # noqa: PLC0415 - as above

    try:
        asked = BasketRequest.model_validate(exact_json.read(file.read()))
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{file.name}: {error}") from None
    told = asked.model_dump(mode="json", exclude_none=True, exclude={"request_id"})
    _ask(
        url,
        token,
        lambda client: client.basket(
            asked.client_order_id,
            asked.account,
            told["legs"],
            mode=asked.mode,
            is_buys_first=asked.buys_first,
        ),
    )


@order_cli.command()
def modify(
    client_order_id: _Id,
    price: _Price = None,
    quantity: Annotated[
        int | None, typer.Option(min=1, max=INTEGER_MAX, help="Units in all.")
    ] = None,
    trigger_price: _Price = None,
    order_type: Annotated[
        OrderType | None,
        typer.Option("--type", case_sensitive=False, help="LIMIT, MARKET, SL, SL-M."),
    ] = None,
    market_protection: Annotated[str | None, typer.Option(help="Percent; -1: Kite's.")] = None,
    validity: Annotated[
        Validity | None, typer.Option(case_sensitive=False, help="DAY or IOC.")
    ] = None,
    disclosed_quantity: Annotated[
        int | None, typer.Option(min=0, max=INTEGER_MAX, help="Units to show; shares only.")
    ] = None,
    request_id: Annotated[str, typer.Option(help="Key of this change; made up if left out.")] = "",
    url: Url = URL,
    token: Token = "",
) -> None:
    """Journal a change of a live order and print it."""
    change = {
        "price": price,
        "quantity": quantity,
        "trigger_price": trigger_price,
        "order_type": order_type and order_type.value,
        "market_protection": market_protection,
        "validity": validity and validity.value,
        "disclosed_quantity": disclosed_quantity,
    }
    given = {name: value for name, value in change.items() if value is not None}
    key = request_id or _made_up(client_order_id, "modify")
    _ask(url, token, lambda client: client.modify(client_order_id, key, given), key=key)


@order_cli.command()
def cancel(
    client_order_id: _Id,
    request_id: Annotated[str, typer.Option(help="Key of this cancel; made up if left out.")] = "",
    url: Url = URL,
    token: Token = "",
) -> None:
    """Journal the cancel of an order and print it."""
    key = request_id or _made_up(client_order_id, "cancel")
    _ask(url, token, lambda client: client.cancel(client_order_id, key), key=key)


@order_cli.command("exit")
def exit_cover(
    client_order_id: _Id,
    request_id: Annotated[str, typer.Option(help="Key of this exit; made up if left out.")] = "",
    url: Url = URL,
    token: Token = "",
) -> None:
    """Journal the exit of a cover order, which closes what it holds, and print it."""
    key = request_id or _made_up(client_order_id, "exit")
    _ask(url, token, lambda client: client.exit(client_order_id, key), key=key)


@order_cli.command()
def status(client_order_id: _Id, url: Url = URL, token: Token = "") -> None:
    """Print an order as the journal has it."""
    _ask(url, token, lambda client: client.status(client_order_id))


@order_cli.command()
def watch(
    account: Annotated[str, typer.Argument(help="Account to follow.")],
    after: Annotated[
        int | None,
        typer.Option(min=0, max=INTEGER_MAX, help="Start after this account_seq; now if left out."),
    ] = None,
    url: Url = URL,
    token: Token = "",
) -> None:
    """Print an account's order events, one line of JSON each, until Ctrl-C."""

    async def job() -> int:
        from ticker_service.client import OrderClient  # noqa: PLC0415 - as above
        from ticker_service.client.order_client import OrderDoorClosed  # noqa: PLC0415 - as above

        async with OrderClient(url, token) as client:
            await client.subscribe({account: after})
            async for event in client.events():
                print(orjson.dumps(event).decode(), flush=True)  # noqa: T201 - the answer
        raise OrderDoorClosed(client.why_closed)

    raise typer.Exit(run_job(job()))


def _ask(
    url: str,
    token: str,
    question: Callable[[OrderClient], Awaitable[dict[str, Any]]],
    *,
    key: str = "",
) -> None:
    """Ask and print the answer; when none comes, name the key, for whoever did not choose it."""

    async def job() -> int:
        from ticker_service import client as library  # noqa: PLC0415 - as above

        async with library.OrderClient(url, token) as client:
            with named_when_in_doubt(f"--request-id {key}" if key else ""):
                answer = await question(client)
            print(orjson.dumps(answer).decode())  # noqa: T201 - the answer
        return 0

    raise typer.Exit(run_job(job()))


def _made_up(client_order_id: str, verb: str) -> str:
    return f"{client_order_id[:40]}-{verb}-{time.monotonic_ns() % 10**12}"
