"""What the positions of an exit last traded at, for those it closes by LIMIT.

The quotes of the risk gate: a turn at the broker is the app's, and what two ask for is asked once.
What is not to be had is missing, and nothing is priced; an exit must never guess.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.domain.exit_price import Edge, edge_of, percent_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ticker_service.domain.contracts import Contract
    from ticker_service.domain.order import Side
    from ticker_service.domain.portfolio import PositionKey
    from ticker_service.domain.risk_input import ReferencePrice
    from ticker_service.ports import LastPrices

WITHIN_S: Final = 5.0
"""A last price that is older prices nothing."""
_OPTIONS: Final = ("CE", "PE")

Symbol = tuple[str, str]


async def read(
    prices: LastPrices | None, keys: Collection[PositionKey]
) -> Mapping[Symbol, ReferencePrice]:
    """Return what the instruments of positions last traded at, with the day's circuit limits."""
    if prices is None or not keys:
        return {}
    symbols = {(key.exchange, key.tradingsymbol) for key in keys}
    return await prices.fresh(symbols, within_s=WITHIN_S, with_circuit=True)


def edge(
    reference: ReferencePrice | None,
    contract: Contract | None,
    side: Side | None,
    protection: Decimal,
) -> Edge | None:
    """Return the price of an order that closes a position, None if it cannot be told.

    Args:
        reference: What the instrument last traded at.
        contract: For the price step.
        side: Of the order, None if there is none.
        protection: Percent round the last price, -1 for Kite's own band.
    """
    if reference is None or contract is None or side is None:
        return None
    last = _exact(reference.price_inr)
    if not last.is_finite():
        return None
    is_option = contract.is_derivative and contract.tradingsymbol.endswith(_OPTIONS)
    lowest, highest = reference.lower_circuit_inr, reference.upper_circuit_inr
    circuit = None
    if lowest is not None and highest is not None:
        circuit = (_exact(lowest), _exact(highest))
        if not all(limit.is_finite() for limit in circuit):
            return None
    return edge_of(
        last,
        side,
        percent_of(protection, last, is_option=is_option),
        price_step=contract.price_step,
        circuit=circuit,
    )


def _exact(price_inr: float) -> Decimal:
    # The shortest text of a double is what the broker wrote.
    return Decimal(repr(float(price_inr)))
