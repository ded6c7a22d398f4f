"""Cut an order that is above the freeze quantity into orders that the exchange takes.

Only when the caller asks for it, and never by the broker: each slice is an order of its own, with
its own tag, so that each can be found, and the sum is ours to hold (I13). Pure. Source: kite.md
§2.3 (Kite's autoslice may leave a child out of its answer) and the rules `slices` and
`freeze_quantity`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticker_service.domain.rulebook import NEWEST, RuleName
from ticker_service.orders import admit
from ticker_service.orders.varieties import invalid_field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.domain.contracts import Contracts
    from ticker_service.domain.order import OrderRequest
    from ticker_service.domain.rulebook import Rules


def cut(
    order: OrderRequest, contracts: Contracts | None, freeze: Mapping[str, int], rules: Rules
) -> list[int]:
    """Return the quantities of an order's slices, as equal as whole lots allow.

    Args:
        order: One that :func:`admit.check_order` let through.
        contracts: All of the day; without them nothing is known that would cut it.
        freeze: The largest quantity of one order in derivatives of a name.
        rules: Those that hold today.

    Raises:
        OrderRefused: It breaks a rule of the day's instruments, or would be too many slices.
    """
    if contracts is None:
        return [order.quantity]
    admit.check_listed(order, contracts, {})
    contract = contracts.find(order.exchange, order.tradingsymbol)
    largest = None if contract is None else admit.freeze_quantity(contract, freeze)
    if contract is None or largest is None or order.quantity <= largest:
        return [order.quantity]
    lot_size = max(contract.lot_size, 1)
    lots, lots_max = order.quantity // lot_size, largest // lot_size
    rule = rules.get(RuleName.SLICES, NEWEST[RuleName.SLICES])
    slices_max = rule.number or 1
    if lots > lots_max * slices_max:
        told = f"at most {lots_max * lot_size * slices_max}, {slices_max} slices of {largest}"
        raise invalid_field("quantity", order.quantity, f"{told}: {rule.told}")
    count = -(-lots // lots_max)
    each, more = divmod(lots, count)
    return [(each + (number < more)) * lot_size for number in range(count)]
