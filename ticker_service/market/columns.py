"""The columns of the wire: what each is called, what it holds, and where it comes from.

Path: feed -> decode -> validate -> batch -> price -> [publish].

One line per column, whatever the encoding: the encoders read this table, so that a channel of one
encoding can not say what another does not. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.constants import NS_PER_US
from ticker_service.domain.tick import DEPTH_LEVELS, NOT_CARRIED, Mode
from ticker_service.market.forward_source import ForwardSource
from ticker_service.market.price import Leg
from ticker_service.market.quotes import PriceSource
from ticker_service.market.streams import Doubt
from ticker_service.pricing import SMILE_STATUS_WIRE_NAMES, STATUS_WIRE_NAMES, SmileStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ticker_service.domain.tick import Ticks
    from ticker_service.market.price import Priced
    from ticker_service.market.smiles import BookSmiles
    from ticker_service.market.streams import Standing

STALENESS_DIGITS: Final = 3
NO_WORD: Final = 255
"""The code of a word that is missing in this row."""


class Kind(Enum):
    """What a column holds, and how a missing value looks before it is encoded."""

    NUMBER = "number"
    """float64; NaN is missing."""
    WHOLE = "whole"
    """Whole numbers; the column's own value for "missing", or None if it never is."""
    WORD = "word"
    """uint8 codes of words; ``NO_WORD`` is missing."""
    FLAG = "flag"
    """bool; never missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is published: ticks in order, and what pricing and validation say of each."""

    ticks: Ticks
    priced: Priced
    standing: Standing
    is_repriced: bool = False
    """They had no packet: rows repeated because their numbers moved."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: ``values`` reads it from the rows, shape ``(n,)``, contiguous, native-endian.

    ``same_as`` names a column with the same values, if there is one: the best level of depth.
    """

    name: str
    kind: Kind
    values: Callable[[Rows], NDArray[Any]]
    dtype: np.dtype[Any]
    missing: int | None = None
    words: tuple[str, ...] = ()
    same_as: str = ""


def chosen(*, depth: bool, options: bool, own_volatility: bool = False) -> tuple[Column, ...]:
    """Return the columns in their order on the wire.

    Args:
        depth: With the five levels of both sides.
        options: With what pricing adds, for universes that have options.
        own_volatility: With what each option's own quote says, whichever leg its row takes.
    """
    return (
        *_TICK,
        *(_DEPTH if depth else ()),
        *(_OPTION if options else ()),
        *(_OWN if own_volatility else ()),
        *_LAST,
    )


def _number(name: str, values: Callable[[Rows], NDArray[Any]]) -> Column:
    return Column(name, Kind.NUMBER, values, np.dtype(np.float64))


def _whole(
    name: str, values: Callable[[Rows], NDArray[Any]], *, missing: int | None = NOT_CARRIED
) -> Column:
    # Signed, although nothing here is negative: a consumer may subtract one side from the other.
    return Column(name, Kind.WHOLE, values, np.dtype(np.int64), missing=missing)


def _word(name: str, codes: Callable[[Rows], NDArray[np.uint8]], words: Iterable[str]) -> Column:
    return Column(name, Kind.WORD, codes, np.dtype(np.uint8), words=tuple(words))


def _flag(name: str, values: Callable[[Rows], NDArray[np.bool_]]) -> Column:
    return Column(name, Kind.FLAG, values, np.dtype(np.bool_))


def _number_of_option(name: str, *, digits: int | None = None) -> Column:
    read = attrgetter(name)

    def values(rows: Rows) -> NDArray[np.float64]:
        all_rows = read(rows.priced)
        rounded = all_rows if digits is None else np.round(all_rows, digits)
        return np.where(rows.priced.is_option, rounded, np.nan)

    return _number(name, values)


def _word_of_option(name: str, words: Iterable[str]) -> Column:
    read = attrgetter(name)

    def codes(rows: Rows) -> NDArray[np.uint8]:
        return np.where(rows.priced.is_option, read(rows.priced), np.uint8(NO_WORD))

    return _word(name, codes, words)


def _mode(rows: Rows) -> NDArray[np.uint8]:
    # The codes begin with 1, so the 0 of a row without a tick becomes "no word".
    codes: NDArray[np.uint8] = rows.ticks.mode - np.uint8(1)
    return codes


def _doubt(rows: Rows) -> NDArray[np.uint8]:
    # As above: the 0 of a row without a doubt becomes "no word".
    codes: NDArray[np.uint8] = rows.standing.marks.doubt - np.uint8(1)
    return codes


def _staleness(rows: Rows) -> NDArray[np.float64]:
    return np.round(rows.standing.staleness_ratio, STALENESS_DIGITS)


def _level(side: str, level: int) -> list[Column]:
    def values(name: str) -> Callable[[Rows], NDArray[Any]]:
        read = attrgetter(f"{side}_{name}")
        return lambda rows: read(rows.ticks)[level]

    number = level + 1
    return [
        _number(f"{side}_price_{number}", values("price")),
        _whole(f"{side}_quantity_{number}", values("quantity")),
        _whole(f"{side}_orders_{number}", values("orders")),
    ]


def _as_level(name: str, of_level: str) -> Column:
    """Return the column of a level of depth under a name of its own."""
    return replace(_BY_LEVEL[of_level], name=name, same_as=of_level)


def _change_pct(rows: Rows) -> NDArray[np.float64]:
    # What was first listed today has a close of 0, and no change.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        change: NDArray[np.float64] = np.round(100.0 * (rows.ticks.ltp / rows.ticks.close - 1.0), 4)
    return change


_DEPTH: Final = tuple(
    column
    for level in range(DEPTH_LEVELS)
    for side in ("bid", "ask")
    for column in _level(side, level)
)
_BY_LEVEL: Final = {column.name: column for column in _DEPTH}
_TICK: Final = (
    Column(
        "instrument_token",
        Kind.WHOLE,
        lambda rows: rows.ticks.instrument_token,
        np.dtype(np.uint32),
    ),
    _whole("exchange_ts_us", lambda rows: rows.ticks.exchange_ts_ns // NS_PER_US, missing=0),
    _whole("received_at_us", lambda rows: rows.ticks.received_at_ns // NS_PER_US, missing=None),
    _number("ltp", lambda rows: rows.ticks.ltp),
    _whole("last_quantity", lambda rows: rows.ticks.last_quantity),
    _number("average_price", lambda rows: rows.ticks.average_price),
    _whole("volume", lambda rows: rows.ticks.volume),
    _whole("buy_quantity", lambda rows: rows.ticks.buy_quantity),
    _whole("sell_quantity", lambda rows: rows.ticks.sell_quantity),
    _number("open", lambda rows: rows.ticks.open),
    _number("high", lambda rows: rows.ticks.high),
    _number("low", lambda rows: rows.ticks.low),
    _number("close", lambda rows: rows.ticks.close),
    _number("change_pct", _change_pct),
    _whole("oi", lambda rows: rows.ticks.oi),
    _as_level("bid", "bid_price_1"),
    _as_level("ask", "ask_price_1"),
    _as_level("bid_quantity", "bid_quantity_1"),
    _as_level("ask_quantity", "ask_quantity_1"),
    _word("mode", _mode, (mode.wire_name for mode in Mode)),
    _flag("is_cached", lambda rows: rows.standing.marks.is_cached),
    _number("staleness_ratio", _staleness),
    _word("doubt", _doubt, (doubt.name.lower() for doubt in Doubt if doubt)),
)
_OPTION: Final = (
    *map(_number_of_option, ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")),
    _number_of_option("price_used"),
    _word_of_option("price_source", (source.name.lower() for source in PriceSource)),
    _number_of_option("forward"),
    _word_of_option("forward_source", (source.name.lower() for source in ForwardSource)),
    _number_of_option("forward_age_ms", digits=0),
    _number_of_option("forward_dispersion", digits=4),
    _word_of_option("iv_status", STATUS_WIRE_NAMES),
    _word_of_option("iv_leg", (leg.name.lower() for leg in Leg)),
)
_OWN: Final = (
    _number_of_option("own_implied_volatility"),
    _word_of_option("own_iv_status", STATUS_WIRE_NAMES),
)
_LAST: Final = (
    _flag("is_repriced", lambda rows: np.full(len(rows.ticks), rows.is_repriced, np.bool_)),
)


def of_smiles(drawn: BookSmiles) -> dict[str, Any]:
    """Return the columns of a ``smile``, one row per expiry; ``null`` where there is no curve."""
    smiles, curve = drawn.smiles, drawn.smiles.curve
    is_drawn = smiles.status == SmileStatus.OK

    def verdict(flags: NDArray[np.bool_]) -> list[bool | None]:
        pairs = zip(flags.tolist(), is_drawn.tolist(), strict=True)
        return [flag if drawn_at_all else None for flag, drawn_at_all in pairs]

    return {
        "expiry": [str(expiry.date) for expiry in drawn.expiries],
        "exchange": list(drawn.exchange),
        "forward": smiles.forward,
        "forward_source": [ForwardSource(code).name.lower() for code in drawn.forward_source],
        "years": smiles.years,
        "atm_volatility": smiles.atm_volatility,
        "skew": smiles.skew,
        "curvature": smiles.curvature,
        "fit_error": smiles.fit_error,
        "fit_error_max": smiles.fit_error_max,
        "points": smiles.points,
        "strike_min": smiles.strike_min,
        "strike_max": smiles.strike_max,
        "svi_a": curve.a,
        "svi_b": curve.b,
        "svi_rho": curve.rho,
        "svi_m": curve.m,
        "svi_sigma": curve.sigma,
        "butterfly_ok": verdict(smiles.butterfly_ok),
        "calendar_ok": verdict(smiles.calendar_ok),
        "smile_status": [SMILE_STATUS_WIRE_NAMES[code] for code in smiles.status.tolist()],
    }
