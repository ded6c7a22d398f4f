"""Instruments of the day as columns, as Kite's dump states them.

Pure. A dump has over 100,000 rows, so there is no object per instrument. Tokens are reused after
expiry: a table is true for the day it was fetched and no longer. Source: kite.md §2.8 and §8.5.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray


class InstrumentType(StrEnum):
    """Kite's ``instrument_type``; an index is an ``EQ`` of segment ``INDICES``."""

    EQUITY = "EQ"
    FUTURE = "FUT"
    CALL = "CE"
    PUT = "PE"


INDEX_SEGMENT: Final = "INDICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentTable:
    """Columns of shape ``(n,)``, one row per instrument.

    ``strike`` and ``price_step`` are rupees, ``lot_size`` is in the dump's units, ``expiry`` is a
    date in India or NaT.
    """

    instrument_token: NDArray[np.uint32]
    tradingsymbol: NDArray[np.object_]
    name: NDArray[np.object_]
    expiry: NDArray[np.datetime64]
    strike: NDArray[np.float64]
    price_step: NDArray[np.float64]
    lot_size: NDArray[np.int64]
    instrument_type: NDArray[np.object_]
    segment: NDArray[np.object_]
    exchange: NDArray[np.object_]

    def __len__(self) -> int:
        """Return the number of instruments."""
        return len(self.instrument_token)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """Return the chosen rows as a new table, in the order of ``rows``."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def is_index(self) -> NDArray[np.bool_]:
        """Return the mask of non-tradable indices."""
        return np.asarray(self.segment == INDEX_SEGMENT, np.bool_)

    def is_option(self) -> NDArray[np.bool_]:
        """Return the mask of calls and puts."""
        is_call = self.instrument_type == InstrumentType.CALL.value
        is_put = self.instrument_type == InstrumentType.PUT.value
        return np.asarray(is_call | is_put, np.bool_)

    def is_derivative(self) -> NDArray[np.bool_]:
        """Return the mask of futures and options."""
        is_future = np.asarray(self.instrument_type == InstrumentType.FUTURE.value, np.bool_)
        return self.is_option() | is_future
