"""Which candles belong together: the two legs of a strike, and all options of one instant.

Path: [alignment] -> instants -> forwards -> greeks. Pure.

Candles are joined where their stamps are equal and nowhere else. A minute in which an option did
not trade has no candle; carrying the last one forward would pair a price of then with a forward of
now, and the result would look like a volatility.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.errors import CandleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABSENT: Final = -1
"""Row number that stands for "there is none"."""
SPOT: Final = 0
"""Expiry instant of what has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionCandles:
    """Candles of options, one row each, in any order as long as each contract's stamps ascend.

    Attributes:
        start_ns: Kite's stamp, the instant at which the candle begins; ns since the Unix epoch,
            int64. Shape ``(n,)``, like all others.
        price: The candle's close or open, rupees; NaN where there is none.
        strike: Strike, rupees.
        is_call: True for a call.
        expiry_ns: When the contract's variance ends (``domain.expiry_clock``), same unit and epoch.
        underlying: A number per underlying; None when there is only one.
        volume: Units traded in the candle; NaN where not known, None when nowhere known. A candle
            without a trade repeats an older price.
        forward: The caller's own forward, rupees, NaN where it has none; None for none at all.
            One that is not a finite number above 0 makes its row ``BAD_INPUT``.
    """

    start_ns: NDArray[np.int64]
    price: NDArray[np.float64]
    strike: NDArray[np.float64]
    is_call: NDArray[np.bool_]
    expiry_ns: NDArray[np.int64]
    underlying: NDArray[np.int64] | None = None
    volume: NDArray[np.float64] | None = None
    forward: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.start_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderlyingCandles:
    """Candles of what the options are on: the spot, its futures, or both; any order.

    Attributes:
        start_ns: As in ``OptionCandles``; shape ``(m,)``, like all others.
        price: The same end of the candle as the options' price, rupees.
        expiry_ns: Expiry instant of a future, as the options state it; ``SPOT`` for the spot. None
            when every row is the spot.
        underlying: A number per underlying, as in ``OptionCandles``.
    """

    start_ns: NDArray[np.int64]
    price: NDArray[np.float64]
    expiry_ns: NDArray[np.int64] | None = None
    underlying: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.start_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Rows that belong together.

    A *moment* is one stamp of one expiry of one underlying: all that one forward prices.

    Attributes:
        moment: Number of each row's moment, shape ``(n,)``.
        row_of_moment: Some row of each moment, shape ``(moments,)``.
        other_leg: Row of the same strike's other option at the same stamp, ``ABSENT`` where there
            is none, shape ``(n,)``.
        call_row: Row of the call of each complete strike, by moment and then strike.
        put_row: Row of its put, likewise.
    """

    moment: NDArray[np.intp]
    row_of_moment: NDArray[np.intp]
    other_leg: NDArray[np.intp]
    call_row: NDArray[np.intp]
    put_row: NDArray[np.intp]


def align(candles: OptionCandles) -> Alignment:
    """Find the rows that belong together.

    Args:
        candles: Options of any number of underlyings, expiries and strikes.

    Raises:
        CandleError: Columns differ in length, or a contract's stamps repeat or go back.
    """
    _check_lengths(candles, "option candles")
    stamp = _numbered(candles.start_ns)
    chain = _combined(
        _numbered(or_zeros(candles.underlying, len(candles))), _numbered(candles.expiry_ns)
    )
    contract = _combined(chain, _numbered(candles.strike)) * 2 + candles.is_call
    _check_order(contract, stamp, "option candles")

    # Sorted like this, the rows of a moment lie together, and in it the put before its call.
    order = np.lexsort((contract, stamp))
    is_new_moment = _changes(stamp[order]) | _changes(chain[order])
    moment = np.empty(len(order), np.intp)
    moment[order] = np.cumsum(is_new_moment) - 1

    contract, stamp = contract[order], stamp[order]
    is_pair = (contract[:-1] ^ 1 == contract[1:]) & (contract[1:] & 1 == 1)
    is_pair &= stamp[:-1] == stamp[1:]
    put_row, call_row = order[:-1][is_pair], order[1:][is_pair]
    other_leg = np.full(len(order), ABSENT, np.intp)
    other_leg[put_row], other_leg[call_row] = call_row, put_row
    return Alignment(
        moment=moment,
        row_of_moment=order[is_new_moment],
        other_leg=other_leg,
        call_row=call_row,
        put_row=put_row,
    )


def listed_rows(
    candles: UnderlyingCandles, options: OptionCandles, row: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the spot and of the future that belong to some option rows.

    Args:
        candles: Spots and futures.
        options: The options.
        row: Some of their rows, shape ``(k,)``.

    Returns:
        Two columns of rows of ``candles``, ``ABSENT`` where there is none, shape ``(k,)``.

    Raises:
        CandleError: Columns differ in length, or the stamps of a series repeat or go back.
    """
    _check_lengths(candles, "underlying candles")
    spot = np.full(len(row), SPOT, np.int64)
    keys = _keys(
        (
            or_zeros(candles.underlying, len(candles)),
            or_zeros(candles.expiry_ns, len(candles)),
            candles.start_ns,
        ),
        *(
            (or_zeros(options.underlying, len(options))[row], expiry_ns, options.start_ns[row])
            for expiry_ns in (spot, options.expiry_ns[row])
        ),
    )
    series, key = keys
    _check_order(series[: len(candles)], candles.start_ns, "underlying candles")
    key, spot_key, future_key = np.split(key, [len(candles), len(candles) + len(row)])
    order = np.argsort(key)
    return _place(key, order, spot_key), _place(key, order, future_key)


def or_zeros(column: NDArray[np.int64] | None, rows: int) -> NDArray[np.int64]:
    """Return the column, or zeros for one that was not given."""
    return np.zeros(rows, np.int64) if column is None else column


def _check_lengths(candles: OptionCandles | UnderlyingCandles, table: str) -> None:
    for column in fields(candles):
        values = getattr(candles, column.name)
        if values is not None and values.shape != (len(candles),):
            rule = f"has the shape {values.shape}, start_ns {candles.start_ns.shape}"
            raise CandleError(rule, table=table, column=column.name)


def _check_order(series: NDArray[np.int64], stamp: NDArray[np.int64], table: str) -> None:
    """Refuse a series whose stamps do not ascend: two files run together, or one sorted badly."""
    by_series = np.argsort(series, kind="stable")
    in_order = stamp[by_series]
    is_wrong = ~_changes(series[by_series])
    is_wrong[1:] &= in_order[1:] <= in_order[:-1]  # no difference: far stamps would overflow it
    if not is_wrong.any():
        return
    wrong = np.flatnonzero(is_wrong)
    place = wrong[np.argmin(by_series[wrong])]
    row, before = int(by_series[place]), int(by_series[place - 1])
    relation = "the same as" if stamp[before] == stamp[row] else "earlier than"
    raise CandleError(
        f"is {relation} in row {before + 1}, which is of the same series; stamps must ascend",
        table=table,
        column="timestamp",
        row=row,
    )


def _place(
    key: NDArray[np.int64], order: NDArray[np.intp], asked: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Return where each asked key is, ``ABSENT`` where it is not."""
    if not len(key):
        return np.full(len(asked), ABSENT, np.intp)
    found = order[np.minimum(np.searchsorted(key, asked, sorter=order), len(key) - 1)]
    return np.where(key[found] == asked, found, ABSENT)


def _keys(*tables: tuple[NDArray[np.int64], ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return numbers for the rows of several tables, the same for the same values.

    The first is of all columns but the last, the second of all columns.
    """
    *leading, last = (_numbered(np.concatenate(parts)) for parts in zip(*tables, strict=True))
    series = leading[0]
    for number in leading[1:]:
        series = _combined(series, number)
    return series, _combined(series, last)


def _numbered(values: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of each value among the different ones, ascending."""
    number: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return number


def _combined(high: NDArray[np.int64], low: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number per pair of numbers, in the order of the pairs."""
    combined: NDArray[np.int64] = high * (int(low.max(initial=0)) + 1) + low
    return combined


def _changes(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where a value differs from the one before it; the first one does."""
    changes = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes
