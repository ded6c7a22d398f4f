"""``ticker-service greeks``: the pricer without the daemon."""

from __future__ import annotations

import datetime as dt
import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

import typer

from app.jobs import run_job
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
Interval = Literal[
    "minute", "3minute", "5minute", "10minute", "15minute", "30minute", "60minute", "day"
]
RATE_MAX: Final = 1.0
_FILE: Final = "A file of candles"
_OPTION: Final = "One option"


def plain_number(text: str | float) -> float:
    """Return a number as it was typed; Python alone would read ``2_5`` as 25."""
    from app import candle_files  # noqa: PLC0415 - other verbs start faster

    try:
        return candle_files.number_of(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is not a number") from None


def greeks(
    candles: Annotated[
        Path | None, typer.Argument(help="Option candles, .csv or .parquet (docs/history.md).")
    ] = None,
    underlying: Annotated[
        Path | None,
        typer.Option(help="Candles of the spot or its futures.", rich_help_panel=_FILE),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write here, .csv or .parquet; CSV on standard output without it.",
            rich_help_panel=_FILE,
        ),
    ] = None,
    interval: Annotated[
        Interval | None,
        typer.Option(help="How long a candle is.", rich_help_panel=_FILE, show_default="minute"),
    ] = None,
    candle_price: Annotated[
        Literal["close", "open"] | None,
        typer.Option(
            help="Which of its prices to price.", rich_help_panel=_FILE, show_default="close"
        ),
    ] = None,
    own_leg: Annotated[
        bool,
        typer.Option(
            "--own-leg",
            help="Keep each option's own volatility, in the money too.",
            rich_help_panel=_FILE,
        ),
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(
            parser=plain_number, help="The option's price, rupees.", rich_help_panel=_OPTION
        ),
    ] = None,
    forward: Annotated[
        float | None,
        typer.Option(
            parser=plain_number, help="Forward of its expiry, rupees.", rich_help_panel=_OPTION
        ),
    ] = None,
    spot: Annotated[
        float | None,
        typer.Option(
            parser=plain_number, help="Or the spot; the rate carries it.", rich_help_panel=_OPTION
        ),
    ] = None,
    strike: Annotated[
        float | None,
        typer.Option(parser=plain_number, help="Strike, rupees.", rich_help_panel=_OPTION),
    ] = None,
    expiry: Annotated[
        str | None, typer.Option(help="Date, YYYY-MM-DD.", rich_help_panel=_OPTION)
    ] = None,
    is_call: Annotated[
        bool, typer.Option("--call", help="It is a call.", rich_help_panel=_OPTION)
    ] = False,
    is_put: Annotated[
        bool, typer.Option("--put", help="It is a put.", rich_help_panel=_OPTION)
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(help="Instant, ISO 8601, IST unless it says; now.", rich_help_panel=_OPTION),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON.", rich_help_panel=_OPTION)
    ] = False,
    rate: Annotated[
        float,
        typer.Option(
            parser=plain_number, help="Discount rate per year as a fraction, and a spot's carry."
        ),
    ] = 0.0,
    segment: Annotated[
        str, typer.Option(help="Kite's, which says when an expiry ends.")
    ] = "NFO-OPT",
    price_step: Annotated[
        float, typer.Option(parser=plain_number, help="Least move of a price, rupees.")
    ] = 0.05,
) -> None:
    """Give option candles, or one option, implied volatility and Greeks.

    Every row says which forward it was priced on (given, parity, future, spot_carry), and where
    there is no value, why.
    """
    # None is what was not given: a default that is typed out is refused like any other value.
    of_file = {
        "--underlying": underlying,
        "--out": out,
        "--interval": interval,
        "--candle-price": candle_price,
        "--own-leg": own_leg or None,
    }
    of_option = {
        "--price": price,
        "--forward": forward,
        "--spot": spot,
        "--strike": strike,
        "--expiry": expiry,
        "--call or --put": is_call or is_put or None,
        "--at": at,
        "--json": as_json or None,
    }
    misplaced = _given(of_file if candles is None else of_option)

    async def job() -> int:
        from app import candle_files, candle_greeks  # noqa: PLC0415 - other verbs start faster
        from ticker_service.domain.expiry_clock import EXPIRY_HOURS  # noqa: PLC0415 - likewise
        from ticker_service.history import (  # noqa: PLC0415 - likewise
            CandleInterval,
            CandlePrice,
            CandlePricing,
        )

        known = sorted({each for hours in EXPIRY_HOURS for each in hours.segments})
        if segment not in known:
            raise ConfigurationError(f"--segment={segment}: must be one of {', '.join(known)}")
        assumed = CandlePricing(
            interval=CandleInterval(interval or "minute"),
            price=CandlePrice(candle_price or "close"),
            segment=segment,
            rate=_number("--rate", rate, above=-RATE_MAX, below=RATE_MAX),
            price_step_inr=_number("--price-step", price_step),
            other_leg=not own_leg,
        )
        if candles is not None:
            if misplaced:
                rule = "is for one option, not for a file of candles"
                raise ConfigurationError(f"{misplaced[0]} {rule}")
            # A reader that went away (`greeks day.csv | head`) ends a filter.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            candle_greeks.price_files(candles, underlying, out, assumed=assumed)
            return 0
        if misplaced:
            rule = "is for a file of candles, not for one option"
            raise ConfigurationError(f"{misplaced[0]} {rule}")
        if (forward is None) == (spot is None):
            raise ConfigurationError("give a file of candles, or either --forward or --spot")
        one = candle_greeks.OneOption(
            price=_number("--price", price),
            strike=_number("--strike", strike),
            is_call=_is_call(call=is_call, put=is_put),
            expiry=_read("--expiry", _needed("--expiry", expiry), candle_files.date_of),
            forward=None if forward is None else _number("--forward", forward),
            spot=None if spot is None else _number("--spot", spot),
        )
        at_ns = SystemClock().now_ns() if at is None else _read("--at", at, _instant_of)
        candle_greeks.price_option(one, at_ns=at_ns, assumed=assumed, as_json=as_json)
        return 0

    raise typer.Exit(run_job(job()))


def _given(options: Mapping[str, object]) -> list[str]:
    return [name for name, value in options.items() if value is not None]


def _instant_of(text: str) -> int:
    """Return the instant in ns since the Unix epoch; a date alone, unlike a candle's, is none."""
    from app import candle_files  # noqa: PLC0415 - other verbs start faster

    try:
        dt.date.fromisoformat(text.strip())
    except ValueError:
        return candle_files.instant_of(text)
    raise ValueError("has no time of day")


def _needed(name: str, value: T | None) -> T:
    if value is None:
        raise ConfigurationError(f"{name} is missing")
    return value


def _is_call(*, call: bool, put: bool) -> bool:
    if call and put:
        raise ConfigurationError("--call and --put exclude each other: it is one option")
    if not call and not put:
        raise ConfigurationError("--call or --put is missing")
    return call


def _number(
    name: str, value: float | None, *, above: float = 0.0, below: float = math.inf
) -> float:
    number = _needed(name, value)
    if not above < number < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ConfigurationError(f"{name}={number}: must be a number above {above:g}{limit}")
    return number


def _read(name: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}={text}: {error}") from error
