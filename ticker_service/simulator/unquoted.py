"""Contracts that are listed and never trade, to make the dump as long as a real one. Pure.

Kite's dump has over 100,000 lines, most of them contracts that nobody trades. These are options on
the simulated shares, three monthly expiries each: a client reads, chooses and subscribes them like
any other, and no tick, quote or order ever comes of them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from ticker_service.domain.instrument import InstrumentType
from ticker_service.domain.segment import Segment
from ticker_service.simulator import expiries
from ticker_service.simulator.instrument import Instrument
from ticker_service.simulator.listing import EQUITIES, UNDERLYINGS, ExpiryRule

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

EXCHANGE: Final = "NFO"
EXCHANGE_TOKEN_FIRST: Final = 1_000_000
"""Far above every token of what is quoted."""
LOT_SIZE: Final = 500
STRIKES_PER_PRICE: Final = 100
"""So many strike steps make the share's price."""


def contracts(count: int, *, now_ns: int, days_min: int) -> tuple[Instrument, ...]:
    """Return so many contracts.

    Args:
        count: How many; none for a number below one.
        now_ns: The instant of listing, which decides the expiries.
        days_min: Least distance of the nearest expiry, days.
    """
    if count < 1:
        return ()
    monthly = next(each for each in UNDERLYINGS if each.options_expire is ExpiryRule.MONTHLY)
    dates = expiries.option_expiries(monthly, now_ns=now_ns, days_min=days_min)
    # As many strikes of each share and expiry as make enough; what is too much is cut off.
    strikes = -(-count // (2 * len(EQUITIES) * len(dates)))
    listed = itertools.chain.from_iterable(
        _chain(symbol, price_inr, expiry, strikes)
        for symbol, _, price_inr in EQUITIES
        for expiry in dates
    )
    tokens = itertools.count(EXCHANGE_TOKEN_FIRST)
    return tuple(
        Instrument(
            exchange_token=token,
            segment_code=Segment[EXCHANGE],
            tradingsymbol=expiries.option_symbol(name, expiry, strike_inr, kind),
            name=name,
            exchange=EXCHANGE,
            segment=f"{EXCHANGE}-OPT",
            instrument_type=kind,
            expiry=expiry,
            strike_inr=strike_inr,
            lot_size=LOT_SIZE,
        )
        for token, (name, expiry, strike_inr, kind) in zip(
            tokens, itertools.islice(listed, count), strict=False
        )
    )


def _chain(
    symbol: str, price_inr: float, expiry: dt.date, strikes: int
) -> Iterator[tuple[str, dt.date, int, InstrumentType]]:
    step_inr = max(round(price_inr / STRIKES_PER_PRICE), 1)
    first = max(round(price_inr / step_inr) - strikes // 2, 1)
    for number in range(first, first + strikes):
        for kind in (InstrumentType.CALL, InstrumentType.PUT):
            yield symbol, expiry, number * step_inr, kind
