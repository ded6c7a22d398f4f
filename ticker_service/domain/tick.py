"""The tick: its five wire layouts, and the columns it becomes.

Wire layouts are Kite's, big-endian, told apart by length alone (kite.md §1.4 and §1.5). Prices are
signed because spreads and, once, crude oil have traded below zero; quantities and times are
unsigned.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

DEPTH_LEVELS: Final = 5
NOT_CARRIED: Final = -1
"""Stands for a missing quantity inside the columns; the wire says ``null``."""


class Mode(IntEnum):
    """How much of an instrument a packet carries."""

    LTP = 1
    QUOTE = 2
    FULL = 3

    @property
    def wire_name(self) -> str:
        """Kite's own word for the mode, such as ``full``."""
        return self.name.lower()


_HEAD: Final = [("instrument_token", ">u4"), ("ltp", ">i4")]
_QUOTE: Final = [
    *_HEAD,
    ("last_quantity", ">u4"),
    ("average_price", ">i4"),
    ("volume", ">u4"),
    ("buy_quantity", ">u4"),
    ("sell_quantity", ">u4"),
    ("open", ">i4"),
    ("high", ">i4"),
    ("low", ">i4"),
    ("close", ">i4"),
]
# An index states high, low, open, close; a tradable instrument open, high, low, close.
_INDEX_QUOTE: Final = [
    *_HEAD,
    ("high", ">i4"),
    ("low", ">i4"),
    ("open", ">i4"),
    ("close", ">i4"),
    ("price_change", ">i4"),
]

DEPTH_LEVEL_DTYPE: Final = np.dtype(
    [("quantity", ">u4"), ("price", ">i4"), ("orders", ">u2"), ("padding", ">u2")]
)
LTP_PACKET: Final = np.dtype(_HEAD)
INDEX_QUOTE_PACKET: Final = np.dtype(_INDEX_QUOTE)
INDEX_FULL_PACKET: Final = np.dtype([*_INDEX_QUOTE, ("exchange_ts", ">u4")])
QUOTE_PACKET: Final = np.dtype(_QUOTE)
FULL_PACKET: Final = np.dtype(
    [
        *_QUOTE,
        ("last_trade_ts", ">u4"),
        ("oi", ">u4"),
        ("oi_day_high", ">u4"),
        ("oi_day_low", ">u4"),
        ("exchange_ts", ">u4"),
        ("bid", DEPTH_LEVEL_DTYPE, (DEPTH_LEVELS,)),
        ("ask", DEPTH_LEVEL_DTYPE, (DEPTH_LEVELS,)),
    ]
)
PACKET_LAYOUTS: Final = {
    layout.itemsize: layout
    for layout in (LTP_PACKET, INDEX_QUOTE_PACKET, INDEX_FULL_PACKET, QUOTE_PACKET, FULL_PACKET)
}
"""Layout by packet length in bytes: 8, 28, 32, 44, 184."""

MODE_BY_LENGTH: Final = {8: Mode.LTP, 28: Mode.QUOTE, 32: Mode.FULL, 44: Mode.QUOTE, 184: Mode.FULL}

if sorted(PACKET_LAYOUTS) != sorted(MODE_BY_LENGTH):  # pragma: no cover - a layout was edited
    raise AssertionError(f"Invariant: packet lengths {sorted(PACKET_LAYOUTS)}")


class _Prices:
    """Rows of the block of prices under a name of their own."""

    def __init__(self, rows: int | slice) -> None:
        self._rows = rows

    def __get__(self, ticks: Ticks, owner: type[Ticks]) -> NDArray[np.float64]:
        prices: NDArray[np.float64] = ticks.prices[self._rows]
        return prices


class _Counts:
    """Rows of the block of quantities under a name of their own."""

    def __init__(self, rows: int | slice) -> None:
        self._rows = rows

    def __get__(self, ticks: Ticks, owner: type[Ticks]) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = ticks.counts[self._rows]
        return counts


class _Stamps:
    """A row of the block of times under a name of its own."""

    def __init__(self, row: int) -> None:
        self._row = row

    def __get__(self, ticks: Ticks, owner: type[Ticks]) -> NDArray[np.int64]:
        stamps: NDArray[np.int64] = ticks.stamps_ns[self._row]
        return stamps


PRICE_ROWS: Final = 6 + 2 * DEPTH_LEVELS
COUNT_ROWS: Final = 7 + 4 * DEPTH_LEVELS
STAMP_ROWS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Decoded ticks as columns, one row per packet, in the order of arrival.

    Columns of one kind lie together in a block, one column after the other, so that a step moves
    or tests all of them in one call; the names below are views of the blocks. A column has shape
    ``(n,)``; depth columns have shape ``(5, n)``, best level first. Prices are rupees; NaN means
    the packet did not carry the value. Quantities are units; -1 means not carried. Times are ns
    since the Unix epoch (UTC); 0 means not carried. Arrays are read-only by convention: a step
    derives new ones.

    Attributes:
        instrument_token: Kite's token.
        mode: ``Mode`` of the packet.
        received_at_ns: When the packet's frame was received.
        stamps_ns: The exchange's own times, shape ``(STAMP_ROWS, n)``.
        prices: All prices, shape ``(PRICE_ROWS, n)``, depth last.
        counts: All quantities and numbers of orders, shape ``(COUNT_ROWS, n)``, depth last.
    """

    instrument_token: NDArray[np.uint32]
    mode: NDArray[np.uint8]
    received_at_ns: NDArray[np.int64]
    stamps_ns: NDArray[np.int64]
    prices: NDArray[np.float64]
    counts: NDArray[np.int64]

    exchange_ts_ns = _Stamps(0)
    last_trade_ts_ns = _Stamps(1)

    ltp = _Prices(0)
    average_price = _Prices(1)
    open = _Prices(2)
    high = _Prices(3)
    low = _Prices(4)
    close = _Prices(5)
    bid_price = _Prices(slice(6, 11))
    ask_price = _Prices(slice(11, 16))

    last_quantity = _Counts(0)
    volume = _Counts(1)
    buy_quantity = _Counts(2)
    sell_quantity = _Counts(3)
    oi = _Counts(4)
    oi_day_high = _Counts(5)
    oi_day_low = _Counts(6)
    bid_quantity = _Counts(slice(7, 12))
    ask_quantity = _Counts(slice(12, 17))
    bid_orders = _Counts(slice(17, 22))
    ask_orders = _Counts(slice(22, 27))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.instrument_token)

    @classmethod
    def empty(cls, rows: int) -> Self:
        """Return ``rows`` rows in which every value is "not carried"."""
        return cls(
            instrument_token=np.zeros(rows, np.uint32),
            mode=np.zeros(rows, np.uint8),
            received_at_ns=np.zeros(rows, np.int64),
            stamps_ns=np.zeros((STAMP_ROWS, rows), np.int64),
            prices=np.full((PRICE_ROWS, rows), np.nan),
            counts=np.full((COUNT_ROWS, rows), NOT_CARRIED, np.int64),
        )

    def by_rows(self) -> Self:
        """Return the same in a memory where the values of a row lie side by side.

        For a table that rows are put into; ``take`` makes columns of it again.
        """
        return replace(
            self, prices=np.asfortranarray(self.prices), counts=np.asfortranarray(self.counts)
        )

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """Return the chosen rows as new columns, in the order of ``rows``.

        The columns are contiguous, depth levels too: what is encoded later must be.
        """
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return type(self)(**{name: _taken(getattr(self, name), places) for name in _BLOCKS})

    def part(self, rows: slice) -> Self:
        """Return consecutive rows as views; each column, and each level of depth, is contiguous."""
        return type(self)(**{name: getattr(self, name)[..., rows] for name in _BLOCKS})

    def put(self, rows: NDArray[np.intp], ticks: Ticks) -> None:
        """Write ``ticks`` over the given rows; where a row is named twice the later tick stays.

        For the owner of a table only (``market.latest``).
        """
        for name in _BLOCKS:
            getattr(self, name)[..., rows] = getattr(ticks, name)


def _taken(block: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    if block.flags.c_contiguous:
        return np.take(block, places, axis=-1)
    # Of a table by rows: ``np.take`` would copy all of it first.
    return np.ascontiguousarray(block.T[places].T)


_BLOCKS: Final = tuple(field.name for field in fields(Ticks))
TICK_COLUMNS: Final = (
    *("instrument_token", "mode", "received_at_ns"),
    *(n for n, column in vars(Ticks).items() if isinstance(column, _Stamps | _Prices | _Counts)),
)
"""Every column by name."""
