"""``ticker-service simulate``: the Kite-compatible exchange as a program."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from app.jobs import run_job
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.simulator import SimulatorOptions
    from ticker_service.simulator.options import SimulatedUser


def simulate(
    *,
    seed: Annotated[int, typer.Option(min=0, help="Fixes everything random.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    rest_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="REST port; 0: the system chooses.")
    ] = 0,
    ws_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="WebSocket port; 0: the system chooses.")
    ] = 0,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Ticks a second over everything; 0 stops the market.")
    ] = 2_000.0,
    steps_per_s: Annotated[int, typer.Option(help="Steps of the price model a second.")] = 20,
    strikes_each_side: Annotated[int, typer.Option(help="Strikes each side of the money.")] = 40,
    instruments: Annotated[
        int, typer.Option(help="Lines of the dump at least; the last ones never trade.")
    ] = 0,
    nearest_expiry_days: Annotated[
        int, typer.Option(min=0, help="Nearest expiry at least so far ahead; 0 allows today.")
    ] = 1,
    crossed_quotes: Annotated[
        float, typer.Option(help="Share of an option's quotes whose bid is above the ask.")
    ] = 0.0,
    one_sided_quotes: Annotated[
        float, typer.Option(help="Share of an option's quotes that lack one side.")
    ] = 0.0,
    dead_strikes: Annotated[
        float, typer.Option(help="Share of the options that nobody quotes or trades.")
    ] = 0.0,
    user: Annotated[
        list[str] | None,
        typer.Option(help="Who may log in, as ID or ID:NAME; may be repeated.", metavar="ID:NAME"),
    ] = None,
    api_key: Annotated[str, typer.Option(help="The app's key; from the seed if left out.")] = "",
    api_secret: Annotated[str, typer.Option(help="Its secret; from the seed if left out.")] = "",
    redirect_url: Annotated[str, typer.Option(help="Where a login sends the browser.")] = "",
    cash_inr: Annotated[int, typer.Option(help="What each user begins the day with.")] = 10_000_000,
    order_state_ms: Annotated[
        float, typer.Option(help="An order's time in each interim state; 0: none.")
    ] = 3.0,
    amo_rest_s: Annotated[
        float, typer.Option(help="An after-market order goes to the exchange after so long.")
    ] = 5.0,
    tags_on_legs: Annotated[
        bool, typer.Option(help="A cover order's second leg bears its first leg's tag.")
    ] = False,
    postback_url: Annotated[str, typer.Option(help="Order updates are posted there as well.")] = "",
    slice_list: Annotated[
        bool, typer.Option(help="Answer autoslice with a list, as older documents have it.")
    ] = False,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Largest quantity of one derivatives order; may be repeated.",
            metavar="NAME=QUANTITY",
        ),
    ] = None,
    no_market: Annotated[
        list[str] | None,
        typer.Option(
            help="Refuse MARKET orders in it; may be repeated.", metavar="EXCHANGE:TRADINGSYMBOL"
        ),
    ] = None,
    rate_limits: Annotated[
        bool, typer.Option(help="Answer 429 beyond Kite's request rates.")
    ] = True,
    orders_per_day: Annotated[
        int, typer.Option(help="Placements a user may ask for in a day, with --rate-limits.")
    ] = 5_000,
    orders_per_minute: Annotated[
        int, typer.Option(help="Order requests per user and minute.")
    ] = 400,
    orders_per_second: Annotated[
        int, typer.Option(help="Order requests per user and second.")
    ] = 10,
    modifications: Annotated[int, typer.Option(help="Changes that one order takes.")] = 25,
    order_cooldown_s: Annotated[
        float, typer.Option(help="After a 429 on orders, refuse further ones for so long.")
    ] = 0.0,
    truth_history_s: Annotated[int, typer.Option(help="How long the truth is kept.")] = 600,
) -> None:
    """Run a Kite-compatible exchange on loopback until SIGTERM.

    The first line on standard output is one JSON object with rest_root, ws_root, login_url,
    api_key, api_secret and users. Every Kite client works against those roots. See
    docs/simulator.md for its faults and its truth.
    """

    def options() -> SimulatorOptions:
        from ticker_service.simulator import SimulatorOptions  # noqa: PLC0415 - verbs start faster
        from ticker_service.simulator.options import (  # noqa: PLC0415 - likewise
            DEFAULT_FREEZE_QUANTITIES,
            DEFAULT_USERS,
        )

        freezes = {
            **dict(DEFAULT_FREEZE_QUANTITIES),
            **dict(_freeze(each) for each in freeze or ()),
        }
        return SimulatorOptions(
            seed=seed,
            host=host,
            rest_port=rest_port,
            ws_port=ws_port,
            rate_per_s=rate,
            steps_per_s=steps_per_s,
            strikes_each_side=strikes_each_side,
            instruments_min=instruments,
            nearest_expiry_days_min=nearest_expiry_days,
            crossed_quote_ratio=crossed_quotes,
            one_sided_quote_ratio=one_sided_quotes,
            dead_strike_ratio=dead_strikes,
            users=tuple(_user(each) for each in user) if user else DEFAULT_USERS,
            api_key=api_key,
            api_secret=api_secret,
            redirect_url=redirect_url,
            cash_inr=cash_inr,
            order_state_ms=order_state_ms,
            amo_rest_s=amo_rest_s,
            tags_on_legs=tags_on_legs,
            is_slice_list=slice_list,
            postback_url=postback_url,
            freeze_quantities=tuple(freezes.items()),
            no_market=tuple(no_market or ()),
            enforce_rate_limits=rate_limits,
            orders_per_day_max=orders_per_day,
            orders_per_minute_max=orders_per_minute,
            orders_per_second_max=orders_per_second,
            modifications_max=modifications,
            order_cooldown_s=order_cooldown_s,
            truth_history_s=truth_history_s,
        )

    raise typer.Exit(run_job(_serve(options)))


async def _serve(options: Callable[[], SimulatorOptions]) -> int:
    from ticker_service.simulator import Simulator  # noqa: PLC0415 - as above

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Simulator(options(), clock=SystemClock()) as simulator:
        sys.stdout.buffer.write(orjson.dumps(simulator.banner()) + b"\n")
        sys.stdout.buffer.flush()
        await stop.wait()
    return 0


def _user(text: str) -> SimulatedUser:
    from ticker_service.simulator.options import SimulatedUser  # noqa: PLC0415 - as above

    user_id, _, name = text.partition(":")
    return SimulatedUser(
        user_id=user_id, user_name=name or user_id, email=f"{user_id.lower()}@example.com"
    )


def _freeze(text: str) -> tuple[str, int]:
    name, _, quantity = text.partition("=")
    if not name or not (quantity.isascii() and quantity.isdecimal()):
        raise ConfigurationError(f"freeze={text!r}: must be NAME=QUANTITY, such as NIFTY=1800")
    return name, int(quantity)
