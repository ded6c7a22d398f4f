"""One instrument of the simulated exchange. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.domain.expiry_clock import expiry_instants

if TYPE_CHECKING:
    import datetime as dt

    from ticker_service.domain.instrument import InstrumentType

PRICE_STEP_INR: Final = 0.05
NEVER_NS: Final = (1 << 63) - 1
NO_CURVE: Final = -1
NO_DRIVER: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One line of the dump, and what drives its price.

    ``driver`` numbers the random walk the price follows; ``curve`` the expiry of a derivative.
    """

    exchange_token: int
    segment_code: int
    tradingsymbol: str
    name: str
    exchange: str
    segment: str
    instrument_type: InstrumentType
    expiry: dt.date | None = None
    strike_inr: int = 0
    price_step_inr: float = PRICE_STEP_INR
    lot_size: int = 1
    driver: int = NO_DRIVER
    curve: int = NO_CURVE

    @property
    def instrument_token(self) -> int:
        """Kite's token: the exchange's own token above the segment code."""
        return self.exchange_token << 8 | self.segment_code

    @property
    def last_trade_ns(self) -> int:
        """When it stops trading for good, ns since the Unix epoch; ``NEVER_NS`` if it does not."""
        if self.expiry is None:
            return NEVER_NS
        return expiry_instants(self.segment, self.name, self.expiry).last_trade_ns
