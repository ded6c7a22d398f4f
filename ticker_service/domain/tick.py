"""The tick: its five wire layouts, and the columns it becomes.

Wire layouts are Kite's, big-endian, told apart by length alone (kite.md §1.4 and §1.5). Prices are
signed because spreads and, once, crude oil have traded below zero; quantities and times are
unsigned.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

DEPTH_LEVELS: Final = 5


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Decoded ticks as columns, one row per packet, in the order of arrival.

    Every column has shape ``(n,)``; depth columns have shape ``(5, n)``, best level first. Prices
    are rupees; NaN means the packet did not carry the value. Quantities are units; -1 means not
    carried. Times are ns since the Unix epoch (UTC); 0 means not carried. Arrays are read-only by
    convention: a step derives new ones.
    """

    instrument_token: NDArray[np.uint32]
    mode: NDArray[np.uint8]
    received_at_ns: NDArray[np.int64]
    exchange_ts_ns: NDArray[np.int64]
    last_trade_ts_ns: NDArray[np.int64]
    ltp: NDArray[np.float64]
    last_quantity: NDArray[np.int64]
    average_price: NDArray[np.float64]
    volume: NDArray[np.int64]
    buy_quantity: NDArray[np.int64]
    sell_quantity: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    oi: NDArray[np.int64]
    oi_day_high: NDArray[np.int64]
    oi_day_low: NDArray[np.int64]
    bid_price: NDArray[np.float64]
    bid_quantity: NDArray[np.int64]
    bid_orders: NDArray[np.int64]
    ask_price: NDArray[np.float64]
    ask_quantity: NDArray[np.int64]
    ask_orders: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.instrument_token)

    @classmethod
    def empty(cls, rows: int) -> Self:
        """Return ``rows`` rows in which every value is "not carried"."""
        return cls(**{name: _blank(name, rows) for name in TICK_COLUMNS})

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """Return the chosen rows as new columns, in the order of ``rows``.

        The columns are contiguous, depth levels too: what is encoded later must be.
        """
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return type(self)(
            **{name: np.take(getattr(self, name), places, axis=-1) for name in TICK_COLUMNS}
        )

    def part(self, rows: slice) -> Self:
        """Return consecutive rows as views; each column, and each level of depth, is contiguous."""
        return type(self)(**{name: getattr(self, name)[..., rows] for name in TICK_COLUMNS})

    def put(self, rows: NDArray[np.intp], ticks: Ticks) -> None:
        """Write ``ticks`` over the given rows; where a row is named twice the later tick stays.

        For the owner of a table only (``market.latest``).
        """
        for name in TICK_COLUMNS:
            getattr(self, name)[..., rows] = getattr(ticks, name)


TICK_COLUMNS: Final = tuple(field.name for field in fields(Ticks))
_DEPTH_COLUMNS: Final = frozenset(
    name for name in TICK_COLUMNS if name.startswith(("bid_", "ask_"))
)
_PRICE_COLUMNS: Final = frozenset(
    {"ltp", "average_price", "open", "high", "low", "close", "bid_price", "ask_price"}
)
_TIME_COLUMNS: Final = frozenset({"received_at_ns", "exchange_ts_ns", "last_trade_ts_ns"})
NOT_CARRIED: Final = -1
"""Stands for a missing quantity inside the columns; the wire says ``null``."""


def _blank(name: str, rows: int) -> NDArray[Any]:
    shape = (DEPTH_LEVELS, rows) if name in _DEPTH_COLUMNS else (rows,)
    if name in _PRICE_COLUMNS:
        return np.full(shape, np.nan)
    if name == "instrument_token":
        return np.zeros(shape, np.uint32)
    if name == "mode":
        return np.zeros(shape, np.uint8)
    fill = 0 if name in _TIME_COLUMNS else NOT_CARRIED
    return np.full(shape, fill, np.int64)
