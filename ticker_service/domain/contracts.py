"""What the day's instruments dump says of every contract that an order may name.

The dump has over 100,000 rows, and an order asks for one of them: four sorted columns instead of
an object or a dictionary entry per row, some 5 MB in all. Pure. Source: kite.md §2.8 and §8.4.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from ticker_service.domain.session import IST, from_instant_ns, instant_ns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.instrument import InstrumentTable

RENEWED_AT: Final = dt.time(8, 35)
"""By then, India's time, Kite has made the day's dump (kite.md §2.8: about 08:30)."""
SURE_AT: Final = dt.time(9)
"""One that was fetched before may be yesterday's all the same: Kite has been late."""
IN_UNITS: Final = frozenset({"NFO", "BFO"})
"""Where a quantity is units and whole lots of them; currencies and commodities count otherwise."""
_KIND_PLAIN, _KIND_DERIVATIVE, _KIND_INDEX = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One instrument as orders see it.

    ``price_step`` is rupees and 0 if the dump has none; ``lot_size`` is in the dump's units;
    ``name`` is the underlying's for a derivative.
    """

    exchange: str
    tradingsymbol: str
    name: str
    price_step: Decimal
    lot_size: int
    is_derivative: bool
    is_index: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Contracts:
    """Columns of shape ``(n,)`` sorted by ``key``, which is ``EXCHANGE:TRADINGSYMBOL`` in UTF-8.

    ``day`` is the one whose dump it is (:func:`dump_day`).
    """

    day: dt.date
    key: NDArray[np.bytes_]
    name_number: NDArray[np.int32]
    names: tuple[str, ...]
    price_step: NDArray[np.float64]
    lot_size: NDArray[np.int32]
    kind: NDArray[np.uint8]

    def __len__(self) -> int:
        """Return the number of instruments."""
        return len(self.key)

    @classmethod
    def of(cls, dump: InstrumentTable, *, fetched_at_ns: int) -> Self:
        """Return the columns of a dump.

        Args:
            dump: The whole of it.
            fetched_at_ns: When, ns since the Unix epoch: the dump itself has no date.
        """
        pairs = zip(dump.exchange, dump.tradingsymbol, strict=True)
        key = np.array([f"{exchange}:{symbol}".encode() for exchange, symbol in pairs], np.bytes_)
        order = np.argsort(key, kind="stable")
        names, number = np.unique(dump.name.astype(np.str_), return_inverse=True)
        kind = np.full(len(dump), _KIND_PLAIN, np.uint8)
        kind[dump.is_derivative()] = _KIND_DERIVATIVE
        kind[dump.is_index()] = _KIND_INDEX
        return cls(
            day=dump_day(fetched_at_ns),
            key=key[order],
            name_number=number[order].astype(np.int32),
            names=tuple(names.tolist()),
            price_step=dump.price_step[order],
            lot_size=np.minimum(dump.lot_size[order], np.iinfo(np.int32).max).astype(np.int32),
            kind=kind[order],
        )

    def find(self, exchange: str, tradingsymbol: str) -> Contract | None:
        """Return a contract, None if the dump does not have it."""
        wanted = f"{exchange}:{tradingsymbol}".encode()
        if len(wanted) > self.key.dtype.itemsize:
            return None  # to compare it, numpy would copy every key at its length
        row = int(np.searchsorted(self.key, wanted))
        if row == len(self.key) or self.key[row] != wanted:
            return None
        return Contract(
            exchange=exchange,
            tradingsymbol=tradingsymbol,
            name=self.names[self.name_number[row]],
            # The shortest text of a double is what the dump wrote.
            price_step=Decimal(repr(float(self.price_step[row]))),
            lot_size=int(self.lot_size[row]),
            is_derivative=bool(self.kind[row] == _KIND_DERIVATIVE),
            is_index=bool(self.kind[row] == _KIND_INDEX),
        )


def is_to_be_fetched_again(fetched_at_ns: int, now_ns: int) -> bool:
    """Return whether a day's dump was fetched before ``SURE_AT``, and that has passed since."""
    sure = dt.datetime.combine(dump_day(fetched_at_ns), SURE_AT, tzinfo=IST)
    return fetched_at_ns < instant_ns(sure) <= now_ns


def dump_day(at_ns: int) -> dt.date:
    """Return the day whose dump is the newest at an instant; it changes at ``RENEWED_AT``."""
    renewed = dt.timedelta(hours=RENEWED_AT.hour, minutes=RENEWED_AT.minute)
    return (from_instant_ns(at_ns) - renewed).date()
